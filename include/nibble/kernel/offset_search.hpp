// kernel/offset_search.hpp: scales with offsets, or with zero points, of least squared error for groups of weights.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/many_scales.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/scale_search.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Scale and offset: x is about s q + b.
struct affine {
    double scale = 0.0;
    double offset = 0.0;
};
// The best for given codes; with NonPositive b is at most 0. Also the error.
template <bool NonPositive>
[[nodiscard]] NIBBLE_INLINE affine fit_affine(const value_sums& g, const code_sums& c, double n,
                                              double& error) noexcept {
    affine f;
    const double determinant = __builtin_fma(n, c.qq, -(c.q * c.q)); // sums of small integers: exact
    if (determinant > 0.0) {
        f.scale = __builtin_fma(n, c.xq, -(g.x * c.q)) / determinant;
        f.offset = __builtin_fma(c.qq, g.x, -(c.q * c.xq)) / determinant;
    } else {
        f.offset = g.x / n;
    }
    if (determinant <= 0.0 || (NonPositive && f.offset > 0.0)) {
        f.offset = NonPositive && f.offset > 0.0 ? 0.0 : f.offset;
        f.scale = f.offset == 0.0 ? best_scale(c) : f.scale;
    }
    error = error_of(g, c, n, f.scale, f.offset);
    return f;
}
// The scales and offsets that a search tries first: the range, and narrowed at the upper, at the lower and at both ends
// by up to this share of a half.
template <element E> struct affine_tried {
    static constexpr int tries = E::bits <= 2 ? 7 : E::bits <= 4 ? 6 : 4;
    static constexpr double steps = E::bits <= 2 ? 22.0 : E::bits <= 4 ? 40.0 : 80.0;
    static constexpr std::size_t count = 2 + 3 * (tries - 1);

    [[nodiscard]] static NIBBLE_INLINE affine at(std::size_t j, double low, double width) noexcept {
        constexpr double levels = static_cast<double>(highest<E>);
        // A wider one, the range itself, and then three each.
        const auto third = (j + 1) / 3;
        const double share = (j < 2 ? static_cast<double>(j) - 1.0 : static_cast<double>(third)) / steps;
        const std::size_t end = j < 2 ? 0 : (j + 1) % 3;
        const double below = end == 0 ? 0.5 * share : end == 1 ? share : 0.0;
        return {width * (1.0 - share) / levels, __builtin_fma(width, below, low)};
    }
};

// Sums of codes less `center`, of their squares and of their products with t = (x - offset) inverse, in fp32.
template <element E, isa Isa>
NIBBLE_INLINE void sum_screened_codes(const float* x, std::size_t n, const lanes<Isa>& offset,
                                      const lanes<Isa>& inverse, const lanes<Isa>& center, lanes<Isa>& q,
                                      lanes<Isa>& qq, lanes<Isa>& tq) noexcept {
    using vector = lanes<Isa>;
    for (std::size_t start = 0; start < n; start += screened_run) {
        const std::size_t end = detail::min_of(n, start + screened_run);
        vector run_q(0.0f);
        vector run_qq(0.0f);
        vector run_tq(0.0f);
        for (std::size_t i = start; i < end; ++i) {
            const vector t = (vector(x[i]) - offset) * inverse;
            const vector code = nearest_values<E>(t) - center;
            run_q = run_q + code;
            run_qq = run_qq + code * code;
            run_tq = run_tq + t * code;
        }
        q = q + run_q;
        qq = qq + run_qq;
        tq = tq + run_tq;
    }
}

// What Count scales and offsets at once gain over the best offset alone, in fp32, in lanes, over gains[]: no less than
// that, whatever the rounding, and infinity where the best offset may be positive and must not. Returns what the best
// of the others gains at least. In units of the square of the first scale.
template <isa Isa, element E, bool NonPositive, std::size_t Count>
[[nodiscard]] NIBBLE_INLINE float screen_affine(const float* x, std::size_t n, const value_sums& g,
                                                const affine (&from)[Count], float* gains) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    constexpr std::size_t padded = (Count + 15) / 16 * 16;
    constexpr float center = highest<E> * 0.5f; // about which codes cancel less in a covariance
    alignas(64) float inverses[padded] = {};
    alignas(64) float offsets[padded] = {};
    alignas(64) float means[padded] = {}; // of t
    alignas(64) float relative[padded] = {};
    const double mean = g.x / static_cast<double>(n);
    for (std::size_t j = 0; j < Count; ++j) {
        inverses[j] = inverse_of(from[j].scale);
        offsets[j] = static_cast<float>(from[j].offset);
        means[j] = static_cast<float>((mean - static_cast<double>(offsets[j])) * static_cast<double>(inverses[j]));
        relative[j] = static_cast<float>(static_cast<double>(inverses[j]) * from[0].scale);
    }
    const vector per_n(1.0f / static_cast<float>(n));
    // |t| is below twice the highest value, by how far the range is narrowed.
    const vector error(4.0f * screening_error<1>(n) * highest<E> * highest<E>);
    vector most(0.0f);
    for (std::size_t first = 0; first < Count; first += wide::width) {
        const vector inverse = vector::load(inverses + first, wide::width);
        const vector offset = vector::load(offsets + first, wide::width);
        vector q(0.0f);
        vector qq(0.0f);
        vector tq(0.0f);
        sum_screened_codes<E>(x, n, offset, inverse, vector(center), q, qq, tq);
        const vector mean_q = q * per_n;
        const vector mean_t = vector::load(means + first, wide::width);
        const vector spread = qq * per_n - mean_q * mean_q;
        const vector shared = tq * per_n - mean_t * mean_q;
        const vector unit = vector::load(relative + first, wide::width);
        const vector scale = vector(1.0f) / (spread * (unit * unit));
        const vector above = shared + error;
        const vector below = larger(shared - error, vector(0.0f));
        vector high = above * above * scale;
        vector low = below * below * scale;
        // A small spread is not known well.
        const vector known(64.0f * screening_error<1>(n) * highest<E> * highest<E>);
        high = select_less(known, spread, high, vector(detail::infinity));
        low = select_less(known, spread, low, vector(0.0f));
        if constexpr (NonPositive) {
            // The offset that suits: offset + (mean t - slope x mean code) / inverse, the slope being shared / spread.
            const vector slope = shared / spread;
            const vector suits = offset * inverse + (mean_t - slope * (mean_q + vector(center)));
            const vector doubt(0.01f * highest<E>);
            high = select_less(suits + doubt, vector(0.0f), high, vector(detail::infinity));
            low = select_less(suits + doubt, vector(0.0f), low, vector(0.0f));
        }
        const std::size_t count = detail::min_of(wide::width, Count - first);
        high.store(gains + first, count);
        most = larger(low, most);
    }
    return largest_lane(most) * (1.0f - 0x1p-18f);
}
template <isa Isa, element E, bool NonPositive>
[[nodiscard]] inline affine search_affine(const float* x, std::size_t n, const value_sums& g) noexcept {
    const double low = static_cast<double>(NonPositive && g.low > 0.0f ? 0.0f : g.low);
    const double width = static_cast<double>(g.high) - low;
    const double count = static_cast<double>(n);
    affine best{0.0, NonPositive ? (g.x > 0.0 ? 0.0 : g.x / count) : g.x / count};
    double least = error_of(g, code_sums{}, count, 0.0, best.offset);
    if (!(width > 0.0)) return best;
    const auto attempt = [&](const affine& from, affine& fitted) {
        const code_sums c = sum_codes<Isa, E, true>(x, n, inverse_of(from.scale), static_cast<float>(from.offset));
        double error = 0.0;
        fitted = fit_affine<NonPositive>(g, c, count, error);
        if (!(error < least) || !(fitted.scale > 0.0)) return false;
        least = error;
        best = fitted;
        return true;
    };
    using tried = affine_tried<E>;
    constexpr std::size_t candidates = tried::count;
    affine from[candidates];
    for (std::size_t j = 0; j < candidates; ++j) from[j] = tried::at(j, low, width);
    float screened[candidates];
    const float bound = screen_affine<Isa, E, NonPositive, candidates>(x, n, g, from, screened);
    affine fitted;
    for (std::size_t j = 0; j < candidates; ++j)
        if (!(screened[j] < bound)) attempt(from[j], fitted);
    for (int i = 0; i < 6 && attempt(best, fitted); ++i) {
    }
    return best;
}

// A scale and an integer zero z with small sum (x - s (q - z))^2: the range narrowed at either end, and then the zeros
// and scales beside the best.
struct scale_and_zero {
    double scale = 0.0;
    float zero = 0.0f;
};
// The integers nearest to t from bottom to top.
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE lanes<Isa> nearest_between(const lanes<Isa>& t, const lanes<Isa>& bottom,
                                                       const lanes<Isa>& top) noexcept {
    const lanes<Isa> integers(12582912.0f);
    return (smaller(larger(t, bottom), top) + integers) - integers;
}
// Sums with the values q - z.
template <isa Isa, element E>
[[nodiscard]] NIBBLE_INLINE code_sums sum_codes_about(const float* x, std::size_t n, float inverse,
                                                      float zero) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    lane_sums sums;
    for_all_lanes<wide>(x, n, [&](const vector& value, std::size_t count) NIBBLE_INLINE_LAMBDA {
        sums.template add<false>(nearest_between(value * vector(inverse), vector(-zero), vector(-zero + highest<E>)),
                                 value, count);
    });
    return sums.all();
}
// What is tried of the range, shares cut off at the lower and at the upper end, in thirds of a unit: of long groups as
// much as leaves so many deviations.
inline constexpr signed char range_cuts[32][2] = {
    {0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},   {5, 5}, {6, 6}, {7, 7}, {8, 8},  {9, 9}, {10, 10},
    {12, 12}, {-1, -1}, {-2, -2}, {-4, -4}, {-6, -6}, {3, 0}, {0, 3}, {6, 0}, {0, 6},  {9, 3}, {3, 9},
    {12, 0},  {0, 12},  {7, 2},   {2, 7},   {4, 0},   {0, 4}, {9, 0}, {0, 9}, {2, -2}, {-2, 2}};
template <element E> [[nodiscard]] NIBBLE_INLINE double cut_unit(const value_sums& g, std::size_t n) noexcept {
    constexpr double least_unit = E::bits <= 2 ? 0.06 : E::bits == 3 ? 0.045 : E::bits <= 5 ? 0.042 : 0.004;
    constexpr double deviations = E::bits <= 2 ? 2.4 : E::bits == 3 ? 3.6 : E::bits == 4 ? 4.8 : 7.0;
    const double low = static_cast<double>(g.low < 0.0f ? g.low : 0.0f);
    const double high = static_cast<double>(g.high > 0.0f ? g.high : 0.0f);
    const double mean = g.x / static_cast<double>(n);
    const double variance = __builtin_fma(-mean, mean, g.xx / static_cast<double>(n));
    const double spread = high > low && variance > 0.0 ? __builtin_sqrt(variance) / (high - low) : 1.0;
    const double long_unit = (1.0 - deviations * spread) / 4.0;
    return long_unit > least_unit ? long_unit : least_unit;
}
// And then beside the best.
struct zero_step {
    float factor; // of the scale
    float zero;
};
template <element E>
inline constexpr auto zero_steps = [] {
    constexpr double fine = E::bits <= 4 ? 1.0 : E::bits <= 6 ? 0.4 : 0.1;
    constexpr double changes[8] = {0.0, 0.0, -0.01, -0.025, 0.01, 0.025, -0.05, 0.045};
    struct all {
        zero_step at[8];
        [[nodiscard]] constexpr const zero_step* begin() const noexcept { return at; }
        [[nodiscard]] constexpr const zero_step* end() const noexcept { return at + 8; }
    } steps{};
    for (int j = 0; j < 8; ++j)
        steps.at[j] = {static_cast<float>(1.0 + changes[j] * fine), j == 0 ? 1.0f : j == 1 ? -1.0f : 0.0f};
    return steps;
}();
// Takes the one of Count scales, with their zeros, that gains most, fitted to its codes, if that is more than `most`.
template <isa Isa, element E, std::size_t Count>
NIBBLE_INLINE void try_zeros(const float* x, std::size_t n, float reach, const double (&scales)[Count],
                             const float (&zeros)[Count], scale_and_zero& best, double& most) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    constexpr std::size_t padded = (Count + 15) / 16 * 16;
    alignas(64) float inverses[padded] = {};
    alignas(64) float bottoms[padded] = {};
    for (std::size_t j = 0; j < Count; ++j) {
        inverses[j] = inverse_of(scales[j]);
        bottoms[j] = -zeros[j];
    }
    sums_of_many<padded> sums;
    sum_many<Isa, E, false>(x, n, reach, sums, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
        const vector inverse = wide::load(inverses + first);
        const vector bottom = wide::load(bottoms + first);
        const vector top = bottom + vector(highest<E>);
        return [=](const vector& value) NIBBLE_INLINE_LAMBDA { return nearest_between(value * inverse, bottom, top); };
    });
    visit_largest_gains(sums, Count, most, [&](std::size_t j) {
        const double qq = sums.qq[j];
        const double fitted = qq > 0.0 ? sums.xq[j] * sums.power / qq : 0.0;
        const double gained = fitted * (sums.xq[j] * sums.power);
        if (gained > most && fitted > 0.0) {
            most = gained;
            best = {fitted, zeros[j]};
        }
    });
}
template <isa Isa, element E>
[[nodiscard]] inline scale_and_zero search_integer_zero(const float* x, std::size_t n, const value_sums& g) noexcept {
    constexpr float levels = highest<E>;
    const double low = static_cast<double>(g.low < 0.0f ? g.low : 0.0f);
    const double high = static_cast<double>(g.high > 0.0f ? g.high : 0.0f);
    scale_and_zero best;
    double most = -1.0;
    const float reach = g.top < 0.0f ? -g.top : g.top;
    const auto zero_of = [&](double bottom, double scale) {
        const float zero = detail::round_even(static_cast<float>(-bottom / scale));
        return zero < 0.0f ? 0.0f : zero > levels ? levels : zero;
    };
    const double unit = cut_unit<E>(g, n);
    {
        double scales[32];
        float zeros[32];
        for (std::size_t j = 0; j < 32; ++j) {
            const double bottom = low * (1.0 - unit / 3.0 * static_cast<double>(range_cuts[j][0]));
            const double end = high * (1.0 - unit / 3.0 * static_cast<double>(range_cuts[j][1]));
            scales[j] = (end - bottom) / static_cast<double>(levels);
            zeros[j] = zero_of(bottom, scales[j]);
        }
        try_zeros<Isa, E>(x, n, reach, scales, zeros, best, most);
    }
    if (!(most > 0.0)) return best;
    for (int round = 0; round < 2; ++round) {
        const scale_and_zero from = best;
        double scales[8];
        float zeros[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = from.scale * static_cast<double>(zero_steps<E>.at[j].factor);
            const float zero = from.zero + zero_steps<E>.at[j].zero;
            zeros[j] = zero < 0.0f ? 0.0f : zero > levels ? levels : zero;
        }
        try_zeros<Isa, E>(x, n, reach, scales, zeros, best, most);
    }
    return best;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
