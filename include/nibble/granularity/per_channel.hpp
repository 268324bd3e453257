// per_channel.hpp: one scale per output channel, that is, per row of the weights.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct per_channel {
    static constexpr bool row_local = true;
    [[nodiscard]] static constexpr std::size_t count(std::size_t rows, std::size_t) noexcept { return rows; }
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t cols) noexcept { return cols; }
    [[nodiscard]] static constexpr std::size_t index(std::size_t row, std::size_t, std::size_t) noexcept { return row; }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
