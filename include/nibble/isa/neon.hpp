// neon.hpp: the primitives in the Advanced SIMD instructions that every AArch64 has.
// Compiler flags: none (little endian)
//
// A vector of eight fp32 or int32 is two registers, of 32. Not timed on a machine; what instructions cost is in their
// makers' guides (Arm Cortex-A72 and Neoverse N1 / V1 Software Optimization Guides): instruction           what for per
// cycle, Cortex-A72 / Neoverse N1 / V1 smlal, smlal2         8 products on int16            1 / 1 / 2 sadalp int16
// pairs onto int32         1 / 1 / 2 ld1r                  activations to every row       1 / 2 / 3 tbl of 1 register
// unpack                         2 / 2 / 4 fmla                  fp32                           2 / 2 / 4
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_NEON

#include <nibble/core/bits.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/isa.hpp>

#include <arm_neon.h>
#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct neon : generic {
    static constexpr const char* name = "neon";
    // Sums of a token are eight registers: three tokens leave room for weights and activations.
    static constexpr isa_facts facts{.dots_in_int32 = false,
                                     .integer_tiles = {.longest = 3, .shorter = 3},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .exact_byte_products = true,
                                     .vector_registers = 32,
                                     .unrolled_quads = 1};

    struct f32 {
        float32x4_t low, high;
    };
    struct i32 {
        int32x4_t low, high;
    };
    struct bytes {
        uint8x16_t low, high;
    };
    struct words {
        int16x8_t low, high;
    };
    struct sums {
        int16x8_t v[4]; // four int16 of every row, one a column
    };

    // ---- fp32 lanes
    // ---------------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE f32 load(const float* from) noexcept {
        return {vld1q_f32(from), vld1q_f32(from + 4)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 load_some(const float* from, std::size_t count) noexcept {
        float all[8] = {};
        for (std::size_t i = 0; i < count; ++i) all[i] = from[i];
        return load(all);
    }
    static NIBBLE_INLINE void store(float* to, const f32& a) noexcept {
        vst1q_f32(to, a.low);
        vst1q_f32(to + 4, a.high);
    }
    static NIBBLE_INLINE void store_some(float* to, const f32& a, std::size_t count) noexcept {
        float all[8];
        store(all, a);
        for (std::size_t i = 0; i < count; ++i) to[i] = all[i];
    }
    static NIBBLE_INLINE void store_wide(double* to, const f32& a) noexcept {
        vst1q_f64(to, vcvt_f64_f32(vget_low_f32(a.low)));
        vst1q_f64(to + 2, vcvt_high_f64_f32(a.low));
        vst1q_f64(to + 4, vcvt_f64_f32(vget_low_f32(a.high)));
        vst1q_f64(to + 6, vcvt_high_f64_f32(a.high));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 broadcast(float a) noexcept { return {vdupq_n_f32(a), vdupq_n_f32(a)}; }
    [[nodiscard]] static NIBBLE_INLINE f32 add(const f32& a, const f32& b) noexcept {
        return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 subtract(const f32& a, const f32& b) noexcept {
        return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 multiply(const f32& a, const f32& b) noexcept {
        return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 divide(const f32& a, const f32& b) noexcept {
        return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 fma(const f32& a, const f32& b, const f32& c) noexcept {
        return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
    }
    // Not the instructions for minimum and maximum: these give NaN if either operand is one.
    [[nodiscard]] static NIBBLE_INLINE f32 smaller(const f32& a, const f32& b) noexcept {
        return select_less(a, b, a, b);
    }
    [[nodiscard]] static NIBBLE_INLINE f32 larger(const f32& a, const f32& b) noexcept {
        return select_less(b, a, a, b);
    }
    [[nodiscard]] static NIBBLE_INLINE f32 select_less(const f32& a, const f32& b, const f32& x,
                                                       const f32& y) noexcept {
        return {vbslq_f32(vcltq_f32(a.low, b.low), x.low, y.low), vbslq_f32(vcltq_f32(a.high, b.high), x.high, y.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 absolute(const f32& a) noexcept {
        return {vabsq_f32(a.low), vabsq_f32(a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_even(const f32& a) noexcept {
        return {vtrn1q_f32(a.low, a.low), vtrn1q_f32(a.high, a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_odd(const f32& a) noexcept {
        return {vtrn2q_f32(a.low, a.low), vtrn2q_f32(a.high, a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 copy_sign(const f32& a, const f32& b) noexcept {
        const uint32x4_t sign = vdupq_n_u32(0x80000000u);
        return {vbslq_f32(sign, b.low, a.low), vbslq_f32(sign, b.high, a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 round(const f32& a) noexcept {
        return {vrndnq_f32(a.low), vrndnq_f32(a.high)};
    }
    static NIBBLE_INLINE void store_rounded(std::int8_t* to, const f32& a) noexcept {
        const int16x8_t words = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.low)), vqmovn_s32(vcvtnq_s32_f32(a.high)));
        vst1_s8(to, vqmovn_s16(words));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 exp2i(const f32& n) noexcept {
        return each(n, [](float32x4_t x) NIBBLE_INLINE_LAMBDA {
            return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127)), 23));
        });
    }

    [[nodiscard]] static NIBBLE_INLINE f32 power_below(const f32& a) noexcept {
        return each(a, [](float32x4_t x) NIBBLE_INLINE_LAMBDA {
            return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7f800000u)));
        });
    }
    // As many places on as there are thresholds below: masks are -1.
    [[nodiscard]] static NIBBLE_INLINE f32 value_between(const detail::table<float, 16>& values,
                                                         const detail::table<float, 16>& thresholds,
                                                         const f32& a) noexcept {
        const uint8x16x4_t list = four_registers(values.at);
        return each(a, [&](float32x4_t x) NIBBLE_INLINE_LAMBDA {
            uint32x4_t before = vdupq_n_u32(0);
#pragma GCC unroll 15
            for (std::size_t i = 0; i < 15; ++i)
                before = vsubq_u32(before, vcltq_f32(vdupq_n_f32(thresholds.at[i]), x));
            return look_up(list, before);
        });
    }

    static NIBBLE_INLINE void keep(f32& a) noexcept { __asm__("" : "+w"(a.low), "+w"(a.high)); }

    // ---- integer products
    // -----------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE bytes load_bytes(const std::uint8_t* from) noexcept {
        return {vld1q_u8(from), vld1q_u8(from + 16)};
    }
    static NIBBLE_INLINE void store_bytes(std::uint8_t* to, const bytes& a) noexcept {
        vst1q_u8(to, a.low);
        vst1q_u8(to + 16, a.high);
    }
    [[nodiscard]] static NIBBLE_INLINE bytes low_nibbles(const bytes& a) noexcept { return field<0, 15>(a); }
    [[nodiscard]] static NIBBLE_INLINE bytes high_nibbles(const bytes& a) noexcept { return field<4, 15>(a); }
    template <int Shift, int Mask> [[nodiscard]] static NIBBLE_INLINE bytes field(const bytes& a) noexcept {
        return {field_of<Shift, Mask>(a.low), field_of<Shift, Mask>(a.high)};
    }
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE bytes join(const bytes& a, const bytes& b) noexcept {
        return {vsliq_n_u8(a.low, b.low, Shift), vsliq_n_u8(a.high, b.high, Shift)};
    }
    template <std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE bytes lookup(const detail::table<std::uint8_t, Size>& table,
                                                    const bytes& a) noexcept {
        return {entries<Size>(table, a.low), entries<Size>(table, a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE bytes broadcast4(const std::int8_t* from) noexcept {
        const uint8x16_t a = vreinterpretq_u8_s32(broadcast_word(from));
        return {a, a};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 pairs_start(const std::int32_t* pair, int center) noexcept {
        const std::int32_t total = static_cast<std::int16_t>(*pair) + static_cast<std::int16_t>(*pair >> 16);
        const int32x4_t a = vdupq_n_s32(-center * total);
        return {a, a};
    }
    // The start is in the columns that pairs begin with.
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        const int32x4_t both = broadcast_word(pair); // of columns 0 and 1, of columns 2 and 3
        const int16x8_t words = vreinterpretq_s16_u32(vmovl_u16(vget_low_u16(vreinterpretq_u16_s32(both))));
        const int16x8_t a = vmulq_n_s16(words, static_cast<std::int16_t>(-center));
        return {{a, a, a, a}};
    }
    // Lanes of what is summed in int16 are below 128 (detail::fits_int16_sums).
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        const int8x16_t a = vreinterpretq_s8_u8(activations.low);
        const int8x16_t low = vreinterpretq_s8_u8(codes.low);
        const int8x16_t high = vreinterpretq_s8_u8(codes.high);
        return {{vmlal_s8(s.v[0], vget_low_s8(low), vget_low_s8(a)), vmlal_high_s8(s.v[1], low, a),
                 vmlal_s8(s.v[2], vget_low_s8(high), vget_low_s8(a)), vmlal_high_s8(s.v[3], high, a)}};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept {
        return {vpaddq_s32(vpaddlq_s16(s.v[0]), vpaddlq_s16(s.v[1])),
                vpaddq_s32(vpaddlq_s16(s.v[2]), vpaddlq_s16(s.v[3]))};
    }
    // Codes less 128 are signed, and any product of signed bytes fits in int16; 128 times the activations comes on top.
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        const int8x16_t a = vreinterpretq_s8_u8(activations.low);
        const int32x4_t offset = vshlq_n_s32(vpaddlq_s16(vpaddlq_s8(a)), 7);
        const auto half = [&](int32x4_t of, uint8x16_t from) NIBBLE_INLINE_LAMBDA {
            const int8x16_t c = vreinterpretq_s8_u8(veorq_u8(from, vdupq_n_u8(0x80)));
            const int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(c), vget_low_s8(a)));
            const int32x4_t second = vpaddlq_s16(vmull_high_s8(c, a));
            return vaddq_s32(vaddq_s32(of, offset), vpaddq_s32(first, second));
        };
        return {half(total.low, codes.low), half(total.high, codes.high)};
    }
    static NIBBLE_INLINE void pin(sums& s) noexcept {
        __asm__("" : "+w"(s.v[0]), "+w"(s.v[1]), "+w"(s.v[2]), "+w"(s.v[3]));
    }
    static NIBBLE_INLINE void pin(i32& s) noexcept { __asm__("" : "+w"(s.low), "+w"(s.high)); }

    [[nodiscard]] static NIBBLE_INLINE words even_words(const bytes& a) noexcept {
        const auto half = [](uint8x16_t v) NIBBLE_INLINE_LAMBDA {
            return vreinterpretq_s16_u16(vandq_u16(vreinterpretq_u16_u8(v), vdupq_n_u16(0xff)));
        };
        return {half(a.low), half(a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE words odd_words(const bytes& a) noexcept {
        const auto half = [](uint8x16_t v) NIBBLE_INLINE_LAMBDA {
            return vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_u8(v), 8));
        };
        return {half(a.low), half(a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE words broadcast2(const void* from) noexcept {
        const int16x8_t a = vreinterpretq_s16_s32(broadcast_word(from));
        return {a, a};
    }
    [[nodiscard]] static NIBBLE_INLINE words load_words(const void* from) noexcept {
        words r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store_words(std::int16_t* to, const words& a) noexcept {
        vst1q_s16(to, a.low);
        vst1q_s16(to + 8, a.high);
    }
    [[nodiscard]] static NIBBLE_INLINE i32 multiply_pairs(const words& a, const words& b) noexcept {
        const auto half = [](int16x8_t x, int16x8_t y) NIBBLE_INLINE_LAMBDA {
            return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
        };
        return {half(a.low, b.low), half(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_pairs(const i32& total, const words& a, const words& b) noexcept {
        return add(total, multiply_pairs(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept {
        return add(total, dot_finish(s));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 as_i32(const bytes& a) noexcept {
        return {vreinterpretq_s32_u8(a.low), vreinterpretq_s32_u8(a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 zeros() noexcept { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
    [[nodiscard]] static NIBBLE_INLINE i32 add(const i32& a, const i32& b) noexcept {
        return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 subtract(const i32& a, const i32& b) noexcept {
        return {vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 load(const std::int32_t* from) noexcept {
        return {vld1q_s32(from), vld1q_s32(from + 4)};
    }
    static NIBBLE_INLINE void store(std::int32_t* to, const i32& a) noexcept {
        vst1q_s32(to, a.low);
        vst1q_s32(to + 4, a.high);
    }
    [[nodiscard]] static NIBBLE_INLINE f32 to_float(const i32& a) noexcept {
        return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)};
    }

    // ---- codes to fp32
    // --------------------------------------------------------------------------------------------------

    template <element E, int Shift = 0> [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        return {decode_four<E, Shift>(vreinterpretq_u32_s32(codes.low)),
                decode_four<E, Shift>(vreinterpretq_u32_s32(codes.high))};
    }

    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        constexpr detail::real_decode kind = detail::real_lanes_of<E>.kind;
        if constexpr (kind == detail::real_decode::plain) {
            return load(reinterpret_cast<const float*>(from));
        } else if constexpr (kind == detail::real_decode::half) {
            const float16x8_t v = vreinterpretq_f16_u16(vld1q_u16(from));
            return {vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)};
        } else if constexpr (kind == detail::real_decode::bfloat) {
            const uint16x8_t v = vld1q_u16(from);
            return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
                    vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
        } else {
            static_assert(E::bits <= 8, "neon: a 16-bit element must be fp16 or bf16");
            const uint16x8_t v = vmovl_u8(vld1_u8(from));
            return decode<E>(
                {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(v))), vreinterpretq_s32_u32(vmovl_high_u16(v))});
        }
    }

    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_exact(const typename E::code* from) noexcept {
        constexpr detail::half_lanes half = detail::half_lanes_of<E>;
        if constexpr (half.exists) {
            const uint16x8_t code = vmovl_u8(vld1_u8(from));
            const uint16x8_t x = half_patterns<E>(code);
            f32 value = {vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(x))), half.factor),
                         vmulq_n_f32(vcvt_high_f32_f16(vreinterpretq_f16_u16(x)), half.factor)};
            if constexpr (half.nan_mask != 0) {
                const uint16x8_t nan = vceqq_u16(vandq_u16(code, vdupq_n_u16(half.nan_mask)),
                                                 vdupq_n_u16(static_cast<std::uint16_t>(half.nan_value)));
                const int16x8_t mask = vreinterpretq_s16_u16(nan);
                const float32x4_t quiet = vdupq_n_f32(detail::quiet_nan);
                value.low = vbslq_f32(vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(mask))), quiet, value.low);
                value.high = vbslq_f32(vreinterpretq_u32_s32(vmovl_high_s16(mask)), quiet, value.high);
            }
            return value;
        } else if constexpr (detail::marks_nan<E>) {
            float v[8];
            for (std::size_t i = 0; i < 8; ++i) v[i] = decode_table<E>.at[from[i] & code_mask<E>];
            return load(v);
        } else {
            return decode_stored<E>(from);
        }
    }

    template <element E> static NIBBLE_INLINE void encode_stored(typename E::code* to, const f32& a) noexcept {
        constexpr detail::real_decode kind = detail::real_lanes_of<E>.kind;
        static_assert(kind == detail::real_decode::half || kind == detail::real_decode::bfloat, "neon: fp16 or bf16");
        // One NaN for all, as the codec has it: the instruction keeps sign and payload.
        const f32 x = each(a, [](float32x4_t v) NIBBLE_INLINE_LAMBDA {
            return vbslq_f32(vceqq_f32(v, v), v, vdupq_n_f32(detail::quiet_nan));
        });
        if constexpr (kind == detail::real_decode::half) {
            vst1q_u16(to, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.low), x.high)));
        } else {
            const auto top = [](float32x4_t v) NIBBLE_INLINE_LAMBDA {
                const uint32x4_t word = vreinterpretq_u32_f32(v);
                const uint32x4_t odd = vandq_u32(vshrq_n_u32(word, 16), vdupq_n_u32(1));
                return vshrn_n_u32(vaddq_u32(vaddq_u32(word, vdupq_n_u32(0x7fff)), odd), 16);
            };
            vst1q_u16(to, vcombine_u16(top(x.low), top(x.high)));
        }
    }

protected:
    [[nodiscard]] static NIBBLE_INLINE int32x4_t broadcast_word(const void* from) noexcept {
        std::int32_t word = 0;
        __builtin_memcpy(&word, from, 4);
        return vdupq_n_s32(word);
    }

private:
    template <class Function> [[nodiscard]] static NIBBLE_INLINE f32 each(const f32& a, Function f) noexcept {
        return {f(a.low), f(a.high)};
    }
    template <int Shift, int Mask> [[nodiscard]] static NIBBLE_INLINE uint8x16_t field_of(uint8x16_t a) noexcept {
        uint8x16_t moved = a;
        if constexpr (Shift != 0) moved = vshrq_n_u8(a, Shift);
        if constexpr (Mask == 0xff >> Shift)
            return moved;
        else
            return vandq_u8(moved, vdupq_n_u8(Mask));
    }

    // 64 bytes; and those at the index of each byte of `codes` less `First`, 0 (Extends: what `r` has) for others.
    [[nodiscard]] static NIBBLE_INLINE uint8x16x4_t four_registers(const void* from) noexcept {
        const auto* at = static_cast<const std::uint8_t*>(from);
        return {{vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)}};
    }
    template <std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE uint8x16_t entries(const detail::table<std::uint8_t, Size>& table,
                                                          uint8x16_t codes) noexcept {
        if constexpr (Size <= 16) {
            alignas(16) std::uint8_t row[16];
            for (std::size_t i = 0; i < 16; ++i) row[i] = table.at[i % Size];
            return vqtbl1q_u8(vld1q_u8(row), codes);
        } else if constexpr (Size == 32) {
            return vqtbl2q_u8({{vld1q_u8(table.at), vld1q_u8(table.at + 16)}}, codes);
        } else {
            uint8x16_t r = vqtbl4q_u8(four_registers(table.at), codes);
            [&]<std::size_t... Part>(std::index_sequence<Part...>) NIBBLE_INLINE_LAMBDA {
                ((r = vqtbx4q_u8(r, four_registers(table.at + 64 * (Part + 1)),
                                 vsubq_u8(codes, vdupq_n_u8(static_cast<std::uint8_t>(64 * (Part + 1)))))),
                 ...);
            }(std::make_index_sequence<Size / 64 - 1>{});
            return r;
        }
    }

    // The entries of a list of 16 fp32 values at four indices below 16.
    [[nodiscard]] static NIBBLE_INLINE float32x4_t look_up(const uint8x16x4_t& list, uint32x4_t index) noexcept {
        // To the four bytes of an entry: index x 4 + 0, 1, 2, 3.
        const uint32x4_t at = vmlaq_n_u32(vdupq_n_u32(0x03020100u), index, 0x04040404u);
        return vreinterpretq_f32_u8(vqtbl4q_u8(list, vreinterpretq_u8_u32(at)));
    }

    // Codes of up to 8 bits as fp16 patterns (detail::half_lanes).
    template <element E> [[nodiscard]] static NIBBLE_INLINE uint16x8_t half_patterns(uint16x8_t code) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        constexpr detail::half_lanes half = detail::half_lanes_of<E>;
        constexpr unsigned magnitude = ((1u << how.magnitude_bits) - 1u) << half.shift;
        uint16x8_t x = vandq_u16(vshlq_n_u16(code, half.shift), vdupq_n_u16(static_cast<std::uint16_t>(magnitude)));
        if constexpr (how.has_sign)
            x = vorrq_u16(x, vandq_u16(vshlq_n_u16(code, 15 - how.magnitude_bits), vdupq_n_u16(0x8000)));
        return x;
    }

    // Of detail::real_decode::shift.
    template <element E, int Shift>
    [[nodiscard]] static NIBBLE_INLINE float32x4_t moved_into_place(uint32x4_t v) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        // Arithmetic shift: the sign stays where fp32 has it, the copies it leaves behind are masked off.
        constexpr int top = how.magnitude_bits - (how.has_sign ? 0 : 1);
        constexpr int left = 31 - top - Shift;
        constexpr int right = 31 - top - how.shift;
        static_assert(left >= 0 && right >= 0);
        constexpr unsigned magnitude = ((1u << how.magnitude_bits) - 1u) << how.shift;
        uint32x4_t x = vshlq_n_u32(v, left);
        if constexpr (how.has_sign) {
            if constexpr (right > 0) x = vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(x), right));
            x = vandq_u32(x, vdupq_n_u32(magnitude | 0x80000000u));
        } else {
            x = vandq_u32(moved<right>(x), vdupq_n_u32(magnitude));
        }
        float32x4_t value = vmulq_n_f32(vreinterpretq_f32_u32(x), how.factor);
        if constexpr (how.infinite_from != 0) {
            const uint32x4_t m = vandq_u32(x, vdupq_n_u32(magnitude));
            const uint32x4_t special =
                vcgeq_u32(m, vdupq_n_u32(static_cast<std::uint32_t>(how.infinite_from) << how.shift));
            // Exponent of ones; the mantissa stays: zero for an infinity, not for NaN.
            value = vreinterpretq_f32_u32(
                vorrq_u32(vreinterpretq_u32_f32(value), vandq_u32(special, vdupq_n_u32(0x7f800000u))));
        }
        return value;
    }

    template <element E, int Shift> [[nodiscard]] static NIBBLE_INLINE float32x4_t decode_four(uint32x4_t v) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        constexpr detail::half_lanes half = detail::half_lanes_of<E>;
        const auto code = [&] { return vandq_u32(moved<Shift>(v), vdupq_n_u32(code_mask<E>)); };
        if constexpr (how.kind == detail::real_decode::table16) {
            constexpr std::size_t count = std::size_t{1} << E::bits;
            alignas(16) float list[16];
            for (std::size_t i = 0; i < 16; ++i) list[i] = decode_table<E>.at[i % count];
            return look_up(four_registers(list), code());
        } else if constexpr (how.kind == detail::real_decode::integer) {
            constexpr int left = 32 - E::bits - Shift;
            static_assert(left >= 0);
            int32x4_t x = vreinterpretq_s32_u32(vshlq_n_u32(v, left));
            if constexpr (how.has_sign)
                x = vshrq_n_s32(x, 32 - E::bits);
            else
                x = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), 32 - E::bits));
            if constexpr (how.offset != 0) x = vaddq_s32(x, vdupq_n_s32(how.offset));
            const float32x4_t value = vcvtq_f32_s32(x);
            return how.factor == 1.0f ? value : vmulq_n_f32(value, how.factor);
        } else if constexpr (detail::often_subnormal<E> && half.exists) {
            const uint16x4_t four = vmovn_u32(code());
            const uint16x8_t x = half_patterns<E>(vcombine_u16(four, four));
            return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(x))), half.factor);
        } else if constexpr (how.kind == detail::real_decode::shift) {
            return moved_into_place<E, Shift>(v);
        } else if constexpr (how.kind == detail::real_decode::power_of_two) {
            const uint32x4_t c = code();
            const uint32x4_t value = vmaxq_u32(vshlq_n_u32(c, 23), vdupq_n_u32(0x00400000u));
            const uint32x4_t nan = vandq_u32(vceqq_u32(c, vdupq_n_u32(255)), vdupq_n_u32(0x7fc00000u));
            return vreinterpretq_f32_u32(vorrq_u32(value, nan));
        } else {
            static_assert(how.kind == detail::real_decode::gather && E::bits <= 8, "decode: codes of at most 8 bits");
            std::uint32_t at[4];
            vst1q_u32(at, code());
            const float four[4] = {decode_table<E>.at[at[0]], decode_table<E>.at[at[1]], decode_table<E>.at[at[2]],
                                   decode_table<E>.at[at[3]]};
            return vld1q_f32(four);
        }
    }
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE uint32x4_t moved(uint32x4_t v) noexcept {
        if constexpr (Shift == 0)
            return v;
        else
            return vshrq_n_u32(v, Shift);
    }
};

static_assert(whole_isa<neon>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_NEON
