// eigen.hpp: matrix_view of Eigen matrices and maps, without a copy.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>

#include <Eigen/Core>

#include <cstddef>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI {

// A view of a row-major Eigen matrix, map, ref or block with unit inner stride. Eigen's own default is column-major: its
// transpose() is row-major, so pass the transpose of a column-major matrix, or declare matrices Eigen::RowMajor.
template <class Derived>
[[nodiscard]] auto view(Eigen::DenseBase<Derived>& matrix) {
    static_assert(Derived::IsRowMajor || Derived::IsVectorAtCompileTime,
                  "nibble::view: the Eigen matrix must be row-major; use Eigen::RowMajor or pass a transpose()");
    using scalar = std::remove_reference_t<decltype(*matrix.derived().data())>;
    NIBBLE_CHECK(matrix.derived().innerStride() == 1, "view: the inner stride of the Eigen expression must be 1");
    const auto rows = static_cast<std::size_t>(matrix.rows());
    const auto cols = static_cast<std::size_t>(matrix.cols());
    const auto stride = static_cast<std::size_t>(matrix.derived().outerStride());
    return matrix_view<scalar>(matrix.derived().data(), rows, cols, rows <= 1 || stride < cols ? cols : stride);
}
template <class Derived>
[[nodiscard]] auto view(const Eigen::DenseBase<Derived>& matrix) {
    static_assert(Derived::IsRowMajor || Derived::IsVectorAtCompileTime,
                  "nibble::view: the Eigen matrix must be row-major; use Eigen::RowMajor or pass a transpose()");
    using scalar = std::remove_reference_t<decltype(*matrix.derived().data())>;
    NIBBLE_CHECK(matrix.derived().innerStride() == 1, "view: the inner stride of the Eigen expression must be 1");
    const auto rows = static_cast<std::size_t>(matrix.rows());
    const auto cols = static_cast<std::size_t>(matrix.cols());
    const auto stride = static_cast<std::size_t>(matrix.derived().outerStride());
    return matrix_view<const scalar>(matrix.derived().data(), rows, cols, rows <= 1 || stride < cols ? cols : stride);
}

} // namespace nibble::inline NIBBLE_ABI
