// minifloats_biased.cpp: minifloats of any bias, up to both ends of fp32, and of 16 bits, against the definition.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

namespace {

using nibble::float_format;
using nibble::minifloat;
using nibble::specials;

using biased = nibble_test::type_list<
    // A real bias is folded into the scale; these are integers.
    minifloat<float_format{.exponent = 2, .mantissa = 1, .bias = 0}>,
    minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fn, .bias = 20}>,
    minifloat<float_format{.exponent = 3, .mantissa = 2, .bias = -100}>,
    // The largest value just under 2^128.
    minifloat<float_format{.exponent = 4, .mantissa = 3, .bias = -112}>,
    // All values, or the smallest ones, among fp32's subnormals.
    minifloat<float_format{.exponent = 2, .mantissa = 3, .bias = 140}>,
    minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fnuz, .bias = 135}>,
    minifloat<float_format{.exponent = 5, .mantissa = 2, .specials = specials::ieee, .bias = 147}>,
    minifloat<float_format{.exponent = 0, .mantissa = 5, .bias = 145}>,
    // fp32's own exponent.
    minifloat<float_format{.exponent = 8, .mantissa = 0, .specials = specials::fn, .has_sign = false}>,
    minifloat<float_format{.exponent = 8, .mantissa = 7, .specials = specials::fnuz, .bias = 128}>,
    // 16 bits; the named formats have the usual ones.
    minifloat<float_format{.exponent = 6, .mantissa = 9, .specials = specials::fn}>>;

} // namespace

TEST_CASE("minifloats of any bias keep to their definition", "[element][minifloat]") {
    nibble_test::for_each_type(biased{}, []<class Element>() { nibble_test::check_element<Element>(10000); });
}
