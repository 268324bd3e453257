// epilogue/residual.hpp: adds a matrix of the output's shape.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y(m, n) += addend(m, n). The addend may be the output itself: each value is read before it is written.
struct add_residual {
    matrix_view<const float> addend;
    explicit add_residual(matrix_view<const float> values) noexcept : addend(values) {}
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        return x + Lanes::load(addend.row(at.token) + at.output, at.count);
    }
    void check(std::size_t tokens, std::size_t outputs) const {
        NIBBLE_CHECK(addend.rows() == tokens && addend.cols() == outputs,
                     "add_residual: the addend must have the shape of y");
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
