// gemm.hpp: the third verb: activations times packed weights, epilogue fused. Where a program uses many formats,
// instantiate.hpp says how each is compiled once.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/gemm_diagnostics.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/prepare.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct gemm_options {
    nibble::workspace* workspace =
        nullptr; // scratch kept between calls; without it every call allocates and frees its own
    // How x is quantized, and which of its rows are the tokens: see prepare.hpp. Without meaning for activations that
    // are prepared already.
    activation_options activations{};
    // For activations with offsets: what weight_sums(w, ...) gave for these weights.
    array_view<const float> weight_sums{};
};

// Bytes of workspace that calls with up to `tokens` rows of x need, for an engine that sizes its memory beforehand.
// Enough for prepared activations too, which need less; gemm_gated of two such matrices needs at most twice as much.
// For calls of gemm<Isa>.
template <isa Isa = best_isa, any_scheme S>
[[nodiscard]] std::size_t gemm_workspace_bytes(const packed_view<S>& w, std::size_t tokens, std::size_t concurrency,
                                               const gemm_options& options = {}) {
    (void)detail::checked_concurrency(concurrency);
    detail::check_panel_rows(w);
    const auto plan_of = [&](std::size_t m, int limit) {
        return kernel::gemm_plan<S, Isa>(w, m, detail::scales_per_group<S>(options.activations), limit);
    };
    const activation_quantization& grid = options.activations.quantization;
    const kernel::gemm_plan<S, Isa> all = plan_of(tokens, grid.qmax);
    // What a worker needs grows with the tokens of a chunk, and those may be fewer for more tokens, as chunks are of
    // one size; a single token takes more panels at once than others do. Prepared activations may have any limit.
    std::size_t worker = 0;
    const int limits[] = {1, detail::activation_qmax};
    for (const int limit : limits) {
        const std::size_t counts[] = {1, detail::min_of(tokens, plan_of(tokens, limit).most_tokens)};
        for (const std::size_t m : counts) worker = detail::max_of(worker, kernel::worker_bytes(plan_of(m, limit)));
    }
    return detail::max_of(kernel::activation_bytes(all, grid.asymmetric),
                          kernel::activation_bytes(plan_of(1, grid.qmax), grid.asymmetric)) +
           concurrency * worker;
}

namespace detail {

template <class Product, class Destination, epilogue Epilogue>
void check_product(std::size_t tokens, std::size_t cols, const Product& product, const Destination& y,
                   const Epilogue& epilogue) {
    const auto& w = product.matrix(0);
    for (std::size_t i = 0; i < Product::matrices; ++i) check_panel_rows(product.matrix(i));
    for (std::size_t i = 1; i < Product::matrices; ++i)
        NIBBLE_CHECK(product.matrix(i).rows() == w.rows() && product.matrix(i).cols() == w.cols(),
                     "gemm_gated: gate and up must have the same shape");
    NIBBLE_CHECK(cols == w.cols(), "gemm: x must have as many columns as the weights");
    NIBBLE_CHECK(y.rows() == tokens, "gemm: y must have as many rows as x");
    NIBBLE_CHECK(y.cols() == w.rows(), "gemm: y must have as many columns as the weights have rows");
    check_destination(y);
    epilogue_chain<identity, Epilogue>::check_epilogue(epilogue, y.rows(), y.cols());
    if constexpr (requires { product.activation; })
        epilogue_chain<identity, Epilogue>::check_epilogue(product.activation, y.rows(), y.cols());
}

// `run(memory)` with that many bytes of the workspace, or of its own.
template <class Run> void with_memory(const gemm_options& options, std::size_t bytes, const Run& run) {
    if (options.workspace != nullptr) {
        run(options.workspace->reserve(bytes));
    } else {
        buffer own(bytes);
        run(own.data());
    }
}

template <class Product> void check_weight_sums(array_view<const float> sums, const Product& product, bool asymmetric) {
    NIBBLE_CHECK(!asymmetric || sums.size() == Product::matrices * product.matrix(0).rows(),
                 "gemm: activations with offsets need the sums of the weights: options.weight_sums, filled by "
                 "weight_sums(w, sums) once per matrix (for gemm_gated: those of gate, then those of up)");
}

template <isa Isa, stored_float T, class Product, class Destination, epilogue Epilogue, executor Executor>
void gemm_of_rows(const kernel::token_rows<T>& x, const Product& product, const Destination& y,
                  const Epilogue& epilogue, const gemm_options& options, const Executor& threads) {
    check_executor(threads);
    using S = typename Product::scheme_type;
    check_product(x.count(), x.x.cols(), product, y, epilogue);
    check_rows(x);
    const activation_quantization& grid = options.activations.quantization;
    const kernel::gemm_plan<S, Isa> plan(product.matrix(0), x.count(), scales_per_group<S>(options.activations),
                                         grid.qmax);
    const bool asymmetric = grid.asymmetric && plan.integers;
    if (plan.integers) check_activations<S>(options.activations, x.count());
    check_weight_sums(options.weight_sums, product, asymmetric);
    if (y.rows() == 0 || y.cols() == 0) return;
    const std::size_t stride = Product::matrices * kernel::worker_bytes(plan);
    const std::size_t first = kernel::activation_bytes(plan, asymmetric);
    with_memory(options, first + concurrency_of(threads) * stride, [&](std::byte* memory) {
        kernel::arena shared(memory);
        const auto activations = kernel::activation_memory::take(plan, x.count(), asymmetric, shared);
        const auto row_of = [&](std::size_t worker) {
            return kernel::memory_of_worker(plan, memory + first + worker * stride).row;
        };
        prepare_tokens<Isa>(plan, x, grid, activations, row_of, threads);
        kernel::multiply<Isa>(plan, activations, options.weight_sums.data(), product, y, epilogue, memory + first,
                              threads);
    });
}

template <isa Isa, class Product, class Destination, epilogue Epilogue, executor Executor>
void gemm_of_prepared(const prepared_activations& x, const Product& product, const Destination& y,
                      const Epilogue& epilogue, const gemm_options& options, const Executor& threads) {
    check_executor(threads);
    using S = typename Product::scheme_type;
    check_product(x.tokens(), x.cols(), product, y, epilogue);
    check_fits<S, Isa>(x);
    const kernel::activation_layout& layout = prepared_access::layout(x);
    const kernel::gemm_plan<S, Isa> plan(product.matrix(0), x.tokens(), layout.per_part, layout.qmax);
    check_weight_sums(options.weight_sums, product, x.asymmetric());
    if (y.rows() == 0 || y.cols() == 0) return;
    with_memory(options, concurrency_of(threads) * Product::matrices * kernel::worker_bytes(plan),
                [&](std::byte* memory) {
                    kernel::multiply<Isa>(plan, prepared_access::memory(x), options.weight_sums.data(), product, y,
                                          epilogue, memory, threads);
                });
}

} // namespace detail

// sums(n) = sum over groups of [(sum of the integers, zero point taken off) x s(n, g)] by one fma each, in order, times
// factor(n): the product, as gemm computes it, of the weights and a token of exact ones; minimums take no part. N
// numbers, computed once per matrix, for activations with offsets.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void weight_sums(const packed_view<S>& w, array_view<float> sums, const gemm_options& options = {},
                 const Executor& threads = {}) {
    detail::check_executor(threads);
    detail::check_panel_rows(w);
    NIBBLE_CHECK(sums.size() == w.rows(), "weight_sums: one number per row of the weights is needed");
    if (w.rows() == 0) return;
    const kernel::gemm_plan<S, Isa> plan(w, 1, false, 1);
    const std::size_t first = kernel::activation_bytes(plan, false);
    detail::with_memory(
        options, first + detail::concurrency_of(threads) * kernel::worker_bytes(plan), [&](std::byte* memory) {
            kernel::arena shared(memory);
            const auto ones = kernel::activation_memory::take(plan, 1, false, shared);
            kernel::prepare_ones(plan, ones, kernel::memory_of_worker(plan, memory + first).row);
            kernel::multiply<Isa>(plan, ones, nullptr, kernel::plain_product<S>{w},
                                  matrix_view<float>(sums.data(), 1, sums.size()), identity{}, memory + first, threads);
        });
}

// y = epilogue(x wᵀ): x is M x K, w N x K, y M x N, fp32 in and out; any M, N, K, and any strides.
//
// Elements whose values are small integers times a power of two (int, E2M1, E2M3, MXINT8, ternary, binary, yours): x is
// quantized to int8 first (activation_scale of prepare.hpp has the formula), with a scale sx per token and group where
// rows of weights have groups, and per token where they have one scale or options.activations.scale says per_token:
//   y(m, n) = (sum over groups of [dot(m, n, g) x (s(n, g) x sx(m, g))] by one fma each, in order) x factor(n)
//   y(m, n) = (sum over groups of [dot(m, n, g) x s(n, g)] by one fma each, in order) x factor(n) x sx(m), per token
// with exact integer dot products. All others (FP8, E3M2, NF4, f16, bf16, f32): x stays fp32, and a group's dot product
// is one chain of fma over its columns. s is the weight scale in fp32 times that power of two, factor the outer scale
// of a two_level scheme if a row has one (if it has several, s is inner x outer). A minimum adds fma(sum of x over the
// group, minimum, ...) after each group. A group of more than 65536 columns counts as several of that length.
//
// The result is the same bit for bit for any executor, any M (row m depends on row m of x alone), any ISA and any tile.
// With static scales, fewer bits or offsets in options.activations.quantization, x is quantized as
// activation_quantization says; with an offset o(m), y(m, n) is that sum of the integers as they are and at last
// fma(-o(m) x sx(m), sums(n), y) with the sums of weight_sums; a minimum meets the sum of integer - o(m). NaN or
// infinity in x: the whole row m of y is NaN in the integer family, IEEE arithmetic in the other. A NaN weight makes
// its output NaN for every row. y must not overlap x or w, except as an epilogue documents.
template <isa Isa = best_isa, any_scheme S, epilogue Epilogue = identity, executor Executor = serial>
void gemm(matrix_view<const float> x, const packed_view<S>& w, matrix_view<float> y, const Epilogue& epilogue = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_rows<Isa>(kernel::token_rows<float>{x, options.activations.rows}, kernel::plain_product<S>{w}, y,
                              epilogue, options, threads);
}

// fp16 or bf16 (float16.hpp) in or out or both, in any combination with fp32: x is converted, exactly, where it is
// quantized or copied, y rounded once from the fp32 result where it is stored; no pass and no memory is added. An
// infinity in x is one, in the integer family as above; a result beyond fp16's 65504 becomes one; NaN is stored as the
// only NaN of float16_t or bfloat16.
template <isa Isa = best_isa, class T, any_scheme S, class U, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>> && stored_float<U> && (sizeof(T) == 2 || sizeof(U) == 2))
void gemm(matrix_view<T> x, const packed_view<S>& w, matrix_view<U> y, const Epilogue& epilogue = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_rows<Isa>(kernel::token_rows<std::remove_const_t<T>>{x, options.activations.rows},
                              kernel::plain_product<S>{w}, y, epilogue, options, threads);
}

// Without an epilogue.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void gemm(matrix_view<const float> x, const packed_view<S>& w, matrix_view<float> y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}
template <isa Isa = best_isa, class T, any_scheme S, class U, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>> && stored_float<U> && (sizeof(T) == 2 || sizeof(U) == 2))
void gemm(matrix_view<T> x, const packed_view<S>& w, matrix_view<U> y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// Of prepared activations (prepare.hpp): the same bits as gemm of the x they were made of, which may be gone. y in
// braces is fp32.
template <isa Isa = best_isa, any_scheme S, class U = float, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<U>)
void gemm(const prepared_activations& x, const packed_view<S>& w, matrix_view<U> y, const Epilogue& epilogue = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_prepared<Isa>(x, kernel::plain_product<S>{w}, y, epilogue, options, threads);
}
template <isa Isa = best_isa, any_scheme S, class U = float, executor Executor = serial>
    requires(stored_float<U>)
void gemm(const prepared_activations& x, const packed_view<S>& w, matrix_view<U> y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// To a destination instead of a matrix: rows chosen by number (scatter_rows, scatter_add of epilogue/destination.hpp),
// codes of a quantized matrix (requantize of requantize.hpp), or one of your own. The bits that are put are those that
// the others would store in fp32.
template <isa Isa = best_isa, class T = const float, any_scheme S, destination D, epilogue Epilogue = identity,
          executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm(matrix_view<T> x, const packed_view<S>& w, const D& y, const Epilogue& epilogue = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_rows<Isa>(kernel::token_rows<std::remove_const_t<T>>{x, options.activations.rows},
                              kernel::plain_product<S>{w}, y, epilogue, options, threads);
}
template <isa Isa = best_isa, any_scheme S, destination D, epilogue Epilogue = identity, executor Executor = serial>
void gemm(const prepared_activations& x, const packed_view<S>& w, const D& y, const Epilogue& epilogue = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_prepared<Isa>(x, kernel::plain_product<S>{w}, y, epilogue, options, threads);
}
template <isa Isa = best_isa, class T = const float, any_scheme S, destination D, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm(matrix_view<T> x, const packed_view<S>& w, const D& y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}
template <isa Isa = best_isa, any_scheme S, destination D, executor Executor = serial>
void gemm(const prepared_activations& x, const packed_view<S>& w, const D& y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// y = epilogue(activation(x gateᵀ) x (x upᵀ)), value by value: the first half of a gated feed-forward layer, SwiGLU
// with silu, GeGLU with gelu or gelu_erf, ReGLU with relu. Both matrices, of one scheme and shape, are read panel by
// panel in one pass over activations that are quantized once, and neither product is stored. The bits are those of two
// calls of gemm, the first with `activation` as its epilogue, and a multiplication in fp32. For activations with
// offsets options.weight_sums has the sums of gate, then those of up.
template <isa Isa = best_isa, class T = const float, any_scheme S, detail::gemm_result Y = matrix_view<float>,
          epilogue Activation, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm_gated(matrix_view<T> x, const packed_view<S>& gate, const packed_view<S>& up, const Y& y,
                const Activation& activation, const Epilogue& epilogue = {}, const gemm_options& options = {},
                const Executor& threads = {}) {
    detail::gemm_of_rows<Isa>(kernel::token_rows<std::remove_const_t<T>>{x, options.activations.rows},
                              kernel::gated_product<S, Activation>{gate, up, activation}, y, epilogue, options,
                              threads);
}
template <isa Isa = best_isa, any_scheme S, detail::gemm_result Y = matrix_view<float>, epilogue Activation,
          epilogue Epilogue = identity, executor Executor = serial>
void gemm_gated(const prepared_activations& x, const packed_view<S>& gate, const packed_view<S>& up, const Y& y,
                const Activation& activation, const Epilogue& epilogue = {}, const gemm_options& options = {},
                const Executor& threads = {}) {
    detail::gemm_of_prepared<Isa>(x, kernel::gated_product<S, Activation>{gate, up, activation}, y, epilogue, options,
                                  threads);
}

// Without an epilogue.
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, any_scheme S,
          detail::gemm_result Y = matrix_view<float>, epilogue Activation, executor Executor = serial>
void gemm_gated(const X& x, const packed_view<S>& gate, const packed_view<S>& up, const Y& y,
                const Activation& activation, const gemm_options& options, const Executor& threads = {}) {
    gemm_gated<Isa>(x, gate, up, y, activation, identity{}, options, threads);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
