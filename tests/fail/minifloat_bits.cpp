// minifloat_bits.cpp: a minifloat of one bit is refused.
// expect: minifloat: 2 to 16 bits in all
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr int use = minifloat<float_format{.exponent = 0, .mantissa = 0}>::bits;
