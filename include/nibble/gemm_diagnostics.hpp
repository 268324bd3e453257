// gemm_diagnostics.hpp: what the compiler says of a call of gemm or gemm_gated that neither takes: which argument, what
// to write.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/prepare.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <concepts>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct gemm_options;
template <template <class> class Holder, class List> class any_format;

namespace detail {

template <class T>
    requires(stored_float<std::remove_const_t<T>>)
void take_float_matrix(const matrix_view<T>&);
template <any_scheme S> void take_packed(const packed_view<S>&);
template <any_scheme S> void take_view(const packed_view<S>&);
template <any_scheme S> void take_views(const packed_view<S>&, const packed_view<S>&);
template <class List> void take_packed(const any_format<packed, List>&);
template <class List> void take_packed(const any_format<packed_view, List>&);

// The arguments that some gemm takes.
template <class X>
concept gemm_activations = std::convertible_to<const X&, matrix_view<const float>> ||
                           std::derived_from<X, prepared_activations> || requires(const X& x) { take_float_matrix(x); };
template <class W>
concept gemm_weights = requires(const W& w) { take_packed(w); };
// A packed_view, or a packed, which is one; two of one scheme.
template <class W>
concept is_view = requires(const W& w) { take_view(w); };
template <class A, class B>
concept are_views = requires(const A& a, const B& b) { take_views(a, b); };
template <class Y>
concept gemm_result = std::convertible_to<const Y&, matrix_view<float>> || destination<Y> || requires(const Y& y) {
    take_float_matrix(y);
    requires !std::is_const_v<std::remove_reference_t<decltype(*y.data())>>;
};

// The first argument at fault; none: another gemm takes the call, or the fault is in none of them by itself.
enum class gemm_fault { none, activations, weights, result, epilogue, options, executor };
// Of what follows y: an epilogue, options and an executor, or options and an executor.
template <class Finish, class Options, class Executor> [[nodiscard]] consteval gemm_fault fault_of_rest() noexcept {
    if constexpr (std::is_convertible_v<const Finish&, const gemm_options&>)
        return executor<Options> || std::is_same_v<Options, gemm_options> ? gemm_fault::none : gemm_fault::executor;
    else if constexpr (!epilogue<Finish>)
        return gemm_fault::epilogue;
    else if constexpr (!std::is_convertible_v<const Options&, const gemm_options&>)
        return gemm_fault::options;
    else
        return executor<Executor> ? gemm_fault::none : gemm_fault::executor;
}
template <class X, bool Weights, class Y, class Finish, class Options, class Executor>
[[nodiscard]] consteval gemm_fault fault_of_gemm() noexcept {
    if constexpr (!gemm_activations<X>)
        return gemm_fault::activations;
    else if constexpr (!Weights)
        return gemm_fault::weights;
    else if constexpr (!gemm_result<Y>)
        return gemm_fault::result;
    else
        return fault_of_rest<Finish, Options, Executor>();
}

template <gemm_fault Fault> constexpr void explain_gemm() {
    static_assert(Fault != gemm_fault::activations,
                  "gemm: x must be a matrix_view of float, float16_t or bfloat16_t, or prepared_activations");
    static_assert(Fault != gemm_fault::weights,
                  "gemm: these weights are not packed: pass pack(weights), made once and kept from call to call");
    static_assert(Fault != gemm_fault::result,
                  "gemm: y must be a matrix_view of float, float16_t or bfloat16_t that can be written, "
                  "or a destination such as scatter_rows or requantize");
    static_assert(
        Fault != gemm_fault::epilogue,
        "gemm: no epilogue: it must be callable as step(x, at) while const, with x eight results at once and at a "
        "nibble::position, and return lanes: [](auto x, const nibble::position&) { return x + x; }, or steps such as "
        "relu | add_bias(b); nibble::identity{} does nothing");
    static_assert(Fault != gemm_fault::options,
                  "gemm: after the epilogue come gemm_options: {.workspace = &memory}, or {}");
    static_assert(Fault != gemm_fault::executor, "gemm: the last argument must be an executor, with concurrency() and "
                                                 "parallel_for(count, task): see core/executor.hpp");
}

} // namespace detail

// These are chosen only where no other takes the call; braces stand for the types that they become there. Views are
// taken as the others take them: a packed is no better match here than there.
template <isa Isa = best_isa, class X = matrix_view<const float>, class W, class Y = matrix_view<float>,
          class Finish = identity, class Options = gemm_options, class Executor = serial,
          detail::gemm_fault Fault = detail::fault_of_gemm<X, detail::gemm_weights<W>, Y, Finish, Options, Executor>()>
    requires(Fault != detail::gemm_fault::none && !detail::is_view<W>)
void gemm(const X&, const W&, const Y&, const Finish& = {}, const Options& = {}, const Executor& = {}) {
    detail::explain_gemm<Fault>();
}
template <isa Isa = best_isa, class X = matrix_view<const float>, any_scheme S, class Y = matrix_view<float>,
          class Finish = identity, class Options = gemm_options, class Executor = serial,
          detail::gemm_fault Fault = detail::fault_of_gemm<X, true, Y, Finish, Options, Executor>()>
    requires(Fault != detail::gemm_fault::none)
void gemm(const X&, const packed_view<S>&, const Y&, const Finish& = {}, const Options& = {}, const Executor& = {}) {
    detail::explain_gemm<Fault>();
}

namespace detail {

template <gemm_fault Fault, class Activation> constexpr void explain_gated() {
    static_assert(epilogue<Activation>,
                  "gemm_gated: after y comes the activation of the gate, such as silu, gelu or relu");
    explain_gemm<Fault>();
}

} // namespace detail

template <isa Isa = best_isa, class X = matrix_view<const float>, class Gate, class Up, class Y = matrix_view<float>,
          class Activation, class Finish = identity, class Options = gemm_options, class Executor = serial,
          detail::gemm_fault Fault = detail::fault_of_gemm<X, detail::gemm_weights<Gate> && detail::gemm_weights<Up>, Y,
                                                           Finish, Options, Executor>()>
    requires((Fault != detail::gemm_fault::none || !epilogue<Activation> || !std::same_as<Gate, Up>) &&
             !detail::are_views<Gate, Up>)
void gemm_gated(const X&, const Gate&, const Up&, const Y&, const Activation&, const Finish& = {}, const Options& = {},
                const Executor& = {}) {
    static_assert(std::same_as<Gate, Up> || Fault == detail::gemm_fault::weights,
                  "gemm_gated: gate and up must be packed in one scheme; of two call gemm twice, the second time with "
                  "the epilogue "
                  "multiply_by(first)");
    detail::explain_gated<Fault, Activation>();
}
template <isa Isa = best_isa, class X = matrix_view<const float>, any_scheme S, class Y = matrix_view<float>,
          class Activation, class Finish = identity, class Options = gemm_options, class Executor = serial,
          detail::gemm_fault Fault = detail::fault_of_gemm<X, true, Y, Finish, Options, Executor>()>
    requires(Fault != detail::gemm_fault::none || !epilogue<Activation>)
void gemm_gated(const X&, const packed_view<S>&, const packed_view<S>&, const Y&, const Activation&, const Finish& = {},
                const Options& = {}, const Executor& = {}) {
    detail::explain_gated<Fault, Activation>();
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
