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

// The results of one panel to y: row factors, token scales, epilogue, store.
template <isa Isa, epilogue Epilogue, class Destination>
NIBBLE_INLINE void finish_panel(const float* results, const float* factors, const float* token_scales,
                                std::size_t first_token, std::size_t tokens, std::size_t first_output, std::size_t outputs,
                                const Destination& y, const Epilogue& finish) {
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t half = 0; half < outputs; half += 8) {
            lanes<Isa> r(Isa::multiply(Isa::load(results + t * panel_layout::rows + half), Isa::load(factors + half)));
            if (token_scales != nullptr) r = r * lanes<Isa>(token_scales[t]);
            const position at{first_token + t, first_output + half, detail::min_of<std::size_t>(8, outputs - half)};
            put<Isa>(y, lanes<Isa>(finish(r.kept(), at)), at);
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
template <any_scheme S>
[[nodiscard]] inline activation_memory memory_of(const gemm_plan<S>&,
                                                 const typename gemm_plan<S>::shared_memory& shared) noexcept {
    return {shared.values, shared.real_values, shared.pair_sums, shared.part_sums, shared.scales};
}

template <isa Isa, any_scheme S, stored_float T, class Destination, epilogue Epilogue, executor Executor>
inline void run_gemm(const gemm_plan<S>& plan, matrix_view<const T> x, const packed<S>& w, const Destination& y,
                     const Epilogue& finish, std::byte* memory, const Executor& threads) {
    using P = gemm_plan<S>;
    arena pieces(memory);
    const typename P::shared_memory shared = plan.take_shared(pieces);
    const std::size_t first_worker = pieces.used();
    arena one;
    (void)plan.take_worker(one);
    const auto worker_memory = [&](std::size_t worker) {
        arena mine(memory + first_worker + worker * one.used());
        return plan.take_worker(mine);
    };
    const activation_layout layout = layout_of(plan);
    threads.parallel_for(plan.token_blocks, [&](std::size_t block, std::size_t worker) {
        prepare_block<Isa>(layout, x, block, memory_of(plan, shared), worker_memory(worker).row);
    });
    threads.parallel_for(plan.panel_tasks * plan.token_tasks, [&](std::size_t task, std::size_t worker) {
        const std::size_t begin = task % plan.panel_tasks * plan.task_panels;
        const std::size_t end = detail::min_of(plan.panels, begin + plan.task_panels);
        const std::size_t first_block = task / plan.panel_tasks * plan.chunk_blocks;
        const std::size_t end_block = detail::min_of(plan.token_blocks, first_block + plan.chunk_blocks);
        const std::size_t first_token = plan.block_token(first_block);
        const std::size_t tokens = plan.block_token(end_block) - first_token;
        const typename P::worker_memory own = worker_memory(worker);
        for (std::size_t first = begin; first < end; first += plan.panel_group) {
            const std::size_t panels = detail::min_of(plan.panel_group, end - first);
            sum_group<Isa, S>(plan, w, shared, own, first, panels, first_block, end_block, first + plan.panel_group);
            for (std::size_t p = 0; p < panels; ++p) {
                const std::size_t output = (first + p) * panel_layout::rows;
                finish_panel<Isa>(own.results + p * tokens * panel_layout::rows,
                                  reinterpret_cast<const float*>(w.panel(first + p) + w.sections().factors),
                                  P::real || plan.per_part ? nullptr : shared.scales + first_token, first_token, tokens,
                                  output, detail::min_of(panel_layout::rows, plan.outputs - output), y, finish);
            }
        }
    });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
