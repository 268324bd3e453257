// scatter.hpp: formats as circles over two axes, in SVG: which are on the Pareto front, and each one's name, so that no
// two texts overlap.
#pragma once

#include <string>
#include <vector>

namespace bench {

struct scatter_point {
    std::string name;
    std::string note; // what a browser shows over the circle, and the legend beside what is beyond the axes
    double x = 0;
    double y = 0;
    double radius = 5;     // px
    bool on_front = false; // drawn in colour, on the line
};

struct scatter {
    std::string title;
    std::vector<std::string> lines; // two at most, under the title
    std::string x_title;
    std::string y_title;
    // y is a logarithm to base 10; ticks show the number itself.
    bool logarithmic_y = false;
    // Points further right would squeeze all others: the legend lists them instead.
    double widest_drawn = 1e300;
    std::string other_caption = "larger or less exact"; // of what is not on the front
    std::string size_caption;                           // what the area of a circle says; none: nothing
    struct sample {
        double radius = 0;
        std::string text;
    };
    std::vector<sample> sizes; // three at most
    std::vector<scatter_point> points;
};

// 1200 x 800. Points that are not finite are left out.
[[nodiscard]] std::string to_svg(const scatter& plot);

} // namespace bench
