// complex_roots.hpp: iFairy's complex weights: the fourth roots of unity in two bits.
#pragma once

#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct complex_value {
    float re = 0.0f;
    float im = 0.0f;
};

// Code k means i^k: 1, i, -1, -i for 0, 1, 2, 3; even codes are scaled by one number, odd codes by another.
// Encoding takes the root next in angle, k = floor(2 angle / pi + 1/2) mod 4: sectors are half-open, [-pi/4, pi/4) and
// so on, and are told apart by exact comparisons of re, im and their negatives. 0 (whatever the signs of its parts) is
// code 0, and so is a value with a NaN in it; infinities have the angle that they have by comparison ((inf, inf):
// pi/4).
struct complex_roots {
    static constexpr int bits = 2;
    using code = std::uint8_t;

    [[nodiscard]] static constexpr complex_value decode(code c, float scale_re = 1.0f, float scale_im = 1.0f) noexcept {
        switch (c & 3) {
        case 0:
            return {scale_re, 0.0f};
        case 1:
            return {0.0f, scale_im};
        case 2:
            return {-scale_re, 0.0f};
        default:
            return {0.0f, -scale_im};
        }
    }
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float re, float im) noexcept {
        // Each diagonal belongs to the sector that it opens: pi/4 to i, 3 pi/4 to -1, 5 pi/4 to -i, -pi/4 to 1.
        if (re <= im && re > -im) return 1;
        if (im > re && im <= -re) return 2;
        if (re >= im && re < -im) return 3;
        return 0;
    }
};

static_assert(complex_roots::encode(1.0f, -1.0f) == 0 && complex_roots::encode(1.0f, 1.0f) == 1);
static_assert(complex_roots::encode(-1.0f, 1.0f) == 2 && complex_roots::encode(-1.0f, -1.0f) == 3);
static_assert(complex_roots::encode(0.0f, 0.0f) == 0 && complex_roots::encode(-0.0f, -0.0f) == 0);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
