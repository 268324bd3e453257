// rotary.cpp: queries and keys turned by their positions against double precision, both pairings, some or all channels.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/transform/rotary.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

TEST_CASE("rotary_positions: pairs of every head are turned by position x frequency", "[transform]") {
    const std::vector<std::uint32_t> positions{0, 1, 7, 100000, 3};
    const std::size_t heads = 3, size = 40;
    const std::vector<float> x = nibble_test::normal_values(positions.size() * heads * size, 1);
    for (const std::size_t dims : {std::size_t{0}, std::size_t{2}, std::size_t{24}, size})
        for (const bool interleaved : {false, true})
            for (const bool given : {false, true}) {
                nb::rotary_embedding r{.dims = dims, .interleaved = interleaved, .base = 500.0};
                std::vector<double> frequencies;
                for (std::size_t i = 0; i < dims / 2; ++i) {
                    frequencies.push_back(
                        given ? 0.25 / static_cast<double>(i + 1)
                              : std::pow(500.0, -2.0 * static_cast<double>(i) / static_cast<double>(dims)));
                    if (given) r.frequencies.push_back(frequencies.back());
                }
                nb::rotary_positions turns;
                turns.assign(r, positions);
                nb::for_each_isa([&]<class Isa>() {
                    std::vector<float> y(x);
                    turns.rotate<Isa>({y.data(), positions.size(), heads * size}, size);
                    std::size_t wrong = 0;
                    for (std::size_t t = 0; t < positions.size(); ++t)
                        for (std::size_t h = 0; h < heads; ++h) {
                            const std::size_t at = (t * heads + h) * size;
                            for (std::size_t c = dims; c < size; ++c) wrong += y[at + c] != x[at + c];
                            for (std::size_t i = 0; i < dims / 2; ++i) {
                                const std::size_t first = at + (interleaved ? 2 * i : i);
                                const std::size_t second = interleaved ? first + 1 : first + dims / 2;
                                const double angle = positions[t] * frequencies[i];
                                const double a = double{x[first]}, b = double{x[second]};
                                const double bound = 3e-7 * (std::fabs(a) + std::fabs(b));
                                wrong += !(std::fabs(double{y[first]} - (a * std::cos(angle) - b * std::sin(angle))) <=
                                           bound);
                                wrong += !(std::fabs(double{y[second]} - (a * std::sin(angle) + b * std::cos(angle))) <=
                                           bound);
                            }
                        }
                    CHECK(wrong == 0);
                    std::vector<float> best(x);
                    turns.rotate({best.data(), positions.size(), heads * size}, size);
                    CHECK(best == y);
                    // To the bit what the contract says.
                    wrong = 0;
                    for (std::size_t t = 0; t < positions.size(); ++t)
                        for (std::size_t h = 0; h < heads; ++h)
                            for (std::size_t i = 0; i < dims / 2; ++i) {
                                const std::size_t at = (t * heads + h) * size;
                                const std::size_t first = at + (interleaved ? 2 * i : i);
                                const std::size_t second = interleaved ? first + 1 : first + dims / 2;
                                const nb::kernel::rotation by = nb::kernel::rotation_of(positions[t], frequencies[i]);
                                const float c = static_cast<float>(by.cosine), s = static_cast<float>(by.sine);
                                const float a_cos = nb::detail::rounded_by_itself(x[first] * c);
                                const float a_sin = nb::detail::rounded_by_itself(x[first] * s);
                                wrong += y[first] != std::fma(-x[second], s, a_cos);
                                wrong += y[second] != std::fma(x[second], c, a_sin);
                            }
                    CHECK(wrong == 0);
                });
            }
    nb::rotary_positions turns;
    turns.assign({.dims = 8}, positions);
    std::vector<float> y(x);
    CHECK(broken_by([&] {
              turns.rotate({y.data(), 4, heads * size}, size);
          }) == "rotary_positions: x must have a row for each position");
    CHECK(broken_by([&] {
              turns.rotate({y.data(), 5, 8}, 4);
          }) == "rotary_positions: a row must have whole heads, of at least `dims` channels");
    CHECK(broken_by([&] { turns.assign({.dims = 3}, positions); }) ==
          "rotary_embedding: an even number of dims is needed, at most the head size");
}
