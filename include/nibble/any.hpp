// any.hpp: the verbs for weights whose format is known only at run time, from a model file to a product.
#pragma once

#include <nibble/core/array_view.hpp>
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
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Each does what the verb of that name does for the format that is held, whose code it instantiates for every format of
// the list: name in the list what you run, no more. Nothing held is an error of the caller. Packed weights are an
// any_packed or an any_packed_view.

namespace detail {

template <class W> inline constexpr bool is_any_packed = false;
template <class List> inline constexpr bool is_any_packed<any_packed<List>> = true;
template <class List> inline constexpr bool is_any_packed<any_packed_view<List>> = true;
template <class W>
concept any_packed_weights = is_any_packed<W>;

} // namespace detail

template <class List, executor Executor = serial>
[[nodiscard]] any_packed<List> pack(const any_quantized<List>& q, const Executor& threads = {}) {
    NIBBLE_CHECK(!q.empty(), "pack: these weights are empty; read or quantize some first");
    any_packed<List> out;
    q.visit([&](const auto& weights) { out = pack(weights, threads); });
    return out;
}

template <detail::any_packed_weights W, executor Executor = serial>
[[nodiscard]] any_quantized<typename W::list> unpack(const W& w, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "unpack: these weights are empty; pack some first");
    any_quantized<typename W::list> out;
    w.visit([&](const auto& weights) { out = unpack(weights, threads); });
    return out;
}

template <class List, executor Executor = serial>
void dequantize(const any_quantized<List>& q, matrix_view<float> out, const Executor& threads = {}) {
    NIBBLE_CHECK(!q.empty(), "dequantize: these weights are empty; read or quantize some first");
    q.visit([&](const auto& weights) { dequantize(weights, out, threads); });
}

// Of and to all that gemm takes: matrices in fp32, fp16 or bf16, prepared activations, destinations. x and y in braces
// are fp32.
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, detail::any_packed_weights W,
          detail::gemm_result Y = matrix_view<float>, epilogue Epilogue = identity, executor Executor = serial>
void gemm(const X& x, const W& w, const Y& y, const Epilogue& finish = {}, const gemm_options& options = {},
          const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "gemm: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { gemm<Isa>(x, weights, y, finish, options, threads); });
}
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, detail::any_packed_weights W,
          detail::gemm_result Y = matrix_view<float>, executor Executor = serial>
void gemm(const X& x, const W& w, const Y& y, const gemm_options& options, const Executor& threads = {}) {
    gemm<Isa>(x, w, y, identity{}, options, threads);
}

// Both matrices must be held in one format.
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, detail::any_packed_weights W,
          detail::gemm_result Y = matrix_view<float>, epilogue Activation, epilogue Epilogue = identity,
          executor Executor = serial>
void gemm_gated(const X& x, const W& gate, const W& up, const Y& y, const Activation& activation,
                const Epilogue& finish = {}, const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!gate.empty() && !up.empty(), "gemm_gated: these weights are empty; pack some first");
    gate.visit([&]<any_scheme S>(const packed_view<S>& weights) {
        const packed_view<S>* const others = up.template get_if<S>();
        NIBBLE_CHECK(others != nullptr,
                     "gemm_gated: gate and up are in two formats; call gemm twice, the second time with the "
                     "epilogue multiply_by(first)");
        gemm_gated<Isa>(x, weights, *others, y, activation, finish, options, threads);
    });
}
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, detail::any_packed_weights W,
          detail::gemm_result Y = matrix_view<float>, epilogue Activation, executor Executor = serial>
void gemm_gated(const X& x, const W& gate, const W& up, const Y& y, const Activation& activation,
                const gemm_options& options, const Executor& threads = {}) {
    gemm_gated<Isa>(x, gate, up, y, activation, identity{}, options, threads);
}

// Activations as the weights `w` want them; gemm of them takes any weights for which that is the same: those that they
// fit.
template <isa Isa = best_isa, class T = const float, detail::any_packed_weights W, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void prepare(matrix_view<T> x, const W& w, prepared_activations& into, const activation_options& options = {},
             const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "prepare: these weights are empty; pack some first");
    w.visit([&]<any_scheme S>(const packed_view<S>&) { prepare<S, Isa>(x, into, options, threads); });
}
template <detail::any_packed_weights W> [[nodiscard]] bool fits(const prepared_activations& x, const W& w) noexcept {
    bool found = false;
    w.visit([&](const auto& weights) { found = fits(x, weights); });
    return found;
}
template <detail::any_packed_weights W, executor Executor = serial>
void weight_sums(const W& w, array_view<float> sums, const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "weight_sums: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { weight_sums(weights, sums, options, threads); });
}

template <detail::any_packed_weights W>
[[nodiscard]] std::size_t gemm_workspace_bytes(const W& w, std::size_t tokens, std::size_t concurrency,
                                               const gemm_options& options = {}) {
    std::size_t bytes = 0;
    w.visit([&](const auto& weights) { bytes = gemm_workspace_bytes(weights, tokens, concurrency, options); });
    return bytes;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
