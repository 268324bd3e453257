// ggml_encoders.hpp: one block of weights into the codes and scales of a GGUF tensor type, with least squared error.
#pragma once

#include <nibble/io/ggml_block.hpp>
#include <nibble/io/ggml_search.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::detail {

// The codes of x under a scale and a minimum as they are stored, one per value: each the nearest.
template <element E>
inline void encode_group(const float* x, std::size_t n, float scale, float minimum, std::uint8_t* codes) noexcept {
    if (scale == 0.0f) {
        for (std::size_t i = 0; i < n; ++i) codes[i] = encode<E>(0.0f);
        return;
    }
    for (std::size_t i = 0; i < n; ++i) codes[i] = encode<E>((x[i] - minimum) / scale);
}

// True if the largest value would be beyond fp32 under this scale.
template <element E>
[[nodiscard]] NIBBLE_INLINE bool overflows(float top, float scale) noexcept {
    return scale != 0.0f && !is_finite(scale * nearest_value<E>(top / scale));
}

// Scales whose format has many values: the best scale, and of the three next to it in the format the one that errs least,
// which matters where the format is coarse.
template <any_scheme S, std::size_t Elements>
inline void encode_scaled(const float* x, ggml_parts<S, Elements>& p) noexcept {
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    using format = typename traits::scale_element;
    constexpr double count = static_cast<double>(ggml_parts<S, Elements>::run);
    for (std::size_t s = 0; s < p.slots; ++s) {
        const float* group = x + s * p.run;
        std::uint8_t* codes = p.codes + s * p.run;
        const group_sums g = sum_group(group, p.run);
        if constexpr (element::bits == 1) {
            p.scales[s] = encode<format>(static_cast<float>(g.magnitude / count)); // the best one (XNOR-Net)
            for (std::size_t i = 0; i < p.run; ++i) codes[i] = encode<element>(group[i]);
            continue;
        }
        affine wanted;
        if constexpr (S::has_minimum)
            wanted = search_affine<element, false>(group, p.run, g);
        else
            wanted.scale = search_scale<element>(group, p.run, g);
        const auto nearest = encode<format>(static_cast<float>(wanted.scale));
        double least = 0.0;
        for (int step = 0; step < 3; ++step) {
            const auto code = static_cast<typename format::code>(step == 0 ? nearest : step == 1 ? nearest - 1 : nearest + 1);
            const float scale = format::decode(code);
            if (step != 0 && (!is_finite(scale) || (scale < 0.0f) != (wanted.scale < 0.0))) continue;
            const float inverse = inverse_of(static_cast<double>(scale));
            const double factor = static_cast<double>(scale);
            double error = 0.0;
            typename traits::zero_code zero{};
            if constexpr (S::has_minimum) {
                code_sums c = sum_codes<element, true>(group, p.run, inverse, static_cast<float>(wanted.offset));
                const double offset = __builtin_fma(-factor, c.q, g.x) / count;
                zero = encode<typename traits::zero_element>(static_cast<float>(offset));
                const float minimum = traits::zero_element::decode(zero);
                c = sum_codes<element, true>(group, p.run, inverse, minimum);
                error = error_of(g, c, count, factor, static_cast<double>(minimum));
            } else {
                error = error_of(g, sum_codes<element, false>(group, p.run, inverse, 0.0f), factor);
            }
            if (step != 0 && !(error < least)) continue;
            least = error;
            p.scales[s] = code;
            if constexpr (S::has_minimum) p.zeros[s] = zero;
        }
        if constexpr (format::bits == 32)
            while (overflows<element>(g.top, format::decode(p.scales[s]))) --p.scales[s];
        float minimum = 0.0f;
        if constexpr (S::has_minimum) minimum = traits::zero_element::decode(p.zeros[s]);
        encode_group<element>(group, p.run, format::decode(p.scales[s]), minimum, codes);
    }
}

// Scales of 7 or 8 bits that grow with their code: the best of those around the one that holds the largest magnitude.
template <any_scheme S, std::size_t Elements>
inline void encode_by_scale_code(const float* x, ggml_parts<S, Elements>& p) noexcept {
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    using scale_element = typename traits::scale_element;
    constexpr int below = std::same_as<scale_element, e8m0> ? 1 : 7;
    constexpr int above = std::same_as<scale_element, e8m0> ? 1 : 5;
    constexpr int last = static_cast<int>(encode<scale_element>(3.4028234e38f));
    for (std::size_t s = 0; s < p.slots; ++s) {
        const float* group = x + s * p.run;
        const group_sums g = sum_group(group, p.run);
        const int plain = static_cast<int>(encode<scale_element>(abs_of(g.top) / largest<element>));
        double least = 0.0;
        int best = 0;
        bool found = false;
        for (int code = max_of(0, plain - below); code <= min_of(last, plain + above) && g.top != 0.0f; ++code) {
            const float scale = scale_element::decode(static_cast<typename scale_element::code>(code));
            if (scale == 0.0f || overflows<element>(g.top, scale)) continue;
            const code_sums c = sum_codes<element, false>(group, p.run, 1.0f / scale, 0.0f);
            const double error = error_of(g, c, static_cast<double>(scale));
            if (found && !(error < least)) continue;
            found = true;
            least = error;
            best = code;
        }
        p.scales[s] = static_cast<typename scale_element::code>(best);
        encode_group<element>(group, p.run, scale_element::decode(p.scales[s]), 0.0f, p.codes + s * p.run);
    }
}

// Integer scales, and minimums, under fp16 ones. Each group's best scale is known first; then, for a few outer scales, every
// group takes the best integers near its own, and the outer ones are fitted to all codes, in turn while that gains.
template <any_scheme S, std::size_t Elements>
class super_block {
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    using inner = typename traits::scale_element;
    using outer = typename traits::outer_element;
    using parts = ggml_parts<S, Elements>;
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
    static void encode_block(const float* x, parts& p) noexcept {
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
            // Minimums of a block have one sign; positive ones, under a negative dmin, suit a block without other values.
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
        constexpr double limit = affine_codes ? static_cast<double>(highest<inner>) : static_cast<double>(lowest<inner>);
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
        const group_sums& g = sums_[s];
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
                const float next =
                    nearest_value<inner>(ratio(__builtin_fma(factor, c.q, -g.x) / count, outer_minimum));
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
            encode_group<element>(x_ + s * run, run, t.scales[s] * t.outer_scale, -(t.minimums[s] * t.outer_minimum),
                                  p.codes + s * run);
        }
    }

    const float* x_ = nullptr;
    group_sums sums_[slots];
    affine wanted_[slots];
};

template <any_scheme S, std::size_t Elements>
inline void encode_best(const float* x, ggml_parts<S, Elements>& p) noexcept {
    using scale_element = typename scheme_traits<S>::scale_element;
    if constexpr (S::two_level)
        super_block<S, Elements>::encode_block(x, p);
    else if constexpr (scale_element::bits <= 8)
        encode_by_scale_code(x, p);
    else
        encode_scaled(x, p);
}

} // namespace nibble::inline NIBBLE_ABI::detail
