// minifloat_range.cpp: a minifloat that fp32 cannot hold is refused.
// expect: minifloat: the bias takes values out of fp32's range
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr int use = minifloat<float_format{.exponent = 8, .mantissa = 0, .has_sign = false}>::bits;
