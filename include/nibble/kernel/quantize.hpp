// kernel/quantize.hpp: the loops behind quantize: statistics of a run of weights, its scale, its codes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// Weights per step of the loops below: scratch for their codes stays in the first-level cache.
inline constexpr std::size_t quantize_block = 512;

// Joins the statistics of two parts of a slot; in a fixed order the result is the same for any number of threads.
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

// Statistics of x[0, count); without WithRange low and high stay 0. Integer comparisons of bit patterns, which order fp32
// magnitudes, vectorize without -ffast-math; NaN and infinity are counted as zeros and reported.
template <bool WithRange = true>
[[nodiscard]] NIBBLE_NOINLINE inline group_statistics measure(const float* x, std::size_t count, bool with_sum) noexcept {
    group_statistics g{};
    std::int32_t top = 0;   // of the magnitudes
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
    // The lengths of short runs as constants: no vector loop then asks how long it is.
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

// What a scheme asks of a slot's statistics besides the largest magnitude: the range (of an offset, and of rules unknown here)
// and the sum of magnitudes.
template <any_scheme S>
inline constexpr bool by_magnitude = requires {
    typename S::scale_type::rule;
    requires std::same_as<typename S::scale_type::rule, by_largest> || std::same_as<typename S::scale_type::rule, by_exponent> ||
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
template <any_scheme S>
inline constexpr bool asks_sum = S::scaled && !by_magnitude<S>;

// The statistics of many runs, one number per run in each array. Arrays that a scheme does not ask for may be null.
struct run_statistics {
    float* largest = nullptr;
    float* low = nullptr;
    float* high = nullptr;
    double* sum_magnitude = nullptr;
    unsigned char* nonfinite = nullptr;

    [[nodiscard]] NIBBLE_INLINE run_statistics from(std::size_t i) const noexcept {
        return {largest + i, low == nullptr ? low : low + i, high == nullptr ? high : high + i,
                sum_magnitude == nullptr ? sum_magnitude : sum_magnitude + i, nonfinite + i};
    }
};

// Eight lanes, as the compiler has them on any machine. Loops over them because compilers differ in what they make of short
// loops of scalars: GCC takes a run of 16 apart into vectors of 8, 4, 2 and two single numbers.
using eight_floats = float __attribute__((vector_size(32)));
using eight_words = std::int32_t __attribute__((vector_size(32)));

// One number for each `lanes` (a multiple of 8 and a power of two) of the `count` x lanes in a[]: the largest or the smallest;
// at the start of a[]. Neighbours are joined until one is left, the last steps for eight results at a time.
template <bool Largest>
NIBBLE_INLINE void fold(std::int32_t* a, std::size_t count, std::size_t lanes) noexcept {
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

// The statistics of `runs` runs of x, all of `run` columns, but for the sums: the same as measure gives, for all at once, so
// that the ends of short runs are vector work too. False, and nothing of use written, if a value is not finite or if this way
// is not for such runs: it is for 16, 32, 64 ... columns each, and quantize_block in all at most.
template <bool WithRange>
[[nodiscard]] NIBBLE_NOINLINE bool measure_runs(const float* NIBBLE_RESTRICT x, std::size_t run, std::size_t runs,
                                                const run_statistics& to) noexcept {
    if (run < 16 || (run & (run - 1)) != 0 || run * runs > quantize_block) return false;
    // Parts of 16 or 32 columns to eight lanes each, which leaves run / part x 8 for each run.
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
    const std::size_t part = run == 16 ? 16 : 32;
    if (part == 16) {
        for (std::size_t p = 0; p < runs; ++p) fold_part.template operator()<16>(p);
    } else {
        for (std::size_t p = 0; p < run * runs / 32; ++p) fold_part.template operator()<32>(p);
    }
    const std::size_t lanes = 8 * (run / part);
    fold<true>(tops, runs, lanes);
    if constexpr (WithRange) fold<false>(lows, runs, lanes);
    std::int32_t beyond = 0;
    for (std::size_t i = 0; i < runs; ++i) {
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

// What one slot of a scheme stores, and the fp32 numbers that it stands for.
template <any_scheme S>
struct slot_parameters {
    typename detail::scheme_traits<S>::scale_code scale_code{};
    typename detail::scheme_traits<S>::zero_code zero_code{};
    float scale = 1.0f;
    float zero = 0.0f;
    bool poisoned = false; // the stored scale is NaN: every value of the slot is
};

// What a slot of a two_level scheme stands under.
struct outer_parameters {
    float scale = 1.0f;
    float minimum = 1.0f; // of a two_level_minimum
    float offset = 0.0f;  // of a mean_offset
};

// The range of a slot that its codes have to span when they are offset by a zero point or a minimum: with 0 in it where
// 0 must have a code, or no minimum can be above it.
template <any_scheme S>
struct offset_range {
    float low, high;
    // Masks and no choices: GCC then has vectors for loops over slots.
    NIBBLE_INLINE offset_range(const group_statistics& g, float shrink) noexcept
        : low((S::has_integer_zero || S::has_two_level_minimum ? kept<true>(g.low) : g.low) * shrink),
          high((S::has_integer_zero ? kept<false>(g.high) : g.high) * shrink) {}
    // x if its sign is as wanted, else 0.
    template <bool Negative>
    [[nodiscard]] static NIBBLE_INLINE float kept(float x) noexcept {
        const std::int32_t word = detail::bit_cast<std::int32_t>(x);
        return detail::bit_cast<float>(word & (Negative ? word >> 31 : ~(word >> 31)));
    }
    // In double: the width of a range may exceed fp32, and no product fuses with the difference.
    [[nodiscard]] NIBBLE_INLINE double width() const noexcept {
        return static_cast<double>(high) - static_cast<double>(low);
    }
};

// The scale that a slot's statistics ask for, before any rounding.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE float wanted_scale(const group_statistics& g, float shrink) noexcept {
    using element = typename S::element_type;
    if constexpr (S::has_integer_zero || S::has_minimum)
        return static_cast<float>(offset_range<S>(g, shrink).width() / static_cast<double>(largest<element>));
    else
        return S::scale_type::rule::template apply<element>(g) * shrink;
}

// a / b, or 0 if b is not above 0. It divides by 1 then: one path for all slots, which a loop over them can vectorize.
[[nodiscard]] NIBBLE_INLINE float quotient_or_zero(float a, float b) noexcept {
    const bool divides = b > 0.0f;
    const float quotient = a / (divides ? b : 1.0f);
    return divides ? quotient : 0.0f;
}

// Can a stored scale times a code, or that and the zero point, exceed fp32? Not under scales of fp16 or E4M3, for example.
template <any_scheme S>
inline constexpr bool values_may_overflow = [] {
    using traits = detail::scheme_traits<S>;
    if constexpr (!S::scaled) return false;
    double top = static_cast<double>(largest<typename traits::scale_element>) * static_cast<double>(largest<typename S::element_type>);
    double zero = S::has_minimum ? static_cast<double>(largest<typename traits::zero_element>) : 0.0;
    if constexpr (S::two_level) top *= static_cast<double>(largest<typename traits::outer_element>);
    if constexpr (S::has_two_level_minimum) zero *= static_cast<double>(largest<typename traits::outer_zero_element>);
    return S::has_offset || top + zero > 3.4e38;
}();

// Are the values of all codes finite?
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE bool has_finite_values(const slot_parameters<S>& p) noexcept {
    constexpr float top = largest<typename S::element_type>;
    if constexpr (S::has_integer_zero)
        return detail::is_finite(p.scale * detail::max_of(p.zero, top - p.zero));
    else if constexpr (S::has_minimum)
        return detail::is_finite(detail::fused_multiply_add(p.scale, top, p.zero));
    else
        return detail::is_finite(p.scale * top);
}

// The code of the value next to a code's, above or below; at the end of the format the same code. Codes of 16 and 32 bits are
// floats; they keep their sign, and stay finite.
template <element E>
[[nodiscard]] inline typename E::code neighbour(typename E::code code, bool above) noexcept {
    if constexpr (E::bits > 8) {
        const bool away = above == !(E::decode(code) < 0.0f);
        const auto next = static_cast<typename E::code>(away ? code + 1 : code - 1);
        return (!away && E::decode(code) == 0.0f) || !detail::is_finite(E::decode(next)) ? code : next;
    } else {
        constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
        const float value = detail::decoded<E>(code);
        std::size_t at = 0;
        while (at + 1 < sorted.count && sorted.values.at[at] != value) ++at;
        if (!above && at > 0) --at;
        if (above && at + 1 < sorted.count) ++at;
        return sorted.codes.at[at];
    }
}

// The fp32 numbers of stored codes.
template <any_scheme S>
NIBBLE_INLINE void decode_scale(slot_parameters<S>& p, const outer_parameters& outer) noexcept {
    p.scale = detail::decoded<typename detail::scheme_traits<S>::scale_element>(p.scale_code);
    if constexpr (S::two_level) p.scale = detail::two_level_product<S>(p.scale, outer.scale, outer.offset);
}
// The integer zero that a scale needs for `low` to have a code.
template <any_scheme S>
NIBBLE_INLINE void choose_integer_zero(slot_parameters<S>& p, float low) noexcept {
    p.zero_code = encode<typename S::element_type>(quotient_or_zero(-low, p.scale));
    p.zero = detail::decoded<typename S::element_type>(p.zero_code);
}

// p with the largest scale, about, under which no code's value is beyond fp32: for weights near its end.
template <any_scheme S>
NIBBLE_NOINLINE void limit_scale(slot_parameters<S>& p, const outer_parameters& outer, float low) noexcept {
    using scale_element = typename detail::scheme_traits<S>::scale_element;
    constexpr float top = largest<typename S::element_type>;
    if (S::has_minimum && !detail::is_finite(p.zero)) return;
    if constexpr (!S::two_level) {
        double limit = 3.4028234663852886e38;
        if constexpr (S::has_integer_zero) {
            if (!detail::is_finite(p.scale)) {
                p.scale = 3.4028234e38f;
                choose_integer_zero<S>(p, low);
            }
            limit /= static_cast<double>(detail::max_of(p.zero, top - p.zero));
        } else {
            if constexpr (S::has_minimum) limit -= static_cast<double>(p.zero);
            limit /= static_cast<double>(top);
        }
        const float wanted = static_cast<float>(limit);
        if (!(wanted > p.scale)) p.scale_code = encode<scale_element>(wanted);
    }
    for (;;) {
        decode_scale<S>(p, outer);
        if constexpr (S::has_integer_zero) choose_integer_zero<S>(p, low);
        if (has_finite_values<S>(p)) return;
        const auto next = neighbour<scale_element>(p.scale_code, 0.0f > p.scale);
        if (next == p.scale_code) return;
        p.scale_code = next;
    }
}

// The parameters of a slot from the scale that is wanted, the lower end of its range and what it stands under.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE slot_parameters<S> unlimited_parameters(float wanted, float low, bool nonfinite,
                                                                    const outer_parameters& outer) noexcept {
    using traits = detail::scheme_traits<S>;
    using scale_element = typename traits::scale_element;
    slot_parameters<S> p{};
    if constexpr (S::scaled) {
        if constexpr (S::has_offset) wanted -= outer.offset;
        if constexpr (S::two_level) wanted = quotient_or_zero(wanted, outer.scale);
        if constexpr (has_nan_code<scale_element> && scale_element::bits == 8) {
            // A block scale that can say NaN says it (OCP MX): no value of the block can be trusted.
            if (nonfinite && !S::two_level) {
                p.scale_code = encode<scale_element>(detail::quiet_nan);
                p.poisoned = true;
            }
        }
        if (!p.poisoned) p.scale_code = encode<scale_element>(wanted);
        decode_scale<S>(p, outer);
        if constexpr (S::has_two_level_minimum) {
            p.zero_code = encode<typename traits::zero_element>(quotient_or_zero(-low, outer.minimum));
            p.zero = -(traits::zero_element::decode(p.zero_code) * outer.minimum);
        } else if constexpr (S::has_minimum) {
            p.zero_code = encode<typename traits::zero_element>(low);
            p.zero = traits::zero_element::decode(p.zero_code);
        }
        if constexpr (S::has_integer_zero) choose_integer_zero<S>(p, low);
    }
    return p;
}
// Beside an offset the nearest scale may be far too small for the weights, 0 or negative: then p takes the next code above or
// below, whose scale is the smaller one that reaches half of the wanted scale, if one does.
template <any_scheme S>
NIBBLE_NOINLINE void widen_scale(slot_parameters<S>& p, float wanted, const outer_parameters& outer) noexcept {
    using scale_element = typename detail::scheme_traits<S>::scale_element;
    slot_parameters<S> best = p;
    for (const bool above : {true, false}) {
        slot_parameters<S> other = p;
        other.scale_code = neighbour<scale_element>(p.scale_code, above);
        decode_scale<S>(other, outer);
        const float size = detail::abs_of(other.scale);
        if (size >= 0.5f * wanted && (best.scale_code == p.scale_code || size < detail::abs_of(best.scale))) best = other;
    }
    p = best;
}

// The same with values that are finite, whatever the codes.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE slot_parameters<S> parameters_from(float wanted, float low, bool nonfinite,
                                                               const outer_parameters& outer) noexcept {
    slot_parameters<S> p = unlimited_parameters<S>(wanted, low, nonfinite, outer);
    if constexpr (S::has_offset)
        if (detail::abs_of(p.scale) < 0.5f * wanted) widen_scale<S>(p, wanted, outer);
    if constexpr (values_may_overflow<S>)
        if (NIBBLE_UNLIKELY(!p.poisoned && !has_finite_values<S>(p))) limit_scale<S>(p, outer, low);
    return p;
}

// The parameters that follow from a slot's statistics and, for two levels, what it stands under; `shrink` scales the
// range (1 for absmax; a search tries others).
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE slot_parameters<S> parameters_of(const group_statistics& g, const outer_parameters& outer,
                                                             float shrink) noexcept {
    if constexpr (S::scaled)
        return parameters_from<S>(wanted_scale<S>(g, shrink), offset_range<S>(g, shrink).low, g.nonfinite, outer);
    else
        return {};
}

// The statistics of run i of many, which has `count` columns.
template <bool WithRange, bool WithSum>
[[nodiscard]] NIBBLE_INLINE group_statistics statistics_at(const run_statistics& s, std::size_t i, std::size_t count) noexcept {
    group_statistics g{};
    g.largest = s.largest[i];
    if constexpr (WithRange) {
        g.low = s.low[i];
        g.high = s.high[i];
    }
    if constexpr (WithSum) g.sum_magnitude = s.sum_magnitude[i];
    g.count = count;
    g.nonfinite = s.nonfinite[i] != 0;
    return g;
}

// What many slots store and stand for, one number per slot in each array.
template <any_scheme S>
struct slot_arrays {
    typename detail::scheme_traits<S>::scale_code* scale_codes;
    typename detail::scheme_traits<S>::zero_code* zero_codes;
    float* scales;
    float* zeros;

    [[nodiscard]] NIBBLE_INLINE slot_arrays from(std::size_t i) const noexcept {
        return {scale_codes + i, zero_codes + i, scales + i, zeros + i};
    }
};

// parameters_of for `count` slots under one outer slot, each a run of one row; `columns` are left from the first on.
template <any_scheme S, bool WithRange, bool WithSum>
NIBBLE_NOINLINE void parameters_of_runs(const run_statistics& s, std::size_t count, std::size_t run, std::size_t columns,
                                        const outer_parameters& under, bool known_finite, const slot_arrays<S>& to) noexcept {
    const outer_parameters outer = under;
    typename detail::scheme_traits<S>::scale_code* NIBBLE_RESTRICT const scale_codes = to.scale_codes;
    typename detail::scheme_traits<S>::zero_code* NIBBLE_RESTRICT const zero_codes = to.zero_codes;
    float* NIBBLE_RESTRICT const scales = to.scales;
    float* NIBBLE_RESTRICT const zeros = to.zeros;
    const run_statistics from = s;
    [[maybe_unused]] bool near_end = S::has_offset; // or, beside an offset, each slot by itself
    for (std::size_t i = 0; !S::has_offset && i < count; ++i) {
        group_statistics g = statistics_at<WithRange, WithSum>(from, i, detail::min_of(run, columns - i * run));
        g.nonfinite = g.nonfinite && !known_finite;
        const slot_parameters<S> p =
            unlimited_parameters<S>(wanted_scale<S>(g, 1.0f), offset_range<S>(g, 1.0f).low, g.nonfinite, outer);
        scale_codes[i] = p.scale_code;
        scales[i] = p.scale;
        if constexpr (detail::scheme_traits<S>::has_zero) {
            zero_codes[i] = p.zero_code;
            zeros[i] = p.zero;
        }
    }
    if constexpr (values_may_overflow<S>) {
        // Far from the end of fp32 no value can be beyond it; one look at all slots keeps the loop above free of choices.
        constexpr float safe = 1e38f / largest<typename S::element_type>;
        for (std::size_t i = 0; !S::has_offset && i < count; ++i) {
            near_end |= !(detail::abs_of(scales[i]) < safe);
            if constexpr (S::has_minimum) near_end |= !(detail::abs_of(zeros[i]) < 1e38f);
        }
        for (std::size_t i = 0; near_end && i < count; ++i) {
            group_statistics g = statistics_at<WithRange, WithSum>(from, i, detail::min_of(run, columns - i * run));
            g.nonfinite = g.nonfinite && !known_finite;
            const slot_parameters<S> p = parameters_of<S>(g, outer, 1.0f);
            scale_codes[i] = p.scale_code;
            scales[i] = p.scale;
            if constexpr (detail::scheme_traits<S>::has_zero) {
                zero_codes[i] = p.zero_code;
                zeros[i] = p.zero;
            }
        }
    }
}

// How values become units of their slot, which codes are rounded from.
enum class unit_rule {
    quotient,          // x / scale
    quotient_with_nan, // the same in an element that can say NaN
    integer_zero,      // x / scale + zero
    minimum,           // (x - zero) / scale
    wide_minimum,      // the same where x - zero may exceed fp32
};
template <any_scheme S>
inline constexpr unit_rule unit_rule_of = S::has_integer_zero                    ? unit_rule::integer_zero
                                          : S::has_minimum && values_may_overflow<S> ? unit_rule::wide_minimum
                                          : S::has_minimum                       ? unit_rule::minimum
                                          : has_nan_code<typename S::element_type> ? unit_rule::quotient_with_nan
                                                                                 : unit_rule::quotient;

// x[0, count) in units of one slot; the scale may be negative. Under scale 0 (an all-zero slot, or one too small for its scale
// format) and NaN everything is zero, but for a NaN under scale 0 in an element that can say it.
template <unit_rule Rule>
NIBBLE_INLINE void scale_run(const float* NIBBLE_RESTRICT x, std::size_t count, float scale, float zero,
                             float* NIBBLE_RESTRICT units) noexcept {
    constexpr bool offset = Rule == unit_rule::integer_zero || Rule == unit_rule::minimum || Rule == unit_rule::wide_minimum;
    if (!(scale < 0.0f || scale > 0.0f)) {
        const bool keep_nan = Rule == unit_rule::quotient_with_nan && scale == 0.0f;
        for (std::size_t i = 0; i < count; ++i)
            units[i] = keep_nan && detail::is_nan(x[i]) ? x[i] : Rule == unit_rule::integer_zero ? zero : 0.0f;
        return;
    }
    if constexpr (Rule == unit_rule::wide_minimum) {
        if (NIBBLE_UNLIKELY(detail::abs_of(zero) > 1e38f)) {
            // Halves, which differ by what fp32 can hold; the quotient is the same.
            for (std::size_t i = 0; i < count; ++i)
                units[i] = (detail::nan_to_zero(x[i]) * 0.5f - zero * 0.5f) / (scale * 0.5f);
            return;
        }
    }
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        eight_words word;
        __builtin_memcpy(&word, x + i, 32);
        if constexpr (offset) word &= (word & 0x7fffffff) <= 0x7f800000; // a NaN is the code of zero, not the code 0
        eight_floats v = __builtin_bit_cast(eight_floats, word);
        if constexpr (offset && Rule != unit_rule::integer_zero) v -= zero;
        v /= scale;
        if constexpr (Rule == unit_rule::integer_zero) v += zero;
        __builtin_memcpy(units + i, &v, 32);
    }
    for (; i < count; ++i) {
        float v = offset ? detail::nan_to_zero(x[i]) : x[i];
        if constexpr (offset && Rule != unit_rule::integer_zero) v -= zero;
        v /= scale;
        if constexpr (Rule == unit_rule::integer_zero) v += zero;
        units[i] = v;
    }
}

// x[0, count) in units of their slots: the first has `first` columns, each further one `run`, the last what is left.
template <unit_rule Rule>
NIBBLE_NOINLINE void scale_runs(const float* NIBBLE_RESTRICT x, std::size_t count, std::size_t first, std::size_t run,
                                const float* NIBBLE_RESTRICT scales, const float* NIBBLE_RESTRICT zeros,
                                float* NIBBLE_RESTRICT units) noexcept {
    std::size_t slot = 0;
    const auto zero = [&]() NIBBLE_INLINE_LAMBDA {
        return Rule == unit_rule::quotient || Rule == unit_rule::quotient_with_nan ? 0.0f : zeros[slot];
    };
    std::size_t at = 0;
    if (first == run && run == 16) {
        for (; at + 16 <= count; at += 16, ++slot) scale_run<Rule>(x + at, 16, scales[slot], zero(), units + at);
    } else if (first == run && run == 32) {
        for (; at + 32 <= count; at += 32, ++slot) scale_run<Rule>(x + at, 32, scales[slot], zero(), units + at);
    }
    for (std::size_t length = first; at < count; at += length, length = run, ++slot)
        scale_run<Rule>(x + at, detail::min_of(length, count - at), scales[slot], zero(), units + at);
}

// The codes of units[0, count), one per element of `codes`; one function per element, rounding and overflow, whatever the
// scheme. `first` is the index of units[0] in the whole matrix: stochastic rounding draws its bits from (seed, index), learned
// rounding reads up[index].
template <element E, rounding Rounding, overflow Overflow>
NIBBLE_NOINLINE void encode_units(const float* NIBBLE_RESTRICT units, std::size_t count, std::uint64_t seed,
                                  std::uint64_t first, const std::uint8_t* up,
                                  typename E::code* NIBBLE_RESTRICT codes) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t random = 0;
        if constexpr (Rounding == rounding::stochastic) random = detail::random_bits(seed, first + i);
        if constexpr (Rounding == rounding::learned) random = up[first + i];
        codes[i] = encode<E, Rounding, Overflow>(units[i], random);
    }
}

// The same of eight units, inlined: of that number compilers make one vector, with nothing to ask about its length.
template <element E, rounding Rounding, overflow Overflow>
NIBBLE_INLINE void encode_eight_units(const float (&units)[8], typename E::code (&codes)[8]) noexcept {
    static_assert(Rounding != rounding::stochastic && Rounding != rounding::learned);
    for (std::size_t i = 0; i < 8; ++i) codes[i] = encode<E, Rounding, Overflow>(units[i]);
}

// Values beyond the largest saturate under a scale; without one infinities stay what they are.
template <any_scheme S>
inline constexpr overflow overflow_of = S::scaled ? overflow::saturate : overflow::special;

// The value a code stands for, as quantized::value_at has it.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE float decode_value(typename detail::scheme_traits<S>::code c, float scale,
                                               float zero) noexcept {
    using element = typename detail::scheme_traits<S>::element;
    float plain = 0.0f;
    if constexpr (element::bits <= 8)
        plain = decode_table<element>.at[c];
    else
        plain = element::decode(c);
    if constexpr (!S::scaled)
        return plain;
    else if constexpr (S::has_integer_zero)
        return scale * (plain - zero);
    else if constexpr (S::has_minimum)
        return detail::fused_multiply_add(scale, plain, zero);
    else
        return scale * plain;
}

// Squared error of x[0, count) under trial parameters, summed in double in index order of eight lanes.
template <any_scheme S>
[[nodiscard]] inline double squared_error(const float* x, std::size_t count, const slot_parameters<S>& p) noexcept {
    typename detail::scheme_traits<S>::code codes[quantize_block];
    float units[quantize_block];
    double sums[8] = {};
    for (std::size_t start = 0; start < count; start += quantize_block) {
        const std::size_t n = detail::min_of(quantize_block, count - start);
        if constexpr (S::scaled)
            scale_run<unit_rule_of<S>>(x + start, n, p.scale, p.zero, units);
        else
            __builtin_memcpy(units, x + start, n * sizeof(float));
        encode_units<typename S::element_type, rounding::nearest_even, overflow_of<S>>(units, n, 0, 0, nullptr, codes);
        for (std::size_t i = 0; i < n; ++i) {
            // In double: the product inside decode_value must not fuse with this difference, nor the difference overflow.
            const float value = decode_value<S>(codes[i], p.scale, p.zero);
            const double d = static_cast<double>(x[start + i]) - static_cast<double>(value);
            const double e = detail::is_finite(x[start + i]) ? d : 0.0;
            sums[i % 8] = __builtin_fma(e, e, sums[i % 8]);
        }
    }
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Codes in their place in a row's bit stream: `position` is the column of codes[0], a multiple of 8 unless the row ends
// with them.
template <element E>
inline void store_codes(const typename E::code* codes, std::size_t count, std::uint8_t* row, std::size_t position) noexcept {
    if constexpr (E::bits <= 8)
        detail::squeeze_codes<E::bits>(codes, count, row + position * static_cast<std::size_t>(E::bits) / 8);
    else if (count != 0)
        __builtin_memcpy(row + position * sizeof(typename E::code), codes, count * sizeof(typename E::code));
}

template <element E>
inline void load_codes(const std::uint8_t* row, std::size_t position, std::size_t count, typename E::code* codes) noexcept {
    if constexpr (E::bits <= 8)
        detail::spread_codes<E::bits>(row + position * static_cast<std::size_t>(E::bits) / 8, count, codes);
    else if (count != 0)
        __builtin_memcpy(codes, row + position * sizeof(typename E::code), count * sizeof(typename E::code));
}

} // namespace nibble::inline NIBBLE_ABI::kernel
