// view.hpp: matrix_view, a borrowed row-major matrix; what every verb takes and writes.
#pragma once

#include <nibble/core/check.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A rows x cols matrix in someone else's memory. Element (i, j) is data[i * stride + j]; stride counts elements and is
// at least cols. An empty view (rows or cols 0) may have a null pointer. Copying a view copies no element.
template <class T> class matrix_view {
public:
    using value_type = std::remove_const_t<T>;

    constexpr matrix_view() noexcept = default;
    constexpr matrix_view(T* data, std::size_t rows, std::size_t cols) : matrix_view(data, rows, cols, cols) {}
    constexpr matrix_view(T* data, std::size_t rows, std::size_t cols, std::size_t stride)
        : data_(data), rows_(rows), cols_(cols), stride_(stride) {
        NIBBLE_CHECK(stride >= cols, "matrix_view: the row stride is smaller than the number of columns");
        NIBBLE_CHECK(data != nullptr || rows == 0 || cols == 0, "matrix_view: null data with a non-empty shape");
        NIBBLE_CHECK(stride == 0 || rows <= (SIZE_MAX / sizeof(T) / 2) / stride,
                     "matrix_view: rows x stride does not fit in the address space");
    }
    // A view of mutable elements converts to a view of const ones.
    template <class U>
        requires(std::is_same_v<T, const U> && !std::is_const_v<U>)
    constexpr matrix_view(const matrix_view<U>& other) noexcept
        : data_(other.data()), rows_(other.rows()), cols_(other.cols()), stride_(other.stride()) {}

    [[nodiscard]] constexpr T* data() const noexcept { return data_; }
    [[nodiscard]] constexpr std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] constexpr std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] constexpr std::size_t stride() const noexcept { return stride_; }
    [[nodiscard]] constexpr bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }
    [[nodiscard]] constexpr T* row(std::size_t i) const noexcept { return data_ + i * stride_; }
    [[nodiscard]] constexpr T& operator()(std::size_t i, std::size_t j) const noexcept {
        return data_[i * stride_ + j];
    }

private:
    T* data_ = nullptr;
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
    std::size_t stride_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
