// any.hpp: the verbs for weights whose format is known only at run time, from a model file to a product.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/any_format.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI {

// Each does what the verb of that name does for the format that is held, whose code it instantiates for every format of
// the list: name in the list what you run, no more. Nothing held is an error of the caller.

template <class List, executor Executor = serial>
[[nodiscard]] any_packed<List> pack(const any_quantized<List>& q, const Executor& threads = {}) {
    NIBBLE_CHECK(!q.empty(), "pack: these weights are empty; read or quantize some first");
    any_packed<List> out;
    q.visit([&](const auto& weights) { out = pack(weights, threads); });
    return out;
}

template <class List, executor Executor = serial>
[[nodiscard]] any_quantized<List> unpack(const any_packed<List>& w, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "unpack: these weights are empty; pack some first");
    any_quantized<List> out;
    w.visit([&](const auto& weights) { out = unpack(weights, threads); });
    return out;
}

template <class List, executor Executor = serial>
void dequantize(const any_quantized<List>& q, matrix_view<float> out, const Executor& threads = {}) {
    NIBBLE_CHECK(!q.empty(), "dequantize: these weights are empty; read or quantize some first");
    q.visit([&](const auto& weights) { dequantize(weights, out, threads); });
}

template <isa Isa = best_isa, class List, epilogue Epilogue = identity, executor Executor = serial>
void gemm(matrix_view<const float> x, const any_packed<List>& w, matrix_view<float> y, const Epilogue& finish = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "gemm: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { gemm<Isa>(x, weights, y, finish, options, threads); });
}

template <isa Isa = best_isa, class List, executor Executor = serial>
void gemm(matrix_view<const float> x, const any_packed<List>& w, matrix_view<float> y, const gemm_options& options,
          const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// fp16 or bf16 in or out.
template <isa Isa = best_isa, class T, class List, class U, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>> && stored_float<U> && (sizeof(T) == 2 || sizeof(U) == 2))
void gemm(matrix_view<T> x, const any_packed<List>& w, matrix_view<U> y, const Epilogue& finish = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "gemm: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { gemm<Isa>(x, weights, y, finish, options, threads); });
}

// Activations as the weights `w` want them; gemm of them takes any weights for which that is the same.
template <isa Isa = best_isa, class T, class List, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void prepare(matrix_view<T> x, const any_packed<List>& w, prepared_activations& into,
             const activation_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "prepare: these weights are empty; pack some first");
    w.visit([&]<any_scheme S>(const packed<S>&) { prepare<S, Isa>(x, into, options, threads); });
}
template <isa Isa = best_isa, class List, class U, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<U>)
void gemm(const prepared_activations& x, const any_packed<List>& w, matrix_view<U> y, const Epilogue& finish = {},
          const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "gemm: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { gemm<Isa>(x, weights, y, finish, options, threads); });
}
template <class List, executor Executor = serial>
void weight_sums(const any_packed<List>& w, std::span<float> sums, const gemm_options& options = {},
                 const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "weight_sums: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { weight_sums(weights, sums, options, threads); });
}

template <class List>
[[nodiscard]] std::size_t gemm_workspace_bytes(const any_packed<List>& w, std::size_t tokens, std::size_t concurrency,
                                               const gemm_options& options = {}) {
    std::size_t bytes = 0;
    w.visit([&](const auto& weights) { bytes = gemm_workspace_bytes(weights, tokens, concurrency, options); });
    return bytes;
}

} // namespace nibble::inline NIBBLE_ABI
