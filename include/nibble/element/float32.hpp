// float32.hpp: fp32 as an element, so that unquantized weights and scales go through the same verbs.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Every value is its own code: conversions never round.
struct f32 {
    static constexpr int bits = 32;
    using code = std::uint32_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return detail::bit_cast<float>(c); }
    template <rounding = rounding::nearest_even, overflow = overflow::special>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t = 0) noexcept {
        return detail::bit_cast<std::uint32_t>(x);
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
