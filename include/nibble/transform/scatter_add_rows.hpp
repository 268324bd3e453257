// scatter_add_rows.hpp: rows of results added where they belong, weighted: what experts computed, back to their tokens.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/isa/stored_lanes.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y(rows[i], :) += factors[i] x results(i, :)  for i = 0, 1, 2 ... in this order, product and sum each rounded to fp32
// and the sum to y's type; no factors: 1. A row may come any number of times. NaN and infinities as in IEEE arithmetic.
// The bits are those of scale_tokens and scatter_add (epilogue/destination.hpp), call after call, for any executor and
// ISA: workers share out columns, so that a row's sums keep their order. Allocates nothing; results must not overlap y.
template <isa Isa = best_isa, stored_float T = float, executor Executor = serial>
void scatter_add_rows(matrix_view<const float> results, array_view<const std::uint32_t> rows,
                      array_view<const float> factors, matrix_view<T> y, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(results.rows() == rows.size() && results.cols() == y.cols(),
                 "scatter_add_rows: a row number for each row of results, and as many columns as y");
    NIBBLE_CHECK(factors.empty() || factors.size() == rows.size(), "scatter_add_rows: a factor for each row, or none");
    for (const std::uint32_t row : rows)
        NIBBLE_CHECK(row < y.rows(), "scatter_add_rows: a row number is not that of a row of y");
    if (results.empty()) return;
    using L = lanes<Isa>;
    constexpr std::size_t columns = 256; // at a time: whole cache lines, and enough of them to go round
    detail::for_each_task(detail::ceil_div(y.cols(), columns), threads, [&](std::size_t task, std::size_t) {
        const std::size_t begin = task * columns, end = detail::min_of(y.cols(), begin + columns);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const float* from = results.row(i);
            T* to = y.row(rows[i]);
            const L factor(factors.empty() ? 1.0f : factors[i]);
            for (std::size_t n = begin; n < end; n += L::width) {
                const std::size_t count = detail::min_of(L::width, end - n);
                const L one = (L::load(from + n, count) * factor).kept();
                store_lanes<Isa>(to + n, load_lanes<Isa>(static_cast<const T*>(to + n), count) + one, count);
            }
        }
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
