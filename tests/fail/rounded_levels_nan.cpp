// rounded_levels_nan.cpp: NaN has no integer.
// expect: rounded_levels: the values must be finite
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr float use = rounded_levels<e4m3>::decode(0);
