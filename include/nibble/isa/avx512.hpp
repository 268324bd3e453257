// avx512.hpp: AVX2 with what AVX-512 adds to vectors of 256 bits: 32 registers, tables of 16 and of 32 fp32 values in
// one shuffle. Compiler flags: -mavx512f -mavx512vl (with -mavx2 -mfma -mf16c)
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_AVX512VL

#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/avx2.hpp>
#include <nibble/isa/isa.hpp>

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

NIBBLE_GCC_UNDEFINED_BEGIN

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct avx512 : avx2 {
    static constexpr const char* name = "avx512";
    static constexpr isa_facts facts{.dots_in_int32 = false,
                                     .integer_tiles = {.longest = 4, .shorter = 4},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .vector_registers = 32,
                                     .prefetches_second_level = NIBBLE_TUNED_FOR_ZEN != 0};

    static NIBBLE_INLINE void store_rounded(std::int8_t* to, const f32& a) noexcept {
        const __m256i words = _mm256_cvtps_epi32(a); // to nearest even
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm256_cvtepi32_epi8(words));
    }

    template <element E, int Shift = 0> [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        constexpr detail::real_lanes how = detail::real_lanes_of<E>;
        if constexpr (how.kind == detail::real_decode::table16 && E::bits == 4)
            return f32(_mm256_permutex2var_ps(values<E, 0>(), moved_right<Shift>(codes.v), values<E, 8>()));
        else if constexpr (detail::often_subnormal<E> && how.has_sign && how.magnitude_bits == 5)
            return f32(signed_table<E, Shift>(codes.v));
        else
            return avx2::decode<E, Shift>(codes);
    }
    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        if constexpr (E::bits > 8)
            return avx2::decode_stored<E>(from);
        else
            return decode<E>(i32{_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))});
    }
    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_exact(const typename E::code* from) noexcept {
        if constexpr (detail::half_lanes_of<E>.exists || detail::marks_nan<E>)
            return avx2::decode_exact<E>(from);
        else
            return decode_stored<E>(from);
    }

private:
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE __m256i moved_right(__m256i codes) noexcept {
        return Shift == 0 ? codes : _mm256_srli_epi32(codes, Shift);
    }
    // A sign above 5 bits of magnitude: two registers of 16 magnitudes and one shuffle.
    template <element E, int Shift> [[nodiscard]] static NIBBLE_INLINE __m256 signed_table(__m256i codes) noexcept {
        alignas(64) float v[32];
        for (std::size_t i = 0; i < 32; ++i) v[i] = decode_table<E>.at[i];
        const __m512 magnitude = _mm512_permutex2var_ps(
            _mm512_load_ps(v), _mm512_castsi256_si512(moved_right<Shift>(codes)), _mm512_load_ps(v + 16));
        constexpr int left = 31 - 5 - Shift;
        const __m256i sign =
            _mm256_and_si256(_mm256_slli_epi32(codes, left), _mm256_set1_epi32(static_cast<int>(0x80000000u)));
        return _mm256_or_ps(_mm512_castps512_ps256(magnitude), _mm256_castsi256_ps(sign));
    }
};

static_assert(whole_isa<avx512>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

NIBBLE_GCC_UNDEFINED_END

#endif // NIBBLE_HAS_AVX512VL
