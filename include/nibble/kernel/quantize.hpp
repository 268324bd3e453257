// kernel/quantize.hpp: the loops behind quantize: statistics of a run of weights, its scale, its codes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>

#include <bit>
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

// Statistics of x[0, count); without WithRange low and high stay 0. Integer comparisons of bit patterns, which order fp32 magnitudes, vectorize without
// -ffast-math; NaN and infinity are counted as zeros and reported.
template <bool WithRange = true>
[[nodiscard]] inline group_statistics measure(const float* x, std::size_t count, bool with_sum) noexcept {
    group_statistics g{};
    std::int32_t top = 0;   // of the magnitudes
    std::int32_t low = 0x7fffffff;
    std::int32_t high = -0x7fffffff - 1;
    std::int32_t special = 0;
    const auto one = [&](std::size_t i) NIBBLE_INLINE_LAMBDA {
        const std::int32_t word = std::bit_cast<std::int32_t>(x[i]);
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
        return ordered < 0 ? -std::bit_cast<float>(-ordered) : std::bit_cast<float>(ordered);
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
            const std::int32_t word = std::bit_cast<std::int32_t>(x[at]) & 0x7fffffff;
            return static_cast<double>(std::bit_cast<float>(word < 0x7f800000 ? word : 0));
        };
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8)
            for (std::size_t j = 0; j < 8; ++j) sums[j] += magnitude(i + j);
        for (std::size_t j = 0; i < count; ++i, ++j) sums[j] += magnitude(i);
        g.sum_magnitude = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
    return g;
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
    NIBBLE_INLINE offset_range(const group_statistics& g, float shrink) noexcept
        : low(((S::has_integer_zero || S::has_two_level_minimum) && g.low > 0.0f ? 0.0f : g.low) * shrink),
          high((S::has_integer_zero && g.high < 0.0f ? 0.0f : g.high) * shrink) {}
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

// The parameters that follow from a slot's statistics and, for two levels, what it stands under; `shrink` scales the
// range (1 for absmax; a search tries others).
template <any_scheme S>
[[nodiscard]] inline slot_parameters<S> parameters_of(const group_statistics& g, const outer_parameters& outer,
                                                      float shrink) noexcept {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using scale_element = typename traits::scale_element;
    slot_parameters<S> p{};
    if constexpr (S::scaled) {
        float wanted = wanted_scale<S>(g, shrink);
        const float low = offset_range<S>(g, shrink).low;
        if constexpr (S::has_offset) wanted -= outer.offset;
        if constexpr (S::two_level) wanted = outer.scale > 0.0f ? wanted / outer.scale : 0.0f;
        if constexpr (has_nan_code<scale_element> && scale_element::bits == 8) {
            // A block scale that can say NaN says it (OCP MX): no value of the block can be trusted.
            if (g.nonfinite && !S::two_level) {
                p.scale_code = encode<scale_element>(detail::quiet_nan);
                p.poisoned = true;
            }
        }
        if (!p.poisoned) p.scale_code = encode<scale_element>(wanted);
        p.scale = detail::decoded<scale_element>(p.scale_code);
        if constexpr (S::two_level) p.scale = detail::two_level_product<S>(p.scale, outer.scale, outer.offset);
        if constexpr (S::has_two_level_minimum) {
            p.zero_code = encode<typename traits::zero_element>(outer.minimum > 0.0f ? -low / outer.minimum : 0.0f);
            p.zero = -(traits::zero_element::decode(p.zero_code) * outer.minimum);
        } else if constexpr (S::has_minimum) {
            p.zero_code = encode<typename traits::zero_element>(low);
            p.zero = traits::zero_element::decode(p.zero_code);
        }
        if constexpr (S::has_integer_zero) {
            const float exact = p.scale > 0.0f ? -low / p.scale : 0.0f;
            p.zero_code = encode<element>(exact);
            p.zero = detail::decoded<element>(p.zero_code);
        }
    }
    return p;
}

// x[0, count) in units of one slot: what its codes are rounded from. Under scale 0 (an all-zero slot, or one too small for its
// scale format), a scale below 0 and NaN everything is zero, but for a NaN under scale 0 in an element that can say it.
template <any_scheme S>
NIBBLE_INLINE void scale_run(const float* NIBBLE_RESTRICT x, std::size_t count, const slot_parameters<S>& p,
                             float* NIBBLE_RESTRICT units) noexcept {
    using element = typename detail::scheme_traits<S>::element;
    if constexpr (!S::scaled) {
        if (count != 0) __builtin_memcpy(units, x, count * sizeof(float));
    } else {
        const float zero = p.zero;
        if (!(p.scale > 0.0f)) {
            const bool keep_nan = has_nan_code<element> && p.scale == 0.0f && !S::has_integer_zero && !S::has_minimum;
            for (std::size_t i = 0; i < count; ++i)
                units[i] = keep_nan && detail::is_nan(x[i]) ? x[i] : S::has_integer_zero ? zero : 0.0f;
            return;
        }
        const float divisor = p.scale;
        const auto one = [&](std::size_t i) NIBBLE_INLINE_LAMBDA {
            if constexpr (S::has_integer_zero) {
                units[i] = detail::nan_to_zero(x[i]) / divisor + zero; // a NaN is the code of zero, not the code 0
            } else if constexpr (S::has_minimum) {
                units[i] = (detail::nan_to_zero(x[i]) - zero) / divisor;
            } else {
                units[i] = x[i] / divisor;
            }
        };
        // Inner loops of constant length: the compiler then has vectors for runs of 16 too.
        std::size_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (std::size_t j = 0; j < 16; ++j) one(i + j);
        for (; i < count; ++i) one(i);
    }
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
        scale_run<S>(x + start, n, p, units);
        encode_units<typename S::element_type, rounding::nearest_even, overflow_of<S>>(units, n, 0, 0, nullptr, codes);
        for (std::size_t i = 0; i < n; ++i) {
            // In double: the product inside decode_value must not fuse with this difference, nor the difference overflow.
            const float value = decode_value<S>(codes[i], p.scale, p.zero);
            const double d = static_cast<double>(x[start + i]) - static_cast<double>(value);
            const double e = detail::is_finite(x[start + i]) && detail::is_finite(value) ? d : 0.0;
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
