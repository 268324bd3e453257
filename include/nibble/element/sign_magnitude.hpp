// sign_magnitude.hpp: integers as a sign and a magnitude, the form in which MSFP stores its mantissas.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/minifloat.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Code = [sign][magnitude of Bits - 1 bits]; values are the integers from -(2^(Bits-1) - 1) to 2^(Bits-1) - 1. A
// minifloat without an exponent, whose unit the bias makes 1; so there are two zeros, and the rule of minifloats holds
// for them: the code of -0 (the sign alone) decodes to -0.0 and is what negative values that round to zero encode to,
// -0.0 among them, but not under half_toward_zero. NaN gives +0. Ties of nearest_even go to the even magnitude.
template <int Bits>
using sign_magnitude = minifloat<float_format{.exponent = 0, .mantissa = Bits - 1, .bias = 2 - Bits}>;

static_assert(sign_magnitude<4>::decode(7) == 7.0f && sign_magnitude<4>::decode(15) == -7.0f);
static_assert(sign_magnitude<4>::encode(-2.5f) == 10 && sign_magnitude<4>::encode(3.5f) == 4);
static_assert(sign_magnitude<8>::encode(-1e9f) == 255 && sign_magnitude<8>::encode(-0.2f) == 128);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
