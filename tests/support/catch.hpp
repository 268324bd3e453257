// catch.hpp: Catch2, whichever of version 2 and 3 is installed, and a skip that works in both.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx; // where version 2 has it
#else
#include <catch2/catch.hpp>
#endif

// Leaves the test case: what it needs is not there (a CPU feature, a file). Say which. Use it in the body of a test
// case only. A run in which every test case was skipped exits with 4, which ctest reports as "Skipped", never as a
// pass.
#if defined(SKIP)
#define NIBBLE_SKIP(reason) SKIP(reason)
#else
namespace nibble_test {
inline int skipped_test_cases = 0;
} // namespace nibble_test
#define NIBBLE_SKIP(reason)                                                                                            \
    do {                                                                                                               \
        ++::nibble_test::skipped_test_cases;                                                                           \
        WARN("SKIPPED: " << reason);                                                                                   \
        return;                                                                                                        \
    } while (false)
#endif
