// peaks.cpp: the loops; each is a handful of instructions, so that nothing but their throughput counts.
#include "peaks.hpp"

#include <array>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bench {
namespace {

// Twelve independent chains: fma has a latency of four cycles and a throughput of two per cycle on current cores.
// Every loop over them is unrolled, so that each has a register of its own from beginning to end.
constexpr int chains = 12;

template <int Lanes> constexpr double float_operations = 2.0 * chains * Lanes;
// Of bytes (or, halved, of words) in registers of so many bits.
template <int Bits> constexpr double byte_operations = 2.0 * chains * Bits / 8;

#if defined(__AVX512F__)
float fma_512(std::size_t steps) {
    __m512 sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
    const __m512 a = _mm512_set1_ps(0.999f);
    const __m512 b = _mm512_set1_ps(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], a, b);
    }
    __m512 total = sum[0];
#pragma GCC unroll 12
    for (int c = 1; c < chains; ++c) total = _mm512_add_ps(total, sum[c]);
    return _mm512_cvtss_f32(total);
}
#endif

#if defined(__AVX2__) && defined(__FMA__)
float fma_256(std::size_t steps) {
    __m256 sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_ps(static_cast<float>(c));
    const __m256 a = _mm256_set1_ps(0.999f);
    const __m256 b = _mm256_set1_ps(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], a, b);
    }
    __m256 total = sum[0];
#pragma GCC unroll 12
    for (int c = 1; c < chains; ++c) total = _mm256_add_ps(total, sum[c]);
    return _mm256_cvtss_f32(total);
}
#elif defined(__ARM_NEON)
float fma_128(std::size_t steps) {
    float32x4_t sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = vdupq_n_f32(static_cast<float>(c));
    const float32x4_t a = vdupq_n_f32(0.999f);
    const float32x4_t b = vdupq_n_f32(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = vfmaq_f32(b, sum[c], a);
    }
    float32x4_t total = sum[0];
#pragma GCC unroll 12
    for (int c = 1; c < chains; ++c) total = vaddq_f32(total, sum[c]);
    return vgetq_lane_f32(total, 0);
}
#else
// Without fma a multiply and an add count as the two operations that they are.
float multiply_add_128(std::size_t steps) {
    constexpr int lanes = 4;
    float sum[chains][lanes];
    for (int c = 0; c < chains; ++c)
        for (int l = 0; l < lanes; ++l) sum[c][l] = static_cast<float>(c);
    for (std::size_t i = 0; i < steps; ++i)
        for (int c = 0; c < chains; ++c)
            for (int l = 0; l < lanes; ++l) sum[c][l] = sum[c][l] * 0.999f + 0.001f;
    float total = 0;
    for (int c = 0; c < chains; ++c) total += sum[c][0];
    return total;
}
#endif

#if defined(__AVX2__)
// What the compiler must take for a new value, so that no product is computed once for all steps; costs no instruction.
template <class Register> [[gnu::always_inline]] inline void renew(Register& value) {
    __asm__ volatile("" : "+x"(value));
}

template <class Step> [[gnu::always_inline]] inline float integer_chains_256(std::size_t steps, Step step) {
    __m256i sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_epi32(c);
    __m256i a = _mm256_set1_epi8(3);
    __m256i b = _mm256_set1_epi8(-5);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) {
            renew(a);
            sum[c] = step(sum[c], a, b);
        }
        renew(b);
    }
    __m256i total = sum[0];
#pragma GCC unroll 12
    for (int c = 1; c < chains; ++c) total = _mm256_add_epi32(total, sum[c]);
    return static_cast<float>(_mm256_extract_epi32(total, 0));
}
float bytes_int16_256(std::size_t steps) {
    return integer_chains_256(
        steps, [](__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)); });
}
float bytes_int32_256(std::size_t steps) {
    return integer_chains_256(steps, [](__m256i sum, __m256i a, __m256i b) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
    });
}
float words_int32_256(std::size_t steps) {
    return integer_chains_256(
        steps, [](__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); });
}
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
float dot_int32_256(std::size_t steps) {
    return integer_chains_256(steps, [](__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_epi32(sum, a, b); });
}
#elif defined(__AVXVNNI__)
float dot_int32_256(std::size_t steps) {
    return integer_chains_256(steps,
                              [](__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sum, a, b); });
}
#endif
#endif

#if defined(__AVX512BW__)
template <class Step> [[gnu::always_inline]] inline float integer_chains_512(std::size_t steps, Step step) {
    __m512i sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_epi32(c);
    __m512i a = _mm512_set1_epi8(3);
    __m512i b = _mm512_set1_epi8(-5);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) {
            __asm__ volatile("" : "+v"(a));
            sum[c] = step(sum[c], a, b);
        }
        __asm__ volatile("" : "+v"(b));
    }
    __m512i total = sum[0];
#pragma GCC unroll 12
    for (int c = 1; c < chains; ++c) total = _mm512_add_epi32(total, sum[c]);
    return static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)));
}
float bytes_int16_512(std::size_t steps) {
    return integer_chains_512(
        steps, [](__m512i sum, __m512i a, __m512i b) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, b)); });
}
float bytes_int32_512(std::size_t steps) {
    return integer_chains_512(steps, [](__m512i sum, __m512i a, __m512i b) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
    });
}
float words_int32_512(std::size_t steps) {
    return integer_chains_512(
        steps, [](__m512i sum, __m512i a, __m512i b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); });
}
#if defined(__AVX512VNNI__)
float dot_int32_512(std::size_t steps) {
    return integer_chains_512(steps, [](__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); });
}
#endif
#endif

constexpr auto fma_list = std::to_array<instruction_peak>({
#if defined(__AVX2__) && defined(__FMA__)
    {"fma_256", 256, float_operations<8>, fma_256},
#elif defined(__ARM_NEON)
    {"fma_128", 128, float_operations<4>, fma_128},
#else
    {"multiply_add_128", 128, float_operations<4>, multiply_add_128},
#endif
#if defined(__AVX512F__)
        {"fma_512", 512, float_operations<16>, fma_512},
#endif
});

#if defined(__AVX2__)
constexpr auto integer_list = std::to_array<instruction_peak>({
    {"bytes_int16_256", 256, byte_operations<256>, bytes_int16_256},
        {"bytes_int32_256", 256, byte_operations<256>, bytes_int32_256},
        {"words_int32_256", 256, byte_operations<256> / 2, words_int32_256},
#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
        {"dot_int32_256", 256, byte_operations<256>, dot_int32_256},
#endif
#if defined(__AVX512BW__)
        {"bytes_int16_512", 512, byte_operations<512>, bytes_int16_512},
        {"bytes_int32_512", 512, byte_operations<512>, bytes_int32_512},
        {"words_int32_512", 512, byte_operations<512> / 2, words_int32_512},
#if defined(__AVX512VNNI__)
        {"dot_int32_512", 512, byte_operations<512>, dot_int32_512},
#endif
#endif
});
#else
constexpr std::array<instruction_peak, 0> integer_list{};
#endif

} // namespace

std::span<const instruction_peak> fma_peaks() noexcept {
    return fma_list;
}

std::span<const instruction_peak> integer_peaks() noexcept {
    return integer_list;
}

} // namespace bench
