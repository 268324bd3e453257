// epilogue/gate.hpp: multiplies by another matrix, or each token by a number of its own.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y(m, n) *= factor(m, n): a gate that another product has computed. gemm_gated does both products in one pass. The
// factors may be the output itself: each value is read before it is written.
struct multiply_by {
    matrix_view<const float> factor;
    explicit multiply_by(matrix_view<const float> values) noexcept : factor(values) {}
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        return x * Lanes::load(factor.row(at.token) + at.output, at.count);
    }
    void check(std::size_t tokens, std::size_t outputs) const {
        NIBBLE_CHECK(factor.rows() == tokens && factor.cols() == outputs,
                     "multiply_by: the factors must have the shape of y");
    }
};

// y(m, n) *= factor[m]: a router's weight of a token, say; one number per token, which must outlive the call.
struct scale_tokens {
    array_view<const float> factor;
    explicit scale_tokens(array_view<const float> values) noexcept : factor(values) {}
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        return x * Lanes(factor[at.token]);
    }
    void check(std::size_t tokens, std::size_t) const {
        NIBBLE_CHECK(factor.size() == tokens, "scale_tokens: one number per token is needed");
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
