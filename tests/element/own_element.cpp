// own_element.cpp: elements that bring bits, code and decode alone: encode is derived, and a tie goes to the even code.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

#include <nibble/element/bipolar.hpp>
#include <nibble/element/element.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// bitsandbytes' FP4: magnitude by the lowest 3 bits, the fourth is the sign.
struct bnb_fp4 {
    static constexpr int bits = 4;
    using code = std::uint8_t;
    static constexpr float magnitude[8] = {0.0f, .0052083333f, .66666667f, 1.0f, .33333333f, .5f, .16666667f, .25f};
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return (c & 8) != 0 ? -magnitude[c & 7] : magnitude[c & 7];
    }
};

// APT's bipolar integers: odd numbers, no zero.
template <int Bits> struct bipolar {
    static constexpr int bits = Bits;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return static_cast<float>(2 * (c & ((1 << Bits) - 1)) - ((1 << Bits) - 1));
    }
};

// Powers of two without zero or sign, out of order, one code NaN.
struct shuffled {
    static constexpr int bits = 3;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        constexpr float values[8] = {8.0f, 1.0f, 4.0f, 2.0f, 16.0f, nibble::detail::quiet_nan, 0.5f, 64.0f};
        return values[c & 7];
    }
};

// Unsigned, integers up to 252, not in steps of one: lanes of one signed byte cannot hold them.
struct wide_unsigned {
    static constexpr int bits = 3;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        constexpr float values[8] = {0, 1, 2, 3, 10, 100, 200, 252};
        return values[c & 7];
    }
};

// Not only integers: one step, but a range that starts at -3.
struct shifted {
    static constexpr int bits = 8;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return static_cast<float>(c) - 3.0f; }
};

template <class Element> void check_own() {
    std::vector<double> values;
    for (unsigned c = 0; c < 1u << Element::bits; ++c)
        values.push_back(static_cast<double>(Element::decode(static_cast<std::uint8_t>(c))));
    const nibble_test::reference_list reference(Element::bits, values, nibble_test::tie::even_code);
    nibble_test::check_codec(nibble_test::codec_of<Element>(), reference, 100000);
    nibble_test::check_facts(nibble_test::facts_of<Element>(reference));
}

} // namespace

TEST_CASE("an element of three members is encoded by its grid", "[element]") {
    check_own<bnb_fp4>();
    check_own<bipolar<1>>();
    check_own<bipolar<2>>();
    check_own<bipolar<3>>();
    check_own<bipolar<8>>();
    check_own<shuffled>();
    check_own<wide_unsigned>();
    check_own<shifted>();
}

TEST_CASE("bitsandbytes' FP4: golden codes and thresholds", "[element][golden]") {
    CHECK(nibble::encode<bnb_fp4>(0.3f) == 4);
    CHECK(nibble::encode<bnb_fp4>(-0.3f) == 12);
    CHECK(nibble::encode<bnb_fp4>(0.002f) == 0);
    CHECK(nibble::encode<bnb_fp4>(0.9f) == 3);
    const float thresholds[7] = {.00260417f, .0859375f, .20833333f, .29166667f, .4166667f, .583333f, .8333333f};
    const unsigned codes[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    for (int i = 0; i < 7; ++i) {
        CAPTURE(i);
        CHECK(unsigned{nibble::encode<bnb_fp4>(thresholds[i] * 0.9999f)} == codes[i]);
        CHECK(unsigned{nibble::encode<bnb_fp4>(thresholds[i] * 1.0001f)} == codes[i + 1]);
    }
}

TEST_CASE("the encode that the grid gives is the arithmetic one", "[element]") {
    // nibble::bipolar brings its own encode; here the same values come without one.
    for (std::uint32_t i = 0; i < 40000; ++i) {
        const float x = static_cast<float>(static_cast<int>(i) - 20000) / 64.0f;
        const auto same = [&]<nibble::rounding Rounding>() {
            return nibble::encode<bipolar<3>, Rounding>(x, i) == nibble::encode<nibble::bipolar<3>, Rounding>(x, i) &&
                   nibble::encode<bipolar<8>, Rounding>(x, i) == nibble::encode<nibble::bipolar<8>, Rounding>(x, i);
        };
        using nibble::rounding;
        REQUIRE((same.operator()<rounding::nearest_even>() && same.operator()<rounding::toward_zero>() &&
                 same.operator()<rounding::half_away>() && same.operator()<rounding::half_up>() &&
                 same.operator()<rounding::half_toward_zero>() && same.operator()<rounding::floor>() &&
                 same.operator()<rounding::ceiling>() && same.operator()<rounding::learned>()));
    }
}
