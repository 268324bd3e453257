// formats.hpp: every named number format and the list of all; tests, benches and docs enumerate this list.
#pragma once

#include <nibble/element/bipolar.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/codebooks.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_levels.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/element/rounded_levels.hpp>
#include <nibble/element/sign_magnitude.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_span.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/per_tile.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// ---- families: a new member is one alias
// ----------------------------------------------------------------------------------

template <element E, class Rule = by_largest> using channel_scheme = scheme<E, per_channel, scale<f32, Rule>>;
template <element E, std::size_t G, class Rule = by_largest>
using group_scheme = scheme<E, per_group<G>, scale<f16, Rule>>;
template <element E, std::size_t G> using asymmetric_scheme = scheme<E, per_group<G>, scale<f16>, integer_zero>;
template <element E, std::size_t G> using minimum_scheme = scheme<E, per_group<G>, scale<f16>, minimum<f16>>;
// OCP MX and block floating point: a shared power of two per group.
template <element E, std::size_t G = 32> using block_scheme = scheme<E, per_group<G>, scale<e8m0>>;

// ---- names
// ----------------------------------------------------------------------------------------------------------------

using int8_channel = channel_scheme<int8>;
using int6_channel = channel_scheme<int6>;
using int5_channel = channel_scheme<int5>;
using int4_channel = channel_scheme<int4>;
using int3_channel = channel_scheme<int3>;
using int2_channel = channel_scheme<int2>;
using int8_channel_asym = scheme<uint8, per_channel, scale<f32>, integer_zero>;
using int4_channel_asym = scheme<uint4, per_channel, scale<f32>, integer_zero>;

using int8_g32 = group_scheme<int8, 32>;
using int8_g64 = group_scheme<int8, 64>;
using int8_g128 = group_scheme<int8, 128>;
using int6_g32 = group_scheme<int6, 32>;
using int6_g64 = group_scheme<int6, 64>;
using int6_g128 = group_scheme<int6, 128>;
using int5_g32 = group_scheme<int5, 32>;
using int5_g64 = group_scheme<int5, 64>;
using int5_g128 = group_scheme<int5, 128>;
using int4_g32 = group_scheme<int4, 32>;
using int4_g64 = group_scheme<int4, 64>;
using int4_g128 = group_scheme<int4, 128>;
using int3_g32 = group_scheme<int3, 32>;
using int3_g64 = group_scheme<int3, 64>;
using int3_g128 = group_scheme<int3, 128>;
using int2_g32 = group_scheme<int2, 32>;
using int2_g64 = group_scheme<int2, 64>;
using int2_g128 = group_scheme<int2, 128>;

using int4_g32_asym = asymmetric_scheme<uint4, 32>;
using int4_g64_asym = asymmetric_scheme<uint4, 64>;
using int4_g128_asym = asymmetric_scheme<uint4, 128>;
using int3_g32_asym = asymmetric_scheme<uint3, 32>;
using int3_g64_asym = asymmetric_scheme<uint3, 64>;
using int3_g128_asym = asymmetric_scheme<uint3, 128>;
using int2_g32_asym = asymmetric_scheme<uint2, 32>;
using int2_g64_asym = asymmetric_scheme<uint2, 64>;
using int2_g128_asym = asymmetric_scheme<uint2, 128>;
using int5_g32_min = minimum_scheme<uint5, 32>;
using int4_g32_min = minimum_scheme<uint4, 32>;
using int2_g16_min = minimum_scheme<uint2, 16>;

using mxfp8_e4m3 = block_scheme<e4m3>;
using mxfp8_e5m2 = block_scheme<e5m2>;
using mxfp6_e2m3 = block_scheme<e2m3>;
using mxfp6_e3m2 = block_scheme<e3m2>;
using mxfp4 = block_scheme<e2m1>;
using mxint8 = block_scheme<mx_int8>;
// bfpN_gM: values of N - 8 bits, sign included, under an 8-bit exponent per M of them (bfp12_g16 is MSFP-12).
using bfp12_g16 = block_scheme<int4, 16>;
// The same values as Microsoft's MSFP stores them: a sign and a magnitude.
using msfp12 = block_scheme<sign_magnitude<4>, 16>;
using msfp16 = block_scheme<sign_magnitude<8>, 16>;
using bfp14_g16 = block_scheme<int6, 16>;
using bfp16_g16 = block_scheme<int8, 16>;

// NVIDIA's two levels: an E4M3 scale per 16 values under one fp32 scale per tensor.
using nvfp4 = scheme<e2m1, two_level<per_group<16>, per_tensor>, two_level_scale<e4m3, f32>>;
using nvint4 = scheme<int4, two_level<per_group<16>, per_tensor>, two_level_scale<e4m3, f32>>;
// Integer group scales under one fp32 scale per row (VS-Quant).
using int4_g32_s8 = scheme<int4, two_level<per_group<32>, per_channel>, two_level_scale<uint8, f32>>;

// MXFP4 whose scale follows from max|x| rounded to E2M1's one mantissa bit.
using mxfp4_rounded = scheme<e2m1, per_group<32>, scale<e8m0, by_exponent_rounded>>;

// GGUF's Q4_0 and its non-linear 4-bit types.
using q4_0 = group_scheme<integer<4, integer_range::full>, 32>;
using iq4_nl_g32 = group_scheme<iq4_nl, 32>;
using iq4_xs =
    scheme<iq4_nl, two_level<per_group<32>, per_group<256>>, two_level_scale<integer<6, integer_range::full>, f16>>;
// The K types of GGUF: super-blocks of 256 with small integers for scales and minimums.
using q2_k =
    scheme<uint2, two_level<per_group<16>, per_group<256>>, two_level_scale<uint4, f16>, two_level_minimum<uint4, f16>>;
using q3_k = scheme<integer<3, integer_range::full>, two_level<per_group<16>, per_group<256>>,
                    two_level_scale<integer<6, integer_range::full>, f16>>;
using q4_k =
    scheme<uint4, two_level<per_group<32>, per_group<256>>, two_level_scale<uint6, f16>, two_level_minimum<uint6, f16>>;
using q5_k =
    scheme<uint5, two_level<per_group<32>, per_group<256>>, two_level_scale<uint6, f16>, two_level_minimum<uint6, f16>>;
using q6_k = scheme<integer<6, integer_range::full>, two_level<per_group<16>, per_group<256>>,
                    two_level_scale<integer<8, integer_range::full>, f16>>;

// DeepSeek-V3's weights: one fp32 scale per 128 x 128.
using fp8_e4m3_tile128 = scheme<e4m3, per_tile<128, 128>, scale<f32>>;
using fp8_e4m3_channel = channel_scheme<e4m3>;
using fp8_e5m2_channel = channel_scheme<e5m2>;
using fp6_e3m2_channel = channel_scheme<e3m2>;
using fp6_e2m3_channel = channel_scheme<e2m3>;
using fp4_e2m1_g32 = group_scheme<e2m1, 32>;
using nf4_g64 = group_scheme<nf4, 64>;
// bitsandbytes: 4 bits under an fp32 scale per 64 consecutive weights; with double quantization those scales are 8-bit
// numbers, 256 of them under an fp32 scale, about their mean.
using nf4_span64 = scheme<nf4, per_span<64>, scale<f32>>;
using fp4_span64 = scheme<bnb_fp4, per_span<64>, scale<f32>>;
using nf4_span64_double =
    scheme<nf4, two_level<per_span<64>, per_span<16384>>, two_level_scale<dynamic8, f32, by_largest, mean_offset>>;
using fp4_span64_double =
    scheme<bnb_fp4, two_level<per_span<64>, per_span<16384>>, two_level_scale<dynamic8, f32, by_largest, mean_offset>>;
// Levels rounded to integers, codes and scales as they were (see rounded_levels.hpp); recode makes them of the plain
// ones.
using nf4_rounded_g64 = group_scheme<rounded_levels<nf4>, 64>;
using fp6_e3m2_rounded_channel = channel_scheme<rounded_levels<e3m2, 127>>;
using flint4_g64 = group_scheme<flint4, 64>;
// Powers of two, and of the root of two, with a zero; zero-free odd integers (APT-LLM).
using log2_4_g128 = group_scheme<signed_log2<4>, 128>;
using log_root_two_4_g128 = group_scheme<signed_log_root_two<4>, 128>;
using bipolar3_g128 = group_scheme<bipolar<3>, 128>;
using bipolar2_g128 = group_scheme<bipolar<2>, 128>;

using ternary_channel = channel_scheme<ternary, by_mean>;
using ternary_g128 = group_scheme<ternary, 128, by_mean>;
using binary_channel = channel_scheme<binary, by_mean>;
using binary_g128 = group_scheme<binary, 128, by_mean>;

using f16_plain = scheme<f16, per_tensor, no_scale>;
using bf16_plain = scheme<bf16, per_tensor, no_scale>;
using f32_plain = scheme<f32, per_tensor, no_scale>;

// ---- the list
// ---------------------------------------------------------------------------------------------------------------

template <std::size_t N> struct format_name {
    char text[N];
    constexpr format_name(const char (&from)[N]) noexcept {
        for (std::size_t i = 0; i < N; ++i) text[i] = from[i];
    }
};

// A scheme under its name, as type, bench line and JSON key.
template <format_name Name, any_scheme Scheme> struct named_format {
    using scheme = Scheme;
    static constexpr std::string_view name{Name.text, sizeof(Name.text) - 1};
};

template <class... Formats> struct format_list {
    static constexpr std::size_t size = sizeof...(Formats);
};

using all_formats = format_list<
    named_format<"f32", f32_plain>, named_format<"f16", f16_plain>, named_format<"bf16", bf16_plain>,
    named_format<"int8_channel", int8_channel>, named_format<"int8_channel_asym", int8_channel_asym>,
    named_format<"int8_g128", int8_g128>, named_format<"int8_g64", int8_g64>, named_format<"int8_g32", int8_g32>,
    named_format<"int6_channel", int6_channel>, named_format<"int6_g128", int6_g128>,
    named_format<"int6_g64", int6_g64>, named_format<"int6_g32", int6_g32>, named_format<"int5_channel", int5_channel>,
    named_format<"int5_g128", int5_g128>, named_format<"int5_g64", int5_g64>, named_format<"int5_g32", int5_g32>,
    named_format<"int5_g32_min", int5_g32_min>, named_format<"int4_channel", int4_channel>,
    named_format<"int4_channel_asym", int4_channel_asym>, named_format<"int4_g128", int4_g128>,
    named_format<"int4_g64", int4_g64>, named_format<"int4_g32", int4_g32>,
    named_format<"int4_g128_asym", int4_g128_asym>, named_format<"int4_g64_asym", int4_g64_asym>,
    named_format<"int4_g32_asym", int4_g32_asym>, named_format<"int4_g32_min", int4_g32_min>,
    named_format<"int4_g32_s8", int4_g32_s8>, named_format<"int3_channel", int3_channel>,
    named_format<"int3_g128", int3_g128>, named_format<"int3_g64", int3_g64>, named_format<"int3_g32", int3_g32>,
    named_format<"int3_g128_asym", int3_g128_asym>, named_format<"int3_g64_asym", int3_g64_asym>,
    named_format<"int3_g32_asym", int3_g32_asym>, named_format<"int2_channel", int2_channel>,
    named_format<"int2_g128", int2_g128>, named_format<"int2_g64", int2_g64>, named_format<"int2_g32", int2_g32>,
    named_format<"int2_g128_asym", int2_g128_asym>, named_format<"int2_g64_asym", int2_g64_asym>,
    named_format<"int2_g32_asym", int2_g32_asym>, named_format<"int2_g16_min", int2_g16_min>,
    named_format<"mxfp8_e4m3", mxfp8_e4m3>, named_format<"mxfp8_e5m2", mxfp8_e5m2>,
    named_format<"mxfp6_e2m3", mxfp6_e2m3>, named_format<"mxfp6_e3m2", mxfp6_e3m2>, named_format<"mxfp4", mxfp4>,
    named_format<"mxfp4_rounded", mxfp4_rounded>, named_format<"mxint8", mxint8>, named_format<"q6_k", q6_k>,
    named_format<"q5_k", q5_k>, named_format<"q4_k", q4_k>, named_format<"q4_0", q4_0>,
    named_format<"iq4_nl_g32", iq4_nl_g32>, named_format<"iq4_xs", iq4_xs>, named_format<"q3_k", q3_k>,
    named_format<"q2_k", q2_k>, named_format<"nvfp4", nvfp4>, named_format<"nvint4", nvint4>,
    named_format<"bfp16_g16", bfp16_g16>, named_format<"bfp14_g16", bfp14_g16>, named_format<"bfp12_g16", bfp12_g16>,
    named_format<"fp8_e4m3_tile128", fp8_e4m3_tile128>, named_format<"fp8_e4m3_channel", fp8_e4m3_channel>,
    named_format<"fp8_e5m2_channel", fp8_e5m2_channel>, named_format<"fp6_e3m2_channel", fp6_e3m2_channel>,
    named_format<"fp6_e2m3_channel", fp6_e2m3_channel>, named_format<"fp4_e2m1_g32", fp4_e2m1_g32>,
    named_format<"fp6_e3m2_rounded_channel", fp6_e3m2_rounded_channel>, named_format<"nf4_g64", nf4_g64>,
    named_format<"nf4_rounded_g64", nf4_rounded_g64>, named_format<"nf4_span64_double", nf4_span64_double>,
    named_format<"fp4_span64", fp4_span64>, named_format<"flint4_g64", flint4_g64>,
    named_format<"log2_4_g128", log2_4_g128>, named_format<"log_root_two_4_g128", log_root_two_4_g128>,
    named_format<"bipolar3_g128", bipolar3_g128>, named_format<"bipolar2_g128", bipolar2_g128>,
    named_format<"ternary_channel", ternary_channel>, named_format<"ternary_g128", ternary_g128>,
    named_format<"binary_channel", binary_channel>, named_format<"binary_g128", binary_g128>>;

// Calls visit.template operator()<Format>() for every Format of a list, in order.
template <class Visit, class... Formats> constexpr void for_each_format(format_list<Formats...>, Visit&& visit) {
    (visit.template operator()<Formats>(), ...);
}
template <class Visit> constexpr void for_each_format(Visit&& visit) {
    for_each_format(all_formats{}, visit);
}

// The name under which the list has a scheme, or "" for a scheme of your own.
template <any_scheme Scheme> [[nodiscard]] constexpr std::string_view name_of() noexcept {
    std::string_view found;
    for_each_format([&]<class Format>() {
        if (std::is_same_v<typename Format::scheme, Scheme> && found.empty()) found = Format::name;
    });
    return found;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
