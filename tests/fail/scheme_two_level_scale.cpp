// scheme_two_level_scale.cpp: a scale of two levels needs a granularity of two.
// expect: scheme: two_level_scale and a two_level granularity belong together
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<int4, per_channel, two_level_scale<e4m3>>::scaled;
