// carriers.cpp: mixed groups and pairs as integers of one width: the same values, and products over them.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"
#include "support/random.hpp"

#include <nibble/gemm.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace {

using namespace nibble;

template <class Quantized> std::vector<float> dequantized(const Quantized& q) {
    std::vector<float> y(q.rows() * q.cols());
    dequantize(q, matrix_view<float>(y.data(), q.rows(), q.cols()));
    return y;
}

// gemm over the packed carrier against the product in double over the weights as the format itself decodes them; the
// bound is that of gemm_reference.hpp for the carrier's scheme.
template <class S>
void check_product(const quantized<S>& carrier, const std::vector<float>& values, std::uint64_t seed) {
    const std::size_t rows = carrier.rows();
    const std::size_t cols = carrier.cols();
    const std::size_t tokens = 5;
    const std::vector<float> x = gemm_test::bell_values(tokens * cols, seed);
    const matrix_view<const float> activations(x.data(), tokens, cols);
    const packed<S> w = pack(carrier);
    for (const bool per_group : gemm_test::scalings_of(gemm_test::plain_of(carrier))) {
        std::vector<float> y(tokens * rows);
        gemm(activations, w, matrix_view<float>(y.data(), tokens, rows),
             gemm_options{.activations = gemm_test::scaled_by(per_group)});
        const gemm_test::fp64_result bound =
            gemm_test::reference_fp64(activations, gemm_test::plain_of(carrier), per_group);
        double worst = 0.0;
        for (std::size_t m = 0; m < tokens; ++m)
            for (std::size_t n = 0; n < rows; ++n) {
                double exact = 0.0;
                double slack = 0.0; // the format rounds scale x value once more
                for (std::size_t k = 0; k < cols; ++k) {
                    const double term =
                        static_cast<double>(x[m * cols + k]) * static_cast<double>(values[n * cols + k]);
                    exact += term;
                    slack += std::abs(term) * 0x1p-24;
                }
                const double error = std::abs(static_cast<double>(y[m * rows + n]) - exact);
                worst = std::max(worst, error / (bound.bound[m * rows + n] + slack));
            }
        CAPTURE(rows, cols, per_group, worst);
        CHECK(worst <= 1.0);
        CHECK(worst > 0.0);
    }
}

} // namespace

TEST_CASE("carriers: integers of the documented width with the same values", "[quantize][mixed][carrier]") {
    STATIC_REQUIRE(std::is_same_v<carrier_scheme<bitmod_fp3<>>, scheme<int4, per_group<128>, scale<f16>>>);
    STATIC_REQUIRE(std::is_same_v<carrier_scheme<bitmod_fp4<>>, scheme<int6, per_group<128>, scale<f16>>>);
    STATIC_REQUIRE(std::is_same_v<carrier_scheme<mixed_integers<2, 4>>, scheme<int4, per_group<128>, scale<f16>>>);
    STATIC_REQUIRE(mixed_groups<32, f16, nf4, int4>::carrier_bits == 0);
    const std::vector<float> x = gemm_test::bell_values(19 * 300, 77);
    const matrix_view<const float> w(x.data(), 19, 300);
    const auto check = [](const auto& q, const auto& carrier, std::uint64_t seed) {
        const std::vector<float> y = dequantized(q);
        CHECK(dequantized(carrier) == y);
        check_product(carrier, y, seed);
    };
    const auto three = quantize_by_error<bitmod_fp3<>>(w);
    check(three, to_carrier(three), 1);
    const auto four = quantize_by_error<bitmod_fp4<>>(w);
    check(four, to_carrier(four), 2);
    const auto integers = quantize_by_quota<mixed_integers<2, 4>>(w, 0.3);
    check(integers, to_carrier(integers), 3);
    const auto pairs = quantize_outlier_victim<per_channel>(w);
    STATIC_REQUIRE(std::is_same_v<decltype(to_carrier(pairs)), quantized<scheme<int8, per_channel, scale<f32>>>>);
    check(pairs, to_carrier(pairs), 4);
    const auto grouped = quantize_outlier_victim<per_group<64>>(w);
    check(grouped, to_carrier(grouped), 5);
}
