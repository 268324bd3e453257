// kernel/gemm.hpp: the loops around the sums: activations once, then panels x tokens in chunks, results through the
// epilogue.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/work_region.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/isa/stored_lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Eight results to where they go: a matrix, or whatever a destination (epilogue/destination.hpp) makes of them.
template <isa Isa, stored_float T>
NIBBLE_INLINE void put(const matrix_view<T>& y, const lanes<Isa>& x, const position& at) noexcept {
    store_lanes<Isa>(y.row(at.token) + at.output, x, at.count);
}
template <isa Isa, destination Destination>
NIBBLE_INLINE void put(const Destination& y, const lanes<Isa>& x, const position& at) noexcept {
    y.put(x, at);
}

// What makes numbers of the sums of a panel, for the tokens of a group.
struct panel_numbers {
    const float* results = nullptr;     // [token][16], the sums
    const float* factors = nullptr;     // of its rows
    const float* scales = nullptr;      // of the tokens, or null
    const float* corrections = nullptr; // of the tokens, or null
    const float* weight_sums = nullptr; // of its rows, with corrections
};
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE lanes<Isa> finished(const panel_numbers& by, std::size_t t, std::size_t half,
                                                std::size_t count) noexcept {
    lanes<Isa> r(Isa::multiply(Isa::load(by.results + t * panel_layout::rows + half), Isa::load(by.factors + half)));
    if (by.scales != nullptr) r = r * lanes<Isa>(by.scales[t]);
    if (by.corrections != nullptr)
        r = fma(lanes<Isa>(by.corrections[t]), lanes<Isa>::load(by.weight_sums + half, count), r.kept());
    return r.kept();
}

// What is multiplied: the matrices, all of one shape, and how their numbers at one place become one result.
template <any_scheme S> struct plain_product {
    using scheme_type = S;
    static constexpr std::size_t matrices = 1;
    const packed_view<S>& weights;
    [[nodiscard]] const packed_view<S>& matrix(std::size_t) const noexcept { return weights; }
    template <isa Isa>
    [[nodiscard]] NIBBLE_INLINE lanes<Isa> result(const panel_numbers* by, std::size_t t, std::size_t half,
                                                  const position& at) const noexcept {
        return finished<Isa>(by[0], t, half, at.count);
    }
};
// activation(x gateᵀ) x (x upᵀ)
template <any_scheme S, epilogue Activation> struct gated_product {
    using scheme_type = S;
    static constexpr std::size_t matrices = 2;
    const packed_view<S>& gate;
    const packed_view<S>& up;
    const Activation& activation;
    [[nodiscard]] const packed_view<S>& matrix(std::size_t i) const noexcept { return i == 0 ? gate : up; }
    template <isa Isa>
    [[nodiscard]] NIBBLE_INLINE lanes<Isa> result(const panel_numbers* by, std::size_t t, std::size_t half,
                                                  const position& at) const noexcept {
        const lanes<Isa> g(activation(finished<Isa>(by[0], t, half, at.count), at));
        return (g.kept() * finished<Isa>(by[1], t, half, at.count)).kept();
    }
};

// The results of one panel and some tokens to y: row factors, token scales, epilogue, store.
template <isa Isa, class Product, epilogue Epilogue, class Destination>
NIBBLE_INLINE void finish_panel(const Product& product, const panel_numbers* by, std::size_t first_token,
                                std::size_t tokens, std::size_t first_output, std::size_t outputs, const Destination& y,
                                const Epilogue& epilogue) {
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t half = 0; half < outputs; half += 8) {
            const position at{first_token + t, first_output + half, detail::min_of<std::size_t>(8, outputs - half)};
            put<Isa>(y, lanes<Isa>(epilogue(product.template result<Isa>(by, t, half, at), at)), at);
        }
}

// Bytes of all activations, and of what the workers need while they multiply.
[[nodiscard]] inline std::size_t activation_bytes(const activation_layout& layout, bool asymmetric) noexcept {
    arena counter;
    (void)activation_memory::take(layout, layout.blocks.tokens, asymmetric, counter);
    return counter.used();
}
template <any_scheme S, isa Isa> [[nodiscard]] inline std::size_t worker_bytes(const gemm_plan<S, Isa>& plan) noexcept {
    arena counter;
    (void)plan.take_worker(counter);
    return counter.used();
}
template <any_scheme S, isa Isa>
[[nodiscard]] inline typename gemm_plan<S, Isa>::worker_memory memory_of_worker(const gemm_plan<S, Isa>& plan,
                                                                                std::byte* at) noexcept {
    arena mine(at);
    return plan.take_worker(mine);
}

// Item `item` of panel_groups x token_chunks; `follows`: its worker's last was the one before.
template <any_scheme S, isa Isa>
[[nodiscard]] inline panel_work work_of(const gemm_plan<S, Isa>& plan, std::size_t item, bool follows) noexcept {
    const auto first_panel = [&](std::size_t i) { return i % plan.panel_groups * plan.panel_group; };
    panel_work work{};
    work.first_panel = first_panel(item);
    work.panels = detail::min_of(plan.panel_group, plan.panels - work.first_panel);
    work.next_panel = item + 1 < plan.panel_groups * plan.token_chunks ? first_panel(item + 1) : plan.panels;
    work.first_block = item / plan.panel_groups * plan.chunk_blocks;
    work.end_block = detail::min_of(plan.blocks.count, work.first_block + plan.chunk_blocks);
    work.begins = !follows;
    return work;
}

// run(panel_work, worker) for all panels and tokens; workers' memory is `stride` apart.
template <any_scheme S, isa Isa, executor Executor, class Run>
inline void for_each_group(const gemm_plan<S, Isa>& plan, std::byte* workers, std::size_t stride,
                           const Executor& threads, const Run& run) {
    detail::for_each_in_regions(
        plan.panel_groups * plan.token_chunks, workers, stride, threads,
        [&](std::size_t item, bool follows, std::size_t worker) { run(work_of(plan, item, follows), worker); });
}

// One item: its results to y, where the plan's first token is row `first_row`. `own` has worker_bytes for each matrix;
// `weight_sums`, for activations with offsets: of the first matrix, then of the next.
template <isa Isa, class Product, class Destination, epilogue Epilogue>
inline void multiply_panels(const gemm_plan<typename Product::scheme_type, Isa>& plan, const activation_memory& x,
                            const float* weight_sums, const Product& product, const Destination& y,
                            std::size_t first_row, const Epilogue& epilogue, const panel_work& work, std::byte* own) {
    using S = typename Product::scheme_type;
    const bool token_scales = plan.integers && !plan.per_part;
    const std::size_t stride = worker_bytes(plan);
    const std::size_t first_token = plan.blocks.first(work.first_block);
    const std::size_t tokens = plan.blocks.first(work.end_block) - first_token;
    const float* results[Product::matrices];
    const auto finish_tokens = [&](std::size_t token, std::size_t count) {
        for (std::size_t p = 0; p < work.panels; ++p) {
            const std::size_t output = (work.first_panel + p) * panel_layout::rows;
            panel_numbers by[Product::matrices]{};
            for (std::size_t i = 0; i < Product::matrices; ++i) {
                const packed_view<S>& w = product.matrix(i);
                by[i].results = results[i] + (p * tokens + token - first_token) * panel_layout::rows;
                by[i].factors = reinterpret_cast<const float*>(w.panel(work.first_panel + p) + w.sections().factors);
                if (token_scales) by[i].scales = x.scales + token;
                if (x.corrections != nullptr) {
                    by[i].corrections = x.corrections + token;
                    by[i].weight_sums = weight_sums + i * plan.outputs + output;
                }
            }
            finish_panel<Isa>(product, by, first_row + token, count, output,
                              detail::min_of(panel_layout::rows, plan.outputs - output), y, epilogue);
        }
    };
    for (std::size_t i = 0; i < Product::matrices; ++i) {
        const typename gemm_plan<S, Isa>::worker_memory mine = memory_of_worker(plan, own + i * stride);
        results[i] = mine.results;
        sum_group<Isa, S>(plan, product.matrix(i), x, mine, work,
                          i + 1 == Product::matrices ? tokens_done::of(finish_tokens) : tokens_done{});
    }
}

// y from activations in place; `workers` has worker_bytes for each and for each matrix.
template <isa Isa, class Product, class Destination, epilogue Epilogue, executor Executor>
inline void multiply(const gemm_plan<typename Product::scheme_type, Isa>& plan, const activation_memory& x,
                     const float* weight_sums, const Product& product, const Destination& y, const Epilogue& epilogue,
                     std::byte* workers, const Executor& threads) {
    const std::size_t stride = Product::matrices * worker_bytes(plan);
    for_each_group(plan, workers, stride, threads, [&](const panel_work& work, std::size_t worker) {
        multiply_panels<Isa>(plan, x, weight_sums, product, y, 0, epilogue, work, workers + worker * stride);
    });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
