// scatter.cpp: axes, circles, names and legend.
#include "scatter.hpp"

#include "labels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace bench {
namespace {

constexpr double width = 1200;
constexpr double height = 800;
constexpr box frame{76, 92, width - 32, height - 64}; // the axes
constexpr double label_size = 10.5;                   // px; a monospace letter is 0.602 em wide in the fonts asked for
constexpr double letter = 0.602 * label_size;
constexpr double sample_width = 28; // of the largest circle

constexpr const char* ink = "#1f2933";
constexpr const char* muted = "#5b6875";
constexpr const char* front_fill = "#0f7b8a";
constexpr const char* front_text = "#0a4d57";
constexpr const char* other_fill = "#a9b6c3";
constexpr const char* other_text = "#4b5763";

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
        case '&':
            out += "&amp;";
            break;
        case '<':
            out += "&lt;";
            break;
        case '>':
            out += "&gt;";
            break;
        case '"':
            out += "&quot;";
            break;
        default:
            out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
        }
    }
    return out;
}

template <class... Arguments> std::string format(const char* pattern, Arguments... arguments) {
    char text[1024];
    std::snprintf(text, sizeof text, pattern, arguments...);
    return text;
}

struct axis {
    double low = 0;
    double high = 1;
    double step = 1;
    [[nodiscard]] double place(double value) const { return (value - low) / (high - low); }
};

// 1, 2 or 5 times a power of ten, for about `wanted` ticks.
axis cover(double low, double high, int wanted) {
    if (!(high - low > 1)) {
        const double middle = 0.5 * (low + high);
        low = middle - 0.5;
        high = middle + 0.5;
    }
    const double margin = 0.05 * (high - low);
    axis result{low - margin, high + margin, 1};
    const double rough = (result.high - result.low) / wanted;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    const double lead = rough / power;
    result.step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
    return result;
}

template <class Draw> void for_each_tick(const axis& scale, Draw&& draw) {
    const int first = static_cast<int>(std::ceil(scale.low / scale.step - 1e-9));
    for (int i = first; i * scale.step <= scale.high + 1e-9; ++i) draw(i * scale.step);
}

// The corner, of four, whose card would hide the fewest circles.
box free_corner(double card_width, double card_height, const std::vector<label_request>& circles) {
    const double in = 14;
    const double left = frame.left + in;
    const double right = frame.right - in - card_width;
    const double top = frame.top + in;
    const double bottom = frame.bottom - in - card_height;
    const point corners[] = {{left, top}, {right, bottom}, {right, top}, {left, bottom}};
    box best{};
    std::size_t fewest = circles.size() + 1;
    for (const point corner : corners) {
        const box card{corner.x, corner.y, corner.x + card_width, corner.y + card_height};
        const auto hidden = static_cast<std::size_t>(std::count_if(
            circles.begin(), circles.end(), [&](const label_request& c) { return overlap(card, c.centre, c.radius); }));
        if (hidden < fewest) {
            fewest = hidden;
            best = card;
        }
    }
    return best;
}

} // namespace

std::string to_svg(const scatter& plot) {
    std::vector<const scatter_point*> drawn;
    std::vector<const scatter_point*> beyond;
    for (const scatter_point& one : plot.points)
        if (std::isfinite(one.x) && std::isfinite(one.y)) (one.x <= plot.widest_drawn ? drawn : beyond).push_back(&one);
    if (drawn.size() < 2) {
        drawn.insert(drawn.end(), beyond.begin(), beyond.end());
        beyond.clear();
    }
    const auto by_x = [](const scatter_point* a, const scatter_point* b) { return a->x < b->x; };
    std::stable_sort(drawn.begin(), drawn.end(), by_x);
    std::stable_sort(beyond.begin(), beyond.end(), by_x);

    double xs[2] = {1e300, -1e300};
    double ys[2] = {1e300, -1e300};
    for (const scatter_point* one : drawn) {
        xs[0] = std::min(xs[0], one->x);
        xs[1] = std::max(xs[1], one->x);
        ys[0] = std::min(ys[0], one->y);
        ys[1] = std::max(ys[1], one->y);
    }
    if (drawn.empty()) xs[0] = xs[1] = ys[0] = ys[1] = 1;
    const axis x_axis = cover(xs[0], xs[1], 9);
    const axis y_axis = cover(ys[0], ys[1], 9);
    const auto x_of = [&](double value) { return frame.left + x_axis.place(value) * (frame.right - frame.left); };
    const auto y_of = [&](double value) { return frame.bottom - y_axis.place(value) * (frame.bottom - frame.top); };

    std::vector<label_request> circles;
    for (const scatter_point* one : drawn)
        circles.push_back({{x_of(one->x), y_of(one->y)},
                           one->radius,
                           letter * static_cast<double>(one->name.size()) * (one->on_front ? 1.02 : 1.0) + 1,
                           label_size + 1.5});
    std::vector<segment> front;
    const label_request* previous = nullptr;
    for (std::size_t i = 0; i < drawn.size(); ++i) {
        if (!drawn[i]->on_front) continue;
        if (previous != nullptr) front.push_back({previous->centre, circles[i].centre});
        previous = &circles[i];
    }

    const double card_width = 312;
    const double legend_height = plot.size_caption.empty() ? 42 : 104;
    const double card_height = legend_height + (beyond.empty() ? 0.0 : 24 + 16 * static_cast<double>(beyond.size()));
    const box card = free_corner(card_width, card_height, circles);
    const box blocked[] = {card};
    const box inside{frame.left + 3, frame.top + 3, frame.right - 3, frame.bottom - 3};
    const auto labels = place_labels(circles, {inside, blocked, front});

    std::string svg;
    svg += format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\" "
                  "font-family=\"'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\" role=\"img\">\n",
                  width, height, width, height);
    svg += "<title>" + escaped(plot.title) + "</title>\n";
    svg += format("<rect width=\"%g\" height=\"%g\" fill=\"#ffffff\"/>\n", width, height);
    svg += format("<text x=\"%g\" y=\"36\" font-size=\"21\" font-weight=\"600\" fill=\"%s\">%s</text>\n", frame.left,
                  ink, escaped(plot.title.substr(0, 90)).c_str());
    for (std::size_t i = 0; i < std::min<std::size_t>(2, plot.lines.size()); ++i)
        svg += format("<text x=\"%g\" y=\"%d\" font-size=\"12.5\" fill=\"%s\">%s</text>\n", frame.left,
                      57 + 18 * static_cast<int>(i), muted, escaped(plot.lines[i].substr(0, 190)).c_str());

    // Axes.
    svg += "<g stroke=\"#e4e9ee\" stroke-width=\"1\">\n";
    for_each_tick(x_axis, [&](double tick) {
        svg += format("<line x1=\"%.1f\" y1=\"%g\" x2=\"%.1f\" y2=\"%g\"/>\n", x_of(tick), frame.top, x_of(tick),
                      frame.bottom);
    });
    for_each_tick(y_axis, [&](double tick) {
        svg += format("<line x1=\"%g\" y1=\"%.1f\" x2=\"%g\" y2=\"%.1f\"/>\n", frame.left, y_of(tick), frame.right,
                      y_of(tick));
    });
    svg += "</g>\n";
    svg += format("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"#8c99a6\" stroke-width=\"1.2\"/>\n", frame.left,
                  frame.top, frame.bottom, frame.right);
    svg += format("<g font-size=\"12\" fill=\"%s\">\n", muted);
    for_each_tick(x_axis, [&](double tick) {
        svg +=
            format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%g</text>\n", x_of(tick), frame.bottom + 18, tick);
    });
    for_each_tick(y_axis, [&](double tick) {
        svg += format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n", frame.left - 8, y_of(tick) + 4,
                      plot.logarithmic_y ? std::pow(10, tick) : tick);
    });
    svg += "</g>\n";
    svg += format("<text x=\"%g\" y=\"%g\" font-size=\"13.5\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n",
                  0.5 * (frame.left + frame.right), height - 18, ink, escaped(plot.x_title).c_str());
    svg += format("<text transform=\"translate(24 %g) rotate(-90)\" font-size=\"13.5\" text-anchor=\"middle\" "
                  "fill=\"%s\">%s</text>\n",
                  0.5 * (frame.top + frame.bottom), ink, escaped(plot.y_title).c_str());

    // The front, then circles (small ones last, so that none is hidden), leaders, texts.
    if (!front.empty()) {
        svg += format("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" stroke-opacity=\"0.55\" points=\"",
                      front_fill);
        svg += format("%.1f,%.1f", front.front().from.x, front.front().from.y);
        for (const segment& one : front) svg += format(" %.1f,%.1f", one.to.x, one.to.y);
        svg += "\"/>\n";
    }
    std::vector<std::size_t> order(drawn.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return circles[a].radius > circles[b].radius; });
    for (const std::size_t i : order) {
        const scatter_point& one = *drawn[i];
        svg +=
            format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\" fill-opacity=\"%s\" stroke=\"#ffffff\" "
                   "stroke-width=\"0.8\"><title>%s: %s</title></circle>\n",
                   circles[i].centre.x, circles[i].centre.y, circles[i].radius, one.on_front ? front_fill : other_fill,
                   one.on_front ? "0.85" : "0.75", escaped(one.name).c_str(), escaped(one.note).c_str());
    }
    svg += format("<g stroke=\"%s\" stroke-width=\"0.7\">\n", other_text);
    for (const placed_label& label : labels) {
        if (!label.shown || !label.leader) continue;
        const segment& line = *label.leader;
        svg +=
            format("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/><circle cx=\"%.1f\" cy=\"%.1f\" r=\"1.4\" "
                   "fill=\"%s\" stroke=\"none\"/>\n",
                   line.from.x, line.from.y, line.to.x, line.to.y, line.from.x, line.from.y, other_text);
    }
    svg += "</g>\n";
    svg += format("<g font-size=\"%g\" font-family=\"ui-monospace, Menlo, 'DejaVu Sans Mono', Consolas, monospace\" "
                  "stroke=\"#ffffff\" stroke-width=\"2.6\" stroke-linejoin=\"round\" paint-order=\"stroke\">\n",
                  label_size);
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (!labels[i].shown) continue;
        const scatter_point& one = *drawn[i];
        svg += format("<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\"%s>%s</text>\n", labels[i].area.left,
                      labels[i].area.bottom - 3.2, one.on_front ? front_text : other_text,
                      one.on_front ? " font-weight=\"700\"" : "", escaped(one.name).c_str());
    }
    svg += "</g>\n";

    // The card.
    svg += format("<g transform=\"translate(%.1f %.1f)\" font-size=\"12\" fill=\"%s\">\n", card.left, card.top, ink);
    svg += format("<rect width=\"%g\" height=\"%g\" rx=\"6\" fill=\"#f7f9fb\" stroke=\"#dde4ea\"/>\n", card_width,
                  card_height);
    svg += format("<circle cx=\"20\" cy=\"21\" r=\"6\" fill=\"%s\" fill-opacity=\"0.85\"/>"
                  "<text x=\"34\" y=\"25\">on the Pareto front</text>\n",
                  front_fill);
    svg += format("<circle cx=\"172\" cy=\"21\" r=\"6\" fill=\"%s\" fill-opacity=\"0.75\"/><text x=\"186\" "
                  "y=\"25\">%s</text>\n",
                  other_fill, escaped(plot.other_caption).c_str());
    if (!plot.size_caption.empty()) {
        svg += format("<text x=\"14\" y=\"52\" fill=\"%s\">%s</text>\n", muted, escaped(plot.size_caption).c_str());
        double x = 14;
        for (const scatter::sample& shown : plot.sizes) {
            svg += format("<circle cx=\"%.1f\" cy=\"78\" r=\"%.1f\" fill=\"%s\" fill-opacity=\"0.75\"/>"
                          "<text x=\"%.1f\" y=\"82\">%s</text>\n",
                          x + sample_width / 2, shown.radius, other_fill, x + sample_width / 2 + shown.radius + 5,
                          escaped(shown.text).c_str());
            x += 92;
        }
    }
    if (!beyond.empty()) {
        svg +=
            format("<text x=\"14\" y=\"%g\" fill=\"%s\">to the right of the axes:</text>\n", legend_height + 14, muted);
        double y = legend_height + 32;
        for (const scatter_point* one : beyond) {
            svg += format(
                "<text x=\"14\" y=\"%g\" font-family=\"ui-monospace, Menlo, 'DejaVu Sans Mono', Consolas, monospace\" "
                "font-size=\"%g\"%s>%s</text><text x=\"110\" y=\"%g\">%s</text>\n",
                y, label_size, one->on_front ? " font-weight=\"700\"" : "", escaped(one->name).c_str(), y,
                escaped(one->note).c_str());
            y += 16;
        }
    }
    svg += "</g>\n</svg>\n";
    return svg;
}

} // namespace bench
