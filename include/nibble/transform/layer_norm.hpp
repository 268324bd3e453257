// layer_norm.hpp: layer normalisation of rows: mean 0 and variance 1, then a weight and a bias per column.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/transform/norm.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

using layer_norm_options = norm_options; // epsilon is added to the variance

namespace detail {

template <isa Isa>
NIBBLE_NOINLINE void layer_norm_row(const float* x, const float* weight, const float* bias, double epsilon,
                                    const float* addend, float* y, std::size_t count) noexcept {
    using L = lanes<Isa>;
    const double n = static_cast<double>(count);
    // About a number close to the mean, so that the variance of numbers far from 0 does not cancel.
    const L center(static_cast<float>(
        sum_of_row<Isa>(x, count, [](L& sum, const L& a, std::size_t) NIBBLE_INLINE_LAMBDA { sum = sum + a; }) / n));
    const auto deviations = [&](const L& a, std::size_t some) NIBBLE_INLINE_LAMBDA {
        const L d = a - center;
        if (some == 8) return d;
        float v[8];
        d.store(v, 8);
        return L::load(v, some);
    };
    const auto add_deviation = [&](L& sum, const L& a, std::size_t some)
                                   NIBBLE_INLINE_LAMBDA { sum = sum + deviations(a, some); };
    const auto add_square = [&](L& sum, const L& a, std::size_t some) NIBBLE_INLINE_LAMBDA {
        const L d = deviations(a, some);
        sum = fma(d, d, sum);
    };
    const double rest = sum_of_row<Isa>(x, count, add_deviation) / n; // the mean, less that number
    const double variance = sum_of_row<Isa>(x, count, add_square) / n - rest * rest;
    const double positive = variance < 0.0 ? 0.0 : variance; // NaN stays
    const L scale(static_cast<float>(1.0 / __builtin_sqrt(positive + epsilon)));
    const L shift(static_cast<float>(rest));
    for (std::size_t i = 0; i < count; i += 8) {
        const std::size_t some = min_of<std::size_t>(8, count - i);
        const L normed = (((L::load(x + i, some) - center) - shift) * scale).kept();
        const L w = weight != nullptr ? L::load(weight + i, some) : L(1.0f);
        L result = bias != nullptr ? fma(normed, w, L::load(bias + i, some)) : normed * w;
        if (addend != nullptr) result = result.kept() + L::load(addend + i, some);
        result.store(y + i, some);
    }
}

template <isa Isa> struct layer_norm_of {
    void operator()(const float* x, const float* weight, const float* bias, double epsilon, const float* addend,
                    float* y, std::size_t count) const noexcept {
        layer_norm_row<Isa>(x, weight, bias, epsilon, addend, y, count);
    }
};

} // namespace detail

// y(m, k) = weight(k) (x(m, k) - mean) / sqrt(variance + epsilon) + bias(k) [+ addend(m, k)], with the mean and the
// variance (by n, not n - 1) over the row (Ba et al., 2016), in fp32 with both in double; the variance is taken about
// the mean, so that numbers far from 0 keep their digits. An empty weight is one of ones, an empty bias one of zeros.
// options.residual as in rms_norm. x, y, addend and residual have one shape and any strides; y may be x. A row with a
// NaN or an infinity, or whose sum overflows, is NaN; one whose squares overflow has its bias (and the addend), as has
// one of equal numbers, which is NaN where epsilon is 0. The same bits for any executor, any other rows and every ISA.
// Allocates nothing.
template <isa Isa = best_isa, executor Executor = serial>
void layer_norm(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
                matrix_view<float> y, const layer_norm_options& options = {}, const Executor& threads = {}) {
    detail::norm_rows<Isa>(x, weight, bias, y, options, threads, detail::layer_norm_of<Isa>{});
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
