// kernel/super_block_search.hpp: integer scales and minimums of groups, and what they stand under, of least squared
// error.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/scale_search.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What the slots of Elements weights under one outer slot store.
template <any_scheme S, std::size_t Elements> struct super_block_parameters {
    using traits = detail::scheme_traits<S>;
    static constexpr std::size_t run = traits::run(Elements);
    static constexpr std::size_t slots = Elements / run;
    typename traits::scale_code scales[slots] = {};
    typename traits::zero_code zeros[slots] = {};
    typename traits::outer_code outer = {};
    typename traits::outer_zero_code outer_zero = {};
};

// Integer scales, and minimums, under others. Each group's best scale is known first; then, for a few outer scales,
// every group takes the best integers near its own, and the outer ones are fitted to all codes, in turn while that
// gains.
template <any_scheme S, std::size_t Elements> class super_block {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using inner = typename traits::scale_element;
    using outer = typename traits::outer_element;
    using parts = super_block_parameters<S, Elements>;
    static constexpr std::size_t slots = parts::slots;
    static constexpr std::size_t run = parts::run;
    static constexpr bool affine_codes = S::has_two_level_minimum;
    static constexpr double count = static_cast<double>(run);

    // Integers of every group under outer scales as stored, with their error, and the outer scales that suit them best.
    struct trial {
        float scales[slots] = {};
        float minimums[slots] = {};
        float outer_scale = 0.0f;
        float outer_minimum = 0.0f;
        double error = 0.0;
        double next_scale = 0.0;
        double next_minimum = 0.0;
    };

public:
    static void choose_best(const float* x, parts& p) noexcept {
        super_block b;
        b.x_ = x;
        double top = 0.0;
        double top_minimum = 0.0;
        bool positive = true;
        for (std::size_t s = 0; s < slots; ++s) {
            b.sums_[s] = sum_group(x + s * run, run);
            positive = positive && b.sums_[s].low > 0.0f;
        }
        for (std::size_t s = 0; s < slots; ++s) {
            // Minimums of a block have one sign; positive ones, under a negative dmin, suit a block without other
            // values.
            if constexpr (affine_codes)
                b.wanted_[s] = positive ? search_affine<element, false>(x + s * run, run, b.sums_[s])
                                        : search_affine<element, true>(x + s * run, run, b.sums_[s]);
            else
                b.wanted_[s].scale = search_scale<element>(x + s * run, run, b.sums_[s]);
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
        double a = 0.0;
        double b = 0.0;
        double c = 0.0;
        double u = 0.0;
        double v = 0.0;
        for (std::size_t s = 0; s < slots; ++s) {
            code_sums codes;
            t.error += choose(s, t.outer_scale, t.outer_minimum, t.scales[s], t.minimums[s], codes);
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

    // The best integers near the wanted ones; returns the error.
    double choose(std::size_t s, float outer_scale, float outer_minimum, float& scale, float& minimum,
                  code_sums& sums) const noexcept {
        const float* x = x_ + s * run;
        const value_sums& g = sums_[s];
        const affine& wanted = wanted_[s];
        const float middle = nearest_value<inner>(ratio(wanted.scale, outer_scale));
        double least = 0.0;
        bool found = false;
        for (int step = -1; step <= 1; ++step) {
            const float sc = middle + static_cast<float>(step);
            if (sc < lowest<inner> || sc > highest<inner>) continue;
            const float product = sc * outer_scale;
            const float inverse = product != 0.0f ? 1.0f / product : 0.0f;
            const double factor = static_cast<double>(product);
            float mn = affine_codes ? nearest_value<inner>(ratio(-wanted.offset, outer_minimum)) : 0.0f;
            for (int again = 0; again < 2; ++again) {
                const float offset = -(mn * outer_minimum);
                code_sums c;
                if (product != 0.0f) c = sum_codes<element, affine_codes>(x, run, inverse, offset);
                const double b = static_cast<double>(offset);
                const double error = affine_codes ? error_of(g, c, count, factor, b) : error_of(g, c, factor);
                if (!found || error < least) {
                    found = true;
                    least = error;
                    scale = sc;
                    minimum = mn;
                    sums = c;
                }
                if constexpr (!affine_codes) break;
                // The best offset for these codes.
                const float next = nearest_value<inner>(ratio(__builtin_fma(factor, c.q, -g.x) / count, outer_minimum));
                if (next == mn) break;
                mn = next;
            }
        }
        return least;
    }
    [[nodiscard]] static float ratio(double value, float unit) noexcept {
        return unit != 0.0f ? static_cast<float>(value / static_cast<double>(unit)) : 0.0f;
    }

    void store(const trial& t, parts& p) const noexcept {
        p.outer = encode<outer>(t.outer_scale);
        if constexpr (affine_codes) p.outer_zero = encode<outer>(t.outer_minimum);
        for (std::size_t s = 0; s < slots; ++s) {
            p.scales[s] = encode<inner>(t.scales[s]);
            if constexpr (affine_codes) p.zeros[s] = encode<inner>(t.minimums[s]);
        }
    }

    const float* x_ = nullptr;
    value_sums sums_[slots];
    affine wanted_[slots];
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
