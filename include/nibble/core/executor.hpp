// executor.hpp: how a verb spreads its work; the caller brings the threads, nibble starts none.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {
struct example_task {
    void operator()(std::size_t, std::size_t) const noexcept {}
};
} // namespace detail

// Two members make an executor:
//   concurrency()               how many calls of a task may run at once, 1 to 65536, the same throughout a verb;
//   anything else
//                               is an error that every verb reports before it begins
//                               (std::thread::hardware_concurrency() may be 0: take at least 1);
//   parallel_for(count, task)   calls task(index, worker) once for every index in [0, count), in any order, with
//                               worker < concurrency() and never two calls with the same worker at a time; returns when
//                               all have finished.
// One executor serves all verbs of a program, one call after the other. Results never depend on it: threads share out
// work whose sums are cut up the same way for any number of them.
template <class E>
concept executor = requires(const std::remove_reference_t<E>& e, detail::example_task task) {
    { e.concurrency() } -> std::convertible_to<std::size_t>;
    e.parallel_for(std::size_t{1}, task);
};

// Runs everything on the calling thread: the default of every verb.
struct serial {
    [[nodiscard]] constexpr std::size_t concurrency() const noexcept { return 1; }
    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
    }
};

static_assert(executor<serial>);

namespace detail {

// Every verb has memory for that many workers, and each of them its own part of it: so none, and more than any machine
// has, must not get past here. Whoever takes an executor asks this first, and hands out work by for_each_task: nobody
// else calls its members.
[[nodiscard]] inline std::size_t checked_concurrency(std::size_t workers) {
    NIBBLE_CHECK(workers != 0, "the executor's concurrency() is 0: it must be at least 1, also where "
                               "std::thread::hardware_concurrency() does not know and says 0");
    NIBBLE_CHECK(workers <= 65536, "the executor's concurrency() is more than 65536: it is the number of its threads");
    return workers;
}
template <executor Executor> [[nodiscard]] std::size_t concurrency_of(const Executor& threads) {
    return checked_concurrency(static_cast<std::size_t>(threads.concurrency()));
}
template <executor Executor> void check_executor(const Executor& threads) {
    (void)concurrency_of(threads);
}

// task(index, worker) once for every index in [0, count).
template <executor Executor, class Task> void for_each_task(std::size_t count, const Executor& threads, Task&& task) {
    check_executor(threads);
    threads.parallel_for(count, task);
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
