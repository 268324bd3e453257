// activation_range.cpp: ranges of activations by minimum and maximum, moving average, percentile and least squares
// against their definitions, and what each is for.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/quantize/activation_range.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

namespace {

nb::matrix_view<const float> batch(const std::vector<float>& x, std::size_t cols) {
    return {x.data(), x.size() / cols, cols};
}

// Mean squared error of the numbers below `bound` after int8 with this scale and zero point, in plain words.
double error_of(const std::vector<float>& x, const nb::static_scale& s, int limit, bool asymmetric, double bound) {
    double sum = 0, n = 0;
    for (const float v : x) {
        if (std::fabs(double{v}) > bound) continue;
        const double offset = asymmetric ? s.zero - 128.0 : 0.0;
        const double code = std::clamp(std::nearbyint(double{v} / double{s.scale}) + offset, -1.0 * limit, 1.0 * limit);
        sum += std::pow(double{s.scale} * (code - offset) - double{v}, 2);
        n += 1;
    }
    return sum / n;
}

} // namespace

TEST_CASE("min_max_range and moving_average_range are what they say, over batches", "[quantize]") {
    nb::min_max_range all;
    nb::moving_average_range average(0.1);
    double low = 0, high = 0, ends[2] = {0, 0};
    for (std::size_t i = 0; i < 20; ++i) {
        std::vector<float> x = nibble_test::normal_values(300, i);
        for (float& v : x) v += i == 7 ? 100.0f : 1.0f;
        const double least = double{*std::min_element(x.begin(), x.end())};
        const double most = double{*std::max_element(x.begin(), x.end())};
        x[5] = std::numeric_limits<float>::quiet_NaN(); // take no part
        x[6] = -std::numeric_limits<float>::infinity();
        low = std::min(low, least);
        high = std::max(high, most);
        ends[0] = i == 0 ? std::min(0.0, least) : 0.9 * ends[0] + 0.1 * std::min(0.0, least);
        ends[1] = i == 0 ? most : 0.9 * ends[1] + 0.1 * most;
        all.observe(batch(x, 30));
        average.observe(batch(x, 30));
    }
    CHECK(double{all.range().low} == low);
    CHECK(double{all.range().high} == high);
    CHECK(std::fabs(double{average.range().low} - ends[0]) <= 1e-6 * std::fabs(ends[0]));
    CHECK(std::fabs(double{average.range().high} - ends[1]) <= 1e-6 * ends[1]);
    CHECK(double{average.range().high} < 0.3 * high); // one batch of twenty was a hundred times as large
    nb::min_max_range positive;
    positive.observe(batch({1.0f, 2.0f}, 2));
    CHECK((positive.range().low == 0.0f && positive.range().high == 2.0f));
    CHECK(broken_by([] { nb::moving_average_range(0.0); }) == "moving_average_range: momentum lies above 0, up to 1");
}

TEST_CASE("percentiles are those of the sorted numbers within a bucket, and never cut off more", "[quantize]") {
    std::vector<float> x = nibble_test::normal_values(40000, 3);
    for (std::size_t i = 0; i < x.size(); i += 3) x[i] = std::fabs(x[i]) * 40.0f; // more to the right
    nb::activation_histogram h;
    h.observe(batch(x, 100));
    CHECK(h.count() == x.size());
    std::vector<float> sorted(x);
    std::sort(sorted.begin(), sorted.end());
    for (const double percent : {100.0, 99.99, 99.9, 99.0, 50.0}) {
        const nb::activation_range r = h.percentile(percent);
        const std::size_t beyond =
            static_cast<std::size_t>(static_cast<double>(x.size()) * (100 - percent) / 200 + 1e-9);
        const float low = std::min(0.0f, sorted[beyond]), high = sorted[sorted.size() - 1 - beyond];
        CHECK((r.low <= low && r.low >= low * (1 + 0x1p-7f)));
        CHECK((r.high >= high && r.high <= high * (1 + 0x1p-7f)));
    }
    CHECK((h.percentile(100).low == sorted.front() && h.percentile(100).high == sorted.back()));
    CHECK(broken_by([&] { (void)h.percentile(0); }) == "percentile: a percentage lies above 0, up to 100");
    const nb::activation_histogram none;
    CHECK((none.percentile(99).low == 0.0f && none.percentile(99).high == 0.0f));
}

TEST_CASE("static scales are those of a token in that range", "[quantize]") {
    for (const int limit : {127, 7})
        for (const nb::activation_range r : {nb::activation_range{-1, 3}, {-5, 0}, {0, 2.5f}, {-2, 2}}) {
            const nb::static_scale plain = nb::static_scale_of(r, limit);
            CHECK(plain.scale == std::max(-r.low, r.high) / static_cast<float>(limit));
            CHECK(plain.zero == 128);
            const nb::static_scale both = nb::static_scale_of(r, limit, true);
            const float steps = 2.0f * static_cast<float>(limit);
            CHECK(both.scale == r.high / steps - r.low / steps);
            // The ends are within half a step of the codes' ends.
            const double offset = both.zero - 128.0;
            CHECK(std::fabs(double{r.low / both.scale} + offset + limit) <= 0.501);
            CHECK(std::fabs(double{r.high / both.scale} + offset - limit) <= 0.501);
        }
    CHECK(nb::static_scale_of({}).scale == 1.0f);
    CHECK(nb::static_scale_of({-1e-39f, 1e-39f}, 127, true).scale == 1.0f);
    CHECK(broken_by([] {
              (void)nb::static_scale_of({1, 2});
          }) == "static_scale_of: a range has finite ends, and 0 between them");
    CHECK(broken_by([] { (void)nb::static_scale_of({}, 128); }) == "static_scale_of: qmax must lie between 1 and 127");
}

TEST_CASE("with rare large numbers percentiles and averages keep the others, and least squares errs least",
          "[quantize][error]") {
    // 64 batches of N(0, 1); one of them has a number of 1000.
    nb::min_max_range all;
    nb::moving_average_range average;
    nb::activation_histogram histogram;
    std::vector<float> x;
    for (std::size_t i = 0; i < 64; ++i) {
        std::vector<float> one = nibble_test::normal_values(2048, 100 + i);
        if (i == 40) one[77] = 1000.0f;
        all.observe(batch(one, 64));
        average.observe(batch(one, 64));
        histogram.observe(batch(one, 64));
        x.insert(x.end(), one.begin(), one.end());
    }
    const auto error = [&](const nb::activation_range& r, bool asymmetric, double bound) {
        return error_of(x, nb::static_scale_of(r, 127, asymmetric), 127, asymmetric, bound);
    };
    for (const bool asymmetric : {false, true}) {
        const double widest = error(all.range(), asymmetric, 100);
        CHECK(widest >= 100 * error(histogram.percentile(99.99), asymmetric, 100));
        CHECK(widest >= 100 * error(average.range(), asymmetric, 100));
        // Of all ranges tried by the numbers themselves none is better than what the histogram finds, but by its
        // rounding.
        const double found = error(histogram.least_squares(127, asymmetric), asymmetric, 1e9);
        double best = 1e300;
        for (int step = 1; step <= 128; ++step) {
            const float share = static_cast<float>(step) / 128.0f;
            best = std::min(best, error({all.range().low * share, all.range().high * share}, asymmetric, 1e9));
        }
        CHECK(found <= 1.01 * best);
        CHECK(found <= error(all.range(), asymmetric, 1e9));
    }
}
