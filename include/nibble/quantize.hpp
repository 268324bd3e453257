// quantize.hpp: the first verb: a float matrix into a scheme, and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/dequantize.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/quantize/choose_scales.hpp>
#include <nibble/quantize/encode.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// w (N x K) in scheme S: two passes over each scale group, the first for its range, the second for its codes:
// choose_scales and encode, which can be called by themselves.
//   scale   the scheme's rule, rounded to the scale's format; codes are encode(x / scale) with the scale as stored
//   zero    integer_zero: round(-min / scale) with 0 inside the range; minimum: min, rounded to its format
//   two levels: outer = max over its groups of (group scale) / largest<Inner>, then each inner scale under it
//   mean_offset: the inner code nearest to (wanted - offset) / outer, as bitsandbytes has it; where the scale that this
//   gives,
//           negative ones included, has less than half of the wanted magnitude, the code beside it with the smaller
//           scale that reaches half, if one does. Weights are encoded under a negative scale as under any other
// range::least_squares searches instead, group by group, among all scales that the format can say near those that fit
// (and zero points, and minimums; integer inner scales under outer ones of at most 512 columns, the K types of GGUF,
// are searched with these, others under the outer scales of the rule); scales and codes are fitted to each other in
// turn, and what comes out is kept only if its squared error is below the rule's, of a group or, where outer scales are
// searched, of all groups under one. Scales of signed formats may become negative where the element's ends differ. Take
// it for weights: it is the better quantizer for every format of 8 bits or less, and quantize_ggml is this one; absmax
// for what must be quick (activations, caches) or must equal another program's codes. Mean squared error over the mean
// square, per cent of the rule's, N(0, 1) and Student's t with five degrees of freedom (rows of 1024):
//           int4_g32 int4_g128 int4_g32_asym int4_g32_min nf4_g64 nvfp4 mxfp4 mxfp8_e4m3 q4_0 iq4_nl q4_k q6_k q3_k
//           q2_k
//   normal        87        81            90           79      85    73    94         81   75     72   80   55   62 62
//   t             90        82            92           80      89    79    94         71   76     72   81   57   62 62
// It takes about 5 to 12 times as long as absmax, and for the K types 20 to 60 times; bench/codec.cpp has a line for
// each format. No value of finite weights is beyond fp32: a scale under which the largest code's would be is the
// largest one that is not. A group of zeros gets scale 0 and the codes of 0. Values that are not finite count as zeros
// in the range, and nonfinite() of the result tells. Under nonfinite_policy::mark they become: under an MX scale (E8M0)
// a NaN scale, so that the whole block reads as NaN; in elements that have such codes (FP8, f16, bf16) NaN, and
// infinity saturates (unscaled: stays infinity); in all others NaN becomes the code nearest to 0 and infinity the
// largest code of its sign. Results do not depend on the executor. Allocates the result; 40 bytes per group in each row
// for groups that span rows; and 5 bytes per group, with a zero point or a minimum 13, for two levels whose outer scale
// follows from the inner ones (a minimum, an offset, by_mean) and spans more than 512 columns; a copy of w for a search
// over groups that span rows.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] quantized<S> quantize(matrix_view<const float> w, const quantize_options& options = {},
                                    const Executor& threads = {}) {
    detail::check_executor(threads);
    quantized<S> out(w.rows(), w.cols());
    if (w.empty()) return out;
    detail::check_round_up(options);
    // Both halves row by row, so that a row is read from memory once.
    detail::scale_chooser<S> chooser{w, options, out.write_scales()};
    const detail::row_encoder<S> encoder(out, options);
    out.set_nonfinite(detail::choose_groups<S>(
        chooser, threads, [&](std::size_t row, const auto& choose) { encoder.encode_row(row, w.row(row), choose); }));
    NIBBLE_CHECK(!out.nonfinite() || options.nonfinite != nonfinite_policy::refuse,
                 "quantize: the weights hold a NaN or an infinity, and the options refuse them");
    return out;
}

// An element alone has no scale: what was probably meant is a scheme of it.
template <element E, executor Executor = serial>
void quantize(matrix_view<const float>, const quantize_options& = {}, const Executor& = {}) {
    static_assert(!element<E>,
                  "quantize: this is an element; name a scheme of it, such as int4_g32, nf4_g64 or f16_plain, "
                  "or make one: scheme<Element, Granularity, Scale, Zero>");
}

namespace detail {

// out = row number `row` of q, whose scales are read through `scales`.
template <isa Isa, any_scheme S, class Scales>
void dequantize_row(const quantized<S>& q, const Scales& scales, std::size_t row, float* out) {
    using traits = scheme_traits<S>;
    typename traits::code codes[kernel::quantize_block + 8] = {};
    const std::size_t group_size = traits::group_size(q.cols());
    std::size_t left = group_size; // columns until the next group
    for (std::size_t start = 0; start < q.cols(); start += kernel::quantize_block) {
        const std::size_t n = min_of(kernel::quantize_block, q.cols() - start);
        load_codes<typename traits::element>(q.row_codes(row), start, n, codes);
        for (std::size_t i = 0; i < n;) {
            const std::size_t m = min_of(n - i, left);
            kernel::decode_group<Isa, S>(codes + i, m, scales.scale(row, start + i), scales.zero(row, start + i),
                                         out + start + i);
            i += m;
            left = left == m ? group_size : left - m;
        }
    }
}

// row(i, out.row(i)) for the rows of a matrix, some in a task.
template <class Row, executor Executor>
void for_each_row_of(matrix_view<float> out, const Executor& threads, const Row& row) {
    check_executor(threads);
    if (out.empty()) return;
    const std::size_t rows_per_task = max_of<std::size_t>(1, 32768 / out.cols());
    for_each_task(ceil_div(out.rows(), rows_per_task), threads, [&](std::size_t task, std::size_t) {
        const std::size_t end = min_of(out.rows(), (task + 1) * rows_per_task);
        for (std::size_t i = task * rows_per_task; i < end; ++i) row(i, out.row(i));
    });
}

} // namespace detail

// The fp32 values of q into out (rows x cols of q), by the formulas of quantized.hpp; exact but for the one rounding of
// each product.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void dequantize(const quantized<S>& q, matrix_view<float> out, const Executor& threads = {}) {
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == q.cols(),
                 "dequantize: the output must have the shape of the weights");
    const auto scales = q.read_scales();
    detail::for_each_row_of(out, threads,
                            [&](std::size_t row, float* to) { detail::dequantize_row<Isa>(q, scales, row, to); });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
