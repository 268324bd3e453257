// tbb.hpp: an executor over oneTBB's threads, for programs that have these already. Link with -ltbb.
#pragma once

#if !defined(__has_include) || !__has_include(<oneapi/tbb/task_arena.h>)
#error "nibble/adapt/tbb.hpp needs oneTBB (Debian and Ubuntu: apt-get install libtbb-dev)"
#endif

#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <cstddef>
#include <memory>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Up to `threads` threads of oneTBB in an arena of their own, the caller among them. A worker is one of the pieces that
// take tasks one by one, not a thread: whatever a thread does while it waits inside of a task, two tasks of one worker
// never meet. Copies share the arena; what was moved from has one thread, the caller's. oneTBB allocates in every call.
// A task that throws ends the program.
class tbb_executor {
public:
    explicit tbb_executor(std::size_t threads) {
        NIBBLE_CHECK(threads >= 1 && threads <= 4096, "tbb_executor: 1 to 4096 threads");
        if (threads > 1) arena_ = std::make_shared<::oneapi::tbb::task_arena>(static_cast<int>(threads));
    }
    [[nodiscard]] std::size_t concurrency() const noexcept {
        return arena_ != nullptr ? static_cast<std::size_t>(arena_->max_concurrency()) : 1;
    }

    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        std::atomic<std::size_t> next{0};
        const auto work = [&](std::size_t worker) noexcept {
            for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
                 i = next.fetch_add(1, std::memory_order_relaxed))
                task(i, worker);
        };
        if (arena_ == nullptr || count < 2) return work(0);
        const std::size_t pieces = count < concurrency() ? count : concurrency();
        arena_->execute(
            [&] { ::oneapi::tbb::parallel_for(std::size_t{0}, pieces, work, ::oneapi::tbb::simple_partitioner{}); });
    }

private:
    std::shared_ptr<::oneapi::tbb::task_arena> arena_; // none: the caller alone
};

static_assert(executor<tbb_executor>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
