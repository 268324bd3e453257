// kernel/softmax.hpp: the online softmax of attention: a block of scores to probabilities (before they are divided by
// their sum), what came before rescaled, and the exact merge of two parts.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Tokens whose scores are worked on at once, at positions that are multiples of it whatever a page's size: results
// depend on neither. Blocks are joined in order within a span, and spans in order, so that spans may be worked on by
// several threads.
inline constexpr std::size_t attention_block = 256;
inline constexpr std::size_t kv_split = 512;
inline constexpr std::size_t attention_panels = attention_block / panel_layout::rows;

// ln x for x > 0 within 1e-7 relative to max(1, |ln x|): no library, the same bits everywhere.
[[nodiscard]] inline float natural_log(float x) noexcept {
    if (!(x > 0.0f) || !detail::is_finite(x)) return x == 0.0f ? -detail::infinity : x < 0.0f ? detail::quiet_nan : x;
    const std::uint64_t word = detail::bit_cast<std::uint64_t>(static_cast<double>(x));
    int exponent = static_cast<int>(word >> 52) - 1023;
    double m = detail::bit_cast<double>((word & 0x000fffffffffffffu) | 0x3ff0000000000000u);
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

// Lanes that hold as many of a panel's 16 tokens as the machine takes at once: 8 or 16. What is added up over tokens is
// the same to the bit either way: lane i and lane i + 8 first.
template <isa Isa> using token_lanes = lanes<detail::panel_isa_of<Isa>>;
template <isa Isa> inline constexpr std::size_t lane_halves = panel_layout::rows / token_lanes<Isa>::width;

// The sum of all lanes of a panel's vectors, in one order.
template <class L, std::size_t Halves> [[nodiscard]] NIBBLE_INLINE float sum_of(const L (&x)[Halves]) noexcept {
    float v[16];
    for (std::size_t h = 0; h < Halves; ++h) x[h].store(v + h * L::width, L::width);
    for (std::size_t i = 0; i < 8; ++i) v[i] += v[i + 8];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
template <isa Isa> [[nodiscard]] NIBBLE_INLINE float exp_of(float x) noexcept {
    float v[8];
    exp(lanes<Isa>(x)).store(v, 8);
    return v[0];
}

// What attention has of a row so far: the largest score, the sum of e^(score - largest), and that of the values, each
// times its probability, in `sums` elsewhere.
struct softmax_state {
    float largest = -detail::infinity;
    float sum = 0.0f;
};

// The factors of two parts of a row that are joined under their common largest score.
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE softmax_state joined(const softmax_state& a, const softmax_state& b, float& of_a,
                                                 float& of_b) noexcept {
    const float top = a.largest > b.largest ? a.largest : b.largest;
    of_a = a.largest == top ? 1.0f : exp_of<Isa>(a.largest - top);
    of_b = b.largest == top ? 1.0f : exp_of<Isa>(b.largest - top);
    const float of_b_sum = detail::rounded_by_itself(b.sum * of_b);
    return {top, __builtin_fmaf(a.sum, of_a, of_b_sum)};
}

// All lanes of up to four rows' vectors joined by join(a, b), which leaves a joined to b in a; sums are those of
// sum_of.
template <class L, std::size_t Rows, std::size_t Halves, class Join>
[[nodiscard]] NIBBLE_INLINE detail::four_floats joined_lanes(const L (&x)[Rows][Halves], const Join& join) noexcept {
    static_assert(Rows <= 4);
    detail::eight_floats rows[4] = {};
    for (std::size_t r = 0; r < Rows; ++r) {
        float v[16];
        for (std::size_t h = 0; h < Halves; ++h) x[r][h].store(v + h * L::width, L::width);
        detail::eight_floats high;
        __builtin_memcpy(&rows[r], v, sizeof high);
        __builtin_memcpy(&high, v + 8, sizeof high);
        join(rows[r], high);
    }
    if constexpr (Rows == 1) {
        detail::four_floats c = detail::four_of<0>(rows[0]);
        join(c, detail::four_of<1>(rows[0]));
        join(c, __builtin_shufflevector(c, c, 2, 3, 0, 1));
        join(c, __builtin_shufflevector(c, c, 1, 0, 3, 2));
        return c;
    }
    detail::eight_floats columns[4];
    detail::transpose<8>(rows, columns);
    detail::four_floats c[4];
    for (std::size_t j = 0; j < 4; ++j) {
        c[j] = detail::four_of<0>(columns[j]);
        join(c[j], detail::four_of<1>(columns[j]));
    }
    join(c[0], c[2]);
    join(c[1], c[3]);
    join(c[0], c[1]);
    return c[0];
}
template <class L, std::size_t Rows, std::size_t Halves>
[[nodiscard]] NIBBLE_INLINE detail::four_floats sums_of(const L (&x)[Rows][Halves]) noexcept {
    return joined_lanes(x, [](auto& a, const auto& b) NIBBLE_INLINE_LAMBDA { a += b; });
}
template <class L, std::size_t Rows, std::size_t Halves>
[[nodiscard]] NIBBLE_INLINE detail::four_floats largest_of(const L (&x)[Rows][Halves]) noexcept {
    return joined_lanes(x, [](auto& a, const auto& b) NIBBLE_INLINE_LAMBDA { a = a > b ? a : b; });
}

// Rows whose softmax is computed together: what must be known of a row before its probabilities are takes as long for
// one as for four.
inline constexpr std::size_t rows_together = 4;

// Scores [panel][stride][16] of `panels` panels of some rows to e^(score - largest so far), in place; `rescale` is what
// the rows' earlier sums are to be multiplied by. A score of -infinity has probability 0; one of NaN or +infinity makes
// the sum NaN.
template <isa Isa, std::size_t Rows>
NIBBLE_NOINLINE void softmax_rows(float* scores, std::size_t stride, std::size_t panels, softmax_state* states,
                                  float* rescale, prefetch_cursor& soon) noexcept {
    using L = token_lanes<Isa>;
    constexpr std::size_t halves = lane_halves<Isa>;
    L top[Rows][halves];
    for (std::size_t r = 0; r < Rows; ++r)
        for (L& t : top[r]) t = L(-detail::infinity);
    for (std::size_t p = 0; p < panels; ++p) // larger(x, top): top where x is NaN
#pragma GCC unroll 4
        for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (std::size_t h = 0; h < halves; ++h)
                top[r][h] =
                    larger(L::load(scores + p * stride + r * panel_layout::rows + h * L::width, L::width), top[r][h]);
    const detail::four_floats block = largest_of(top);
    float less[8] = {};
    bool grows = false;
    for (std::size_t r = 0; r < Rows; ++r) {
        const float now = block[r] > states[r].largest ? block[r] : states[r].largest;
        if (now != states[r].largest) {
            less[r] = states[r].largest - now;
            grows = true;
        }
        states[r].largest = now;
    }
    float factors[8] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (grows) exp(lanes<Isa>::load(less, 8)).store(factors, 8);
    L shift[Rows];
    L sums[Rows][halves];
    for (std::size_t r = 0; r < Rows; ++r) {
        // Nothing yet, if all scores are -infinity or NaN.
        shift[r] = L(states[r].largest == -detail::infinity ? 0.0f : states[r].largest);
        for (L& s : sums[r]) s = L(0.0f);
    }
    for (std::size_t p = 0; p < panels; ++p) {
        float* at = scores + p * stride;
        soon.prefetch<Isa>(Rows);
#pragma GCC unroll 4
        for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (std::size_t h = 0; h < halves; ++h) {
                float* const part = at + r * panel_layout::rows + h * L::width;
                const L probability = exp_of_negative(L::load(part, L::width) - shift[r]);
                probability.store(part, L::width);
                sums[r][h] = sums[r][h] + probability;
            }
    }
    const detail::four_floats sum = sums_of(sums);
    for (std::size_t r = 0; r < Rows; ++r) {
        rescale[r] = factors[r];
        states[r].sum = __builtin_fmaf(states[r].sum, factors[r], sum[r]);
    }
}
// run.operator()<how many>(first row) for rows [0, count), rows_together at a time.
template <class Run> NIBBLE_INLINE void for_each_rows(std::size_t count, const Run& run) noexcept {
    std::size_t r = 0;
    for (; r + rows_together <= count; r += rows_together) run.template operator()<rows_together>(r);
    switch (count - r) {
    case 1:
        return run.template operator()<1>(r);
    case 2:
        return run.template operator()<2>(r);
    case 3:
        return run.template operator()<3>(r);
    default:
        return;
    }
}
// Of all `rows` rows.
template <isa Isa>
void softmax(float* scores, std::size_t rows, std::size_t panels, softmax_state* states, float* rescale,
             prefetch_cursor& soon) noexcept {
    for_each_rows(rows, [&]<std::size_t Rows>(std::size_t r) {
        softmax_rows<Isa, Rows>(scores + r * panel_layout::rows, rows * panel_layout::rows, panels, states + r,
                                rescale + r, soon);
    });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
