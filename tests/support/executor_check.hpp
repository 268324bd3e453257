// executor_check.hpp: does an executor keep its contract: every index once, workers below concurrency(), none twice at
// a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

namespace nibble_test {

// Runs `count` tasks. Plain (not atomic) counters per index and per worker: ThreadSanitizer sees any two calls with one
// worker that are not ordered.
template <class Executor> bool keeps_contract(const Executor& threads, std::size_t count) {
    std::vector<int> calls(count, 0);
    std::vector<std::size_t> by_worker(threads.concurrency(), 0);
    std::vector<std::atomic<int>> busy(threads.concurrency());
    std::atomic<bool> good{true};
    threads.parallel_for(count, [&](std::size_t index, std::size_t worker) {
        if (index >= calls.size() || worker >= by_worker.size() || busy[worker].exchange(1) != 0) {
            good = false;
            return;
        }
        ++calls[index];
        ++by_worker[worker];
        busy[worker].store(0);
    });
    std::size_t total = 0;
    for (const std::size_t n : by_worker) total += n;
    for (const int n : calls) good = good && n == 1;
    return good && total == count;
}

} // namespace nibble_test
