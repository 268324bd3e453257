// claims.cpp: what papers say of ranges and of number formats, seen on ours.
//   Whitepaper (Krishnamoorthi, 2018): rows of different size want a scale each, and int8 products are those of fake
//   quantization. AQT, Pareto-optimal 4 bits (Abdolrashidi et al., 2021): levels half a step beside zero err less than
//   levels on it. FP8 versus INT8 (van Baalen et al., 2023): integers win where numbers are bell-shaped, E4M3 where
//   channels are outliers.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

using namespace nibble;

namespace {

struct matrix {
    std::size_t rows;
    std::size_t cols;
    std::vector<float> x;
    [[nodiscard]] matrix_view<const float> view() const { return {x.data(), rows, cols}; }
};

[[nodiscard]] matrix gaussian() {
    return {32, 4096, nibble_test::normal_values(std::size_t{32} * 4096, 44)};
}
// 64 tokens of 1024 channels, eight of which are 30 times as large.
[[nodiscard]] matrix with_outlier_channels() {
    matrix a{64, 1024, nibble_test::normal_values(std::size_t{64} * 1024, 45)};
    for (std::size_t t = 0; t < a.rows; ++t)
        for (std::size_t k = 0; k < 8; ++k) a.x[t * a.cols + (131 * k + 17) % 1024] *= 30.0f;
    return a;
}

// Squared error over squares, of rows [first, end).
[[nodiscard]] double error_between(const matrix& a, const std::vector<float>& y, std::size_t first, std::size_t end) {
    double error = 0.0;
    double power = 0.0;
    for (std::size_t i = first * a.cols; i < end * a.cols; ++i) {
        error += std::pow(static_cast<double>(a.x[i]) - static_cast<double>(y[i]), 2);
        power += std::pow(static_cast<double>(a.x[i]), 2);
    }
    return error / power;
}
template <class Scheme>
[[nodiscard]] std::vector<float> values_of(const matrix& a, const quantize_options& options = {}) {
    std::vector<float> y(a.x.size());
    dequantize(quantize<Scheme>(a.view(), options), matrix_view<float>(y.data(), a.rows, a.cols));
    return y;
}
template <class Scheme> [[nodiscard]] double error_of(const matrix& a, const quantize_options& options = {}) {
    return error_between(a, values_of<Scheme>(a, options), 0, a.rows);
}

} // namespace

TEST_CASE("rows of different size want a scale each", "[quantize][error]") {
    // Row i is 2^i times N(0, 1), i from 0 to 10: under one scale the small rows are next to nothing.
    matrix a{11, 4096, nibble_test::normal_values(std::size_t{11} * 4096, 46)};
    for (std::size_t i = 0; i < a.x.size(); ++i) a.x[i] = std::ldexp(a.x[i], static_cast<int>(i / a.cols));
    using int8_tensor = scheme<int8, per_tensor, scale<f32>>;
    const std::vector<float> by_row = values_of<int8_channel>(a);
    const std::vector<float> by_tensor = values_of<int8_tensor>(a);
    for (std::size_t i = 0; i < 7; ++i) {
        CAPTURE(i);
        CHECK(error_between(a, by_tensor, i, i + 1) >= 100.0 * error_between(a, by_row, i, i + 1));
    }
    CHECK(error_between(a, by_tensor, 10, 11) < 4.0 * error_between(a, by_row, 10, 11));
}

TEST_CASE("a product in int8 is that of a simulation in floating point, with the range of unsigned activations",
          "[quantize][error]") {
    // Activations of 8 bits over [low, high] of the tensor, as after a relu: scale (high - low) / 255, zero point -low
    // / scale.
    const std::size_t tokens = 5, outputs = 37, columns = 300;
    const std::vector<float> w = nibble_test::normal_values(outputs * columns, 47);
    std::vector<float> x = nibble_test::normal_values(tokens * columns, 48);
    for (float& v : x) v = std::max(v, -0.25f);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    const float scale = (*high - *low) / 255.0f;
    const std::uint8_t zero = static_cast<std::uint8_t>(std::nearbyint(-*low / scale));
    const std::int32_t integer_of_zero = zero - 128;
    const quantized<int8_channel> q = quantize<int8_channel>(matrix_view<const float>(w.data(), outputs, columns));
    const packed<int8_channel> p = pack(q);
    std::vector<float> sums(outputs);
    weight_sums(p, std::span<float>(sums));
    activation_options how;
    how.quantization.scales = {&scale, 1};
    how.quantization.zeros = {&zero, 1};
    how.quantization.asymmetric = true;
    gemm_options options;
    options.weight_sums = sums;
    std::vector<float> y(tokens * outputs);
    gemm(prepare<int8_channel>(matrix_view<const float>(x.data(), tokens, columns), how), p,
         matrix_view<float>(y.data(), tokens, outputs), options);
    // Simulated: codes of activations and of weights multiplied in double, which is exact, and scaled as gemm documents
    // it.
    const float inverse = 1.0f / scale;
    bool same = true;
    for (std::size_t m = 0; m < tokens; ++m)
        for (std::size_t n = 0; n < outputs; ++n) {
            double sum = 0.0, own = 0.0;
            for (std::size_t k = 0; k < columns; ++k) {
                const double code = std::clamp(
                    std::nearbyint(static_cast<double>(x[m * columns + k] * inverse)) + integer_of_zero, -127.0, 127.0);
                const double weight = static_cast<double>(static_cast<std::int8_t>(q.code_at(n, k)));
                sum += code * weight;
                own += weight;
            }
            const float s = q.scale_at(n, 0);
            const float scaled = (static_cast<float>(sum) * s) * scale;
            const float offset = static_cast<float>(integer_of_zero) * scale;
            same = same && y[m * outputs + n] == std::fma(-offset, static_cast<float>(own) * s, scaled);
        }
    CHECK(same);
}

TEST_CASE("four bits half a step beside zero err less than four bits with a zero", "[quantize][error]") {
    // Rows of 4096 of N(0, 1), each under its best range: -7 to 7 in steps of 1, or -7.5 to 7.5.
    const matrix g = gaussian();
    const quantize_options best{.range = range::least_squares};
    const double with_zero = error_of<int4_channel>(g, best);
    const double beside_zero = error_of<channel_scheme<bipolar<4>>>(g, best);
    CHECK(with_zero == Approx(.0126).epsilon(.03));
    CHECK(beside_zero == Approx(.0113).epsilon(.03));
    CHECK(beside_zero < with_zero);
}

TEST_CASE("8-bit integers win on bell-shaped rows, E4M3 with outlier channels", "[quantize][error]") {
    const matrix g = gaussian();
    const double integers = error_of<int8_channel>(g);
    const double three = error_of<channel_scheme<e3m4>>(g);
    const double four = error_of<fp8_e4m3_channel>(g);
    const double five = error_of<fp8_e5m2_channel>(g);
    CHECK(integers < three);
    CHECK(three < four);
    CHECK(four < five);
    const matrix a = with_outlier_channels();
    CHECK(error_of<fp8_e4m3_channel>(a) == Approx(.00046).epsilon(.03));
    CHECK(error_of<int8_channel>(a) == Approx(.00199).epsilon(.03));
    CHECK(error_of<fp8_e4m3_channel>(a) < error_of<int8_channel>(a));
}
