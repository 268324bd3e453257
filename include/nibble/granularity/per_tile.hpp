// per_tile.hpp: one scale per rectangle of weights, several rows and columns at once.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Tiles of Rows x Cols weights (128 x 128 in DeepSeek-V3's FP8 weights), shorter at the right and lower edges; groups
// in row-major order of the tiles.
template <std::size_t Rows, std::size_t Cols> struct per_tile {
    static_assert(Rows >= 1, "per_tile: a tile has at least 1 row");
    static_assert(Cols >= 4 && Cols % 4 == 0, "per_tile: the number of columns must be a positive multiple of 4");
    static constexpr bool row_local = Rows == 1;
    [[nodiscard]] static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return detail::ceil_div(rows, Rows) * detail::ceil_div(cols, Cols);
    }
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t) noexcept { return Cols; }
    [[nodiscard]] static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return row / Rows * detail::ceil_div(cols, Cols) + col / Cols;
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
