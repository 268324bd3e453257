// executor.hpp: how a verb spreads its work; the caller brings the threads, nibble starts none.
#pragma once

#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI {

namespace detail {
struct example_task {
    void operator()(std::size_t, std::size_t) const noexcept {}
};
} // namespace detail

// Two members make an executor:
//   concurrency()               how many calls of a task may run at once, at least 1;
//   parallel_for(count, task)   calls task(index, worker) once for every index in [0, count), in any order, with
//                               worker < concurrency() and never two calls with the same worker at a time; returns when
//                               all have finished.
// Results never depend on the executor: threads share out work whose sums are cut up the same way for any number of them.
template <class E>
concept executor = requires(const std::remove_reference_t<E>& e, detail::example_task task) {
    { e.concurrency() } -> std::convertible_to<std::size_t>;
    e.parallel_for(std::size_t{1}, task);
};

// Runs everything on the calling thread: the default of every verb.
struct serial {
    [[nodiscard]] constexpr std::size_t concurrency() const noexcept { return 1; }
    template <class Task>
    void parallel_for(std::size_t count, Task&& task) const {
        for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
    }
};

static_assert(executor<serial>);

} // namespace nibble::inline NIBBLE_ABI
