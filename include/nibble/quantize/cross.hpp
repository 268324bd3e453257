// quantize/cross.hpp: row x column scales (CrossQuant): quantize, its inverse, and the activations' share of it.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/cross_quantized.hpp>

#include <cstddef>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// x^p of a positive finite x and 0 <= p <= 1, the same bits everywhere: every product that meets a sum is a written
// fma.
[[nodiscard]] inline float power(float x, float p) noexcept {
    // log2 x = exponent + 2 / ln 2 (t + t^3 / 3 + ...) with t = (m - 1) / (m + 1), m in [1/sqrt 2, sqrt 2).
    int exponent = floor_log2(x);
    double m = mantissa_of(x);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double t = (m - 1.0) / (m + 1.0);
    const double t2 = t * t;
    double sum = 0.0;
    for (int n = 27; n >= 1; n -= 2) sum = __builtin_fma(sum, t2, 1.0 / n);
    const double log2 = __builtin_fma(sum, t * 2.8853900817779268, static_cast<double>(exponent));
    const double y = log2 * static_cast<double>(p);
    const int whole = static_cast<int>(y) - (y < 0.0 ? 1 : 0); // y is far inside int's range
    const double rest = __builtin_fma(log2, static_cast<double>(p), -static_cast<double>(whole)) * 0.69314718055994531;
    double e = 1.0;
    for (int n = 20; n >= 1; --n) e = __builtin_fma(e, rest / n, 1.0);
    // Two factors: 2^-150 is no fp32 number, but may be half of one.
    return static_cast<float>(e * static_cast<double>(exp2i(whole / 2)) *
                              static_cast<double>(exp2i(whole - whole / 2)));
}

} // namespace detail

// w (N x K) as values under two scales (Liu et al., "CrossQuant", 2024): column j is first divided by
// c_j = (max_i |w_ij|)^(1 - alpha), then the result is quantized in scheme S, whose rule gives the row or group its
// scale. alpha 1 leaves S alone, 0 makes every column's largest magnitude 1; the paper takes 0.15 for activations. The
// paper's row scale is (max_j |w_ij|)^alpha over the largest code; S's own is never larger, so that the error is not
// either. Columns of zeros get c = 1; NaN and infinities do not count in c_j and are treated as quantize treats them.
// Two passes, and a copy of w.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] cross_quantized<S> quantize_cross(matrix_view<const float> w, float alpha = 0.15f,
                                                const quantize_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(alpha >= 0.0f && alpha <= 1.0f, "quantize_cross: alpha must lie between 0 and 1");
    buffer columns(w.cols() * sizeof(float));
    float* c = columns.as<float>();
    for (std::size_t i = 0; i < w.rows(); ++i) {
        const float* x = w.row(i);
        for (std::size_t j = 0; j < w.cols(); ++j) {
            const float magnitude = detail::is_finite(x[j]) ? detail::abs_of(x[j]) : 0.0f;
            c[j] = detail::max_of(c[j], magnitude);
        }
    }
    for (std::size_t j = 0; j < w.cols(); ++j) c[j] = c[j] > 0.0f ? detail::power(c[j], 1.0f - alpha) : 1.0f;
    dynamic_array<float> scaled(w.rows() * w.cols());
    detail::for_each_task(w.rows(), threads, [&](std::size_t i, std::size_t) {
        for (std::size_t j = 0; j < w.cols(); ++j) scaled[i * w.cols() + j] = w(i, j) / c[j];
    });
    quantized<S> inner = quantize<S>(matrix_view<const float>(scaled.data(), w.rows(), w.cols()), options, threads);
    return cross_quantized<S>(std::move(inner), std::move(columns));
}

// The fp32 values of q into out.
template <any_scheme S, executor Executor = serial>
void dequantize(const cross_quantized<S>& q, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_executor(threads);
    dequantize(q.weights(), out, threads);
    detail::for_each_task(out.rows(), threads, [&](std::size_t i, std::size_t) {
        for (std::size_t j = 0; j < out.cols(); ++j) out(i, j) = detail::cross_value(out(i, j), q.columns()[j]);
    });
}

// out(m, j) = x(m, j) x columns[j]: what gemm multiplies with pack(q.weights()) to give x times the values of q. In
// place if out is x.
template <any_scheme S, executor Executor = serial>
void scale_columns(matrix_view<const float> x, const cross_quantized<S>& q, matrix_view<float> out,
                   const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(x.cols() == q.cols(), "scale_columns: x must have as many columns as the weights");
    NIBBLE_CHECK(out.rows() == x.rows() && out.cols() == x.cols(), "scale_columns: out must have the shape of x");
    detail::for_each_task(x.rows(), threads, [&](std::size_t i, std::size_t) {
        for (std::size_t j = 0; j < x.cols(); ++j) out(i, j) = x(i, j) * q.columns()[j];
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
