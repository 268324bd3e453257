// A feed-forward layer with experts: y(t) = sum over the token's experts of share x down(silu(gate x) up x). Tokens are
// sorted by expert, and all experts are one call for gate and up, one for down, one that adds the results where they
// belong. No token is copied: gate and up gather theirs by number.
#include <nibble/gemm_grouped.hpp>
#include <nibble/nibble.hpp>
#include <nibble/transform/scatter_add_rows.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

using format = nb::int4_g32;

struct experts {
    std::vector<nb::packed<format>> gate, up, down;

    // What the router decided, sorted by expert: of which token (row of x and y) each row of the products is, how much
    // its result counts, and how many rows each expert has.
    struct routing {
        std::vector<std::uint32_t> tokens;
        std::vector<float> shares;
        std::vector<std::size_t> rows_of;
    };

    void forward(nb::matrix_view<const float> x, const routing& sent, nb::matrix_view<float> y,
                 nb::workspace& scratch) const {
        std::vector<nb::gemm_gated_group<format>> first;
        std::vector<nb::gemm_group<format>> second;
        for (std::size_t e = 0, row = 0; e < gate.size(); row += sent.rows_of[e++]) {
            first.push_back({gate[e], up[e], row, sent.rows_of[e]});
            second.push_back({down[e], row, sent.rows_of[e]});
        }
        const std::size_t rows = sent.tokens.size(), inner = gate[0].rows();
        std::vector<float> hidden(rows * inner), results(rows * y.cols());
        const nb::matrix_view<float> h(hidden.data(), rows, inner), r(results.data(), rows, y.cols());
        nb::gemm_gated_grouped(x, first, h, nb::silu, {.workspace = &scratch, .activations = {.rows = sent.tokens}});
        nb::gemm_grouped(h, second, r, {.workspace = &scratch});
        nb::scatter_add_rows(r, sent.tokens, sent.shares, y);
    }
};

// rows x cols normal numbers, quantized; `values` keeps what they stand for, for the check below.
nb::packed<format> random_matrix(std::size_t rows, std::size_t cols, std::mt19937& random, std::vector<float>& values) {
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(cols)));
    values.resize(rows * cols);
    for (float& v : values) v = normal(random);
    const auto quantized = nb::quantize<format>({values.data(), rows, cols});
    nb::dequantize(quantized, {values.data(), rows, cols});
    return nb::pack(quantized);
}

double dot(const std::vector<float>& w, std::size_t row, const std::vector<double>& x) {
    double sum = 0;
    for (std::size_t k = 0; k < x.size(); ++k) sum += double{w[row * x.size() + k]} * x[k];
    return sum;
}

int main() {
    const std::size_t count = 4, width = 256, inner = 512, tokens = 24;
    std::mt19937 random;
    experts layer;
    std::vector<std::vector<float>> gates(count), ups(count), downs(count);
    for (std::size_t e = 0; e < count; ++e) {
        layer.gate.push_back(random_matrix(inner, width, random, gates[e]));
        layer.up.push_back(random_matrix(inner, width, random, ups[e]));
        layer.down.push_back(random_matrix(width, inner, random, downs[e]));
    }
    std::normal_distribution<float> normal;
    std::vector<float> x(tokens * width), y(tokens * width, 0.0f);
    for (float& v : x) v = normal(random);

    // Each token goes to two experts; a router would say to which.
    std::vector<std::vector<std::uint32_t>> sent(count);
    std::vector<std::vector<float>> shares(count);
    for (std::size_t t = 0; t < tokens; ++t)
        for (const std::size_t e :
             {t % count, (t / 2 + 1) % count == t % count ? (t + 2) % count : (t / 2 + 1) % count}) {
            sent[e].push_back(static_cast<std::uint32_t>(t));
            shares[e].push_back(0.5f);
        }

    experts::routing sorted;
    for (std::size_t e = 0; e < count; ++e) {
        sorted.tokens.insert(sorted.tokens.end(), sent[e].begin(), sent[e].end());
        sorted.shares.insert(sorted.shares.end(), shares[e].begin(), shares[e].end());
        sorted.rows_of.push_back(sent[e].size());
    }
    nb::workspace scratch;
    layer.forward({x.data(), tokens, width}, sorted, {y.data(), tokens, width}, scratch);

    double noise = 0, signal = 0;
    std::vector<double> exact(tokens * width, 0.0);
    for (std::size_t e = 0; e < count; ++e)
        for (std::size_t i = 0; i < sent[e].size(); ++i) {
            const std::size_t t = sent[e][i];
            const std::vector<double> token(x.begin() + static_cast<std::ptrdiff_t>(t * width),
                                            x.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
            std::vector<double> h(inner);
            for (std::size_t n = 0; n < inner; ++n) {
                const double g = dot(gates[e], n, token);
                h[n] = g / (1 + std::exp(-g)) * dot(ups[e], n, token);
            }
            for (std::size_t n = 0; n < width; ++n) exact[t * width + n] += double{shares[e][i]} * dot(downs[e], n, h);
        }
    for (std::size_t i = 0; i < exact.size(); ++i) {
        noise += (y[i] - exact[i]) * (y[i] - exact[i]);
        signal += exact[i] * exact[i];
    }
    const double error = std::sqrt(noise / signal); // of 8-bit activations; the weights are those of the check
    std::printf("%zu experts, %zu tokens to two each: error %.2f %%\n", count, tokens, 100 * error);
    return error < 0.03 ? 0 : 1;
}
