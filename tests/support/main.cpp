// main.cpp: runs the tests; exits with 4 when all of the chosen ones were skipped, as Catch2 v3 does by itself.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_RUNNER
#endif
#include "support/catch.hpp"

#if !defined(SKIP)
namespace {

int finished_test_cases = 0;

struct test_case_counter : Catch::TestEventListenerBase {
    using TestEventListenerBase::TestEventListenerBase;
    void testCaseEnded(const Catch::TestCaseStats&) override { ++finished_test_cases; }
};

CATCH_REGISTER_LISTENER(test_case_counter)

} // namespace
#endif

int main(int argc, char** argv) {
    const int failures = Catch::Session().run(argc, argv);
#if !defined(SKIP)
    if (failures == 0 && finished_test_cases > 0 && finished_test_cases == nibble_test::skipped_test_cases) return 4;
#endif
    return failures;
}
