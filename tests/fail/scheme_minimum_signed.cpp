// scheme_minimum_signed.cpp: a minimum needs unsigned codes.
// expect: scheme: minimum needs an unsigned element such as uint4
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<int4, per_channel, scale<f32>, minimum<f16>>::scaled;
