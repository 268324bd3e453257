// fnuz.hpp: from a format to another of the same fields whose bytes mean other values: FN (OCP's E4M3) and FNUZ.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/minifloat.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Two minifloats of 8 bits with the same exponent and mantissa bits.
template <class From, class To>
concept same_fields = small_element<From> && small_element<To> && From::bits == 8 && To::bits == 8 &&
                      From::format.exponent == To::format.exponent && From::format.mantissa == To::format.mantissa &&
                      From::format.has_sign == To::format.has_sign;

// What the scale of codes converted by keep_bytes is multiplied with: 2 from FN to FNUZ, 1/2 back.
template <class From, class To>
    requires same_fields<From, To>
inline constexpr float kept_bytes_scale = detail::exp2i(To::bias - From::bias);

namespace detail {
// Products of NaN are not constant expressions.
[[nodiscard]] constexpr float times_if_finite(float x, float factor) noexcept {
    return is_finite(x) ? x * factor : x;
}
} // namespace detail

// The byte c of From as a byte of To, under a scale multiplied with kept_bytes_scale: the same byte, wherever its value
// is then the same. Otherwise NaN becomes To's NaN and -0 becomes 0 if To has no -0; infinity becomes To's infinity or
// NaN; and a value whose byte is special in To becomes the largest of its sign (from FNUZ to FN: 0x7f, 240, which would
// be NaN, becomes 0x7e, 224 in the same unit).
template <class From, class To>
    requires same_fields<From, To>
[[nodiscard]] constexpr std::uint8_t keep_bytes(std::uint8_t c) noexcept {
    const float value = From::decode(c);
    const float same_byte = detail::times_if_finite(To::decode(c), kept_bytes_scale<From, To>);
    if (value == same_byte && detail::is_finite(value)) return c;
    if (!detail::is_finite(value)) return encode<To, rounding::nearest_even, overflow::special>(value);
    if (value == 0.0f) return 0;
    return encode<To>(value < 0.0f ? -detail::infinity : detail::infinity);
}

// The byte c of From as the byte of To that is nearest in value (ties to even), the scale left alone; saturates: from
// FN to FNUZ values beyond 240 become 240. NaN becomes NaN; infinity, too, saturates.
template <class From, class To>
    requires same_fields<From, To>
[[nodiscard]] constexpr std::uint8_t keep_values(std::uint8_t c) noexcept {
    return encode<To>(From::decode(c));
}

namespace detail {

struct byte_map {
    table<std::uint8_t, 256> to{};
    table<std::uint8_t, 256> changes{}; // 1 where the value is another; NaN is NaN, and -0 is 0
};

template <class From, class To, bool KeepBytes>
inline constexpr byte_map byte_map_of = [] {
    byte_map m{};
    for (unsigned c = 0; c < 256; ++c) {
        const std::uint8_t byte = static_cast<std::uint8_t>(c);
        m.to.at[c] = KeepBytes ? keep_bytes<From, To>(byte) : keep_values<From, To>(byte);
        const float before = From::decode(byte);
        const float after = times_if_finite(To::decode(m.to.at[c]), KeepBytes ? kept_bytes_scale<From, To> : 1.0f);
        m.changes.at[c] = before == after || (is_nan(before) && is_nan(after)) ? 0 : 1;
    }
    return m;
}();

template <class From, class To, bool KeepBytes>
inline std::size_t map_bytes(const std::uint8_t* from, std::size_t count, std::uint8_t* to) noexcept {
    constexpr const byte_map& m = byte_map_of<From, To, KeepBytes>;
    std::size_t changed = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t c = from[i];
        changed += m.changes.at[c];
        to[i] = m.to.at[c];
    }
    return changed;
}

} // namespace detail

// The same over `count` bytes, which may be converted in place. Returns how many of them now mean another value
// (saturated or rounded; a NaN that is still NaN and a zero that lost its sign are not counted): 0 says that nothing
// was lost.
template <class From, class To>
    requires same_fields<From, To>
inline std::size_t keep_bytes(const std::uint8_t* from, std::size_t count, std::uint8_t* to) noexcept {
    return detail::map_bytes<From, To, true>(from, count, to);
}
template <class From, class To>
    requires same_fields<From, To>
inline std::size_t keep_values(const std::uint8_t* from, std::size_t count, std::uint8_t* to) noexcept {
    return detail::map_bytes<From, To, false>(from, count, to);
}

static_assert(kept_bytes_scale<e4m3, e4m3_fnuz> == 2.0f && kept_bytes_scale<e4m3_fnuz, e4m3> == 0.5f);
static_assert(keep_bytes<e4m3, e4m3_fnuz>(0x38) == 0x38 && keep_bytes<e4m3, e4m3_fnuz>(0x80) == 0x00);
static_assert(keep_bytes<e4m3, e4m3_fnuz>(0x7f) == 0x80 && keep_bytes<e4m3, e4m3_fnuz>(0xff) == 0x80);
static_assert(keep_values<e4m3, e4m3_fnuz>(0x38) == 0x40 && keep_values<e4m3, e4m3_fnuz>(0x7e) == 0x7f);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
