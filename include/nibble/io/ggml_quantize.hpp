// ggml_quantize.hpp: a float matrix into the scheme of a GGUF tensor type, by search or by ggml's reference rule;
// quantize_ggml.
#pragma once

#include <nibble/io/ggml_reference.hpp>
#include <nibble/io/ggml_types.hpp>

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

enum class ggml_encoding {
    best,      // range::least_squares of quantize
    reference, // ggml's rule for the type, byte for byte; of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0 and MXFP4
};

// True if the type has a fixed rule in ggml, which ggml_encoding::reference follows.
template <ggml_type Type> inline constexpr bool has_ggml_reference = detail::has_reference_encoder<Type>;

// w (N x K, K a multiple of the type's block) in the scheme of Type, to be written as that type. `best` is
// quantize<Type::scheme> under range::least_squares: it has at most the squared error of ggml's own encoders without an
// importance matrix; codes are the nearest under the scales as stored, so that writing and reading changes nothing; NaN
// counts as 0, an infinity becomes the largest value of its sign, and a scale beyond its format saturates. `reference`
// is ggml's rule, whose scales beyond fp16 are infinite. nonfinite() tells of values that are not finite. Results do
// not depend on the executor. Allocates the result.
template <ggml_type Type, ggml_encoding Encoding = ggml_encoding::best, executor Executor = serial>
[[nodiscard]] quantized<typename Type::scheme> quantize_ggml(matrix_view<const float> w, const Executor& threads = {}) {
    detail::check_executor(threads);
    static_assert(Encoding == ggml_encoding::best || has_ggml_reference<Type>,
                  "quantize_ggml: ggml has no fixed rule for this type; use ggml_encoding::best");
    using scheme = typename Type::scheme;
    using parts = typename Type::parts;
    NIBBLE_CHECK(w.cols() % parts::elements == 0,
                 "quantize_ggml: the number of columns must be a multiple of the block's");
    if constexpr (Encoding == ggml_encoding::best)
        return quantize<scheme>(w, {.range = range::least_squares, .nonfinite = nonfinite_policy::zero}, threads);
    quantized<scheme> out(w.rows(), w.cols());
    if (w.empty()) return out;
    std::vector<unsigned char> nonfinite(w.rows(), 0);
    detail::for_each_task(w.rows(), threads, [&](std::size_t row, std::size_t) {
        parts p;
        const float* x = w.row(row);
        for (std::size_t col = 0; col < w.cols(); ++col)
            if (!detail::is_finite(x[col])) nonfinite[row] = 1;
        for (std::size_t col = 0; col < w.cols(); col += parts::elements) {
            if constexpr (Encoding == ggml_encoding::reference)
                detail::reference_encoder<Type>::encode_block(x + col, p);
            detail::store_parts(p, row, col, out);
        }
    });
    for (const unsigned char seen : nonfinite)
        if (seen != 0) out.set_nonfinite(true);
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
