// scheme_two_level_granularity.cpp: a granularity of two levels needs a scale of two.
// expect: scheme: two_level_scale and a two_level granularity belong together
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<int4, two_level<per_group<16>, per_tensor>, scale<f16>>::scaled;
