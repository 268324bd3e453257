// scheme_zero_without_scale.cpp: a zero point needs a scale.
// expect: scheme: a zero point needs a scale
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<uint4, per_tensor, no_scale, integer_zero>::scaled;
