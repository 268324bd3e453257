// thread_pool.hpp: an executor over Eigen's work-stealing ThreadPool.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>

#include <unsupported/Eigen/CXX11/ThreadPool>

#include <atomic>
#include <cstddef>
#include <memory>

namespace nibble::inline NIBBLE_ABI {

// `threads` workers: the calling thread is one, the pool owns the others. Tasks are handed out one by one from a counter,
// so a slow or preempted core holds up no more than the task it is in. Copies share the pool. One call at a time, and
// tasks must not throw.
class thread_pool {
public:
    explicit thread_pool(std::size_t threads) : threads_(threads) {
        NIBBLE_CHECK(threads >= 1 && threads <= 4096, "thread_pool: 1 to 4096 threads");
        if (threads > 1) state_ = std::make_shared<state>(static_cast<int>(threads - 1));
    }
    [[nodiscard]] std::size_t concurrency() const noexcept { return threads_; }

    template <class Task>
    void parallel_for(std::size_t count, Task&& task) const {
        if (count == 0) return;
        const std::size_t helpers = count - 1 < threads_ - 1 ? count - 1 : threads_ - 1;
        if (helpers == 0) {
            for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
            return;
        }
        std::atomic<std::size_t> next{0};
        // Not on this stack frame: the last helper still touches it to wake the caller that may already have returned.
        std::atomic<std::size_t>& running = state_->running;
        running.store(helpers, std::memory_order_relaxed);
        const auto work = [&](std::size_t worker) {
            for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
                 i = next.fetch_add(1, std::memory_order_relaxed))
                task(i, worker);
        };
        for (std::size_t h = 1; h <= helpers; ++h)
            state_->pool.Schedule([&work, &running, h] {
                work(h);
                if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
            });
        work(0);
        for (std::size_t left = running.load(std::memory_order_acquire); left != 0;
             left = running.load(std::memory_order_acquire)) {
            // Helpers end within a task of each other: look a while before sleeping.
            bool done = false;
            for (int spin = 0; spin < 2000 && !done; ++spin) {
                done = running.load(std::memory_order_acquire) == 0;
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
            if (!done) running.wait(left, std::memory_order_acquire);
        }
    }

private:
    struct state {
        explicit state(int threads) : pool(threads) {}
        std::atomic<std::size_t> running{0};
        Eigen::ThreadPool pool; // destroyed first: it waits for its threads
    };
    std::size_t threads_;
    std::shared_ptr<state> state_;
};

static_assert(executor<thread_pool>);

} // namespace nibble::inline NIBBLE_ABI
