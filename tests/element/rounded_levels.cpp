// rounded_levels.cpp: other elements' levels rounded to integers: their values, the kernels they get, and what they
// lose.
#include "support/catch.hpp"
#include "support/codec_check.hpp"
#include "support/random.hpp"

#include <nibble/element/codebooks.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_levels.hpp>
#include <nibble/element/rounded_levels.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using namespace nibble;
using detail::integer_mapping_of;

// Against the C library's rounding in double.
template <class Element, int Limit> void check_rounded() {
    using rounded = rounded_levels<Element, Limit>;
    INFO(nibble_test::type_name<rounded>());
    nibble_test::check_element<rounded>(5000);
    const double f = rounded::factor;
    int exponent = 0;
    CHECK(std::frexp(f, &exponent) == 0.5);
    double largest_integer = 0.0;
    double larger_integer = 0.0;
    bool right = true;
    for (unsigned c = 0; c < 1u << Element::bits; ++c) {
        const double level = static_cast<double>(Element::decode(static_cast<std::uint8_t>(c)));
        const float value = rounded::decode(static_cast<std::uint8_t>(c));
        right = right && static_cast<double>(value) == std::nearbyint(level * f) / f &&
                std::signbit(value) == std::signbit(level);
        right = right && std::abs(static_cast<double>(value) - level) <= 0.5 / f;
        largest_integer = std::max(largest_integer, std::abs(std::nearbyint(level * f)));
        larger_integer = std::max(larger_integer, std::abs(std::nearbyint(level * f * 2.0)));
    }
    CHECK(right);
    CHECK(largest_integer <= Limit);
    CHECK(larger_integer > Limit);
    // The integers that kernels multiply, of which a power of two may have been taken out.
    STATIC_REQUIRE(integer_mapping_of<rounded>.exists);
    CHECK(integer_mapping_of<rounded>.magnitude <= Limit);
    if (Limit <= detail::narrow_limit) CHECK(detail::fits_int16_sums<rounded>);
}

template <class Element> void check_limits() {
    check_rounded<Element, detail::narrow_limit>();
    check_rounded<Element, 7>();
    check_rounded<Element, 63>();
    check_rounded<Element, 127>();
}

// Squared error of groups of `Group` normally distributed numbers under max|x| / largest; values by Valued's levels.
template <class Coded, class Valued> double squared_error(std::size_t group) {
    double sum = 0.0;
    std::vector<float> x(group);
    for (std::size_t g = 0; g < 65536 / group; ++g) {
        float top = 0.0f;
        for (std::size_t i = 0; i < group; ++i) {
            x[i] = nibble_test::random_normal(7, g * group + i);
            top = std::max(top, std::abs(x[i]));
        }
        const float scale = top / largest<Coded>;
        for (const float v : x) {
            const double d =
                static_cast<double>(Valued::decode(encode<Coded>(v / scale))) * static_cast<double>(scale) -
                static_cast<double>(v);
            sum += d * d;
        }
    }
    return sum;
}

// The table of rounded_levels.hpp.
template <class Element, int Limit> void check_loss(std::size_t group, double quantized, double recoded) {
    using rounded = rounded_levels<Element, Limit>;
    INFO(nibble_test::type_name<rounded>() << ", groups of " << group);
    const double plain = squared_error<Element, Element>(group);
    CHECK(squared_error<rounded, rounded>(group) / plain == Approx(quantized).margin(0.015));
    CHECK(squared_error<Element, rounded>(group) / plain == Approx(recoded).margin(0.015));
}

} // namespace

TEST_CASE("rounded levels are the nearest integers over a power of two", "[element][rounded]") {
    check_limits<nf4>();
    check_limits<af4>();
    check_limits<bnb_fp4>();
    check_limits<e3m2>();
    check_limits<e2m3>();
    check_limits<signed_log_root_two<4>>();
    check_limits<uint4>();
    check_rounded<e4m3_all_finite, 127>();
}

TEST_CASE("rounded levels: what rounding loses on Gaussian data", "[element][rounded]") {
    check_loss<nf4, 32>(64, 1.024, 1.037);
    check_loss<nf4, 64>(64, 1.002, 1.008);
    check_loss<e3m2, 32>(32, 1.063, 1.095);
    check_loss<e3m2, 63>(32, 1.008, 1.012);
    check_loss<e3m2, 127>(32, 1.001, 1.002);
    check_loss<e3m2, 63>(4096, 1.026, 1.039);
    check_loss<e3m2, 127>(4096, 1.003, 1.005);
}
