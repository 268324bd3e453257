// scheme_zero_signed.cpp: an integer zero point needs unsigned codes.
// expect: scheme: integer_zero needs an unsigned integer element such as uint4
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr bool use = scheme<int4, per_channel, scale<f32>, integer_zero>::scaled;
