// thread_pool.cpp: every index once, no worker twice at a time, call after call; meant for ThreadSanitizer too.
#include "support/catch.hpp"

#if __has_include(<unsupported/Eigen/CXX11/ThreadPool>)

#include <nibble/adapt/thread_pool.hpp>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <thread>
#include <vector>

namespace nb = nibble;

namespace {

using sizes = std::initializer_list<std::size_t>;

// Runs `count` tasks and says whether the executor kept its contract. Plain (not atomic) counters per index and per
// worker: ThreadSanitizer sees any two calls with one worker that are not ordered.
bool keeps_contract(const nb::thread_pool& pool, std::size_t count) {
    std::vector<int> calls(count, 0);
    std::vector<std::size_t> by_worker(pool.concurrency(), 0);
    std::vector<std::atomic<int>> busy(pool.concurrency());
    std::atomic<bool> good{true};
    pool.parallel_for(count, [&](std::size_t index, std::size_t worker) {
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

} // namespace

TEST_CASE("thread_pool calls every index once") {
    for (const std::size_t threads : sizes{1, 2, 3, 4, 8}) {
        const nb::thread_pool pool(threads);
        CHECK(pool.concurrency() == threads);
        for (const std::size_t count : sizes{0, 1, 2, 3, 5, 7, 8, 9, 100, 1000}) {
            INFO(threads << " threads, " << count << " tasks");
            CHECK(keeps_contract(pool, count));
        }
    }
}

TEST_CASE("thread_pool takes thousands of short calls in a row") {
    const nb::thread_pool pool(4);
    std::size_t kept = 0;
    for (std::size_t round = 0; round < 5000; ++round) kept += keeps_contract(pool, round % 7) ? 1u : 0u;
    CHECK(kept == 5000);
}

TEST_CASE("what tasks wrote is there when thread_pool returns") {
    const nb::thread_pool pool(3);
    std::vector<std::size_t> values(999);
    for (std::size_t round = 0; round < 200; ++round) {
        pool.parallel_for(values.size(), [&](std::size_t i, std::size_t) { values[i] += i + round; });
        bool same = true;
        for (std::size_t i = 0; i < values.size(); ++i)
            same = same && values[i] == (round + 1) * i + round * (round + 1) / 2;
        REQUIRE(same);
    }
}

TEST_CASE("copies share a pool's threads, and a pool may go while another works") {
    nb::thread_pool first(3);
    {
        const nb::thread_pool second = first; // one call at a time, from either
        CHECK(keeps_contract(second, 50));
    }
    CHECK(keeps_contract(first, 50));
    first = nb::thread_pool(2);
    CHECK(first.concurrency() == 2);
    CHECK(keeps_contract(first, 50));
}

TEST_CASE("a task of one pool may use another pool") {
    const nb::thread_pool outer(2);
    std::vector<nb::thread_pool> inner;
    for (std::size_t i = 0; i < outer.concurrency(); ++i) inner.emplace_back(std::size_t{2});
    std::atomic<std::size_t> calls{0};
    std::atomic<bool> good{true};
    outer.parallel_for(20, [&](std::size_t, std::size_t worker) {
        if (!keeps_contract(inner[worker], 11)) good = false;
        ++calls;
    });
    CHECK(good);
    CHECK(calls == 20);
}

TEST_CASE("pools come and go") {
    for (std::size_t round = 0; round < 100; ++round) {
        const nb::thread_pool pool(1 + round % 4);
        REQUIRE(keeps_contract(pool, round % 6));
    }
}

TEST_CASE("a slow task holds up no other") {
    const nb::thread_pool pool(2);
    std::atomic<int> others{0};
    std::atomic<bool> seen{false};
    // Task 0 waits for all the others, so one thread alone must be able to do them.
    pool.parallel_for(20, [&](std::size_t i, std::size_t) {
        if (i != 0) {
            ++others;
            return;
        }
        for (int spin = 0; spin < 100000000 && others.load() < 19; ++spin) std::this_thread::yield();
        seen = others.load() == 19;
    });
    CHECK(seen);
}

#else

TEST_CASE("thread_pool") { NIBBLE_SKIP("Eigen's ThreadPool is not installed"); }

#endif
