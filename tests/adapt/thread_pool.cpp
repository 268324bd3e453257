// thread_pool.cpp: every index once, no worker twice at a time, call after call; meant for ThreadSanitizer too.
#include "support/catch.hpp"

#include "support/allocations.hpp"
#include "support/contracts.hpp"
#include "support/executor_check.hpp"

#include <nibble/adapt/thread_pool.hpp>

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <thread>
#include <utility>
#include <vector>

namespace nb = nibble;
using nibble_test::keeps_contract;

namespace {

using sizes = std::initializer_list<std::size_t>;

// Threads that leave no core idle while one of these lives.
class busy_cores {
public:
    busy_cores() {
        for (unsigned i = 0; i < std::max(2u, std::thread::hardware_concurrency()); ++i)
            threads_.emplace_back([this] {
                while (!stop_.load(std::memory_order_relaxed)) turns_.fetch_add(1, std::memory_order_relaxed);
            });
    }
    busy_cores(const busy_cores&) = delete;
    busy_cores& operator=(const busy_cores&) = delete;
    ~busy_cores() {
        stop_.store(true);
        for (std::thread& thread : threads_) thread.join();
    }

private:
    std::atomic<bool> stop_{false};
    std::atomic<std::size_t> turns_{0};
    std::vector<std::thread> threads_;
};

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

TEST_CASE("a call is complete whether or not helpers come, awake, asleep or falling asleep") {
    const nb::thread_pool pool(2, {.spin_microseconds = 0});
    for (std::size_t round = 0; round < 300; ++round) {
        REQUIRE(keeps_contract(pool, 2));
        if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

TEST_CASE("a call of thread_pool allocates nothing") {
    const nb::thread_pool pool(3);
    std::vector<std::size_t> values(64);
    const auto task = [&](std::size_t i, std::size_t) { ++values[i]; };
    pool.parallel_for(values.size(), task);
    const std::size_t before = nibble_test::allocations.load();
    for (int round = 0; round < 1000; ++round) pool.parallel_for(values.size(), task);
    CHECK(nibble_test::allocations.load() == before);
    for (const std::size_t n : values) CHECK(n == 1001);
}

TEST_CASE("a task may call its own pool, and threads may call one pool together") {
    const nb::thread_pool pool(3);
    std::vector<int> good(8, 0);
    pool.parallel_for(good.size(), [&](std::size_t i, std::size_t) { good[i] = keeps_contract(pool, 10 + i) ? 1 : 0; });
    for (const int g : good) CHECK(g == 1);

    std::atomic<std::size_t> kept{0};
    std::vector<std::thread> callers;
    for (std::size_t c = 0; c < 4; ++c)
        callers.emplace_back([&, c] {
            for (std::size_t round = 0; round < 500; ++round) kept += keeps_contract(pool, (round + c) % 9) ? 1u : 0u;
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(kept == 2000);
}

TEST_CASE("thread_pool keeps its contract on busy cores, from several threads, sleeping or not") {
    const busy_cores others;
    for (const std::size_t spin : sizes{0, 5, 100}) {
        const nb::thread_pool pool(4, {.spin_microseconds = spin});
        std::atomic<std::size_t> kept{0}, rounds{0};
        std::vector<std::thread> callers;
        for (std::size_t c = 0; c < 2; ++c)
            callers.emplace_back([&, c] {
                std::uint32_t random = static_cast<std::uint32_t>(c) + 1;
                const auto begin = std::chrono::steady_clock::now();
                while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(150)) {
                    random = random * 1664525u + 1013904223u;
                    kept += keeps_contract(pool, random >> 16 & 15u) ? 1u : 0u;
                    ++rounds;
                    if (random >> 28 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random >> 20 & 255u));
                }
            });
        for (std::thread& caller : callers) caller.join();
        INFO("spin " << spin);
        CHECK(rounds > 0);
        CHECK(kept == rounds.load());
    }
}

TEST_CASE("all threads of a pool on one core") {
    cpu_set_t before;
    REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
    const int core = ::sched_getcpu();
    REQUIRE(core >= 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(core), &one);
    REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
    std::size_t kept = 0;
    std::atomic<bool> stayed{true};
    {
        const nb::thread_pool pool(3);
        for (std::size_t round = 0; round < 2000; ++round) kept += keeps_contract(pool, round % 7) ? 1u : 0u;
        pool.parallel_for(50, [&](std::size_t, std::size_t) {
            if (::sched_getcpu() != core) stayed = false;
            std::this_thread::yield();
        });
    }
    REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
    CHECK(kept == 2000);
    CHECK(stayed);
}

TEST_CASE("a pool that was moved from is its caller's thread alone") {
    nb::thread_pool from(3);
    const nb::thread_pool to = std::move(from);
    CHECK(to.concurrency() == 3);
    CHECK(keeps_contract(to, 20));
    CHECK(from.concurrency() == 1); // NOLINT(bugprone-use-after-move): that is the question
    CHECK(keeps_contract(from, 20));
}

TEST_CASE("thread_pool says what numbers of threads it takes") {
    CHECK(gemm_test::broken_by([] { const nb::thread_pool none(0); }) == "thread_pool: 1 to 4096 threads");
    CHECK(gemm_test::broken_by([] { const nb::thread_pool all(SIZE_MAX); }) == "thread_pool: 1 to 4096 threads");
    CHECK(gemm_test::broken_by([] { const nb::thread_pool long_spin(1, {.spin_microseconds = 2000000}); }) ==
          "thread_pool: threads look for work for at most a second");
}
