// scheme_digest.hpp: a number that tells what a scheme's stored bits mean, the same in every program; what packed
// matrices and their files are recognised by.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Words, one after the other, to 64 bits: h = (h ^ word) x 0x9e3779b97f4a7c15; h ^= h >> 32.
struct word_digest {
    std::uint64_t value = 0x6e6962626c65; // "nibble"
    constexpr void add(std::uint64_t word) noexcept {
        value = (value ^ word) * 0x9e3779b97f4a7c15u;
        value ^= value >> 32;
    }
};

// How many bits a code has and what the codes mean, all NaN alike: every code of at most 8 bits; of wider ones those
// with one bit set, those with all bits below it, and 64 others.
template <element E>
inline constexpr std::uint64_t element_digest = [] {
    word_digest d{};
    d.add(static_cast<std::uint64_t>(E::bits));
    const auto add = [&](float value) { d.add(is_nan(value) ? 0x7fc00000u : detail::bit_cast<std::uint32_t>(value)); };
    if constexpr (E::bits <= 8) {
        for (std::size_t c = 0; c < decode_table<E>.size; ++c) add(decode_table<E>.at[c]);
    } else {
        using code = typename E::code;
        for (int i = 0; i < E::bits; ++i) {
            add(E::decode(static_cast<code>(std::uint64_t{1} << i)));
            add(E::decode(static_cast<code>((std::uint64_t{1} << i) - 1)));
        }
        for (std::uint64_t i = 1; i <= 64; ++i) add(E::decode(static_cast<code>((i * 0x9e3779b97f4a7c15u) >> 32)));
    }
    return d.value;
}();

// Which weights share a scale: its numbers for a few shapes.
template <granularity G>
inline constexpr std::uint64_t granularity_digest = [] {
    word_digest d{};
    const std::size_t columns[] = {4, 52, 1000, 70000};
    const std::size_t rows[] = {0, 1, 2, 7, 16, 31, 64, 127, 1000003};
    for (const std::size_t cols : columns) {
        d.add(G::group_size(cols));
        for (const std::size_t row : rows) {
            d.add(G::count(row, cols));
            for (std::size_t col = 0; col < cols; col = 3 * col + 1) d.add(G::index(row, col, cols));
        }
    }
    return d.value;
}();

} // namespace detail

// Two schemes have one digest if all their stored bits mean the same: codes, scales, zero points and who shares them.
// How quantize chooses scales takes no part. It is made of those meanings, not of names: schemes of a program's own
// have one too, and compilers, versions and instruction sets agree on it.
template <any_scheme S>
inline constexpr std::uint64_t scheme_digest = [] {
    using traits = detail::scheme_traits<S>;
    detail::word_digest d{};
    d.add(detail::element_digest<typename traits::element>);
    const bool facts[] = {S::scaled,           S::two_level,   S::has_offset,
                          S::has_integer_zero, S::has_minimum, S::has_two_level_minimum};
    for (const bool fact : facts) d.add(fact ? 1 : 0);
    if constexpr (S::scaled) {
        d.add(detail::granularity_digest<typename traits::granularity>);
        d.add(detail::element_digest<typename traits::scale_element>);
    }
    if constexpr (S::two_level) {
        d.add(detail::granularity_digest<typename traits::outer_granularity>);
        d.add(detail::element_digest<typename traits::outer_element>);
    }
    if constexpr (S::has_minimum) d.add(detail::element_digest<typename traits::zero_element>);
    if constexpr (S::has_two_level_minimum) d.add(detail::element_digest<typename traits::outer_zero_element>);
    return d.value;
}();

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
