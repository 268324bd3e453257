// sparse_2_4.hpp: 2:4 sparsity: of every four weights two are stored, with a nibble that says which.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A dense run of 4 g values is stored as 2 g values, in order, and g nibbles (second position << 2 | first position,
// with first < second), two in a byte, the first in the low nibble. All else is zero.

namespace detail {

[[nodiscard]] inline status check_sparse(std::size_t dense, std::size_t values, std::size_t metadata) {
    const std::size_t groups = dense / 4;
    if (dense % 4 == 0 && values == 2 * groups && metadata == ceil_div(groups, 2)) return {};
    return {status_code::mismatch, "2:4 sparse: " + std::to_string(dense) + " dense values, " + std::to_string(values) +
                                       " stored ones and " + std::to_string(metadata) +
                                       " bytes of metadata; for 4 g of the first there must be 2 g and (g + 1) / 2"};
}

} // namespace detail

// The stored form of `dense`, whose values are numbers or codes; what equals `zero` is left out. Where fewer than two
// of four are left, the lowest free positions are stored too. mismatch: lengths; malformed: more than two of four, and
// which; what was written before that group stays.
template <class T>
[[nodiscard]] status compress_2_4(std::span<const T> dense, T zero, std::span<T> values,
                                  std::span<std::uint8_t> metadata) {
    status s = detail::check_sparse(dense.size(), values.size(), metadata.size());
    if (!s.ok()) return s;
    for (std::uint8_t& two : metadata) two = 0;
    for (std::size_t g = 0; g < dense.size() / 4; ++g) {
        unsigned kept = 0; // a bit per position
        unsigned count = 0;
        for (unsigned i = 0; i < 4; ++i)
            if (!(dense[4 * g + i] == zero)) {
                kept |= 1u << i;
                ++count;
            }
        if (count > 2)
            return {status_code::malformed, "2:4 sparse: " + std::to_string(count) + " of the four values from " +
                                                std::to_string(4 * g) + " on are not zero"};
        for (unsigned i = 0; i < 4 && count < 2; ++i)
            if ((kept >> i & 1u) == 0) {
                kept |= 1u << i;
                ++count;
            }
        unsigned nibble = 0;
        unsigned place = 0;
        for (unsigned i = 0; i < 4; ++i)
            if ((kept >> i & 1u) != 0) {
                values[2 * g + place] = dense[4 * g + i];
                nibble |= i << (2 * place);
                ++place;
            }
        metadata[g / 2] = static_cast<std::uint8_t>(metadata[g / 2] | nibble << (4 * (g % 2)));
    }
    return {};
}

// The inverse: `dense` is `zero` but for the stored values. mismatch: lengths; malformed: positions that do not ascend,
// and which. Nothing is written unless the result is ok.
template <class T>
[[nodiscard]] status expand_2_4(std::span<const T> values, std::span<const std::uint8_t> metadata, T zero,
                                std::span<T> dense) {
    status s = detail::check_sparse(dense.size(), values.size(), metadata.size());
    if (!s.ok()) return s;
    const auto nibble = [&](std::size_t g) { return static_cast<unsigned>(metadata[g / 2] >> (4 * (g % 2))) & 15u; };
    for (std::size_t g = 0; g < dense.size() / 4; ++g)
        if ((nibble(g) & 3u) >= nibble(g) >> 2)
            return {status_code::malformed, "2:4 sparse: metadata of group " + std::to_string(g) + " names positions " +
                                                std::to_string(nibble(g) & 3u) + " and " +
                                                std::to_string(nibble(g) >> 2) + ", which do not ascend"};
    for (T& value : dense) value = zero;
    for (std::size_t g = 0; g < dense.size() / 4; ++g) {
        dense[4 * g + (nibble(g) & 3u)] = values[2 * g];
        dense[4 * g + (nibble(g) >> 2)] = values[2 * g + 1];
    }
    return {};
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
