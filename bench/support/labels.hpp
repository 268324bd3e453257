// labels.hpp: places text beside points so that no two texts overlap; geometry only, used by plot.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace bench {

struct point {
    double x = 0;
    double y = 0;
};

struct box {
    double left = 0;
    double top = 0;
    double right = 0;
    double bottom = 0;
};

struct segment {
    point from;
    point to;
};

[[nodiscard]] inline bool overlap(const box& a, const box& b) noexcept {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

[[nodiscard]] inline bool contains(const box& outer, const box& inner) noexcept {
    return inner.left >= outer.left && inner.right <= outer.right && inner.top >= outer.top &&
           inner.bottom <= outer.bottom;
}

[[nodiscard]] inline point nearest_in(const box& area, point p) noexcept {
    return {std::clamp(p.x, area.left, area.right), std::clamp(p.y, area.top, area.bottom)};
}

[[nodiscard]] inline double distance(point a, point b) noexcept {
    return std::hypot(a.x - b.x, a.y - b.y);
}

[[nodiscard]] inline bool overlap(const box& area, point centre, double radius) noexcept {
    return distance(nearest_in(area, centre), centre) < radius;
}

// Liang-Barsky: does any part of the segment lie inside?
[[nodiscard]] inline bool overlap(const box& area, const segment& line) noexcept {
    const double dx = line.to.x - line.from.x;
    const double dy = line.to.y - line.from.y;
    const double p[] = {-dx, dx, -dy, dy};
    const double q[] = {line.from.x - area.left, area.right - line.from.x, line.from.y - area.top,
                        area.bottom - line.from.y};
    double enter = 0;
    double leave = 1;
    for (int i = 0; i < 4; ++i) {
        if (p[i] == 0) {
            if (q[i] <= 0) return false;
        } else if (p[i] < 0) {
            enter = (std::max)(enter, q[i] / p[i]);
        } else {
            leave = (std::min)(leave, q[i] / p[i]);
        }
    }
    return enter < leave;
}

[[nodiscard]] inline bool overlap(const segment& line, point centre, double radius) noexcept {
    const double dx = line.to.x - line.from.x;
    const double dy = line.to.y - line.from.y;
    const double length = dx * dx + dy * dy;
    const double along =
        length == 0 ? 0
                    : std::clamp(((centre.x - line.from.x) * dx + (centre.y - line.from.y) * dy) / length, 0.0, 1.0);
    return distance({line.from.x + along * dx, line.from.y + along * dy}, centre) < radius;
}

[[nodiscard]] inline bool cross(const segment& a, const segment& b) noexcept {
    const auto side = [](const segment& line, point p) {
        return (line.to.x - line.from.x) * (p.y - line.from.y) - (line.to.y - line.from.y) * (p.x - line.from.x);
    };
    return side(a, b.from) * side(a, b.to) < 0 && side(b, a.from) * side(b, a.to) < 0;
}

// A point drawn as a circle and the size of the text that belongs to it.
struct label_request {
    point centre;
    double radius = 0;
    double width = 0;
    double height = 0;
};

struct placed_label {
    box area{};                    // where the text goes
    std::optional<segment> leader; // from the circle's centre to the text, where they are apart
    bool shown = false;            // false: the bounds are full
};

// What must stay free of text, and what text should only avoid.
struct label_surroundings {
    box bounds;
    std::span<const box> blocked;   // legends
    std::span<const segment> lines; // curves
};

// Greedy, most crowded point first, then a few rounds in which every label may move to a better place; again from other
// orders, and the best is kept. No text overlaps another text or a blocked box, ever; circles, lines and leaders are
// avoided as far as there is room.
[[nodiscard]] inline std::vector<placed_label> place_labels(std::span<const label_request> requests,
                                                            const label_surroundings& around) {
    constexpr double gap = 3;         // between a circle and its text
    constexpr double padding = 1.5;   // around each text
    constexpr double leader_from = 9; // a text further away than this gets a leader

    const std::size_t count = requests.size();
    std::vector<placed_label> labels(count);

    const auto grown = [&](const box& area) {
        return box{area.left - padding, area.top - padding, area.right + padding, area.bottom + padding};
    };
    const auto make = [&](std::size_t self, point anchor, double across, double down) {
        const label_request& request = requests[self];
        // across, down in [-1, 1]: which point of the text lies on the anchor
        placed_label label;
        label.area.left = anchor.x - request.width * (1 - across) / 2;
        label.area.top = anchor.y - request.height * (1 - down) / 2;
        label.area.right = label.area.left + request.width;
        label.area.bottom = label.area.top + request.height;
        // A text needs a leader when it is far from its circle, or nearer to another one.
        const point near = nearest_in(label.area, request.centre);
        const double apart = distance(near, request.centre) - request.radius;
        bool led = apart > leader_from;
        for (std::size_t other = 0; other < count && !led; ++other) {
            const label_request& neighbour = requests[other];
            led = other != self &&
                  distance(nearest_in(label.area, neighbour.centre), neighbour.centre) - neighbour.radius <= apart;
        }
        if (led) label.leader = segment{request.centre, near};
        label.shown = true;
        return label;
    };
    const auto allowed = [&](std::size_t self, const placed_label& label) {
        if (!contains(around.bounds, label.area)) return false;
        const box area = grown(label.area);
        for (const box& blocked : around.blocked)
            if (overlap(area, blocked)) return false;
        for (std::size_t other = 0; other < count; ++other)
            if (other != self && labels[other].shown && overlap(area, labels[other].area)) return false;
        return true;
    };
    const auto cost = [&](std::size_t self, const placed_label& label) {
        const label_request& request = requests[self];
        const point near = nearest_in(label.area, request.centre);
        double sum = distance(near, request.centre) - request.radius;
        if (label.leader) sum += 12;
        const box area = grown(label.area);
        for (std::size_t other = 0; other < count; ++other) {
            const label_request& neighbour = requests[other];
            // A circle covered by a text: worst at its centre; a little at its edge is bearable.
            if (overlap(area, neighbour.centre, neighbour.radius)) {
                const double depth = neighbour.radius - distance(nearest_in(area, neighbour.centre), neighbour.centre);
                sum += 30 + 10 * depth;
            }
            if (other == self) continue;
            if (label.leader && overlap(*label.leader, neighbour.centre, neighbour.radius * 0.8)) sum += 30;
            const placed_label& placed = labels[other];
            if (!placed.shown) continue;
            if (label.leader && overlap(grown(placed.area), *label.leader)) sum += 90;
            if (placed.leader && overlap(area, *placed.leader)) sum += 90;
            if (label.leader && placed.leader && cross(*label.leader, *placed.leader)) sum += 70;
        }
        for (const segment& line : around.lines) {
            if (overlap(area, line)) sum += 20;
            if (label.leader && cross(*label.leader, line)) sum += 4;
        }
        return sum;
    };
    const auto place = [&](std::size_t self) {
        const label_request& request = requests[self];
        labels[self].shown = false;
        placed_label best;
        double best_cost = std::numeric_limits<double>::infinity();
        const auto consider = [&](const placed_label& label) {
            // The distance alone is a lower bound of the cost: most candidates end here.
            if (distance(nearest_in(label.area, request.centre), request.centre) - request.radius >= best_cost) return;
            if (!allowed(self, label)) return;
            const double here = cost(self, label);
            if (here < best_cost) {
                best_cost = here;
                best = label;
            }
        };
        constexpr int directions = 32;
        for (int ring = 0; ring < 24; ++ring) {
            const double away = request.radius + gap + 0.4 * ring * ring + 2.5 * ring;
            for (int d = 0; d < directions; ++d) {
                const double angle = 2 * 3.14159265358979 * d / directions;
                const double x = std::cos(angle);
                const double y = std::sin(angle);
                const double across = std::clamp(1.6 * x, -1.0, 1.0);
                const double down = std::clamp(1.6 * y, -1.0, 1.0);
                consider(make(self, {request.centre.x + away * x, request.centre.y + away * y}, across, down));
            }
        }
        // Nothing near is free: anywhere, then.
        if (!best.shown)
            for (double y = around.bounds.top; y + request.height <= around.bounds.bottom; y += request.height / 2)
                for (double x = around.bounds.left; x + request.width <= around.bounds.right; x += request.width / 4)
                    consider(make(self, {x, y}, 1, 1));
        labels[self] = best;
    };

    std::vector<double> crowd(count, 0);
    for (std::size_t a = 0; a < count; ++a)
        for (std::size_t b = 0; b < count; ++b)
            if (a != b) crowd[a] += 1 / (20 + distance(requests[a].centre, requests[b].centre));
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return crowd[a] > crowd[b]; });

    // A greedy placement depends on its order: of several orders the cheapest result is kept.
    std::vector<placed_label> best;
    double best_total = std::numeric_limits<double>::infinity();
    constexpr std::size_t attempts = 10;
    for (std::size_t attempt = 0; attempt < attempts; ++attempt) {
        for (placed_label& label : labels) label = {};
        for (std::size_t i = 0; attempt != 0 && i + 1 < count; ++i)
            std::swap(order[i], order[i + (attempt * 7919 + i * 104729) % (count - i)]);
        for (int round = 0; round < 5; ++round)
            for (const std::size_t self : order) place(self);
        double total = 0;
        for (std::size_t self = 0; self < count; ++self) total += labels[self].shown ? cost(self, labels[self]) : 1e6;
        if (total < best_total) {
            best_total = total;
            best = labels;
        }
    }
    return best;
}

} // namespace bench
