// kernel/gemm_integer.hpp: exact sums of integers, panel by panel, and what makes 8-bit integers of them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// put(token, first output, outputs, sums) for every panel and token; outputs is at most 16.
template <isa Isa, any_scheme S, class Put, executor Executor>
inline void multiply_integers(const gemm_plan<S>& plan, const activation_pieces<S>& x, const packed<S>& w, const Put& put,
                              std::byte* workers, const Executor& threads) {
    const std::size_t stride = worker_bytes(plan);
    for_each_group(plan, threads, [&](std::size_t first, std::size_t panels, std::size_t first_block, std::size_t end_block,
                                      std::size_t worker) {
        const typename gemm_plan<S>::worker_memory own = memory_of_worker(plan, workers + worker * stride);
        const std::size_t first_token = plan.blocks.first(first_block);
        const std::size_t tokens = plan.blocks.first(end_block) - first_token;
        sum_group<Isa, S, true>(plan, w, x.shared, own, first, panels, first_block, end_block, first + plan.panel_group);
        const auto* sums = reinterpret_cast<const std::int32_t*>(own.totals);
        for (std::size_t p = 0; p < panels; ++p) {
            const std::size_t output = (first + p) * panel_layout::rows;
            for (std::size_t t = 0; t < tokens; ++t, sums += panel_layout::rows)
                put(first_token + t, output, detail::min_of(panel_layout::rows, plan.outputs - output), sums);
        }
    });
}

// The code of an integer of an element's grid.
template <element E>
[[nodiscard]] NIBBLE_INLINE std::uint8_t code_of_integer(std::int32_t integer) noexcept {
    constexpr detail::integer_grid g = detail::integer_grid_of<E>;
    return static_cast<std::uint8_t>((integer - g.low) ^ g.flip);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
