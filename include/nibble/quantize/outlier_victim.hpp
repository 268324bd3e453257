// quantize/outlier_victim.hpp: a float matrix into OliVe's outlier-victim pairs, and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/outlier_victim.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/tensor/outlier_victim_quantized.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct outlier_victim_options {
    // Groups try the scales 0.2, 0.22 ... 1.5 times that of three standard deviations and keep the one of least squared
    // error, as OliVe does; otherwise the plain one.
    bool search = true;
    // alpha of every group, where the normal values end (its scale is alpha / 28), in group order; null: by the rule
    // above.
    const float* alpha = nullptr;
};

namespace detail {

// The largest value of a weight, in units of the scale, that is finite in fp32.
[[nodiscard]] inline float outlier_victim_top(float factor) noexcept {
    constexpr const auto& levels = outlier_victim_levels::levels;
    std::size_t at = 28;
    while (at > 14 && !is_finite(levels[at] * factor)) --at;
    return levels[at];
}

// Squared error of finite x[0, count), whose pairs begin at x[0], under a scale; the last of an odd number stands
// alone.
[[nodiscard]] inline double outlier_victim_error(const float* x, std::size_t count, float factor) noexcept {
    constexpr std::size_t block = 512;
    const float top = outlier_victim_top(factor);
    float values[block];
    double sums[2] = {0.0, 0.0};
    for (std::size_t start = 0; start < count; start += block) {
        const std::size_t n = min_of(block, count - start);
        for (std::size_t i = 0; i < n; ++i) {
            const float nearest = outlier_victim::nearest(x[start + i] / factor);
            values[i] = nearest > top ? top : nearest < -top ? -top : nearest;
        }
        if (n % 2 != 0) values[n] = 0.0f; // an odd number is less than a block
        for (std::size_t i = 0; i < n; i += 2) {
            const bool even_out = abs_of(values[i]) > 28.0f;
            const bool odd_out = abs_of(values[i + 1]) > 28.0f && !even_out;
            // The product is rounded to fp32 as in dequantize, the difference is not.
            const double even =
                static_cast<double>(x[start + i]) - static_cast<double>(factor * (odd_out ? 0.0f : values[i]));
            sums[0] = __builtin_fma(even, even, sums[0]);
            if (i + 1 == n) continue;
            const double odd =
                static_cast<double>(x[start + i + 1]) - static_cast<double>(factor * (even_out ? 0.0f : values[i + 1]));
            sums[1] = __builtin_fma(odd, odd, sums[1]);
        }
    }
    return sums[0] + sums[1];
}

// max |mean +- 3 sigma| of x[0, count), of values whose mass is 0 nothing.
[[nodiscard]] inline double outlier_victim_alpha(const float* x, const float* mass, std::size_t count) noexcept {
    double members = 0.0, sum = 0.0, squares = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
        if (mass != nullptr && mass[i] == 0.0f) continue;
        members += 1.0;
        sum += static_cast<double>(x[i]);
    }
    const double mean = members > 0.0 ? sum / members : 0.0;
    for (std::size_t i = 0; i < count; ++i) {
        if (mass != nullptr && mass[i] == 0.0f) continue;
        const double d = static_cast<double>(x[i]) - mean;
        squares = __builtin_fma(d, d, squares);
    }
    const double sigma = members > 1.0 ? std::sqrt(squares / (members - 1.0)) : 0.0;
    return __builtin_fma(3.0, sigma, mean < 0.0 ? -mean : mean);
}
// The best of the scales from 0.2 to 1.5 times alpha's, in steps of 0.02, by squared error; pairs lie in `group_size`
// values of one row.
[[nodiscard]] inline float search_outlier_victim_scale(const float* x, std::size_t count, std::size_t group_size,
                                                       double alpha) noexcept {
    float best = static_cast<float>(alpha / 28.0);
    double least = -1.0;
    for (int percent = 20; percent <= 150; percent += 2) {
        const float trial = static_cast<float>(alpha * percent / 2800.0);
        if (!(trial > 0.0f)) continue;
        double error = 0.0;
        for (std::size_t begin = 0; begin < count; begin += group_size)
            error += outlier_victim_error(x + begin, min_of(group_size, count - begin), trial);
        if (least < 0.0 || error < least) {
            least = error;
            best = trial;
        }
    }
    return best;
}
// The pairs of a row under its scales.
template <granularity Granularity>
void encode_outlier_victim_row(matrix_view<const float> w, std::size_t row,
                               outlier_victim_quantized<Granularity>& q) noexcept {
    for (std::size_t col = 0; col < w.cols(); col += 2) {
        const float factor = q.scales()[Granularity::index(row, col, w.cols())];
        const float top = factor > 5e35f ? outlier_victim_top(factor) : 384.0f;
        const auto scaled = [&](float x) {
            const float unit = factor > 0.0f ? x / factor : 0.0f;
            return unit > top ? top : unit < -top ? -top : unit;
        };
        q.row_pairs(row)[col / 2] =
            outlier_victim::encode_pair(scaled(w(row, col)), col + 1 < w.cols() ? scaled(w(row, col + 1)) : 0.0f);
    }
}

} // namespace detail

// w in pairs: scale = alpha / 28 in fp32, alpha = max |mean +- 3 sigma| of the group (sigma with one degree of freedom
// less, in double), each pair as outlier_victim::encode_pair of x / scale. Values that are not finite do not count in
// alpha; NaN becomes 0 and infinity the largest outlier. A group of zeros has scale 0 and codes of 0; one of a single
// weight, or of equal ones, has alpha = |mean|. Groups lie in one row or hold whole rows. The result does not depend on
// the executor. Allocates the result and 4 to 8 bytes per weight.
template <granularity Granularity, executor Executor = serial>
[[nodiscard]] outlier_victim_quantized<Granularity> quantize_outlier_victim(matrix_view<const float> w,
                                                                            const outlier_victim_options& options = {},
                                                                            const Executor& threads = {}) {
    detail::check_executor(threads);
    outlier_victim_quantized<Granularity> q(w.rows(), w.cols());
    if (w.empty()) return q;
    // Then all of a group's columns in a row are as many, and pairs of its values are pairs of the row.
    const std::size_t group_size = detail::min_of(Granularity::group_size(w.cols()), w.cols());
    NIBBLE_CHECK(Granularity::row_local || group_size == w.cols(),
                 "quantize_outlier_victim: groups that span rows must span whole rows");
    for (std::size_t group = 0; options.alpha != nullptr && group < q.group_count(); ++group)
        NIBBLE_CHECK(detail::is_finite(options.alpha[group]) && options.alpha[group] >= 0.0f,
                     "quantize_outlier_victim: every alpha must be finite and at least 0");
    const detail::group_values groups = detail::gather_groups<Granularity>(w, {});
    q.set_nonfinite(groups.nonfinite);
    detail::in_stretches(q.group_count(), w.rows() * w.cols(), threads, [&](std::size_t first, std::size_t end) {
        for (std::size_t group = first; group < end; ++group) {
            const float* x = groups.values.data() + groups.starts[group];
            const float* mass = groups.masses.empty() ? nullptr : groups.masses.data() + groups.starts[group];
            const std::size_t count = groups.starts[group + 1] - groups.starts[group];
            if (options.alpha != nullptr) {
                q.scales()[group] = options.alpha[group] / 28.0f;
                continue;
            }
            const double alpha = detail::outlier_victim_alpha(x, mass, count);
            q.scales()[group] = options.search ? detail::search_outlier_victim_scale(x, count, group_size, alpha)
                                               : static_cast<float>(alpha / 28.0);
        }
    });
    detail::in_stretches(w.rows(), w.rows() * w.cols(), threads, [&](std::size_t first, std::size_t end) {
        for (std::size_t row = first; row < end; ++row) detail::encode_outlier_victim_row(w, row, q);
    });
    return q;
}

// The values of q into out (rows x cols of q): one rounding of each product.
template <granularity Granularity, executor Executor = serial>
void dequantize(const outlier_victim_quantized<Granularity>& q, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == q.cols(),
                 "dequantize: out must have the shape of the weights");
    if (out.empty()) return;
    // All pairs there are.
    static constexpr auto pairs = [] {
        detail::table<outlier_victim_values, 256> t{};
        for (unsigned p = 0; p < 256; ++p) t.at[p] = outlier_victim::decode_pair(static_cast<std::uint8_t>(p));
        return t;
    }();
    detail::in_stretches(q.rows(), q.rows() * q.cols(), threads, [&](std::size_t first, std::size_t end) {
        for (std::size_t row = first; row < end; ++row)
            for (std::size_t col = 0; col < q.cols(); col += 2) {
                const float factor = q.scales()[Granularity::index(row, col, q.cols())];
                const outlier_victim_values v = pairs.at[q.row_pairs(row)[col / 2]];
                out(row, col) = factor * v.even;
                if (col + 1 < q.cols()) out(row, col + 1) = factor * v.odd;
            }
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
