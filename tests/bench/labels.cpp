// labels.cpp: no text of the comparison's plot lies on another.
#include "../../bench/support/labels.hpp"

#include "../../bench/support/synthetic.hpp"

#include <support/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

constexpr bench::box page{0, 0, 1000, 700};

double uniform(std::uint64_t stream, std::uint64_t index) {
    return static_cast<double>(bench::random_bits(stream, index) >> 11) * 0x1p-53;
}

// Points in clusters, as formats of one width are.
std::vector<bench::label_request> clustered(std::size_t count, std::uint64_t seed) {
    std::vector<bench::label_request> requests;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t cluster = bench::random_bits(seed, 4 * i) % 6;
        const double x = 100 + 140 * static_cast<double>(cluster) + 60 * uniform(seed, 4 * i + 1);
        const double y = 600 - 90 * static_cast<double>(cluster) + 60 * uniform(seed, 4 * i + 2);
        requests.push_back({{x, y}, 4 + 8 * uniform(seed, 4 * i + 3), 60 + 5.0 * static_cast<double>(i % 9), 12});
    }
    return requests;
}

std::size_t shown(const std::vector<bench::placed_label>& labels) {
    std::size_t count = 0;
    for (const auto& one : labels) count += one.shown ? 1 : 0;
    return count;
}

void check_apart(const std::vector<bench::placed_label>& labels) {
    for (std::size_t a = 0; a < labels.size(); ++a)
        for (std::size_t b = a + 1; b < labels.size(); ++b)
            if (labels[a].shown && labels[b].shown) CHECK_FALSE(bench::overlap(labels[a].area, labels[b].area));
}

} // namespace

TEST_CASE("every label is shown, inside the bounds and apart from all others") {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        CAPTURE(seed);
        const auto requests = clustered(66, seed);
        const bench::box legend[] = {{20, 20, 320, 220}};
        const auto labels = bench::place_labels(requests, {page, legend, {}});
        REQUIRE(labels.size() == requests.size());
        CHECK(shown(labels) == labels.size());
        check_apart(labels);
        for (std::size_t i = 0; i < labels.size(); ++i) {
            CHECK(bench::contains(page, labels[i].area));
            CHECK_FALSE(bench::overlap(labels[i].area, legend[0]));
            CHECK(std::abs(labels[i].area.right - labels[i].area.left - requests[i].width) < 1e-9);
            CHECK(std::abs(labels[i].area.bottom - labels[i].area.top - requests[i].height) < 1e-9);
        }
    }
}

TEST_CASE("a label far from its circle, or nearer to another, has a leader; one beside its circle has none") {
    const auto requests = clustered(66, 7);
    const auto labels = bench::place_labels(requests, {page, {}, {}});
    for (std::size_t i = 0; i < labels.size(); ++i) {
        const auto near = bench::nearest_in(labels[i].area, requests[i].centre);
        const double apart = bench::distance(near, requests[i].centre) - requests[i].radius;
        bool nearest = true;
        for (std::size_t other = 0; other < labels.size(); ++other) {
            const auto point = bench::nearest_in(labels[i].area, requests[other].centre);
            if (other != i && bench::distance(point, requests[other].centre) - requests[other].radius <= apart)
                nearest = false;
        }
        CHECK(labels[i].leader.has_value() == (apart > 9 || !nearest));
    }
    const auto alone = bench::place_labels(std::vector<bench::label_request>{{{500, 300}, 8, 80, 12}}, {page, {}, {}});
    CHECK_FALSE(alone[0].leader.has_value());
    CHECK_FALSE(bench::overlap(alone[0].area, bench::point{500, 300}, 8));
}

TEST_CASE("points on one spot still get separate labels") {
    const std::vector<bench::label_request> requests(30, {{400, 300}, 6, 80, 12});
    const auto labels = bench::place_labels(requests, {page, {}, {}});
    CHECK(shown(labels) == 30);
    check_apart(labels);
}

TEST_CASE("labels without room are left out rather than drawn over others") {
    const std::vector<bench::label_request> requests(20, {{50, 15}, 4, 80, 12});
    const auto labels = bench::place_labels(requests, {{0, 0, 100, 40}, {}, {}});
    CHECK(shown(labels) >= 1);
    CHECK(shown(labels) < 20);
    check_apart(labels);
    CHECK(bench::place_labels({}, {page, {}, {}}).empty());
}

TEST_CASE("geometry: segments, boxes and circles") {
    const bench::box unit{0, 0, 10, 10};
    CHECK(bench::overlap(unit, bench::segment{{-5, 5}, {15, 5}}));
    CHECK(bench::overlap(unit, bench::segment{{2, 2}, {3, 3}}));
    CHECK_FALSE(bench::overlap(unit, bench::segment{{-5, 12}, {15, 12}}));
    CHECK_FALSE(bench::overlap(unit, bench::segment{{-5, 5}, {-1, 5}}));
    CHECK_FALSE(bench::overlap(unit, bench::segment{{11, -3}, {11, 30}}));
    CHECK(bench::overlap(unit, bench::point{12, 5}, 3));
    CHECK_FALSE(bench::overlap(unit, bench::point{12, 12}, 2));
    CHECK(bench::overlap(bench::segment{{0, 0}, {10, 0}}, bench::point{5, 1}, 2));
    CHECK_FALSE(bench::overlap(bench::segment{{0, 0}, {10, 0}}, bench::point{13, 0}, 2));
    CHECK(bench::cross({{0, 0}, {10, 10}}, {{0, 10}, {10, 0}}));
    CHECK_FALSE(bench::cross({{0, 0}, {4, 4}}, {{0, 10}, {10, 0}}));
}
