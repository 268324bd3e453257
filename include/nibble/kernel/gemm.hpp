// kernel/gemm.hpp: the loops around the sums: activations once, then panels x tokens in chunks, results through the epilogue.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/isa/stored_lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// Eight results to where they go.
template <isa Isa, stored_float T>
NIBBLE_INLINE void put(const matrix_view<T>& y, const lanes<Isa>& x, const position& at) noexcept {
    store_lanes<Isa>(y.row(at.token) + at.output, x, at.count);
}

// What makes numbers of the sums of a panel, for the tokens of a task.
struct panel_numbers {
    const float* factors = nullptr;     // of its rows
    const float* scales = nullptr;      // of the tokens, or null
    const float* corrections = nullptr; // of the tokens, or null
    const float* weight_sums = nullptr; // of its rows, with corrections
};
template <isa Isa>
[[nodiscard]] NIBBLE_INLINE lanes<Isa> finished(const float* results, const panel_numbers& by, std::size_t t,
                                                std::size_t half, std::size_t count) noexcept {
    lanes<Isa> r(Isa::multiply(Isa::load(results + t * panel_layout::rows + half), Isa::load(by.factors + half)));
    if (by.scales != nullptr) r = r * lanes<Isa>(by.scales[t]);
    if (by.corrections != nullptr)
        r = fma(lanes<Isa>(by.corrections[t]), lanes<Isa>::load(by.weight_sums + half, count), r.kept());
    return r.kept();
}

// The results of one panel to y: row factors, token scales, epilogue, store.
template <isa Isa, epilogue Epilogue, class Destination>
NIBBLE_INLINE void finish_panel(const float* results, const panel_numbers& by, std::size_t first_token, std::size_t tokens,
                                std::size_t first_output, std::size_t outputs, const Destination& y,
                                const Epilogue& finish) {
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t half = 0; half < outputs; half += 8) {
            const position at{first_token + t, first_output + half, detail::min_of<std::size_t>(8, outputs - half)};
            put<Isa>(y, lanes<Isa>(finish(finished<Isa>(results, by, t, half, at.count), at)), at);
        }
}

template <any_scheme S>
[[nodiscard]] inline activation_layout layout_of(const gemm_plan<S>& plan) noexcept {
    return {.depth = plan.depth,
            .phases = plan.phases,
            .tokens = plan.tokens,
            .token_blocks = plan.token_blocks,
            .real = plan.real,
            .wide = plan.wide,
            .per_part = plan.per_part};
}
// The activations' memory as the preparation and the sums see it, the corrections behind it.
template <any_scheme S>
struct activation_pieces {
    typename gemm_plan<S>::shared_memory shared{};
    float* corrections = nullptr;
    activation_pieces(const gemm_plan<S>& plan, bool asymmetric, arena& memory) noexcept : shared(plan.take_shared(memory)) {
        if (asymmetric && !plan.real) corrections = memory.take<float>(plan.tokens);
    }
    [[nodiscard]] activation_memory all() const noexcept {
        return {shared.values, shared.real_values, shared.pair_sums, shared.part_sums, shared.scales, corrections};
    }
};

// Bytes of all activations, and of what the workers need while they multiply.
template <any_scheme S>
[[nodiscard]] inline std::size_t activation_bytes(const gemm_plan<S>& plan, bool asymmetric) noexcept {
    arena counter;
    (void)activation_pieces<S>(plan, asymmetric, counter);
    return counter.used();
}
template <any_scheme S>
[[nodiscard]] inline std::size_t worker_bytes(const gemm_plan<S>& plan) noexcept {
    arena counter;
    (void)plan.take_worker(counter);
    return counter.used();
}
template <any_scheme S>
[[nodiscard]] inline typename gemm_plan<S>::worker_memory memory_of_worker(const gemm_plan<S>& plan,
                                                                           std::byte* at) noexcept {
    arena mine(at);
    return plan.take_worker(mine);
}

// Panels x tokens in chunks: the sums, then `finish_group(first_panel, panels, first_token, tokens, worker's memory)`.
template <any_scheme S, executor Executor, class Group>
inline void for_each_group(const gemm_plan<S>& plan, const Executor& threads, const Group& group) {
    threads.parallel_for(plan.panel_tasks * plan.token_tasks, [&](std::size_t task, std::size_t worker) {
        const std::size_t begin = task % plan.panel_tasks * plan.task_panels;
        const std::size_t end = detail::min_of(plan.panels, begin + plan.task_panels);
        const std::size_t first_block = task / plan.panel_tasks * plan.chunk_blocks;
        const std::size_t end_block = detail::min_of(plan.token_blocks, first_block + plan.chunk_blocks);
        for (std::size_t first = begin; first < end; first += plan.panel_group)
            group(first, detail::min_of(plan.panel_group, end - first), first_block, end_block, worker);
    });
}

// y from activations in place; `workers` has worker_bytes for each.
template <isa Isa, any_scheme S, class Destination, epilogue Epilogue, executor Executor>
inline void multiply(const gemm_plan<S>& plan, const activation_pieces<S>& x, const float* weight_sums, const packed<S>& w,
                     const Destination& y, const Epilogue& finish, std::byte* workers, const Executor& threads) {
    const bool token_scales = !plan.real && !plan.per_part;
    const std::size_t stride = worker_bytes(plan);
    for_each_group(plan, threads, [&](std::size_t first, std::size_t panels, std::size_t first_block, std::size_t end_block,
                                      std::size_t worker) {
        const typename gemm_plan<S>::worker_memory own = memory_of_worker(plan, workers + worker * stride);
        const std::size_t first_token = plan.block_token(first_block);
        const std::size_t tokens = plan.block_token(end_block) - first_token;
        sum_group<Isa, S>(plan, w, x.shared, own, first, panels, first_block, end_block, first + plan.panel_group);
        for (std::size_t p = 0; p < panels; ++p) {
            const std::size_t output = (first + p) * panel_layout::rows;
            panel_numbers by{};
            by.factors = reinterpret_cast<const float*>(w.panel(first + p) + w.sections().factors);
            if (token_scales) by.scales = x.shared.scales + first_token;
            if (x.corrections != nullptr) {
                by.corrections = x.corrections + first_token;
                by.weight_sums = weight_sums + output;
            }
            finish_panel<Isa>(own.results + p * tokens * panel_layout::rows, by, first_token, tokens, output,
                              detail::min_of(panel_layout::rows, plan.outputs - output), y, finish);
        }
    });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
