// kernel/statistics.hpp: the statistics of groups of weights that scales follow from.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/scheme/scheme.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Weights per step of the loops behind quantize: scratch for their codes stays in the first-level cache.
inline constexpr std::size_t quantize_block = 512;

// Joins the statistics of two parts of a group; in a fixed order the result is the same for any number of threads.
inline void join(group_statistics& into, const group_statistics& part) noexcept {
    if (part.count == 0) return;
    const bool first = into.count == 0;
    into.largest = detail::max_of(into.largest, part.largest);
    into.low = first ? part.low : detail::min_of(into.low, part.low);
    into.high = first ? part.high : detail::max_of(into.high, part.high);
    into.sum_magnitude += part.sum_magnitude;
    into.count += part.count;
    into.nonfinite = into.nonfinite || part.nonfinite;
}

// Statistics of x[0, count); without WithRange low and high stay 0. Integer comparisons of bit patterns, which order
// fp32 magnitudes, vectorize without -ffast-math; NaN and infinity are counted as zeros and reported.
template <bool WithRange = true>
[[nodiscard]] NIBBLE_NOINLINE inline group_statistics measure(const float* x, std::size_t count,
                                                              bool with_sum) noexcept {
    group_statistics g{};
    std::int32_t top = 0; // of the magnitudes
    std::int32_t low = 0x7fffffff;
    std::int32_t high = -0x7fffffff - 1;
    std::int32_t special = 0;
    const auto one = [&](std::size_t i) NIBBLE_INLINE_LAMBDA {
        const std::int32_t word = detail::bit_cast<std::int32_t>(x[i]);
        std::int32_t magnitude = word & 0x7fffffff;
        const bool finite = magnitude < 0x7f800000;
        special |= finite ? 0 : 1;
        magnitude = finite ? magnitude : 0;
        top = magnitude > top ? magnitude : top;
        if constexpr (WithRange) {
            const std::int32_t ordered = word < 0 ? -magnitude : magnitude; // orders as the values do
            low = ordered < low ? ordered : low;
            high = ordered > high ? ordered : high;
        }
    };
    // The lengths of short groups as constants: no vector loop then asks how long it is.
    if (count == 32) {
        for (std::size_t i = 0; i < 32; ++i) one(i);
    } else if (count == 16) {
        for (std::size_t i = 0; i < 16; ++i) one(i);
    } else {
        for (std::size_t i = 0; i < count; ++i) one(i);
    }
    if (count == 0) return g;
    const auto value = [](std::int32_t ordered) {
        return ordered < 0 ? -detail::bit_cast<float>(-ordered) : detail::bit_cast<float>(ordered);
    };
    g.largest = value(top);
    if constexpr (WithRange) {
        g.low = value(low);
        g.high = value(high);
    }
    g.count = count;
    g.nonfinite = special != 0;
    if (with_sum) {
        double sums[8] = {};
        const auto magnitude = [&](std::size_t at) NIBBLE_INLINE_LAMBDA {
            const std::int32_t word = detail::bit_cast<std::int32_t>(x[at]) & 0x7fffffff;
            return static_cast<double>(detail::bit_cast<float>(word < 0x7f800000 ? word : 0));
        };
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8)
            for (std::size_t j = 0; j < 8; ++j) sums[j] += magnitude(i + j);
        for (std::size_t j = 0; i < count; ++i, ++j) sums[j] += magnitude(i);
        g.sum_magnitude = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
    return g;
}

// What a scheme asks of a group's statistics besides the largest magnitude: the range (of an offset, and of rules
// unknown here) and the sum of magnitudes.
template <any_scheme S>
inline constexpr bool by_magnitude = requires {
    typename S::scale_type::rule;
    requires std::same_as<typename S::scale_type::rule, by_largest> ||
                 std::same_as<typename S::scale_type::rule, by_exponent> ||
                 std::same_as<typename S::scale_type::rule, by_exponent_no_clip> ||
                 std::same_as<typename S::scale_type::rule, by_exponent_rounded>;
};
template <any_scheme S>
inline constexpr bool asks_range = detail::scheme_traits<S>::has_zero || (S::scaled && !by_magnitude<S> && [] {
                                       if constexpr (requires { typename S::scale_type::rule; })
                                           return !std::same_as<typename S::scale_type::rule, by_mean>;
                                       else
                                           return true;
                                   }());
template <any_scheme S> inline constexpr bool asks_sum = S::scaled && !by_magnitude<S>;

// The statistics of many groups, one number per group in each array. Arrays that a scheme does not ask for may be
// null.
struct statistics_of_groups {
    float* largest = nullptr;
    float* low = nullptr;
    float* high = nullptr;
    double* sum_magnitude = nullptr;
    unsigned char* nonfinite = nullptr;

    [[nodiscard]] NIBBLE_INLINE statistics_of_groups from(std::size_t i) const noexcept {
        return {largest + i, low == nullptr ? low : low + i, high == nullptr ? high : high + i,
                sum_magnitude == nullptr ? sum_magnitude : sum_magnitude + i, nonfinite + i};
    }
};

// Eight lanes, as the compiler has them on any machine. Loops over them because compilers differ in what they make of
// short loops of scalars: GCC takes a group of 16 apart into vectors of 8, 4, 2 and two single numbers.
using detail::eight_floats;
using detail::eight_words;

// One number for each `lanes` (a multiple of 8 and a power of two) of the `count` x lanes in a[]: the largest or the
// smallest; at the start of a[]. Neighbours are joined until one is left, the last steps for eight results at a time.
template <bool Largest> NIBBLE_INLINE void fold(std::int32_t* a, std::size_t count, std::size_t lanes) noexcept {
    for (; lanes > 1; lanes /= 2) {
        // Results lie behind what is still to be read; beyond their end there is scratch.
        for (std::size_t i = 0; i < count * lanes / 2; i += 8) {
            eight_words x, y;
            __builtin_memcpy(&x, a + 2 * i, 32);
            __builtin_memcpy(&y, a + 2 * i + 8, 32);
            const eight_words even = __builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
            const eight_words odd = __builtin_shufflevector(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
            const eight_words picked = Largest ? (even > odd ? even : odd) : (even < odd ? even : odd);
            __builtin_memcpy(a + i, &picked, 32);
        }
    }
}

// The statistics of `groups` groups of x, all of `group_size` columns, but for the sums: the same as measure gives, for
// all at once, so that the ends of short groups are vector work too. False, and nothing of use written, if a value is
// not finite or if this way is not for such groups: it is for 16, 32, 64 ... columns each, and quantize_block in all at
// most.
template <bool WithRange>
[[nodiscard]] NIBBLE_NOINLINE bool measure_whole_groups(const float* NIBBLE_RESTRICT x, std::size_t group_size,
                                                        std::size_t groups, const statistics_of_groups& to) noexcept {
    if (group_size < 16 || (group_size & (group_size - 1)) != 0 || group_size * groups > quantize_block) return false;
    // Parts of 16 or 32 columns to eight lanes each, which leaves group_size / part x 8 for each group.
    std::int32_t tops[quantize_block / 2 + 16]; // of magnitudes, with a range of values
    std::int32_t lows[WithRange ? quantize_block / 2 + 16 : 1];
    const auto fold_part = [&]<std::size_t Part>(std::size_t p) NIBBLE_INLINE_LAMBDA {
        eight_words top{};
        eight_words low{};
        for (std::size_t i = 0; i < Part; i += 8) {
            eight_words word;
            __builtin_memcpy(&word, x + p * Part + i, 32);
            eight_words ordered = word & 0x7fffffff;
            if constexpr (WithRange) ordered = (ordered ^ (word >> 31)) - (word >> 31); // orders as the values do
            top = i == 0 ? ordered : ordered > top ? ordered : top;
            if constexpr (WithRange) low = i == 0 ? ordered : ordered < low ? ordered : low;
        }
        __builtin_memcpy(tops + 8 * p, &top, 32);
        if constexpr (WithRange) __builtin_memcpy(lows + 8 * p, &low, 32);
    };
    const std::size_t part = group_size == 16 ? 16 : 32;
    if (part == 16) {
        for (std::size_t p = 0; p < groups; ++p) fold_part.template operator()<16>(p);
    } else {
        for (std::size_t p = 0; p < group_size * groups / 32; ++p) fold_part.template operator()<32>(p);
    }
    const std::size_t lanes = 8 * (group_size / part);
    fold<true>(tops, groups, lanes);
    if constexpr (WithRange) fold<false>(lows, groups, lanes);
    std::int32_t beyond = 0;
    for (std::size_t i = 0; i < groups; ++i) {
        std::int32_t largest = tops[i];
        if constexpr (WithRange) {
            const auto value = [](std::int32_t ordered) NIBBLE_INLINE_LAMBDA {
                const std::int32_t negative = ordered >> 31;
                return detail::bit_cast<float>(((ordered ^ negative) - negative) | (negative & (-0x7fffffff - 1)));
            };
            largest = tops[i] > -lows[i] ? tops[i] : -lows[i];
            to.low[i] = value(lows[i]);
            to.high[i] = value(tops[i]);
        }
        beyond = largest > beyond ? largest : beyond;
        to.largest[i] = detail::bit_cast<float>(largest);
        to.nonfinite[i] = 0;
    }
    return beyond < 0x7f800000;
}

// The statistics of `count` groups of x, each of `group_size` columns but that `columns` are left of x: the last may be
// shorter. True if a value is not finite.
template <bool WithRange, bool WithSum>
inline bool measure_groups(const float* x, std::size_t count, std::size_t group_size, std::size_t columns,
                           const statistics_of_groups& to) noexcept {
    std::size_t i = 0;
    if constexpr (!WithSum)
        for (std::size_t together; (together = detail::min_of(detail::min_of(count, columns / group_size) - i,
                                                              quantize_block / group_size)) != 0;
             i += together)
            if (!measure_whole_groups<WithRange>(x + i * group_size, group_size, together, to.from(i))) break;
    bool nonfinite = false;
    for (; i < count; ++i) {
        const group_statistics g =
            measure<WithRange>(x + i * group_size, detail::min_of(group_size, columns - i * group_size), WithSum);
        to.largest[i] = g.largest;
        if constexpr (WithRange) {
            to.low[i] = g.low;
            to.high[i] = g.high;
        }
        if constexpr (WithSum) to.sum_magnitude[i] = g.sum_magnitude;
        to.nonfinite[i] = g.nonfinite ? 1 : 0;
        nonfinite = nonfinite || g.nonfinite;
    }
    return nonfinite;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
