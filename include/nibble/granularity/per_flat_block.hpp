// per_flat_block.hpp: one scale per stretch of consecutive weights of the flattened matrix, wherever its rows end.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Spans of Size weights of the row-major matrix, the last may be shorter (bitsandbytes' blocks). If neither Size nor
// the number of columns divides the other, spans end inside of rows, and groups have their greatest common divisor of
// columns in a row. Kernels pad each of them to whole quads: with a divisor that is no multiple of 4 (an odd number of
// columns) results are the same, packed weights up to four times as large.
template <std::size_t Size> struct per_flat_block {
    static_assert(Size >= 4 && Size % 4 == 0, "per_flat_block: the size must be a positive multiple of 4");
    static constexpr std::size_t size = Size;
    static constexpr bool row_local = false;
    [[nodiscard]] static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return detail::ceil_div(rows * cols, Size);
    }
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t cols) noexcept {
        std::size_t a = Size;
        std::size_t b = cols;
        while (b != 0) {
            const std::size_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    }
    [[nodiscard]] static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return (row * cols + col) / Size;
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
