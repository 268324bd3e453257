// form.hpp: what the product does besides x w^T into a matrix: gated, to chosen rows, to codes, with a low-rank term,
// of several matrices, in integers alone; each behind virtual calls, beside the plain product that it is compared with.
#pragma once

#include "executor_ref.hpp"

#include <nibble/core/view.hpp>

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace bench {

// One form with its weights, activations and results.
class form {
public:
    virtual ~form() = default;
    // The plain products of the same weights and activations, into a matrix: two for the gated one.
    virtual void run_plain(executor_ref threads) = 0;
    virtual void run(executor_ref threads) = 0;
};

// A form of one scheme.
class form_maker {
public:
    virtual ~form_maker() = default;
    [[nodiscard]] virtual std::string_view verb() const = 0;   // the first part of a line's name
    [[nodiscard]] virtual std::string_view scheme() const = 0; // the second
    [[nodiscard]] virtual std::size_t products() const = 0;    // matrices of weights
    [[nodiscard]] virtual std::unique_ptr<form>
    make(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads) const = 0;
};

// gemm_gated     silu(x g^T) x (x u^T)
// scatter_add    every other row of a matrix twice as long += x w^T
// requantize     x w^T to int8 codes under a scale per token
// add_low_rank   x w^T + a b, of rank 16; the small product a is made beforehand
// gemm_grouped   eight experts, an eighth of the rows of w each, and eight rows of results for each token, unevenly
//                shared; the plain products are one gemm for each expert
// gemm_integer   x w^T to int8 codes by dyadic scales: of schemes with one scale per row
// in an 8-bit and in a 4-bit scheme.
[[nodiscard]] const std::vector<std::unique_ptr<form_maker>>& all_forms();

} // namespace bench
