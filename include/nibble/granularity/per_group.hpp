// per_group.hpp: one scale per group of consecutive columns of a row.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Groups of Size columns; if Size does not divide the number of columns, the last group of each row is shorter.
template <std::size_t Size> struct per_group {
    static_assert(Size >= 4 && Size % 4 == 0, "per_group: the group size must be a positive multiple of 4");
    static constexpr std::size_t size = Size;
    static constexpr bool row_local = true;
    [[nodiscard]] static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return rows * detail::ceil_div(cols, Size);
    }
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t) noexcept { return Size; }
    [[nodiscard]] static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return row * detail::ceil_div(cols, Size) + col / Size;
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
