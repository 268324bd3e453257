// element.hpp: what a stored code means, as a concept; and everything the library derives from a codec at compile time.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/levels.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// An element is a type with
//   static constexpr int bits;                          1 to 8, or 16 or 32
//   using code = std::uint8_t (16 bits: uint16_t, 32 bits: uint32_t);
//   static constexpr float decode(code) noexcept;       the exact value of a code
// and, if nearest-with-ties-to-the-even-code over the decoded grid is not what it wants, or for speed,
//   template <rounding, overflow> static constexpr code encode(float x, std::uint32_t random = 0) noexcept;
// decode must give the same bits at compile time and at run time: write a x b + c in it as two statements on values
// that are exact, because compilers may fuse the two. Nothing else: tables, thresholds, the largest value, the kernel
// family and the unpack are derived below.
template <class E>
concept element =
    requires(typename E::code c) {
        { E::bits } -> std::convertible_to<int>;
        { E::decode(c) } noexcept -> std::same_as<float>;
    } && std::unsigned_integral<typename E::code> &&
    ((E::bits >= 1 && E::bits <= 8) || E::bits == 16 || E::bits == 32) &&
    sizeof(typename E::code) == (E::bits <= 8 ? 1 : E::bits / 8);

// Elements of at most 8 bits: the ones that have tables.
template <class E>
concept small_element = element<E> && (E::bits <= 8);

// The value of every code.
template <small_element E>
inline constexpr auto decode_table = [] {
    detail::table<float, (std::size_t{1} << E::bits)> t{};
    for (unsigned c = 0; c < (1u << E::bits); ++c) t.at[c] = E::decode(static_cast<typename E::code>(c));
    return t;
}();

namespace detail {

// A stored code's value, through the table where there is one: without the branches of a codec.
template <element E> [[nodiscard]] NIBBLE_INLINE constexpr float decoded(typename E::code c) noexcept {
    if constexpr (E::bits <= 8)
        return decode_table<E>.at[c & ((std::size_t{1} << E::bits) - 1)];
    else
        return E::decode(c);
}

template <class E>
concept has_encode = requires(float x, std::uint32_t random) {
    { E::template encode<rounding::nearest_even, overflow::saturate>(x, random) } -> std::same_as<typename E::code>;
};

// The codes of finite value in ascending order of value; of equal values (+0 and -0) only the lowest code.
template <small_element E> struct grid {
    static constexpr std::size_t capacity = std::size_t{1} << E::bits;
    table<float, capacity> values{};
    table<std::uint8_t, capacity> codes{};
    std::size_t count = 0;
};

template <small_element E>
inline constexpr auto sorted_grid = [] {
    grid<E> g{};
    for (unsigned c = 0; c < (1u << E::bits); ++c) {
        const float v = decode_table<E>.at[c];
        if (!is_finite(v)) continue;
        std::size_t at = g.count;
        bool known = false;
        for (std::size_t i = 0; i < g.count; ++i) known = known || g.values.at[i] == v;
        if (known) continue;
        for (; at > 0 && g.values.at[at - 1] > v; --at) {
            g.values.at[at] = g.values.at[at - 1];
            g.codes.at[at] = g.codes.at[at - 1];
        }
        g.values.at[at] = v;
        g.codes.at[at] = static_cast<std::uint8_t>(c);
        ++g.count;
    }
    return g;
}();

// The grid as a list of levels.hpp.
template <small_element E> struct grid_list {
    static constexpr std::size_t count = sorted_grid<E>.count;
    static_assert(count >= 1, "element: no code decodes to a finite value");
    static constexpr list_tie ties = list_tie::even_code;
    static constexpr const grid<E>& sorted = sorted_grid<E>;
};

} // namespace detail

// The code of x in element E: rounded once, straight from fp32. NaN gives the element's NaN; an element that has none
// takes it as 0 (what a block or a tensor makes of NaN is quantize's to decide). `random` feeds stochastic rounding
// with 32 bits and learned rounding with its lowest bit.
template <element E, rounding Rounding = rounding::nearest_even, overflow Overflow = overflow::saturate>
[[nodiscard]] NIBBLE_INLINE constexpr typename E::code encode(float x, std::uint32_t random = 0) noexcept {
    if constexpr (detail::has_encode<E>) {
        return E::template encode<Rounding, Overflow>(x, random);
    } else {
        static_assert(E::bits <= 8, "element: a 16- or 32-bit element must bring its own encode");
        return detail::encode_level<detail::grid_list<E>, Rounding>(x, random);
    }
}

// The largest magnitude an encoder produces: what an absmax scale maps the largest value of a group to.
template <element E>
inline constexpr float largest = [] {
    const float top = detail::abs_of(E::decode(encode<E>(3.4028234e38f)));
    const float bottom = detail::abs_of(E::decode(encode<E>(-3.4028234e38f)));
    return top > bottom ? top : bottom;
}();

// The smallest value that an encoder produces; 0 or more for unsigned elements.
template <element E> inline constexpr float lowest = E::decode(encode<E>(-3.4028234e38f));

template <element E>
inline constexpr bool has_nan_code = [] {
    if constexpr (E::bits <= 8) {
        for (std::size_t c = 0; c < decode_table<E>.size; ++c)
            if (detail::is_nan(decode_table<E>.at[c])) return true;
    }
    return false;
}();

template <element E>
inline constexpr bool has_infinity_code = [] {
    if constexpr (E::bits <= 8) {
        for (std::size_t c = 0; c < decode_table<E>.size; ++c)
            if (detail::abs_of(decode_table<E>.at[c]) == detail::infinity) return true;
    }
    return false;
}();

namespace detail {

// Is every code finite, and every value an integer of at most 8 bits after multiplication by one power of two?
struct integer_mapping {
    bool exists = false;
    int exponent = 0;      // value = integer x 2^exponent
    int low = 0, high = 0; // the integers of the codes
    int center = 0;        // what makes them unsigned: lane = integer + center, 0 ... high + center
    int magnitude = 0;     // max(|low|, |high|)
    bool linear = false;   // lane = code (after XOR with flip): shift and mask unpack it, no table
    int flip = 0;          // the XOR that turns a two's complement code into an ascending one
};

template <element E>
inline constexpr integer_mapping integer_mapping_of = [] {
    integer_mapping g{};
    if constexpr (E::bits > 8) {
        return g;
    } else {
        constexpr auto& t = decode_table<E>;
        for (std::size_t c = 0; c < t.size; ++c)
            if (!is_finite(t.at[c])) return g;
        // The largest power of two that divides every value is the smallest exponent of a set bit.
        int exponent = 1000;
        for (std::size_t c = 0; c < t.size; ++c) {
            const std::uint32_t word = detail::bit_cast<std::uint32_t>(abs_of(t.at[c]));
            if (word == 0) continue;
            const std::uint32_t significand = word >= 0x00800000u ? (word & 0x007fffffu) | 0x00800000u : word;
            const int field = word >= 0x00800000u ? static_cast<int>(word >> 23) : 1;
            exponent = min_of(exponent, field - 150 + detail::countr_zero(significand));
        }
        if (exponent == 1000) exponent = 0;
        for (std::size_t c = 0; c < t.size; ++c) {
            // Scaled in double: exact for every fp32 value and every exponent here.
            double v = static_cast<double>(t.at[c]);
            for (int i = 0; i < exponent; ++i) v *= 0.5;
            for (int i = 0; i > exponent; --i) v *= 2.0;
            if (!(v >= -128.0 && v <= 255.0)) return g;
            const int i = static_cast<int>(v);
            g.low = c == 0 ? i : min_of(g.low, i);
            g.high = c == 0 ? i : max_of(g.high, i);
        }
        if (g.high - g.low > 255) return g;
        g.exponent = exponent;
        g.exists = true;
        for (int flip = 0; flip <= (1 << (E::bits - 1)) && !g.linear; flip += 1 << (E::bits - 1)) {
            bool same = true;
            for (std::size_t c = 0; c < t.size; ++c) {
                double v = static_cast<double>(t.at[c]);
                for (int i = 0; i < exponent; ++i) v *= 0.5;
                for (int i = 0; i > exponent; --i) v *= 2.0;
                same = same && static_cast<int>(v) - g.low == (static_cast<int>(c) ^ flip);
            }
            if (same) {
                g.linear = true;
                g.flip = flip;
            }
        }
        // Lanes are signed bytes; only plain binary codes are moved into their range, by half of it.
        if (g.high > 127 && !(g.linear && g.low == 0)) return integer_mapping{};
        // Unsigned elements are centred like signed ones, so that the lanes' magnitudes are half as large; the scheme's
        // zero point is then relative to the centre.
        g.center = -g.low;
        if (g.low == 0 && g.linear) g.center = 1 << (E::bits - 1);
        g.magnitude = max_of(max_of(g.low + 0, -g.low), max_of(g.high, -g.high));
        if (g.low == 0 && g.linear) g.magnitude = g.center;
        return g;
    }
}();

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
