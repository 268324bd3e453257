// power_of_two.hpp: e8m0, the shared exponent of OCP MX blocks; codes that serve as scales.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <bit>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI {

// Code c means 2^(c - 127); 0xff is NaN. There is no zero and no sign (OCP MX v1.0, section 5.4.1).
struct e8m0 {
    static constexpr int bits = 8;
    using code = std::uint8_t;
    static constexpr bool has_nan = true;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return c == 0xff ? detail::quiet_nan : detail::exp2i(static_cast<int>(c) - 127);
    }
    // The nearest power of two; a tie (1.5 x 2^n) goes to the even code; zero, negative values and anything below
    // 2^-127 give code 0, anything above 2^127 code 0xfe, NaN 0xff. toward_zero is the floor.
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        if (detail::is_nan(x)) return 0xff;
        if (!(x > 0.0f)) return 0;
        if (x > 0x1p127f) return 0xfe;
        const int below = detail::floor_log2(x);
        if (below < -127) return 0;
        bool up = false;
        const float fraction = x / detail::exp2i(below); // in [1, 2), exact
        if constexpr (Rounding == rounding::nearest_even) up = fraction > 1.5f || (fraction == 1.5f && (below & 1) == 0);
        if constexpr (Rounding == rounding::half_away) up = fraction >= 1.5f;
        if constexpr (Rounding == rounding::stochastic) up = static_cast<float>(random >> 8) * 0x1p-24f < fraction - 1.0f;
        return static_cast<code>(below + 127 + (up ? 1 : 0));
    }
};

static_assert(e8m0::decode(0) == 0x1p-127f && e8m0::decode(127) == 1.0f && e8m0::encode(3.0f) == 128);
static_assert(e8m0::encode<rounding::toward_zero>(3.99f) == 128 && e8m0::encode(detail::quiet_nan) == 0xff);

} // namespace nibble::inline NIBBLE_ABI
