// sqnr.cpp: the signal-to-noise ratio that a comparison reports.
#include "../../bench/support/sqnr.hpp"

#include <support/catch.hpp>

#include <cmath>
#include <limits>

TEST_CASE("SQNR is ten times the decimal logarithm of signal over noise energy") {
    const double exact[] = {3, -4};
    const float approximate[] = {3, -3.5f};
    const bench::error_energy energy = bench::compare(exact, approximate, 2);
    CHECK(energy.signal == 25.0);
    CHECK(energy.noise == 0.25);
    CHECK(energy.db() == 20.0);
}

TEST_CASE("SQNR of parts weighs each by its energy") {
    bench::error_energy sum{99, 0.5};
    sum += bench::error_energy{1, 0.5};
    CHECK(sum.db() == 20.0);
}

TEST_CASE("SQNR of exact and of hopeless values is a finite number") {
    CHECK(bench::error_energy{1, 0}.db() == bench::exact_db);
    CHECK(bench::error_energy{0, 0}.db() == bench::exact_db);
    CHECK(bench::error_energy{0, 1}.db() == -bench::exact_db);
    CHECK(bench::error_energy{1, 1e-300}.db() == bench::exact_db);
    CHECK(bench::error_energy{1, std::numeric_limits<double>::infinity()}.db() == -bench::exact_db);
}

TEST_CASE("SQNR of a NaN is a NaN") {
    const float exact[] = {1, 2};
    const float approximate[] = {1, std::numeric_limits<float>::quiet_NaN()};
    CHECK(std::isnan(bench::compare(exact, approximate, 2).db()));
}
