// by_hand.cpp: one token by 64 rows at once, and tiles of 32 rows x 8 tokens (AVX-512 with VNNI) or 16 x 4 (AVX2).
#include "by_hand.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

#if NIBBLE_HAS_AVX2
#include <immintrin.h>
#endif

namespace bench {

namespace {

constexpr std::size_t group = 128;
constexpr std::size_t group_quads = group / 4;
[[maybe_unused]] constexpr std::size_t quad_bytes = 32; // of codes of a panel of 16 rows
constexpr int center = 8;                               // codes are 0 to 15, values -8 to 7

#if NIBBLE_HAS_AVX512
constexpr std::size_t tile_tokens = 8;
constexpr std::size_t phase_quads = group_quads; // sums in int32: one start per group
#else
constexpr std::size_t tile_tokens = 4;
constexpr std::size_t phase_quads = 16; // so many centred products of four fit in sums of two int16
#endif
constexpr std::size_t phases = group_quads / phase_quads; // per group

#if NIBBLE_HAS_AVX2
constexpr std::size_t ahead = 1536; // bytes of codes

// What of a panel of 16 rows the loops read.
struct panel_view {
    const std::uint8_t* codes;
    const std::uint16_t* scales; // [group][16]
    const float* factors;        // [16]
};
panel_view panel_of(const nibble::packed<nibble::int4_g128>& w, std::size_t p) {
    const std::byte* panel = w.panel(p);
    return {reinterpret_cast<const std::uint8_t*>(panel + w.sections().codes),
            reinterpret_cast<const std::uint16_t*>(panel + w.sections().scales),
            reinterpret_cast<const float*>(panel + w.sections().factors)};
}
inline std::int32_t word_at(const std::int8_t* from) {
    std::int32_t word = 0;
    std::memcpy(&word, from, 4);
    return word;
}
inline void ask(const void* at) {
    _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
}
// GCC 12 copies what VNNI adds to into another register each time, unless it is told to keep it.
template <class Register> NIBBLE_INLINE void keep(Register& sum) {
    __asm__("" : "+v"(sum));
}
#endif

#if NIBBLE_HAS_AVX512

NIBBLE_GCC_UNDEFINED_BEGIN

inline __m512i lanes_of(const std::uint8_t* codes, __m512i shifts, __m512i mask) {
    const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    return _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), mask);
}
inline __m512 scales_of(const std::uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

void one_token(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w, float* y) {
    const std::size_t groups = x.cols / group;
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512 scale = _mm512_set1_ps(x.scales[0]);
    for (std::size_t first = 0; first < w.panels(); first += 4) {
        const panel_view p0 = panel_of(w, first), p1 = panel_of(w, first + 1), p2 = panel_of(w, first + 2),
                         p3 = panel_of(w, first + 3);
        const std::uint8_t *c0 = p0.codes, *c1 = p1.codes, *c2 = p2.codes, *c3 = p3.codes;
        const std::int8_t* values = x.values.data();
        __m512 y0 = _mm512_setzero_ps(), y1 = y0, y2 = y0, y3 = y0;
        for (std::size_t g = 0; g < groups; ++g) {
            __m512i s0 = _mm512_set1_epi32(x.starts[g]), s1 = s0, s2 = s0, s3 = s0;
#pragma GCC unroll 2
            for (std::size_t q = 0; q < group_quads; q += 2) {
                ask(c0 + ahead);
                ask(c1 + ahead);
                ask(c2 + ahead);
                ask(c3 + ahead);
#pragma GCC unroll 2
                for (std::size_t i = 0; i < 2; ++i) {
                    const __m512i a = _mm512_set1_epi32(word_at(values + 4 * i));
                    s0 = _mm512_dpbusd_epi32(s0, lanes_of(c0 + quad_bytes * i, shifts, mask), a);
                    s1 = _mm512_dpbusd_epi32(s1, lanes_of(c1 + quad_bytes * i, shifts, mask), a);
                    s2 = _mm512_dpbusd_epi32(s2, lanes_of(c2 + quad_bytes * i, shifts, mask), a);
                    s3 = _mm512_dpbusd_epi32(s3, lanes_of(c3 + quad_bytes * i, shifts, mask), a);
                    keep(s0);
                    keep(s1);
                    keep(s2);
                    keep(s3);
                }
                c0 += 2 * quad_bytes;
                c1 += 2 * quad_bytes;
                c2 += 2 * quad_bytes;
                c3 += 2 * quad_bytes;
                values += 8;
            }
            y0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s0), scales_of(p0.scales + 16 * g), y0);
            y1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s1), scales_of(p1.scales + 16 * g), y1);
            y2 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s2), scales_of(p2.scales + 16 * g), y2);
            y3 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s3), scales_of(p3.scales + 16 * g), y3);
        }
        float* to = y + 16 * first;
        _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_mul_ps(y0, _mm512_loadu_ps(p0.factors)), scale));
        _mm512_storeu_ps(to + 16, _mm512_mul_ps(_mm512_mul_ps(y1, _mm512_loadu_ps(p1.factors)), scale));
        _mm512_storeu_ps(to + 32, _mm512_mul_ps(_mm512_mul_ps(y2, _mm512_loadu_ps(p2.factors)), scale));
        _mm512_storeu_ps(to + 48, _mm512_mul_ps(_mm512_mul_ps(y3, _mm512_loadu_ps(p3.factors)), scale));
    }
}

// Of arrays of sums that asm touches GCC keeps none in registers: names for all 16 of them.
#define EACH_TOKEN(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)
#define START(t) __m512i a##t = _mm512_set1_epi32(starts[g * tile_tokens + t]), b##t = a##t;
#define MORE(t)                                                                                                        \
    {                                                                                                                  \
        const __m512i x = _mm512_set1_epi32(word_at(values + 4 * t));                                                  \
        a##t = _mm512_dpbusd_epi32(a##t, w0, x);                                                                       \
        b##t = _mm512_dpbusd_epi32(b##t, w1, x);                                                                       \
        keep(a##t);                                                                                                    \
        keep(b##t);                                                                                                    \
    }
#define FINISH(t)                                                                                                      \
    _mm512_storeu_ps(sums0 + 16 * t, _mm512_fmadd_ps(_mm512_cvtepi32_ps(a##t), f0, _mm512_loadu_ps(sums0 + 16 * t)));  \
    _mm512_storeu_ps(sums1 + 16 * t, _mm512_fmadd_ps(_mm512_cvtepi32_ps(b##t), f1, _mm512_loadu_ps(sums1 + 16 * t)));

// Two panels' lanes or, where a tile is all there is, codes, against 8 tokens.
template <bool Codes>
void tile(const std::uint8_t* first, const std::uint8_t* second, const std::int8_t* values,
          const std::int8_t* next_values, const std::int32_t* starts, const float* scales, std::size_t groups,
          float* sums0, float* sums1) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i mask = _mm512_set1_epi8(15);
    for (std::size_t g = 0; g < groups; ++g) {
        EACH_TOKEN(START)
#pragma GCC unroll 2
        for (std::size_t q = 0; q < group_quads; ++q) {
            const __m512i w0 = Codes ? lanes_of(first, shifts, mask) : _mm512_loadu_si512(first);
            const __m512i w1 = Codes ? lanes_of(second, shifts, mask) : _mm512_loadu_si512(second);
            if constexpr (Codes) {
                ask(first + ahead);
                ask(second + ahead);
            } else {
                ask(next_values);
                next_values += 4 * tile_tokens;
            }
            EACH_TOKEN(MORE)
            first += Codes ? quad_bytes : 64;
            second += Codes ? quad_bytes : 64;
            values += 4 * tile_tokens;
        }
        const __m512 f0 = _mm512_loadu_ps(scales + 16 * g), f1 = _mm512_loadu_ps(scales + 16 * (groups + g));
        EACH_TOKEN(FINISH)
    }
}

#undef EACH_TOKEN
#undef START
#undef MORE
#undef FINISH

void many_tokens(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w,
                 nibble::matrix_view<float> y) {
    constexpr std::size_t most_groups = 4; // lanes of two panels in 16 KiB
    const std::size_t groups = x.cols / group;
    const std::size_t token_bytes = x.cols * tile_tokens;
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i mask = _mm512_set1_epi8(15);
    alignas(64) std::uint8_t lanes[2 * most_groups * group_quads * 64];
    alignas(64) float scales[2 * most_groups * 16];
    nibble::buffer memory(2 * x.tokens * 16 * sizeof(float));
    float* sums = memory.as<float>();
    for (std::size_t first = 0; first < w.panels(); first += 2) {
        std::fill_n(sums, 2 * x.tokens * 16, 0.0f);
        for (std::size_t g = 0; g < groups; g += most_groups) {
            const std::size_t n = std::min(most_groups, groups - g);
            const std::size_t quads = n * group_quads;
            for (std::size_t p = 0; p < 2; ++p) {
                const panel_view panel = panel_of(w, first + p);
                const std::uint8_t* codes = panel.codes + g * group_quads * quad_bytes;
                for (std::size_t q = 0; q < quads && x.tokens > tile_tokens; ++q) {
                    if (q % 2 == 0) ask(codes + q * quad_bytes + ahead);
                    _mm512_store_si512(lanes + 64 * (p * quads + q), lanes_of(codes + q * quad_bytes, shifts, mask));
                }
                for (std::size_t i = 0; i < n; ++i)
                    _mm512_store_ps(scales + 16 * (p * n + i), scales_of(panel.scales + 16 * (g + i)));
            }
            for (std::size_t t = 0; t < x.tokens; t += tile_tokens) {
                const std::size_t block = t / tile_tokens;
                const std::int8_t* values = x.values.data() + block * token_bytes + g * group * tile_tokens;
                // Of the next tokens, or of the first ones in the next columns.
                const std::int8_t* next = t + tile_tokens < x.tokens
                                              ? values + token_bytes
                                              : x.values.data() + (g + n) % groups * group * tile_tokens;
                const std::int32_t* starts = x.starts.data() + (block * groups + g) * tile_tokens;
                const std::size_t at = g * group_quads * quad_bytes;
                if (x.tokens == tile_tokens)
                    tile<true>(panel_of(w, first).codes + at, panel_of(w, first + 1).codes + at, values, next, starts,
                               scales, n, sums, sums + 16 * tile_tokens);
                else
                    tile<false>(lanes, lanes + 64 * quads, values, next, starts, scales, n, sums + 16 * t,
                                sums + 16 * (x.tokens + t));
            }
        }
        for (std::size_t p = 0; p < 2; ++p) {
            const __m512 factors = _mm512_loadu_ps(panel_of(w, first + p).factors);
            for (std::size_t t = 0; t < x.tokens; ++t)
                _mm512_storeu_ps(y.row(t) + 16 * (first + p),
                                 _mm512_mul_ps(_mm512_mul_ps(_mm512_load_ps(sums + 16 * (p * x.tokens + t)), factors),
                                               _mm512_set1_ps(x.scales[t])));
        }
    }
}

NIBBLE_GCC_UNDEFINED_END

#elif NIBBLE_HAS_AVX2

inline __m256i low_lanes(__m256i codes) {
    return _mm256_and_si256(codes, _mm256_set1_epi8(15));
}
inline __m256i high_lanes(__m256i codes) {
    return _mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15));
}
inline __m256i codes_at(const std::uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline __m256i more(__m256i sum, __m256i lanes, __m256i a) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(lanes, a));
}
inline __m256i widened(__m256i sum) {
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}
inline __m256 scales_of(const std::uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

void one_token(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w, float* y) {
    const std::size_t groups = x.cols / group;
    const __m256 scale = _mm256_set1_ps(x.scales[0]);
    for (std::size_t first = 0; first < w.panels(); first += 4) {
        const panel_view p[4] = {panel_of(w, first), panel_of(w, first + 1), panel_of(w, first + 2),
                                 panel_of(w, first + 3)};
        const std::uint8_t *c0 = p[0].codes, *c1 = p[1].codes, *c2 = p[2].codes, *c3 = p[3].codes;
        const std::int8_t* values = x.values.data();
        alignas(32) float sums[4][16] = {};
        for (std::size_t g = 0; g < groups; ++g) {
            __m256i total[4][2] = {};
            for (std::size_t phase = 0; phase < phases; ++phase) {
                const __m256i start = _mm256_set1_epi32(x.starts[g * phases + phase]);
                __m256i l0 = start, h0 = start, l1 = start, h1 = start, l2 = start, h2 = start, l3 = start, h3 = start;
#pragma GCC unroll 2
                for (std::size_t q = 0; q < phase_quads; ++q) {
                    const __m256i a = _mm256_set1_epi32(word_at(values));
                    if (q % 2 == 0) {
                        ask(c0 + ahead);
                        ask(c1 + ahead);
                        ask(c2 + ahead);
                        ask(c3 + ahead);
                    }
                    __m256i codes = codes_at(c0);
                    l0 = more(l0, low_lanes(codes), a);
                    h0 = more(h0, high_lanes(codes), a);
                    codes = codes_at(c1);
                    l1 = more(l1, low_lanes(codes), a);
                    h1 = more(h1, high_lanes(codes), a);
                    codes = codes_at(c2);
                    l2 = more(l2, low_lanes(codes), a);
                    h2 = more(h2, high_lanes(codes), a);
                    codes = codes_at(c3);
                    l3 = more(l3, low_lanes(codes), a);
                    h3 = more(h3, high_lanes(codes), a);
                    c0 += quad_bytes;
                    c1 += quad_bytes;
                    c2 += quad_bytes;
                    c3 += quad_bytes;
                    values += 4;
                }
                const __m256i all[4][2] = {{l0, h0}, {l1, h1}, {l2, h2}, {l3, h3}};
#pragma GCC unroll 4
                for (std::size_t i = 0; i < 4; ++i)
#pragma GCC unroll 2
                    for (std::size_t half = 0; half < 2; ++half)
                        total[i][half] = _mm256_add_epi32(total[i][half], widened(all[i][half]));
            }
#pragma GCC unroll 4
            for (std::size_t i = 0; i < 4; ++i)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < 2; ++half) {
                    float* to = sums[i] + 8 * half;
                    _mm256_store_ps(to,
                                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[i][half]),
                                                    scales_of(p[i].scales + 16 * g + 8 * half), _mm256_load_ps(to)));
                }
        }
        for (std::size_t i = 0; i < 8; ++i)
            _mm256_storeu_ps(y + 16 * first + 8 * i,
                             _mm256_mul_ps(_mm256_mul_ps(_mm256_load_ps(sums[i / 2] + i % 2 * 8),
                                                         _mm256_loadu_ps(p[i / 2].factors + i % 2 * 8)),
                                           scale));
    }
}

// One panel of codes against 4 tokens.
void tile(const std::uint8_t* codes, const std::int8_t* values, const std::int32_t* starts, const std::uint16_t* scales,
          std::size_t groups, float* sums) {
    for (std::size_t g = 0; g < groups; ++g) {
        __m256i total[tile_tokens][2] = {};
#pragma GCC unroll 2
        for (std::size_t phase = 0; phase < phases; ++phase) {
            __m256i s[tile_tokens][2];
#pragma GCC unroll 4
            for (std::size_t t = 0; t < tile_tokens; ++t)
                s[t][0] = s[t][1] = _mm256_set1_epi32(starts[(g * phases + phase) * tile_tokens + t]);
#pragma GCC unroll 2
            for (std::size_t q = 0; q < phase_quads; ++q) {
                if (q % 2 == 0) ask(codes + 2048);
                const __m256i both = codes_at(codes);
                const __m256i low = low_lanes(both), high = high_lanes(both);
#pragma GCC unroll 4
                for (std::size_t t = 0; t < tile_tokens; ++t) {
                    const __m256i a = _mm256_set1_epi32(word_at(values + 4 * t));
                    s[t][0] = more(s[t][0], low, a);
                    s[t][1] = more(s[t][1], high, a);
                }
                codes += quad_bytes;
                values += 4 * tile_tokens;
            }
#pragma GCC unroll 4
            for (std::size_t t = 0; t < tile_tokens; ++t)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < 2; ++half)
                    total[t][half] = _mm256_add_epi32(total[t][half], widened(s[t][half]));
        }
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
            const __m256 scale = scales_of(scales + 16 * g + 8 * half);
#pragma GCC unroll 4
            for (std::size_t t = 0; t < tile_tokens; ++t) {
                float* to = sums + 16 * t + 8 * half;
                _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t][half]), scale, _mm256_load_ps(to)));
            }
        }
    }
}

void many_tokens(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w,
                 nibble::matrix_view<float> y) {
    constexpr std::size_t most_groups = 8; // codes of two panels in 16 KiB
    const std::size_t groups = x.cols / group;
    nibble::buffer memory(2 * x.tokens * 16 * sizeof(float));
    float* sums = memory.as<float>();
    for (std::size_t first = 0; first < w.panels(); first += 2) {
        std::fill_n(sums, 2 * x.tokens * 16, 0.0f);
        for (std::size_t g = 0; g < groups; g += most_groups)
            for (std::size_t t = 0; t < x.tokens; t += tile_tokens)
                for (std::size_t p = 0; p < 2; ++p) {
                    const panel_view panel = panel_of(w, first + p);
                    const std::size_t block = t / tile_tokens;
                    tile(panel.codes + g * group_quads * quad_bytes,
                         x.values.data() + (block * x.cols + g * group) * tile_tokens,
                         x.starts.data() + (block * groups + g) * phases * tile_tokens, panel.scales + 16 * g,
                         std::min(most_groups, groups - g), sums + 16 * (p * x.tokens + t));
                }
        for (std::size_t p = 0; p < 2; ++p)
            for (std::size_t t = 0; t < x.tokens; ++t)
                for (std::size_t half = 0; half < 16; half += 8)
                    _mm256_storeu_ps(
                        y.row(t) + 16 * (first + p) + half,
                        _mm256_mul_ps(_mm256_mul_ps(_mm256_load_ps(sums + 16 * (p * x.tokens + t) + half),
                                                    _mm256_loadu_ps(panel_of(w, first + p).factors + half)),
                                      _mm256_set1_ps(x.scales[t])));
    }
}

#endif

} // namespace

const char* by_hand_isa() noexcept {
    return NIBBLE_HAS_AVX512 ? "avx512_vnni" : NIBBLE_HAS_AVX2 ? "avx2" : "";
}
std::size_t by_hand_tokens() noexcept {
    return tile_tokens;
}

by_hand_activations by_hand_activations::of(nibble::matrix_view<const float> x) {
    by_hand_activations a;
    a.tokens = x.rows();
    a.cols = x.cols();
    a.block = a.tokens == 1 ? 1 : tile_tokens;
    NIBBLE_CHECK(a.tokens % a.block == 0 && a.cols % group == 0,
                 "by hand: one token or whole tiles, and whole groups of 128 columns");
    const std::size_t quads = a.cols / 4;
    a.values.resize(a.tokens * a.cols);
    a.starts.assign(a.tokens * quads / phase_quads, 0);
    a.scales.resize(a.tokens);
    for (std::size_t t = 0; t < a.tokens; ++t) {
        float largest = 0.0f;
        for (std::size_t k = 0; k < a.cols; ++k) largest = std::max(largest, std::abs(x(t, k)));
        a.scales[t] = largest / 127.0f;
        const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
        const std::size_t at = t / a.block * a.block; // the first token of its block
        for (std::size_t phase = 0; phase < quads / phase_quads; ++phase) {
            int pairs[2] = {0, 0}; // columns 0 and 1 of every quad, columns 2 and 3
            for (std::size_t q = phase * phase_quads; q < (phase + 1) * phase_quads; ++q)
                for (std::size_t i = 0; i < 4; ++i) {
                    const int value = static_cast<int>(std::nearbyint(x(t, 4 * q + i) * inverse));
                    a.values[at * a.cols + (q * a.block + t - at) * 4 + i] = static_cast<std::int8_t>(value);
                    pairs[i / 2] += value;
                }
            std::int32_t& start = a.starts[at * (quads / phase_quads) + phase * a.block + t - at];
            if constexpr (phases == 1) {
                start = -center * (pairs[0] + pairs[1]);
            } else {
                const std::int16_t both[2] = {static_cast<std::int16_t>(-center * pairs[0]),
                                              static_cast<std::int16_t>(-center * pairs[1])};
                std::memcpy(&start, both, sizeof both);
            }
        }
    }
    return a;
}

void multiply_by_hand(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w,
                      nibble::matrix_view<float> y) {
    NIBBLE_CHECK(w.rows() % 64 == 0 && w.cols() == x.cols && y.rows() == x.tokens && y.cols() == w.rows(),
                 "by hand: whole tiles of 64 rows, and shapes that fit");
#if NIBBLE_HAS_AVX2
    if (x.tokens == 1)
        one_token(x, w, y.row(0));
    else
        many_tokens(x, w, y);
#else
    NIBBLE_CHECK(false, "by hand: the compiler flags have neither AVX-512 with VNNI nor AVX2");
#endif
}

} // namespace bench
