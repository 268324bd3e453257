// codebook.cpp: lists of values: golden codes of NF4, lists without zero, of odd length, and longer than 16.
#include "support/catch.hpp"
#include "support/codec_check.hpp"
#include "support/random.hpp"

#include <nibble/element/codebook.hpp>

#include <cmath>

namespace {

// GGUF's IQ4_NL: no zero, not in units of one size.
struct iq4_nl {
    static constexpr float levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
};
struct af4 {
    static constexpr float levels[16] = {
        -1.0f,       -0.69441008f, -0.51243739f, -0.3736951f, -0.25607552f, -0.14982478f, -0.04934812f, 0.0f,
        0.04273164f, 0.12934483f,  0.21961274f,  0.31675666f, 0.42563882f,  0.55496234f,  0.72424863f,  1.0f};
};
struct not_in_order {
    static constexpr float levels[5] = {0.0f, 3.0f, -3.0f, 1.0f, -1.0f};
};
struct pair_of_values {
    static constexpr float levels[2] = {-0.25f, 4.0f};
};
struct long_list {
    float values[100];
    constexpr long_list() : values{} {
        for (int i = 0; i < 100; ++i)
            values[(i * 37) % 100] = static_cast<float>((i - 40) * (i - 40) * (i < 40 ? -1 : 1));
    }
};
struct hundred {
    static constexpr auto list = long_list{};
    static constexpr const float (&levels)[100] = list.values;
};

} // namespace

TEST_CASE("codebooks round to the nearest level, a tie goes down", "[element][codebook]") {
    nibble_test::check_element<nibble::codebook<iq4_nl>>(100000);
    nibble_test::check_element<nibble::codebook<af4>>(100000);
    nibble_test::check_element<nibble::codebook<not_in_order>>(100000);
    nibble_test::check_element<nibble::codebook<pair_of_values>>(100000);
    nibble_test::check_element<nibble::codebook<hundred>>(100000);
}

TEST_CASE("codebook: toward zero is the level of smaller magnitude even where there is no zero",
          "[element][codebook]") {
    using list = nibble::codebook<iq4_nl>;
    CHECK(list::decode(list::encode<nibble::rounding::toward_zero>(0.5f)) == 1.0f);
    CHECK(list::decode(list::encode<nibble::rounding::toward_zero>(-9.0f)) == 1.0f);
    CHECK(list::decode(list::encode<nibble::rounding::toward_zero>(-10.0f)) == -10.0f);
    CHECK(list::decode(list::encode<nibble::rounding::toward_zero>(24.9f)) == 13.0f);
    CHECK(list::decode(list::encode<nibble::rounding::toward_zero>(-24.9f)) == -22.0f);
}

TEST_CASE("NF4: levels, codes and thresholds as published", "[element][codebook][golden]") {
    using nibble::nf4;
    CHECK(nf4::encode(-0.05f) == 6);
    CHECK(nf4::encode(0.05f) == 8);
    CHECK(nf4::encode(0.3f) == 11);
    CHECK(nf4::encode(0.87f) == 15);
    CHECK(nf4::decode(0) == -1.0f);
    CHECK(nf4::decode(7) == 0.0f);
    CHECK(nf4::decode(15) == 1.0f);
    const float thresholds[15] = {-.84809637f, -.6106329f,   -.45999527f, -.33967942f, -.2346074f,
                                  -.13791174f, -.045525018f, .03979015f,  .120255247f, .203521252f,
                                  .292013764f, .389312536f,  .501663446f, .64278692f,  .86147845f};
    for (int i = 0; i < 15; ++i) {
        CAPTURE(i, thresholds[i]);
        CHECK(nf4::encode(thresholds[i]) == i); // x > t goes up
        CHECK(nf4::encode(std::nextafter(thresholds[i], 2.0f)) == i + 1);
    }
}
