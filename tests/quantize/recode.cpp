// recode.cpp: codes to codes: exact where a code exists, the published bit switch where none does.
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/random.hpp"

#include <nibble/quantize.hpp>
#include <nibble/recode.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <vector>

using namespace nibble;

namespace {

[[nodiscard]] std::vector<float> normal(std::size_t count) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) x[i] = nibble_test::random_normal(17, i);
    return x;
}

template <class Scheme> [[nodiscard]] double relative_error(const quantized<Scheme>& q, const std::vector<float>& x) {
    std::vector<float> y(x.size());
    dequantize(q, matrix_view<float>(y.data(), q.rows(), q.cols()));
    double error = 0.0;
    double energy = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
        error += d * d;
        energy += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return error / energy;
}

// From and To hold the same values.
template <class From, class To> void check_lossless() {
    const std::vector<float> x = normal(7 * 197);
    const auto q = quantize<From>(matrix_view<const float>(x.data(), 7, 197));
    const auto r = recode<To>(q, nibble_test::test_executor{3});
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < 7; ++i)
        for (std::size_t j = 0; j < 197; ++j) wrong += q.value_at(i, j) == r.value_at(i, j) ? 0u : 1u;
    CHECK(wrong == 0);
}

template <class Element> using by_row = scheme<Element, per_channel, scale<f32>>;
template <class Element> using by_group = scheme<Element, per_group<32>, scale<f16>>;
template <class Element> using with_minimum = scheme<Element, per_group<32>, scale<f16>, minimum<f16>>;

} // namespace

TEST_CASE("recode: nothing is lost where the target has every value", "[recode]") {
    check_lossless<by_row<int4>, by_row<int8>>();
    check_lossless<by_group<int4>, by_group<int8>>();
    check_lossless<by_group<integer<4, integer_range::full>>, by_group<int5>>();
    check_lossless<by_group<ternary>, by_group<int3>>();
    check_lossless<by_group<binary>, by_group<ternary>>();
    check_lossless<by_group<e2m1>, by_group<int5>>();
    check_lossless<by_group<e2m1>, by_group<e4m3>>();
    check_lossless<by_row<e2m3>, by_row<int7>>();
    check_lossless<with_minimum<uint4>, with_minimum<uint8>>();
    check_lossless<mxfp4, mxfp8_e4m3>();
    check_lossless<mxfp4, mxint8>();
    check_lossless<nvint4, scheme<int8, two_level<per_group<16>, per_tensor>, two_level_scale<e4m3, f32>>>();
    STATIC_REQUIRE(nibble::detail::recode_plan_of<int4, int8>.exact);
    STATIC_REQUIRE_FALSE(nibble::detail::recode_plan_of<int8, int4>.exact);
    STATIC_REQUIRE(nibble::detail::recode_plan_of<int8, int4>.exponent == 4);
}

// The codes and the scales that q has, under the rounded levels, which are as near to the old ones as their factor
// says.
template <class From, class To> void check_rounded() {
    const std::vector<float> x = normal(5 * 203);
    const auto q = quantize<From>(matrix_view<const float>(x.data(), 5, 203));
    const auto r = recode<To>(q, nibble_test::test_executor{3});
    const double bound = 0.5 / To::element_type::factor;
    std::size_t wrong = 0;
    std::size_t moved = 0;
    for (std::size_t i = 0; i < 5; ++i)
        for (std::size_t j = 0; j < 203; ++j) {
            const double before = static_cast<double>(From::element_type::decode(q.code_at(i, j)));
            const double after = static_cast<double>(To::element_type::decode(r.code_at(i, j)));
            wrong += q.code_at(i, j) == r.code_at(i, j) && q.scale_at(i, j) == r.scale_at(i, j) &&
                             std::abs(before - after) <= bound
                         ? 0u
                         : 1u;
            moved += before != after ? 1u : 0u;
        }
    CHECK(wrong == 0);
    CHECK(moved > 0);
    // Rounding the weights themselves to the new levels cannot lose more.
    CHECK(relative_error(quantize<To>(matrix_view<const float>(x.data(), 5, 203)), x) <= relative_error(r, x));
}

TEST_CASE("recode: rounded levels keep codes and scales", "[recode]") {
    check_rounded<nf4_g64, nf4_rounded_g64>();
    check_rounded<fp6_e3m2_channel, fp6_e3m2_rounded_channel>();
    check_rounded<mxfp6_e3m2, block_scheme<rounded_levels<e3m2>>>();
    // As bitsandbytes stores it, with an offset of the scales.
    using rounded_double = scheme<rounded_levels<nf4>, two_level<per_flat_block<64>, per_flat_block<16384>>,
                                  two_level_scale<dynamic8, f32, by_largest, mean_offset>>;
    check_rounded<nf4_span64_double, rounded_double>();
}

TEST_CASE("recode: int8 to int4 is round(c / 16) under 16 times the scale, as good as published", "[recode]") {
    using int8_tensor = scheme<int8, per_tensor, scale<f32>>;
    using int4_tensor = scheme<integer<4, integer_range::full>, per_tensor, scale<f32>>;
    const std::vector<float> x = normal(131072);
    const matrix_view<const float> view(x.data(), 32, 4096);
    const auto q8 = quantize<int8_tensor>(view);
    const auto q4 = recode<int4_tensor>(q8);
    bool same = q4.scale_at(0, 0) == 16.0f * q8.scale_at(0, 0);
    for (std::size_t i = 0; i < 32; ++i)
        for (std::size_t j = 0; j < 4096; ++j) {
            const double c = static_cast<double>(int8::decode(q8.code_at(i, j)));
            const double wanted = std::min(7.0, std::nearbyint(c / 16.0)); // -127 / 16 rounds to -8, which is a code
            same = same && static_cast<double>(integer<4, integer_range::full>::decode(q4.code_at(i, j))) == wanted;
        }
    CHECK(same);
    const auto floored = recode<int4_tensor, rounding::floor>(q8);
    const double twice = relative_error(q4, x);
    const double shifted = relative_error(floored, x);
    const double direct = relative_error(quantize<scheme<int4, per_tensor, scale<f32>>>(view), x);
    // formats.md, section 10, has .0266, .0958 and .0337 for a tensor whose largest value is 4.47; in steps of its int4
    // scale these are the variance of rounding, 1 / 12, and of a remainder of 0 to 15 sixteenths, 0.3027.
    const double step = static_cast<double>(q4.scale_at(0, 0));
    CHECK(twice == Approx(step * step / 12.0).epsilon(.03));
    CHECK(shifted == Approx(step * step * .3027).epsilon(.03));
    CHECK(twice / shifted == Approx(.0266 / .0958).epsilon(.03));
    CHECK(twice < direct);
    CHECK(twice < shifted / 3.0);
}

TEST_CASE("recode: a scale that the target's format does not hold is refused", "[recode]") {
    std::vector<float> x(64, 60000.0f * 127.0f);
    const auto q = quantize<by_group<int8>>(matrix_view<const float>(x.data(), 2, 32));
    REQUIRE(q.scale_at(0, 0) == Approx(60000.0f).epsilon(0.001));
    const failure_handler before =
        set_failure_handler([](const char* message, const char*, int) { throw std::runtime_error(message); });
    CHECK_THROWS_AS(recode<by_group<int4>>(q), std::runtime_error);
    set_failure_handler(before);
    CHECK(recode<by_group<int4>>(quantized<by_group<int8>>(0, 32)).rows() == 0);
}
