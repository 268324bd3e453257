// integer_versus_float.cpp: which of integers and floats of one width has less error, by the shape of the data
// (systems.md, section 4.4): the five orderings published there, and the bias of a range without a mirror image.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

using namespace nibble;

namespace {

struct data {
    std::size_t rows;
    std::size_t cols;
    std::vector<float> x;
};

[[nodiscard]] data gaussian() {
    return {32, 4096, nibble_test::normal_values(std::size_t{32} * 4096, 44)};
}

// 64 tokens of 1024 channels, eight of which are 30 times as large.
[[nodiscard]] data activations() {
    data d{64, 1024, nibble_test::normal_values(std::size_t{64} * 1024, 45)};
    for (std::size_t t = 0; t < d.rows; ++t)
        for (std::size_t k = 0; k < 8; ++k) d.x[t * d.cols + (131 * k + 17) % 1024] *= 30.0f;
    return d;
}

// Each row times the normalised Walsh-Hadamard matrix.
[[nodiscard]] data rotated(data d) {
    for (std::size_t t = 0; t < d.rows; ++t) {
        std::vector<double> v(d.x.begin() + static_cast<std::ptrdiff_t>(t * d.cols),
                              d.x.begin() + static_cast<std::ptrdiff_t>((t + 1) * d.cols));
        for (std::size_t half = 1; half < d.cols; half *= 2)
            for (std::size_t i = 0; i < d.cols; i += 2 * half)
                for (std::size_t j = i; j < i + half; ++j) {
                    const double a = v[j];
                    const double b = v[j + half];
                    v[j] = a + b;
                    v[j + half] = a - b;
                }
        for (std::size_t j = 0; j < d.cols; ++j)
            d.x[t * d.cols + j] = static_cast<float>(v[j] / std::sqrt(static_cast<double>(d.cols)));
    }
    return d;
}

template <class Scheme> [[nodiscard]] double error_of(const data& d) {
    const auto q = quantize<Scheme>(matrix_view<const float>(d.x.data(), d.rows, d.cols));
    std::vector<float> y(d.x.size());
    dequantize(q, matrix_view<float>(y.data(), d.rows, d.cols));
    double error = 0.0;
    double power = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        error += std::pow(static_cast<double>(d.x[i]) - static_cast<double>(y[i]), 2);
        power += std::pow(static_cast<double>(d.x[i]), 2);
    }
    return error / power;
}

// Mean error and its standard deviation if the errors had no direction.
template <class Element> void check_bias(bool biased) {
    const data d = gaussian();
    using S = scheme<Element, per_group<32>, scale<f32>>;
    const auto q = quantize<S>(matrix_view<const float>(d.x.data(), d.rows, d.cols));
    double sum = 0.0;
    double squares = 0.0;
    for (std::size_t i = 0; i < d.rows; ++i)
        for (std::size_t j = 0; j < d.cols; ++j) {
            const double e = static_cast<double>(q.value_at(i, j)) - static_cast<double>(d.x[i * d.cols + j]);
            sum += e;
            squares += e * e;
        }
    const double n = static_cast<double>(d.x.size());
    const double deviation = std::sqrt(squares / n) / std::sqrt(n);
    CAPTURE(sum / n, deviation);
    if (biased)
        CHECK(sum / n < -4.0 * deviation);
    else
        CHECK(std::abs(sum / n) < 4.0 * deviation);
}

} // namespace

TEST_CASE("integers beat floats of the same width on bell-shaped blocks, floats win with outliers",
          "[quantize][error]") {
    const data g = gaussian();
    CHECK(error_of<mxint8>(g) < error_of<mxfp8_e4m3>(g));
    CHECK(error_of<mxfp4>(g) < error_of<block_scheme<int4>>(g));
    CHECK(error_of<nvint4>(g) < error_of<nvfp4>(g));
    const data a = activations();
    CHECK(error_of<nvfp4>(a) < error_of<nvint4>(a));
    const data r = rotated(a);
    CHECK(error_of<nvint4>(r) < error_of<nvfp4>(r));
    // The figures: .0065, .0092; .0067, .0094 after the rotation, which depend on the draw of eight channels.
    CHECK(error_of<nvfp4>(a) == Approx(.0065).epsilon(.03));
    CHECK(error_of<nvint4>(a) == Approx(.0092).epsilon(.03));
    CHECK(error_of<nvint4>(r) == Approx(.0067).epsilon(.03));
    CHECK(error_of<nvfp4>(r) == Approx(.0094).epsilon(.03));
}

TEST_CASE("a range without a mirror image pulls the mean down, a symmetric one does not", "[quantize][error]") {
    check_bias<integer<8, integer_range::full>>(true);
    check_bias<int8>(false);
    check_bias<integer<4, integer_range::full>>(true);
    check_bias<int4>(false);
}
