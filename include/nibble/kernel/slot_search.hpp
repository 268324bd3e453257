// kernel/slot_search.hpp: the parameters of one slot of a scheme with the least squared error that a search finds.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/kernel/scale_search.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>

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

// The best of the 16 values (8 where they are powers of two) of a coarse format about the plain one.
template <any_scheme S>
[[nodiscard]] inline slot_parameters<S> search_coarse_scale(const float* x, std::size_t n, const value_sums& g,
                                                            const outer_parameters& outer,
                                                            const slot_parameters<S>& plain) noexcept {
    using traits = detail::scheme_traits<S>;
    using format = typename traits::scale_element;
    constexpr const detail::grid<format>& sorted = detail::sorted_grid<format>;
    constexpr bool powers = sorted.values.at[sorted.count - 1] == 2.0f * sorted.values.at[sorted.count - 2];
    constexpr std::size_t batches = powers ? 1 : 2;
    constexpr std::size_t below = powers ? 3 : 8;
    std::size_t middle = 0;
    while (middle + 1 < sorted.count && sorted.values.at[middle] < detail::decoded<format>(plain.scale_code)) ++middle;
    slot_parameters<S> best = plain;
    double least = -1.0;
    for (std::size_t b = 0; b < batches; ++b) {
        slot_parameters<S> trial[8];
        eight_floats inverse;
        for (std::size_t j = 0; j < 8; ++j) {
            const std::size_t at = detail::min_of(sorted.count - 1, middle + 8 * b + j - detail::min_of(middle, below));
            trial[j] = plain;
            trial[j].scale_code = sorted.codes.at[at];
            decode_scale<S>(trial[j], outer);
            const bool usable = trial[j].scale > 0.0f && has_finite_values<S>(trial[j]);
            if (!usable) trial[j] = plain;
            inverse[static_cast<int>(j)] = inverse_of(static_cast<double>(trial[j].scale));
        }
        eight_doubles qq, xq;
        sum_codes_of_eight<typename traits::element>(x, n, inverse, qq, xq);
        for (std::size_t j = 0; j < 8; ++j) {
            const int lane = static_cast<int>(j);
            const double s = static_cast<double>(trial[j].scale);
            const double error = __builtin_fma(s, __builtin_fma(s, qq[lane], -2.0 * xq[lane]), g.xx);
            if (least >= 0.0 && !(error < least)) continue;
            least = error;
            best = trial[j];
        }
    }
    return best;
}

// The stored scale for a wanted one: of formats with few values the best of three.
template <any_scheme S>
[[nodiscard]] inline slot_parameters<S> store_scale(const float* x, std::size_t n, const value_sums& g, double wanted,
                                                    const outer_parameters& outer) noexcept {
    using traits = detail::scheme_traits<S>;
    using format = typename traits::scale_element;
    slot_parameters<S> best{};
    float inner = static_cast<float>(wanted);
    if constexpr (S::has_offset) inner -= outer.offset;
    if constexpr (S::two_level) inner = quotient_or_zero(inner, outer.scale);
    best.scale_code = encode<format>(inner);
    decode_scale<S>(best, outer);
    if constexpr (format::bits <= 8) {
        const auto error = [&](const slot_parameters<S>& p) {
            const double s = static_cast<double>(p.scale);
            return error_of(g, sum_codes<typename traits::element, false>(x, n, inverse_of(s), 0.0f), s);
        };
        const auto nearest = best.scale_code;
        double least = error(best);
        for (const bool above : {false, true}) {
            slot_parameters<S> other{};
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
template <any_scheme S>
[[nodiscard]] inline double nearest_error(const float* x, std::size_t n, const value_sums& g,
                                          const slot_parameters<S>& p) noexcept {
    using element = typename S::element_type;
    const double s = static_cast<double>(p.scale);
    const float inverse = inverse_of(s);
    if constexpr (S::has_integer_zero)
        return error_of(g, sum_codes_about<element>(x, n, inverse, p.zero), s);
    else if constexpr (S::has_minimum)
        return error_of(g, sum_codes<element, true>(x, n, inverse, p.zero), static_cast<double>(n), s,
                        static_cast<double>(p.zero));
    else
        return error_of(g, sum_codes<element, false>(x, n, inverse, 0.0f), s);
}

// The parameters of a slot with the values x[0, n), all finite, or `plain`, those of its rule, if what the search finds
// errs no less. The search knows codes by the nearest value; the two that remain are compared by codes as encode gives
// them.
template <any_scheme S>
[[nodiscard]] NIBBLE_NOINLINE slot_parameters<S>
search_slot(const float* x, std::size_t n, const outer_parameters& outer, const slot_parameters<S>& plain) noexcept {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using format = typename traits::scale_element;
    if constexpr (!S::scaled) {
        return plain;
    } else {
        slot_parameters<S> p = plain;
        const value_sums g = sum_group(x, n);
        if constexpr (S::has_integer_zero) {
            const scale_and_zero found = search_integer_zero<element>(x, n, g);
            p = unlimited_parameters<S>(static_cast<float>(found.scale), 0.0f, false, outer);
            p.zero_code = encode<element>(found.zero);
            p.zero = detail::decoded<element>(p.zero_code);
        } else if constexpr (S::has_minimum) {
            const affine found = search_affine<element, S::has_two_level_minimum>(x, n, g);
            p = unlimited_parameters<S>(static_cast<float>(found.scale), static_cast<float>(found.offset), false,
                                        outer);
        } else if constexpr (coarse_scales<format> && !S::has_offset) {
            p = search_coarse_scale<S>(x, n, g, outer, plain);
        } else {
            if constexpr (element::bits == 1) // the sign alone is the code, whatever the scale
                p = store_scale<S>(
                    x, n, g, g.magnitude / (static_cast<double>(n) * static_cast<double>(largest<element>)), outer);
            else
                p = store_scale<S>(x, n, g, search_scale<element, (lowest<format> < 0.0f)>(x, n, g), outer);
        }
        if (!detail::is_finite(p.scale) || !has_finite_values<S>(p)) return plain;
        if (p.scale_code == plain.scale_code && p.zero_code == plain.zero_code) return plain;
        if constexpr (encodes_nearest<element>) {
            // By nearest values, which differ from what encode gives at thresholds alone, where either errs as much:
            // 1e-3 is more than such ties and the rounding of products change.
            const double before = nearest_error(x, n, g, plain);
            const double after = nearest_error(x, n, g, p);
            if (after < 0.999 * before) return p;
            if (after > 1.001 * before) return plain;
        }
        return squared_error<S>(x, n, p) < squared_error<S>(x, n, plain) ? p : plain;
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
