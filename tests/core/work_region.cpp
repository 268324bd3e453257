// work_region.cpp: every item once, by any number of workers, in whatever order an executor lets them begin.
#include "support/catch.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/core/work_region.hpp>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <thread>
#include <vector>

namespace nb = nibble;
using sizes = std::initializer_list<std::size_t>;

namespace {

// One thread per index, each of which is a worker.
struct eager_threads {
    std::size_t workers = 1;
    [[nodiscard]] std::size_t concurrency() const noexcept { return workers; }
    template <class Task> void parallel_for(std::size_t count, const Task& task) const {
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < count; ++i) threads.emplace_back([&task, i] { task(i, i); });
        for (std::thread& thread : threads) thread.join();
    }
};
// Promises workers that never run: the last index first, all on worker 0.
struct one_after_the_other {
    std::size_t workers = 1;
    [[nodiscard]] std::size_t concurrency() const noexcept { return workers; }
    template <class Task> void parallel_for(std::size_t count, const Task& task) const {
        for (std::size_t i = count; i-- > 0;) task(i, std::size_t{0});
    }
};

struct seen {
    std::vector<std::atomic<int>> times;
    std::vector<std::size_t> last; // of each worker; written by it alone
    std::atomic<bool> follows_is_true{true};
    std::atomic<std::size_t> begun{0}; // items that did not follow
    seen(std::size_t count, std::size_t workers) : times(count), last(workers, static_cast<std::size_t>(-2)) {}
};
template <class Executor> void go_through(std::size_t count, const Executor& threads, seen& all) {
    constexpr std::size_t stride = 192;
    nb::buffer memory(threads.concurrency() * stride);
    nb::detail::for_each_in_regions(count, memory.data(), stride, threads,
                                    [&](std::size_t item, bool follows, std::size_t worker) {
                                        all.times[item].fetch_add(1);
                                        if (follows && all.last[worker] + 1 != item) all.follows_is_true = false;
                                        if (!follows) all.begun.fetch_add(1);
                                        all.last[worker] = item;
                                    });
}
[[nodiscard]] bool once_each(const seen& all) {
    for (const std::atomic<int>& n : all.times)
        if (n.load() != 1) return false;
    return all.follows_is_true.load();
}

} // namespace

TEST_CASE("every item is done once, whoever takes it") {
    for (const std::size_t workers : sizes{1, 2, 3, 7, 16})
        for (const std::size_t count : sizes{0, 1, 2, 3, 7, 8, 100, 1000}) {
            INFO(workers << " workers, " << count << " items");
            seen eager(count, workers);
            go_through(count, eager_threads{workers}, eager);
            CHECK(once_each(eager));
            seen late(count, workers);
            go_through(count, one_after_the_other{workers}, late);
            CHECK(once_each(late));
        }
}

TEST_CASE("a worker alone goes through all items in order") {
    seen all(1000, 1);
    go_through(1000, nb::serial{}, all);
    CHECK(once_each(all));
    CHECK(all.begun.load() == 1);
}

TEST_CASE("what a worker takes from another it goes through in order too") {
    // Four regions of 256, the last one begun first: halves of 256 are 128, 64, ..., 1, so each of the three others is
    // taken in eight pieces and a last item, and nothing else begins.
    seen all(1024, 4);
    go_through(1024, one_after_the_other{4}, all);
    CHECK(once_each(all));
    CHECK(all.begun.load() <= 1 + 3 * 9);
}

TEST_CASE("many short rounds of few items, for ThreadSanitizer") {
    for (std::size_t round = 0; round < 300; ++round) {
        seen all(round % 13, 3);
        go_through(round % 13, eager_threads{3}, all);
        REQUIRE(once_each(all));
    }
}
