// outlier_victim.hpp: OliVe's pairs of 4-bit codes, in which an outlier takes the place of its neighbour.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/codebook.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {
// What one weight of a pair can become, in units of the scale: 15 normal values 4 q, |q| <= 7, and 14 outliers.
struct outlier_victim_levels {
    static constexpr float levels[29] = {-384, -256, -192, -128, -96, -64, -48, -28, -24, -20, -16, -12, -8,  -4, 0,
                                         4,    8,    12,   16,   20,  24,  28,  48,  64,  96,  128, 192, 256, 384};
};
} // namespace detail

struct outlier_victim_values {
    float even = 0.0f;
    float odd = 0.0f;
};

// OliVe (Guo et al., 2023): two weights in one byte, the even one in the lower four bits. Values are in units of the
// scale.
//   normal      q in two's complement, value 4 q, -7 <= q <= 7
//   identifier  1000b: this weight is the victim, value 0, and the other code of the pair is an outlier
//   outlier     sign in bit 3 and m in the lower three: +-2^(5 + m / 2) (1 + (m mod 2) / 2) for m = 1 ... 7, that is
//   48, 64,
//               96, 128, 192, 256, 384. The codes with m = 0 are never produced and decode to 0.
// All values are multiples of 4 and, divided by 4, integers of at most 96.
struct outlier_victim {
    static constexpr int bits = 4; // per weight
    static constexpr unsigned identifier = 8;
    static constexpr float unit = 4.0f; // what all values are multiples of

    [[nodiscard]] static constexpr outlier_victim_values decode_pair(std::uint8_t pair) noexcept {
        const unsigned even = pair & 15u;
        const unsigned odd = pair >> 4;
        if (even == identifier) return {0.0f, outlier(odd)};
        if (odd == identifier) return {outlier(even), 0.0f};
        return {normal(even), normal(odd)};
    }

    // The value that x would take by itself: the nearest of all, a tie to the lower one, NaN as 0. Sums of small
    // integers are exact in any order, and without branches a loop over this vectorizes.
    [[nodiscard]] NIBBLE_INLINE static constexpr float nearest(float x) noexcept {
        constexpr const auto& v = detail::outlier_victim_levels::levels;
        x = x == x ? x : 0.0f;
        return [&]<std::size_t... At>(std::index_sequence<At...>) {
            return (v[0] + ... + (x > (v[At] + v[At + 1]) * 0.5f ? v[At + 1] - v[At] : 0.0f));
        }(std::make_index_sequence<28>{});
    }

    // Each weight goes to the nearest of all values, a tie to the lower one. If the even one is then an outlier, the
    // odd one is its victim; else, if the odd one is, the even one. NaN is encoded as 0.
    template <rounding Rounding = rounding::nearest_even>
    [[nodiscard]] NIBBLE_INLINE static constexpr std::uint8_t encode_pair(float even, float odd) noexcept {
        static_assert(Rounding != rounding::stochastic, "outlier_victim: there is no stochastic rounding of pairs");
        using both = codebook<detail::outlier_victim_levels>;
        const int first = static_cast<int>(both::encode<Rounding>(even)) - 14;
        const int second = static_cast<int>(both::encode<Rounding>(odd)) - 14;
        const auto is_outlier = [](int rank) { return rank > 7 || rank < -7; };
        const auto normal_code = [](int rank) { return static_cast<unsigned>(rank) & 15u; };
        const auto outlier_code = [](int rank) {
            return rank > 0 ? static_cast<unsigned>(rank - 7) : static_cast<unsigned>(-rank - 7) | 8u;
        };
        unsigned low = normal_code(first);
        unsigned high = normal_code(second);
        if (is_outlier(first)) {
            low = outlier_code(first);
            high = identifier;
        } else if (is_outlier(second)) {
            low = identifier;
            high = outlier_code(second);
        }
        return static_cast<std::uint8_t>(low | (high << 4));
    }

private:
    [[nodiscard]] static constexpr float normal(unsigned c) noexcept {
        return 4.0f * static_cast<float>(c > 8 ? static_cast<int>(c) - 16 : static_cast<int>(c));
    }
    [[nodiscard]] static constexpr float outlier(unsigned c) noexcept {
        const unsigned m = c & 7u;
        if (m == 0) return 0.0f;
        const float magnitude = static_cast<float>((2u + (m & 1u)) << (4u + m / 2u));
        return (c & 8u) != 0 ? -magnitude : magnitude;
    }
};

static_assert(outlier_victim::encode_pair(-4.0f, 28.0f) == 0x7f && outlier_victim::decode_pair(0x7f).even == -4.0f);
static_assert(outlier_victim::encode_pair(400.0f, 1000.0f) == 0x87 && outlier_victim::decode_pair(0x87).even == 384.0f);
static_assert(outlier_victim::encode_pair(4.0f, -48.0f) == 0x98 && outlier_victim::decode_pair(0x98).odd == -48.0f);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
