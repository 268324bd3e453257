// verbs.hpp: quantize, dequantize, pack and gemm of every named format, compiled once for all programs of a build: the
// benchmarks and the tests of gemm link the same objects, and include the kernels of no format for it.
#pragma once

#include "../support/executor_ref.hpp"

#include <nibble/core/view.hpp>
#include <nibble/gemm.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/quantized.hpp>

namespace bench {

// nibble's verbs of that name for scheme S, on best_isa. nibble_verbs defines them for the formats of
// verbs_slice.hpp; a unit that needs another scheme's includes that header and defines them itself.
template <class S> struct verbs {
    [[nodiscard]] static nibble::quantized<S> quantize(nibble::matrix_view<const float> weights,
                                                       const nibble::quantize_options& options, executor_ref threads);
    static void dequantize(const nibble::quantized<S>& weights, nibble::matrix_view<float> out, executor_ref threads);
    [[nodiscard]] static nibble::packed<S> pack(const nibble::quantized<S>& weights, executor_ref threads);
    static void gemm(nibble::matrix_view<const float> x, const nibble::packed<S>& weights, nibble::matrix_view<float> y,
                     const nibble::gemm_options& options, executor_ref threads);
};

} // namespace bench
