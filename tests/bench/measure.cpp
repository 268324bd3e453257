// measure.cpp: medians, and which rounds of a noisy machine count.
#include "../../bench/support/measure.hpp"

#include <support/catch.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

TEST_CASE("the median is the middle value or the mean of the two middle ones") {
    CHECK(bench::median({3}) == 3);
    CHECK(bench::median({5, 1, 3}) == 3);
    CHECK(bench::median({4, 1, 3, 2}) == 2.5);
    CHECK(bench::median({7, 7, 7, 7, 1000}) == 7);
    CHECK(std::isnan(bench::median({})));
}

TEST_CASE("undisturbed rounds count, and only they") {
    CHECK(bench::rounds_that_count({true, false, true}, {9, 100, 8}) == std::vector<std::size_t>{0, 2});
    CHECK(bench::rounds_that_count({false, true}, {9, 1}) == std::vector<std::size_t>{1});
}

TEST_CASE("of disturbed rounds alone the third that was disturbed least counts") {
    CHECK(bench::rounds_that_count({false, false, false, false, false, false, false}, {1, 7, 2, 6, 3, 5, 4}) ==
          std::vector<std::size_t>{1, 3, 5});
    CHECK(bench::rounds_that_count({false}, {1}) == std::vector<std::size_t>{0});
    CHECK(bench::rounds_that_count({false, false}, {1, 2}) == std::vector<std::size_t>{1});
    CHECK(bench::rounds_that_count({}, {}).empty());
}

TEST_CASE("a sample is long enough, and at least one call") {
    CHECK(bench::calls_per_sample(1e-3, 4e-3) == 4);
    CHECK(bench::calls_per_sample(1.5e-3, 4e-3) == 3);
    CHECK(bench::calls_per_sample(1.0, 4e-3) == 1);
    CHECK(bench::calls_per_sample(0.0, 4e-3) == 40000);
    CHECK(bench::calls_per_sample(0.0, 4.0) == 1000000);
}

TEST_CASE("the read probe reads every float") {
    for (const std::size_t count : {std::size_t{64}, std::size_t{256}, std::size_t{4096}}) {
        nibble::buffer memory(count * sizeof(float));
        CHECK(bench::read_through(memory.as<float>(), count) == 0);
        // Small integers: any order of the sum gives the same.
        for (std::size_t i = 0; i < count; ++i) memory.as<float>()[i] = static_cast<float>(i % 7);
        float expected = 0;
        for (std::size_t i = 0; i < count; ++i) expected += static_cast<float>(i % 7);
        CHECK(bench::read_through(memory.as<float>(), count) == expected);
    }
}

TEST_CASE("every peak has a name of its own and operations of its width") {
    std::vector<std::string> names;
    REQUIRE_FALSE(bench::fma_peaks().empty());
    for (const auto& list : {bench::fma_peaks(), bench::integer_peaks()})
        for (const bench::instruction_peak& one : list) {
            CAPTURE(one.name);
            for (const std::string& other : names) CHECK(one.name != other);
            names.emplace_back(one.name);
            CHECK(one.name.ends_with("_" + std::to_string(one.bits)));
            const double item = list.data() == bench::fma_peaks().data() ? 32
                                : one.name.substr(0, 5) == "words"       ? 16
                                                                         : 8;
            CHECK(std::fmod(one.operations, 2.0 * one.bits / item) == 0);
            CHECK(one.operations >= 8 * 2.0 * one.bits / item);
            CHECK(std::isfinite(one.run(10)));
        }
}
