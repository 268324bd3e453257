// own_formats.hpp: what a user of the benchmarks writes to see own formats in them: one alias each, and the list.
#pragma once

#include <nibble/scheme/formats.hpp>

using e2m4 = nibble::minifloat<nibble::float_format{.exponent = 2, .mantissa = 4}>;

struct fibonacci_levels {
    static constexpr float levels[] = {-8, -5, -3, -2, -1, 0, 1, 2, 3, 5, 8};
};
using fibonacci = nibble::codebook<fibonacci_levels>;

using own_formats = nibble::format_list<nibble::named_format<"fp7_e2m4_g32", nibble::group_scheme<e2m4, 32>>,
                                        nibble::named_format<"fibonacci_g64", nibble::group_scheme<fibonacci, 64>>>;
