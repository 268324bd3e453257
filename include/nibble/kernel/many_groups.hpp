// kernel/many_groups.hpp: the searches for scales, with zero points or offsets, of many short groups at once: one in
// each lane.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/many_scales.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/offset_search.hpp>
#include <nibble/kernel/scale_search.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Groups searched together, and their length at most. (Fewer or longer ones have a scale in each lane.)
inline constexpr std::size_t many_groups = 16;
inline constexpr std::size_t short_group = 64;
static_assert(short_group <= exact_run);

// A number for each group.
template <class T> struct alignas(64) of_groups {
    T at[many_groups];
};

// Four of them: GCC leaves loops over doubles with choices scalar. Not returned by a function, whose convention without
// AVX is another one, as compilers warn.
struct four_at {
    four_doubles v;
    NIBBLE_INLINE explicit four_at(const double* from) noexcept { __builtin_memcpy(&v, from, sizeof v); }
};
NIBBLE_INLINE void set_four(double* to, const four_doubles& v) noexcept {
    __builtin_memcpy(to, &v, sizeof v);
}
using four_choices = decltype(four_doubles{} < four_doubles{});
[[nodiscard]] NIBBLE_INLINE bool any_of(const four_choices& c) noexcept {
    return ((c[0] | c[1]) | (c[2] | c[3])) != 0;
}

// The sums of the codes that gain most, in each group: (sum x q)^2 / sum q^2.
struct best_of_groups {
    of_groups<double> qq;
    of_groups<double> xq;

    best_of_groups() noexcept {
        for (std::size_t j = 0; j < many_groups; ++j) {
            qq.at[j] = 1.0;
            xq.at[j] = 0.0;
        }
    }
    // Takes those that gain more, changed() of each four groups; returns whether there are any.
    template <bool NonNegative, class Changed>
    NIBBLE_INLINE bool take(const of_groups<double>& trial_qq, const of_groups<double>& trial_xq,
                            const Changed& changed) noexcept {
        four_choices any{};
        for (std::size_t j = 0; j < many_groups; j += 4) {
            const four_doubles a = four_at(trial_xq.at + j).v;
            const four_doubles b = four_at(trial_qq.at + j).v;
            const four_doubles c = four_at(xq.at + j).v;
            const four_doubles d = four_at(qq.at + j).v;
            four_choices better = a * a * d > c * c * b;
            if constexpr (NonNegative) better &= a > four_doubles{};
            set_four(xq.at + j, better ? a : c);
            set_four(qq.at + j, better ? b : d);
            changed(j, better);
            any |= better;
        }
        return any_of(any);
    }
    [[nodiscard]] NIBBLE_INLINE double scale(std::size_t j) const noexcept { return xq.at[j] / qq.at[j]; }
};

// Groups of the same length side by side, each over its own power of two: |x| < 2, and the parts of them that exact
// sums take.
template <isa Isa, element E> class group_lanes {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    static constexpr int bits = integer_bits<E>;
    static_assert(bits != 0);

public:
    // `count` groups of n values, one after another; lanes beyond them hold zeros, or the same again.
    template <bool Again = false>
    NIBBLE_INLINE void load(const float* x, std::size_t n, std::size_t count, const value_sums* g) noexcept {
        n_ = n;
        for (std::size_t lane = 0; lane < many_groups; ++lane) {
            const std::size_t j = Again ? lane % count : lane;
            const float top = j >= count ? 1.0f : g[j].top < 0.0f ? -g[j].top : g[j].top;
            const float power = split_run<bits>::power_of(top);
            power_.at[lane] = static_cast<double>(power);
            const float per_power = 1.0f / power;
            for (std::size_t i = 0; i < n; ++i)
                parts_.value[i * many_groups + lane] = j < count ? x[j * n + i] * per_power : 0.0f;
        }
        parts_.template split<wide>(n * many_groups);
    }
    [[nodiscard]] NIBBLE_INLINE double power(std::size_t j) const noexcept { return power_.at[j]; }
    [[nodiscard]] NIBBLE_INLINE std::size_t size() const noexcept { return n_; }

    // Sums of the values of codes in the first Count lanes at least; codes_from(first lane) gives a function from
    // values to those.
    template <bool WithQ, std::size_t Count = many_groups, class CodesFrom>
    NIBBLE_INLINE void sum(of_groups<double>& q, of_groups<double>& qq, of_groups<double>& xq,
                           const CodesFrom& codes_from) const noexcept {
        for (std::size_t first = 0; first < Count; first += wide::width) {
            const auto code_of = codes_from(first);
            vector sum_q(0.0f);
            vector sum_qq[2] = {0.0f, 0.0f};
            vector upper[2] = {0.0f, 0.0f};
            vector lower[2] = {0.0f, 0.0f};
            const auto add = [&]<std::size_t Which>(std::size_t i) NIBBLE_INLINE_LAMBDA {
                const std::size_t at = i * many_groups + first;
                const vector code = code_of(vector(wide::load(parts_.value + at)));
                if constexpr (WithQ) sum_q = sum_q + code;
                sum_qq[Which] = sum_qq[Which] + code * code;
                upper[Which] = upper[Which] + code * vector(wide::load(parts_.upper + at));
                lower[Which] = lower[Which] + code * vector(wide::load(parts_.lower + at));
            };
            std::size_t i = 0;
            for (; i + 2 <= n_; i += 2) {
                add.template operator()<0>(i);
                add.template operator()<1>(i + 1);
            }
            if (i < n_) add.template operator()<0>(i);
            if constexpr (WithQ) add_wide(q.at + first, sum_q, true);
            add_wide(qq.at + first, sum_qq[0] + sum_qq[1], true);
            add_wide(xq.at + first, upper[0] + upper[1], true);
            add_wide(xq.at + first, lower[0] + lower[1], false);
        }
    }

private:
    split_values<bits, short_group * many_groups> parts_;
    of_groups<double> power_;
    std::size_t n_ = 0;
};

// The ranges of groups that search_integer_zeros cuts, with 0 in them, and a third of the unit of each group's cuts.
struct cut_ranges {
    of_groups<float> low{};
    of_groups<float> high{};
    of_groups<float> unit{};

    template <element E, class Groups>
    NIBBLE_INLINE void load(const Groups& groups, const value_sums* g, std::size_t n, std::size_t count) noexcept {
        for (std::size_t j = 0; j < count; ++j) {
            const double per_power = 1.0 / groups.power(j);
            low.at[j] = static_cast<float>(static_cast<double>(g[j].low < 0.0f ? g[j].low : 0.0f) * per_power);
            high.at[j] = static_cast<float>(static_cast<double>(g[j].high > 0.0f ? g[j].high : 0.0f) * per_power);
            unit.at[j] = static_cast<float>(cut_unit<E>(g[j], n) / 3.0);
        }
    }
    // The lengths of the ranges from lane `first` on, cut at both ends, and where they begin.
    template <isa Isa>
    [[nodiscard]] NIBBLE_INLINE lanes<Isa> cut(std::size_t first, const signed char (&shares)[2],
                                               lanes<Isa>& bottom) const noexcept {
        using vector = lanes<Isa>;
        // Products are kept from fusing with what follows.
        const vector of_unit(Isa::load(unit.at + first));
        const vector below = (of_unit * vector(static_cast<float>(shares[0]))).kept();
        const vector above = (of_unit * vector(static_cast<float>(shares[1]))).kept();
        bottom = (vector(Isa::load(low.at + first)) * (vector(1.0f) - below)).kept();
        return (vector(Isa::load(high.at + first)) * (vector(1.0f) - above)).kept() - bottom;
    }
};

// search_integer_zero of `count` groups of n values.
template <isa Isa, element E>
NIBBLE_NOINLINE void search_integer_zeros(const float* x, std::size_t n, std::size_t count, const value_sums* g,
                                          scale_and_zero* found) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    constexpr float levels = highest<E>;
    group_lanes<Isa, E> groups;
    groups.load(x, n, count, g);
    cut_ranges ranges;
    ranges.load<E>(groups, g, n, count);
    of_groups<float> inverse;
    of_groups<float> zero;
    of_groups<double> wide_zero;
    of_groups<double> best_zero{};
    of_groups<double> qq, xq;
    best_of_groups best;
    const auto attempt = [&]() NIBBLE_INLINE_LAMBDA {
        groups.template sum<false>(qq, qq, xq, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
            const vector per_scale(wide::load(inverse.at + first));
            const vector bottom = vector(0.0f) - vector(wide::load(zero.at + first));
            const vector top = bottom + vector(levels);
            return [=](const vector& value)
                       NIBBLE_INLINE_LAMBDA { return nearest_between(value * per_scale, bottom, top); };
        });
        best.template take<true>(qq, xq, [&](std::size_t j, const four_choices& better) NIBBLE_INLINE_LAMBDA {
            set_four(best_zero.at + j, better ? four_at(wide_zero.at + j).v : four_at(best_zero.at + j).v);
        });
    };
    const auto set_zero = [&](std::size_t first, const vector& z) NIBBLE_INLINE_LAMBDA {
        const vector within = smaller(larger(z, vector(0.0f)), vector(levels));
        within.store(zero.at + first, wide::width);
        wide::store_wide(wide_zero.at + first, within.value);
    };
    for (const signed char(&cut)[2] : range_cuts) {
        for (std::size_t first = 0; first < many_groups; first += wide::width) {
            vector bottom;
            const vector scale = ranges.cut<wide>(first, cut, bottom) * vector(1.0f / levels);
            const vector usable = larger(scale, vector(0x1p-60f)); // 0 is the scale of zeros alone
            const vector per_scale = vector(1.0f) / usable;
            per_scale.store(inverse.at + first, wide::width);
            set_zero(first, round_even((vector(0.0f) - bottom) * per_scale));
        }
        attempt();
    }
    for (int round = 0; round < 2; ++round) {
        of_groups<float> scale;
        of_groups<float> from;
        for (std::size_t j = 0; j < many_groups; ++j) from.at[j] = static_cast<float>(best_zero.at[j]);
        for (std::size_t j = 0; j < many_groups; ++j) scale.at[j] = static_cast<float>(best.scale(j));
        for (const zero_step& step : zero_steps<E>) {
            for (std::size_t first = 0; first < many_groups; first += wide::width) {
                const vector usable = larger(vector(wide::load(scale.at + first)), vector(0x1p-60f));
                (vector(1.0f) / (usable * vector(step.factor))).store(inverse.at + first, wide::width);
                set_zero(first, vector(wide::load(from.at + first)) + vector(step.zero));
            }
            attempt();
        }
    }
    for (std::size_t j = 0; j < count; ++j)
        found[j] = {best.scale(j) * groups.power(j), static_cast<float>(best_zero.at[j])};
}

// search_scale of `count` groups of n values.
template <isa Isa, element E, bool Signed>
NIBBLE_NOINLINE void search_scales(const float* x, std::size_t n, std::size_t count, const value_sums* g,
                                   double* found) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    using tried = scales_tried<E, Signed>;
    group_lanes<Isa, E> groups;
    groups.load(x, n, count, g);
    of_groups<double> one{};
    of_groups<double> other{};
    of_groups<double> reach{};
    of_groups<double> mean{};
    for (std::size_t j = 0; j < count; ++j) {
        if (g[j].top == 0.0f) continue;
        const tried scales(g[j], n);
        one.at[j] = scales.one * groups.power(j);
        other.at[j] = scales.other * groups.power(j);
        reach.at[j] = scales.last - tried::first;
        mean.at[j] = scales.mean / groups.power(j);
    }
    of_groups<float> inverse;
    of_groups<double> qq, xq;
    best_of_groups best;
    // Returns whether a group gained.
    const auto attempt = [&]() NIBBLE_INLINE_LAMBDA {
        groups.template sum<false>(qq, qq, xq, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
            const vector per_scale(wide::load(inverse.at + first));
            return [=](const vector& value) NIBBLE_INLINE_LAMBDA { return nearest_values<E>(value * per_scale); };
        });
        return best.template take<!Signed>(qq, xq, [](std::size_t, const four_choices&) {});
    };
    for (int i = 0; i < tried::tries; ++i) {
        const double at = static_cast<double>(i) / (tried::tries - 1);
        for (std::size_t j = 0; j < many_groups; ++j)
            inverse.at[j] = static_cast<float>(__builtin_fma(reach.at[j], at, tried::first) * one.at[j]);
        attempt();
        if constexpr (tried::both) {
            for (std::size_t j = 0; j < many_groups; ++j)
                inverse.at[j] = static_cast<float>(__builtin_fma(reach.at[j], at, tried::first) * other.at[j]);
            attempt();
        }
    }
    if constexpr (tried::by_mean)
        for (int i = 0; i < 8; ++i) {
            for (std::size_t j = 0; j < many_groups; ++j) inverse.at[j] = inverse_of(mean.at[j] * (0.75 + 0.25 * i));
            attempt();
        }
    for (int i = 0; i < 6; ++i) {
        for (std::size_t j = 0; j < many_groups; ++j) inverse.at[j] = inverse_of(best.scale(j));
        if (!attempt()) break;
    }
    for (std::size_t j = 0; j < count; ++j) found[j] = best.scale(j) * groups.power(j);
}

// Count groups, in units of their powers of two: their ranges and sums, and the scales and offsets that err least.
template <bool NonPositive, std::size_t Count> struct affine_fits {
    of_groups<double> low{}, width{}, sum{}, squares{};
    of_groups<double> scale{}, offset{}, least{};
    double size = 0.0;

    // The best offsets alone to begin with.
    template <class Groups> NIBBLE_INLINE void load(const Groups& groups, const value_sums* g) noexcept {
        size = static_cast<double>(groups.size());
        for (std::size_t j = 0; j < Count; ++j) {
            const double per_power = 1.0 / groups.power(j);
            const double bottom = static_cast<double>(NonPositive && g[j].low > 0.0f ? 0.0f : g[j].low);
            low.at[j] = bottom * per_power;
            width.at[j] = (static_cast<double>(g[j].high) - bottom) * per_power;
            sum.at[j] = g[j].x * per_power;
            squares.at[j] = g[j].xx * per_power * per_power;
            offset.at[j] = NonPositive && sum.at[j] > 0.0 ? 0.0 : sum.at[j] / size;
            least.at[j] =
                __builtin_fma(offset.at[j], __builtin_fma(offset.at[j], size, -2.0 * sum.at[j]), squares.at[j]);
        }
    }
    // Takes those that suit the codes with these sums where they err less; returns whether any do.
    NIBBLE_INLINE bool take(const of_groups<double>& q, const of_groups<double>& qq,
                            const of_groups<double>& xq) noexcept {
        of_groups<double> trial_scale, trial_offset, error;
        for (std::size_t j = 0; j < Count; ++j) {
            // As fit_affine. Sums of small integers: the determinant is exact.
            const double determinant = size * qq.at[j] - q.at[j] * q.at[j];
            const double divisor = determinant > 0.0 ? determinant : 1.0;
            double s = __builtin_fma(size, xq.at[j], -(sum.at[j] * q.at[j])) / divisor;
            double b = __builtin_fma(qq.at[j], sum.at[j], -(q.at[j] * xq.at[j])) / divisor;
            if constexpr (NonPositive) {
                const double alone = xq.at[j] / (qq.at[j] > 0.0 ? qq.at[j] : 1.0);
                s = b > 0.0 ? alone : s;
                b = b > 0.0 ? 0.0 : b;
            }
            trial_scale.at[j] = determinant > 0.0 ? s : 0.0;
            trial_offset.at[j] = b;
            const double known = __builtin_fma(s, __builtin_fma(s, qq.at[j], -2.0 * xq.at[j]), squares.at[j]);
            error.at[j] =
                __builtin_fma(b, __builtin_fma(b, size, __builtin_fma(2.0 * s, q.at[j], -2.0 * sum.at[j])), known);
        }
        four_choices any{};
        for (std::size_t j = 0; j < Count; j += 4) {
            const four_doubles s = four_at(trial_scale.at + j).v;
            const four_doubles e = four_at(error.at + j).v;
            const four_choices better = (e < four_at(least.at + j).v) & (s > four_doubles{});
            set_four(scale.at + j, better ? s : four_at(scale.at + j).v);
            set_four(offset.at + j, better ? four_at(trial_offset.at + j).v : four_at(offset.at + j).v);
            set_four(least.at + j, better ? e : four_at(least.at + j).v);
            any |= better;
        }
        return any_of(any);
    }
};

// search_affine of Count groups of n values, 8 or 16.
template <isa Isa, element E, bool NonPositive, std::size_t Count>
NIBBLE_NOINLINE void search_affines(const float* x, std::size_t n, const value_sums* g, affine* found) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    using tried = affine_tried<E>;
    group_lanes<Isa, E> groups;
    groups.load(x, n, Count, g);
    affine_fits<NonPositive, Count> fits;
    fits.load(groups, g);
    of_groups<float> inverse, offset;
    of_groups<double> q, qq, xq;
    // Returns whether a group gained.
    const auto attempt = [&]() NIBBLE_INLINE_LAMBDA {
        groups.template sum<true, Count>(q, qq, xq, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
            const vector per_scale(wide::load(inverse.at + first));
            const vector from(wide::load(offset.at + first));
            return [=](const vector& value)
                       NIBBLE_INLINE_LAMBDA { return nearest_values<E>((value - from) * per_scale); };
        });
        return fits.take(q, qq, xq);
    };
    for (std::size_t i = 0; i < tried::count; ++i) {
        for (std::size_t j = 0; j < Count; ++j) {
            const affine from = tried::at(i, fits.low.at[j], fits.width.at[j]);
            inverse.at[j] = inverse_of(from.scale);
            offset.at[j] = static_cast<float>(from.offset);
        }
        attempt();
    }
    for (int i = 0; i < 6; ++i) {
        for (std::size_t j = 0; j < Count; ++j) {
            inverse.at[j] = inverse_of(fits.scale.at[j]);
            offset.at[j] = static_cast<float>(fits.offset.at[j]);
        }
        if (!attempt()) break;
    }
    for (std::size_t j = 0; j < Count; ++j)
        found[j] = {fits.scale.at[j] * groups.power(j), fits.offset.at[j] * groups.power(j)};
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
