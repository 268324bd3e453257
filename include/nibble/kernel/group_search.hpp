// kernel/group_search.hpp: the parameters of one scale group with the least squared error that a search finds.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/many_groups.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/offset_search.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/kernel/scale_search.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// A format with so few values per factor of two that all near the plain scale are tried: powers of two, small floats.
template <element Format>
inline constexpr bool coarse_scales = [] {
    if constexpr (Format::bits > 8) {
        return false;
    } else {
        constexpr const detail::grid<Format>& sorted = detail::sorted_grid<Format>;
        std::size_t close = 0;
        for (std::size_t i = 0; i < sorted.count; ++i) close += sorted.values.at[i] > 0.4f * largest<Format> ? 1u : 0u;
        return close <= 16;
    }
}();

// Where the value of each code stands in the ascending list of values: as many are below it (all but the last for what
// is not finite).
template <small_element E>
inline constexpr auto rank_of = [] {
    detail::table<std::uint8_t, (std::size_t{1} << E::bits)> t{};
    constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
    for (std::size_t c = 0; c < t.size; ++c) {
        std::size_t at = 0;
        while (at + 1 < sorted.count && sorted.values.at[at] < decode_table<E>.at[c]) ++at;
        t.at[c] = static_cast<std::uint8_t>(at);
    }
    return t;
}();

// The squared errors of x under Count scales, values of the scale's format, at once in fp32, a scale in each lane; NaN
// for those that cannot be used. Returns a bound that errors above it are not the least, whatever the rounding of both.
template <isa Isa, any_scheme S, std::size_t Count>
[[nodiscard]] NIBBLE_INLINE float screen_stored_scales(const float* x, std::size_t n, const value_sums& g,
                                                       const outer_parameters& outer, const group_parameters<S>& plain,
                                                       const float* stored, float* errors) noexcept {
    using element = typename detail::scheme_traits<S>::element;
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    // In units of the plain scale, so that squares are in the range of fp32.
    const float unit = 1.0f / plain.scale;
    for (std::size_t first = 0; first < Count; first += wide::width) {
        const std::size_t count = detail::min_of(wide::width, Count - first);
        vector scale = vector::load(stored + first, count);
        if constexpr (S::two_level) scale = scale * vector(outer.scale);
        const vector inverse = vector(1.0f) / scale;
        vector sum(0.0f);
        for (std::size_t start = 0; start < n; start += screened_run) {
            const std::size_t end = detail::min_of(n, start + screened_run);
            vector run_sum(0.0f);
            for (std::size_t i = start; i < end; ++i) {
                const vector t = inverse * vector(x[i]);
                const vector d = t - nearest_values<element>(t);
                run_sum = run_sum + d * d;
            }
            sum = sum + run_sum;
        }
        const vector relative = scale * vector(unit);
        (sum * (relative * relative)).store(errors + first, count);
    }
    float least = detail::infinity;
    for (std::size_t j = 0; j < Count; ++j) least = errors[j] < least ? errors[j] : least;
    if (!(least < detail::infinity)) return least;
    // Each t is rounded twice: a difference is wrong by 2^-22 of it at most, so that by Cauchy and Schwarz the root of
    // the sum of the squares is by as much of the root of theirs; and the sums are of squares.
    const double length = __builtin_sqrt(g.xx) * static_cast<double>(unit) * 0x1p-22;
    const double root = __builtin_sqrt(static_cast<double>(least)) * (1.0 + static_cast<double>(screening_error<1>(n)));
    const double limit = (root + 2.0 * length) * (1.0 + static_cast<double>(screening_error<1>(n)));
    return static_cast<float>(limit * limit * (1.0 + 0x1p-20));
}

// The best of the 16 values (8 where they are powers of two) of a coarse format about the plain one.
template <isa Isa, any_scheme S>
[[nodiscard]] inline group_parameters<S> search_coarse_scale(const float* x, std::size_t n, const value_sums& g,
                                                             const outer_parameters& outer,
                                                             const group_parameters<S>& plain) noexcept {
    using traits = detail::scheme_traits<S>;
    using format = typename traits::scale_element;
    constexpr const detail::grid<format>& sorted = detail::sorted_grid<format>;
    constexpr bool powers = sorted.values.at[sorted.count - 1] == 2.0f * sorted.values.at[sorted.count - 2];
    constexpr std::size_t batches = powers ? 1 : 2;
    constexpr std::size_t below = powers ? 3 : 8;
    const std::size_t middle = rank_of<format>.at[plain.scale_code];
    const auto place = [&](std::size_t j) {
        return detail::min_of(sorted.count - 1, middle + j - detail::min_of(middle, below));
    };
    float scales[8 * batches];
    float screened[8 * batches];
    for (std::size_t j = 0; j < 8 * batches; ++j) scales[j] = sorted.values.at[place(j)];
    const float least_screened = screen_stored_scales<Isa, S, 8 * batches>(x, n, g, outer, plain, scales, screened);
    group_parameters<S> best = plain;
    double least = -1.0;
    for (std::size_t j = 0; j < 8 * batches; ++j) {
        if (screened[j] > least_screened) continue;
        group_parameters<S> trial = plain;
        trial.scale_code = sorted.codes.at[place(j)];
        decode_scale<S>(trial, outer);
        if (!(trial.scale > 0.0f && has_finite_values<S>(trial))) trial = plain;
        const double s = static_cast<double>(trial.scale);
        const double error = error_of(g, sum_codes<Isa, typename traits::element, false>(x, n, inverse_of(s), 0.0f), s);
        if (least >= 0.0 && !(error < least)) continue;
        least = error;
        best = trial;
    }
    return best;
}

// The stored scale for a wanted one: of formats with few values the best of three.
template <isa Isa, any_scheme S>
[[nodiscard]] inline group_parameters<S> store_scale(const float* x, std::size_t n, const value_sums& g, double wanted,
                                                     const outer_parameters& outer) noexcept {
    using traits = detail::scheme_traits<S>;
    using format = typename traits::scale_element;
    group_parameters<S> best{};
    float inner = static_cast<float>(wanted);
    if constexpr (S::has_offset) inner -= outer.offset;
    if constexpr (S::two_level) inner = quotient_or_zero(inner, outer.scale);
    best.scale_code = encode<format>(inner);
    decode_scale<S>(best, outer);
    if constexpr (format::bits <= 8) {
        const auto error = [&](const group_parameters<S>& p) {
            const double s = static_cast<double>(p.scale);
            return error_of(g, sum_codes<Isa, typename traits::element, false>(x, n, inverse_of(s), 0.0f), s);
        };
        const auto nearest = best.scale_code;
        double least = error(best);
        for (const bool above : {false, true}) {
            group_parameters<S> other{};
            other.scale_code = neighbour<format>(nearest, above);
            decode_scale<S>(other, outer);
            const double e = error(other);
            if (!(e < least)) continue;
            least = e;
            best = other;
        }
    }
    return best;
}

// The squared error of x under p, each value the nearest.
template <isa Isa, any_scheme S>
[[nodiscard]] inline double nearest_error(const float* x, std::size_t n, const value_sums& g,
                                          const group_parameters<S>& p) noexcept {
    using element = typename S::element_type;
    const double s = static_cast<double>(p.scale);
    const float inverse = inverse_of(s);
    if constexpr (S::has_integer_zero)
        return error_of(g, sum_codes_about<Isa, element>(x, n, inverse, p.zero), s);
    else if constexpr (S::has_minimum)
        return error_of(g, sum_codes<Isa, element, true>(x, n, inverse, p.zero), static_cast<double>(n), s,
                        static_cast<double>(p.zero));
    else
        return error_of(g, sum_codes<Isa, element, false>(x, n, inverse, 0.0f), s);
}

// Can short groups be searched many at once?
template <any_scheme S>
inline constexpr bool searches_many = [] {
    if constexpr (!S::scaled) {
        return false;
    } else {
        using stored_scale = typename detail::scheme_traits<S>::scale_element;
        constexpr bool exact = integer_bits<typename S::element_type> != 0 && S::element_type::bits > 1;
        return exact && (S::has_integer_zero || S::has_minimum || !coarse_scales<stored_scale> || S::has_offset);
    }
}();

// `found` for a group with the values x[0, n), or `plain` if what was found errs no less, or cannot be used. The search
// knows codes by the nearest value; the two that remain are compared by codes as encode gives them.
template <isa Isa, any_scheme S>
[[nodiscard]] inline group_parameters<S> better_of(const float* x, std::size_t n, const value_sums& g,
                                                   const group_parameters<S>& plain,
                                                   const group_parameters<S>& found) noexcept {
    if (!detail::is_finite(found.scale) || !has_finite_values<S>(found)) return plain;
    if (found.scale_code == plain.scale_code && found.zero_code == plain.zero_code) return plain;
    if constexpr (encodes_nearest<typename S::element_type>) {
        // By nearest values, which differ from what encode gives at thresholds alone, where either errs as much: 1e-3
        // is more than such ties and the rounding of products change.
        const double before = nearest_error<Isa, S>(x, n, g, plain);
        const double after = nearest_error<Isa, S>(x, n, g, found);
        if (after < 0.999 * before) return found;
        if (after > 1.001 * before) return plain;
    }
    return squared_error<S>(x, n, found) < squared_error<S>(x, n, plain) ? found : plain;
}
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE group_parameters<S> with_zero(const scale_and_zero& found,
                                                          const outer_parameters& outer) noexcept {
    using element = typename S::element_type;
    group_parameters<S> p = unlimited_parameters<S>(static_cast<float>(found.scale), 0.0f, false, outer);
    p.zero_code = encode<element>(found.zero);
    p.zero = detail::decoded<element>(p.zero_code);
    return p;
}

// search_group of many_groups groups of n <= short_group values each, side by side: over `parameters`, the plain ones.
template <isa Isa, any_scheme S>
NIBBLE_NOINLINE void search_groups(const float* x, std::size_t n, const outer_parameters* outer,
                                   group_parameters<S>* parameters) noexcept {
    constexpr std::size_t count = many_groups;
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    value_sums g[many_groups];
    for (std::size_t j = 0; j < count; ++j) g[j] = sum_group(x + j * n, n);
    const auto keep_better = [&](std::size_t j, const group_parameters<S>& found) {
        parameters[j] = better_of<Isa, S>(x + j * n, n, g[j], parameters[j], found);
    };
    if constexpr (S::has_integer_zero) {
        scale_and_zero found[many_groups];
        search_integer_zeros<Isa, element>(x, n, count, g, found);
        for (std::size_t j = 0; j < count; ++j) keep_better(j, with_zero<S>(found[j], outer[j]));
    } else if constexpr (S::has_minimum) {
        affine found[many_groups];
        search_affines<Isa, element, S::has_two_level_minimum, count>(x, n, g, found);
        for (std::size_t j = 0; j < count; ++j)
            keep_better(j, unlimited_parameters<S>(static_cast<float>(found[j].scale),
                                                   static_cast<float>(found[j].offset), false, outer[j]));
    } else {
        double found[many_groups];
        search_scales<Isa, element, (lowest<typename traits::scale_element> < 0.0f)>(x, n, count, g, found);
        for (std::size_t j = 0; j < count; ++j)
            keep_better(j, store_scale<Isa, S>(x + j * n, n, g[j], found[j], outer[j]));
    }
}

// The parameters of a group with the values x[0, n), all finite, or `plain`, those of its rule.
template <isa Isa, any_scheme S>
[[nodiscard]] NIBBLE_NOINLINE group_parameters<S>
search_group(const float* x, std::size_t n, const outer_parameters& outer, const group_parameters<S>& plain) noexcept {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using format = typename traits::scale_element;
    if constexpr (!S::scaled) {
        return plain;
    } else {
        group_parameters<S> p = plain;
        const value_sums g = sum_group(x, n);
        if constexpr (S::has_integer_zero) {
            const scale_and_zero found = search_integer_zero<Isa, element>(x, n, g);
            p = with_zero<S>(found, outer);
        } else if constexpr (S::has_minimum) {
            const affine found = search_affine<Isa, element, S::has_two_level_minimum>(x, n, g);
            p = unlimited_parameters<S>(static_cast<float>(found.scale), static_cast<float>(found.offset), false,
                                        outer);
        } else if constexpr (coarse_scales<format> && !S::has_offset) {
            p = search_coarse_scale<Isa, S>(x, n, g, outer, plain);
        } else {
            if constexpr (element::bits == 1) // the sign alone is the code, whatever the scale
                p = store_scale<Isa, S>(
                    x, n, g, g.magnitude / (static_cast<double>(n) * static_cast<double>(largest<element>)), outer);
            else
                p = store_scale<Isa, S>(x, n, g, search_scale<Isa, element, (lowest<format> < 0.0f)>(x, n, g), outer);
        }
        return better_of<Isa, S>(x, n, g, plain, p);
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
