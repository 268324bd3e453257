// openmp.hpp: an executor over OpenMP's threads, for programs that have these already. Compile with -fopenmp.
#pragma once

#if !defined(_OPENMP)
#error                                                                                                                 \
    "nibble/adapt/openmp.hpp: compile and link with -fopenmp (Clang on Debian and Ubuntu: apt-get install libomp-dev)"
#endif

#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>

#include <omp.h>

#include <atomic>
#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Teams of `threads` threads, or fewer where OpenMP gives fewer (OMP_THREAD_LIMIT, OMP_DYNAMIC, a call from inside of
// another parallel region). Tasks are handed out one by one; who is the team's n-th thread is worker n. Waiting between
// calls, and at the end of each for all threads of the team, is OpenMP's: OMP_WAIT_POLICY, GOMP_SPINCOUNT,
// KMP_BLOCKTIME. On busy cores thread_pool waits less. A task that throws ends the program.
class openmp_executor {
public:
    explicit openmp_executor(std::size_t threads = static_cast<std::size_t>(omp_get_max_threads()))
        : threads_(threads) {
        NIBBLE_CHECK(threads >= 1 && threads <= 4096, "openmp_executor: 1 to 4096 threads");
    }
    [[nodiscard]] std::size_t concurrency() const noexcept { return threads_; }

    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        if (count == 0) return;
        std::atomic<std::size_t> next{0};
        const auto work = [&](std::size_t worker) noexcept {
            for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
                 i = next.fetch_add(1, std::memory_order_relaxed))
                task(i, worker);
        };
        if (threads_ == 1 || count == 1) return work(0);
        const int team = static_cast<int>(count < threads_ ? count : threads_);
#pragma omp parallel num_threads(team)
        work(static_cast<std::size_t>(omp_get_thread_num()));
    }

private:
    std::size_t threads_;
};

static_assert(executor<openmp_executor>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
