// gemm.hpp: the third verb: activations times packed weights, epilogue fused.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI {

// Where activations get their scale on the way into an integer kernel.
enum class activation_scale {
    per_token, // max|x| of the token / 127
    per_group, // of each group of columns that shares a weight scale: closer for activations with outliers, a few per
               // cent slower with small groups
};

struct gemm_options {
    nibble::workspace* workspace = nullptr; // scratch kept between calls; without it every call allocates and frees its own
    nibble::activation_scale activations = nibble::activation_scale::per_token;
};

// Bytes of workspace that calls with up to `tokens` rows of x need, for an engine that sizes its memory beforehand.
template <any_scheme S>
[[nodiscard]] std::size_t gemm_workspace_bytes(const packed<S>& w, std::size_t tokens, std::size_t concurrency,
                                               const gemm_options& options = {}) noexcept {
    const bool per_group = options.activations == activation_scale::per_group;
    // A single token takes several panels at once, so it may need more than two.
    return detail::max_of(kernel::gemm_plan<S>(w, 1, per_group).workspace_bytes(concurrency),
                          kernel::gemm_plan<S>(w, tokens, per_group).workspace_bytes(concurrency));
}

namespace detail {

template <isa Isa, stored_float T, any_scheme S, class Destination, epilogue Epilogue, executor Executor>
void gemm_of_matrix(matrix_view<const T> x, const packed<S>& w, const Destination& y, const Epilogue& finish,
                    const gemm_options& options, const Executor& threads) {
    NIBBLE_CHECK(x.cols() == w.cols(), "gemm: x must have as many columns as the weights");
    NIBBLE_CHECK(y.rows() == x.rows(), "gemm: y must have as many rows as x");
    NIBBLE_CHECK(y.cols() == w.rows(), "gemm: y must have as many columns as the weights have rows");
    epilogue_chain<identity, Epilogue>::check_epilogue(finish, y.rows(), y.cols());
    if (y.rows() == 0 || y.cols() == 0) return;
    const kernel::gemm_plan<S> plan(w, x.rows(), options.activations == activation_scale::per_group);
    const std::size_t bytes = plan.workspace_bytes(threads.concurrency());
    if (options.workspace != nullptr) {
        kernel::run_gemm<Isa, S>(plan, x, w, y, finish, options.workspace->reserve(bytes), threads);
    } else {
        buffer own(bytes);
        kernel::run_gemm<Isa, S>(plan, x, w, y, finish, own.data(), threads);
    }
}

} // namespace detail

// y = epilogue(x wᵀ): x is M x K, w N x K, y M x N, fp32 in and out; any M, N, K, and any strides.
//
// Elements whose values are small integers times a power of two (int, E2M1, E2M3, MXINT8, ternary, binary, yours): x is
// quantized to int8 first (value = round(x (127 / max|x|)), ties to even), per token or per token and group, and
//   y(m, n) = (sum over groups of [dot(m, n, g) x s(n, g)] by one fma each, in order) x factor(n) x sx(m)
// with exact integer dot products and sx = max|x| / 127; scaled per group, s(n, g) x sx(m, g) stands for s and nothing for
// sx(m). All others (FP8, E3M2, NF4, f16, bf16, f32): x stays fp32, and a group's dot product is one chain of fma over its
// columns. s is the weight scale in fp32 times that power of two, factor the outer scale of a two_level scheme if a row has
// one (if it has several, s is inner x outer). A minimum adds fma(sum of x over the group, minimum, ...) after each group.
// A group of more than 65536 columns counts as several of that length.
//
// The result is the same bit for bit for any executor, any M (row m depends on row m of x alone), any ISA and any tile.
// NaN or infinity in x: the whole row m of y is NaN in the integer family, IEEE arithmetic in the other. A NaN weight
// makes its output NaN for every row. y must not overlap x or w, except as an epilogue documents.
template <isa Isa = best_isa, any_scheme S, epilogue Epilogue = identity, executor Executor = serial>
void gemm(matrix_view<const float> x, const packed<S>& w, matrix_view<float> y, const Epilogue& finish = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_matrix<Isa>(x, w, y, finish, options, threads);
}

// fp16 or bf16 (float16.hpp) in or out or both, in any combination with fp32: x is converted, exactly, where it is quantized or
// copied, y rounded once from the fp32 result where it is stored; no pass and no memory is added. An infinity in x is one,
// in the integer family as above; a result beyond fp16's 65504 becomes one; NaN is stored as float16's or bfloat16's only NaN.
template <isa Isa = best_isa, class T, any_scheme S, class U, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>> && stored_float<U> && (sizeof(T) == 2 || sizeof(U) == 2))
void gemm(matrix_view<T> x, const packed<S>& w, matrix_view<U> y, const Epilogue& finish = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_matrix<Isa>(matrix_view<const T>(x), w, y, finish, options, threads);
}

// Without an epilogue.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void gemm(matrix_view<const float> x, const packed<S>& w, matrix_view<float> y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}
template <isa Isa = best_isa, class T, any_scheme S, class U, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>> && stored_float<U> && (sizeof(T) == 2 || sizeof(U) == 2))
void gemm(matrix_view<T> x, const packed<S>& w, matrix_view<U> y, const gemm_options& options, const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// Kernels read the packed form only: pack once, multiply often.
template <isa Isa = best_isa, any_scheme S, class... Rest>
void gemm(matrix_view<const float>, const quantized<S>&, matrix_view<float>, const Rest&...) {
    static_assert(!any_scheme<S>, "gemm: these weights are quantized but not packed; pass pack(weights), kept from call to call");
}

} // namespace nibble::inline NIBBLE_ABI
