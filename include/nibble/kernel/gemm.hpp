// kernel/gemm.hpp: the loops around the sums: activations once, then panels x tokens in chunks, results through the epilogue.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// The results of one panel to y: row factors, token scales, epilogue, store.
template <isa Isa, epilogue Epilogue>
NIBBLE_INLINE void finish_panel(const float* results, const float* factors, const float* token_scales,
                                std::size_t first_token, std::size_t tokens, std::size_t first_output, std::size_t outputs,
                                const matrix_view<float>& y, const Epilogue& finish) {
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t half = 0; half < outputs; half += 8) {
            lanes<Isa> r(Isa::multiply(Isa::load(results + t * panel_layout::rows + half), Isa::load(factors + half)));
            if (token_scales != nullptr) r = r * lanes<Isa>(token_scales[t]);
            const position at{first_token + t, first_output + half, detail::min_of<std::size_t>(8, outputs - half)};
            lanes<Isa>(finish(r.kept(), at)).store(y.row(at.token) + at.output, at.count);
        }
}

// The activations of one block of tokens in the order tiles read them.
template <any_scheme S>
inline void prepare_task(const gemm_plan<S>& plan, matrix_view<const float> x,
                         const typename gemm_plan<S>::shared_memory& shared,
                         const typename gemm_plan<S>::worker_memory& own, std::size_t block) noexcept {
    using P = gemm_plan<S>;
    const std::size_t first = plan.block_token(block);
    const std::size_t n = plan.block_token(block + 1) - first;
    if constexpr (P::real) {
        copy_block_of_tokens(x, first, n, plan.depth, shared.real_values + first * plan.depth.padded,
                             shared.part_sums + first * plan.depth.count);
    } else {
        activation_block out{};
        out.values = shared.values + first * plan.depth.padded * (P::wide ? 2 : 1);
        out.pair_sums = shared.pair_sums + first * plan.depth.count * plan.phases.per_part;
        out.part_sums = shared.part_sums + first * plan.depth.count;
        out.scales = shared.scales + first * (plan.per_part ? plan.depth.count : 1);
        quantize_block_of_tokens<P::wide>(x, first, n, plan.depth, plan.phases, plan.per_part, out, own.row);
    }
}

template <isa Isa, any_scheme S, epilogue Epilogue, executor Executor>
inline void run_gemm(const gemm_plan<S>& plan, matrix_view<const float> x, const packed<S>& w, matrix_view<float> y,
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
    threads.parallel_for(plan.token_blocks, [&](std::size_t block, std::size_t worker) {
        prepare_task<S>(plan, x, shared, worker_memory(worker), block);
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
