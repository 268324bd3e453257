// epilogue/low_rank.hpp: adds a product of small inner dimension: LoRA, or what makes up for quantization (LoRC, EoRA).
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y(m, n) = fma(left(m, r), right(r, n), ...) over r = 0, 1, ..., onto y(m, n). For y + (x A) B pass left = x A, tokens
// x rank, which is one small product beforehand, and right = B, rank x outputs; a factor such as LoRA's alpha / rank
// belongs into either. Costs `rank` fused operations per result.
struct add_low_rank {
    matrix_view<const float> left;
    matrix_view<const float> right;
    add_low_rank(matrix_view<const float> tokens_by_rank, matrix_view<const float> rank_by_outputs) noexcept
        : left(tokens_by_rank), right(rank_by_outputs) {}
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        Lanes sum = x;
        const float* const of_token = left.row(at.token);
        for (std::size_t r = 0; r < right.rows(); ++r)
            sum = fma(Lanes(of_token[r]), Lanes::load(right.row(r) + at.output, at.count), sum);
        return sum;
    }
    void check(std::size_t tokens, std::size_t outputs) const {
        NIBBLE_CHECK(left.rows() == tokens, "add_low_rank: the left factor must have a row per token");
        NIBBLE_CHECK(left.cols() == right.rows(), "add_low_rank: the factors' ranks differ");
        NIBBLE_CHECK(right.cols() == outputs || right.rows() == 0,
                     "add_low_rank: the right factor must have a column per output");
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
