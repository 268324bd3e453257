// integer.hpp: signed and unsigned integers of 2 to 8 bits, balanced ones, ternary and binary.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

enum class integer_range {
    symmetric, // an encoder produces -(2^(bits-1) - 1) ... 2^(bits-1) - 1: the default, no value without its negative
    full,      // ... and -2^(bits-1) too: what foreign data may hold
    unsigned_, // 0 ... 2^bits - 1
};

namespace detail {

// x rounded to an integer in [low, high], which holds 0; NaN gives 0.
template <rounding Rounding>
[[nodiscard]] NIBBLE_INLINE constexpr std::int32_t round_to_integer(float x, std::int32_t low, std::int32_t high,
                                                                    std::uint32_t random) noexcept {
    x = clamp_to(x, static_cast<float>(low), static_cast<float>(high));
    if constexpr (Rounding == rounding::nearest_even) return static_cast<std::int32_t>(round_even(x));
    const std::int32_t truncated = static_cast<std::int32_t>(x);
    if constexpr (Rounding == rounding::toward_zero) return truncated;
    const float rest = x - static_cast<float>(truncated); // exact, with the sign of x
    if constexpr (Rounding == rounding::half_away) return truncated + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
    if constexpr (Rounding == rounding::half_up) return truncated + (rest >= 0.5f ? 1 : 0) - (rest < -0.5f ? 1 : 0);
    if constexpr (Rounding == rounding::half_toward_zero)
        return truncated + (rest > 0.5f ? 1 : 0) - (rest < -0.5f ? 1 : 0);
    if constexpr (Rounding == rounding::ceiling) return truncated + (rest > 0.0f ? 1 : 0);
    const std::int32_t below = rest < 0.0f ? truncated - 1 : truncated;
    if constexpr (Rounding == rounding::floor) return below;
    if constexpr (Rounding == rounding::learned)
        return below + static_cast<std::int32_t>(random & (rest != 0.0f ? 1u : 0u));
    const float fraction = rest < 0.0f ? rest + 1.0f : rest;
    const float chance = static_cast<float>(random >> 8) * 0x1p-24f;
    return below + (chance < fraction ? 1 : 0);
}

} // namespace detail

// NaN gives 0 in every element of this header, infinities the ends of the range; zero has no sign.
// Codes are two's complement in `Bits` bits (unsigned_: plain binary); a code's value is the integer itself.
template <int Bits, integer_range Range = integer_range::symmetric> struct integer {
    static_assert(Bits >= 2 && Bits <= 8, "integer: 2 to 8 bits; for one bit use binary");
    static constexpr int bits = Bits;
    using code = std::uint8_t;

private:
    static constexpr bool is_signed = Range != integer_range::unsigned_;
    static constexpr std::int32_t high = is_signed ? (1 << (Bits - 1)) - 1 : (1 << Bits) - 1;
    static constexpr std::int32_t low = !is_signed ? 0 : Range == integer_range::full ? -high - 1 : -high;

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        constexpr std::int32_t sign = is_signed ? 1 << (Bits - 1) : 0;
        return static_cast<float>(((c & ((1 << Bits) - 1)) ^ sign) - sign);
    }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        return static_cast<code>(detail::round_to_integer<Rounding>(x, low, high, random) & ((1 << Bits) - 1));
    }
};

template <int Bits> using unsigned_integer = integer<Bits, integer_range::unsigned_>;

using int2 = integer<2>;
using int3 = integer<3>;
using int4 = integer<4>;
using int5 = integer<5>;
using int6 = integer<6>;
using int7 = integer<7>;
using int8 = integer<8>;
using uint2 = unsigned_integer<2>;
using uint3 = unsigned_integer<3>;
using uint4 = unsigned_integer<4>;
using uint5 = unsigned_integer<5>;
using uint6 = unsigned_integer<6>;
using uint7 = unsigned_integer<7>;
using uint8 = unsigned_integer<8>;

// 0 ... 2^Bits in Bits + 1 bits: 2^Bits + 1 levels, an odd number, so that there is one in the middle ("B*", the bit
// balance of ABQ-LLM). A code's value is the code; those above 2^Bits are never produced. core/digits.hpp packs such
// codes densely.
template <int Bits> struct balanced {
    static_assert(Bits >= 1 && Bits <= 7, "balanced: 1 to 7 bits, and one more for the additional level");
    static constexpr int bits = Bits + 1;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return unsigned_integer<Bits + 1>::decode(c); }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        return static_cast<code>(detail::round_to_integer<Rounding>(x, 0, 1 << Bits, random));
    }
};

// OCP MX v1.0's INT8: an integer<8> with an implied factor of 2^-6, so that values reach +-127/64.
struct mx_int8 {
    static constexpr int bits = 8;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return int8::decode(c) * 0.015625f; }
    template <rounding Rounding = rounding::nearest_even, overflow Overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        x = detail::clamp_to(x, -2.0f, 2.0f); // so that the product cannot overflow
        return int8::encode<Rounding, Overflow>(x * 64.0f, random);
    }
};

// {-1, 0, 1} as codes 0, 1, 2 in 2 bits. Code 3 means 2, as in GGUF's TQ2_0; no encoder produces it. Ties of
// nearest_even go to the even integer, which is 0.
struct ternary {
    static constexpr int bits = 2;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return static_cast<float>(c & 3) - 1.0f; }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        return static_cast<code>(detail::round_to_integer<Rounding>(x, -1, 1, random) + 1);
    }
};

// {-1, +1} as codes 0 and 1: x >= 0 and both zeros give +1 under every rounding to the nearest (nearest_even too: the
// code of +1 is odd) and toward zero; NaN counts as 0. The others take values inside (-1, 1) where their name says.
struct binary {
    static constexpr int bits = 1;
    using code = std::uint8_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return (c & 1) != 0 ? 1.0f : -1.0f; }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        x = detail::nan_to_zero(x);
        if constexpr (Rounding == rounding::stochastic) {
            const float chance = static_cast<float>(random >> 8) * 0x1p-24f;
            return static_cast<code>(x <= 2.0f * chance - 1.0f ? 0 : 1); // -1 itself never goes up
        }
        if constexpr (Rounding == rounding::floor) return static_cast<code>(x < 1.0f ? 0 : 1);
        if constexpr (Rounding == rounding::ceiling) return static_cast<code>(x <= -1.0f ? 0 : 1);
        if constexpr (Rounding == rounding::learned)
            return static_cast<code>((x >= 1.0f ? 1u : 0u) | (random & (x > -1.0f ? 1u : 0u)));
        return static_cast<code>(x < 0.0f ? 0 : 1);
    }
};

static_assert(int4::encode(-100.0f) == 9 && int4::decode(9) == -7.0f && int4::decode(8) == -8.0f);
static_assert(int8::encode(2.5f) == 2 && int8::encode<rounding::half_away>(2.5f) == 3 && uint4::encode(99.0f) == 15);
static_assert(int8::encode<rounding::toward_zero>(-2.9f) == 0xfe && int8::encode(detail::quiet_nan) == 0);
static_assert(int4::encode<rounding::half_up>(-2.5f) == 14 && int4::encode<rounding::half_toward_zero>(2.5f) == 2);
static_assert(int4::encode<rounding::floor>(-0.1f) == 15 && int4::encode<rounding::learned>(2.1f, 1) == 3);
static_assert(mx_int8::decode(0x7f) == 1.984375f && mx_int8::encode(1.0f) == 0x40 && mx_int8::encode(-1.0f) == 0xc0);
static_assert(balanced<2>::bits == 3 && balanced<2>::encode(9.0f) == 4 && balanced<2>::decode(4) == 4.0f);
static_assert(ternary::encode(0.5f) == 1 && ternary::encode(0.6f) == 2 && binary::encode(-0.0f) == 1);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
