// avx512_vnni.hpp: AVX-512 with byte products summed in int32, and the tiles of panels in 512 bits: 16 rows in one
// register. Compiler flags: -mavx512f -mavx512bw -mavx512vl -mavx512vnni (with -mavx2 -mfma -mf16c)
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_AVX512

#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/avx512.hpp>
#include <nibble/isa/int32_dots.hpp>
#include <nibble/isa/isa.hpp>

#include <cstddef>
#include <cstdint>
#include <immintrin.h>
#include <utility>

NIBBLE_GCC_UNDEFINED_BEGIN

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

struct avx512_vnni_quads : avx512 {
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        return {_mm256_dpbusd_epi32(total.v, codes.v, activations.v)};
    }
};

// A whole panel's rows in one register: for lanes that lie unpacked in cache, where they are side by side, and for
// codes that tiles unpack in registers.
struct avx512_vnni_panel : private avx512 {
    static constexpr const char* name = "avx512_vnni";
    static constexpr std::size_t width = 16;
    static constexpr isa_facts facts{.dots_in_int32 = true,
                                     .integer_tiles = {.longest = 8, .shorter = 4},
                                     .float_tiles = {.longest = 12, .shorter = 6},
                                     .vector_registers = 32,
                                     .prefetches_second_level = NIBBLE_TUNED_FOR_ZEN != 0};
    using avx512::prefetch;
    using avx512::prefetch_second_level;
    using avx512::tuning;

    struct f32 {
        __m512 v;
    };
    struct i32 {
        __m512i v;
    };
    struct bytes {
        __m512i v;
    };
    struct words {
        __m512i v;
    };
    using sums = i32;

    [[nodiscard]] static NIBBLE_INLINE f32 load(const float* from) noexcept { return {_mm512_loadu_ps(from)}; }
    static NIBBLE_INLINE void store(float* to, const f32& a) noexcept { _mm512_storeu_ps(to, a.v); }
    static NIBBLE_INLINE void store_wide(double* to, const f32& a) noexcept {
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
        _mm256_storeu_pd(to, _mm256_cvtps_pd(_mm512_castps512_ps128(a.v)));
        _mm256_storeu_pd(to + 4, _mm256_cvtps_pd(_mm512_extractf32x4_ps(a.v, 1)));
        _mm256_storeu_pd(to + 8, _mm256_cvtps_pd(_mm256_castps256_ps128(high)));
        _mm256_storeu_pd(to + 12, _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1)));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 broadcast(float a) noexcept { return {_mm512_set1_ps(a)}; }
    [[nodiscard]] static NIBBLE_INLINE f32 multiply(const f32& a, const f32& b) noexcept {
        return {_mm512_mul_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 fma(const f32& a, const f32& b, const f32& c) noexcept {
        return {_mm512_fmadd_ps(a.v, b.v, c.v)};
    }
    // As many floats as there are, zeros above.
    [[nodiscard]] static NIBBLE_INLINE f32 load_some(const float* from, std::size_t count) noexcept {
        return {_mm512_maskz_loadu_ps(first(count), from)};
    }
    static NIBBLE_INLINE void store_some(float* to, const f32& a, std::size_t count) noexcept {
        _mm512_mask_storeu_ps(to, first(count), a.v);
    }
    [[nodiscard]] static NIBBLE_INLINE f32 add(const f32& a, const f32& b) noexcept {
        return {_mm512_add_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 subtract(const f32& a, const f32& b) noexcept {
        return {_mm512_sub_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 divide(const f32& a, const f32& b) noexcept {
        return {_mm512_div_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 smaller(const f32& a, const f32& b) noexcept {
        return {_mm512_min_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 larger(const f32& a, const f32& b) noexcept {
        return {_mm512_max_ps(a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 select_less(const f32& a, const f32& b, const f32& x,
                                                       const f32& y) noexcept {
        return {_mm512_mask_mov_ps(y.v, _mm512_cmplt_ps_mask(a.v, b.v), x.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 absolute(const f32& a) noexcept { return {_mm512_abs_ps(a.v)}; }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_even(const f32& a) noexcept {
        return f32(_mm512_moveldup_ps(a.v));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_odd(const f32& a) noexcept { return f32(_mm512_movehdup_ps(a.v)); }
    [[nodiscard]] static NIBBLE_INLINE f32 copy_sign(const f32& a, const f32& b) noexcept {
        const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
        return {_mm512_castsi512_ps(
            _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b.v), _mm512_castps_si512(a.v), 0xca))};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 round(const f32& a) noexcept {
        return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 exp2i(const f32& n) noexcept {
        return {_mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvttps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
    }
    static NIBBLE_INLINE void store_rounded(std::int8_t* to, const f32& a) noexcept {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
    }
    [[nodiscard]] static NIBBLE_INLINE f32 power_below(const f32& a) noexcept {
        return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7f800000)))};
    }
    // Four comparisons, each with the threshold that halves what is left, which a shuffle finds.
    [[nodiscard]] static NIBBLE_INLINE f32 value_between(const detail::table<float, 16>& values,
                                                         const detail::table<float, 16>& thresholds,
                                                         const f32& a) noexcept {
        const float* t = thresholds.at;
        const auto count = [&](const __m512i& at, const __m512& limit, int step) NIBBLE_INLINE_LAMBDA {
            return _mm512_mask_add_epi32(at, _mm512_cmp_ps_mask(limit, a.v, _CMP_LT_OQ), at, _mm512_set1_epi32(step));
        };
        const __m512 all = _mm512_setr_ps(t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11],
                                          t[12], t[13], t[14], t[14]);
        const __m512 next = _mm512_setr_ps(t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11], t[12],
                                           t[13], t[14], t[14], t[14]);
        const __m512 fourth = _mm512_setr_ps(t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11], t[12], t[13],
                                             t[14], t[14], t[14], t[14], t[14]);
        __m512i at = count(_mm512_setzero_si512(), _mm512_set1_ps(t[7]), 8);
        at = count(at, _mm512_permutexvar_ps(at, fourth), 4);
        at = count(at, _mm512_permutexvar_ps(at, next), 2);
        at = count(at, _mm512_permutexvar_ps(at, all), 1);
        return {_mm512_permutexvar_ps(at, _mm512_loadu_ps(values.at))};
    }
    static NIBBLE_INLINE void keep(f32& a) noexcept { __asm__("" : "+v"(a.v)); }
    [[nodiscard]] static NIBBLE_INLINE i32 load(const std::int32_t* from) noexcept {
        return {_mm512_loadu_si512(from)};
    }
    static NIBBLE_INLINE void store(std::int32_t* to, const i32& a) noexcept { _mm512_storeu_si512(to, a.v); }
    [[nodiscard]] static NIBBLE_INLINE f32 to_float(const i32& a) noexcept { return {_mm512_cvtepi32_ps(a.v)}; }
    [[nodiscard]] static NIBBLE_INLINE i32 zeros() noexcept { return {_mm512_setzero_si512()}; }
    [[nodiscard]] static NIBBLE_INLINE i32 add(const i32& a, const i32& b) noexcept {
        return {_mm512_add_epi32(a.v, b.v)};
    }

    [[nodiscard]] static NIBBLE_INLINE bytes load_bytes(const std::uint8_t* from) noexcept {
        return {_mm512_loadu_si512(from)};
    }
    // Of 32 bytes b: (b >> Low) & Mask for the lower 8 rows, (b >> High) & Mask for the upper 8.
    template <int Low, int High, int Mask>
    [[nodiscard]] static NIBBLE_INLINE bytes fields(const std::uint8_t* from) noexcept {
        const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        const __m512i shifts = _mm512_inserti64x4(_mm512_set1_epi16(Low), _mm256_set1_epi16(High), 1);
        return {_mm512_and_si512(_mm512_srlv_epi16(twice, shifts), _mm512_set1_epi8(Mask))};
    }
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE bytes join(const bytes& a, const bytes& b) noexcept {
        return {_mm512_or_si512(a.v, _mm512_slli_epi16(b.v, Shift))};
    }
    template <std::size_t Size>
        requires(Size <= 64)
    [[nodiscard]] static NIBBLE_INLINE bytes lookup(const detail::table<std::uint8_t, Size>& table,
                                                    const bytes& a) noexcept {
        // As in avx2: the first row, and what changes from row to row.
        __m512i r = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(row<0>(table)), a.v);
        [&]<std::size_t... Row>(std::index_sequence<Row...>) NIBBLE_INLINE_LAMBDA {
            ((r = _mm512_xor_si512(
                  r, _mm512_shuffle_epi8(_mm512_broadcast_i32x4(change<Row + 1>(table)),
                                         _mm512_sub_epi8(a.v, _mm512_set1_epi8(static_cast<char>(16 * (Row + 1))))))),
             ...);
        }(std::make_index_sequence<(Size + 15) / 16 - 1>{});
        return {r};
    }
    [[nodiscard]] static NIBBLE_INLINE bytes broadcast4(const std::int8_t* from) noexcept {
        return {broadcast_dword(from)};
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        return {_mm512_madd_epi16(broadcast_dword(pair), _mm512_set1_epi16(static_cast<short>(-center)))};
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        return {_mm512_dpbusd_epi32(s.v, codes.v, activations.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept { return s; }
    [[nodiscard]] static NIBBLE_INLINE words broadcast2(const void* from) noexcept { return {broadcast_dword(from)}; }
    [[nodiscard]] static NIBBLE_INLINE words load_words(const void* from) noexcept {
        return {_mm512_loadu_si512(from)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_pairs(const i32& total, const words& a, const words& b) noexcept {
        return {_mm512_dpwssd_epi32(total.v, a.v, b.v)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept {
        return add(total, s);
    }
    static NIBBLE_INLINE void pin(i32& s) noexcept { __asm__("" : "+v"(s.v)); }

    // ---- codes to fp32
    // --------------------------------------------------------------------------------------------------

    // Which elements are decoded here; all others are avx2's.
    template <element E> static constexpr bool decodes = detail::decodes_alike<E>;

    [[nodiscard]] static NIBBLE_INLINE i32 as_i32(const bytes& a) noexcept { return {a.v}; }

    template <element E, int Shift = 0>
        requires(decodes<E> && E::bits <= 8)
    [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        if constexpr (how.kind == detail::real_decode::table16) {
            return {_mm512_permutexvar_ps(moved_right<Shift>(codes.v), values<E, 0>())};
        } else {
            constexpr int top = how.magnitude_bits - (how.has_sign ? 0 : 1);
            constexpr int left = 31 - top - Shift;
            static_assert(left >= 0);
            const __m512i high = left == 0 ? codes.v : _mm512_slli_epi32(codes.v, left);
            if constexpr (detail::often_subnormal<E> && how.has_sign && how.magnitude_bits == 5) {
                const __m512 magnitude =
                    _mm512_permutex2var_ps(values<E, 0>(), moved_right<Shift>(codes.v), values<E, 16>());
                const __m512i sign = _mm512_and_si512(high, _mm512_set1_epi32(static_cast<int>(0x80000000u)));
                return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign))};
            } else if constexpr (detail::often_subnormal<E> && detail::half_lanes_of<E>.exists) {
                constexpr detail::half_lanes half = detail::half_lanes_of<E>;
                constexpr int magnitude = ((1 << how.magnitude_bits) - 1) << half.shift;
                constexpr unsigned right = static_cast<unsigned>(31 - top - half.shift);
                const __m512i x =
                    how.has_sign
                        ? _mm512_and_si512(_mm512_srai_epi32(high, right), _mm512_set1_epi32(magnitude | 0x8000))
                        : _mm512_and_si512(_mm512_srli_epi32(high, right), _mm512_set1_epi32(magnitude));
                return {_mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)), _mm512_set1_ps(half.factor))};
            } else {
                constexpr unsigned magnitude = ((1u << how.magnitude_bits) - 1u) << how.shift;
                constexpr unsigned right = static_cast<unsigned>(31 - top - how.shift);
                const __m512i x = how.has_sign
                                      ? _mm512_and_si512(_mm512_srai_epi32(high, right),
                                                         _mm512_set1_epi32(static_cast<int>(magnitude | 0x80000000u)))
                                      : _mm512_and_si512(_mm512_srli_epi32(high, right),
                                                         _mm512_set1_epi32(static_cast<int>(magnitude)));
                return {_mm512_mul_ps(_mm512_castsi512_ps(x), _mm512_set1_ps(how.factor))};
            }
        }
    }
    template <element E>
        requires(decodes<E> && E::bits > 8)
    [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        constexpr detail::real_decode kind = detail::real_lanes_of<E>.kind;
        if constexpr (kind == detail::real_decode::plain) {
            return {_mm512_castsi512_ps(_mm512_loadu_si512(from))};
        } else {
            const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
            if constexpr (kind == detail::real_decode::half)
                return {_mm512_cvtph_ps(words)};
            else
                return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16))};
        }
    }
    // Of codes that scales and minimums are of.
    template <element E>
        requires(E::bits <= 8 && (decodes<E> || detail::real_lanes_of<E>.kind == detail::real_decode::power_of_two ||
                                  detail::real_lanes_of<E>.kind == detail::real_decode::integer))
    [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        if constexpr (how.kind == detail::real_decode::integer && !how.has_sign) {
            __m512i x = _mm512_cvtepu8_epi32(_mm_and_si128(stored, _mm_set1_epi8(static_cast<char>(code_mask<E>))));
            if constexpr (how.offset != 0) x = _mm512_add_epi32(x, _mm512_set1_epi32(how.offset));
            return scaled<E>(_mm512_cvtepi32_ps(x));
        } else if constexpr (how.kind == detail::real_decode::integer) {
            __m512i x = _mm512_srai_epi32(_mm512_slli_epi32(_mm512_cvtepu8_epi32(stored), 32 - E::bits), 32 - E::bits);
            if constexpr (how.offset != 0) x = _mm512_add_epi32(x, _mm512_set1_epi32(how.offset));
            return scaled<E>(_mm512_cvtepi32_ps(x));
        } else if constexpr (how.kind == detail::real_decode::power_of_two) {
            // As in avx2: code 0 is subnormal, 255 NaN.
            const __m512i codes = _mm512_cvtepu8_epi32(stored);
            const __m512i value = _mm512_max_epi32(_mm512_slli_epi32(codes, 23), _mm512_set1_epi32(0x00400000));
            const __mmask16 nan = _mm512_cmpeq_epi32_mask(codes, _mm512_set1_epi32(255));
            return {_mm512_castsi512_ps(_mm512_mask_mov_epi32(value, nan, _mm512_set1_epi32(0x7fc00000)))};
        } else {
            return decode<E>(i32{_mm512_cvtepu8_epi32(stored)});
        }
    }

private:
    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 scaled(__m512 x) noexcept {
        constexpr float factor = detail::real_lanes_of<E>.factor;
        return factor == 1.0f ? f32{x} : f32{_mm512_mul_ps(x, _mm512_set1_ps(factor))};
    }
    [[nodiscard]] static NIBBLE_INLINE __mmask16 first(std::size_t count) noexcept {
        return static_cast<__mmask16>((1u << count) - 1);
    }
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE __m512i moved_right(__m512i codes) noexcept {
        return Shift == 0 ? codes : _mm512_srli_epi32(codes, Shift);
    }
    template <element E, std::size_t First> [[nodiscard]] static NIBBLE_INLINE __m512 values() noexcept {
        constexpr std::size_t size = std::size_t{1} << E::bits;
        alignas(64) float v[16];
        for (std::size_t i = 0; i < 16; ++i) v[i] = decode_table<E>.at[(First + i) % size];
        return _mm512_load_ps(v);
    }
    [[nodiscard]] static NIBBLE_INLINE __m512i broadcast_dword(const void* from) noexcept {
        std::int32_t word = 0;
        __builtin_memcpy(&word, from, 4);
        return _mm512_set1_epi32(word);
    }
};

static_assert(isa<avx512_vnni_panel>);

} // namespace detail

struct avx512_vnni : int32_dots<detail::avx512_vnni_quads> {
    static constexpr const char* name = "avx512_vnni";
    static constexpr isa_facts facts = detail::avx512_vnni_panel::facts;
    using panel_isa = detail::avx512_vnni_panel;
};

static_assert(whole_isa<avx512_vnni>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

NIBBLE_GCC_UNDEFINED_END

#endif // NIBBLE_HAS_AVX512
