// quantize/mixed.hpp: a float matrix into groups that choose their element, by least error or by a quota; and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/sort_by_key.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/mixed_quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// w in every element of the list, by quantize; groups are then copied from whichever is chosen.
template <class... Schemes> struct mixed_candidates {
    template <class S> struct one {
        quantized<S> q;
    };
    struct all : one<Schemes>... {};
    all parts;

    template <executor Executor>
    mixed_candidates(matrix_view<const float> w, const quantize_options& options, const Executor& threads)
        : parts{one<Schemes>{quantize<Schemes>(w, options, threads)}...} {}
    // visit(number of the element, its quantized matrix)
    template <class Visit> void each(Visit&& visit) const {
        std::size_t number = 0;
        (visit(number++, static_cast<const one<Schemes>&>(parts).q), ...);
    }
};

// Squared error of every group, [element][group]; weights that are not finite do not count.
template <class Mixed, class Candidates, executor Executor>
[[nodiscard]] dynamic_array<double> mixed_errors(matrix_view<const float> w, const Candidates& candidates,
                                                 const Executor& threads) {
    const std::size_t row_groups = ceil_div(w.cols(), Mixed::size);
    dynamic_array<double> errors(Mixed::count * w.rows() * row_groups);
    candidates.each([&]<class S>(std::size_t number, const quantized<S>& q) {
        constexpr std::size_t bits = static_cast<std::size_t>(S::element_type::bits);
        for_each_task(w.rows(), threads, [&](std::size_t row, std::size_t) {
            std::uint8_t codes[Mixed::size];
            for (std::size_t g = 0; g < row_groups; ++g) {
                const std::size_t col = g * Mixed::size;
                const std::size_t n = min_of(Mixed::size, w.cols() - col);
                spread_codes<S::element_type::bits>(q.row_codes(row) + col * bits / 8, n, codes);
                const float factor = q.scale_at(row, col);
                double sum = 0.0;
                for (std::size_t i = 0; i < n; ++i) {
                    const float value = factor * decode_table<typename S::element_type>.at[codes[i]];
                    const float x = w(row, col + i);
                    const double d = is_finite(x) ? static_cast<double>(x) - static_cast<double>(value) : 0.0;
                    sum = __builtin_fma(d, d, sum);
                }
                errors[(number * w.rows() + row) * row_groups + g] = sum;
            }
        });
    });
    return errors;
}

// The groups of the chosen elements in one matrix.
template <class Mixed, class Candidates>
[[nodiscard]] mixed_quantized<Mixed> assemble_mixed(matrix_view<const float> w, const Candidates& candidates,
                                                    const dynamic_array<std::uint8_t>& chosen) {
    mixed_quantized<Mixed> out(w.rows(), w.cols(), chosen.data());
    const std::size_t row_groups = out.row_groups();
    candidates.each([&]<class S>(std::size_t number, const quantized<S>& q) {
        constexpr std::size_t bits = static_cast<std::size_t>(S::element_type::bits);
        if (q.nonfinite()) out.set_nonfinite(true);
        for (std::size_t row = 0; row < w.rows(); ++row) {
            std::uint8_t* to = out.row_codes(row);
            for (std::size_t g = 0; g < row_groups; ++g) {
                const std::size_t group = row * row_groups + g;
                const std::size_t bytes = out.group_bytes(g, chosen[group]);
                if (chosen[group] == number) {
                    std::memcpy(to, q.row_codes(row) + g * Mixed::size * bits / 8, bytes);
                    out.scales()[group] = q.scales()[group];
                }
                to += bytes;
            }
        }
    });
    return out;
}

} // namespace detail

// w in groups of Mixed, each in the element with the least squared error of the group (of equal ones the first), scales
// and codes as quantize gives them for a scheme of that element (range, rounding and seed: see there). Allocates the
// result and one quantized matrix per element.
template <class Mixed, executor Executor = serial>
[[nodiscard]] mixed_quantized<Mixed> quantize_by_error(matrix_view<const float> w, const quantize_options& options = {},
                                                       const Executor& threads = {}) {
    detail::check_executor(threads);
    if (w.empty()) return mixed_quantized<Mixed>(w.rows(), w.cols(), nullptr);
    using candidates_of = typename Mixed::template schemes<detail::mixed_candidates>;
    const candidates_of candidates(w, options, threads);
    const dynamic_array<double> errors = detail::mixed_errors<Mixed>(w, candidates, threads);
    const std::size_t groups = errors.size() / Mixed::count;
    dynamic_array<std::uint8_t> chosen(groups, 0);
    for (std::size_t group = 0; group < groups; ++group)
        for (std::size_t e = 1; e < Mixed::count; ++e)
            if (errors[e * groups + group] < errors[chosen[group] * groups + group])
                chosen[group] = static_cast<std::uint8_t>(e);
    return detail::assemble_mixed<Mixed>(w, candidates, chosen);
}

// w in groups of two widths: the second element goes to round(wide_fraction x groups) groups (a half up), those whose
// squared error falls most by it; of equal ones to the first. 0 <= wide_fraction <= 1. Otherwise as quantize_by_error.
template <class Mixed, executor Executor = serial>
[[nodiscard]] mixed_quantized<Mixed> quantize_by_quota(matrix_view<const float> w, double wide_fraction,
                                                       const quantize_options& options = {},
                                                       const Executor& threads = {}) {
    static_assert(Mixed::count == 2, "quantize_by_quota: a quota is for two elements, the narrow one first");
    detail::check_executor(threads);
    NIBBLE_CHECK(wide_fraction >= 0.0 && wide_fraction <= 1.0, "quantize_by_quota: wide_fraction must be in [0, 1]");
    if (w.empty()) return mixed_quantized<Mixed>(w.rows(), w.cols(), nullptr);
    using candidates_of = typename Mixed::template schemes<detail::mixed_candidates>;
    const candidates_of candidates(w, options, threads);
    const dynamic_array<double> errors = detail::mixed_errors<Mixed>(w, candidates, threads);
    const std::size_t groups = errors.size() / 2;
    NIBBLE_CHECK(groups < 0xffffffffu, "quantize_by_quota: fewer than 2^32 - 1 groups");
    dynamic_array<kernel::keyed<std::uint64_t>> ranking(groups), spare;
    for (std::size_t group = 0; group < groups; ++group)
        ranking[group] = {kernel::ordered_key(errors[groups + group] - errors[group]),
                          static_cast<std::uint32_t>(group)};
    kernel::sort_by_key(ranking, spare);
    const std::size_t wide = static_cast<std::size_t>(__builtin_fma(wide_fraction, static_cast<double>(groups), 0.5));
    dynamic_array<std::uint8_t> chosen(groups, 0);
    for (std::size_t i = 0; i < detail::min_of(wide, groups); ++i) chosen[ranking[i].position] = 1;
    return detail::assemble_mixed<Mixed>(w, candidates, chosen);
}

// The values of q into out (rows x cols of q): one rounding of each product.
template <class Mixed, executor Executor = serial>
void dequantize(const mixed_quantized<Mixed>& q, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == q.cols(),
                 "dequantize: out must have the shape of the weights");
    if (out.empty()) return;
    detail::for_each_task(q.rows(), threads, [&](std::size_t row, std::size_t) {
        std::uint8_t codes[Mixed::size];
        q.for_each_group(row, [&](std::size_t group, std::uint8_t chosen, std::size_t first, std::size_t n,
                                  const std::uint8_t* from) {
            mixed_quantized<Mixed>::load_codes(chosen, from, n, codes);
            const float factor = Mixed::scale_format::decode(q.scales()[group]);
            const float* values = Mixed::values[chosen];
            float* to = out.row(row) + first;
            for (std::size_t i = 0; i < n; ++i) to[i] = factor * values[codes[i]];
        });
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
