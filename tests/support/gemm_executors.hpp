// gemm_executors.hpp: executors that make life hard: tasks out of order, workers that change from task to task.
#pragma once

#include "gemm_format.hpp"
#include "gemm_reference.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace gemm_test {

// Runs tasks in a random order, each as a random one of `workers` workers, so that a worker's memory is full of what
// another kind of task has left there.
inline any_executor scrambled(std::size_t workers, std::uint64_t seed) {
    auto from = std::make_shared<number_source>(seed);
    return any_executor(workers, [workers, from](std::size_t count, const any_executor::task_function& task) {
        std::vector<std::size_t> order(count);
        for (std::size_t i = 0; i < count; ++i) order[i] = i;
        for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[from->below(i)]);
        for (const std::size_t i : order) task(i, from->below(workers));
    });
}

template <class Pool> any_executor pooled(Pool pool) {
    const std::size_t workers = pool.concurrency();
    return any_executor(workers, [pool = std::move(pool)](std::size_t count, const any_executor::task_function& task) {
        pool.parallel_for(count, task);
    });
}

} // namespace gemm_test
