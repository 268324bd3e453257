// ggml_formats.hpp: the schemes that carry exactly what GGUF's tensor types store, and the list of them; beside
// formats.hpp.
#pragma once

#include <nibble/element/codebooks.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Named as in GGUF where formats.hpp has no name yet. Q4_1 is int4_g32_min, Q5_1 int5_g32_min, the K types are q2_k to
// q6_k, MXFP4 is mxfp4, Q1_0 binary_g128, PQ2_0 and PTQ1_0 ternary_g128, and IQ2_BN ternary_channel. Integers have
// their full range, -2^(bits - 1) included, and scales may be negative: the encoders of ggml put the value of the
// largest magnitude on the lowest code.
using q4_0 = group_scheme<integer<4, integer_range::full>, 32>;
using q5_0 = group_scheme<integer<5, integer_range::full>, 32>;
using q6_0 = group_scheme<integer<6, integer_range::full>, 32>;
using q8_0 = group_scheme<integer<8, integer_range::full>, 32>;
using q8_k = scheme<integer<8, integer_range::full>, per_group<256>, scale<f32>>;
using iq4_nl_g32 = group_scheme<iq4_nl, 32>;
using iq4_xs =
    scheme<iq4_nl, two_level<per_group<32>, per_group<256>>, two_level_scale<integer<6, integer_range::full>, f16>>;
// NVFP4 as llama.cpp has it: no tensor scale inside, scales without a sign.
using nvfp4_g16 = scheme<e2m1, per_group<16>, scale<ue4m3>>;
using ternary_g64 = group_scheme<ternary, 64, by_mean>;
using ternary_g256 = group_scheme<ternary, 256, by_mean>;
using ternary_channel_f16 = scheme<ternary, per_channel, scale<f16, by_mean>>; // IQ1_BN

// For any_quantized and any_packed of tensors in GGUF files.
using ggml_formats =
    format_list<named_format<"f32", f32_plain>, named_format<"f16", f16_plain>, named_format<"bf16", bf16_plain>,
                named_format<"q4_0", q4_0>, named_format<"q4_1", int4_g32_min>, named_format<"q5_0", q5_0>,
                named_format<"q5_1", int5_g32_min>, named_format<"q6_0", q6_0>, named_format<"q8_0", q8_0>,
                named_format<"q8_k", q8_k>, named_format<"q2_k", q2_k>, named_format<"q3_k", q3_k>,
                named_format<"q4_k", q4_k>, named_format<"q5_k", q5_k>, named_format<"q6_k", q6_k>,
                named_format<"iq4_nl", iq4_nl_g32>, named_format<"iq4_xs", iq4_xs>, named_format<"mxfp4", mxfp4>,
                named_format<"nvfp4", nvfp4_g16>, named_format<"binary_g128", binary_g128>,
                named_format<"ternary_g64", ternary_g64>, named_format<"ternary_g128", ternary_g128>,
                named_format<"ternary_g256", ternary_g256>, named_format<"ternary_channel", ternary_channel>,
                named_format<"ternary_channel_f16", ternary_channel_f16>>;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
