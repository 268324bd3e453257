// pareto.cpp: which rows of a comparison are marked as being beaten by none.
#include "../../bench/support/pareto.hpp"

#include <support/catch.hpp>

#include <utility>
#include <vector>

namespace {

std::vector<bench::row> rows_of(const std::vector<std::pair<double, double>>& size_and_quality) {
    std::vector<bench::row> rows;
    for (const auto& [bits, db] : size_and_quality) {
        bench::row one;
        one.bits_per_weight = bits;
        one.gemm_sqnr_db = db;
        rows.push_back(one);
    }
    return rows;
}

std::vector<bool> marks(std::vector<bench::row> rows) {
    bench::mark_pareto(rows);
    std::vector<bool> marked;
    for (const bench::row& one : rows) marked.push_back(one.pareto);
    return marked;
}

} // namespace

TEST_CASE("a row is marked when no other is as small and as exact") {
    CHECK(marks(rows_of({{4, 20}, {4.5, 19}, {8, 40}, {2, 5}, {8.5, 39}})) ==
          std::vector<bool>{true, false, true, true, false});
}

TEST_CASE("of two rows of one size the more exact is marked, of two of one error the smaller") {
    CHECK(marks(rows_of({{4, 20}, {4, 21}})) == std::vector<bool>{false, true});
    CHECK(marks(rows_of({{4, 20}, {3, 20}})) == std::vector<bool>{false, true});
}

TEST_CASE("equal rows are marked both or neither") {
    CHECK(marks(rows_of({{4, 20}, {4, 20}})) == std::vector<bool>{true, true});
    CHECK(marks(rows_of({{4, 20}, {4, 20}, {3, 25}})) == std::vector<bool>{false, false, true});
}

TEST_CASE("marks do not depend on the order of rows nor on marks from before") {
    auto rows = rows_of({{8, 40}, {2, 5}, {4, 20}, {5, 18}});
    for (bench::row& one : rows) one.pareto = !one.pareto;
    CHECK(marks(rows) == std::vector<bool>{true, true, true, false});
    CHECK(marks({}).empty());
    CHECK(marks(rows_of({{4, 20}})) == std::vector<bool>{true});
}
