// kernel/quantize.hpp: the loops behind quantize: from statistics of a group of weights to its scale and its
// codes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/statistics.hpp>
#include <nibble/scheme/scheme.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What one group of a scheme stores, and the fp32 numbers that it stands for.
template <any_scheme S> struct group_parameters {
    typename detail::scheme_traits<S>::scale_code scale_code{};
    typename detail::scheme_traits<S>::zero_code zero_code{};
    float scale = 1.0f;
    float zero = 0.0f;
    bool scale_is_nan = false; // the stored scale is NaN: every value of the group is
};

// What a group of a two_level scheme stands under.
struct outer_parameters {
    float scale = 1.0f;
    float minimum = 1.0f; // of a two_level_minimum
    float offset = 0.0f;  // of a mean_offset
};

// The range of a group that its codes have to span when they are offset by a zero point or a minimum: with 0 in it
// where 0 must have a code, or no minimum can be above it.
template <any_scheme S> struct offset_range {
    float low, high;
    // Masks and no choices: GCC then has vectors for loops over groups.
    explicit NIBBLE_INLINE offset_range(const group_statistics& g) noexcept
        : low(S::has_integer_zero || S::has_two_level_minimum ? kept<true>(g.low) : g.low),
          high(S::has_integer_zero ? kept<false>(g.high) : g.high) {}
    // x if its sign is as wanted, else 0.
    template <bool Negative> [[nodiscard]] static NIBBLE_INLINE float kept(float x) noexcept {
        const std::int32_t word = detail::bit_cast<std::int32_t>(x);
        return detail::bit_cast<float>(word & (Negative ? word >> 31 : ~(word >> 31)));
    }
    // In double: the width of a range may exceed fp32, and no product fuses with the difference.
    [[nodiscard]] NIBBLE_INLINE double width() const noexcept {
        return static_cast<double>(high) - static_cast<double>(low);
    }
};

// The scale that a group's statistics ask for, before any rounding.
template <any_scheme S> [[nodiscard]] NIBBLE_INLINE float wanted_scale(const group_statistics& g) noexcept {
    using element = typename S::element_type;
    if constexpr (S::has_integer_zero || S::has_minimum)
        return static_cast<float>(offset_range<S>(g).width() / static_cast<double>(largest<element>));
    else
        return S::scale_type::rule::template apply<element>(g);
}

// a / b, or 0 if b is not above 0. It divides by 1 then: one path for all groups, which a loop over them can vectorize.
[[nodiscard]] NIBBLE_INLINE float quotient_or_zero(float a, float b) noexcept {
    const bool divides = b > 0.0f;
    const float quotient = a / (divides ? b : 1.0f);
    return divides ? quotient : 0.0f;
}

// Can a stored scale times a code, or that and the zero point, exceed fp32? Not under scales of fp16 or E4M3, for
// example.
template <any_scheme S>
inline constexpr bool values_may_overflow = [] {
    using traits = detail::scheme_traits<S>;
    if constexpr (!S::scaled) return false;
    double top = static_cast<double>(largest<typename traits::scale_element>) *
                 static_cast<double>(largest<typename S::element_type>);
    double zero = S::has_minimum ? static_cast<double>(largest<typename traits::zero_element>) : 0.0;
    if constexpr (S::two_level) top *= static_cast<double>(largest<typename traits::outer_element>);
    if constexpr (S::has_two_level_minimum) zero *= static_cast<double>(largest<typename traits::outer_zero_element>);
    return S::has_offset || top + zero > 3.4e38;
}();

// Are the values of all codes finite?
template <any_scheme S> [[nodiscard]] NIBBLE_INLINE bool has_finite_values(const group_parameters<S>& p) noexcept {
    constexpr float top = largest<typename S::element_type>;
    if constexpr (S::has_integer_zero)
        return detail::is_finite(p.scale * detail::max_of(p.zero, top - p.zero));
    else if constexpr (S::has_minimum)
        return detail::is_finite(detail::fused_multiply_add(p.scale, top, p.zero));
    else
        return detail::is_finite(p.scale * top);
}

// The code of the value next to a code's, above or below; at the end of the format the same code. Codes of 16 and 32
// bits are floats; they keep their sign, and stay finite.
template <element E> [[nodiscard]] inline typename E::code neighbour(typename E::code code, bool above) noexcept {
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
NIBBLE_INLINE void decode_scale(group_parameters<S>& p, const outer_parameters& outer) noexcept {
    p.scale = detail::decoded<typename detail::scheme_traits<S>::scale_element>(p.scale_code);
    if constexpr (S::two_level) p.scale = detail::two_level_product<S>(p.scale, outer.scale, outer.offset);
}
// The integer zero that a scale needs for `low` to have a code.
template <any_scheme S> NIBBLE_INLINE void choose_integer_zero(group_parameters<S>& p, float low) noexcept {
    p.zero_code = encode<typename S::element_type>(quotient_or_zero(-low, p.scale));
    p.zero = detail::decoded<typename S::element_type>(p.zero_code);
}

// p with the largest scale, about, under which no code's value is beyond fp32: for weights near its end.
template <any_scheme S>
NIBBLE_NOINLINE void limit_scale(group_parameters<S>& p, const outer_parameters& outer, float low) noexcept {
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

// The parameters of a group from the scale that is wanted, the lower end of its range and what it stands under.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE group_parameters<S> unlimited_parameters(float wanted, float low, bool nonfinite,
                                                                     const outer_parameters& outer) noexcept {
    using traits = detail::scheme_traits<S>;
    using scale_element = typename traits::scale_element;
    group_parameters<S> p{};
    if constexpr (S::scaled) {
        if constexpr (S::has_offset) wanted -= outer.offset;
        if constexpr (S::two_level) wanted = quotient_or_zero(wanted, outer.scale);
        if constexpr (has_nan_code<scale_element> && scale_element::bits == 8) {
            // A block scale that can say NaN says it (OCP MX): no value of the block can be trusted.
            if (nonfinite && !S::two_level) {
                p.scale_code = encode<scale_element>(detail::quiet_nan);
                p.scale_is_nan = true;
            }
        }
        if (!p.scale_is_nan) p.scale_code = encode<scale_element>(wanted);
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
// Beside an offset the nearest scale may be far too small for the weights, 0 or negative: then p takes the next code
// above or below, whose scale is the smaller one that reaches half of the wanted scale, if one does.
template <any_scheme S>
NIBBLE_NOINLINE void widen_scale(group_parameters<S>& p, float wanted, const outer_parameters& outer) noexcept {
    using scale_element = typename detail::scheme_traits<S>::scale_element;
    group_parameters<S> best = p;
    for (const bool above : {true, false}) {
        group_parameters<S> other = p;
        other.scale_code = neighbour<scale_element>(p.scale_code, above);
        decode_scale<S>(other, outer);
        const float size = detail::abs_of(other.scale);
        if (size >= 0.5f * wanted && (best.scale_code == p.scale_code || size < detail::abs_of(best.scale)))
            best = other;
    }
    p = best;
}

// The same with values that are finite, whatever the codes.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE group_parameters<S> parameters_from(float wanted, float low, bool nonfinite,
                                                                const outer_parameters& outer) noexcept {
    group_parameters<S> p = unlimited_parameters<S>(wanted, low, nonfinite, outer);
    if constexpr (S::has_offset)
        if (detail::abs_of(p.scale) < 0.5f * wanted) widen_scale<S>(p, wanted, outer);
    if constexpr (values_may_overflow<S>)
        if (NIBBLE_UNLIKELY(!p.scale_is_nan && !has_finite_values<S>(p))) limit_scale<S>(p, outer, low);
    return p;
}

// The parameters that follow from a group's statistics and, for two levels, what it stands under.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE group_parameters<S> parameters_of(const group_statistics& g,
                                                              const outer_parameters& outer) noexcept {
    if constexpr (S::scaled)
        return parameters_from<S>(wanted_scale<S>(g), offset_range<S>(g).low, g.nonfinite, outer);
    else
        return {};
}

// The statistics of group i of many, which has `count` columns.
template <bool WithRange, bool WithSum>
[[nodiscard]] NIBBLE_INLINE group_statistics statistics_at(const statistics_of_groups& s, std::size_t i,
                                                           std::size_t count) noexcept {
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

// What many groups store and stand for, one number per group in each array.
template <any_scheme S> struct group_arrays {
    typename detail::scheme_traits<S>::scale_code* scale_codes;
    typename detail::scheme_traits<S>::zero_code* zero_codes;
    float* scales;
    float* zeros;

    [[nodiscard]] NIBBLE_INLINE group_arrays from(std::size_t i) const noexcept {
        return {scale_codes + i, zero_codes + i, scales + i, zeros + i};
    }
};

// parameters_of for `count` groups under one outer group, each in one row; `columns` are left from the
// first on.
template <any_scheme S, bool WithRange, bool WithSum>
NIBBLE_NOINLINE void parameters_of_groups(const statistics_of_groups& s, std::size_t count, std::size_t group_size,
                                          std::size_t columns, const outer_parameters& under, bool known_finite,
                                          const group_arrays<S>& to) noexcept {
    const outer_parameters outer = under;
    typename detail::scheme_traits<S>::scale_code* NIBBLE_RESTRICT const scale_codes = to.scale_codes;
    typename detail::scheme_traits<S>::zero_code* NIBBLE_RESTRICT const zero_codes = to.zero_codes;
    float* NIBBLE_RESTRICT const scales = to.scales;
    float* NIBBLE_RESTRICT const zeros = to.zeros;
    const statistics_of_groups from = s;
    [[maybe_unused]] bool near_end = S::has_offset; // or, beside an offset, each group by itself
    for (std::size_t i = 0; !S::has_offset && i < count; ++i) {
        group_statistics g =
            statistics_at<WithRange, WithSum>(from, i, detail::min_of(group_size, columns - i * group_size));
        g.nonfinite = g.nonfinite && !known_finite;
        const group_parameters<S> p =
            unlimited_parameters<S>(wanted_scale<S>(g), offset_range<S>(g).low, g.nonfinite, outer);
        scale_codes[i] = p.scale_code;
        scales[i] = p.scale;
        if constexpr (detail::scheme_traits<S>::has_zero) {
            zero_codes[i] = p.zero_code;
            zeros[i] = p.zero;
        }
    }
    if constexpr (values_may_overflow<S>) {
        // Far from the end of fp32 no value can be beyond it; one look at all groups keeps the loop above free of
        // choices.
        constexpr float safe = 1e38f / largest<typename S::element_type>;
        for (std::size_t i = 0; !S::has_offset && i < count; ++i) {
            near_end |= !(detail::abs_of(scales[i]) < safe);
            if constexpr (S::has_minimum) near_end |= !(detail::abs_of(zeros[i]) < 1e38f);
        }
        for (std::size_t i = 0; near_end && i < count; ++i) {
            group_statistics g =
                statistics_at<WithRange, WithSum>(from, i, detail::min_of(group_size, columns - i * group_size));
            g.nonfinite = g.nonfinite && !known_finite;
            const group_parameters<S> p = parameters_of<S>(g, outer);
            scale_codes[i] = p.scale_code;
            scales[i] = p.scale;
            if constexpr (detail::scheme_traits<S>::has_zero) {
                zero_codes[i] = p.zero_code;
                zeros[i] = p.zero;
            }
        }
    }
}

// How values become units of their group, which codes are rounded from.
enum class unit_rule {
    quotient,          // x / scale
    quotient_with_nan, // the same in an element that can say NaN
    integer_zero,      // x / scale + zero
    minimum,           // (x - zero) / scale
    wide_minimum,      // the same where x - zero may exceed fp32
};
template <any_scheme S>
inline constexpr unit_rule unit_rule_of = S::has_integer_zero                        ? unit_rule::integer_zero
                                          : S::has_minimum && values_may_overflow<S> ? unit_rule::wide_minimum
                                          : S::has_minimum                           ? unit_rule::minimum
                                          : has_nan_code<typename S::element_type>   ? unit_rule::quotient_with_nan
                                                                                     : unit_rule::quotient;

// x[0, count) in units of one group; the scale may be negative. Under scale 0 (an all-zero group, or one too small for
// its scale format) and NaN everything is zero, but for a NaN under scale 0 in an element that can say it.
template <unit_rule Rule>
NIBBLE_INLINE void units_of_group(const float* NIBBLE_RESTRICT x, std::size_t count, float scale, float zero,
                                  float* NIBBLE_RESTRICT units) noexcept {
    constexpr bool offset =
        Rule == unit_rule::integer_zero || Rule == unit_rule::minimum || Rule == unit_rule::wide_minimum;
    if (!(detail::abs_of(scale) > 0.0f)) {
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

// x[0, count) in units of their groups: the first has `first` columns, each further one `group_size`, the last what is
// left.
template <unit_rule Rule>
NIBBLE_NOINLINE void units_of_groups(const float* NIBBLE_RESTRICT x, std::size_t count, std::size_t first,
                                     std::size_t group_size, const float* NIBBLE_RESTRICT scales,
                                     const float* NIBBLE_RESTRICT zeros, float* NIBBLE_RESTRICT units) noexcept {
    std::size_t group = 0;
    const auto zero = [&]() NIBBLE_INLINE_LAMBDA {
        return Rule == unit_rule::quotient || Rule == unit_rule::quotient_with_nan ? 0.0f : zeros[group];
    };
    std::size_t at = 0;
    if (first == group_size && group_size == 16) {
        for (; at + 16 <= count; at += 16, ++group) units_of_group<Rule>(x + at, 16, scales[group], zero(), units + at);
    } else if (first == group_size && group_size == 32) {
        for (; at + 32 <= count; at += 32, ++group) units_of_group<Rule>(x + at, 32, scales[group], zero(), units + at);
    }
    for (std::size_t length = first; at < count; at += length, length = group_size, ++group)
        units_of_group<Rule>(x + at, detail::min_of(length, count - at), scales[group], zero(), units + at);
}

// The codes of units[0, count), one per element of `codes`; one function per element, rounding and overflow, whatever
// the scheme. `first` is the index of units[0] in the whole matrix: stochastic rounding draws its bits from (seed,
// index), learned rounding reads up[index].
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
template <any_scheme S> inline constexpr overflow overflow_of = S::scaled ? overflow::saturate : overflow::special;

// encode_units with one rounding, picked at run time, and what it needs besides the units.
template <element E> struct unit_encoder {
    void (*encode)(const float*, std::size_t, std::uint64_t, std::uint64_t, const std::uint8_t*,
                   typename E::code*) noexcept;
    std::uint64_t seed = 0;
    const std::uint8_t* up = nullptr;
};

// The codes of x[0, count) under given scales and zeros, one of each per group: the first group has `first` columns,
// each further one `group_size`, the last what is left; zeros are not read of schemes without. `index` is that of x[0]
// in the whole matrix; `units` is scratch for `count` numbers.
template <any_scheme S>
NIBBLE_INLINE void encode_groups(const float* x, std::size_t count, std::size_t first, std::size_t group_size,
                                 const float* scales, const float* zeros,
                                 const unit_encoder<typename S::element_type>& rounded, std::uint64_t index,
                                 float* units, typename S::element_type::code* codes) noexcept {
    if constexpr (S::scaled) {
        units_of_groups<unit_rule_of<S>>(x, count, first, group_size, scales,
                                         detail::scheme_traits<S>::has_zero ? zeros : nullptr, units);
        x = units;
    }
    rounded.encode(x, count, rounded.seed, index, rounded.up, codes);
}

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
[[nodiscard]] inline double squared_error(const float* x, std::size_t count, const group_parameters<S>& p) noexcept {
    typename detail::scheme_traits<S>::code codes[quantize_block];
    float units[quantize_block];
    double sums[8] = {};
    for (std::size_t start = 0; start < count; start += quantize_block) {
        const std::size_t n = detail::min_of(quantize_block, count - start);
        if constexpr (S::scaled)
            units_of_group<unit_rule_of<S>>(x + start, n, p.scale, p.zero, units);
        else
            __builtin_memcpy(units, x + start, n * sizeof(float));
        const auto add = [&](std::size_t i) NIBBLE_INLINE_LAMBDA {
            // In double: the product inside decode_value must not fuse with this difference, nor the difference
            // overflow.
            const float value = decode_value<S>(codes[i], p.scale, p.zero);
            const double d = static_cast<double>(x[start + i]) - static_cast<double>(value);
            const double e = detail::is_finite(x[start + i]) ? d : 0.0;
            sums[i % 8] = __builtin_fma(e, e, sums[i % 8]);
        };
        std::size_t i = 0;
        for (; i + 8 <= n; i += 8) {
            float of_eight[8];
            typename detail::scheme_traits<S>::code eight_codes[8];
            __builtin_memcpy(of_eight, units + i, sizeof of_eight);
            encode_eight_units<typename S::element_type, rounding::nearest_even, overflow_of<S>>(of_eight, eight_codes);
            __builtin_memcpy(codes + i, eight_codes, sizeof eight_codes);
            for (std::size_t j = 0; j < 8; ++j) add(i + j);
        }
        if (i < n)
            encode_units<typename S::element_type, rounding::nearest_even, overflow_of<S>>(units + i, n - i, 0, 0,
                                                                                           nullptr, codes + i);
        for (; i < n; ++i) add(i);
    }
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
