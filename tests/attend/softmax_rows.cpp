// softmax_rows.cpp: some rows of attention at a time, against one row at a time: the same bits.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/tensor/layout.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nb = nibble;

namespace {

constexpr std::size_t rows16 = nb::panel_layout::rows;
constexpr float infinity = std::numeric_limits<float>::infinity();

struct rows_of_softmax {
    std::vector<float> scores, rescale;
    std::vector<nb::kernel::softmax_state> states;
};
template <nb::isa Isa>
rows_of_softmax softmax_of(const std::vector<float>& scores, std::size_t rows, std::size_t panels,
                           const std::vector<nb::kernel::softmax_state>& before) {
    rows_of_softmax w{scores, std::vector<float>(rows, -1.0f), before};
    nb::kernel::prefetch_cursor nothing{};
    nb::kernel::softmax<Isa>(w.scores.data(), rows, panels, w.states.data(), w.rescale.data(), nothing);
    return w;
}
bool same(float a, float b) {
    return std::isnan(a) ? std::isnan(b) : std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <nb::isa Isa> void check_rows_alone() {
    std::uint64_t drawn = 0;
    const auto normal = [&] { return nibble_test::random_normal(5, drawn++); };
    constexpr std::size_t panels = 5;
    for (std::size_t rows = 1; rows <= 9; ++rows) {
        std::vector<float> scores(panels * rows * rows16);
        std::vector<nb::kernel::softmax_state> before(rows);
        for (float& s : scores) s = 20.0f * normal();
        for (std::size_t r = 0; r < rows; ++r)
            before[r] = {r % 3 == 0 ? -infinity : 4.0f * normal(), r % 3 == 0 ? 0.0f : 1.5f};
        const auto score = [&](std::size_t p, std::size_t r, std::size_t i) -> float& {
            return scores[(p * rows + r) * rows16 + i];
        };
        if (rows > 4) { // what is masked, a row of nothing, and what spoils a row
            score(1, 1, 3) = -infinity;
            for (std::size_t i = 0; i < panels * rows16; ++i) score(i / rows16, 3, i % rows16) = -infinity;
            score(2, 4, 7) = std::numeric_limits<float>::quiet_NaN();
            score(0, 2, 0) = infinity;
        }
        const rows_of_softmax all = softmax_of<Isa>(scores, rows, panels, before);
        for (std::size_t r = 0; r < rows; ++r) {
            CAPTURE(rows, r);
            std::vector<float> own(panels * rows16);
            for (std::size_t i = 0; i < own.size(); ++i) own[i] = score(i / rows16, r, i % rows16);
            const rows_of_softmax alone = softmax_of<Isa>(own, 1, panels, {before[r]});
            bool equal = same(alone.rescale[0], all.rescale[r]) &&
                         same(alone.states[0].largest, all.states[r].largest) &&
                         same(alone.states[0].sum, all.states[r].sum);
            double sum = static_cast<double>(before[r].sum) * std::exp(static_cast<double>(before[r].largest) -
                                                                       static_cast<double>(alone.states[0].largest));
            if (before[r].sum == 0.0f) sum = 0.0;
            for (std::size_t i = 0; i < own.size(); ++i) {
                equal = equal && same(alone.scores[i], all.scores[(i / rows16 * rows + r) * rows16 + i % rows16]);
                if (own[i] != -infinity)
                    sum += std::exp(static_cast<double>(own[i]) - static_cast<double>(alone.states[0].largest));
            }
            REQUIRE(equal);
            const bool spoilt = rows > 4 && (r == 2 || r == 4);
            REQUIRE(std::isnan(alone.states[0].sum) == spoilt);
            // Within exp's 2 units, ten additions one after another, and the rounding of score - largest: below 9e-7.
            if (!spoilt) REQUIRE(std::abs(static_cast<double>(alone.states[0].sum) - sum) <= 1e-6 * sum);
        }
    }
}

} // namespace

TEST_CASE("the probabilities of a row do not depend on the rows beside it") {
    nb::for_each_isa([]<class Isa>() { check_rows_alone<Isa>(); });
}
