// gemm_integer.hpp: products in integers from beginning to end: int32 sums, or 8-bit results by dyadic scales
// (HAWQ-V3).
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/gemm.hpp>
#include <nibble/kernel/gemm_integer.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/prepare.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// multiplier / 2^shift: a ratio of scales that integers alone can multiply by. Yao et al., "HAWQ-V3: Dyadic Neural
// Network Quantization", 2021.
struct dyadic {
    std::int32_t multiplier = 0; // 0, or 2^30 ... 2^31 - 1
    int shift = 1;               // 1 ... 62

    // The nearest to `ratio`, which must lie in [0, 2^30); one below 2^-32 is 0, as it makes nothing of any int32.
    [[nodiscard]] static constexpr dyadic of(double ratio) {
        NIBBLE_CHECK(ratio >= 0.0 && ratio < 0x1p30, "dyadic: the ratio must be at least 0 and less than 2^30");
        dyadic d{};
        if (ratio < 0x1p-32) return d;
        // ratio = fraction x 2^exponent with a fraction in [1/2, 1).
        const auto word = detail::bit_cast<std::uint64_t>(ratio);
        int exponent = static_cast<int>(word >> 52) - 1022;
        const std::uint64_t significand = (word & ((std::uint64_t{1} << 52) - 1)) | (std::uint64_t{1} << 52); // x 2^53
        std::uint64_t rounded = (significand + (std::uint64_t{1} << 21)) >> 22; // x 2^31, half up
        if (rounded == std::uint64_t{1} << 31) {
            rounded >>= 1;
            ++exponent;
        }
        d.multiplier = static_cast<std::int32_t>(rounded);
        d.shift = 31 - exponent;
        return d;
    }
    // floor(value x multiplier / 2^shift + 1/2).
    [[nodiscard]] constexpr std::int64_t operator()(std::int32_t value) const noexcept {
        auto word = static_cast<std::uint64_t>(std::int64_t{value});
        kernel::multiply_dyadic(word, static_cast<std::uint64_t>(multiplier), static_cast<std::uint64_t>(shift));
        return static_cast<std::int64_t>(word);
    }
};

// How int32 sums become integers of y:
//   y(m, n) = clamp(ratio(n)(sum(m, n) + bias(n)) + residual_ratio(residual(m, n) - residual_zero) + zero, low, high)
// where sum + bias saturates at 32 bits, and low and high are further limited to what y's element has.
struct integer_output {
    array_view<const dyadic> ratios{};     // one, or one per output: scale of w x scale of x / scale of y
    array_view<const std::int32_t> bias{}; // none, or one per output, in units of scale of w x scale of x
    std::int32_t zero = 0;                 // y's zero point
    std::int32_t low = INT32_MIN;          // `zero`: a relu
    std::int32_t high = INT32_MAX;
    matrix_view<const std::int8_t> residual{}; // none, or of y's shape
    std::int32_t residual_zero = 0;
    dyadic residual_ratio{}; // scale of the residual / scale of y
};

namespace detail {

// What `how` must hold for y of that shape; the caller's activations have offsets or not.
inline void check_integer_output(const integer_output& how, std::size_t rows, std::size_t cols, bool asymmetric) {
    NIBBLE_CHECK(how.ratios.size() == 1 || how.ratios.size() == cols,
                 "gemm_integer: one ratio of scales is needed, or one per output");
    const auto usable = [](const dyadic& d) { return d.shift >= 1 && d.shift <= 62 && d.multiplier >= 0; };
    for (const dyadic& d : how.ratios) NIBBLE_CHECK(usable(d), "gemm_integer: a ratio is no result of dyadic::of");
    NIBBLE_CHECK(how.bias.empty() || how.bias.size() == cols, "gemm_integer: the bias must have one number per output");
    NIBBLE_CHECK(!asymmetric || !how.bias.empty(),
                 "gemm_integer: activations with offsets need a bias that takes the offset off: see weight_sums");
    const bool add = how.residual.rows() != 0 || how.residual.cols() != 0;
    NIBBLE_CHECK(!add || (how.residual.rows() == rows && how.residual.cols() == cols),
                 "gemm_integer: the residual must have the shape of y");
    NIBBLE_CHECK(!add || usable(how.residual_ratio), "gemm_integer: the residual's ratio is no result of dyadic::of");
    NIBBLE_CHECK(how.residual_zero >= -255 && how.residual_zero <= 255,
                 "gemm_integer: the residual's zero point is no byte");
}

template <isa Isa, any_scheme S, class Put, executor Executor>
void integer_product(const prepared_activations& x, const packed_view<S>& w, std::size_t rows, std::size_t cols,
                     const Put& put, const gemm_options& options, const Executor& threads) {
    check_executor(threads);
    static_assert(kernel::gemm_plan<S, Isa>::integers,
                  "gemm_integer: the weights are no integers (INT, MXINT, E2M1, ternary, binary); use gemm");
    static_assert(!S::has_minimum, "gemm_integer: a minimum per group is a number in fp32; use gemm");
    check_panel_rows(w);
    NIBBLE_CHECK(x.cols() == w.cols(), "gemm_integer: x must have as many columns as the weights");
    NIBBLE_CHECK(rows == x.tokens(), "gemm_integer: y must have as many rows as x");
    NIBBLE_CHECK(cols == w.rows(), "gemm_integer: y must have as many columns as the weights have rows");
    const kernel::activation_layout& layout = prepared_access::layout(x);
    const kernel::gemm_plan<S, Isa> plan(w, x.tokens(), layout.per_part, layout.qmax);
    check_fits<S, Isa>(x);
    NIBBLE_CHECK(plan.depth.count <= 1,
                 "gemm_integer: the weights must have one scale per row, or one in all, and at most "
                 "65536 columns: sums under different scales cannot be added as integers");
    if (rows == 0 || cols == 0) return;
    with_memory(options, concurrency_of(threads) * kernel::worker_bytes(plan), [&](std::byte* memory) {
        kernel::multiply_integers<Isa>(plan, prepared_access::memory(x), w, put, memory, threads);
    });
}

} // namespace detail

// y(m, n) = sum over k of x(m, k) w(n, k), exact in int32: x the integers of prepared activations (of codes as they are
// stored, those of unsigned elements less half their range), w the weights' integers with their zero points taken off;
// scales take no part. Weights have one scale per row or per tensor and at most 65536 columns. Of `options` only the
// workspace is used.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void gemm_integer(const prepared_activations& x, const packed_view<S>& w, matrix_view<std::int32_t> y,
                  const gemm_options& options = {}, const Executor& threads = {}) {
    detail::integer_product<Isa>(
        x, w, y.rows(), y.cols(),
        [&](std::size_t token, std::size_t output, std::size_t outputs, const std::int32_t* sums) {
            for (std::size_t i = 0; i < outputs; ++i) y.row(token)[output + i] = sums[i];
        },
        options, threads);
}

// The sums of w's rows, exact: what a zero point of x is multiplied by, to be taken off in integer_output::bias:
// bias(n) - (offset of x) x sums(n), the offset as the integers have it (zero point - 128 for unsigned 8-bit codes).
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void weight_sums(const packed_view<S>& w, array_view<std::int32_t> sums, const gemm_options& options = {},
                 const Executor& threads = {}) {
    NIBBLE_CHECK(sums.size() == w.rows(), "weight_sums: one number per row of the weights is needed");
    prepared_activations ones;
    detail::prepare_ones<S>(w.cols(), ones);
    gemm_integer<Isa>(ones, w, matrix_view<std::int32_t>(sums.data(), 1, sums.size()), options, threads);
}

// The same sums to the codes of y, tokens x outputs of an integer element of at most 8 bits, by integer_output: no
// number in floating point is made on the way. y's scale and zero point are the caller's and stay, so that prepare(y)
// feeds the next product. Activations with offsets need a bias (see weight_sums).
template <isa Isa = best_isa, any_scheme S, any_scheme Y, executor Executor = serial>
void gemm_integer(const prepared_activations& x, const packed_view<S>& w, quantized<Y>& y, const integer_output& how,
                  const gemm_options& options = {}, const Executor& threads = {}) {
    using element = typename Y::element_type;
    constexpr detail::integer_mapping grid = detail::integer_mapping_of<element>;
    static_assert(grid.exists && grid.linear, "gemm_integer: y must be of an integer element of at most 8 bits");
    detail::check_integer_output(how, y.rows(), y.cols(), x.asymmetric());
    const std::int64_t low = detail::max_of<std::int64_t>(grid.low, how.low);
    const std::int64_t high = detail::min_of<std::int64_t>(grid.high, how.high);
    NIBBLE_CHECK(low <= high, "gemm_integer: y's element has no integer between low and high");
    const bool add = how.residual.rows() != 0 || how.residual.cols() != 0;
    // Numbers of a whole panel at a time: those that are one for all outputs, and zeros, in arrays of that length.
    constexpr std::size_t width = panel_layout::rows;
    dyadic one_ratio[width];
    for (dyadic& ratio : one_ratio) ratio = how.ratios.size() == 1 ? how.ratios[0] : dyadic{};
    dyadic residual_ratios[4];
    for (dyadic& ratio : residual_ratios) ratio = add ? how.residual_ratio : dyadic{};
    constexpr std::int32_t no_bias[width] = {};
    detail::integer_product<Isa>(
        x, w, y.rows(), y.cols(),
        [&](std::size_t token, std::size_t output, std::size_t outputs, const std::int32_t* sums) {
            dyadic last_ratios[width];
            std::int32_t last_bias[width] = {};
            std::int8_t residual[width] = {};
            std::int32_t integers[width];
            std::uint8_t codes[width];
            const dyadic* const ratios =
                how.ratios.size() == 1 ? one_ratio : kernel::panel_of(how.ratios.data() + output, outputs, last_ratios);
            const std::int32_t* const bias =
                how.bias.empty() ? no_bias : kernel::panel_of(how.bias.data() + output, outputs, last_bias);
            const std::int8_t* const others =
                add ? kernel::panel_of(how.residual.row(token) + output, outputs, residual) : residual;
            for (std::size_t i = 0; i < width; i += 4) {
                kernel::four_longs v;
                kernel::four_longs term;
                kernel::load_longs(sums + i, v);
                kernel::load_longs(bias + i, term);
                v += term;
                kernel::clamp(v, INT32_MIN, INT32_MAX);
                kernel::multiply_dyadics(v, ratios + i);
                v += how.zero;
                if (add) {
                    std::int32_t less_zero[4];
                    for (std::size_t j = 0; j < 4; ++j) less_zero[j] = others[i + j] - how.residual_zero;
                    kernel::load_longs(less_zero, term);
                    kernel::multiply_dyadics(term, residual_ratios);
                    v += term;
                }
                kernel::clamp(v, low, high);
                const auto words = __builtin_convertvector(v, kernel::four_words);
                __builtin_memcpy(integers + i, &words, sizeof words);
            }
            for (std::size_t i = 0; i < width; ++i) codes[i] = kernel::code_of_integer<element>(integers[i]);
            detail::store_codes<element>(codes, outputs, y.row_codes(token), output);
        },
        options, threads);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
