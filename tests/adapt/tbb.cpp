// tbb.cpp: oneTBB's threads as an executor.
#include "support/catch.hpp"

#if defined(NIBBLE_TEST_TBB)

#include "support/contracts.hpp"
#include "support/executor_check.hpp"

#include <nibble/adapt/tbb.hpp>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <thread>
#include <vector>

namespace nb = nibble;
using nibble_test::keeps_contract;
using sizes = std::initializer_list<std::size_t>;

TEST_CASE("tbb_executor calls every index once") {
    for (const std::size_t threads : sizes{1, 2, 3, 8}) {
        const nb::tbb_executor pool(threads);
        CHECK(pool.concurrency() == threads);
        for (const std::size_t count : sizes{0, 1, 2, 3, 7, 8, 9, 1000}) {
            INFO(threads << " threads, " << count << " tasks");
            CHECK(keeps_contract(pool, count));
        }
    }
}

TEST_CASE("a task of tbb_executor may call it again, or wait in oneTBB for something else") {
    const nb::tbb_executor pool(3);
    std::atomic<int> good{0};
    pool.parallel_for(6, [&](std::size_t i, std::size_t) { good += keeps_contract(pool, i + 4) ? 1 : 0; });
    CHECK(good == 6);
    // While it waits, a thread may take another piece: its worker is another too.
    std::vector<std::atomic<int>> busy(pool.concurrency());
    std::atomic<int> met{0};
    pool.parallel_for(100, [&](std::size_t, std::size_t worker) {
        if (busy[worker].exchange(1) != 0) ++met;
        oneapi::tbb::parallel_for(0, 20, [](int) {});
        busy[worker].store(0);
    });
    CHECK(met == 0);
}

TEST_CASE("more callers than an arena has places") {
    const nb::tbb_executor pool(2);
    std::atomic<int> good{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 5; ++c)
        callers.emplace_back([&] {
            for (int round = 0; round < 50; ++round) good += keeps_contract(pool, 7) ? 1 : 0;
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(good == 250);
}

TEST_CASE("tbb_executor says what numbers of threads it takes") {
    CHECK(gemm_test::broken_by([] { const nb::tbb_executor none(0); }) == "tbb_executor: 1 to 4096 threads");
}

#else

TEST_CASE("tbb_executor") {
    NIBBLE_SKIP("oneTBB is not installed");
}

#endif
