// ggml_reference.hpp: the plain encoders of ggml's reference for the types that have a fixed rule, byte for byte.
#pragma once

#include <nibble/io/ggml_plain_types.hpp>
#include <nibble/io/ggml_ternary_types.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/minifloat.hpp>

#include <cstddef>
#include <cstdint>

// The rules are those of formats.md sections 7.1 and 7.4, as Python's gguf package has them: fp32 arithmetic with one
// rounding per operation, codes from the scale before it is rounded to fp16, and a scale beyond fp16 becomes infinite.
// For values that are not finite, or so small that 1 / d overflows, the reference depends on the machine; here a NaN
// counts as the lowest code.
NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

template <ggml_type Type> struct reference_encoder; // of the types below

template <class Type>
concept has_reference_encoder =
    requires(const float* x, typename Type::parts& p) { reference_encoder<Type>::encode_block(x, p); };

[[nodiscard]] inline std::uint16_t reference_f16(float x) noexcept {
    return f16::encode<rounding::nearest_even, overflow::special>(x);
}
[[nodiscard]] inline float reference_inverse(float d) noexcept {
    return d == 0.0f ? 0.0f : 1.0f / d;
}
[[nodiscard]] NIBBLE_INLINE std::uint8_t truncated(float x, float highest_code) noexcept {
    x = x > 0.0f ? x : 0.0f;
    x = x < highest_code ? x : highest_code;
    return static_cast<std::uint8_t>(x);
}

// The value of the largest magnitude, the first of equals, on the lowest code.
template <int Bits>
inline void reference_symmetric(const float* x, std::uint16_t& scale, std::uint8_t* codes) noexcept {
    constexpr float half = static_cast<float>(1 << (Bits - 1));
    float top = 0.0f;
    for (std::size_t i = 0; i < 32; ++i)
        if (abs_of(x[i]) > abs_of(top)) top = x[i];
    const float d = top / -half;
    const float inverse = reference_inverse(d);
    scale = reference_f16(d);
    float steps[32];
    for (std::size_t i = 0; i < 32; ++i) steps[i] = x[i] * inverse;
    each_rounded_by_itself(steps);
    for (std::size_t i = 0; i < 32; ++i)
        codes[i] =
            static_cast<std::uint8_t>(truncated(steps[i] + (half + 0.5f), 2.0f * half - 1.0f) ^ (1u << (Bits - 1)));
}
template <int Bits>
inline void reference_affine(const float* x, std::uint16_t& scale, std::uint16_t& minimum,
                             std::uint8_t* codes) noexcept {
    constexpr float levels = static_cast<float>((1 << Bits) - 1);
    float low = x[0];
    float high = x[0];
    for (std::size_t i = 1; i < 32; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const float d = (high - low) / levels;
    const float inverse = reference_inverse(d);
    scale = reference_f16(d);
    minimum = reference_f16(low);
    float steps[32];
    for (std::size_t i = 0; i < 32; ++i) steps[i] = (x[i] - low) * inverse;
    each_rounded_by_itself(steps);
    for (std::size_t i = 0; i < 32; ++i) codes[i] = truncated(steps[i] + 0.5f, levels);
}
// round(x / (max|x| / levels)), halves away from zero.
template <class Scale>
inline void reference_absmax(const float* x, std::size_t n, float levels, Scale&& scale, std::uint8_t* codes) noexcept {
    float top = 0.0f;
    for (std::size_t i = 0; i < n; ++i) top = abs_of(x[i]) > top ? abs_of(x[i]) : top;
    const float d = top / levels;
    const float inverse = reference_inverse(d);
    scale = reference_f16(d);
    for (std::size_t i = 0; i < n; ++i)
        codes[i] =
            static_cast<std::uint8_t>(integer<8, integer_range::full>::encode<rounding::half_away>(x[i] * inverse));
}

template <> struct reference_encoder<ggml_q4_0> {
    static void encode_block(const float* x, ggml_q4_0::parts& p) noexcept {
        reference_symmetric<4>(x, p.scales[0], p.codes);
    }
};
template <> struct reference_encoder<ggml_q5_0> {
    static void encode_block(const float* x, ggml_q5_0::parts& p) noexcept {
        reference_symmetric<5>(x, p.scales[0], p.codes);
    }
};
template <> struct reference_encoder<ggml_q4_1> {
    static void encode_block(const float* x, ggml_q4_1::parts& p) noexcept {
        reference_affine<4>(x, p.scales[0], p.zeros[0], p.codes);
    }
};
template <> struct reference_encoder<ggml_q5_1> {
    static void encode_block(const float* x, ggml_q5_1::parts& p) noexcept {
        reference_affine<5>(x, p.scales[0], p.zeros[0], p.codes);
    }
};
template <> struct reference_encoder<ggml_q8_0> {
    static void encode_block(const float* x, ggml_q8_0::parts& p) noexcept {
        reference_absmax(x, 32, 127.0f, p.scales[0], p.codes);
    }
};
// Trits: max|x| is the scale.
template <> struct reference_encoder<ggml_tq2_0> {
    static void encode_block(const float* x, ggml_tq2_0::parts& p) noexcept {
        reference_absmax(x, 256, 1.0f, p.scales[0], p.codes);
        for (std::uint8_t& code : p.codes) code = static_cast<std::uint8_t>((code + 1) & 3);
    }
};
template <> struct reference_encoder<ggml_tq1_0> : reference_encoder<ggml_tq2_0> {};

// Exponent floor(log2 max|x|) - 2, exactly (the reference's log2f rounds up just under a power of two); of the 16
// values the nearest, the first of equals: a tie goes towards zero, and -0 is never written.
template <> struct reference_encoder<ggml_mxfp4> {
    static void encode_block(const float* x, ggml_mxfp4::parts& p) noexcept {
        float top = 0.0f;
        for (std::size_t i = 0; i < 32; ++i) top = abs_of(x[i]) > top && is_finite(x[i]) ? abs_of(x[i]) : top;
        const int exponent = top > 0.0f ? floor_log2(top) - 2 + 127 : 0;
        p.scales[0] = static_cast<std::uint8_t>(exponent < 0 ? 0 : exponent);
        const float d = e8m0::decode(p.scales[0]);
        for (std::size_t i = 0; i < 32; ++i) {
            float least = infinity;
            p.codes[i] = 0;
            for (unsigned code = 0; code < 16; ++code) {
                const float error = abs_of(decode_table<e2m1>.at[code] * d - x[i]); // the product is exact
                if (error < least) {
                    least = error;
                    p.codes[i] = static_cast<std::uint8_t>(code);
                }
            }
        }
    }
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
