// openmp.cpp: OpenMP's threads as an executor.
#include "support/catch.hpp"

#if defined(_OPENMP)

#include "support/contracts.hpp"
#include "support/executor_check.hpp"

#include <nibble/adapt/openmp.hpp>

#include <atomic>
#include <cstddef>
#include <initializer_list>

namespace nb = nibble;
using nibble_test::keeps_contract;
using sizes = std::initializer_list<std::size_t>;

TEST_CASE("openmp_executor calls every index once") {
    for (const std::size_t threads : sizes{1, 2, 3, 8}) {
        const nb::openmp_executor pool(threads);
        CHECK(pool.concurrency() == threads);
        for (const std::size_t count : sizes{0, 1, 2, 3, 7, 8, 9, 1000}) {
            INFO(threads << " threads, " << count << " tasks");
            CHECK(keeps_contract(pool, count));
        }
    }
    CHECK(nb::openmp_executor().concurrency() >= 1);
}

TEST_CASE("a task of openmp_executor may call it again") {
    const nb::openmp_executor pool(3);
    std::atomic<int> good{0};
    pool.parallel_for(6, [&](std::size_t i, std::size_t) { good += keeps_contract(pool, i + 4) ? 1 : 0; });
    CHECK(good == 6);
}

TEST_CASE("openmp_executor says what numbers of threads it takes") {
    CHECK(gemm_test::broken_by([] { const nb::openmp_executor none(0); }) == "openmp_executor: 1 to 4096 threads");
}

#else

TEST_CASE("openmp_executor") {
    NIBBLE_SKIP("the compiler has no OpenMP");
}

#endif
