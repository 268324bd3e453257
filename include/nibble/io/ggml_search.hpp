// ggml_search.hpp: scales of least squared error for groups of weights; what the encoders of ggml_quantize.hpp search with.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>

#include <cstddef>
#include <cstdint>

// Sums are in double, and every product that goes into one is exact in double or goes in through a fused multiply-add: the
// result does not depend on what the compiler fuses.
namespace nibble::inline NIBBLE_ABI::detail {

// The values that encoders of E produce reach from lowest<E> to this.
template <element E>
inline constexpr float highest = E::decode(encode<E>(3.4028234e38f));

// Eight lanes, in the compiler's own vectors: GCC leaves a loop over eight floats and a sum of doubles scalar.
using eight_floats = float __attribute__((vector_size(32)));
using eight_doubles = double __attribute__((vector_size(64)));

NIBBLE_INLINE void load_eight(const float* from, eight_floats& to) noexcept { __builtin_memcpy(&to, from, sizeof to); }
[[nodiscard]] NIBBLE_INLINE double sum_eight(const eight_doubles& s) noexcept {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// The values of E nearest to t, in its place. Among equally near ones any: what a search tries need not be what encode gives.
template <element E>
NIBBLE_INLINE void to_nearest_values(eight_floats& t) noexcept {
    constexpr integer_grid g = integer_grid_of<E>;
    if constexpr (g.linear && g.exponent == 0) {
        const eight_floats low = eight_floats{} + lowest<E>;
        const eight_floats high = eight_floats{} + highest<E>;
        const eight_floats integers = eight_floats{} + 12582912.0f; // 1.5 x 2^23: floats from here on are integers
        t = t > low ? t : low; // NaN too
        t = t < high ? t : high;
        // The addition cannot fuse with a product in front: the limits stand between.
        t = (t + integers) - integers;
    } else {
        constexpr const grid<E>& values = sorted_grid<E>;
        eight_floats value = eight_floats{} + values.values.at[0];
        for (std::size_t i = 0; i + 1 < values.count; ++i) {
            const float below = values.values.at[i];
            const float above = values.values.at[i + 1];
            value = t > eight_floats{} + (below + above) * 0.5f ? eight_floats{} + above : value;
        }
        t = value;
    }
}
// Of a single number.
template <element E>
[[nodiscard]] NIBBLE_INLINE float nearest_value(float t) noexcept {
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

// n is a multiple of 8.
template <element E, bool Offset>
[[nodiscard]] NIBBLE_INLINE code_sums sum_codes(const float* x, std::size_t n, float inverse, float offset) noexcept {
    eight_doubles q{};
    eight_doubles qq{};
    eight_doubles xq{};
    for (std::size_t i = 0; i < n; i += 8) {
        eight_floats value;
        load_eight(x + i, value);
        eight_floats code = Offset ? (value - offset) * inverse : value * inverse;
        to_nearest_values<E>(code);
        const eight_doubles v = __builtin_convertvector(code, eight_doubles);
        if constexpr (Offset) q += v;
        qq += v * v;
        xq += __builtin_convertvector(value, eight_doubles) * v;
    }
    return {Offset ? sum_eight(q) : 0.0, sum_eight(qq), sum_eight(xq)};
}

// What is known of a group before any code is.
struct group_sums {
    double x = 0.0;
    double xx = 0.0;
    double magnitude = 0.0; // sum |x|
    float top = 0.0f;       // the value of the largest magnitude, with its sign; the higher of two
    float low = 0.0f;
    float high = 0.0f;
};
[[nodiscard]] inline group_sums sum_group(const float* x, std::size_t n) noexcept {
    eight_doubles sum{};
    eight_doubles squares{};
    eight_doubles magnitudes{};
    eight_floats low;
    eight_floats high;
    load_eight(x, low);
    high = low;
    for (std::size_t i = 0; i < n; i += 8) {
        eight_floats value;
        load_eight(x + i, value);
        low = value < low ? value : low;
        high = value > high ? value : high;
        const eight_doubles v = __builtin_convertvector(value, eight_doubles);
        sum += v;
        squares += v * v;
        magnitudes += v < eight_doubles{} ? -v : v;
    }
    group_sums g{sum_eight(sum), sum_eight(squares), sum_eight(magnitudes), 0.0f, low[0], high[0]};
    for (int j = 1; j < 8; ++j) {
        g.low = low[j] < g.low ? low[j] : g.low;
        g.high = high[j] > g.high ? high[j] : g.high;
    }
    g.top = -g.low > g.high ? g.low : g.high;
    return g;
}

// x without what is no number: NaN is 0, an infinity the largest finite magnitude of the group. True if there was one.
inline bool copy_finite(const float* x, std::size_t n, float* out) noexcept {
    float largest_magnitude = 0.0f;
    bool nonfinite = false;
    for (std::size_t i = 0; i < n; ++i) {
        const bool finite = is_finite(x[i]);
        const float magnitude = finite ? abs_of(x[i]) : 0.0f;
        nonfinite = nonfinite || !finite;
        largest_magnitude = magnitude > largest_magnitude ? magnitude : largest_magnitude;
    }
    for (std::size_t i = 0; i < n; ++i)
        out[i] = is_finite(x[i]) ? x[i] : is_nan(x[i]) ? 0.0f : x[i] > 0.0f ? largest_magnitude : -largest_magnitude;
    return nonfinite;
}

// How much smaller sum (x - s q)^2 is than sum x^2 for the best s, and that s: 0 for codes of zero.
[[nodiscard]] NIBBLE_INLINE double gain(const code_sums& c) noexcept { return c.qq > 0.0 ? c.xq * (c.xq / c.qq) : 0.0; }
[[nodiscard]] NIBBLE_INLINE double best_scale(const code_sums& c) noexcept { return c.qq > 0.0 ? c.xq / c.qq : 0.0; }
// sum (x - s q)^2.
[[nodiscard]] NIBBLE_INLINE double error_of(const group_sums& g, const code_sums& c, double s) noexcept {
    return __builtin_fma(s, __builtin_fma(s, c.qq, -2.0 * c.xq), g.xx);
}
// sum (x - s q - b)^2 of n values.
[[nodiscard]] NIBBLE_INLINE double error_of(const group_sums& g, const code_sums& c, double n, double s, double b) noexcept {
    const double with_b = __builtin_fma(b, __builtin_fma(b, n, __builtin_fma(2.0 * s, c.q, -2.0 * g.x)), 0.0);
    return error_of(g, c, s) + with_b;
}

[[nodiscard]] NIBBLE_INLINE float inverse_of(double scale) noexcept {
    return scale != 0.0 ? static_cast<float>(1.0 / scale) : 0.0f;
}

// A scale s of either sign with small sum (x - s nearest(x / s))^2. Tried are `tries` scales each that put the largest
// magnitude at and around the lowest and the highest value of E, and, for elements of few values, multiples of the mean
// magnitude; then codes and scale are fitted to each other in turn, as in Lloyd's method, which only ever gains.
template <element E>
[[nodiscard]] inline double search_scale(const float* x, std::size_t n, const group_sums& g) noexcept {
    if (g.top == 0.0f) return 0.0;
    constexpr int tries = E::bits <= 2 ? 24 : E::bits <= 4 ? 20 : E::bits <= 6 ? 10 : 3;
    // From this share of the lowest value on, in equal steps: beyond 1 the largest magnitude is clipped.
    constexpr double first = E::bits <= 2 ? 0.75 : E::bits == 3 ? 0.75 : E::bits == 4 ? 0.8 : E::bits <= 6 ? 0.95 : 0.996;
    constexpr double last = E::bits <= 2 ? 4.0 : E::bits == 3 ? 1.5 : E::bits == 4 ? 1.25 : E::bits <= 6 ? 1.05 : 1.002;
    constexpr bool symmetric = lowest<E> == -highest<E>;
    double best = -1.0;
    double scale = 0.0;
    const auto attempt = [&](double s) {
        const code_sums c = sum_codes<E, false>(x, n, inverse_of(s), 0.0f);
        const double gained = gain(c);
        if (gained > best) {
            best = gained;
            scale = best_scale(c);
            return true;
        }
        return false;
    };
    const double top = static_cast<double>(g.top);
    for (int i = 0; i < tries; ++i) {
        const double at = __builtin_fma(last - first, static_cast<double>(i) / (tries - 1), first);
        attempt(top / (static_cast<double>(lowest<E>) * at));
        if constexpr (!symmetric) attempt(top / (static_cast<double>(highest<E>) * at));
    }
    if constexpr (E::bits <= 3)
        for (int i = 0; i < 8; ++i) attempt(g.magnitude / static_cast<double>(n) * (0.75 + 0.25 * i));
    for (int i = 0; i < 6 && attempt(scale); ++i) {}
    return scale;
}

// Scale and offset: x is about s q + b.
struct affine {
    double scale = 0.0;
    double offset = 0.0;
};
// The best for given codes; with NonPositive b is at most 0. Also the error.
template <bool NonPositive>
[[nodiscard]] NIBBLE_INLINE affine fit_affine(const group_sums& g, const code_sums& c, double n, double& error) noexcept {
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
[[nodiscard]] inline affine search_affine(const float* x, std::size_t n, const group_sums& g) noexcept {
    const double low = static_cast<double>(NonPositive && g.low > 0.0f ? 0.0f : g.low);
    const double width = static_cast<double>(g.high) - low;
    const double count = static_cast<double>(n);
    affine best{0.0, NonPositive ? (g.x > 0.0 ? 0.0 : g.x / count) : g.x / count};
    double least = error_of(g, code_sums{}, count, 0.0, best.offset);
    if (!(width > 0.0)) return best;
    const auto attempt = [&](const affine& from, affine& fitted) {
        const code_sums c =
            sum_codes<E, true>(x, n, inverse_of(from.scale), static_cast<float>(from.offset));
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
    for (int i = 0; i < 6 && attempt(best, fitted); ++i) {}
    return best;
}

} // namespace nibble::inline NIBBLE_ABI::detail
