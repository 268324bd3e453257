// codebooks.cpp: the published lists of values: goldens, definitions in long double, thresholds, and the kernels they
// get.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

#include <nibble/element/codebooks.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/element/power_levels.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace nibble;
using detail::fits_int16_sums;
using detail::integer_mapping_of;
using detail::needs_int32_sums;

template <class Element> std::vector<float> values_of(std::size_t count) {
    std::vector<float> v;
    for (std::size_t c = 0; c < count; ++c) v.push_back(Element::decode(static_cast<std::uint8_t>(c)));
    return v;
}

// In units of the last place of fp32.
std::int64_t ulps_between(float a, float b) {
    const auto ordered = [](float x) {
        const std::int32_t word = std::bit_cast<std::int32_t>(x);
        return std::int64_t{word < 0 ? std::int32_t(0x80000000u) - word : word};
    };
    return std::abs(ordered(a) - ordered(b));
}

template <class Element> void check_signed(const std::vector<float>& magnitudes) {
    const std::size_t last = magnitudes.size() - 1;
    for (std::size_t q = 0; q <= last; ++q) {
        CAPTURE(q);
        CHECK(Element::decode(static_cast<std::uint8_t>(last + q)) == magnitudes[q]);
        CHECK(Element::decode(static_cast<std::uint8_t>(last - q)) == -magnitudes[q]);
    }
}

} // namespace

TEST_CASE("the lists of codebooks.hpp round to the nearest level", "[element][codebook]") {
    nibble_test::check_element<bnb_fp4>(20000);
    nibble_test::check_element<af4>(20000);
    nibble_test::check_element<flint4>(20000);
    nibble_test::check_element<bitmod_fp3_ea_minus>(20000);
    nibble_test::check_element<bitmod_fp4_er_plus>(20000);
    nibble_test::check_element<dynamic8>(20000);
}

TEST_CASE("the lists of power_levels.hpp round to the nearest level", "[element][codebook]") {
    nibble_test::check_element<signed_log2<4>>(20000);
    nibble_test::check_element<signed_log_root_two<4>>(20000);
    nibble_test::check_element<unsigned_log_root_two<4>>(20000);
    nibble_test::check_element<dense_shift<3>>(20000);
    nibble_test::check_element<power_exponent<4, 4, 5>>(20000);
}

TEST_CASE("bnb FP4: codes and thresholds as published", "[element][codebook][golden]") {
    CHECK(bnb_fp4::encode(0.3f) == 4);
    CHECK(bnb_fp4::encode(-0.3f) == 12);
    CHECK(bnb_fp4::encode(0.002f) == 0);
    CHECK(bnb_fp4::encode(0.9f) == 3);
    CHECK(values_of<bnb_fp4>(8) ==
          std::vector<float>{0.0f, 0.0052083333f, 0.66666667f, 1.0f, 0.33333333f, 0.5f, 0.16666667f, 0.25f});
    for (unsigned c = 0; c < 16; ++c)
        CHECK(bnb_fp4::decode(static_cast<std::uint8_t>(c)) ==
              (c < 8 ? 1.0f : -1.0f) * bnb_fp4::decode(static_cast<std::uint8_t>(c & 7)));
    const float thresholds[7] = {.00260417f, .0859375f, .20833333f, .29166667f, .4166667f, .583333f, .8333333f};
    const unsigned codes[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    for (unsigned i = 0; i < 7; ++i) {
        CAPTURE(i);
        const float above = std::nextafter(thresholds[i], 2.0f);
        CHECK(bnb_fp4::encode(thresholds[i]) == codes[i]);
        CHECK(bnb_fp4::encode(above) == codes[i + 1]);
        CHECK(bnb_fp4::encode(-thresholds[i]) == (i == 0 ? 0u : codes[i] | 8u));
        CHECK(bnb_fp4::encode(-above) == (codes[i + 1] | 8u));
    }
    for (const float x : {-0.0f, -0.001f, std::numeric_limits<float>::quiet_NaN()}) CHECK(bnb_fp4::encode(x) == 0);
    CHECK(bnb_fp4::encode(std::numeric_limits<float>::infinity()) == 3);
    CHECK(bnb_fp4::encode(-std::numeric_limits<float>::infinity()) == 11);
    CHECK(encode<bnb_fp4, rounding::toward_zero>(-0.49f) == 12);
    CHECK(encode<bnb_fp4, rounding::toward_zero>(-0.001f) == 0);
    CHECK(encode<bnb_fp4, rounding::ceiling>(0.34f) == 5);
    CHECK(encode<bnb_fp4, rounding::stochastic>(0.4f, 0) == 5);
    CHECK(encode<bnb_fp4, rounding::stochastic>(0.4f, 0xffffffffu) == 4);
}

TEST_CASE("AF4, IQ4_NL and FLINT4: the published values", "[element][codebook][golden]") {
    CHECK(values_of<iq4_nl>(16) ==
          std::vector<float>{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113});
    CHECK(values_of<af4>(16) == std::vector<float>{-1.0f, -.69441008f, -.51243739f, -.3736951f, -.25607552f,
                                                   -.14982478f, -.04934812f, 0.0f, .04273164f, .12934483f, .21961274f,
                                                   .31675666f, .42563882f, .55496234f, .72424863f, 1.0f});
    check_signed<flint4>({0, 1, 2, 3, 4, 6, 8, 16});
}

TEST_CASE("BitMoD: sign and magnitude, one value more in the code of -0", "[element][codebook][golden]") {
    const std::vector<float> three{0, 1, 2, 4};
    const std::vector<float> four{0, 1, 2, 3, 4, 6, 8, 12};
    const auto check = [](const std::vector<float>& got, const std::vector<float>& magnitudes, float extra) {
        for (std::size_t c = 0; c < got.size(); ++c) {
            const std::size_t m = c % magnitudes.size();
            const bool negative = c >= magnitudes.size();
            CAPTURE(c, extra);
            CHECK(got[c] == (negative ? (m == 0 ? extra : -magnitudes[m]) : magnitudes[m]));
        }
    };
    check(values_of<bitmod_fp3_er_plus>(8), three, 3);
    check(values_of<bitmod_fp3_er_minus>(8), three, -3);
    check(values_of<bitmod_fp3_ea_plus>(8), three, 6);
    check(values_of<bitmod_fp3_ea_minus>(8), three, -6);
    check(values_of<bitmod_fp4_er_plus>(16), four, 10);
    check(values_of<bitmod_fp4_er_minus>(16), four, -10);
    check(values_of<bitmod_fp4_ea_plus>(16), four, 16);
    check(values_of<bitmod_fp4_ea_minus>(16), four, -16);
}

TEST_CASE("powers of two and of its square root", "[element][codebook][golden]") {
    std::vector<float> two{0.0f}, root{0.0f};
    for (int k = 6; k >= 0; --k) {
        two.push_back(std::ldexp(1.0f, -k));
        root.push_back(static_cast<float>(std::pow(2.0L, -k / 2.0L)));
    }
    check_signed<signed_log2<4>>(two);
    check_signed<signed_log_root_two<4>>(root);
    check_signed<signed_log2<2>>({0.0f, 1.0f});
    CHECK(signed_log2<8>::decode(128) == std::ldexp(1.0f, -126));
    for (unsigned c = 0; c < 16; ++c) {
        CAPTURE(c);
        const std::uint8_t code = static_cast<std::uint8_t>(c);
        CHECK(unsigned_log2<4>::decode(code) == std::ldexp(1.0f, -static_cast<int>(c)));
        CHECK(unsigned_log_root_two<4>::decode(code) ==
              static_cast<float>(std::pow(2.0L, -static_cast<int>(c) / 2.0L)));
        CHECK(dense_shift<4>::decode(code) == (c < 8 ? 1.0f : -1.0f) * std::ldexp(1.0f, static_cast<int>(c % 8)));
        if (c < 15) CHECK(unsigned_log_root_two_packed<4>::decode(code) == unsigned_log_root_two<4>::decode(code));
    }
    // RepQ-ViT's 2^B + 1 levels need a bit more than B; the packed form gives its smallest power away instead.
    STATIC_REQUIRE(unsigned_log_root_two<4>::count == 17);
    STATIC_REQUIRE(unsigned_log_root_two<4>::bits == 5);
    CHECK(unsigned_log_root_two<4>::decode(16) == 0.0f);
    CHECK(unsigned_log_root_two<4>::encode(0.0f) == 16);
    STATIC_REQUIRE(unsigned_log_root_two_packed<4>::bits == 4);
    CHECK(unsigned_log_root_two_packed<4>::decode(15) == 0.0f);
    CHECK(unsigned_log_root_two_packed<4>::encode(-1.0f) == 15);
}

TEST_CASE("PowerQuant: levels within one unit in the last place of pow", "[element][codebook]") {
    const auto check = []<class Element>(Element, int bits, double a) {
        const int last = (1 << (bits - 1)) - 1;
        std::int64_t worst = 0;
        for (int q = -last; q <= last; ++q) {
            const double exact = std::copysign(std::pow(std::abs(q) / static_cast<double>(last), 1.0 / a), q);
            const float got = Element::decode(static_cast<std::uint8_t>(q + last));
            worst = std::max(worst, ulps_between(got, q == 0 ? 0.0f : static_cast<float>(exact)));
        }
        CAPTURE(bits, a, worst);
        CHECK(worst <= 1);
    };
    check(power_exponent<4, 1, 2>{}, 4, 0.5);
    check(power_exponent<4, 3, 5>{}, 4, 0.6);
    check(power_exponent<4, 7, 10>{}, 4, 0.7);
    check(power_exponent<4, 4, 5>{}, 4, 0.8);
    check(power_exponent<4, 1, 1>{}, 4, 1.0);
    check(power_exponent<8, 3, 10>{}, 8, 0.3);
    check(power_exponent<8, 99, 100>{}, 8, 0.99);
    check(power_exponent<3, 1, 3>{}, 3, 1.0 / 3.0);
}

TEST_CASE("dynamic map: midpoints of decades, sorted", "[element][codebook][golden]") {
    std::vector<long double> wanted{0.0L, 1.0L};
    for (int i = 0; i <= 6; ++i) {
        const int intervals = 1 << i;
        for (int j = 0; j < intervals; ++j) {
            const long double from = 0.1L + 0.9L * j / intervals;
            const long double to = 0.1L + 0.9L * (j + 1) / intervals;
            const long double middle = (from + to) / 2 * std::pow(10.0L, i - 6);
            wanted.push_back(middle);
            wanted.push_back(-middle);
        }
    }
    std::sort(wanted.begin(), wanted.end());
    REQUIRE(wanted.size() == 256);
    for (std::size_t c = 0; c < 256; ++c) {
        CAPTURE(c);
        CHECK(ulps_between(dynamic8::decode(static_cast<std::uint8_t>(c)), static_cast<float>(wanted[c])) <= 1);
    }
    // The bits of create_dynamic_map() of bitsandbytes under PyTorch 2.15: CRC-32 of the 256 numbers in little-endian
    // order.
    std::uint32_t crc = ~0u;
    for (std::size_t c = 0; c < 256; ++c) {
        const auto bits = std::bit_cast<std::uint32_t>(dynamic8::decode(static_cast<std::uint8_t>(c)));
        for (int bit = 0; bit < 32; ++bit) crc = (crc >> 1) ^ (((crc ^ (bits >> bit)) & 1u) != 0 ? 0xedb88320u : 0u);
    }
    CHECK(~crc == 0x1b137aebu);
    // By hand: one interval has the midpoint .55, the second of two .775; the largest of 64 is 1 - .9 / 128.
    CHECK(dynamic8::decode(128) == 0.55f * 1e-6f);
    CHECK(dynamic8::decode(130) == 7.75e-6f);
    CHECK(dynamic8::decode(126) == -0.55f * 1e-6f);
    CHECK(dynamic8::decode(0) == -0.99296874f); // 0.99296875 less a unit: the steps round
    CHECK(dynamic8::decode(254) == 0.99296874f);
    CHECK(dynamic8::decode(255) == 1.0f);
    CHECK(dynamic8::encode(0.0f) == 127);
}

TEST_CASE("lists of integers times a power of two get integer kernels", "[element][codebook]") {
    STATIC_REQUIRE(needs_int32_sums<iq4_nl>);
    STATIC_REQUIRE(fits_int16_sums<flint4>);
    STATIC_REQUIRE(fits_int16_sums<bitmod_fp3_ea_plus>);
    STATIC_REQUIRE(fits_int16_sums<bitmod_fp4_ea_minus>);
    STATIC_REQUIRE(fits_int16_sums<dense_shift<3>>);
    STATIC_REQUIRE(fits_int16_sums<signed_log2<3>>);
    STATIC_REQUIRE(needs_int32_sums<signed_log2<4>>);
    STATIC_REQUIRE(!integer_mapping_of<bnb_fp4>.exists);
    STATIC_REQUIRE(!integer_mapping_of<signed_log_root_two<4>>.exists);
    STATIC_REQUIRE(!integer_mapping_of<dynamic8>.exists);
}
