// mixed_groups.cpp: groups that choose their element: the choice by error and by quota, the layout, the bits.
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/random.hpp"

#include <nibble/quantize/mixed.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace {

using namespace nibble;

template <class Quantized> std::vector<float> dequantized(const Quantized& q) {
    std::vector<float> y(q.rows() * q.cols());
    dequantize(q, matrix_view<float>(y.data(), q.rows(), q.cols()));
    return y;
}

// Squared error of columns [begin, end) of a row.
double error_of(const std::vector<float>& x, const std::vector<float>& y, std::size_t begin, std::size_t end) {
    double sum = 0.0;
    for (std::size_t i = begin; i < end; ++i) {
        const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
        sum += d * d;
    }
    return sum;
}

// Weights whose groups differ, so that every choice occurs.
std::vector<float> uneven_weights(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    std::vector<float> x(rows * cols);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const float v = nibble_test::random_normal(seed, i);
        const std::size_t kind = i % cols / 32 + i / cols;
        x[i] = kind % 3 == 0 ? v : kind % 3 == 1 ? v * v * v : std::exp(v) - 0.5f;
    }
    return x;
}

template <class Mixed> struct every_scheme {
    template <class... S> struct list {
        static std::vector<std::vector<float>> values(matrix_view<const float> w) {
            return {dequantized(quantize<S>(w))...};
        }
    };
    using type = typename Mixed::template schemes<list>;
};

// Codes by the documented layout, bit by bit; false if a byte is left over.
template <class Mixed> bool layout_holds(const mixed_quantized<Mixed>& q, const std::vector<float>& values) {
    const std::uint8_t* bytes = q.row_codes(0);
    std::size_t at = 0;
    bool holds = true;
    for (std::size_t row = 0; row < q.rows(); ++row)
        for (std::size_t g = 0; g < q.row_groups(); ++g) {
            const std::size_t group = row * q.row_groups() + g;
            unsigned selector = 0;
            for (std::size_t b = 0; b < static_cast<std::size_t>(Mixed::selector_bits); ++b) {
                const std::size_t bit = group * static_cast<std::size_t>(Mixed::selector_bits) + b;
                selector |= (q.selectors()[bit / 8] >> (bit % 8) & 1u) << b;
            }
            const std::size_t bits = static_cast<std::size_t>(Mixed::element_bits[selector]);
            const std::size_t n = std::min(Mixed::size, q.cols() - g * Mixed::size);
            for (std::size_t i = 0; i < n; ++i) {
                unsigned code = 0;
                for (std::size_t b = 0; b < bits; ++b)
                    code |= (bytes[at + (i * bits + b) / 8] >> ((i * bits + b) % 8) & 1u) << b;
                const float value = Mixed::scale_format::decode(q.scales()[group]) * Mixed::values[selector][code];
                holds = holds && value == values[row * q.cols() + g * Mixed::size + i];
            }
            at += (n * bits + 7) / 8;
        }
    return holds && at == q.code_bytes();
}

} // namespace

TEMPLATE_TEST_CASE("mixed groups: the element of least error, as quantize would encode it", "[quantize][mixed]",
                   bitmod_fp3<32>, bitmod_fp4<32>, (mixed_groups<32, f32, int2, bitmod_fp3_ea_plus, int4>)) {
    using mixed = TestType;
    for (const std::size_t cols : {32u, 200u, 75u, 3u}) {
        const std::size_t rows = 9;
        CAPTURE(cols);
        const std::vector<float> x = uneven_weights(rows, cols, 40 + cols);
        const matrix_view<const float> w(x.data(), rows, cols);
        const mixed_quantized<mixed> q = quantize_by_error<mixed>(w);
        const std::vector<float> y = dequantized(q);
        const std::vector<std::vector<float>> all = every_scheme<mixed>::type::values(w);
        std::vector<std::size_t> chosen(mixed::count, 0);
        std::size_t bits = 0;
        std::size_t wrong = 0;
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t g = 0; g < q.row_groups(); ++g) {
                const std::size_t begin = row * cols + g * 32;
                const std::size_t end = std::min(begin + 32, (row + 1) * cols);
                const std::uint8_t selector = q.selector(row * q.row_groups() + g);
                ++chosen[selector];
                bits += (end - begin) * static_cast<std::size_t>(mixed::element_bits[selector]);
                const double own = error_of(x, all[selector], begin, end);
                for (std::size_t e = 0; e < mixed::count; ++e) {
                    const double other = error_of(x, all[e], begin, end);
                    wrong += other < own * (1.0 - 1e-12) ? 1u : 0u;
                }
                for (std::size_t i = begin; i < end; ++i) {
                    wrong += y[i] != all[selector][i] ? 1u : 0u;
                    wrong += q.value_at(row, i - row * cols) != y[i] ? 1u : 0u;
                }
            }
        CHECK(wrong == 0);
        if (cols == 200 && mixed::element_bits[0] == mixed::element_bits[1])
            for (const std::size_t n : chosen) CHECK(n > 0);
        CHECK(layout_holds(q, y));
        const double groups = static_cast<double>(rows * q.row_groups());
        const double overhead = groups * (2.0 + mixed::scale_format::bits);
        CHECK(bits_per_weight(q) == (static_cast<double>(bits) + overhead) / static_cast<double>(rows * cols));
        const nibble_test::test_executor threads{.workers = 3};
        CHECK(dequantized(quantize_by_error<mixed>(w, {}, threads)) == y);
    }
}

TEST_CASE("BitMoD: bits per weight of whole groups", "[quantize][mixed]") {
    const std::vector<float> x = nibble_test::normal_values(4 * 512, 1);
    const matrix_view<const float> w(x.data(), 4, 512);
    CHECK(bits_per_weight(quantize_by_error<bitmod_fp3<>>(w)) == 3.0 + 18.0 / 128.0);
    CHECK(bits_per_weight(quantize_by_error<bitmod_fp4<>>(w)) == 4.0 + 18.0 / 128.0);
}

TEST_CASE("mixed integers: the quota goes to the groups whose error falls most", "[quantize][mixed]") {
    using mixed = mixed_integers<2, 4, 32>;
    const std::size_t rows = 6;
    const std::size_t cols = 32 * 7 + 12;
    const std::vector<float> x = uneven_weights(rows, cols, 3);
    const matrix_view<const float> w(x.data(), rows, cols);
    const std::vector<float> narrow = dequantized(quantize<mixed::scheme_of<int2>>(w));
    const std::vector<float> wide = dequantized(quantize<mixed::scheme_of<int4>>(w));
    double before = std::numeric_limits<double>::infinity();
    for (const double fraction : {0.0, 0.1, 0.25, 0.5, 1.0}) {
        CAPTURE(fraction);
        const mixed_quantized<mixed> q = quantize_by_quota<mixed>(w, fraction);
        const std::vector<float> y = dequantized(q);
        CHECK(layout_holds(q, y));
        std::size_t count = 0;
        std::size_t bits = 0;
        double least_kept = std::numeric_limits<double>::infinity();
        double most_refused = -std::numeric_limits<double>::infinity();
        std::size_t wrong = 0;
        for (std::size_t group = 0; group < q.groups(); ++group) {
            const std::size_t begin = group / 8 * cols + group % 8 * 32;
            const std::size_t end = std::min(begin + 32, (group / 8 + 1) * cols);
            const double gain = error_of(x, narrow, begin, end) - error_of(x, wide, begin, end);
            const bool is_wide = q.selector(group) == 1;
            count += is_wide ? 1u : 0u;
            bits += (end - begin) * (is_wide ? 4u : 2u);
            if (is_wide)
                least_kept = std::min(least_kept, gain);
            else
                most_refused = std::max(most_refused, gain);
            for (std::size_t i = begin; i < end; ++i) wrong += y[i] != (is_wide ? wide : narrow)[i] ? 1u : 0u;
        }
        CHECK(wrong == 0);
        CHECK(count == static_cast<std::size_t>(std::floor(fraction * 48.0 + 0.5)));
        CHECK(least_kept >= most_refused - 1e-9);
        CHECK(bits_per_weight(q) == (static_cast<double>(bits) + 48.0 * 17.0) / static_cast<double>(rows * cols));
        const double error = error_of(x, y, 0, x.size());
        CHECK(error < before);
        before = error;
    }
    // Other widths.
    const matrix_view<const float> four_groups(x.data(), 4, 32);
    CHECK(bits_per_weight(quantize_by_quota<mixed_integers<3, 8, 32>>(four_groups, 0.5)) == 5.5 + 17.0 / 32.0);
}

TEST_CASE("mixed groups: values that are not finite, and nothing at all", "[quantize][mixed]") {
    std::vector<float> x = uneven_weights(2, 64, 3);
    x[5] = std::numeric_limits<float>::quiet_NaN();
    x[70] = std::numeric_limits<float>::infinity();
    const mixed_quantized<bitmod_fp4<32>> q =
        quantize_by_error<bitmod_fp4<32>>(matrix_view<const float>(x.data(), 2, 64));
    CHECK(q.nonfinite());
    for (const float v : dequantized(q)) CHECK(std::isfinite(v));
    CHECK(q.value_at(0, 5) == 0.0f);
    const mixed_quantized<bitmod_fp4<32>> nothing = quantize_by_error<bitmod_fp4<32>>(matrix_view<const float>());
    CHECK(nothing.groups() == 0);
    CHECK(bits_per_weight(nothing) == 0.0);
    CHECK(to_carrier(nothing).rows() == 0);
}
