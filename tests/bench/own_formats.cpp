// own_formats.cpp: formats of a user's own header join the list that every benchmark walks.
#define NIBBLE_BENCH_FORMATS "bench/own_formats.hpp"
#include "support/formats.hpp"
#include "support/scheme_of.hpp"
#include "verbs/verbs_slice.hpp"

#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/core/executor.hpp>

#include <cstddef>
#include <vector>

TEST_CASE("bench: a user's formats run beside nibble's from a list of one line", "[bench]") {
    STATIC_REQUIRE(bench::formats::size == nibble::all_formats::size + 2);
    const auto made = bench::make_schemes(own_formats{});
    REQUIRE(made.size() == 2);
    CHECK(made[0]->name() == "fp7_e2m4_g32");
    const std::vector<float> w = nibble_test::normal_values(64 * 16, 3);
    const auto q = made[0]->quantize(nibble::matrix_view<const float>(w.data(), 16, 64), nibble::serial{});
    CHECK(q->bits_per_weight() == 7.5);
    std::vector<float> y(w.size());
    q->dequantize(nibble::matrix_view<float>(y.data(), 16, 64), nibble::serial{});
    double error = 0.0;
    for (std::size_t i = 0; i < w.size(); ++i)
        error += (static_cast<double>(w[i]) - static_cast<double>(y[i])) *
                 (static_cast<double>(w[i]) - static_cast<double>(y[i]));
    CHECK(error / static_cast<double>(w.size()) < 1e-3); // five significant bits
}
