// granularities.cpp: slots of every granularity are counted, reached and shared as the concept says.
#include "support/catch.hpp"

#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/two_level.hpp>

#include <cstddef>
#include <vector>

namespace {

using namespace nibble;

constexpr std::size_t shapes[][2] = {{1, 1},  {1, 4},   {3, 5},    {7, 31},  {2, 32},
                                     {5, 33}, {16, 64}, {17, 127}, {3, 128}, {2, 1031}};

// Every slot is used, a new one starts exactly where a run does, and rows share slots only if row_local says so.
template <granularity G> void check_granularity() {
    for (const auto& [rows, cols] : shapes) {
        CAPTURE(rows, cols);
        const std::size_t run = G::group_size(cols);
        CHECK((run % 4 == 0 || run >= cols));
        CHECK(run > 0);
        std::vector<std::size_t> row_of(G::count(rows, cols), rows);
        bool below_count = true;
        bool constant_in_run = true;
        bool new_at_run = true;
        bool local = true;
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < cols; ++j) {
                const std::size_t slot = G::index(i, j, cols);
                below_count = below_count && slot < row_of.size();
                if (!below_count) break;
                constant_in_run = constant_in_run && slot == G::index(i, j - j % run, cols);
                if (j >= run) new_at_run = new_at_run && slot != G::index(i, j - run, cols);
                local = local && (row_of[slot] == rows || row_of[slot] == i);
                row_of[slot] = i;
            }
        CHECK(below_count);
        CHECK(constant_in_run);
        if (G::row_local) CHECK(new_at_run);
        if (G::row_local) CHECK(local);
        for (const std::size_t seen : row_of) CHECK(seen != rows);
    }
}

} // namespace

TEST_CASE("granularities: every slot is used, and shared as declared", "[granularity]") {
    check_granularity<per_tensor>();
    check_granularity<per_channel>();
    check_granularity<per_group<4>>();
    check_granularity<per_group<12>>();
    check_granularity<per_group<16>>();
    check_granularity<per_group<32>>();
    check_granularity<per_group<128>>();
    check_granularity<per_group<4096>>();
    check_granularity<two_level<per_group<16>, per_tensor>>();
    check_granularity<two_level<per_group<32>, per_channel>>();
    check_granularity<two_level<per_group<4>, per_group<64>>>();
}

TEST_CASE("granularities: counts and slots by hand", "[granularity]") {
    STATIC_REQUIRE(per_tensor::count(5, 9) == 1);
    STATIC_REQUIRE(per_channel::count(5, 9) == 5);
    STATIC_REQUIRE(per_channel::index(4, 8, 9) == 4);
    STATIC_REQUIRE(per_group<32>::count(3, 65) == 9); // the last group of a row has one column
    STATIC_REQUIRE(per_group<32>::index(2, 64, 65) == 8);
    STATIC_REQUIRE(per_group<32>::index(1, 31, 65) == 3);
    STATIC_REQUIRE(per_group<32>::count(3, 64) == 6);
    STATIC_REQUIRE(per_group<32>::count(3, 0) == 0);
    STATIC_REQUIRE(per_group<32>::count(0, 64) == 0);
}

TEST_CASE("granularities: two levels are the inner one with both names", "[granularity]") {
    using levels = two_level<per_group<16>, per_tensor>;
    STATIC_REQUIRE(nested_granularity<levels>);
    STATIC_REQUIRE(granularity<levels>);
    STATIC_REQUIRE_FALSE(nested_granularity<per_group<16>>);
    STATIC_REQUIRE(levels::count(4, 40) == 12);
    STATIC_REQUIRE(levels::outer::count(4, 40) == 1);
    STATIC_REQUIRE(levels::row_local);
}
