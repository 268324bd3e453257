// What a code means and where its scale lives, both of your own: powers of two in 3 bits, a scale per tile of weights.
#include <nibble/nibble.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

// An element is its decode: sign and one of 0, 1, 2, 4. Encoder, tables and kernel are derived from it.
struct log3 {
    static constexpr int bits = 3;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        const int magnitude = (1 << (c & 3)) >> 1;
        return static_cast<float>((c & 4) != 0 ? -magnitude : magnitude);
    }
};
static_assert(nb::element<log3> && nb::largest<log3> == 4.0f && log3::decode(nb::encode<log3>(-1.7f)) == -2.0f);

// A granularity is index arithmetic: tiles of Rows x Cols weights, as DeepSeek-V3 has them for its FP8 weights.
template <std::size_t Rows, std::size_t Cols> struct per_tile {
    static_assert(Cols % 4 == 0);
    static constexpr bool row_local = false; // rows of a tile share its scale
    static constexpr std::size_t group_size(std::size_t) noexcept { return Cols; }
    static constexpr std::size_t across(std::size_t cols) noexcept { return (cols + Cols - 1) / Cols; }
    static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return (rows + Rows - 1) / Rows * across(cols);
    }
    static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return row / Rows * across(cols) + col / Cols;
    }
};
static_assert(nb::granularity<per_tile<128, 128>>);

using log3_tile = nb::scheme<log3, per_tile<32, 64>, nb::scale<nb::bf16>>;

int main() {
    // Sizes that no tile divides.
    const std::size_t tokens = 5, outputs = 100, inputs = 500;
    std::vector<float> w(outputs * inputs), x(tokens * inputs), y(tokens * outputs);
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (float& value : w) value = normal(random);
    for (float& value : x) value = normal(random);

    const nb::quantized<log3_tile> q = nb::quantize<log3_tile>({w.data(), outputs, inputs});
    nb::gemm({x.data(), tokens, inputs}, nb::pack(q), {y.data(), tokens, outputs});

    // Against the quantized weights: what is left is the rounding of activations to 8 bits.
    double noise = 0, signal = 0;
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t n = 0; n < outputs; ++n) {
            double exact = 0;
            for (std::size_t k = 0; k < inputs; ++k) exact += double{x[t * inputs + k]} * double{q.value_at(n, k)};
            noise += (y[t * outputs + n] - exact) * (y[t * outputs + n] - exact);
            signal += exact * exact;
        }
    const double error = std::sqrt(noise / signal);
    std::printf("log3_tile: %.3f bits per weight, kernel within %.2f %% of the values it was given\n",
                nb::bits_per_weight(q), 100 * error);
    return error < 0.015 ? 0 : 1;
}
