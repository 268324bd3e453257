// format_list.cpp: the list of named formats: names, bits per weight, and what follows from a scheme.
#include "support/catch.hpp"
#include "support/lists.hpp"

#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace nibble;

// The bits of every code, scale and zero point by counting slots, weight by weight.
template <class Scheme> double bits_by_counting(std::size_t rows, std::size_t cols) {
    using traits = nibble::detail::scheme_traits<Scheme>;
    std::set<std::size_t> slots;
    std::set<std::size_t> outer;
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            slots.insert(traits::granularity::index(i, j, cols));
            outer.insert(traits::outer_granularity::index(i, j, cols));
        }
    std::size_t bits = rows * cols * static_cast<std::size_t>(traits::element::bits);
    if (Scheme::scaled) bits += slots.size() * static_cast<std::size_t>(traits::scale_element::bits);
    if (Scheme::two_level) bits += outer.size() * static_cast<std::size_t>(traits::outer_element::bits);
    if (Scheme::has_integer_zero) bits += slots.size() * 8;
    if (Scheme::has_minimum) bits += slots.size() * static_cast<std::size_t>(traits::zero_element::bits);
    if (Scheme::has_two_level_minimum)
        bits += outer.size() * static_cast<std::size_t>(traits::outer_zero_element::bits);
    if (Scheme::has_offset) bits += 32; // one fp32 per matrix
    return static_cast<double>(bits) / static_cast<double>(rows * cols);
}

struct own_scheme : scheme<int4, per_group<36>, scale<f16>> {};

} // namespace

TEST_CASE("formats: at least 40, each with its own name and type", "[scheme]") {
    STATIC_REQUIRE(all_formats::size >= 40);
    std::set<std::string_view> names;
    for_each_format([&]<class Format>() {
        CHECK_FALSE(Format::name.empty());
        CHECK(names.insert(Format::name).second);
        CHECK(name_of<typename Format::scheme>() == Format::name);
        for (const char c : Format::name) CHECK(((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'));
    });
    CHECK(names.size() == all_formats::size);
    CHECK(name_of<scheme<int4, per_group<36>, scale<f16>>>().empty());
    CHECK(name_of<own_scheme>().empty());
}

TEST_CASE("formats: the names that the documentation promises", "[scheme]") {
    std::set<std::string_view> names;
    for_each_format([&]<class Format>() { names.insert(Format::name); });
    std::vector<std::string> promised = {"mxfp8_e4m3",
                                         "mxfp8_e5m2",
                                         "mxfp6_e2m3",
                                         "mxfp6_e3m2",
                                         "mxfp4",
                                         "mxint8",
                                         "nvfp4",
                                         "nvint4",
                                         "fp8_e4m3_channel",
                                         "fp8_e5m2_channel",
                                         "fp6_e3m2_channel",
                                         "nf4_g64",
                                         "bfp12_g16",
                                         "ternary_channel",
                                         "ternary_g128",
                                         "binary_channel",
                                         "binary_g128",
                                         "f16",
                                         "bf16",
                                         "f32",
                                         "int4_g32_asym",
                                         "int4_g128_asym"};
    for (const char* element : {"int8", "int6", "int5", "int4", "int3", "int2"})
        for (const char* where : {"_channel", "_g32", "_g64", "_g128"})
            promised.push_back(std::string(element) + where);
    for (const std::string& name : promised) {
        CAPTURE(name);
        CHECK(names.count(name) == 1);
    }
}

TEST_CASE("formats: bits per weight are those of all codes, scales and zero points", "[scheme]") {
    for_each_format([&]<class Format>() {
        using scheme = typename Format::scheme;
        CAPTURE(Format::name);
        for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {3, 33}, {5, 128}, {2, 1031}})
            CHECK(bits_per_weight<scheme>(rows, cols) == bits_by_counting<scheme>(rows, cols));
        CHECK(bits_per_weight<scheme>(0, 5) == 0.0);
        CHECK(bits_per_weight<scheme>(5, 0) == 0.0);
    });
    // At 4096 x 4096: exact values.
    constexpr std::size_t n = 4096;
    STATIC_REQUIRE(bits_per_weight<f32_plain>(n, n) == 32.0);
    STATIC_REQUIRE(bits_per_weight<bf16_plain>(n, n) == 16.0);
    STATIC_REQUIRE(bits_per_weight<int8_channel>(n, n) == 8.0 + 32.0 / 4096);
    STATIC_REQUIRE(bits_per_weight<int4_channel_asym>(n, n) == 4.0 + 40.0 / 4096);
    STATIC_REQUIRE(bits_per_weight<int4_g128>(n, n) == 4.125);
    STATIC_REQUIRE(bits_per_weight<int4_g32>(n, n) == 4.5);
    STATIC_REQUIRE(bits_per_weight<int4_g32_asym>(n, n) == 4.75);
    STATIC_REQUIRE(bits_per_weight<int4_g32_min>(n, n) == 5.0); // GGUF Q4_1
    STATIC_REQUIRE(bits_per_weight<int5_g32_min>(n, n) == 6.0); // Q5_1
    STATIC_REQUIRE(bits_per_weight<int8_g32>(n, n) == 8.5);     // Q8_0
    STATIC_REQUIRE(bits_per_weight<q2_k>(n, n) == 2.625);
    STATIC_REQUIRE(bits_per_weight<q3_k>(n, n) == 3.4375);
    STATIC_REQUIRE(bits_per_weight<q4_k>(n, n) == 4.5);
    STATIC_REQUIRE(bits_per_weight<q5_k>(n, n) == 5.5);
    STATIC_REQUIRE(bits_per_weight<q6_k>(n, n) == 6.5625);
    STATIC_REQUIRE(bits_per_weight<iq4_xs>(n, n) == 4.25);
    STATIC_REQUIRE(bits_per_weight<mxfp4>(n, n) == 4.25);
    STATIC_REQUIRE(bits_per_weight<mxfp6_e2m3>(n, n) == 6.25);
    STATIC_REQUIRE(bits_per_weight<mxfp6_e3m2>(n, n) == 6.25);
    STATIC_REQUIRE(bits_per_weight<mxfp8_e4m3>(n, n) == 8.25);
    STATIC_REQUIRE(bits_per_weight<mxfp8_e5m2>(n, n) == 8.25);
    STATIC_REQUIRE(bits_per_weight<mxint8>(n, n) == 8.25);
    STATIC_REQUIRE(bits_per_weight<nvfp4>(n, n) == 4.5 + 32.0 / (4096.0 * 4096.0));
    STATIC_REQUIRE(bits_per_weight<nvint4>(n, n) == 4.5 + 32.0 / (4096.0 * 4096.0));
    STATIC_REQUIRE(bits_per_weight<int4_g32_s8>(n, n) == 4.25 + 32.0 / 4096);
    STATIC_REQUIRE(bits_per_weight<bfp12_g16>(n, n) == 4.5); // MSFP-12
    STATIC_REQUIRE(bits_per_weight<bfp16_g16>(n, n) == 8.5); // MSFP-16
    STATIC_REQUIRE(bits_per_weight<nf4_g64>(n, n) == 4.25);
    STATIC_REQUIRE(bits_per_weight<binary_g128>(n, n) == 1.125);
    STATIC_REQUIRE(bits_per_weight<ternary_g128>(n, n) == 2.125);
}

TEST_CASE("schemes: yours may derive from one, and rules follow the scale's format", "[scheme]") {
    STATIC_REQUIRE(any_scheme<own_scheme>);
    STATIC_REQUIRE(is_scheme<int4_g32>);
    STATIC_REQUIRE_FALSE(is_scheme<int>);
    STATIC_REQUIRE(bits_per_weight<own_scheme>(1, 36) == 4.0 + 16.0 / 36);
    STATIC_REQUIRE(std::is_same_v<scale<e8m0>::rule, by_exponent>);
    STATIC_REQUIRE(std::is_same_v<scale<f16>::rule, by_largest>);
    // An empty matrix divides by nothing.
    STATIC_REQUIRE(nibble::detail::scheme_traits<int8_channel>::group_size(0) == 1);
}

TEST_CASE("scale rules: largest, exponent and mean", "[scheme]") {
    group_statistics g;
    g.largest = 3.2f;
    g.sum_magnitude = 10.0;
    g.count = 4;
    CHECK(by_largest::apply<int4>(g) == 3.2f / 7.0f);
    CHECK(by_largest::apply<e2m1>(g) == 3.2f / 6.0f);
    CHECK(by_exponent::apply<e2m1>(g) == 0.5f);    // 2^(1 - 2)
    CHECK(by_exponent::apply<e4m3>(g) == 0x1p-7f); // 2^(1 - 8)
    CHECK(by_exponent::apply<mx_int8>(g) == 2.0f); // 2^(1 - 0)
    CHECK(by_mean::apply<ternary>(g) == 2.5f);
    g.largest = 0x1p-149f;
    CHECK(by_exponent::apply<e2m1>(g) == 0x1p-127f); // clamped
    g.largest = 0x1.fffffep127f;
    CHECK(by_exponent::apply<mx_int8>(g) == 0x1p127f);
    CHECK(by_exponent::apply<e2m1>(g) == 0x1p125f);
    g.largest = 0.0f;
    g.sum_magnitude = 0.0;
    CHECK(by_largest::apply<int4>(g) == 0.0f);
    CHECK(by_exponent::apply<e2m1>(g) == 0.0f);
    CHECK(by_mean::apply<ternary>(g) == 0.0f);
    CHECK(by_mean::apply<ternary>(group_statistics{}) == 0.0f);
}
