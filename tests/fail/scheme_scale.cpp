// scheme_scale.cpp: a scale that is none is named.
// expect: scheme: Scale must be scale<Format>, two_level_scale<Inner, Outer> or no_scale
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<int4, per_channel, int>::scaled;
