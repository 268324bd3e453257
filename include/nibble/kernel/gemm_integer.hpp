// kernel/gemm_integer.hpp: exact sums of integers, panel by panel, and what makes 8-bit integers of them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// put(token, first output, outputs, sums) for every panel and token; outputs is at most 16.
template <isa Isa, any_scheme S, class Put, executor Executor>
inline void multiply_integers(const gemm_plan<S, Isa>& plan, const activation_memory& x, const packed_view<S>& w,
                              const Put& put, std::byte* workers, const Executor& threads) {
    const std::size_t stride = worker_bytes(plan);
    for_each_group(plan, workers, stride, threads, [&](const panel_work& work, std::size_t worker) {
        const typename gemm_plan<S, Isa>::worker_memory own = memory_of_worker(plan, workers + worker * stride);
        const std::size_t first_token = plan.blocks.first(work.first_block);
        const std::size_t tokens = plan.blocks.first(work.end_block) - first_token;
        sum_group<Isa, S, true>(plan, w, x, own, work, tokens_done{});
        const auto* sums = reinterpret_cast<const std::int32_t*>(own.totals);
        for (std::size_t p = 0; p < work.panels; ++p) {
            const std::size_t output = (work.first_panel + p) * panel_layout::rows;
            for (std::size_t t = 0; t < tokens; ++t, sums += panel_layout::rows)
                put(first_token + t, output, detail::min_of(panel_layout::rows, plan.outputs - output), sums);
        }
    });
}

// The numbers of a panel's outputs where they are, or, of a panel that ends early, copied in front of those of `copy`.
template <class T>
[[nodiscard]] NIBBLE_INLINE const T* panel_of(const T* from, std::size_t outputs,
                                              T (&copy)[panel_layout::rows]) noexcept {
    if (outputs == panel_layout::rows) return from;
    for (std::size_t i = 0; i < outputs; ++i) copy[i] = from[i];
    return copy;
}

// value = floor(value x multiplier / 2^shift + 1/2) for a shift of 1 ... 62, in two's complement: of one number or of
// each of several. Moved up by 2^63 and back, because AVX2 has no shift of 64-bit lanes that keeps signs.
template <class Words>
NIBBLE_INLINE constexpr void multiply_dyadic(Words& value, const Words& multiplier, const Words& shift) noexcept {
    const Words one = Words{} + 1;
    const Words sum = value * multiplier + (one << (shift - 1));
    value = ((sum ^ (one << 63)) >> shift) - (one << (63 - shift));
}

// Four lanes: a loop of scalars is not made vectors of, for all compilers see.
using four_words = detail::fixed_vector<std::int32_t, 4>;
using four_longs = detail::fixed_vector<std::int64_t, 4>;
using four_unsigned = detail::fixed_vector<std::uint64_t, 4>;

NIBBLE_INLINE void load_longs(const std::int32_t* from, four_longs& to) noexcept {
    four_words words;
    __builtin_memcpy(&words, from, sizeof words);
    to = __builtin_convertvector(words, four_longs);
}

// The same of four int32 and of four pairs of a multiplier and a shift, int32 each.
template <class Dyadic> NIBBLE_INLINE void multiply_dyadics(four_longs& values, const Dyadic* ratios) noexcept {
    static_assert(sizeof(Dyadic) == 8 && offsetof(Dyadic, multiplier) == 0 && offsetof(Dyadic, shift) == 4 &&
                  std::endian::native == std::endian::little);
    four_unsigned both;
    __builtin_memcpy(&both, ratios, sizeof both);
    four_unsigned words = __builtin_bit_cast(four_unsigned, values);
    const four_unsigned multipliers = both & 0xffffffffu;
    const four_unsigned shifts = both >> 32;
    multiply_dyadic(words, multipliers, shifts);
    values = __builtin_bit_cast(four_longs, words);
}

// Each value, or the end of the range that it is beyond.
NIBBLE_INLINE void clamp(four_longs& values, std::int64_t low, std::int64_t high) noexcept {
    const four_longs lowest = four_longs{} + low;
    const four_longs highest = four_longs{} + high;
    values = values < lowest ? lowest : values;
    values = values > highest ? highest : values;
}

// The code of an integer of an element's grid.
template <element E> [[nodiscard]] NIBBLE_INLINE std::uint8_t code_of_integer(std::int32_t integer) noexcept {
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    return static_cast<std::uint8_t>((integer - g.low) ^ g.flip);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
