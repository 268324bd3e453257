// prepare_norm.hpp: norms straight into prepared activations: the normalised matrix never goes through memory.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/prepare.hpp>
#include <nibble/transform/layer_norm.hpp>
#include <nibble/transform/norm.hpp>
#include <nibble/transform/rms_norm.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Rows of x as a norm makes them, one at a time, in a worker's own memory, which stays in its first-level cache.
template <class Isa, class Norm> struct normed_rows {
    using value_type = float;
    matrix_view<const float> x;
    array_view<const float> weight;
    array_view<const float> bias;
    const norm_options& options;
    array_view<const std::uint32_t> list;
    const Norm& norm;
    float* scratch;
    [[nodiscard]] const float* row(std::size_t token) const {
        norm_row<Isa>(x, weight, bias, options, list.empty() ? token : list[token], scratch, norm);
        return scratch;
    }
};

template <any_scheme S, isa Isa, executor Executor, class Norm>
void prepare_normed(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
                    prepared_activations& into, const norm_options& options, const activation_options& activations,
                    const Executor& threads, const Norm& norm) {
    check_executor(threads);
    check_norm(x, weight, bias, options);
    NIBBLE_CHECK(activations.rows.empty() || options.residual.empty(),
                 "prepare_norm: of tokens by number, which may come twice, no residual can be updated");
    const kernel::token_rows<float> rows{x, activations.rows};
    check_rows(rows);
    prepare_rows<S, Isa>(
        rows.count(), x.cols(), x.cols() * sizeof(float),
        [&](std::byte* own) {
            return normed_rows<Isa, Norm>{
                x, weight, bias, options, activations.rows, norm, reinterpret_cast<float*>(own)};
        },
        into, activations, threads);
}

} // namespace detail

// rms_norm(x, weight, y, norm) and prepare<S>(y, into, activations) in one pass, with the same bits, for weights of any
// scheme S: y is made row by row where it is quantized, or copied for kernels that take fp32. norm.residual is updated
// on the way; with activations.rows there must be none. NaN as in both: a token with one has the scale NaN, so that all
// its results are NaN. Allocates only if `into` has never held as much.
template <any_scheme S, isa Isa = best_isa, executor Executor = serial>
void prepare_rms_norm(matrix_view<const float> x, array_view<const float> weight, prepared_activations& into,
                      const rms_norm_options& norm = {}, const activation_options& activations = {},
                      const Executor& threads = {}) {
    detail::prepare_normed<S, Isa>(x, weight, {}, into, norm, activations, threads, detail::rms_norm_of<Isa>{});
}

// layer_norm(x, weight, bias, y, norm) and prepare<S>(y, into, activations) likewise.
template <any_scheme S, isa Isa = best_isa, executor Executor = serial>
void prepare_layer_norm(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
                        prepared_activations& into, const layer_norm_options& norm = {},
                        const activation_options& activations = {}, const Executor& threads = {}) {
    detail::prepare_normed<S, Isa>(x, weight, bias, into, norm, activations, threads, detail::layer_norm_of<Isa>{});
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
