// quantize/any_row.hpp: the rows of a matrix shared out among an executor's workers.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// body(row) for each of `rows` rows of `cols` columns, both above 0, in any order and on any thread; true if any call
// returned true.
template <executor Executor, class Body>
bool any_row(std::size_t rows, std::size_t cols, const Executor& threads, const Body& body) {
    // Enough work per task to outweigh handing it out, few enough rows to balance.
    const std::size_t rows_per_task = max_of<std::size_t>(1, 32768 / cols);
    const std::size_t tasks = ceil_div(rows, rows_per_task);
    dynamic_array<unsigned char> seen(tasks, 0);
    for_each_task(tasks, threads, [&](std::size_t task, std::size_t) {
        const std::size_t end = min_of(rows, (task + 1) * rows_per_task);
        for (std::size_t row = task * rows_per_task; row < end; ++row)
            if (body(row)) seen[task] = 1;
    });
    bool any = false;
    for (const unsigned char one : seen) any = any || one != 0;
    return any;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
