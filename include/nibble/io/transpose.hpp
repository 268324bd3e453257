// transpose.hpp: turns matrices of words as checkpoints store them, and puts the columns of packed rows in another
// order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Element (r, c) of `Size` bytes at from + r x from_stride + c x Size goes to to + c x to_stride + r x Size. Through a
// tile in the first cache: both sides then move whole cache lines, whatever power of two the strides are.
template <std::size_t Size>
inline void transpose(const std::byte* from, std::size_t rows, std::size_t cols, std::size_t from_stride, std::byte* to,
                      std::size_t to_stride) {
    constexpr std::size_t tile_rows = 256 / Size;
    constexpr std::size_t tile_cols = 64; // several lines of each row: rows may be pages apart
    alignas(64) std::byte tile[tile_cols][tile_rows * Size];
    for (std::size_t r = 0; r < rows; r += tile_rows) {
        const std::size_t height = min_of(tile_rows, rows - r);
        for (std::size_t c = 0; c < cols; c += tile_cols) {
            const std::size_t width = min_of(tile_cols, cols - c);
            if (width == tile_cols) {
                for (std::size_t i = 0; i < height; ++i) {
                    const std::byte* line = from + (r + i) * from_stride + c * Size;
                    for (std::size_t j = 0; j < tile_cols; ++j) std::memcpy(tile[j] + i * Size, line + j * Size, Size);
                }
            } else {
                for (std::size_t i = 0; i < height; ++i)
                    for (std::size_t j = 0; j < width; ++j)
                        std::memcpy(tile[j] + i * Size, from + (r + i) * from_stride + (c + j) * Size, Size);
            }
            for (std::size_t j = 0; j < width; ++j)
                std::memcpy(to + (c + j) * to_stride + r * Size, tile[j], height * Size);
        }
    }
}

inline void transpose(std::size_t size, const std::byte* from, std::size_t rows, std::size_t cols,
                      std::size_t from_stride, std::byte* to, std::size_t to_stride) {
    if (size == 4)
        transpose<4>(from, rows, cols, from_stride, to, to_stride);
    else if (size == 2)
        transpose<2>(from, rows, cols, from_stride, to, to_stride);
    else
        transpose<1>(from, rows, cols, from_stride, to, to_stride);
}

// visit.operator()<bits>() for the widths of integers that checkpoints have.
template <class Visit> void with_bits(int bits, const Visit& visit) {
    if (bits == 2) visit.template operator()<2>();
    if (bits == 3) visit.template operator()<3>();
    if (bits == 4) visit.template operator()<4>();
    if (bits == 5) visit.template operator()<5>();
    if (bits == 6) visit.template operator()<6>();
    if (bits == 7) visit.template operator()<7>();
    if (bits == 8) visit.template operator()<8>();
}

[[nodiscard]] inline const std::uint8_t* as_codes(const std::byte* from) noexcept {
    return reinterpret_cast<const std::uint8_t*>(from);
}
[[nodiscard]] inline std::uint8_t* as_codes(std::byte* from) noexcept {
    return reinterpret_cast<std::uint8_t*>(from);
}

// Rows of packed codes: place k of a row takes the code of place order[k]; in place.
inline void gather_codes(int bits, std::byte* codes, std::size_t rows, std::size_t row_bytes,
                         std::span<const std::uint32_t> order) {
    with_bits(bits, [&]<int Bits>() {
        std::vector<std::uint8_t> plain(order.size());
        std::vector<std::uint8_t> ordered(order.size());
        // Locals: stores of bytes may alias whatever is behind a reference, and would have it loaded again every time.
        const std::uint32_t* places = order.data();
        const std::size_t count = order.size();
        const std::uint8_t* from = plain.data();
        std::uint8_t* to = ordered.data();
        for (std::size_t row = 0; row < rows; ++row) {
            std::uint8_t* stream = as_codes(codes) + row * row_bytes;
            spread_codes<Bits>(stream, count, plain.data());
            for (std::size_t k = 0; k < count; ++k) to[k] = from[places[k]];
            squeeze_codes<Bits>(to, count, stream);
        }
    });
}

// Codes of `bits` bits plus or minus 2^(bits - 1), modulo 2^bits: rows whose unused bits at their end are 0, and stay
// so.
inline void flip_signs(int bits, std::byte* codes, std::size_t rows, std::size_t cols, std::size_t row_bytes) {
    with_bits(bits, [&]<int Bits>() {
        std::uint8_t highest[8];
        for (std::uint8_t& code : highest) code = 1u << (Bits - 1);
        constexpr std::size_t size = Bits;
        std::byte period[size]; // of eight codes
        squeeze_codes<Bits>(highest, 8, as_codes(period));
        for (std::size_t row = 0; row < rows; ++row) {
            std::byte* at = codes + row * row_bytes;
            for (std::size_t k = 0; k < cols / 8; ++k, at += size)
                for (std::size_t i = 0; i < size; ++i) at[i] ^= period[i];
            std::byte rest[size] = {};
            squeeze_codes<Bits>(highest, cols % 8, as_codes(rest));
            for (std::size_t i = 0; i < ceil_div(cols % 8 * size, 8); ++i) at[i] ^= rest[i];
        }
    });
}

// The order that undoes `order`.
[[nodiscard]] inline std::vector<std::uint32_t> inverse_order(std::span<const std::uint32_t> order) {
    std::vector<std::uint32_t> inverse(order.size());
    for (std::size_t k = 0; k < order.size(); ++k) inverse[order[k]] = static_cast<std::uint32_t>(k);
    return inverse;
}

// Is this a permutation of 0 ... order.size() - 1?
[[nodiscard]] inline bool is_order(std::span<const std::uint32_t> order) {
    std::vector<bool> seen(order.size(), false);
    for (const std::uint32_t place : order) {
        if (place >= order.size() || seen[place]) return false;
        seen[place] = true;
    }
    return true;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
