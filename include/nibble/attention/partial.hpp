// attention/partial.hpp: what attention has of some rows after some tokens: joined to what came before, and normalised.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/attention/queries.hpp>
#include <nibble/cache/pages.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/softmax.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// What attention has of the rows of a task: a state of each, and the sums of the values [channels' panel][row][16
// channels].
struct attention_sums {
    kernel::softmax_state* states = nullptr;
    float* offsets = nullptr; // what all scores of a row lack
    float* sums = nullptr;

    [[nodiscard]] static std::size_t count(const kv_cache_options& o, std::size_t rows) noexcept {
        return round_up(o.value_size, panel_layout::rows) * rows;
    }
    [[nodiscard]] static attention_sums take(const kv_cache_options& o, std::size_t rows,
                                             kernel::arena& memory) noexcept {
        attention_sums s;
        s.states = memory.take<kernel::softmax_state>(rows);
        s.offsets = memory.take<float>(rows);
        s.sums = memory.take<float>(count(o, rows));
        return s;
    }
    void clear(const kv_cache_options& o, std::size_t rows) const noexcept {
        for (std::size_t r = 0; r < rows; ++r) {
            states[r] = {};
            offsets[r] = 0.0f;
        }
        for (std::size_t i = 0; i < count(o, rows); ++i) sums[i] = 0.0f;
    }
};

// A span's sums joined to those of the spans before it: a x of_a + b x of_b, both factors left in the part's states.
template <isa Isa>
inline void join(const kv_cache_options& o, std::size_t rows, const attention_sums& all,
                 const attention_sums& part) noexcept {
    using L = kernel::token_lanes<Isa>;
    for (std::size_t r = 0; r < rows; ++r) {
        float of_all = 1.0f;
        float of_part = 1.0f;
        all.states[r] = kernel::joined<Isa>(all.states[r], part.states[r], of_all, of_part);
        all.offsets[r] = part.offsets[r];
        part.states[r] = {of_all, of_part};
    }
    for (std::size_t i = 0, p = 0; p < ceil_div(o.value_size, panel_layout::rows); ++p)
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t half = 0; half < kernel::lane_halves<Isa>; ++half, i += L::width) {
                const L scaled = (L::load(all.sums + i, L::width) * L(part.states[r].largest)).kept();
                fma(L::load(part.sums + i, L::width), L(part.states[r].sum), scaled).store(all.sums + i, L::width);
            }
}

// What all spans gave, to the rows of out: sums of probabilities, and a sink's, in the caller's channels.
template <isa Isa>
inline void normalize(const kv_sequence& cache, const attention_rows& at, const attention_sums& all,
                      const attend_options& options, matrix_view<float> out) noexcept {
    const std::size_t rows = at.rows();
    const std::size_t size = cache.options().value_size;
    for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t query = at.first_query + r / at.group;
        const std::size_t head = at.head * at.group + r % at.group;
        kernel::softmax_state state = all.states[r];
        const float of_tokens = state.sum;
        if (of_tokens != 0.0f) state.largest += all.offsets[r];
        float of_all = 1.0f;
        if (!options.sink_scores.empty()) {
            float unused = 1.0f;
            state = kernel::joined<Isa>(state, {options.sink_scores[head], 1.0f}, of_all, unused);
        }
        const float factor = state.sum == 0.0f ? 0.0f : of_all / state.sum;
        float* to = out.row(query) + head * size;
        using L = kernel::token_lanes<Isa>;
        for (std::size_t c = 0; c < size; c += L::width) {
            const float* from =
                all.sums + (c / panel_layout::rows * rows + r) * panel_layout::rows + c % panel_layout::rows;
            (L::load(from, L::width) * L(factor)).store(to + c, min_of(L::width, size - c));
        }
        if (const kv_transform* transform = cache.transform_of_values()) {
            const float share = of_tokens == 0.0f ? 0.0f : options.sink_scores.empty() ? 1.0f : of_tokens * factor;
            restore_channels<Isa>(*transform, at.head, cache.channels_of_values(), size, share, to);
        }
        if (!options.log_sums.empty())
            options.log_sums(query, head) =
                state.sum == 0.0f ? -infinity : rounded_by_itself(kernel::natural_log(state.sum)) + state.largest;
    }
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
