// integer_bits.cpp: an integer of one bit is refused, with what to use instead.
// expect: integer: 2 to 8 bits; for one bit use binary
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr int use = integer<1>::bits;
