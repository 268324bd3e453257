// gemm_grouped.hpp: the products of several weight matrices and their own rows of x in one call: a mixture of experts.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/gemm.hpp>
#include <nibble/gemm_diagnostics.hpp>
#include <nibble/kernel/gemm_grouped.hpp>
#include <nibble/prepare.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A matrix and the tokens that it meets: rows [first_row, first_row + rows) of x, or of options.activations.rows where
// tokens are gathered, and of y. No rows: it takes no part.
template <any_scheme S> struct gemm_group {
    packed_view<S> weights{};
    std::size_t first_row = 0;
    std::size_t rows = 0;
};
// ... and two of them, of one shape.
template <any_scheme S> struct gemm_gated_group {
    packed_view<S> gate{};
    packed_view<S> up{};
    std::size_t first_row = 0;
    std::size_t rows = 0;
};

namespace detail {

// How a group becomes a product of kernel/gemm.hpp.
struct plain_groups {
    template <any_scheme S> [[nodiscard]] kernel::plain_product<S> operator()(const gemm_group<S>& g) const noexcept {
        return {g.weights};
    }
};
template <epilogue Activation> struct gated_groups {
    const Activation& activation;
    template <any_scheme S>
    [[nodiscard]] kernel::gated_product<S, Activation> operator()(const gemm_gated_group<S>& g) const noexcept {
        return {g.gate, g.up, activation};
    }
};

template <any_scheme S>
[[nodiscard]] array_view<const gemm_group<S>> groups_of(const gemm_group<S>* of, std::size_t n) {
    return {of, n};
}
template <any_scheme S>
[[nodiscard]] array_view<const gemm_gated_group<S>> groups_of(const gemm_gated_group<S>* of, std::size_t n) {
    return {of, n};
}
template <any_scheme S> const packed_view<S>& first_matrix(const gemm_group<S>& g) noexcept {
    return g.weights;
}
template <any_scheme S> const packed_view<S>& first_matrix(const gemm_gated_group<S>& g) noexcept {
    return g.gate;
}

// A list of groups: whatever has data() and size().
template <class Groups>
concept grouped_weights = requires(const Groups& g) { groups_of(g.data(), g.size()); };

template <class Group, class ProductOf, class Destination, epilogue Epilogue>
void check_groups(std::size_t tokens, std::size_t cols, array_view<const Group> groups, const ProductOf& product_of,
                  const Destination& y, const Epilogue& epilogue) {
    NIBBLE_CHECK(y.rows() == tokens, "gemm_grouped: y must have as many rows as x has tokens");
    std::size_t end = 0;
    for (const Group& g : groups) {
        const auto product = product_of(g);
        if (&g == groups.begin()) check_product(tokens, cols, product, y, epilogue);
        for (std::size_t i = 0; i < product.matrices; ++i) {
            const auto& w = product.matrix(i);
            check_panel_rows(w);
            NIBBLE_CHECK(w.rows() == y.cols() && w.cols() == cols,
                         "gemm_grouped: all weights must have the columns of x, and as many rows as y has columns");
        }
        if (g.rows == 0) continue;
        NIBBLE_CHECK(g.first_row >= end && g.first_row <= tokens && g.rows <= tokens - g.first_row,
                     "gemm_grouped: the groups' rows must ascend, none twice, and be rows of x");
        end = g.first_row + g.rows;
    }
}

// The tokens of a group, and what is said of how they are quantized.
template <class Group, stored_float T>
[[nodiscard]] kernel::token_rows<T> rows_of_group(const kernel::token_rows<T>& x, const Group& g) noexcept {
    if (!x.list.empty()) return {x.x, {x.list.data() + g.first_row, g.rows}};
    return {{x.x.row(g.first_row), g.rows, x.x.cols(), x.x.stride()}, {}};
}
template <class Group>
[[nodiscard]] activation_quantization quantization_of_group(const activation_quantization& grid,
                                                            const Group& g) noexcept {
    activation_quantization own = grid;
    if (grid.scales.size() > 1) own.scales = {grid.scales.data() + g.first_row, g.rows};
    if (grid.zeros.size() > 1) own.zeros = {grid.zeros.data() + g.first_row, g.rows};
    return own;
}

// Where things stand in the memory of a call: parts, activations, workers.
struct grouped_bytes {
    std::size_t parts = 0;
    std::size_t activations = 0;
    std::size_t worker = 0;
    [[nodiscard]] std::size_t all(std::size_t concurrency) const noexcept {
        return parts + activations + concurrency * worker;
    }
};
template <isa Isa, class Group>
[[nodiscard]] auto plan_of_group(const Group& g, const activation_options& activations) noexcept {
    const auto& w = first_matrix(g);
    using S = typename std::remove_cvref_t<decltype(w)>::scheme_type;
    return kernel::gemm_plan<S, Isa>(w, g.rows, scales_per_group<S>(activations), activations.quantization.qmax);
}
template <isa Isa, class Group>
[[nodiscard]] grouped_bytes bytes_of_groups(array_view<const Group> groups, std::size_t matrices,
                                            const activation_options& activations) noexcept {
    using plan_type = decltype(plan_of_group<Isa>(groups[0], activations));
    grouped_bytes b{};
    for (const Group& g : groups) {
        if (g.rows == 0) continue;
        const plan_type plan = plan_of_group<Isa>(g, activations);
        b.parts += sizeof(kernel::grouped_part<typename plan_type::scheme_type, Isa>);
        b.activations += kernel::activation_bytes(plan, activations.quantization.asymmetric);
        b.worker = max_of(b.worker, matrices * kernel::worker_bytes(plan));
    }
    b.parts = round_up(b.parts, 64);
    return b;
}

template <isa Isa, stored_float T, class Group, class ProductOf, class Destination, epilogue Epilogue,
          executor Executor>
void gemm_of_groups(const kernel::token_rows<T>& x, array_view<const Group> groups, const ProductOf& product_of,
                    const Destination& y, const Epilogue& epilogue, const gemm_options& options,
                    const Executor& threads) {
    check_executor(threads);
    using Product = decltype(product_of(groups[0]));
    using S = typename Product::scheme_type;
    using plan_type = kernel::gemm_plan<S, Isa>;
    using part_type = kernel::grouped_part<S, Isa>;
    check_groups(x.count(), x.x.cols(), groups, product_of, y, epilogue);
    check_rows(x);
    const activation_quantization& grid = options.activations.quantization;
    const bool asymmetric = grid.asymmetric && plan_type::integers;
    if (plan_type::integers) check_activations<S>(options.activations, x.count());
    const std::size_t sums = Product::matrices * y.cols();
    NIBBLE_CHECK(!asymmetric || options.weight_sums.size() == groups.size() * sums,
                 "gemm_grouped: activations with offsets need the sums of all weights: options.weight_sums, what "
                 "weight_sums(w, sums) gave for each, group after group (of gated ones gate's, then up's)");
    if (y.cols() == 0) return;
    const grouped_bytes bytes = bytes_of_groups<Isa>(groups, Product::matrices, options.activations);
    if (bytes.parts == 0) return;
    with_memory(options, bytes.all(concurrency_of(threads)), [&](std::byte* memory) {
        kernel::grouped_parts<S, Isa> parts;
        kernel::arena activations(memory + bytes.parts);
        for (std::size_t i = 0; i < groups.size(); ++i) {
            if (groups[i].rows == 0) continue;
            const plan_type plan = plan_of_group<Isa>(groups[i], options.activations);
            parts.add(memory + parts.count * sizeof(part_type), plan, i, groups[i].first_row,
                      kernel::activation_memory::take(plan, groups[i].rows, asymmetric, activations));
        }
        std::byte* const workers = memory + bytes.parts + bytes.activations;
        for_each_task(parts.blocks, threads, [&](std::size_t block, std::size_t worker) {
            const part_type& part = parts.of(&part_type::first_block, block);
            const Group& g = groups[part.group];
            kernel::prepare_block<Isa>(part.plan, rows_of_group(x, g), quantization_of_group(grid, g),
                                       block - part.first_block, part.x,
                                       kernel::memory_of_worker(part.plan, workers + worker * bytes.worker).row);
        });
        kernel::for_each_item(
            parts, workers, bytes.worker, threads,
            [&](const part_type& part, const kernel::panel_work& work, std::size_t worker) {
                const float* own_sums = asymmetric ? options.weight_sums.data() + part.group * sums : nullptr;
                kernel::multiply_panels<Isa>(part.plan, part.x, own_sums, product_of(groups[part.group]), y,
                                             part.first_row, epilogue, work, workers + worker * bytes.worker);
            });
    });
}

} // namespace detail

// Bytes of workspace that a call of gemm_grouped, or gemm_gated_grouped, with these groups needs. For calls of
// gemm_grouped<Isa>.
template <isa Isa = best_isa, detail::grouped_weights Groups>
[[nodiscard]] std::size_t gemm_grouped_workspace_bytes(const Groups& groups, std::size_t concurrency,
                                                       const gemm_options& options = {}) {
    const auto list = detail::groups_of(groups.data(), groups.size());
    std::size_t matrices = 1;
    if constexpr (requires { list[0].up; }) matrices = 2;
    return detail::bytes_of_groups<Isa>(list, matrices, options.activations)
        .all(detail::checked_concurrency(concurrency));
}

// For each group g and each of its rows m:  y(m, n) = epilogue(sum over k of x(m, k) x g.weights(n, k)). The bits are
// those of gemm of the group's rows and weights, one call after the other, for any executor and ISA. All weights have
// one shape, of K columns and N rows; `groups` is any list of them (std::vector, std::span, array_view) whose rows
// ascend and do not overlap. Rows of y that no group names stay as they are.
//
// For a mixture of experts: tokens are sorted by expert, options.activations.rows says which row of x each of them is
// (one row may be several experts'), and scatter_add_rows (transform/) brings the results back. What the options and
// the epilogue have per token is per row of y: scales of the grid, scale_tokens, add_residual, scatter_rows.
// options.weight_sums has the sums of all groups' weights, one after the other.
//
// Workers share out all groups together, by cost, in one parallel_for over blocks of tokens (to quantize them) and one
// over panels of weights: where groups are small and many, this is what separate calls lose by threads that wait.
// Memory: the activations of all tokens, in the form that the kernels read, and 512 bytes or less for each group.
template <isa Isa = best_isa, class T = const float, detail::grouped_weights Groups,
          detail::gemm_result Y = matrix_view<float>, epilogue Epilogue = identity, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm_grouped(matrix_view<T> x, const Groups& groups, const Y& y, const Epilogue& epilogue = {},
                  const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_groups<Isa>(kernel::token_rows<std::remove_const_t<T>>{x, options.activations.rows},
                                detail::groups_of(groups.data(), groups.size()), detail::plain_groups{}, y, epilogue,
                                options, threads);
}
// Without an epilogue.
template <isa Isa = best_isa, class T = const float, detail::grouped_weights Groups,
          detail::gemm_result Y = matrix_view<float>, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm_grouped(matrix_view<T> x, const Groups& groups, const Y& y, const gemm_options& options,
                  const Executor& threads = {}) {
    gemm_grouped<Isa>(x, groups, y, identity{}, options, threads);
}

// y(m, :) = epilogue(activation(x(m, :) gateᵀ) x (x(m, :) upᵀ)) likewise: the bits of gemm_gated, group by group.
template <isa Isa = best_isa, class T = const float, detail::grouped_weights Groups,
          detail::gemm_result Y = matrix_view<float>, epilogue Activation, epilogue Epilogue = identity,
          executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm_gated_grouped(matrix_view<T> x, const Groups& groups, const Y& y, const Activation& activation,
                        const Epilogue& epilogue = {}, const gemm_options& options = {}, const Executor& threads = {}) {
    detail::gemm_of_groups<Isa>(kernel::token_rows<std::remove_const_t<T>>{x, options.activations.rows},
                                detail::groups_of(groups.data(), groups.size()),
                                detail::gated_groups<Activation>{activation}, y, epilogue, options, threads);
}
// Without an epilogue.
template <isa Isa = best_isa, class T = const float, detail::grouped_weights Groups,
          detail::gemm_result Y = matrix_view<float>, epilogue Activation, executor Executor = serial>
    requires(stored_float<std::remove_const_t<T>>)
void gemm_gated_grouped(matrix_view<T> x, const Groups& groups, const Y& y, const Activation& activation,
                        const gemm_options& options, const Executor& threads = {}) {
    gemm_gated_grouped<Isa>(x, groups, y, activation, identity{}, options, threads);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
