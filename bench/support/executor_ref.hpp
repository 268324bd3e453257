// executor_ref.hpp: any nibble executor behind one type, so that probes and schemes are compiled once and know no pool.
#pragma once

#include <nibble/core/executor.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace bench {

// Borrows the executor. A task costs one more indirect call than on the executor itself.
class executor_ref {
public:
    template <nibble::executor Executor>
        requires(!std::same_as<std::remove_const_t<Executor>, executor_ref>)
    executor_ref(const Executor& executor) noexcept
        : executor_(std::addressof(executor)), concurrency_(static_cast<std::size_t>(executor.concurrency())),
          run_([](const void* self, std::size_t count, void* task, call_task call) {
              static_cast<const Executor*>(self)->parallel_for(
                  count, [=](std::size_t index, std::size_t worker) { call(task, index, worker); });
          }) {}

    [[nodiscard]] std::size_t concurrency() const noexcept { return concurrency_; }

    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        using plain = std::remove_reference_t<Task>;
        auto* address = const_cast<std::remove_const_t<plain>*>(std::addressof(task));
        run_(executor_, count, address,
             [](void* self, std::size_t index, std::size_t worker) { (*static_cast<plain*>(self))(index, worker); });
    }

private:
    using call_task = void (*)(void* task, std::size_t index, std::size_t worker);

    const void* executor_;
    std::size_t concurrency_;
    void (*run_)(const void* executor, std::size_t count, void* task, call_task call);
};

static_assert(nibble::executor<executor_ref>);

} // namespace bench
