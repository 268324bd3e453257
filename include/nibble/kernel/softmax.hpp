// kernel/softmax.hpp: the online softmax of attention: a block of scores to weights, what came before rescaled, and the exact
// merge of two parts.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/tensor/layout.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// Tokens whose scores are worked on at once, at positions that are multiples of it whatever a page's size: results depend on
// neither. Blocks are joined in order within a span, and spans in order, so that spans may be worked on by several threads.
inline constexpr std::size_t attention_block = 256;
inline constexpr std::size_t attention_span = 512;
inline constexpr std::size_t attention_panels = attention_block / panel_layout::rows;

// ln x for x > 0 within 1e-7 relative to max(1, |ln x|): no library, the same bits everywhere.
[[nodiscard]] inline float natural_log(float x) noexcept {
    if (!(x > 0.0f) || !detail::is_finite(x)) return x == 0.0f ? -detail::infinity : x < 0.0f ? detail::quiet_nan : x;
    const std::uint64_t word = std::bit_cast<std::uint64_t>(static_cast<double>(x));
    int exponent = static_cast<int>(word >> 52) - 1023;
    double m = std::bit_cast<double>((word & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    // 2 artanh((m - 1) / (m + 1)), |argument| below 0.172.
    const double t = (m - 1.0) / (m + 1.0);
    const double s = t * t;
    double p = 1.0 / 13.0;
    for (int i = 11; i >= 1; i -= 2) p = __builtin_fma(p, s, 1.0 / static_cast<double>(i));
    return static_cast<float>(__builtin_fma(static_cast<double>(exponent), 0.6931471805599453, (2.0 * t) * p));
}

// Lanes that hold as many of a panel's 16 tokens as the machine takes at once: 8 or 16. What is added up over tokens is the
// same to the bit either way: lane i and lane i + 8 first.
template <isa Isa>
using token_lanes = lanes<detail::tile_isa_of<Isa>>;
template <isa Isa>
inline constexpr std::size_t lane_halves = panel_layout::rows / token_lanes<Isa>::width;

// The sum of all lanes of a panel's vectors, in one order; the largest.
template <class L, std::size_t Halves>
[[nodiscard]] NIBBLE_INLINE float sum_of(const L (&x)[Halves]) noexcept {
    float v[16];
    for (std::size_t h = 0; h < Halves; ++h) x[h].store(v + h * L::width, L::width);
    for (std::size_t i = 0; i < 8; ++i) v[i] += v[i + 8];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
template <class L, std::size_t Halves>
[[nodiscard]] NIBBLE_INLINE float largest_of(const L (&x)[Halves]) noexcept {
    float v[16];
    for (std::size_t h = 0; h < Halves; ++h) x[h].store(v + h * L::width, L::width);
    for (std::size_t step = 8; step != 0; step /= 2)
        for (std::size_t i = 0; i < step; ++i) v[i] = v[i] > v[i + step] ? v[i] : v[i + step];
    return v[0];
}
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE float exp_of(float x) noexcept {
    float v[8];
    exp(lanes<Isa>(x)).store(v, 8);
    return v[0];
}

// What attention has of a row so far: the largest score, the sum of e^(score - largest), and that of the values, each times its
// weight, in `sums` elsewhere.
struct softmax_state {
    float largest = -detail::infinity;
    float sum = 0.0f;
};

// The factors of two parts of a row that are joined under their common largest score.
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE softmax_state joined(const softmax_state& a, const softmax_state& b, float& of_a, float& of_b) noexcept {
    const float top = a.largest > b.largest ? a.largest : b.largest;
    of_a = a.largest == top ? 1.0f : exp_of<Isa>(a.largest - top);
    of_b = b.largest == top ? 1.0f : exp_of<Isa>(b.largest - top);
    const float of_b_sum = detail::rounded_by_itself(b.sum * of_b);
    return {top, __builtin_fmaf(a.sum, of_a, of_b_sum)};
}

// Memory that will be read soon, asked for a few lines at a time while the processor computes something else.
struct asked_memory {
    const std::byte* at = nullptr;
    const std::byte* end = nullptr;
    std::size_t step = 0; // bytes at once, lines of 64
    template <isa Isa>
    NIBBLE_INLINE void ask() noexcept {
        if (at >= end) return;
        for (std::size_t i = 0; i < step; i += 64) Isa::prefetch(at + i);
        at += step;
    }
};

// Scores [panel][rows][16] of `panels` panels of one row to e^(score - largest so far), in place; `rescale` is what the row's
// earlier sums are to be multiplied by. A score of -infinity has no weight; one of NaN or +infinity makes the sum NaN.
template <isa Isa>
NIBBLE_INLINE void weigh(float* scores, std::size_t rows, std::size_t row, std::size_t panels, softmax_state& state,
                         float& rescale, asked_memory& soon) noexcept {
    using L = token_lanes<Isa>;
    constexpr std::size_t halves = lane_halves<Isa>;
    float* const first = scores + row * panel_layout::rows;
    const std::size_t stride = rows * panel_layout::rows;
    L top[halves];
    for (L& t : top) t = L(-detail::infinity);
    for (std::size_t p = 0; p < panels; ++p) // larger(x, top): top where x is NaN
        for (std::size_t h = 0; h < halves; ++h) top[h] = larger(L::load(first + p * stride + h * L::width, L::width), top[h]);
    const float block = largest_of(top);
    const float now = block > state.largest ? block : state.largest;
    rescale = now == state.largest ? 1.0f : exp_of<Isa>(state.largest - now);
    if (now == -detail::infinity) { // nothing yet: all scores are -infinity or NaN
        for (std::size_t i = 0; i < panels * panel_layout::rows; ++i) {
            float& score = first[i / panel_layout::rows * stride + i % panel_layout::rows];
            if (detail::is_nan(score)) state.sum = detail::quiet_nan;
            score = 0.0f;
        }
        return;
    }
    const L shift(now);
    L sums[halves];
    for (L& s : sums) s = L(0.0f);
    for (std::size_t p = 0; p < panels; ++p) {
        float* at = first + p * stride;
        soon.ask<Isa>();
        for (std::size_t h = 0; h < halves; ++h) {
            const L weight = exp_of_negative(L::load(at + h * L::width, L::width) - shift);
            weight.store(at + h * L::width, L::width);
            sums[h] = sums[h] + weight;
        }
    }
    state.largest = now;
    state.sum = __builtin_fmaf(state.sum, rescale, sum_of(sums));
}

} // namespace nibble::inline NIBBLE_ABI::kernel
