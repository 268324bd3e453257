// helper_limit.cpp: how many helpers a pool takes, of machines that are told here: idle, busy, and changing.
#include "support/catch.hpp"

#include <nibble/adapt/helper_limit.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace nb = nibble;
using limit = nb::detail::helper_limit;
using sizes = std::initializer_list<std::size_t>;

namespace {

constexpr std::uint64_t second = 1000000000;

// Windows for `seconds`, in which `rate(helpers)` cores' worth of work is done; the rate over all of it.
template <class Rate> double run(limit& of, std::uint64_t& now, double seconds, const Rate& rate) {
    const std::uint64_t begin = now;
    double work = 0;
    while (static_cast<double>(now - begin) < seconds * 1e9) {
        now += limit::window;
        const double worked = rate(of.helpers()) * static_cast<double>(limit::window);
        work += worked;
        of.measured(now, limit::window, static_cast<std::uint64_t>(worked));
    }
    return work / static_cast<double>(now - begin);
}

const auto idle = [](std::size_t helpers) { return 0.9 * static_cast<double>(helpers) + 1.0; };
// The caller has half a core, and helpers hold it up.
const auto busy = [](std::size_t helpers) { return helpers == 0 ? 0.5 : 0.2; };

} // namespace

TEST_CASE("all helpers work from the beginning, and go on while they are worth it") {
    for (const std::size_t most : sizes{1, 2, 3, 4, 7, 15, 100, 4095}) {
        INFO(most);
        limit of(most);
        std::uint64_t now = 100 * second;
        CHECK(of.helpers() == most);
        CHECK(run(of, now, 10, idle) > 0.99 * idle(most));
        CHECK(of.helpers() == most);
    }
}

TEST_CASE("helpers that cost more than they bring are left, and tried again seldom") {
    for (const std::size_t most : sizes{1, 3, 15}) {
        INFO(most);
        limit of(most);
        std::uint64_t now = 100 * second;
        (void)run(of, now, 2, busy);
        CHECK(run(of, now, 20, busy) > 0.5 / 1.05); // 5 % at most for trying
    }
}

TEST_CASE("helpers come back when the cores are free") {
    for (const std::size_t most : sizes{1, 3, 15}) {
        INFO(most);
        limit of(most);
        std::uint64_t now = 100 * second;
        (void)run(of, now, 10, busy);
        (void)run(of, now, 2, idle);
        CHECK(of.helpers() == most);
        CHECK(run(of, now, 10, idle) > 0.99 * idle(most));
    }
}

TEST_CASE("one disturbance of a window takes no helper away") {
    limit of(1);
    std::uint64_t now = 100 * second;
    (void)run(of, now, 1, idle);
    of.measured(now += limit::window, limit::window, limit::window / 3);
    CHECK(of.helpers() == 1);
}

TEST_CASE("where some cores are free, as many helpers work as find one") {
    // Up to four helpers do as on an idle machine; more hold up everything.
    const auto half = [](std::size_t helpers) { return helpers <= 4 ? idle(helpers) : 0.5; };
    limit of(15);
    std::uint64_t now = 100 * second;
    (void)run(of, now, 2, half);
    CHECK(run(of, now, 20, half) > 0.9 * idle(4));
}

TEST_CASE("a caller that is often elsewhere is measured by its own pace") {
    // A third of the time it waits for something; helpers still double what it does in between.
    const auto waits = [](std::size_t helpers) { return helpers == 0 ? 0.6 : 0.9; };
    limit of(1);
    std::uint64_t now = 100 * second;
    (void)run(of, now, 2, waits);
    CHECK(run(of, now, 20, waits) > 0.85);
}
