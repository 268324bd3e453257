// any.hpp: the verbs for weights whose format is known only at run time, from a model file to a product.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dequantize_rows.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/quantize/choose_scales.hpp>
#include <nibble/quantize/encode.hpp>
#include <nibble/quantize/options.hpp>
#include <nibble/recode.hpp>
#include <nibble/tensor/any_format.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
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

template <class W> inline constexpr bool is_any_weights = is_any_packed<W>;
template <class List> inline constexpr bool is_any_weights<any_quantized<List>> = true;
template <class W>
concept any_weights = is_any_weights<W>;

// Calls visit.template operator()<Scheme>() for the first format of that name; not_found, with the names that there
// are, without one.
template <class Visit, class... Formats>
[[nodiscard]] status with_format(format_list<Formats...>, std::string_view verb, std::string_view name,
                                 const Visit& visit) {
    bool found = false;
    const auto one = [&]<class Format>() {
        if (found || Format::name != name) return;
        found = true;
        visit.template operator()<typename Format::scheme>();
    };
    (one.template operator()<Formats>(), ...);
    if (found) return {};
    static constexpr std::string_view names[] = {Formats::name...};
    return no_such_name(verb, "format", name, names);
}

} // namespace detail

// w in the format of that name in the list; not_found for a name that the list lacks, and out is left as it was.
template <class List, executor Executor = serial>
[[nodiscard]] status quantize(matrix_view<const float> w, std::string_view format, any_quantized<List>& out,
                              const quantize_options& options = {}, const Executor& threads = {}) {
    return detail::with_format(List{}, "quantize", format,
                               [&]<any_scheme S>() { out = quantize<S>(w, options, threads); });
}
// The two halves of that.
template <class List, executor Executor = serial>
[[nodiscard]] status choose_scales(matrix_view<const float> w, std::string_view format, any_scale_groups<List>& out,
                                   const quantize_options& options = {}, const Executor& threads = {}) {
    return detail::with_format(List{}, "choose_scales", format,
                               [&]<any_scheme S>() { out = choose_scales<S>(w, options, threads); });
}
template <class List, executor Executor = serial>
[[nodiscard]] any_quantized<List> encode(matrix_view<const float> w, const any_scale_groups<List>& scales,
                                         const quantize_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!scales.empty(), "encode: these scales are empty; choose some first");
    any_quantized<List> out;
    scales.visit([&](const auto& of) { out = encode(w, of, options, threads); });
    return out;
}

// What is held to the format of that name in the list of `out`: not_found for a name that it lacks, unsupported for one
// to which recode does not go. It may be q. Instantiates recode for every two formats of the lists between which it
// goes.
template <class From, class To, executor Executor = serial>
[[nodiscard]] status recode(const any_quantized<From>& q, std::string_view format, any_quantized<To>& out,
                            const Executor& threads = {}) {
    NIBBLE_CHECK(!q.empty(), "recode: these weights are empty; read or quantize some first");
    bool goes = false;
    any_quantized<To> result;
    status s = detail::with_format(To{}, "recode", format, [&]<any_scheme S>() {
        q.visit([&]<any_scheme Held>(const quantized<Held>& weights) {
            if constexpr (detail::recodable<Held, S>) {
                result = recode<S>(weights, threads);
                goes = true;
            }
        });
    });
    if (!s.ok()) return s;
    if (!goes)
        return {status_code::unsupported, "recode: these two formats do not share scales among the same weights, or "
                                          "their zero points: dequantize and quantize"};
    out = static_cast<any_quantized<To>&&>(result);
    return s;
}

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

// Rows by number, or from one on; value_at, for tools and tests, is one weight.
template <isa Isa = best_isa, detail::any_weights W, executor Executor = serial>
void dequantize_rows(const W& w, array_view<const std::uint32_t> rows, matrix_view<float> out,
                     const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "dequantize_rows: these weights are empty; read or quantize some first");
    w.visit([&](const auto& weights) { dequantize_rows<Isa>(weights, rows, out, threads); });
}
template <isa Isa = best_isa, detail::any_weights W, executor Executor = serial>
void dequantize_rows(const W& w, std::size_t first, matrix_view<float> out, const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "dequantize_rows: these weights are empty; read or quantize some first");
    w.visit([&](const auto& weights) { dequantize_rows<Isa>(weights, first, out, threads); });
}
template <class List> [[nodiscard]] float value_at(const any_quantized<List>& q, std::size_t row, std::size_t col) {
    NIBBLE_CHECK(row < q.rows() && col < q.cols(), "value_at: a row and a column of the weights");
    float value = 0.0f;
    q.visit([&](const auto& weights) { value = weights.value_at(row, col); });
    return value;
}

// Of and to all that gemm takes: matrices in fp32, fp16 or bf16, prepared activations, destinations. x and y in braces
// are fp32.
template <isa Isa = best_isa, detail::gemm_activations X = matrix_view<const float>, detail::any_packed_weights W,
          detail::gemm_result Y = matrix_view<float>, epilogue Epilogue = identity, executor Executor = serial>
void gemm(const X& x, const W& w, const Y& y, const Epilogue& epilogue = {}, const gemm_options& options = {},
          const Executor& threads = {}) {
    NIBBLE_CHECK(!w.empty(), "gemm: these weights are empty; pack some first");
    w.visit([&](const auto& weights) { gemm<Isa>(x, weights, y, epilogue, options, threads); });
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
                const Epilogue& epilogue = {}, const gemm_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(!gate.empty() && !up.empty(), "gemm_gated: these weights are empty; pack some first");
    gate.visit([&]<any_scheme S>(const packed_view<S>& weights) {
        const packed_view<S>* const others = up.template get_if<S>();
        NIBBLE_CHECK(others != nullptr,
                     "gemm_gated: gate and up are in two formats; call gemm twice, the second time with the "
                     "epilogue multiply_by(first)");
        gemm_gated<Isa>(x, weights, *others, y, activation, epilogue, options, threads);
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
