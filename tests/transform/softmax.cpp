// softmax.cpp: soft-max and its logarithm against double precision, at magnitudes that overflow alone, and at the
// corners.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/transform/softmax.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nb = nibble;

TEST_CASE("softmax, log_softmax and log_sum_exp against double precision", "[transform]") {
    for (const std::size_t count : {1u, 5u, 8u, 511u, 513u, 40000u})
        for (const float shift : {0.0f, 3000.0f, -3000.0f}) {
            std::vector<float> x = nibble_test::normal_values(count, count);
            for (float& v : x) v = 4 * v + shift;
            const double top = double{*std::max_element(x.begin(), x.end())};
            double sum = 0;
            for (const float v : x) sum += std::exp(double{v} - top);
            const double exact = top + std::log(sum);
            const float got = nb::log_sum_exp(nb::array_view<const float>(x));
            CHECK(std::fabs(double{got} - exact) <= 1e-6 * std::max(1.0, std::fabs(exact)));
            std::vector<float> p(count), l(count);
            nb::softmax(x, p);
            nb::log_softmax(x, l);
            for (std::size_t i = 0; i < count; ++i) {
                const double share = std::exp(double{x[i]} - top) / sum;
                REQUIRE(std::fabs(double{p[i]} - share) <= (16 + top - double{x[i]}) * 0x1p-24 * share);
                REQUIRE(l[i] == x[i] - got);
            }
            nb::for_each_isa([&]<class Isa>() {
                CHECK(std::bit_cast<std::uint32_t>(nb::log_sum_exp<Isa>(x)) == std::bit_cast<std::uint32_t>(got));
                std::vector<float> other(x);
                nb::softmax<Isa>(other, other);
                CHECK(other == p);
            });
        }
}

TEST_CASE("log_sum_exp of infinities, NaN and nothing", "[transform]") {
    const float infinity = std::numeric_limits<float>::infinity();
    const auto of = [](std::vector<float> x) { return nb::log_sum_exp(nb::array_view<const float>(x)); };
    CHECK(of({}) == -infinity);
    CHECK(of({-infinity, -infinity}) == -infinity);
    CHECK(of({-infinity, 2.0f}) == 2.0f);
    CHECK(std::isnan(of({1.0f, std::numeric_limits<float>::quiet_NaN()})));
    CHECK(std::isnan(of({1.0f, infinity})));
    std::vector<float> none{-infinity, -infinity};
    nb::softmax(none, none);
    CHECK(std::isnan(none[0]));
}
