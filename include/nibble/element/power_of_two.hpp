// power_of_two.hpp: e8m0, the shared exponent of OCP MX blocks; codes that serve as scales.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Code c means 2^(c - 127); 0xff is NaN. There is no zero and no sign (OCP MX v1.0, section 5.4.1).
struct e8m0 {
    static constexpr int bits = 8;
    using code = std::uint8_t;
    static constexpr bool has_nan = true;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return c == 0xff ? detail::quiet_nan : detail::exp2i(static_cast<int>(c) - 127);
    }
    // A tie between 2^n and 2^(n+1) lies at 1.5 x 2^n. Zero, negative values and anything below 2^-127 give code 0,
    // anything above 2^127 code 0xfe, NaN 0xff. Branch-free, so that a loop over it vectorizes.
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
        // Between 2^-127 and 2^-126 lie fp32 subnormals in steps twice as wide: stretched, they continue the pattern in
        // which the upper 9 bits are the code and the lower 23 the way to the next one.
        const std::uint32_t stretched = word > 0x00400000u ? 2u * (word - 0x00400000u) : 0u;
        std::uint32_t a = word < 0x00800000u ? stretched : word;
        a = a < 0x7f000000u ? a : 0x7f000000u;
        a = word >> 31 != 0 ? 0u : a;
        constexpr std::uint32_t half = 0x00400000u;
        constexpr std::uint32_t mask = 0x007fffffu;
        std::uint32_t addend = 0;
        if constexpr (Rounding == rounding::nearest_even) addend = half - 1u + ((a >> 23) & 1u);
        if constexpr (Rounding == rounding::half_away || Rounding == rounding::half_up) addend = half;
        if constexpr (Rounding == rounding::half_toward_zero) addend = half - 1u;
        if constexpr (Rounding == rounding::ceiling) addend = mask;
        if constexpr (Rounding == rounding::learned) addend = mask & (0u - (random & 1u));
        if constexpr (Rounding == rounding::stochastic) addend = random >> 9;
        const std::uint32_t rounded = (a + addend) >> 23;
        return static_cast<code>((word & detail::f32_magnitude) > detail::f32_infinity ? 0xffu : rounded);
    }
};

static_assert(e8m0::decode(0) == 0x1p-127f && e8m0::decode(127) == 1.0f && e8m0::encode(3.0f) == 128);
static_assert(e8m0::encode<rounding::toward_zero>(3.99f) == 128 && e8m0::encode(detail::quiet_nan) == 0xff);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
