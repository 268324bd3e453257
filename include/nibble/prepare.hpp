// prepare.hpp: activations quantized once and multiplied by several matrices: queries, keys and values, or gate and up.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/atomic.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/coded_activations.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Where activations get their scale on the way into an integer kernel. Of a token, or of those of its columns that
// share a weight scale, with max = max|x| over them, in fp32 and with one rounding each:
//   scale = max / 127,  integer = round(x (127 / max)), ties to even
// (with another limit or an offset see activation_quantization); 127 / max is rounded first, and the product before it
// becomes an integer. If 127 / max is not finite (max below 3.8e-37) the integers and the scale are 0; a NaN or an
// infinity makes the scale NaN.
enum class activation_scale {
    automatic, // per_group where rows of weights have groups, unless a grid is given that is per token: static scales,
               // offsets
    per_token, // one for all columns: faster, by 0 to 3 % for one token and for 128 by up to 4 % with groups of 128, 10
               // % of 32 and 15 % of 16, but what limits the accuracy of weights of 6 bits and more
    per_group, // one for each group of columns that shares a weight scale. An error for weights that become integers
               // and have no groups along K, one scale per row or per matrix
};

// What prepare does to x. For schemes whose kernel takes fp32 activations, which are not rounded at all, only `rows`
// matters.
struct activation_options {
    nibble::activation_scale scale = nibble::activation_scale::automatic;
    nibble::activation_quantization quantization{}; // static scales and offsets: per token only; fewer bits: either
    // Tokens by number: token i of the product is row rows[i] of x. Empty: all rows in order. As a product gathers them
    // itself, no pass over x is added.
    array_view<const std::uint32_t> rows{};
};

namespace detail {
struct prepared_access;
} // namespace detail

// Activations of some tokens as a kernel reads them, owning their memory. They serve any weights whose kernel wants the
// same order, on every ISA (checked by gemm): the same number of columns and of columns per scale, and the same kernel:
// fp32, or integers, without VNNI of as many bits, or of 8 and as small as activation_quantization::qmax says.
// Preparing into an object again keeps its memory, if that is large enough.
class prepared_activations {
public:
    prepared_activations() noexcept = default;
    explicit prepared_activations(allocator from) noexcept : from_(from) {}

    [[nodiscard]] std::size_t tokens() const noexcept { return layout_->blocks.tokens; }
    [[nodiscard]] std::size_t cols() const noexcept { return layout_->depth.cols; }
    // Bytes held, which never become less.
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    // Do the integers have an offset, so that gemm needs the sums of the weights?
    [[nodiscard]] bool asymmetric() const noexcept { return asymmetric_; }

private:
    friend struct detail::prepared_access;
    allocator from_{};
    buffer memory_{};
    detail::reset_on_move<kernel::activation_layout> layout_;
    detail::reset_on_move<bool> asymmetric_;
};

namespace detail {

struct prepared_access {
    // Room for activations of that layout and for `scratch_bytes` behind them.
    [[nodiscard]] static std::byte* reserve(prepared_activations& to, const kernel::activation_layout& layout,
                                            bool asymmetric, std::size_t scratch_bytes) {
        const std::size_t bytes = kernel::activation_bytes(layout, asymmetric) + scratch_bytes;
        clear(to);
        if (bytes > to.memory_.size()) {
            to.memory_ = buffer();
            to.memory_ = buffer(bytes, to.from_);
        }
        to.layout_ = layout;
        to.asymmetric_ = asymmetric && layout.order.quantized();
        return to.memory_.data();
    }
    static void clear(prepared_activations& x) noexcept { x.layout_ = kernel::activation_layout{}; }
    [[nodiscard]] static const kernel::activation_layout& layout(const prepared_activations& x) noexcept {
        return x.layout_;
    }
    // Where kernels find them; they write nothing there.
    [[nodiscard]] static kernel::activation_memory memory(const prepared_activations& x) noexcept {
        kernel::arena memory(const_cast<std::byte*>(x.memory_.data()));
        return kernel::activation_memory::take(x.layout_, x.tokens(), x.asymmetric_, memory);
    }
};

template <stored_float T> void check_rows(const kernel::token_rows<T>& x) {
    for (const std::uint32_t row : x.list)
        NIBBLE_CHECK(row < x.x.rows(), "prepare: a number in options.rows is not that of a row of x");
}

// Static scales and offsets belong to tokens.
[[nodiscard]] constexpr bool is_per_token(const activation_quantization& grid) noexcept {
    return !grid.scales.empty() || !grid.zeros.empty() || grid.asymmetric;
}
// What `options` come to for weights of scheme S.
template <any_scheme S> [[nodiscard]] constexpr bool scales_per_group(const activation_options& options) noexcept {
    if (options.scale != activation_scale::automatic) return options.scale == activation_scale::per_group;
    return scheme_traits<S>::has_groups() && !is_per_token(options.quantization);
}

// Of activations that become integers.
inline void check_grid(const activation_quantization& grid, activation_scale scale, std::size_t tokens) {
    NIBBLE_CHECK(grid.qmax >= 1 && grid.qmax <= 127, "activation_quantization: qmax must lie between 1 and 127");
    if (!is_per_token(grid)) return;
    NIBBLE_CHECK(
        scale != activation_scale::per_group,
        "activation_quantization: static scales and offsets are per token; with scales per group take neither");
    NIBBLE_CHECK(grid.scales.size() <= 1 || grid.scales.size() == tokens,
                 "activation_quantization: give one static scale, or one per token");
    NIBBLE_CHECK(grid.zeros.size() == (grid.asymmetric ? grid.scales.size() : 0),
                 "activation_quantization: zeros belong to static scales with asymmetric, one to each");
    for (const float s : grid.scales)
        NIBBLE_CHECK(s > 0.0f && is_finite(s) && is_finite(1.0f / s),
                     "activation_quantization: a static scale must be positive, and its reciprocal finite");
}

template <any_scheme S> void check_activations(const activation_options& options, std::size_t tokens) {
    NIBBLE_CHECK(
        options.scale != activation_scale::per_group || scheme_traits<S>::has_groups(),
        "activation_scale: per_group has no meaning for a scheme without groups along K, with one scale per row or per "
        "matrix: leave it automatic, or take per_token or a scheme with groups");
    check_grid(options.quantization, options.scale, tokens);
}

// One token of exact ones for weights of `cols` columns.
template <any_scheme S> void prepare_ones(std::size_t cols, prepared_activations& into) {
    const kernel::gemm_plan<S, best_isa> plan(packed_shape<S>(0, cols), 1, false, 1);
    const kernel::activation_layout& layout = plan;
    std::byte* base = prepared_access::reserve(into, plan, false, round_up(layout.row_bytes(), 64));
    if (base == nullptr) return;
    const kernel::activation_memory memory = prepared_access::memory(into);
    kernel::prepare_ones(layout, memory, reinterpret_cast<std::int8_t*>(base + kernel::activation_bytes(plan, false)));
}

// All blocks into `memory`; row_of(worker) is a worker's scratch of layout.row_bytes().
template <class Isa, stored_float T, class RowOf, executor Executor>
void prepare_tokens(const kernel::activation_layout& layout, const kernel::token_rows<T>& x,
                    const activation_quantization& grid, const kernel::activation_memory& memory, const RowOf& row_of,
                    const Executor& threads) {
    for_each_task(layout.blocks.count, threads, [&](std::size_t block, std::size_t worker) {
        kernel::prepare_block<Isa>(layout, x, grid, block, memory, row_of(worker));
    });
}

} // namespace detail

// Can gemm meet these activations with weights of scheme S, of as many columns? They fit the scheme that they were
// prepared for and every other whose kernel reads the same order (see prepared_activations); scaled per group only
// schemes with groups. What nothing was prepared into fits nothing.
template <any_scheme S, isa Isa = best_isa> [[nodiscard]] bool fits(const prepared_activations& x) noexcept {
    const kernel::activation_layout& layout = detail::prepared_access::layout(x);
    const kernel::gemm_plan<S, Isa> plan(packed_shape<S>(0, x.cols()), x.tokens(), layout.per_part, layout.qmax);
    return layout == plan && (!layout.per_part || detail::scheme_traits<S>::has_groups());
}
// ... with these weights: of that scheme, of as many columns, and in the panels that kernels read.
template <any_scheme S> [[nodiscard]] bool fits(const prepared_activations& x, const packed_view<S>& w) noexcept {
    return w.panel_rows() == panel_layout::rows && x.cols() == w.cols() && fits<S>(x);
}

namespace detail {

template <any_scheme S, isa Isa> void check_fits(const prepared_activations& x) {
    NIBBLE_CHECK((fits<S, Isa>(x)),
                 "gemm: these activations were prepared for a scheme whose kernel reads them in another order, or has "
                 "other groups; prepare them for this one (fits(x, w) tells)");
}

} // namespace detail

namespace detail {

// `tokens` rows of `cols` columns; rows_of(scratch) has them for a worker, whose scratch is `own_bytes` long.
template <any_scheme S, isa Isa, class RowsOf, executor Executor>
void prepare_rows(std::size_t tokens, std::size_t cols, std::size_t own_bytes, const RowsOf& rows_of,
                  prepared_activations& into, const activation_options& options, const Executor& threads) {
    // Of weights the order of activations depends on nothing but the number of columns.
    const kernel::gemm_plan<S, Isa> plan(packed_shape<S>(0, cols), tokens, scales_per_group<S>(options),
                                         options.quantization.qmax);
    if (plan.integers) check_activations<S>(options, tokens);
    const kernel::activation_layout& layout = plan;
    const std::size_t row_bytes = round_up(layout.row_bytes(), 64);
    const std::size_t stride = row_bytes + round_up(own_bytes, 64);
    std::byte* base =
        prepared_access::reserve(into, plan, options.quantization.asymmetric, stride * concurrency_of(threads));
    if (base == nullptr) return;
    const kernel::activation_memory memory = prepared_access::memory(into);
    std::byte* scratch = base + kernel::activation_bytes(plan, options.quantization.asymmetric);
    for_each_task(layout.blocks.count, threads, [&](std::size_t block, std::size_t worker) {
        std::byte* own = scratch + worker * stride;
        kernel::prepare_block<Isa>(layout, rows_of(own + row_bytes), options.quantization, block, memory,
                                   reinterpret_cast<std::int8_t*>(own));
    });
}

} // namespace detail

// x, M x K of fp32, fp16 or bf16, as weights of scheme S want it, into `into`: what gemm(x, ...) does with the same
// options before it multiplies. Allocates only if `into` has never held as much.
template <any_scheme S, isa Isa = best_isa, class T = const float, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void prepare(matrix_view<T> x, prepared_activations& into, const activation_options& options = {},
             const Executor& threads = {}) {
    detail::check_executor(threads);
    const kernel::token_rows<std::remove_const_t<T>> rows{x, options.rows};
    detail::check_rows(rows);
    detail::prepare_rows<S, Isa>(
        rows.count(), x.cols(), 0, [&](std::byte*) { return rows; }, into, options, threads);
}

// The same into a new object.
template <any_scheme S, isa Isa = best_isa, class T = const float, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
[[nodiscard]] prepared_activations prepare(matrix_view<T> x, const activation_options& options = {},
                                           const Executor& threads = {}) {
    prepared_activations made;
    prepare<S, Isa>(x, made, options, threads);
    return made;
}

// Activations that are quantized already, codes and scales as they are stored: both operands of the product are then
// quantized matrices (W8A8, W4A4). A row is a token. For schemes S of the integer family A's element must be an integer
// of at most 8 bits (times a power of two), with one scale per token, or per group of columns whose size is that of the
// weights' groups or a multiple of it; with integer zero points one per token (then gemm needs the sums of the
// weights). The code of -128 is refused by kernels for weights of few bits, and `into` is empty then. All other schemes
// take the values in fp32, dequantized exactly as dequantize does.
template <any_scheme S, any_scheme A, executor Executor = serial>
void prepare(const quantized<A>& x, prepared_activations& into, const Executor& threads = {}) {
    detail::check_executor(threads);
    using element = typename A::element_type;
    using P = kernel::gemm_plan<S, best_isa>;
    static_assert(element::bits <= 8, "prepare: x has 16 or 32 bits per value: pass it as a matrix");
    static_assert(
        !P::integers || kernel::is_activation_element<element>,
        "prepare: x must be stored in integers of at most 8 bits to meet weights of this scheme; dequantize it");
    static_assert(!P::integers || !A::has_minimum,
                  "prepare: a minimum has no place in integer activations; dequantize x");
    const std::size_t group_size = detail::scheme_traits<A>::group_size(x.cols());
    const bool per_part = group_size < x.cols();
    const P plan(packed_shape<S>(0, x.cols()), x.rows(), per_part, kernel::activation_magnitude<element>);
    if constexpr (P::integers) {
        NIBBLE_CHECK(
            !per_part || group_size % plan.depth.group_size == 0,
            "prepare: x must have one scale per token, or groups of the size of the weights' groups or a multiple "
            "of it");
        NIBBLE_CHECK(!per_part || !A::has_integer_zero,
                     "prepare: x has zero points per group; only one per token can be met");
    }
    constexpr bool asymmetric = A::has_integer_zero || detail::lane_offset<element> != 0;
    NIBBLE_CHECK(!P::integers || !per_part || !asymmetric, "prepare: unsigned codes need one scale per token");
    const kernel::activation_layout& layout = plan;
    const std::size_t row_bytes = detail::round_up(layout.row_bytes(), 64);
    const std::size_t stride = row_bytes + detail::round_up(x.cols(), 64);
    std::byte* base =
        detail::prepared_access::reserve(into, plan, asymmetric, stride * detail::concurrency_of(threads));
    if (base == nullptr) return;
    const kernel::activation_memory memory = detail::prepared_access::memory(into);
    std::byte* scratch = base + kernel::activation_bytes(plan, asymmetric);
    detail::atomic<bool> below{false};
    detail::for_each_task(layout.blocks.count, threads, [&](std::size_t block, std::size_t worker) {
        std::byte* own = scratch + worker * stride;
        if (kernel::place_codes_of_block(layout, x, block, memory, reinterpret_cast<std::int8_t*>(own),
                                         reinterpret_cast<std::uint8_t*>(own + row_bytes)))
            below.store_relaxed(true);
    });
    // The same on every machine, though VNNI takes -128 everywhere.
    const bool taken = !P::integers || !detail::fits_int16_sums<typename S::element_type> || !below.load_relaxed();
    if (!taken) detail::prepared_access::clear(into);
    NIBBLE_CHECK(taken,
                 "prepare: x holds the code of -128, which weights of few bits cannot meet; quantize to -127 ... 127");
}
template <any_scheme S, any_scheme A, executor Executor = serial>
[[nodiscard]] prepared_activations prepare(const quantized<A>& x, const Executor& threads = {}) {
    prepared_activations made;
    prepare<S>(x, made, threads);
    return made;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
