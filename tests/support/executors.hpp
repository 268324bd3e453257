// executors.hpp: one executor type that works as told at run time, so that a verb is instantiated once for all of them.
#pragma once

#include <nibble/core/executor.hpp>

#include <atomic>
#include <cstddef>
#include <thread>
#include <type_traits>
#include <vector>

namespace nibble_test {

// One worker: in order, on the calling thread. More: that many threads take indices in an order that jumps about.
struct test_executor {
    std::size_t workers = 1;

    [[nodiscard]] std::size_t concurrency() const noexcept { return workers; }
    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        if (workers == 1 || count == 0) {
            for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
            return;
        }
        // One function for all tasks: threads are slow to compile.
        using own = std::remove_reference_t<Task>;
        run(
            count, [](void* of, std::size_t i, std::size_t worker) { (*static_cast<own*>(of))(i, worker); },
            const_cast<std::remove_const_t<own>*>(&task));
    }

private:
    void run(std::size_t count, void (*task)(void*, std::size_t, std::size_t), void* of) const {
        std::atomic<std::size_t> next{0};
        const auto work = [&](std::size_t worker) {
            for (std::size_t i = next++; i < count; i = next++) task(of, scrambled(i, count), worker);
        };
        std::vector<std::thread> threads;
        for (std::size_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
        work(0);
        for (std::thread& thread : threads) thread.join();
    }
    // Odd indices backwards, then even ones.
    [[nodiscard]] static std::size_t scrambled(std::size_t i, std::size_t count) noexcept {
        const std::size_t odd = count / 2;
        return i < odd ? 2 * (odd - 1 - i) + 1 : 2 * (i - odd);
    }
};

static_assert(nibble::executor<test_executor>);

} // namespace nibble_test
