// plot.cpp: the comparison as one picture, in SVG.
#include "report.hpp"

#include "scatter.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace bench {
namespace {

constexpr double largest_radius = 14;
constexpr double smallest_radius = 3;

template <class... Arguments> std::string format(const char* pattern, Arguments... arguments) {
    char text[256];
    std::snprintf(text, sizeof text, pattern, arguments...);
    return text;
}

std::string two_digits(double value) {
    if (!(value > 0)) return "0";
    const double unit = std::pow(10, std::floor(std::log10(value)) - 1);
    return format("%.6g", std::round(value / unit) * unit);
}

} // namespace

std::string to_svg(const comparison& result) {
    scatter plot;
    plot.title = "Number formats: error against size";
    plot.lines = {result.workload, result.machine.machine + ", " + std::to_string(result.threads) +
                                       (result.threads == 1 ? " thread, " : " threads, ") +
                                       result.machine.date.substr(0, 10)};
    plot.x_title = "bits per weight, with scales and zero points";
    plot.y_title = "SQNR of the GEMM output against fp64, dB";
    plot.widest_drawn = 10;
    double us[2] = {1e300, 0};
    for (const row& one : result.rows) {
        if (!std::isfinite(one.gemm_sqnr_db)) continue;
        us[0] = std::min(us[0], one.gemv_us);
        us[1] = std::max(us[1], one.gemv_us);
    }
    if (us[1] < us[0]) us[0] = us[1] = 1;
    // Area by speed, and speed is one over time.
    const auto radius_of = [&](double time) {
        return time > 0 ? std::max(smallest_radius, largest_radius * std::sqrt(us[0] / time)) : smallest_radius;
    };
    for (const row& one : result.rows)
        plot.points.push_back({one.scheme,
                               format("%.4g bits, %.1f dB, GEMV %s us", one.bits_per_weight, one.gemm_sqnr_db,
                                      two_digits(one.gemv_us).c_str()),
                               one.bits_per_weight, one.gemm_sqnr_db, radius_of(one.gemv_us), one.pareto});
    plot.size_caption = "area: speed of GEMV, one token, cold weights";
    for (const double time : {us[0], std::sqrt(us[0] * us[1]), us[1]}) {
        plot.sizes.push_back({radius_of(time), two_digits(time) + " \xc2\xb5s"});
        if (us[1] <= us[0]) break;
    }
    return to_svg(plot);
}

} // namespace bench
