// kernel/super_block_search.hpp: integer scales and minimums of groups, and what they stand under, of least squared
// error.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/many_groups.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/offset_search.hpp>
#include <nibble/kernel/scale_search.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What the scale groups of Elements weights under one outer scale store.
template <any_scheme S, std::size_t Elements> struct super_block_parameters {
    using traits = detail::scheme_traits<S>;
    static constexpr std::size_t group_size = traits::group_size(Elements);
    static constexpr std::size_t groups = Elements / group_size;
    typename traits::scale_code scales[groups] = {};
    typename traits::zero_code zeros[groups] = {};
    typename traits::outer_code outer = {};
    typename traits::outer_zero_code outer_zero = {};
};

// Integer scales, and minimums, under others. Each group's best scale is known first; then, for a few outer scales,
// every group takes the best integers near its own, and the outer ones are fitted to all codes, in turn while that
// gains. Of one block that is some 20 to 60 passes over its values, each of about 10 operations of all lanes per value,
// and as much again for the choices between them: this is what limits the speed.
template <isa Isa, any_scheme S, std::size_t Elements> class super_block {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using inner = typename traits::scale_element;
    using outer = typename traits::outer_element;
    using parameters = super_block_parameters<S, Elements>;
    static constexpr std::size_t groups = parameters::groups;
    static constexpr std::size_t group_size = parameters::group_size;
    static constexpr bool affine_codes = S::has_two_level_minimum;
    static constexpr double count = static_cast<double>(group_size);
    static constexpr std::size_t copies = many_groups / groups;
    static_assert((copies == 1 || copies == 2) && groups * copies == many_groups);

    // Integers of every group under outer scales as stored, with their error, and the outer scales that suit them best.
    struct trial {
        float scales[groups] = {};
        float minimums[groups] = {};
        float outer_scale = 0.0f;
        float outer_minimum = 0.0f;
        double error = 0.0;
        double next_scale = 0.0;
        double next_minimum = 0.0;
    };

public:
    static void choose_best(const float* x, parameters& p) noexcept {
        super_block b;
        b.x_ = x;
        double top = 0.0;
        double top_minimum = 0.0;
        bool positive = true;
        for (std::size_t s = 0; s < groups; ++s) {
            b.sums_[s] = sum_group(x + s * group_size, group_size);
            positive = positive && b.sums_[s].low > 0.0f;
        }
        // Minimums of a block have one sign; positive ones, under a negative dmin, suit a block without other values.
        if constexpr (affine_codes) {
            if (positive)
                search_affines<Isa, element, false, groups>(x, group_size, b.sums_, b.wanted_);
            else
                search_affines<Isa, element, true, groups>(x, group_size, b.sums_, b.wanted_);
        } else {
            double scales[groups];
            search_scales<Isa, element, true>(x, group_size, groups, b.sums_, scales);
            for (std::size_t s = 0; s < groups; ++s) b.wanted_[s].scale = scales[s];
        }
        b.lanes_.template load<true>(x, group_size, groups, b.sums_);
        for (std::size_t l = 0; l < many_groups; ++l) {
            const double per_power = 1.0 / b.lanes_.power(l);
            b.totals_.at[l] = b.sums_[l % groups].x * per_power;
            b.squares_.at[l] = b.sums_[l % groups].xx * per_power * per_power;
        }
        for (std::size_t s = 0; s < groups; ++s) {
            const double scale = b.wanted_[s].scale;
            if ((scale < 0.0 ? -scale : scale) > (top < 0.0 ? -top : top)) top = scale;
            const double minimum = -b.wanted_[s].offset;
            if (positive ? minimum < top_minimum : minimum > top_minimum) top_minimum = minimum;
        }
        // The largest scale on the largest integer, and clipped or with room to spare.
        constexpr double limit =
            affine_codes ? static_cast<double>(highest<inner>) : static_cast<double>(lowest<inner>);
        constexpr int first = inner::bits <= 4 ? -2 : -1;
        constexpr int last = inner::bits <= 4 ? 1 : 0;
        trial best = b.attempt(top / limit, top_minimum / static_cast<double>(highest<inner>));
        b.improve(best);
        for (int i = first; i <= last; ++i) {
            if (i == 0) continue;
            const double factor = 1.0 + i / 20.0;
            trial other = b.attempt(top / limit * factor, top_minimum / static_cast<double>(highest<inner>));
            if (other.error < 1.02 * best.error) b.improve(other); // more than that it does not catch up
            if (other.error < best.error) best = other;
        }
        b.store(best, p);
    }

private:
    [[nodiscard]] static float rounded(double value) noexcept {
        return outer::decode(encode<outer>(static_cast<float>(value)));
    }
    [[nodiscard]] trial attempt(double scale, double minimum) const noexcept {
        trial t;
        t.outer_scale = rounded(scale);
        t.outer_minimum = rounded(minimum);
        chosen of;
        choose(t.outer_scale, t.outer_minimum, of);
        double a = 0.0;
        double b = 0.0;
        double c = 0.0;
        double u = 0.0;
        double v = 0.0;
        for (std::size_t s = 0; s < groups; ++s) {
            const code_sums codes{of.q.at[s], of.qq.at[s], of.xq.at[s] * lanes_.power(s)};
            t.error += of.error.at[s] * (lanes_.power(s) * lanes_.power(s));
            t.scales[s] = static_cast<float>(of.scale.at[s]);
            t.minimums[s] = static_cast<float>(of.minimum.at[s]);
            const double sc = static_cast<double>(t.scales[s]);
            const double mn = static_cast<double>(t.minimums[s]);
            // Products of integers are exact.
            a += sc * sc * codes.qq;
            b += sc * mn * codes.q;
            c += mn * mn * count;
            u = __builtin_fma(sc, codes.xq, u);
            v = __builtin_fma(mn, sums_[s].x, v);
        }
        // x is about d sc q - dmin mn.
        const double determinant = __builtin_fma(a, c, -(b * b));
        if (affine_codes && determinant > 0.0 && t.outer_minimum != 0.0f) {
            t.next_scale = __builtin_fma(u, c, -(b * v)) / determinant;
            t.next_minimum = __builtin_fma(b, u, -(a * v)) / determinant;
            if ((t.next_minimum < 0.0) != (minimum < 0.0)) t.next_minimum = minimum;
        } else {
            t.next_scale = a > 0.0 ? u / a : 0.0;
            t.next_minimum = minimum;
        }
        return t;
    }
    void improve(trial& t) const noexcept {
        for (int i = 0; i < 4; ++i) {
            if (rounded(t.next_scale) == t.outer_scale && rounded(t.next_minimum) == t.outer_minimum) return;
            const trial next = attempt(t.next_scale, t.next_minimum);
            if (!(next.error < t.error)) return;
            t = next;
        }
    }

    // What a scale group takes: its integers, the error and the sums of its codes, in units of its lane's power of two.
    struct chosen {
        of_groups<double> scale{}, minimum{}, error, q{}, qq{}, xq{};

        // Takes over, four lanes from j on, what errs less.
        NIBBLE_INLINE void take(std::size_t j, const four_choices& usable, const chosen& from,
                                std::size_t at) noexcept {
            const four_choices better = usable & (four_at(from.error.at + at).v < four_at(error.at + j).v);
            const auto choose = [&](of_groups<double>& to, const of_groups<double>& other) NIBBLE_INLINE_LAMBDA {
                set_four(to.at + j, better ? four_at(other.at + at).v : four_at(to.at + j).v);
            };
            choose(error, from.error);
            choose(scale, from.scale);
            choose(minimum, from.minimum);
            choose(q, from.q);
            choose(qq, from.qq);
            choose(xq, from.xq);
        }
    };
    // The best integers near the wanted ones, of all groups: a group in each lane, or in two, with another integer.
    NIBBLE_INLINE void choose(float outer_scale, float outer_minimum, chosen& best) const noexcept {
        using wide = detail::panel_isa_of<Isa>;
        using vector = lanes<wide>;
        const auto nearest_integers = [](of_groups<float>& v) NIBBLE_INLINE_LAMBDA {
            for (std::size_t first = 0; first < many_groups; first += wide::width)
                nearest_values<inner>(vector(wide::load(v.at + first))).store(v.at + first, wide::width);
        };
        of_groups<float> middle, minimum;
        for (std::size_t l = 0; l < many_groups; ++l) {
            middle.at[l] = ratio(wanted_[l % groups].scale, outer_scale);
            minimum.at[l] = affine_codes ? ratio(-wanted_[l % groups].offset, outer_minimum) : 0.0f;
        }
        nearest_integers(middle);
        if constexpr (affine_codes) nearest_integers(minimum);
        for (double& error : best.error.at) error = static_cast<double>(detail::infinity);
        for (int nearby = -1; nearby <= 1; nearby += static_cast<int>(copies)) {
            chosen now;
            const candidates tries(*this, middle, nearby, outer_scale, now.scale);
            of_groups<float> mn = minimum;
            for (int again = 0; again < 2; ++again) {
                of_groups<double> start;
                for (std::size_t l = 0; l < many_groups; ++l) {
                    start.at[l] = static_cast<double>(-(mn.at[l] * outer_minimum)) / lanes_.power(l);
                    now.minimum.at[l] = static_cast<double>(mn.at[l]);
                }
                sum_codes_under(tries.inverse, start, now);
                of_groups<float> next;
                set_errors(tries.factor, start, outer_minimum, now, next);
                for (std::size_t j = 0; j < many_groups; j += 4)
                    best.take(j, four_at(tries.usable.at + j).v > four_doubles{}, now, j);
                if constexpr (!affine_codes) break;
                // The best offset for these codes.
                nearest_integers(next);
                bool same = true;
                for (std::size_t l = 0; l < many_groups; ++l) same = same && next.at[l] == mn.at[l];
                if (same) break;
                mn = next;
            }
        }
        if constexpr (copies == 2)
            for (std::size_t j = 0; j < groups; j += 4)
                best.take(j, four_doubles{} < four_doubles{} + 1.0, best, j + groups);
    }
    // The integers so far from the middle ones, another one in each copy: which of them there are, the scales that
    // they stand for and what values are multiplied by to become codes, in units of the lanes' powers.
    struct candidates {
        of_groups<double> usable;
        of_groups<double> factor;
        of_groups<float> inverse;

        NIBBLE_INLINE candidates(const super_block& b, const of_groups<float>& middle, int nearby, float outer_scale,
                                 of_groups<double>& integers) noexcept {
            for (std::size_t l = 0; l < many_groups; ++l) {
                const int at = nearby + static_cast<int>(l / groups);
                const float sc = middle.at[l] + static_cast<float>(at);
                const float product = sc * outer_scale;
                const float power = static_cast<float>(b.lanes_.power(l));
                const float quotient = 1.0f / (product != 0.0f ? product : 1.0f) * power;
                inverse.at[l] = product != 0.0f ? quotient : 0.0f;
                factor.at[l] = static_cast<double>(product) / b.lanes_.power(l);
                integers.at[l] = static_cast<double>(sc);
                usable.at[l] = at <= 1 && sc >= lowest<inner> && sc <= highest<inner> ? 1.0 : 0.0;
            }
        }
    };
    NIBBLE_INLINE void sum_codes_under(const of_groups<float>& inverse, const of_groups<double>& start,
                                       chosen& now) const noexcept {
        using wide = detail::panel_isa_of<Isa>;
        using vector = lanes<wide>;
        of_groups<float> offset;
        for (std::size_t l = 0; l < many_groups; ++l) offset.at[l] = static_cast<float>(start.at[l]);
        lanes_.template sum<affine_codes>(now.q, now.qq, now.xq, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
            const vector per_scale(wide::load(inverse.at + first));
            const vector from(wide::load(offset.at + first));
            return [=](const vector& value) NIBBLE_INLINE_LAMBDA {
                if constexpr (affine_codes)
                    return nearest_values<element>((value - from) * per_scale);
                else
                    return nearest_values<element>(value * per_scale);
            };
        });
    }
    // The errors of those codes, and the minimums, not rounded yet, that suit them best.
    NIBBLE_INLINE void set_errors(const of_groups<double>& factor, const of_groups<double>& start, float outer_minimum,
                                  chosen& now, of_groups<float>& next) const noexcept {
        for (std::size_t l = 0; l < many_groups; ++l) {
            const double used = factor.at[l] != 0.0 ? 1.0 : 0.0; // under a scale of 0 codes say nothing
            const double q = affine_codes ? now.q.at[l] * used : 0.0;
            const double qq = now.qq.at[l] * used;
            const double xq = now.xq.at[l] * used;
            const double s = factor.at[l];
            const double b = start.at[l];
            const double with_codes = __builtin_fma(s, __builtin_fma(s, qq, -2.0 * xq), squares_.at[l]);
            now.error.at[l] =
                affine_codes
                    ? __builtin_fma(b, __builtin_fma(b, count, __builtin_fma(2.0 * s, q, -2.0 * totals_.at[l])),
                                    with_codes)
                    : with_codes;
            now.q.at[l] = q;
            now.qq.at[l] = qq;
            now.xq.at[l] = xq;
            if constexpr (affine_codes)
                next.at[l] = ratio(__builtin_fma(s, q, -totals_.at[l]) / count * lanes_.power(l), outer_minimum);
        }
    }
    [[nodiscard]] static NIBBLE_INLINE float ratio(double value, float unit) noexcept {
        // Without a branch, so that loops over it vectorize.
        const float quotient = static_cast<float>(value / static_cast<double>(unit != 0.0f ? unit : 1.0f));
        return unit != 0.0f ? quotient : 0.0f;
    }

    void store(const trial& t, parameters& p) const noexcept {
        p.outer = encode<outer>(t.outer_scale);
        if constexpr (affine_codes) p.outer_zero = encode<outer>(t.outer_minimum);
        for (std::size_t s = 0; s < groups; ++s) {
            p.scales[s] = encode<inner>(t.scales[s]);
            if constexpr (affine_codes) p.zeros[s] = encode<inner>(t.minimums[s]);
        }
    }

    const float* x_ = nullptr;
    value_sums sums_[groups];
    affine wanted_[groups];
    group_lanes<Isa, element> lanes_;
    of_groups<double> totals_; // sum x and sum x^2, in units of the lanes' powers
    of_groups<double> squares_;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
