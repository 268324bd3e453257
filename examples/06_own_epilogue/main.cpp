// Two epilogue steps of your own: what happens to results while they are still in registers.
#include <nibble/nibble.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

// limit x tanh(x / limit): keeps logits in bounds, as Gemma does. One function serves every instruction set.
struct soft_cap {
    float limit;
    template <class Lanes> Lanes operator()(const Lanes& x, const nb::position&) const noexcept {
        return Lanes(limit) * tanh(x / Lanes(limit));
    }
};

// y(m, n) = silu(gate(m, n)) x y(m, n): the second half of a SwiGLU block. A step may read memory where it stands.
struct times_silu {
    nb::matrix_view<const float> gate;
    template <class Lanes> Lanes operator()(const Lanes& x, const nb::position& at) const noexcept {
        return x * nb::silu(Lanes::load(gate.row(at.token) + at.output, at.count), at);
    }
    // Optional; called once, before anything is written.
    void check(std::size_t tokens, std::size_t outputs) const {
        NIBBLE_CHECK(gate.rows() == tokens && gate.cols() == outputs, "times_silu: the gate must have the shape of y");
    }
};
static_assert(nb::epilogue<soft_cap> && nb::epilogue<times_silu>);

using nb::operator|; // needed only where neither side is one of nibble's own steps

int main() {
    const std::size_t tokens = 3, outputs = 100, inputs = 256;
    std::vector<float> w(outputs * inputs), x(tokens * inputs), gate(tokens * outputs);
    std::vector<float> plain(tokens * outputs), fused(tokens * outputs);
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (auto* values : {&w, &x, &gate})
        for (float& value : *values) value = normal(random);

    const auto weights = nb::pack(nb::quantize<nb::mxfp4>({w.data(), outputs, inputs}));
    const nb::matrix_view<const float> x_view(x.data(), tokens, inputs);
    nb::gemm(x_view, weights, {plain.data(), tokens, outputs});
    nb::gemm(x_view, weights, {fused.data(), tokens, outputs},
             times_silu{{gate.data(), tokens, outputs}} | soft_cap{30.0f});

    double worst = 0;
    for (std::size_t i = 0; i < fused.size(); ++i) {
        const double silu = gate[i] / (1 + std::exp(-double{gate[i]}));
        const double exact = 30 * std::tanh(plain[i] * silu / 30);
        worst = std::max(worst, std::abs(fused[i] - exact));
    }
    std::printf("fused silu(gate) x y, capped at 30: within %.1e of two steps in double precision\n", worst);
    return worst < 3e-5 ? 0 : 1;
}
