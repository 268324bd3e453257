// eigen.hpp: matrix_view of Eigen matrices and maps, without a copy.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>

#include <Eigen/Core>

#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// One definition for mutable and const expressions: the element type follows from what data() gives.
template <class Derived> [[nodiscard]] auto view_of_eigen(Derived& matrix) {
    static_assert(Derived::IsRowMajor || Derived::IsVectorAtCompileTime,
                  "nibble::view: the Eigen matrix must be row-major; use Eigen::RowMajor or pass a transpose()");
    using scalar = std::remove_reference_t<decltype(*matrix.data())>;
    NIBBLE_CHECK(matrix.innerStride() == 1, "view: the inner stride of the Eigen expression must be 1");
    const auto rows = static_cast<std::size_t>(matrix.rows());
    const auto cols = static_cast<std::size_t>(matrix.cols());
    const auto stride = static_cast<std::size_t>(matrix.outerStride());
    return matrix_view<scalar>(matrix.data(), rows, cols, rows <= 1 || stride < cols ? cols : stride);
}

} // namespace detail

// A view of a row-major Eigen matrix, map, ref or block with unit inner stride. Eigen's own default is column-major:
// its transpose() is row-major, so pass the transpose of a column-major matrix, or declare matrices Eigen::RowMajor.
template <class Derived> [[nodiscard]] auto view(Eigen::DenseBase<Derived>& matrix) {
    return detail::view_of_eigen(matrix.derived());
}
template <class Derived> [[nodiscard]] auto view(const Eigen::DenseBase<Derived>& matrix) {
    return detail::view_of_eigen(matrix.derived());
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
