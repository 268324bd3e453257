// complex_matrix.cpp: a complex matrix in fourth roots of unity: its scales, its bytes, and what it does with edges.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/quantize/complex.hpp>

#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>
#include <vector>

using namespace nibble;

TEST_CASE("complex matrix: scales are the means over their own weights", "[quantize][complex]") {
    for (const std::size_t cols : {1u, 3u, 4u, 5u, 64u}) {
        CAPTURE(cols);
        const std::size_t rows = 7;
        std::vector<float> x = nibble_test::normal_values(rows * cols * 2, 50 + cols);
        for (std::size_t i = 0; i < x.size(); i += 2) x[i] *= 3.0f;
        const complex_quantized q = quantize_complex(matrix_view<const float>(x.data(), rows, 2 * cols));
        const double pi = std::acos(-1.0);
        double sums[2] = {};
        double counts[2] = {};
        for (std::size_t i = 0; i < rows * cols; ++i) {
            const std::complex<double> z(static_cast<double>(x[2 * i]), static_cast<double>(x[2 * i + 1]));
            const int k = (static_cast<int>(std::floor(2.0 * std::arg(z) / pi + 0.5)) + 4) % 4;
            CHECK(q.code_at(i / cols, i % cols) == k);
            sums[k % 2] += std::abs(k % 2 == 0 ? z.real() : z.imag());
            counts[k % 2] += 1.0;
        }
        CHECK(static_cast<double>(q.scale_re()) == Approx(sums[0] / counts[0]).epsilon(1e-6));
        CHECK(static_cast<double>(q.scale_im()) == Approx(counts[1] > 0.0 ? sums[1] / counts[1] : 1e-6).epsilon(1e-6));
        std::vector<float> y(x.size());
        dequantize(q, matrix_view<float>(y.data(), rows, 2 * cols));
        for (std::size_t i = 0; i < rows * cols; ++i) {
            // i^k times the scale of its axis.
            const int k = q.code_at(i / cols, i % cols);
            const std::complex<double> wanted = std::pow(std::complex<double>(0.0, 1.0), k);
            CHECK(y[2 * i] == static_cast<float>(std::round(wanted.real())) * q.scale_re());
            CHECK(y[2 * i + 1] == static_cast<float>(std::round(wanted.imag())) * q.scale_im());
        }
        CHECK(bits_per_weight(q) == 2.0 + 64.0 / static_cast<double>(rows * cols));
        CHECK(q.row_bytes() == (cols + 3) / 4);
        CHECK((q.row_codes(0)[0] & 3) == q.code_at(0, 0));
    }
}

TEST_CASE("complex matrix: zeros, NaN, infinity and nothing", "[quantize][complex]") {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x{0.0f, -0.0f, nan, 1.0f, 2.0f, infinity, -4.0f, 1.0f};
    const complex_quantized q = quantize_complex(matrix_view<const float>(x.data(), 1, 8));
    CHECK(q.nonfinite());
    CHECK(q.row_codes(0)[0] == (0 | 0 << 2 | 1 << 4 | 2 << 6));
    CHECK(q.scale_re() == 2.0f);  // 0 and 4
    CHECK(q.scale_im() == 1e-6f); // none that is finite
    const complex_quantized nothing = quantize_complex(matrix_view<const float>());
    CHECK(nothing.rows() == 0);
    CHECK(bits_per_weight(nothing) == 0.0);
    dequantize(nothing, matrix_view<float>());
}
