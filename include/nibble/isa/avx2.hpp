// avx2.hpp: the primitives in AVX2, FMA3 and F16C.
// Compiler flags: -mavx2 -mfma -mf16c
//
// instruction           what for                       per cycle, Zen 3 (measured, kernel-techniques section 0)
// vpmaddubsw            4 products to 2 int16          2 (with vpmaddwd)
// vpaddw                int16 sums                     4
// vpmaddwd              int16 pairs to int32           2 (with vpmaddubsw)
// vpbroadcastd m32      activations to every row       2, load ports only
// vpshufb, shifts       unpack                         2, the other two pipes
// vfmadd*ps, vcvtdq2ps  group sums into fp32           2
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_AVX2

#include <nibble/core/bits.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/x86_tuning.hpp>

#include <cstddef>
#include <cstdint>
#include <immintrin.h>
#include <utility>
#include <xsimd/xsimd.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// xsimd's AVX2 and FMA under a name of this namespace, which then is in the names of all of its functions: units for
// different instruction sets share none of them.
struct avx2_of_xsimd : xsimd::fma3<xsimd::avx2> {};

} // namespace nibble::inline NIBBLE_ABI::detail

namespace xsimd::types {

template <class T> struct simd_register<T, nibble::detail::avx2_of_xsimd> {
    using register_type = typename simd_register<T, avx2>::register_type;
    register_type data;
    simd_register() = default;
    simd_register(register_type from) noexcept : data(from) {}
    operator register_type() const noexcept { return data; }
};
template <class T> struct has_simd_register<T, nibble::detail::avx2_of_xsimd> : has_simd_register<T, avx2> {};

} // namespace xsimd::types

namespace nibble::inline NIBBLE_ABI {

struct avx2 : generic {
    static constexpr const char* name = "avx2";
    static constexpr isa_facts facts{.dots_in_int32 = false,
                                     .integer_tiles = {.longest = 4, .shorter = 4},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .vector_registers = 16,
                                     .prefetches_second_level = NIBBLE_TUNED_FOR_ZEN != 0};
    [[nodiscard]] static NIBBLE_INLINE isa_tuning tuning() noexcept { return detail::x86_tuning(); }

    // fp32 lanes are xsimd's; the integer dots that it does not have are intrinsics.
    using f32 = xsimd::batch<float, detail::avx2_of_xsimd>;
    struct i32 {
        __m256i v;
    };
    struct bytes {
        __m256i v;
    };
    struct words {
        __m256i v;
    };
    struct sums {
        __m256i v; // 16 int16, two per row
    };

    // ---- fp32 lanes
    // ---------------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE f32 load(const float* from) noexcept { return f32(_mm256_loadu_ps(from)); }
    [[nodiscard]] static NIBBLE_INLINE f32 load_some(const float* from, std::size_t count) noexcept {
        return f32(_mm256_maskload_ps(from, mask(count)));
    }
    static NIBBLE_INLINE void store(float* to, const f32& a) noexcept { _mm256_storeu_ps(to, a); }
    static NIBBLE_INLINE void store_some(float* to, const f32& a, std::size_t count) noexcept {
        _mm256_maskstore_ps(to, mask(count), a);
    }
    static NIBBLE_INLINE void store_wide(double* to, const f32& a) noexcept {
        _mm256_storeu_pd(to, _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
        _mm256_storeu_pd(to + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 broadcast(float a) noexcept { return f32(_mm256_set1_ps(a)); }
    [[nodiscard]] static NIBBLE_INLINE f32 add(const f32& a, const f32& b) noexcept { return a + b; }
    [[nodiscard]] static NIBBLE_INLINE f32 subtract(const f32& a, const f32& b) noexcept { return a - b; }
    [[nodiscard]] static NIBBLE_INLINE f32 multiply(const f32& a, const f32& b) noexcept { return a * b; }
    [[nodiscard]] static NIBBLE_INLINE f32 divide(const f32& a, const f32& b) noexcept { return a / b; }
    [[nodiscard]] static NIBBLE_INLINE f32 fma(const f32& a, const f32& b, const f32& c) noexcept {
        return f32(_mm256_fmadd_ps(a, b, c));
    }
    // The instructions, not xsimd's min and max: their treatment of NaN is what generic defines, in every version.
    [[nodiscard]] static NIBBLE_INLINE f32 smaller(const f32& a, const f32& b) noexcept {
        return f32(_mm256_min_ps(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 larger(const f32& a, const f32& b) noexcept {
        return f32(_mm256_max_ps(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 select_less(const f32& a, const f32& b, const f32& x,
                                                       const f32& y) noexcept {
        return f32(_mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 absolute(const f32& a) noexcept {
        return f32(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_even(const f32& a) noexcept { return f32(_mm256_moveldup_ps(a)); }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_odd(const f32& a) noexcept { return f32(_mm256_movehdup_ps(a)); }
    [[nodiscard]] static NIBBLE_INLINE f32 copy_sign(const f32& a, const f32& b) noexcept {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return f32(_mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b)));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 round(const f32& a) noexcept {
        return f32(_mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static NIBBLE_INLINE void store_rounded(std::int8_t* to, const f32& a) noexcept {
        const __m256i words = _mm256_cvtps_epi32(a); // to nearest even
        const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(half, half));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 exp2i(const f32& n) noexcept {
        return f32(_mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23)));
    }

    [[nodiscard]] static NIBBLE_INLINE f32 power_below(const f32& a) noexcept {
        return f32(_mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000))));
    }
    // Four comparisons, each with the threshold that halves what is left; of 4 and of 8 those come from a shuffle.
    [[nodiscard]] static NIBBLE_INLINE f32 value_between(const detail::table<float, 16>& values,
                                                         const detail::table<float, 16>& thresholds,
                                                         const f32& a) noexcept {
        const float* t = thresholds.at;
        const float* v = values.at;
        const auto beyond = [&](const __m256& limit) NIBBLE_INLINE_LAMBDA {
            return _mm256_castps_si256(_mm256_cmp_ps(limit, a, _CMP_LT_OQ));
        };
        const __m256i eight = beyond(_mm256_set1_ps(t[7]));
        const __m256i four =
            beyond(_mm256_blendv_ps(_mm256_set1_ps(t[3]), _mm256_set1_ps(t[11]), _mm256_castsi256_ps(eight)));
        // Masks are -1: what is subtracted counts.
        const __m256i quarter = _mm256_sub_epi32(_mm256_and_si256(eight, _mm256_set1_epi32(2)), four);
        const __m256i two =
            beyond(_mm256_permutevar8x32_ps(_mm256_setr_ps(t[1], t[5], t[9], t[13], t[1], t[5], t[9], t[13]), quarter));
        const __m256i pair = _mm256_sub_epi32(_mm256_add_epi32(quarter, quarter), two);
        const __m256i one =
            beyond(_mm256_permutevar8x32_ps(_mm256_setr_ps(t[0], t[2], t[4], t[6], t[8], t[10], t[12], t[14]), pair));
        return f32(_mm256_blendv_ps(
            _mm256_permutevar8x32_ps(_mm256_setr_ps(v[0], v[2], v[4], v[6], v[8], v[10], v[12], v[14]), pair),
            _mm256_permutevar8x32_ps(_mm256_setr_ps(v[1], v[3], v[5], v[7], v[9], v[11], v[13], v[15]), pair),
            _mm256_castsi256_ps(one)));
    }

    static NIBBLE_INLINE void keep(f32& a) noexcept {
        __m256 v = a;
        __asm__("" : "+x"(v));
        a = f32(v);
    }

    // ---- integer products
    // -----------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE bytes load_bytes(const std::uint8_t* from) noexcept {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
    }
    static NIBBLE_INLINE void store_bytes(std::uint8_t* to, const bytes& a) noexcept {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.v);
    }
    [[nodiscard]] static NIBBLE_INLINE bytes low_nibbles(const bytes& a) noexcept { return field<0, 15>(a); }
    [[nodiscard]] static NIBBLE_INLINE bytes high_nibbles(const bytes& a) noexcept { return field<4, 15>(a); }
    template <int Shift, int Mask> [[nodiscard]] static NIBBLE_INLINE bytes field(const bytes& a) noexcept {
        const __m256i moved = Shift == 0 ? a.v : _mm256_srli_epi16(a.v, Shift);
        return {_mm256_and_si256(moved, _mm256_set1_epi8(Mask))};
    }
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE bytes join(const bytes& a, const bytes& b) noexcept {
        return {_mm256_or_si256(a.v, _mm256_slli_epi16(b.v, Shift))};
    }
    template <std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE bytes lookup(const detail::table<std::uint8_t, Size>& table,
                                                    const bytes& a) noexcept {
        // A 16-entry shuffle for each row of the table: of the first row, and of what changes from row to row, which is
        // added where the code is in that row or a later one. Where it is not, the index is negative, for which the
        // shuffle gives 0. Choosing between rows instead takes a blend each, of three operations on Intel's cores.
        const auto half = [&]<std::size_t First>(const __m256i& code) NIBBLE_INLINE_LAMBDA {
            __m256i r = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row<First>(table)), code);
            [&]<std::size_t... Row>(std::index_sequence<Row...>) NIBBLE_INLINE_LAMBDA {
                ((r = _mm256_xor_si256(
                      r,
                      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(change<First + Row + 1>(table)),
                                          _mm256_sub_epi8(code, _mm256_set1_epi8(static_cast<char>(16 * (Row + 1))))))),
                 ...);
            }(std::make_index_sequence<(detail::min_of<std::size_t>(Size, 128) + 15) / 16 - 1>{});
            return r;
        };
        if constexpr (Size <= 128) {
            return {half.template operator()<0>(a.v)};
        } else {
            const __m256i upper = _mm256_xor_si256(a.v, _mm256_set1_epi8(static_cast<char>(0x80)));
            return {_mm256_blendv_epi8(half.template operator()<0>(a.v), half.template operator()<8>(upper), a.v)};
        }
    }
    [[nodiscard]] static NIBBLE_INLINE bytes broadcast4(const std::int8_t* from) noexcept {
        return {broadcast_dword(from)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 pairs_start(const std::int32_t* pair, int center) noexcept {
        return {_mm256_madd_epi16(broadcast_dword(pair), _mm256_set1_epi16(static_cast<short>(-center)))};
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        return {_mm256_mullo_epi16(broadcast_dword(pair), _mm256_set1_epi16(static_cast<short>(-center)))};
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        return {_mm256_add_epi16(s.v, _mm256_maddubs_epi16(codes.v, activations.v))};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept {
        return {_mm256_madd_epi16(s.v, _mm256_set1_epi16(1))};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        return add_finished(total, {_mm256_maddubs_epi16(codes.v, activations.v)});
    }
    // Without it GCC 12 re-associates the sums of several quads into one serial chain and spills an accumulator.
    static NIBBLE_INLINE void pin(sums& s) noexcept { __asm__("" : "+v"(s.v)); }

    // Two shifts, not a mask: tiles of four tokens have no register for one. Clang would make a mask of them again.
    [[nodiscard]] static NIBBLE_INLINE words even_words(const bytes& a) noexcept {
        __m256i high = _mm256_slli_epi16(a.v, 8);
        __asm__("" : "+x"(high));
        return {_mm256_srli_epi16(high, 8)};
    }
    [[nodiscard]] static NIBBLE_INLINE words odd_words(const bytes& a) noexcept { return {_mm256_srli_epi16(a.v, 8)}; }
    [[nodiscard]] static NIBBLE_INLINE words broadcast2(const void* from) noexcept { return {broadcast_dword(from)}; }
    [[nodiscard]] static NIBBLE_INLINE words load_words(const void* from) noexcept {
        return {_mm256_loadu_si256(static_cast<const __m256i*>(from))};
    }
    static NIBBLE_INLINE void store_words(std::int16_t* to, const words& a) noexcept {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.v);
    }
    [[nodiscard]] static NIBBLE_INLINE i32 multiply_pairs(const words& a, const words& b) noexcept {
        return {_mm256_madd_epi16(a.v, b.v)};
    }
    // sums + multiply_pairs(a, b), and sums + dot_finish(s).
    [[nodiscard]] static NIBBLE_INLINE i32 add_pairs(const i32& total, const words& a, const words& b) noexcept {
        return add(total, multiply_pairs(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept {
        return add(total, dot_finish(s));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 as_i32(const bytes& a) noexcept { return {a.v}; }
    [[nodiscard]] static NIBBLE_INLINE i32 zeros() noexcept { return {_mm256_setzero_si256()}; }
    [[nodiscard]] static NIBBLE_INLINE i32 add(const i32& a, const i32& b) noexcept {
        return {_mm256_add_epi32(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 subtract(const i32& a, const i32& b) noexcept {
        return {_mm256_sub_epi32(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 load(const std::int32_t* from) noexcept {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
    }
    static NIBBLE_INLINE void store(std::int32_t* to, const i32& a) noexcept {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.v);
    }
    [[nodiscard]] static NIBBLE_INLINE f32 to_float(const i32& a) noexcept { return f32(_mm256_cvtepi32_ps(a.v)); }
    static NIBBLE_INLINE void pin(i32& s) noexcept { __asm__("" : "+v"(s.v)); }

    // ---- codes to fp32
    // --------------------------------------------------------------------------------------------------

    template <element E, int Shift = 0> [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        if constexpr (how.kind == detail::real_decode::table16) {
            const __m256i index = Shift == 0 ? codes.v : _mm256_srli_epi32(codes.v, Shift);
            if constexpr (E::bits <= 3)
                return f32(_mm256_permutevar8x32_ps(values<E, 0>(), index));
            else
                return f32(two_tables(values<E, 0>(), index, values<E, 8>()));
        } else if constexpr (how.kind == detail::real_decode::integer) {
            constexpr int left = 32 - E::bits - Shift;
            static_assert(left >= 0);
            __m256i x = left == 0 ? codes.v : _mm256_slli_epi32(codes.v, left);
            if constexpr (how.has_sign)
                x = _mm256_srai_epi32(x, 32 - E::bits);
            else
                x = _mm256_srli_epi32(x, 32 - E::bits);
            if constexpr (how.offset != 0) x = _mm256_add_epi32(x, _mm256_set1_epi32(how.offset));
            const __m256 value = _mm256_cvtepi32_ps(x);
            return how.factor == 1.0f ? f32(value) : f32(_mm256_mul_ps(value, _mm256_set1_ps(how.factor)));
        } else if constexpr (detail::often_subnormal<E> && detail::half_lanes_of<E>.exists) {
            // By way of fp16, sixteen bits to a lane and those packed.
            constexpr detail::half_lanes half = detail::half_lanes_of<E>;
            constexpr int magnitude = ((1 << how.magnitude_bits) - 1) << half.shift;
            constexpr int top = how.magnitude_bits - (how.has_sign ? 0 : 1);
            constexpr int left = 31 - top - Shift;
            __m256i x = left == 0 ? codes.v : _mm256_slli_epi32(codes.v, left);
            if constexpr (how.has_sign)
                x = _mm256_and_si256(_mm256_srai_epi32(x, 31 - top - half.shift),
                                     _mm256_set1_epi32(magnitude | 0x8000));
            else
                x = _mm256_and_si256(_mm256_srli_epi32(x, 31 - top - half.shift), _mm256_set1_epi32(magnitude));
            x = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
            return f32(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_set1_ps(half.factor)));
        } else if constexpr (how.kind == detail::real_decode::shift) {
            // Arithmetic shift: the sign stays where fp32 has it, the copies it leaves behind are masked off.
            constexpr int top = how.magnitude_bits - (how.has_sign ? 0 : 1);
            constexpr int left = 31 - top - Shift;
            constexpr int right = 31 - top - how.shift;
            static_assert(left >= 0 && right >= 0);
            constexpr unsigned magnitude = ((1u << how.magnitude_bits) - 1u) << how.shift;
            __m256i x = left == 0 ? codes.v : _mm256_slli_epi32(codes.v, left);
            if constexpr (how.has_sign)
                x = _mm256_and_si256(_mm256_srai_epi32(x, right),
                                     _mm256_set1_epi32(static_cast<int>(magnitude | 0x80000000u)));
            else
                x = _mm256_and_si256(_mm256_srli_epi32(x, right), _mm256_set1_epi32(static_cast<int>(magnitude)));
            __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(x), _mm256_set1_ps(how.factor));
            if constexpr (how.infinite_from != 0) {
                const __m256i m = _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(magnitude)));
                const __m256i special = _mm256_cmpgt_epi32(m, _mm256_set1_epi32((how.infinite_from << how.shift) - 1));
                // Exponent of ones; the mantissa stays: zero for an infinity, not for NaN.
                value =
                    _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_and_si256(special, _mm256_set1_epi32(0x7f800000))));
            }
            return f32(value);
        } else if constexpr (how.kind == detail::real_decode::power_of_two) {
            const __m256i code =
                _mm256_and_si256(Shift == 0 ? codes.v : _mm256_srli_epi32(codes.v, Shift), _mm256_set1_epi32(255));
            const __m256i value = _mm256_max_epi32(_mm256_slli_epi32(code, 23), _mm256_set1_epi32(0x00400000));
            const __m256i nan =
                _mm256_and_si256(_mm256_cmpeq_epi32(code, _mm256_set1_epi32(255)), _mm256_set1_epi32(0x7fc00000));
            return f32(_mm256_castsi256_ps(_mm256_or_si256(value, nan)));
        } else {
            static_assert(how.kind == detail::real_decode::gather && E::bits <= 8, "decode: codes of at most 8 bits");
            const __m256i index = _mm256_and_si256(Shift == 0 ? codes.v : _mm256_srli_epi32(codes.v, Shift),
                                                   _mm256_set1_epi32(static_cast<int>(code_mask<E>)));
            return f32(_mm256_i32gather_ps(decode_table<E>.at, index, 4));
        }
    }

    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        constexpr detail::real_decode kind = detail::real_lanes_of<E>.kind;
        if constexpr (kind == detail::real_decode::plain) {
            return f32(_mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
        } else if constexpr (kind == detail::real_decode::half) {
            return f32(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
        } else if constexpr (kind == detail::real_decode::bfloat) {
            const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
            return f32(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
        } else {
            static_assert(E::bits <= 8, "avx2: a 16-bit element must be fp16 or bf16");
            return decode<E>(i32{_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))});
        }
    }

    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_exact(const typename E::code* from) noexcept {
        constexpr detail::half_lanes half = detail::half_lanes_of<E>;
        if constexpr (half.exists) {
            constexpr detail::real_lanes how = detail::real_lanes_of<E>;
            const __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
            constexpr int magnitude = ((1 << how.magnitude_bits) - 1) << half.shift;
            __m128i x;
            if constexpr (how.has_sign) {
                // The sign to bit 15, then back by an arithmetic shift; its copies are masked off.
                constexpr int left = 15 - how.magnitude_bits;
                x = _mm_srai_epi16(_mm_slli_epi16(code, left), left - half.shift);
                x = _mm_and_si128(x, _mm_set1_epi16(static_cast<short>(magnitude | 0x8000)));
            } else {
                x = _mm_and_si128(_mm_slli_epi16(code, half.shift), _mm_set1_epi16(static_cast<short>(magnitude)));
            }
            __m256 value = _mm256_mul_ps(_mm256_cvtph_ps(x), _mm256_set1_ps(half.factor));
            if constexpr (half.nan_mask != 0) {
                const __m128i nan =
                    _mm_cmpeq_epi16(_mm_and_si128(code, _mm_set1_epi16(half.nan_mask)), _mm_set1_epi16(half.nan_value));
                value = _mm256_blendv_ps(value, _mm256_set1_ps(detail::quiet_nan),
                                         _mm256_castsi256_ps(_mm256_cvtepi16_epi32(nan)));
            }
            return f32(value);
        } else if constexpr (detail::marks_nan<E>) {
            const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
            constexpr int used = static_cast<int>(code_mask<E>);
            return f32(_mm256_i32gather_ps(decode_table<E>.at,
                                           used == 255 ? index : _mm256_and_si256(index, _mm256_set1_epi32(used)), 4));
        } else {
            return decode_stored<E>(from);
        }
    }

    template <element E> static NIBBLE_INLINE void encode_stored(typename E::code* to, const f32& a) noexcept {
        constexpr detail::real_decode kind = detail::real_lanes_of<E>.kind;
        static_assert(kind == detail::real_decode::half || kind == detail::real_decode::bfloat, "avx2: fp16 or bf16");
        // One NaN for all, as the codec has it: the instruction keeps sign and payload.
        const __m256 x = _mm256_blendv_ps(a, _mm256_set1_ps(detail::quiet_nan), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        auto* out = reinterpret_cast<__m128i*>(to);
        if constexpr (kind == detail::real_decode::half) {
            _mm_storeu_si128(out, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        } else {
            const __m256i word = _mm256_castps_si256(x);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
            const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7fff)), odd);
            const __m256i top = _mm256_srli_epi32(rounded, 16);
            _mm_storeu_si128(out, _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1)));
        }
    }

    static NIBBLE_INLINE void prefetch(const void* at) noexcept {
        _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
    }
    static NIBBLE_INLINE void prefetch_second_level(const void* at) noexcept {
        _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1);
    }

protected:
    // 16 entries of a table of bytes, and what changes from the 16 before them.
    template <std::size_t Row, std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE __m128i row(const detail::table<std::uint8_t, Size>& table) noexcept {
        alignas(16) std::uint8_t entries[16];
        for (std::size_t i = 0; i < 16; ++i) entries[i] = table.at[(16 * Row + i) % Size];
        return _mm_load_si128(reinterpret_cast<const __m128i*>(entries));
    }
    template <std::size_t Row, std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE __m128i change(const detail::table<std::uint8_t, Size>& table) noexcept {
        alignas(16) std::uint8_t entries[16];
        for (std::size_t i = 0; i < 16; ++i)
            entries[i] = static_cast<std::uint8_t>(table.at[16 * Row + i] ^ table.at[16 * Row - 16 + i]);
        return _mm_load_si128(reinterpret_cast<const __m128i*>(entries));
    }

    // Entry (index & 15) of low, high.
    [[nodiscard]] static NIBBLE_INLINE __m256 two_tables(__m256 low, __m256i index, __m256 high) noexcept {
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                                _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    }
    [[nodiscard]] static NIBBLE_INLINE __m256i mask(std::size_t count) noexcept {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    [[nodiscard]] static NIBBLE_INLINE __m256i broadcast_dword(const void* from) noexcept {
        std::int32_t word = 0;
        __builtin_memcpy(&word, from, 4);
        return _mm256_set1_epi32(word);
    }
    template <element E, std::size_t First> [[nodiscard]] static NIBBLE_INLINE __m256 values() noexcept {
        constexpr std::size_t size = std::size_t{1} << E::bits;
        alignas(32) float v[8];
        for (std::size_t i = 0; i < 8; ++i) v[i] = decode_table<E>.at[(First + i) % size];
        return _mm256_load_ps(v);
    }
};

static_assert(whole_isa<avx2>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_AVX2
