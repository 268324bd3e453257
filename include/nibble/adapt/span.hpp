// span.hpp: matrix_view from std::span and standard containers.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>

#include <cstddef>
#include <span>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The first rows x cols elements of contiguous memory, row by row; fails the contract if the span is too short.
template <class T> [[nodiscard]] matrix_view<T> view(std::span<T> values, std::size_t rows, std::size_t cols) {
    NIBBLE_CHECK(cols == 0 || rows <= values.size() / cols, "view: the span has fewer than rows x cols elements");
    return matrix_view<T>(values.data(), rows, cols);
}
template <class Container>
    requires requires(Container& c) { std::span(c); }
[[nodiscard]] auto view(Container& values, std::size_t rows, std::size_t cols) {
    return view(std::span(values), rows, cols);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
