// golden_codes.cpp: the tables of formats.md, sections 1, 2.2, 5 and 6, as they stand there.
#include "support/catch.hpp"

#include <nibble/element/bipolar.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/element/sign_magnitude.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace {

using nibble::overflow;
using nibble::rounding;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

template <class Element> void check_row(float x, unsigned saturating, unsigned special) {
    CHECK(unsigned{Element::template encode<rounding::nearest_even, overflow::saturate>(x)} == saturating);
    CHECK(unsigned{Element::template encode<rounding::nearest_even, overflow::special>(x)} == special);
}

struct golden_row {
    float x;
    // Saturating codes of E2M1 E2M3 E3M2 E4M3FN E5M2 E4M3FNUZ E5M2FNUZ, then the last four with special codes.
    unsigned code[7];
    unsigned special[4];
};

constexpr golden_row rows[] = {
    {1.0f, {0x2, 0x08, 0x0C, 0x38, 0x3C, 0x40, 0x40}, {0x38, 0x3C, 0x40, 0x40}},
    {-1.0f, {0xA, 0x28, 0x2C, 0xB8, 0xBC, 0xC0, 0xC0}, {0xB8, 0xBC, 0xC0, 0xC0}},
    {0.1f, {0x0, 0x01, 0x02, 0x1D, 0x2E, 0x25, 0x32}, {0x1D, 0x2E, 0x25, 0x32}},
    {1.0f / 3.0f, {0x1, 0x03, 0x05, 0x2B, 0x35, 0x33, 0x39}, {0x2B, 0x35, 0x33, 0x39}},
    {0.75f, {0x2, 0x06, 0x0A, 0x34, 0x3A, 0x3C, 0x3E}, {0x34, 0x3A, 0x3C, 0x3E}},
    {2.5f, {0x4, 0x12, 0x11, 0x42, 0x41, 0x4A, 0x45}, {0x42, 0x41, 0x4A, 0x45}},
    {3.3f, {0x5, 0x15, 0x13, 0x45, 0x43, 0x4D, 0x47}, {0x45, 0x43, 0x4D, 0x47}},
    {5.0f, {0x6, 0x1A, 0x15, 0x4A, 0x45, 0x52, 0x49}, {0x4A, 0x45, 0x52, 0x49}},
    {7.75f, {0x7, 0x1F, 0x18, 0x50, 0x48, 0x58, 0x4C}, {0x50, 0x48, 0x58, 0x4C}},
    {30.0f, {0x7, 0x1F, 0x1F, 0x5F, 0x50, 0x67, 0x54}, {0x5F, 0x50, 0x67, 0x54}},
    {240.0f, {0x7, 0x1F, 0x1F, 0x77, 0x5C, 0x7F, 0x60}, {0x77, 0x5C, 0x7F, 0x60}},
    {448.0f, {0x7, 0x1F, 0x1F, 0x7E, 0x5F, 0x7F, 0x63}, {0x7E, 0x5F, 0x80, 0x63}},
    {465.0f, {0x7, 0x1F, 0x1F, 0x7E, 0x5F, 0x7F, 0x63}, {0x7F, 0x5F, 0x80, 0x63}},
    {61440.0f, {0x7, 0x1F, 0x1F, 0x7E, 0x7B, 0x7F, 0x7F}, {0x7F, 0x7C, 0x80, 0x80}},
    {0x1p-9f, {0x0, 0x00, 0x00, 0x01, 0x18, 0x02, 0x1C}, {0x01, 0x18, 0x02, 0x1C}},
    {0x1p-10f, {0x0, 0x00, 0x00, 0x00, 0x14, 0x01, 0x18}, {0x00, 0x14, 0x01, 0x18}},
    {0x3p-11f, {0x0, 0x00, 0x00, 0x01, 0x16, 0x02, 0x1A}, {0x01, 0x16, 0x02, 0x1A}},
    {0x1p-17f, {0x0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01}, {0x00, 0x00, 0x00, 0x01}},
    {-0.0f, {0x8, 0x20, 0x20, 0x80, 0x80, 0x00, 0x00}, {0x80, 0x80, 0x00, 0x00}},
    {infinity, {0x7, 0x1F, 0x1F, 0x7E, 0x7B, 0x7F, 0x7F}, {0x7F, 0x7C, 0x80, 0x80}},
    {nan_value, {0x0, 0x00, 0x00, 0x7F, 0x7E, 0x80, 0x80}, {0x7F, 0x7E, 0x80, 0x80}}, // without NaN: the policy is 0
};

template <class Element>
void check_limits(float largest, unsigned largest_code, float normal, unsigned normal_code, float subnormal, int emax) {
    CHECK(Element::decode(static_cast<typename Element::code>(largest_code)) == largest);
    CHECK(unsigned{Element::encode(infinity)} == largest_code);
    CHECK(nibble::largest<Element> == largest);
    CHECK(Element::decode(static_cast<typename Element::code>(normal_code)) == normal);
    CHECK(Element::decode(1) == subnormal);
    CHECK(std::ilogb(nibble::largest<Element>) == emax);
}

// All codes of up to 8 bits that are NaN, all that are infinite, and what NaN becomes.
template <class Element>
void check_special(const std::vector<unsigned>& nan, const std::vector<unsigned>& infinite, unsigned canonical) {
    std::vector<unsigned> found_nan;
    std::vector<unsigned> found_infinite;
    for (unsigned c = 0; c < 1u << Element::bits; ++c) {
        const float value = Element::decode(static_cast<typename Element::code>(c));
        if (std::isnan(value)) found_nan.push_back(c);
        if (std::isinf(value)) found_infinite.push_back(c);
    }
    CHECK(found_nan == nan);
    CHECK(found_infinite == infinite);
    CHECK(unsigned{Element::encode(nan_value)} == canonical);
}

template <class Element, std::size_t N> void check_grid(const float (&values)[N]) {
    for (unsigned c = 0; c < N; ++c) {
        CAPTURE(c);
        CHECK(Element::decode(static_cast<typename Element::code>(c)) == values[c]);
        CHECK(unsigned{Element::encode(values[c])} == c);
    }
}

} // namespace

TEST_CASE("golden codes: nearest even, saturating and not", "[element][golden]") {
    for (const golden_row& row : rows) {
        CAPTURE(row.x);
        check_row<nibble::e2m1>(row.x, row.code[0], row.code[0]);
        check_row<nibble::e2m3>(row.x, row.code[1], row.code[1]);
        check_row<nibble::e3m2>(row.x, row.code[2], row.code[2]);
        check_row<nibble::e4m3>(row.x, row.code[3], row.special[0]);
        check_row<nibble::e5m2>(row.x, row.code[4], row.special[1]);
        check_row<nibble::e4m3_fnuz>(row.x, row.code[5], row.special[2]);
        check_row<nibble::e5m2_fnuz>(row.x, row.code[6], row.special[3]);
    }
}

TEST_CASE("golden codes: overflow at the exact boundary", "[element][golden]") {
    check_row<nibble::e4m3>(464.0f, 0x7E, 0x7E);
    check_row<nibble::e5m2>(61439.0f, 0x7B, 0x7B);
    check_row<nibble::e4m3_fnuz>(248.0f, 0x7F, 0x80);
    check_row<nibble::e4m3_fnuz>(247.9f, 0x7F, 0x7F);
}

TEST_CASE("golden codes: toward zero, bf16 and fp16", "[element][golden]") {
    CHECK(nibble::e4m3::encode<rounding::toward_zero>(0.1f) == 0x1C);
    CHECK(nibble::e4m3::encode<rounding::toward_zero>(1.0f / 3.0f) == 0x2A);
    CHECK(nibble::e4m3::encode<rounding::toward_zero>(3.3f) == 0x45);
    CHECK(nibble::e4m3::encode<rounding::toward_zero>(5.9f) == 0x4B);
    const float pi = 3.14159265f;
    check_row<nibble::bf16>(pi, 0x4049, 0x4049);
    check_row<nibble::bf16>(1.0f + 0x1p-8f, 0x3F80, 0x3F80);
    check_row<nibble::bf16>(1.0f + 0x3p-8f, 0x3F82, 0x3F82);
    check_row<nibble::bf16>(3.4e38f, 0x7F7F, 0x7F80);
    check_row<nibble::bf16>(1e-40f, 0x0001, 0x0001);
    check_row<nibble::f16>(pi, 0x4248, 0x4248);
    check_row<nibble::f16>(65519.0f, 0x7BFF, 0x7BFF);
    check_row<nibble::f16>(65520.0f, 0x7BFF, 0x7C00);
    check_row<nibble::f16>(2.98e-8f, 0x0000, 0x0000);
    check_row<nibble::f16>(5.96e-8f, 0x0001, 0x0001);
}

TEST_CASE("golden codes: ties toward zero, as in llama.cpp's MXFP4", "[element][golden]") {
    constexpr rounding down = rounding::half_toward_zero;
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode<down>(0.75f)) == 0.5f);
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode<down>(1.75f)) == 1.5f);
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode<down>(3.5f)) == 3.0f);
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode(0.75f)) == 1.0f);
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode(1.75f)) == 2.0f);
    CHECK(nibble::e2m1::decode(nibble::e2m1::encode(3.5f)) == 4.0f);
    for (const float x : {-0.0f, -0x1p-149f, -0.2f, -0.25f}) CHECK(nibble::e2m1::encode<down>(x) == 0); // never -0
}

TEST_CASE("limits of the minifloats", "[element][golden]") {
    using namespace nibble;
    check_limits<e2m1>(6.0f, 0x7, 1.0f, 0x2, 0.5f, 2);
    check_limits<e2m3>(7.5f, 0x1F, 1.0f, 0x08, 0.125f, 2);
    check_limits<e3m2>(28.0f, 0x1F, 0.25f, 0x04, 0.0625f, 4);
    check_limits<e4m3>(448.0f, 0x7E, 0x1p-6f, 0x08, 0x1p-9f, 8);
    check_limits<e5m2>(57344.0f, 0x7B, 0x1p-14f, 0x04, 0x1p-16f, 15);
    check_limits<e4m3_fnuz>(240.0f, 0x7F, 0x1p-7f, 0x08, 0x1p-10f, 7);
    check_limits<e5m2_fnuz>(57344.0f, 0x7F, 0x1p-15f, 0x04, 0x1p-17f, 15);
    check_limits<e4m3_ieee>(240.0f, 0x77, 0x1p-6f, 0x08, 0x1p-9f, 7);
    check_limits<e3m4>(15.5f, 0x6F, 0.25f, 0x10, 0x1p-6f, 3);
    check_limits<e3m4_all_finite>(31.0f, 0x7F, 0.25f, 0x10, 0x1p-6f, 4);
    check_limits<e4m3_b11_fnuz>(30.0f, 0x7F, 0x1p-10f, 0x08, 0x1p-13f, 4);
    check_limits<ue4m3>(448.0f, 0x7E, 0x1p-6f, 0x08, 0x1p-9f, 8);
    check_limits<ue5m3>(114688.0f, 0xFE, 0x1p-14f, 0x08, 0x1p-17f, 16);
    check_limits<f16>(65504.0f, 0x7BFF, 0x1p-14f, 0x0400, 0x1p-24f, 15);
    check_limits<bf16>(0x1.fep127f, 0x7F7F, 0x1p-126f, 0x0080, 0x1p-133f, 127);
    CHECK(ue4m3::bits == 7);
    CHECK(ue5m3::bits == 8);
    CHECK(e8m0::decode(0xFE) == 0x1p127f);
    CHECK(e8m0::decode(0x00) == 0x1p-127f);
    CHECK(largest<e1m1> == 3.0f);
    CHECK(largest<e2m0> == 4.0f);
    CHECK(largest<e2m2> == 7.0f);
    CHECK(largest<e3m1> == 24.0f);
    CHECK(largest<e4m1> == 384.0f);
    CHECK(largest<e3m3> == 30.0f);
    CHECK(largest<e4m3_all_finite> == 480.0f); // (2 - 2^-3) x 2^8, no code lost to NaN
    CHECK(e4m3_all_finite::decode(0xFF) == -480.0f);
}

TEST_CASE("codes that are not finite, and the canonical NaN", "[element][golden]") {
    using namespace nibble;
    check_special<e2m1>({}, {}, 0);
    check_special<e2m3>({}, {}, 0);
    check_special<e3m2>({}, {}, 0);
    check_special<e4m3>({0x7F, 0xFF}, {}, 0x7F);
    check_special<e5m2>({0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}, {0x7C, 0xFC}, 0x7E);
    check_special<e4m3_fnuz>({0x80}, {}, 0x80);
    check_special<e5m2_fnuz>({0x80}, {}, 0x80);
    check_special<e4m3_ieee>({0x79, 0x7A, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF},
                             {0x78, 0xF8}, 0x7C);
    check_special<e3m4_all_finite>({}, {}, 0);
    check_special<e4m3_all_finite>({}, {}, 0);
    check_special<e4m3_b11_fnuz>({0x80}, {}, 0x80);
    check_special<ue4m3>({0x7F}, {}, 0x7F);
    check_special<ue5m3>({0xFF}, {}, 0xFF);
    check_special<e8m0>({0xFF}, {}, 0xFF);
    CHECK(f16::encode(nan_value) == 0x7E00);
    CHECK(std::isnan(f16::decode(0x7E00)));
    CHECK(f16::decode(0x7C00) == infinity);
    CHECK(f16::decode(0xFC00) == -infinity);
    CHECK(bf16::encode(nan_value) == 0x7FC0);
    CHECK(std::isnan(bf16::decode(0x7FC0)));
    CHECK(bf16::decode(0x7F80) == infinity);
    CHECK(e3m4::decode(0x70) == infinity);
}

TEST_CASE("grids of small minifloats", "[element][golden]") {
    check_grid<nibble::e2m1>({0, .5f, 1, 1.5f, 2, 3, 4, 6});
    check_grid<nibble::e3m0>({0, .25f, .5f, 1, 2, 4, 8, 16});
    check_grid<nibble::e1m2>({0, .5f, 1, 1.5f, 2, 2.5f, 3, 3.5f});
    check_grid<nibble::e2m2>({0, .25f, .5f, .75f, 1, 1.25f, 1.5f, 1.75f, 2, 2.5f, 3, 3.5f, 4, 5, 6, 7});
    check_grid<nibble::e3m1>({0, .125f, .25f, .375f, .5f, .75f, 1, 1.5f, 2, 3, 4, 6, 8, 12, 16, 24});
    check_grid<nibble::e1m1>({0, 1, 2, 3});
    check_grid<nibble::e2m0>({0, 1, 2, 4});
}

TEST_CASE("without mantissa bits a tie still goes to the even code", "[element]") {
    CHECK(nibble::e3m0::encode(0.75f) == 2); // between .5 (2) and 1 (3)
    CHECK(nibble::e3m0::encode(1.5f) == 4);  // between 1 (3) and 2 (4)
    CHECK(nibble::e3m0::encode(3.0f) == 4);
    CHECK(nibble::e3m0::encode(6.0f) == 6);
}

TEST_CASE("golden values of bipolar, balanced and sign-magnitude integers", "[element][golden]") {
    check_grid<nibble::bipolar<1>>({-1, 1});
    check_grid<nibble::bipolar<2>>({-3, -1, 1, 3});
    check_grid<nibble::bipolar<3>>({-7, -5, -3, -1, 1, 3, 5, 7});
    check_grid<nibble::balanced<2>>({0, 1, 2, 3, 4});
    CHECK(nibble::balanced<2>::encode(infinity) == 4);
    CHECK(nibble::balanced<2>::bits == 3);
    check_grid<nibble::sign_magnitude<4>>({0, 1, 2, 3, 4, 5, 6, 7, -0.0f, -1, -2, -3, -4, -5, -6, -7});
    // MSFP-12 of {3.2, -1.0, 0.3, 0.05}: step 0.5.
    CHECK(nibble::sign_magnitude<4>::decode(nibble::sign_magnitude<4>::encode(3.2f / 0.5f)) == 6.0f);
    CHECK(nibble::sign_magnitude<4>::encode(-1.0f / 0.5f) == 0xA);
    CHECK(nibble::sign_magnitude<4>::encode(0.3f / 0.5f) == 1);
    CHECK(nibble::sign_magnitude<4>::encode(0.05f / 0.5f) == 0);
}

TEST_CASE("golden codes of the integers", "[element][golden]") {
    CHECK(nibble::mx_int8::decode(0x7F) == 1.984375f);
    CHECK(nibble::mx_int8::decode(0x40) == 1.0f);
    CHECK(nibble::mx_int8::decode(0xC0) == -1.0f);
    CHECK(nibble::mx_int8::decode(0x80) == -2.0f);
    CHECK(nibble::mx_int8::encode(-2.0f) == 0x81); // symmetric: -127
    CHECK(nibble::binary::encode(0.0f) == 1);
    CHECK(nibble::binary::encode(-0.0f) == 1);
    CHECK(nibble::ternary::decode(3) == 2.0f); // as GGUF's TQ2_0
    CHECK(nibble::int4::encode(-8.0f) == 9);   // -7
    CHECK(nibble::integer<4, nibble::integer_range::full>::encode(-8.0f) == 8);
    CHECK(nibble::int8::encode(nan_value) == 0);
    CHECK(nibble::int8::encode(infinity) == 127);
    CHECK(nibble::int8::encode(-infinity) == 129);
}
