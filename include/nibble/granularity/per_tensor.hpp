// per_tensor.hpp: one scale for the whole matrix.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct per_tensor {
    static constexpr bool row_local = false;
    [[nodiscard]] static constexpr std::size_t count(std::size_t, std::size_t) noexcept { return 1; }
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t cols) noexcept { return cols; }
    [[nodiscard]] static constexpr std::size_t index(std::size_t, std::size_t, std::size_t) noexcept { return 0; }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
