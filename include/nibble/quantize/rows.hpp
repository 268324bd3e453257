// quantize/rows.hpp: precision by rows: the rows that gain most in one scheme, the others in a cheaper one; and groups
// that run down the columns.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/sort_by_key.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/mixed_rows.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// w (N x K) with round(fraction x N) of its rows in High and the others in Low: the rows whose squared error High
// reduces most, each times its entry of `importance` if that is given (N numbers that are not negative, for example the
// sensitivity of the output). Of equal gains the first rows are taken. Values that are not finite do not count as
// errors. Both schemes must keep rows apart (granularities with row_local, one level), so that a row's codes do not
// depend on which rows are chosen.
template <any_scheme High, any_scheme Low, executor Executor = serial>
[[nodiscard]] mixed_rows<High, Low> quantize_rows(matrix_view<const float> w, double fraction,
                                                  const float* importance = nullptr,
                                                  const quantize_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    static_assert(detail::scheme_traits<High>::granularity::row_local &&
                      detail::scheme_traits<Low>::granularity::row_local && !High::two_level && !Low::two_level,
                  "quantize_rows: schemes with scales of their own in each row, such as int4_g128 or int8_channel");
    NIBBLE_CHECK(fraction >= 0.0 && fraction <= 1.0, "quantize_rows: the fraction must lie between 0 and 1");
    NIBBLE_CHECK(options.round_up == nullptr,
                 "quantize_rows: learned rounding belongs to one scheme; quantize the parts");
    NIBBLE_CHECK(w.rows() <= UINT32_MAX, "quantize_rows: more than 2^32 - 1 rows");
    for (std::size_t i = 0; importance != nullptr && i < w.rows(); ++i)
        NIBBLE_CHECK(detail::is_finite(importance[i]) && importance[i] >= 0.0f,
                     "quantize_rows: importance must be finite and not negative");
    const quantized<High> high = quantize<High>(w, options, threads);
    const quantized<Low> low = quantize<Low>(w, options, threads);
    dynamic_array<double> gains(w.rows());
    detail::for_each_task(w.rows(), threads, [&](std::size_t i, std::size_t) {
        double gain = 0.0;
        for (std::size_t j = 0; j < w.cols(); ++j) {
            if (!detail::is_finite(w(i, j))) continue;
            const double a = static_cast<double>(w(i, j)) - static_cast<double>(low.value_at(i, j));
            const double b = static_cast<double>(w(i, j)) - static_cast<double>(high.value_at(i, j));
            gain = __builtin_fma(a, a, gain);
            gain = __builtin_fma(-b, b, gain);
        }
        gains[i] = importance != nullptr ? gain * static_cast<double>(importance[i]) : gain;
    });
    dynamic_array<kernel::keyed<std::uint64_t>> order(w.rows());
    dynamic_array<kernel::keyed<std::uint64_t>> spare;
    for (std::size_t i = 0; i < order.size(); ++i)
        order[i] = {~kernel::ordered_key(gains[i]), static_cast<std::uint32_t>(i)}; // descending
    kernel::sort_by_key(order, spare);
    dynamic_array<bool> chosen(w.rows(), false);
    const std::size_t count = static_cast<std::size_t>(fraction * static_cast<double>(w.rows()) + 0.5);
    for (std::size_t i = 0; i < count; ++i) chosen[order[i].position] = true;
    const auto part = [&]<class S>(bool of) {
        dynamic_array<float> rows;
        std::size_t n = 0;
        for (std::size_t i = 0; i < w.rows(); ++i)
            if (chosen[i] == of) {
                rows.append(w.row(i), w.row(i) + w.cols());
                ++n;
            }
        return quantize<S>(matrix_view<const float>(rows.data(), n, w.cols()), options, threads);
    };
    quantized<High> top = part.template operator()<High>(true);
    quantized<Low> rest = part.template operator()<Low>(false);
    return mixed_rows<High, Low>(std::move(top), std::move(rest), chosen);
}

// The fp32 values of q into out.
template <any_scheme High, any_scheme Low, executor Executor = serial>
void dequantize(const mixed_rows<High, Low>& q, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == q.cols(),
                 "dequantize: the output must have the shape of the weights");
    if (out.empty()) return;
    const auto part = [&](const auto& weights, const dynamic_array<std::size_t>& rows) {
        dynamic_array<float> values(weights.rows() * weights.cols());
        dequantize(weights, matrix_view<float>(values.data(), weights.rows(), weights.cols()), threads);
        for (std::size_t i = 0; i < rows.size(); ++i)
            __builtin_memcpy(out.row(rows[i]), values.data() + i * q.cols(), q.cols() * sizeof(float));
    };
    part(q.high(), q.high_rows());
    part(q.low(), q.low_rows());
}

// out(m, features[n]) = y(m, n): the outputs of one part's gemm to their places in those of the whole.
inline void scatter_columns(matrix_view<const float> y, const dynamic_array<std::size_t>& features,
                            matrix_view<float> out) {
    NIBBLE_CHECK(y.cols() == features.size() && y.rows() == out.rows(),
                 "scatter_columns: one feature per column of y, and as many rows in out as in y");
    for (const std::size_t feature : features)
        NIBBLE_CHECK(feature < out.cols(), "scatter_columns: a feature lies outside of the output");
    for (std::size_t m = 0; m < y.rows(); ++m)
        for (std::size_t n = 0; n < features.size(); ++n) out(m, features[n]) = y(m, n);
}

namespace detail {

// to = fromᵀ, in tiles whose lines stay in the first cache.
inline void transpose_into(matrix_view<const float> from, matrix_view<float> to) noexcept {
    constexpr std::size_t tile = 32;
    for (std::size_t i = 0; i < from.rows(); i += tile)
        for (std::size_t j = 0; j < from.cols(); j += tile)
            for (std::size_t c = j; c < min_of(from.cols(), j + tile); ++c)
                for (std::size_t r = i; r < min_of(from.rows(), i + tile); ++r) to(c, r) = from(r, c);
}

} // namespace detail

// Groups along the other axis: scheme S applied to wᵀ, so that per_group<G> means G consecutive rows of one column
// (keys per channel over tokens, as KIVI has them) and per_channel one scale per column. The result is K x N, and gemm
// on it multiplies by wᵀ. Copies w.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] quantized<S> quantize_transposed(matrix_view<const float> w, const quantize_options& options = {},
                                               const Executor& threads = {}) {
    dynamic_array<float> transposed(w.rows() * w.cols());
    detail::transpose_into(w, matrix_view<float>(transposed.data(), w.cols(), w.rows()));
    return quantize<S>(matrix_view<const float>(transposed.data(), w.cols(), w.rows()), options, threads);
}

// The inverse: the values of q (K x N) into out (N x K).
template <any_scheme S, executor Executor = serial>
void dequantize_transposed(const quantized<S>& q, matrix_view<float> out, const Executor& threads = {}) {
    NIBBLE_CHECK(out.rows() == q.cols() && out.cols() == q.rows(),
                 "dequantize_transposed: the output must have the shape of the weights, transposed");
    dynamic_array<float> transposed(q.rows() * q.cols());
    dequantize(q, matrix_view<float>(transposed.data(), q.rows(), q.cols()), threads);
    detail::transpose_into(matrix_view<const float>(transposed.data(), q.rows(), q.cols()), out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
