// minifloat_fnuz.cpp: fnuz without a sign is refused.
// expect: minifloat: fnuz needs a sign bit
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr int use = minifloat<float_format{.specials = specials::fnuz, .has_sign = false}>::bits;
