// bipolar.hpp: odd integers, symmetric and without zero: what bits of -1 and +1 add up to.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Code u of `Bits` bits means 2u - (2^Bits - 1): each bit is -1 or +1 times its power of two (APT-LLM's bipolar
// integers; also called mid-rise). Values are the odd integers from -(2^Bits - 1) to 2^Bits - 1. A tie lies at every
// even integer; under nearest_even it goes to the even code. NaN counts as 0, which is a tie.
template <int Bits> struct bipolar {
    static_assert(Bits >= 1 && Bits <= 8, "bipolar: 1 to 8 bits");
    static constexpr int bits = Bits;
    using code = std::uint8_t;

private:
    static constexpr std::int32_t top = (1 << Bits) - 1;

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept { return static_cast<float>(2 * (c & top) - top); }
    // Branch-free, so that a loop over it vectorizes.
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        constexpr float end = static_cast<float>(top);
        x = detail::clamp_to(x, -end, end);
        const std::int32_t truncated = static_cast<std::int32_t>(x);
        const float rest = x - static_cast<float>(truncated); // exact, with the sign of x
        const std::int32_t floored = truncated - (rest < 0.0f ? 1 : 0);
        const std::int32_t even = (floored & 1) ^ 1;
        const std::int32_t inexact = rest != 0.0f ? 1 : 0;
        // below <= x < below + 2. If floored is even it is the middle of the two, else it is `below` itself.
        const std::int32_t below = floored - even;
        const std::int32_t lower = (below + top) >> 1; // the code of below
        const std::int32_t past = even & inexact;
        const std::int32_t tie = even & ~inexact;
        const std::int32_t between = even | inexact;
        std::int32_t up = 0;
        if constexpr (Rounding == rounding::nearest_even) up = past | (tie & lower);
        if constexpr (Rounding == rounding::half_up) up = even;
        if constexpr (Rounding == rounding::half_away) up = past | (tie & (x >= 0.0f ? 1 : 0));
        if constexpr (Rounding == rounding::half_toward_zero) up = past | (tie & (x <= 0.0f ? 1 : 0));
        if constexpr (Rounding == rounding::toward_zero) up = between & (below < (x < 0.0f ? -1 : 0) ? 1 : 0);
        if constexpr (Rounding == rounding::ceiling) up = between;
        if constexpr (Rounding == rounding::learned) up = between & static_cast<std::int32_t>(random & 1u);
        if constexpr (Rounding == rounding::stochastic) {
            const float chance = static_cast<float>(random >> 8) * 0x1p-23f; // in [0, 2)
            up = chance < x - static_cast<float>(below) ? 1 : 0;
        }
        return static_cast<code>(lower + up);
    }
};

static_assert(bipolar<3>::decode(0) == -7.0f && bipolar<3>::decode(7) == 7.0f && bipolar<1>::decode(0) == -1.0f);
static_assert(bipolar<3>::encode(0.0f) == 4 && bipolar<3>::encode(2.0f) == 4 && bipolar<3>::encode(-2.0f) == 2);
static_assert(bipolar<3>::encode(1e9f) == 7 && bipolar<2>::encode<rounding::toward_zero>(-0.5f) == 1);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
