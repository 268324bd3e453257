// kernel/scale_search.hpp: scales of least squared error for groups of weights, whatever format stores them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/many_scales.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/quantize.hpp>

#include <cstddef>
#include <cstdint>

// Sums are in double, and every product that goes into one is exact in double or goes in through a fused multiply-add:
// the result does not depend on what the compiler fuses.
NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Eight lanes, in the compiler's own vectors: GCC leaves a loop over eight floats and a sum of doubles scalar.
// Doubles in halves: a vector of 64 bytes would go through memory where registers have 32.
struct eight_doubles {
    four_doubles low{};
    four_doubles high{};

    [[nodiscard]] NIBBLE_INLINE double operator[](int i) const noexcept { return i < 4 ? low[i] : high[i - 4]; }
    // a x b is exact in double where it is used, so that it may fuse with the sum.
    NIBBLE_INLINE void add_product(const eight_doubles& a, const eight_doubles& b) noexcept {
        low += a.low * b.low;
        high += a.high * b.high;
    }
    NIBBLE_INLINE void add(const eight_doubles& a) noexcept {
        low += a.low;
        high += a.high;
    }
};
[[nodiscard]] NIBBLE_INLINE eight_doubles widened(const eight_floats& v) noexcept {
    using all_doubles = detail::fixed_vector<double, 8>; // both halves at once: GCC converts four floats by twos
    const all_doubles all = __builtin_convertvector(v, all_doubles);
    return {__builtin_shufflevector(all, all, 0, 1, 2, 3), __builtin_shufflevector(all, all, 4, 5, 6, 7)};
}
NIBBLE_INLINE void load_eight(const float* from, eight_floats& to) noexcept {
    __builtin_memcpy(&to, from, sizeof to);
}
NIBBLE_INLINE void load_eight(const double* from, eight_doubles& to) noexcept {
    __builtin_memcpy(&to.low, from, sizeof to.low);
    __builtin_memcpy(&to.high, from + 4, sizeof to.high);
}
[[nodiscard]] NIBBLE_INLINE double sum_eight(const eight_doubles& s) noexcept {
    const four_doubles half = s.low + s.high; // of lanes 0 and 4, 1 and 5, ...
    return (half[0] + half[2]) + (half[1] + half[3]);
}

// Does encode give the nearest value, ties apart? Asked on both sides of every threshold.
template <element E>
inline constexpr bool encodes_nearest = [] {
    if constexpr (E::bits > 8) {
        return false;
    } else {
        constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
        for (std::size_t i = 0; i + 1 < sorted.count; ++i) {
            const float below = sorted.values.at[i];
            const float above = sorted.values.at[i + 1];
            if (below < lowest<E> || above > highest<E>) continue;
            const float middle = (below + above) * 0.5f;
            const float aside = (above - below) * 1e-4f;
            if (detail::decoded<E>(encode<E>(middle - aside)) != below ||
                detail::decoded<E>(encode<E>(middle + aside)) != above)
                return false;
        }
        return true;
    }
}();

// Sums over a group x with the codes' values q = nearest((x - offset) x inverse).
struct code_sums {
    double q = 0.0;
    double qq = 0.0;
    double xq = 0.0;
};

// x[i], x[i + 1] ... in eight lanes, those beyond x[n - 1] zeros; the mask has their bits.
NIBBLE_INLINE void load_up_to_eight(const float* x, std::size_t i, std::size_t n, eight_floats& to,
                                    eight_words& kept) noexcept {
    to = eight_floats{};
    __builtin_memcpy(&to, x + i, (n - i) * sizeof(float));
    for (std::size_t j = 0; j < 8; ++j) kept[j] = i + j < n ? -1 : 0;
}

// Of lanes as doubles: the codes' sums, of the i-th element in lane i % 8.
struct lane_sums {
    eight_doubles q{};
    eight_doubles qq{};
    eight_doubles xq{};

    // The first `count` lanes, all but the last time as many as there are.
    template <bool WithQ, isa Isa>
    NIBBLE_INLINE void add(const lanes<Isa>& codes, const lanes<Isa>& x, std::size_t count) noexcept {
        alignas(64) double code[Isa::width];
        alignas(64) double value[Isa::width];
        Isa::store_wide(code, codes.value);
        Isa::store_wide(value, x.value);
        for (std::size_t i = count; i < Isa::width; ++i) code[i] = 0.0;
        for (std::size_t i = 0; i < Isa::width; i += 8) {
            eight_doubles a, b;
            load_eight(code + i, a);
            load_eight(value + i, b);
            if constexpr (WithQ) q.add(a);
            qq.add_product(a, a);
            xq.add_product(a, b);
        }
    }
    [[nodiscard]] NIBBLE_INLINE code_sums all() const noexcept { return {sum_eight(q), sum_eight(qq), sum_eight(xq)}; }
};
// Calls visit(lanes of x, how many) for all of x, whole vectors first.
template <isa Isa, class Visit>
NIBBLE_INLINE void for_all_lanes(const float* x, std::size_t n, const Visit& visit) noexcept {
    constexpr std::size_t width = Isa::width;
    std::size_t i = 0;
    for (; i + width <= n; i += width) visit(lanes<Isa>(Isa::load(x + i)), width);
    if (i < n) visit(lanes<Isa>(Isa::load_some(x + i, n - i)), n - i);
}

template <isa Isa, element E, bool Offset>
[[nodiscard]] NIBBLE_INLINE code_sums sum_codes(const float* x, std::size_t n, float inverse, float offset) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    lane_sums sums;
    for_all_lanes<wide>(x, n, [&](const vector& value, std::size_t count) NIBBLE_INLINE_LAMBDA {
        const vector unit = Offset ? (value - vector(offset)) * vector(inverse) : value * vector(inverse);
        sums.template add<Offset>(nearest_values<E>(unit), value, count);
    });
    return sums.all();
}

// What is known of a group before any code is.
struct value_sums {
    double x = 0.0;
    double xx = 0.0;
    double magnitude = 0.0; // sum |x|
    float top = 0.0f;       // the value of the largest magnitude, with its sign; the higher of two
    float low = 0.0f;
    float high = 0.0f;
};
[[nodiscard]] inline value_sums sum_group(const float* x, std::size_t n) noexcept {
    eight_doubles sum{};
    eight_doubles squares{};
    eight_doubles magnitudes{};
    eight_floats low = eight_floats{} + x[0];
    eight_floats high = low;
    const auto add = [&](const eight_floats& value) NIBBLE_INLINE_LAMBDA {
        const eight_doubles v = widened(value);
        sum.add(v);
        squares.add_product(v, v);
        magnitudes.add(widened(__builtin_bit_cast(eight_floats, __builtin_bit_cast(eight_words, value) & 0x7fffffff)));
    };
    std::size_t i = 0;
    eight_floats value;
    for (; i + 8 <= n; i += 8) {
        load_eight(x + i, value);
        low = value < low ? value : low;
        high = value > high ? value : high;
        add(value);
    }
    if (i < n) {
        eight_words kept;
        load_up_to_eight(x, i, n, value, kept);
        add(value);
        const eight_floats known = kept != 0 ? value : eight_floats{} + x[0];
        low = known < low ? known : low;
        high = known > high ? known : high;
    }
    value_sums g{sum_eight(sum), sum_eight(squares), sum_eight(magnitudes), 0.0f, low[0], high[0]};
    for (int j = 1; j < 8; ++j) {
        g.low = low[j] < g.low ? low[j] : g.low;
        g.high = high[j] > g.high ? high[j] : g.high;
    }
    g.top = -g.low > g.high ? g.low : g.high;
    return g;
}

// How much smaller sum (x - s q)^2 is than sum x^2 for the best s, and that s: 0 for codes of zero.
[[nodiscard]] NIBBLE_INLINE double gain(const code_sums& c) noexcept {
    return c.qq > 0.0 ? c.xq * (c.xq / c.qq) : 0.0;
}
[[nodiscard]] NIBBLE_INLINE double best_scale(const code_sums& c) noexcept {
    return c.qq > 0.0 ? c.xq / c.qq : 0.0;
}
// sum (x - s q)^2.
[[nodiscard]] NIBBLE_INLINE double error_of(const value_sums& g, const code_sums& c, double s) noexcept {
    return __builtin_fma(s, __builtin_fma(s, c.qq, -2.0 * c.xq), g.xx);
}
// sum (x - s q - b)^2 of n values.
[[nodiscard]] NIBBLE_INLINE double error_of(const value_sums& g, const code_sums& c, double n, double s,
                                            double b) noexcept {
    const double with_b = __builtin_fma(b, __builtin_fma(b, n, __builtin_fma(2.0 * s, c.q, -2.0 * g.x)), 0.0);
    return error_of(g, c, s) + with_b;
}

[[nodiscard]] NIBBLE_INLINE float inverse_of(double scale) noexcept {
    // Without a branch, so that loops over it vectorize.
    const float quotient = static_cast<float>(1.0 / (scale != 0.0 ? scale : 1.0));
    return scale != 0.0 ? quotient : 0.0f;
}

// How long fp32 sums grow before they are added to others: the error of two such is that of a shorter sum.
inline constexpr std::size_t screened_run = 64;
// More than the part of such a sum of n products of one sign, each rounded, that rounding can change; of so many sums
// that are added up at last.
template <std::size_t Sums> [[nodiscard]] NIBBLE_INLINE float screening_error(std::size_t n) noexcept {
    const std::size_t roundings = detail::min_of(n, screened_run) / Sums + n / screened_run + 8;
    return 0x1p-24f * static_cast<float>(roundings);
}
template <isa Isa> [[nodiscard]] NIBBLE_INLINE float largest_lane(const lanes<Isa>& v) noexcept {
    float all[Isa::width];
    Isa::store(all, v.value);
    for (std::size_t half = Isa::width / 2; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i) all[i] = all[i] > all[i + half] ? all[i] : all[i + half];
    return all[0];
}
// gain() of Count scales at once in fp32, a scale in each lane, over gains[], in units of one^-2 (`one` of the size of
// the inverses). Returns a bound that gains below it are not the largest, whatever the rounding of their sums; what is
// not finite is never below.
template <isa Isa, element E, std::size_t Count>
[[nodiscard]] NIBBLE_INLINE float screen_scales(const float* x, std::size_t n, const float* inverses, double one,
                                                float* gains) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    const vector per_one(static_cast<float>(1.0 / one));
    vector most(0.0f);
    for (std::size_t first = 0; first < Count; first += wide::width) {
        const std::size_t count = detail::min_of(wide::width, Count - first);
        const vector inverse = vector::load(inverses + first, count);
        vector qq(0.0f);
        vector tq(0.0f);
        for (std::size_t start = 0; start < n; start += screened_run) {
            const std::size_t end = detail::min_of(n, start + screened_run);
            // Four of each: a sum waits for the one before, and short ones err less.
            vector run_qq[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            vector run_tq[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            const auto add = [&]<std::size_t Which>(std::size_t i) NIBBLE_INLINE_LAMBDA {
                const vector t = inverse * vector(x[i]);
                const vector q = nearest_values<E>(t);
                run_qq[Which] = run_qq[Which] + q * q;
                run_tq[Which] = run_tq[Which] + t * q;
            };
            std::size_t i = start;
            for (; i + 4 <= end; i += 4) {
                add.template operator()<0>(i);
                add.template operator()<1>(i + 1);
                add.template operator()<2>(i + 2);
                add.template operator()<3>(i + 3);
            }
            for (; i < end; ++i) add.template operator()<0>(i);
            qq = qq + ((run_qq[0] + run_qq[1]) + (run_qq[2] + run_qq[3]));
            tq = tq + ((run_tq[0] + run_tq[1]) + (run_tq[2] + run_tq[3]));
        }
        // t is x over the scale tried; what is gained counts x.
        const vector relative = inverse * per_one;
        const vector gained = select_less(vector(0.0f), qq, (tq / qq) * (tq / (relative * relative)), vector(0.0f));
        gained.store(gains + first, count);
        most = larger(gained, most);
    }
    const float top = largest_lane(most);
    return detail::is_finite(top) ? top - top * (6.0f * screening_error<4>(n)) : 0.0f;
}

// Alike but for the rounding of sums_of_many?
[[nodiscard]] NIBBLE_INLINE bool nearly(double a, double b) noexcept {
    const double difference = a - b;
    const double size = a < 0.0 ? -a : a;
    return difference <= size * 0x1p-28 && -difference <= size * 0x1p-28;
}

// The scales that a search tries first, as their inverses: `tries` each that put the largest magnitude at and around
// the lowest and the highest value of E, and, for elements of few values, multiples of the mean magnitude.
template <element E, bool Signed> struct scales_tried {
    static constexpr bool symmetric = lowest<E> == -highest<E>;
    static constexpr bool both = !symmetric && Signed;
    // Floats of few bits: the error repeats with each power of two.
    static constexpr bool binade = !detail::integer_mapping_of<E>.linear &&
                                   (E::bits > 4 || (float_grid_of<E>.exists && float_grid_of<E>.bits == 0));
    static constexpr bool listed =
        !detail::integer_mapping_of<E>.linear && !float_grid_of<E>.exists; // slower to round to
    static constexpr int tries = both           ? (E::bits <= 2 ? 16
                                                   : listed     ? 16
                                                                : 20)
                                 : binade       ? 40
                                 : E::bits >= 7 ? 32
                                 : E::bits <= 2 ? 24
                                                : 16;
    // From this share of the lowest value on, in equal steps: beyond 1 the largest magnitude is clipped, in long groups
    // farther: at least to so many standard deviations.
    static constexpr double first = E::bits <= 3   ? 0.75
                                    : binade       ? (E::bits > 4 ? 0.5 : 0.85)
                                    : E::bits == 4 ? 0.8
                                    : E::bits <= 6 ? 0.95
                                    : both         ? 0.98
                                                   : 0.93;
    static constexpr double least_last = E::bits <= 2   ? 4.0
                                         : E::bits == 3 ? 1.5
                                         : binade       ? (E::bits > 4 ? 1.05 : 1.95)
                                         : E::bits == 4 ? 1.25
                                         : E::bits <= 6 ? 1.05
                                         : both         ? 1.03
                                                        : 1.15;
    static constexpr double deviations = E::bits <= 3 ? 1.5 : E::bits == 4 ? 2.2 : E::bits <= 6 ? 3.0 : 4.0;
    static constexpr bool by_mean = E::bits <= 3;
    static constexpr std::size_t by_end = both ? 2 * tries : tries;
    static constexpr std::size_t count = by_end + (by_mean ? 8 : 0);

    double one; // the inverse of the scale that puts the largest magnitude on the end of E
    double other;
    double last;
    double mean;

    scales_tried(const value_sums& g, std::size_t n) noexcept {
        const double clipped = __builtin_sqrt(g.xx / static_cast<double>(n)) * deviations;
        const double reach = static_cast<double>(g.top < 0.0f ? -g.top : g.top);
        last = reach > least_last * clipped ? reach / clipped : least_last;
        const double per_top = 1.0 / static_cast<double>(g.top);
        const double low = static_cast<double>(lowest<E>) * per_top;
        const double high = static_cast<double>(highest<E>) * per_top;
        // Without a sign the end that the largest magnitude fits with a scale above 0.
        one = symmetric ? (high < 0.0 ? -high : high) : both ? low : low > high ? low : high;
        other = high;
        mean = g.magnitude / static_cast<double>(n);
    }
    [[nodiscard]] NIBBLE_INLINE float inverse(std::size_t j) const noexcept {
        if (by_mean && j >= by_end) return inverse_of(mean * (0.75 + 0.25 * static_cast<double>(j - by_end)));
        const std::size_t i = both ? j / 2 : j;
        const double at = __builtin_fma(last - first, static_cast<double>(i) / (tries - 1), first);
        return static_cast<float>(at * (both && j % 2 == 1 ? other : one));
    }
};

// A scale s, if Signed of either sign, with small sum (x - s nearest(x / s))^2: the best of those tried; then codes and
// scale are fitted to each other in turn, as in Lloyd's method, which only ever gains.
template <isa Isa, element E, bool Signed = true>
[[nodiscard]] inline double search_scale(const float* x, std::size_t n, const value_sums& g) noexcept {
    if (g.top == 0.0f) return 0.0;
    using tried = scales_tried<E, Signed>;
    constexpr std::size_t count = tried::count;
    constexpr std::size_t padded = (count + 15) / 16 * 16;
    alignas(64) float inverses[padded] = {};
    const tried scales(g, n);
    for (std::size_t j = 0; j < count; ++j) inverses[j] = scales.inverse(j);
    double best = -1.0;
    double scale = 0.0;
    double most_qq = 0.0;
    double most_xq = 0.0;
    const auto attempt = [&](double qq, double xq) {
        const double gained = qq > 0.0 ? xq * (xq / qq) : 0.0;
        if (!(gained > best) || (!Signed && xq < 0.0)) return;
        best = gained;
        most_qq = qq;
        most_xq = xq;
    };
    if constexpr (integer_bits<E> != 0) {
        sums_of_many<padded> sums;
        sum_many<Isa, E, false>(x, n, g.top < 0.0f ? -g.top : g.top, sums, [&](std::size_t first) NIBBLE_INLINE_LAMBDA {
            const auto inverse = lanes<detail::panel_isa_of<Isa>>(detail::panel_isa_of<Isa>::load(inverses + first));
            return [inverse](const auto& value) NIBBLE_INLINE_LAMBDA { return nearest_values<E>(value * inverse); };
        });
        visit_largest_gains(sums, count, 0.0, [&](std::size_t j) { attempt(sums.qq[j], sums.xq[j] * sums.power); });
    } else {
        float screened[count];
        const float least = screen_scales<Isa, E, count>(x, n, inverses, scales.one, screened);
        for (std::size_t j = 0; j < count; ++j) {
            if (screened[j] < least) continue;
            const code_sums c = sum_codes<Isa, E, false>(x, n, inverses[j], 0.0f);
            attempt(c.qq, c.xq);
        }
    }
    scale = most_qq > 0.0 ? most_xq / most_qq : 0.0;
    for (int i = 0; i < 6 && scale != 0.0; ++i) {
        const code_sums c = sum_codes<Isa, E, false>(x, n, inverse_of(scale), 0.0f);
        const double gained = gain(c);
        if (c.qq == most_qq && nearly(c.xq, most_xq)) { // the codes are the same
            scale = best_scale(c);
            break;
        }
        if (!(gained > best)) break;
        best = gained;
        most_qq = c.qq;
        most_xq = c.xq;
        scale = best_scale(c);
    }
    return scale;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
