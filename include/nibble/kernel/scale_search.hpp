// kernel/scale_search.hpp: scales of least squared error for groups of weights, whatever format stores them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/quantize.hpp>

#include <cstddef>
#include <cstdint>

// Sums are in double, and every product that goes into one is exact in double or goes in through a fused multiply-add:
// the result does not depend on what the compiler fuses.
NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The values that encoders of E produce reach from lowest<E> to this.
template <element E> inline constexpr float highest = E::decode(encode<E>(3.4028234e38f));

// Eight lanes, in the compiler's own vectors: GCC leaves a loop over eight floats and a sum of doubles scalar.
// Doubles in halves: a vector of 64 bytes would go through memory where registers have 32.
using four_doubles = double __attribute__((vector_size(32)));
struct eight_doubles {
    four_doubles low{};
    four_doubles high{};

    [[nodiscard]] NIBBLE_INLINE double operator[](int i) const noexcept { return i < 4 ? low[i] : high[i - 4]; }
    // a x b is exact in double where it is used, so that it may fuse with the sum.
    NIBBLE_INLINE void add_product(const eight_doubles& a, const eight_doubles& b) noexcept {
        low += a.low * b.low;
        high += a.high * b.high;
    }
    NIBBLE_INLINE void add_product(const eight_doubles& a, double b) noexcept {
        low += a.low * b;
        high += a.high * b;
    }
    NIBBLE_INLINE void add(const eight_doubles& a) noexcept {
        low += a.low;
        high += a.high;
    }
};
[[nodiscard]] NIBBLE_INLINE eight_doubles widened(const eight_floats& v) noexcept {
    using all_doubles =
        double __attribute__((vector_size(64))); // both halves at once: GCC converts four floats by twos
    const all_doubles all = __builtin_convertvector(v, all_doubles);
    return {__builtin_shufflevector(all, all, 0, 1, 2, 3), __builtin_shufflevector(all, all, 4, 5, 6, 7)};
}
NIBBLE_INLINE void load_eight(const float* from, eight_floats& to) noexcept {
    __builtin_memcpy(&to, from, sizeof to);
}
[[nodiscard]] NIBBLE_INLINE double sum_eight(const eight_doubles& s) noexcept {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// Does E have the values of a binary float of so many bits behind its leading one, and their negatives? From `unit` on,
// the smallest of them, equal steps up to 2^(bits + 1) units, then twice as large ones for each power of two, and an
// end anywhere.
struct float_grid {
    bool exists = false;
    bool symmetric = false; // a list with 0 and the negatives of all values, float or not
    int bits = 0;
    float unit = 0.0f;
};
template <element E>
inline constexpr float_grid float_grid_of = [] {
    float_grid g{};
    if constexpr (E::bits > 8) {
        return g;
    } else {
        constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
        if constexpr (sorted.count >= 3 && sorted.count % 2 == 1) {
            const std::size_t middle = sorted.count / 2;
            for (std::size_t i = 0; i <= middle; ++i)
                if (sorted.values.at[middle + i] != -sorted.values.at[middle - i]) return g;
            g.symmetric = true;
            g.unit = sorted.values.at[middle + 1];
            for (g.bits = 0; g.bits < 7 && !g.exists; ++g.bits) {
                bool same = true;
                float value = 0.0f;
                float step = g.unit;
                float power = g.unit * static_cast<float>(2 << g.bits); // where steps double
                for (std::size_t i = 1; i <= middle && same; ++i) {
                    value += step;
                    same = sorted.values.at[middle + i] == value;
                    if (value == power) {
                        step *= 2.0f;
                        power *= 2.0f;
                    }
                }
                g.exists = same;
                if (same) break;
            }
        }
        return g;
    }
}();

// The values of E nearest to t, in its place. Among equally near ones any: what a search tries need not be what encode
// gives.
template <element E> NIBBLE_INLINE void to_nearest_values(eight_floats& t) noexcept {
    constexpr detail::integer_grid g = detail::integer_grid_of<E>;
    constexpr float_grid f = float_grid_of<E>;
    if constexpr (g.linear) {
        const eight_floats low = eight_floats{} + lowest<E>;
        const eight_floats high = eight_floats{} + highest<E>;
        // 1.5 x 2^23 units: from here on fp32 has nothing between them.
        const eight_floats integers = eight_floats{} + 12582912.0f * detail::exp2i(g.exponent);
        t = t > low ? t : low; // NaN too
        t = t < high ? t : high;
        // The addition cannot fuse with a product in front: the limits stand between.
        t = (t + integers) - integers;
    } else if constexpr (f.exists) {
        // The power of two at or below t, times 2^(23 - bits), leaves of a sum with it the bits that E has.
        constexpr int shift = (23 - f.bits) << 23;
        constexpr std::int32_t least = detail::bit_cast<std::int32_t>(f.unit * static_cast<float>(1 << f.bits));
        const eight_words word = __builtin_bit_cast(eight_words, t);
        const eight_words sign = word & (-0x7fffffff - 1);
        const eight_floats end = eight_floats{} + largest<E>;
        eight_floats size = __builtin_bit_cast(eight_floats, word & 0x7fffffff);
        size = size < end ? size : end;
        eight_words exponent = __builtin_bit_cast(eight_words, size) & 0x7f800000;
        exponent = exponent > least ? exponent : eight_words{} + least;
        const eight_floats magic = __builtin_bit_cast(eight_floats, exponent + shift);
        size = (size + magic) - magic;
        t = __builtin_bit_cast(eight_floats, __builtin_bit_cast(eight_words, size) | sign);
    } else {
        constexpr const detail::grid<E>& values = detail::sorted_grid<E>;
        const eight_words sign = __builtin_bit_cast(eight_words, t) & (f.symmetric ? -0x7fffffff - 1 : 0);
        if constexpr (f.symmetric)
            t = __builtin_bit_cast(eight_floats, __builtin_bit_cast(eight_words, t) & 0x7fffffff);
        constexpr std::size_t lowest_at = f.symmetric ? values.count / 2 : 0;
        eight_floats value = eight_floats{} + values.values.at[lowest_at];
        for (std::size_t i = lowest_at; i + 1 < values.count; ++i) {
            const float below = values.values.at[i];
            const float above = values.values.at[i + 1];
            value = t > eight_floats{} + (below + above) * 0.5f ? eight_floats{} + above : value;
        }
        t = __builtin_bit_cast(eight_floats, __builtin_bit_cast(eight_words, value) | sign);
    }
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

// Of a single number.
template <element E> [[nodiscard]] NIBBLE_INLINE float nearest_value(float t) noexcept {
    eight_floats lanes = eight_floats{} + t;
    to_nearest_values<E>(lanes);
    return lanes[0];
}

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

template <element E, bool Offset>
[[nodiscard]] NIBBLE_INLINE code_sums sum_codes(const float* x, std::size_t n, float inverse, float offset) noexcept {
    eight_doubles q{};
    eight_doubles qq{};
    eight_doubles xq{};
    const auto add = [&](const eight_floats& value, const eight_words& kept) NIBBLE_INLINE_LAMBDA {
        eight_floats code = Offset ? (value - offset) * inverse : value * inverse;
        to_nearest_values<E>(code);
        code = __builtin_bit_cast(eight_floats, __builtin_bit_cast(eight_words, code) & kept);
        const eight_doubles v = widened(code);
        if constexpr (Offset) q.add(v);
        qq.add_product(v, v);
        xq.add_product(v, widened(value));
    };
    std::size_t i = 0;
    eight_floats value;
    eight_words kept = eight_words{} - 1;
    for (; i + 8 <= n; i += 8) {
        load_eight(x + i, value);
        add(value, kept);
    }
    if (i < n) {
        load_up_to_eight(x, i, n, value, kept);
        add(value, kept);
    }
    return {Offset ? sum_eight(q) : 0.0, sum_eight(qq), sum_eight(xq)};
}

// The sums of eight scales at once, one per lane: nothing is left to add up at the end, whatever the length.
template <element E>
NIBBLE_INLINE void sum_codes_of_eight(const float* x, std::size_t n, const eight_floats& inverse, eight_doubles& qq_out,
                                      eight_doubles& xq_out) noexcept {
    eight_doubles qq{};
    eight_doubles xq{};
    for (std::size_t i = 0; i < n; ++i) {
        eight_floats code = inverse * x[i];
        to_nearest_values<E>(code);
        const eight_doubles v = widened(code);
        qq.add_product(v, v);
        xq.add_product(v, static_cast<double>(x[i]));
    }
    qq_out = qq;
    xq_out = xq;
}

// The best scale of each lane, 0 for codes of zero.
[[nodiscard]] NIBBLE_INLINE eight_doubles fitted_scales(const eight_doubles& qq, const eight_doubles& xq) noexcept {
    const four_doubles zero{};
    const four_doubles low = qq.low > zero ? qq.low : zero + 1.0;
    const four_doubles high = qq.high > zero ? qq.high : zero + 1.0;
    return {xq.low / low, xq.high / high};
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
    return scale != 0.0 ? static_cast<float>(1.0 / scale) : 0.0f;
}

// A scale s, if Signed of either sign, with small sum (x - s nearest(x / s))^2. Tried are `tries` scales each that put
// the largest magnitude at and around the lowest and the highest value of E, and, for elements of few values, multiples
// of the mean magnitude; then codes and scale are fitted to each other in turn, as in Lloyd's method, which only ever
// gains.
template <element E, bool Signed = true>
[[nodiscard]] inline double search_scale(const float* x, std::size_t n, const value_sums& g) noexcept {
    if (g.top == 0.0f) return 0.0;
    constexpr bool symmetric = lowest<E> == -highest<E>;
    constexpr bool both = !symmetric && Signed;
    // Floats of few bits: the error repeats with each power of two.
    constexpr bool binade =
        !detail::integer_grid_of<E>.linear && (E::bits > 4 || (float_grid_of<E>.exists && float_grid_of<E>.bits == 0));
    constexpr bool listed = !detail::integer_grid_of<E>.linear && !float_grid_of<E>.exists; // slower to round to
    constexpr int tries = both           ? (E::bits <= 2 ? 16
                                            : listed     ? 16
                                                         : 20)
                          : binade       ? 40
                          : E::bits >= 7 ? 32
                          : E::bits <= 2 ? 24
                                         : 16;
    // From this share of the lowest value on, in equal steps: beyond 1 the largest magnitude is clipped, in long groups
    // farther: at least to so many standard deviations.
    constexpr double first = E::bits <= 3   ? 0.75
                             : binade       ? (E::bits > 4 ? 0.5 : 0.85)
                             : E::bits == 4 ? 0.8
                             : E::bits <= 6 ? 0.95
                             : both         ? 0.98
                                            : 0.93;
    constexpr double least_last = E::bits <= 2   ? 4.0
                                  : E::bits == 3 ? 1.5
                                  : binade       ? (E::bits > 4 ? 1.05 : 1.95)
                                  : E::bits == 4 ? 1.25
                                  : E::bits <= 6 ? 1.05
                                  : both         ? 1.03
                                                 : 1.15;
    constexpr double deviations = E::bits <= 3 ? 1.5 : E::bits == 4 ? 2.2 : E::bits <= 6 ? 3.0 : 4.0;
    const double clipped = __builtin_sqrt(g.xx / static_cast<double>(n)) * deviations;
    const double reach = static_cast<double>(g.top < 0.0f ? -g.top : g.top);
    const double last = reach > least_last * clipped ? reach / clipped : least_last;
    constexpr bool by_mean = E::bits <= 3;
    constexpr int count = (both ? 2 * tries : tries) + (by_mean ? 8 : 0);
    constexpr std::size_t batches = count / 8;
    static_assert(count % 8 == 0);
    alignas(32) float inverses[8 * batches];
    const double per_top = 1.0 / static_cast<double>(g.top);
    const double low = static_cast<double>(lowest<E>) * per_top;
    const double high = static_cast<double>(highest<E>) * per_top;
    // Without a sign the end that the largest magnitude fits with a scale above 0.
    const double one = symmetric ? (high < 0.0 ? -high : high) : both ? low : low > high ? low : high;
    std::size_t number = 0;
    for (int i = 0; i < tries; ++i) {
        const double at = __builtin_fma(last - first, static_cast<double>(i) / (tries - 1), first);
        inverses[number++] = static_cast<float>(at * one);
        if constexpr (both) inverses[number++] = static_cast<float>(at * high);
    }
    if constexpr (by_mean)
        for (int i = 0; i < 8; ++i)
            inverses[number++] = inverse_of(g.magnitude / static_cast<double>(n) * (0.75 + 0.25 * i));
    double best = -1.0;
    double scale = 0.0;
    for (std::size_t b = 0; b < batches; ++b) {
        eight_floats inverse;
        load_eight(inverses + 8 * b, inverse);
        eight_doubles qq, xq;
        sum_codes_of_eight<E>(x, n, inverse, qq, xq);
        const eight_doubles fitted = fitted_scales(qq, xq);
        const eight_doubles gained{fitted.low * xq.low, fitted.high * xq.high};
        for (int j = 0; j < 8; ++j)
            if (gained[j] > best && (Signed || fitted[j] >= 0.0)) {
                best = gained[j];
                scale = fitted[j];
            }
    }
    for (int i = 0; i < 6 && scale != 0.0; ++i) {
        const code_sums c = sum_codes<E, false>(x, n, inverse_of(scale), 0.0f);
        const double gained = gain(c);
        if (!(gained > best)) break;
        best = gained;
        scale = best_scale(c);
    }
    return scale;
}

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
template <element E, bool NonPositive>
[[nodiscard]] inline affine search_affine(const float* x, std::size_t n, const value_sums& g) noexcept {
    const double low = static_cast<double>(NonPositive && g.low > 0.0f ? 0.0f : g.low);
    const double width = static_cast<double>(g.high) - low;
    const double count = static_cast<double>(n);
    affine best{0.0, NonPositive ? (g.x > 0.0 ? 0.0 : g.x / count) : g.x / count};
    double least = error_of(g, code_sums{}, count, 0.0, best.offset);
    if (!(width > 0.0)) return best;
    const auto attempt = [&](const affine& from, affine& fitted) {
        const code_sums c = sum_codes<E, true>(x, n, inverse_of(from.scale), static_cast<float>(from.offset));
        double error = 0.0;
        fitted = fit_affine<NonPositive>(g, c, count, error);
        if (!(error < least) || !(fitted.scale > 0.0)) return false;
        least = error;
        best = fitted;
        return true;
    };
    // The range, narrowed at the upper, at the lower and at both ends by up to this share of a half.
    constexpr int tries = E::bits <= 2 ? 7 : E::bits <= 4 ? 6 : 4;
    constexpr double steps = E::bits <= 2 ? 22.0 : E::bits <= 4 ? 40.0 : 80.0;
    constexpr double levels = static_cast<double>(highest<E>);
    affine fitted;
    for (int i = -1; i < tries; ++i)
        for (int end = 0; end < 3; ++end) {
            if (i <= 0 && end != 0) continue;
            const double share = static_cast<double>(i) / steps;
            const double below = end == 0 ? 0.5 * share : end == 1 ? share : 0.0;
            attempt({width * (1.0 - share) / levels, __builtin_fma(width, below, low)}, fitted);
        }
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
// Sums with the values q - z.
template <element E>
[[nodiscard]] NIBBLE_INLINE code_sums sum_codes_about(const float* x, std::size_t n, float inverse,
                                                      float zero) noexcept {
    const eight_floats bottom = eight_floats{} - zero;
    const eight_floats top = bottom + highest<E>;
    const eight_floats integers = eight_floats{} + 12582912.0f;
    eight_doubles qq{};
    eight_doubles xq{};
    for (std::size_t i = 0; i < n; i += 8) {
        eight_floats value;
        eight_words kept; // 0 is the code of what lies behind the end
        if (i + 8 <= n)
            load_eight(x + i, value);
        else
            load_up_to_eight(x, i, n, value, kept);
        eight_floats code = value * inverse;
        code = code > bottom ? code : bottom;
        code = code < top ? code : top;
        code = (code + integers) - integers;
        const eight_doubles v = widened(code);
        qq.add_product(v, v);
        xq.add_product(v, widened(value));
    }
    return {0.0, sum_eight(qq), sum_eight(xq)};
}
template <element E>
[[nodiscard]] inline scale_and_zero search_integer_zero(const float* x, std::size_t n, const value_sums& g) noexcept {
    constexpr float levels = highest<E>;
    const double low = static_cast<double>(g.low < 0.0f ? g.low : 0.0f);
    const double high = static_cast<double>(g.high > 0.0f ? g.high : 0.0f);
    scale_and_zero best;
    double most = -1.0;
    const auto attempt = [&](const double(&scales)[8], const float(&zeros)[8]) {
        eight_floats inverse;
        eight_floats bottom;
        for (int j = 0; j < 8; ++j) {
            inverse[j] = inverse_of(scales[j]);
            bottom[j] = -zeros[j];
        }
        const eight_floats top = bottom + levels;
        const eight_floats integers = eight_floats{} + 12582912.0f;
        eight_doubles qq{};
        eight_doubles xq{};
        for (std::size_t i = 0; i < n; ++i) {
            eight_floats code = inverse * x[i];
            code = code > bottom ? code : bottom;
            code = code < top ? code : top;
            code = (code + integers) - integers;
            const eight_doubles v = widened(code);
            qq.add_product(v, v);
            xq.add_product(v, static_cast<double>(x[i]));
        }
        const eight_doubles fitted = fitted_scales(qq, xq);
        const eight_doubles gained{fitted.low * xq.low, fitted.high * xq.high};
        for (int j = 0; j < 8; ++j)
            if (gained[j] > most && fitted[j] > 0.0) {
                most = gained[j];
                best = {fitted[j], zeros[j]};
            }
    };
    const auto zero_of = [&](double bottom, double scale) {
        const float zero = detail::round_even(static_cast<float>(-bottom / scale));
        return zero < 0.0f ? 0.0f : zero > levels ? levels : zero;
    };
    // Shares of the range cut off at the lower and at the upper end; of long groups as much as leaves so many
    // deviations.
    constexpr double least_unit = E::bits <= 2 ? 0.06 : E::bits == 3 ? 0.045 : E::bits <= 5 ? 0.042 : 0.004;
    constexpr double deviations = E::bits <= 2 ? 2.4 : E::bits == 3 ? 3.6 : E::bits == 4 ? 4.8 : 7.0;
    const double mean = g.x / static_cast<double>(n);
    const double variance = __builtin_fma(-mean, mean, g.xx / static_cast<double>(n));
    const double spread = high > low && variance > 0.0 ? __builtin_sqrt(variance) / (high - low) : 1.0;
    const double long_unit = (1.0 - deviations * spread) / 4.0;
    const double unit = long_unit > least_unit ? long_unit : least_unit;
    constexpr signed char cuts[32][2] = {{0, 0}, {1, 1}, {2, 2},   {3, 3},   {4, 4},   {5, 5},   {6, 6},   {7, 7},
                                         {8, 8}, {9, 9}, {10, 10}, {12, 12}, {-1, -1}, {-2, -2}, {-4, -4}, {-6, -6},
                                         {3, 0}, {0, 3}, {6, 0},   {0, 6},   {9, 3},   {3, 9},   {12, 0},  {0, 12},
                                         {7, 2}, {2, 7}, {4, 0},   {0, 4},   {9, 0},   {0, 9},   {2, -2},  {-2, 2}};
    constexpr int batches = 4;
    double scales[8];
    float zeros[8];
    for (int b = 0; b < batches; ++b) {
        for (int j = 0; j < 8; ++j) {
            const double bottom = low * (1.0 - unit / 3.0 * cuts[8 * b + j][0]);
            const double end = high * (1.0 - unit / 3.0 * cuts[8 * b + j][1]);
            scales[j] = (end - bottom) / static_cast<double>(levels);
            zeros[j] = zero_of(bottom, scales[j]);
        }
        attempt(scales, zeros);
    }
    if (!(most > 0.0)) return best;
    for (int round = 0; round < 2; ++round) {
        constexpr double fine = E::bits <= 4 ? 1.0 : E::bits <= 6 ? 0.4 : 0.1;
        constexpr double factors[8] = {1.0,
                                       1.0,
                                       1.0 - 0.01 * fine,
                                       1.0 - 0.025 * fine,
                                       1.0 + 0.01 * fine,
                                       1.0 + 0.025 * fine,
                                       1.0 - 0.05 * fine,
                                       1.0 + 0.045 * fine};
        const float steps[8] = {1.0f, -1.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        const scale_and_zero from = best;
        for (int j = 0; j < 8; ++j) {
            scales[j] = from.scale * factors[j];
            const float zero = from.zero + steps[j];
            zeros[j] = zero < 0.0f ? 0.0f : zero > levels ? levels : zero;
        }
        attempt(scales, zeros);
    }
    return best;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
