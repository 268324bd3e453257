// minifloat.hpp: every floating-point format of up to 16 bits from one definition; e4m3, e2m1, f16, bf16 and yours.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Which codes are not finite numbers (the names are those of ml_dtypes).
enum class specials {
    none, // every code is a number
    ieee, // an exponent of all ones: mantissa 0 is infinity, anything else NaN
    fn,   // no infinity; only the codes with every exponent and mantissa bit set are NaN
    fnuz, // no infinity and no negative zero; the code of negative zero is NaN; the default bias is one larger
};

// A format: code = [sign][exponent bits][mantissa bits]. With the fields e and m as stored,
//   e = 0: m x 2^(1 - bias - mantissa)          (subnormal, always on)
//   e > 0: (1 + m / 2^mantissa) x 2^(e - bias)
struct float_format {
    static constexpr int default_bias = -__INT_MAX__ - 1;
    int exponent = 4;
    int mantissa = 3;
    nibble::specials specials = nibble::specials::none;
    int bias = default_bias; // default: 2^(exponent - 1) - 1, one more for fnuz; 0 if exponent is below 2
    bool has_sign = true;
};

// Scalar codec of a float_format with 2 to 16 bits; conversions round once, straight from fp32, on the target's grid,
// subnormals included; then overflow is tested. NaN becomes the format's NaN, or 0 in a format that has none.
// Where the format has a negative zero, a zero keeps the sign of x (not under half_toward_zero, see rounding). Unsigned
// formats take negative values to 0.
template <float_format Format> struct minifloat {
private:
    static constexpr int e_bits = Format.exponent;
    static constexpr int m_bits = Format.mantissa;
    static constexpr bool ieee = Format.specials == specials::ieee;
    static constexpr bool fn = Format.specials == specials::fn;
    static constexpr bool fnuz = Format.specials == specials::fnuz;
    static_assert(e_bits >= 0 && e_bits <= 8, "minifloat: exponent must have 0 to 8 bits");
    static_assert(m_bits >= 0 && m_bits <= 15, "minifloat: mantissa must have 0 to 15 bits");
    static_assert(!fnuz || Format.has_sign, "minifloat: fnuz needs a sign bit, its NaN is the code of negative zero");
    static_assert(Format.specials == specials::none || e_bits >= 1,
                  "minifloat: without an exponent use specials::none");

public:
    static constexpr float_format format = Format;
    static constexpr int bits = (Format.has_sign ? 1 : 0) + e_bits + m_bits;
    static_assert(bits >= 2 && bits <= 16, "minifloat: 2 to 16 bits in all");
    using code = std::conditional_t<(bits <= 8), std::uint8_t, std::uint16_t>;
    static constexpr int bias = Format.bias != float_format::default_bias
                                    ? Format.bias
                                    : (e_bits < 2 ? 0 : (1 << (e_bits - 1)) - 1) + (fnuz ? 1 : 0);
    // The highest exponent may be 2^128 only where it holds no number.
    static_assert(1 - bias - m_bits >= -149 && (1 << e_bits) - bias <= (ieee || (fn && m_bits == 0) ? 129 : 128),
                  "minifloat: the bias takes values out of fp32's range; fold it into the scale instead");
    static constexpr bool has_infinity = ieee;
    static constexpr bool has_nan = fn || fnuz || (ieee && m_bits > 0);

private:
    static constexpr std::uint32_t sign_code = Format.has_sign ? 1u << (e_bits + m_bits) : 0u;
    static constexpr std::uint32_t all_ones = (1u << (e_bits + m_bits)) - 1u;
    static constexpr std::uint32_t infinity_code = ((1u << e_bits) - 1u) << m_bits;
    static constexpr std::uint32_t max_code = ieee ? infinity_code - 1u : fn ? all_ones - 1u : all_ones;
    static constexpr std::uint32_t nan_code = fnuz      ? sign_code
                                              : fn      ? all_ones
                                              : has_nan ? infinity_code | (1u << (m_bits > 0 ? m_bits - 1 : 0))
                                                        : 0u;

public:
    // The value of a code, exactly. Bits above `bits` are ignored. Branch-free like encode.
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        const std::uint32_t magnitude = c & all_ones;
        const std::uint32_t negative = (c & sign_code) != 0 ? 1u : 0u;
        const std::uint32_t e = magnitude >> m_bits;
        const std::uint32_t m = magnitude & ((1u << m_bits) - 1u);
        std::uint32_t word = magnitude << (23 - m_bits);
        if constexpr (e_bits == 8 && bias == 127) {
            // fp32's own exponent: subnormals are its subnormals.
        } else if constexpr (1 - bias >= -126) {
            const float subnormal = static_cast<float>(static_cast<std::int32_t>(m)) * detail::exp2i(1 - bias - m_bits);
            const std::uint32_t normal = word + (static_cast<std::uint32_t>(127 - bias) << 23);
            word = e == 0 ? detail::bit_cast<std::uint32_t>(subnormal) : normal;
        } else {
            // Small enough to be among fp32's subnormals: the same as a product, which is exact.
            const int exponent = (e == 0 ? 1 : static_cast<int>(e)) - bias;
            const float significand = static_cast<float>(m + (e == 0 ? 0u : 1u << m_bits));
            word = detail::bit_cast<std::uint32_t>(significand * detail::exp2i(exponent - m_bits));
        }
        if constexpr (ieee) word = magnitude >= infinity_code ? detail::f32_infinity : word;
        word |= negative << 31;
        constexpr std::uint32_t nan = detail::bit_cast<std::uint32_t>(detail::quiet_nan);
        if constexpr (fnuz) word = negative != 0 && magnitude == 0 ? nan : word;
        if constexpr (fn) word = magnitude == all_ones ? nan : word;
        if constexpr (ieee) word = magnitude > infinity_code ? nan : word;
        return detail::bit_cast<float>(word);
    }

    // The code of x. Branch-free on purpose: a loop over it vectorizes, so this one definition is also the fast one.
    template <rounding Rounding = rounding::nearest_even, overflow Overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
        const std::uint32_t a = word & detail::f32_magnitude;
        constexpr int smallest = 128 - bias; // fp32's exponent field of the smallest normal value
        std::uint32_t magnitude = 0;
        const std::uint32_t negative = word >> 31;
        if constexpr (Rounding == rounding::nearest_even && rounds_by_addition) {
            // a + 2^(e + 23 - m) has its last place at 2^(e - m): the addition rounds, and the sum's mantissa counts
            // steps. The bits of `a` come from integer arithmetic, so that no multiplication fuses with the addition.
            constexpr std::uint32_t low = static_cast<std::uint32_t>(smallest) << 23;
            constexpr std::uint32_t above = static_cast<std::uint32_t>(smallest + (1 << e_bits) - 1)
                                            << 23; // 2^(emax + 1)
            const std::uint32_t limited = a < above ? a : above;
            const std::uint32_t own = limited & 0x7f800000u;
            const std::uint32_t e = own > low ? own : low;
            const std::uint32_t magic = e + (static_cast<std::uint32_t>(23 - m_bits) << 23);
            const float sum = detail::bit_cast<float>(limited) + detail::bit_cast<float>(magic);
            magnitude = ((e - low) >> (23 - m_bits)) + (detail::bit_cast<std::uint32_t>(sum) - magic);
        } else {
            magnitude = rounded_magnitude<Rounding>(a, negative, random);
        }
        const bool over = magnitude > max_code;
        constexpr std::uint32_t beyond = Overflow == overflow::saturate ? max_code
                                         : has_infinity                 ? infinity_code
                                         : has_nan                      ? nan_code
                                                                        : max_code;
        magnitude = over ? beyond : magnitude;
        if constexpr (!Format.has_sign) {
            magnitude = negative != 0 ? 0u : magnitude;
        } else if constexpr (fnuz || Rounding == rounding::half_toward_zero) {
            magnitude |= (magnitude != 0 ? negative : 0u) << (bits - 1);
        } else {
            magnitude |= negative << (bits - 1);
        }
        magnitude = a > detail::f32_infinity ? nan_code : magnitude;
        return static_cast<code>(magnitude);
    }

private:
    // Does the sum of a magnitude and a power of two, both in fp32's range, round as nearest_even does? With no
    // mantissa bit the binade decides which code is even, and the sum does not know it.
    static constexpr bool rounds_by_addition = m_bits >= 1 && bias <= 127 && (1 << e_bits) - bias + 23 - m_bits <= 127;

    // The magnitude's code under any rounding, beyond the largest too; `a` is the fp32 pattern of the magnitude.
    template <rounding Rounding>
    [[nodiscard]] NIBBLE_INLINE static constexpr std::uint32_t
    rounded_magnitude(std::uint32_t a, std::uint32_t negative, std::uint32_t random) noexcept {
        constexpr int smallest = 128 - bias;
        const int field = static_cast<int>(a >> 23);
        int own = field > 0 ? field : 1; // fp32 subnormals have the exponent of field 1 and no hidden bit
        std::uint32_t significand = (a & 0x007fffffu) | (field > 0 ? 0x00800000u : 0u);
        if constexpr (smallest < 1) {
            // The format has normal values among fp32's subnormals: those get their leading bit to where a hidden one
            // is.
            const int lead = detail::countl_zero(significand) - 8;
            own = significand == 0 ? smallest : own - lead;
            significand <<= significand == 0 ? 0 : lead;
        }
        const int e = own > smallest ? own : smallest;
        const int wanted = 23 - m_bits + (e - own);
        const std::uint32_t shift = static_cast<std::uint32_t>(wanted < 30 ? wanted : 30);
        const std::uint32_t binade = static_cast<std::uint32_t>(e - smallest) << m_bits;
        const std::uint32_t half = (1u << shift) >> 1;
        const std::uint32_t mask = (1u << shift) - 1u;
        // Magnitudes are rounded: for negative values the directions are turned round.
        // The code below is even or odd as a whole: without mantissa bits the binade decides.
        std::uint32_t addend = 0;
        if constexpr (Rounding == rounding::nearest_even) addend = half - 1u + ((binade + (significand >> shift)) & 1u);
        if constexpr (Rounding == rounding::half_away) addend = half;
        if constexpr (Rounding == rounding::half_toward_zero) addend = half - 1u;
        if constexpr (Rounding == rounding::half_up) addend = half - negative;
        if constexpr (Rounding == rounding::floor) addend = mask & (0u - negative);
        if constexpr (Rounding == rounding::ceiling) addend = mask & (negative - 1u);
        if constexpr (Rounding == rounding::learned) addend = mask & (0u - ((random ^ negative) & 1u));
        if constexpr (Rounding == rounding::stochastic) {
            // Of a value far below the smallest one, only what 2^-30 of it weighs can round up.
            const int lost = wanted - 30;
            significand >>= static_cast<std::uint32_t>(lost > 0 ? (lost < 31 ? lost : 31) : 0);
            addend = random & mask;
        }
        return binade + ((significand + addend) >> shift);
    }
};

// Formats in which every code is a number. 4 and 6 bits of OCP MX v1.0:
using e2m1 = minifloat<float_format{.exponent = 2, .mantissa = 1}>;
using e2m3 = minifloat<float_format{.exponent = 2, .mantissa = 3}>;
using e3m2 = minifloat<float_format{.exponent = 3, .mantissa = 2}>;
// and of research, 3 to 8 bits; those without a second exponent bit are integers in disguise, those without a mantissa
// powers of two with a zero.
using e1m1 = minifloat<float_format{.exponent = 1, .mantissa = 1}>;
using e2m0 = minifloat<float_format{.exponent = 2, .mantissa = 0}>;
using e1m2 = minifloat<float_format{.exponent = 1, .mantissa = 2}>;
using e3m0 = minifloat<float_format{.exponent = 3, .mantissa = 0}>;
using e2m2 = minifloat<float_format{.exponent = 2, .mantissa = 2}>;
using e3m1 = minifloat<float_format{.exponent = 3, .mantissa = 1}>;
using e4m1 = minifloat<float_format{.exponent = 4, .mantissa = 1}>;
using e3m3 = minifloat<float_format{.exponent = 3, .mantissa = 3}>;
using e3m4_all_finite = minifloat<float_format{.exponent = 3, .mantissa = 4}>;
using e4m3_all_finite = minifloat<float_format{.exponent = 4, .mantissa = 3}>; // LLM-FP4: up to 480
// 8 bits: OCP OFP8 (e4m3 is its E4M3, in other libraries "E4M3FN") and the variants of ml_dtypes.
using e4m3 = minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fn}>;
using e5m2 = minifloat<float_format{.exponent = 5, .mantissa = 2, .specials = specials::ieee}>;
using e4m3_fnuz = minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fnuz}>;
using e5m2_fnuz = minifloat<float_format{.exponent = 5, .mantissa = 2, .specials = specials::fnuz}>;
using e4m3_ieee = minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::ieee}>;
using e4m3_b11_fnuz = minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fnuz, .bias = 11}>;
using e3m4 = minifloat<float_format{.exponent = 3, .mantissa = 4, .specials = specials::ieee}>;
// Without a sign, for scales: ue4m3 has 7 bits and is stored in a byte whose highest bit is ignored.
using ue4m3 = minifloat<float_format{.exponent = 4, .mantissa = 3, .specials = specials::fn, .has_sign = false}>;
using ue5m3 = minifloat<float_format{.exponent = 5, .mantissa = 3, .specials = specials::fn, .has_sign = false}>;
// 16 bits.
using f16 = minifloat<float_format{.exponent = 5, .mantissa = 10, .specials = specials::ieee}>;
using bf16 = minifloat<float_format{.exponent = 8, .mantissa = 7, .specials = specials::ieee}>;

static_assert(e2m1::decode(7) == 6.0f && e2m1::encode(2.5f) == 4 && e2m1::encode(-0.0f) == 8 &&
              e2m1::encode(1e9f) == 7);
static_assert(e4m3::decode(0x7e) == 448.0f && e4m3::encode(464.0f) == 0x7e && e4m3::encode(0.1f) == 0x1d);
static_assert(e4m3::encode<rounding::nearest_even, overflow::special>(465.0f) == 0x7f);
static_assert(e5m2::encode<rounding::nearest_even, overflow::special>(61440.0f) == 0x7c &&
              e5m2::encode(61440.0f) == 0x7b);
static_assert(ue4m3::bits == 7 && ue4m3::decode(0xb8) == 1.0f && ue5m3::decode(0xfe) == 114688.0f);
static_assert(e2m1::encode<rounding::half_toward_zero>(-0.25f) == 0 && e2m1::encode<rounding::half_up>(-0.25f) == 8);
static_assert(e4m3_fnuz::encode(-0.0f) == 0 && e4m3_fnuz::decode(0x7f) == 240.0f && e4m3_fnuz::encode(1.0f) == 0x40);
static_assert(f16::encode(65519.0f) == 0x7bff &&
              f16::encode<rounding::nearest_even, overflow::special>(65520.0f) == 0x7c00);
static_assert(bf16::encode(3.14159274f) == 0x4049 && bf16::encode(1e-40f) == 0x0001 &&
              bf16::encode(1.00390625f) == 0x3f80);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
