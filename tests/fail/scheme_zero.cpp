// scheme_zero.cpp: a zero point that is none is named.
// expect: scheme: Zero must be no_zero, integer_zero, minimum<Format> or two_level_minimum<Inner, Outer>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<uint4, per_channel, scale<f32>, int>::scaled;
