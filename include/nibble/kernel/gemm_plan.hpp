// kernel/gemm_plan.hpp: how one product is cut up: parts and phases of the columns, panels and tokens at a time, and
// the memory that takes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/work_region.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/family.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// How one gemm call of a scheme is cut up on an ISA; depends on shapes alone, never on the number of threads. It is the
// layout of its activations too.
template <any_scheme S, isa Isa> struct gemm_plan : activation_layout {
    using scheme_type = S;
    using element = typename S::element_type;
    using family = family_of<Isa, element>;
    // Another family for some products: which of the two multiplies is known when the plan is made.
    using alternative = typename alternative_family<family>::type;
    static constexpr bool has_alternative = !std::is_same_v<alternative, family>;
    static_assert(product_family<family> && product_family<alternative>);
    static_assert(family::order.quantized() == alternative::order.quantized() &&
                  family::most_panels == alternative::most_panels &&
                  family::unit_columns == alternative::unit_columns && family::unit == alternative::unit &&
                  family::lane_offset == alternative::lane_offset);
    static constexpr bool integers = family::order.quantized(); // does x become integers?
    // Do zeros come to the sums of F? Of lanes with an offset too, unless it can be left out of their centre.
    template <class F>
    static constexpr bool zeros_of = integers && (S::has_integer_zero || (F::lane_offset != 0 && !has_wide_sums<F>));
    static constexpr bool has_zeros = zeros_of<family> || zeros_of<alternative>;
    static constexpr std::size_t most_panels = family::most_panels;

    std::size_t tokens = 0;
    std::size_t outputs = 0;
    std::size_t panels = 0;
    bool uses_alternative = false; // `alternative` multiplies
    std::size_t lane_bytes = 0;    // of the lanes of a panel that are in cache at a time
    bool packed_tiles = false;     // tiles read the packed stream
    std::size_t panel_group = 1;   // panels that go through the columns together
    std::size_t chunk_blocks = 1;  // blocks of tokens at a time
    std::size_t token_chunk = 1;   // tokens at a time, at most
    std::size_t most_tokens = 1;   // that token_chunk can be for any number of tokens
    std::size_t unit_columns = 1;
    std::size_t block_units = 1; // units per column block
    std::size_t block_parts = 1;
    std::size_t panel_groups = 1;
    std::size_t token_chunks = 1;

    gemm_plan(const packed_shape<S>& w, std::size_t m, bool scale_per_part, int largest_activation) noexcept
        : tokens(m), outputs(w.rows()), panels(w.panels()) {
        depth = w.depth();
        per_part = scale_per_part && integers;
        qmax = largest_activation;
        if constexpr (has_alternative) {
            uses_alternative = family::prefers_alternative(m, *this);
            if (uses_alternative) {
                cut<alternative>();
                return;
            }
        }
        cut<family>();
    }

    // Memory of one worker.
    struct worker_memory {
        std::int8_t* row = nullptr;
        float* scales = nullptr;
        float* minimums = nullptr;
        std::int32_t* zeros = nullptr;
        std::byte* lanes = nullptr; // of one block of columns
        float* results = nullptr;
        std::byte* totals = nullptr;
    };
    [[nodiscard]] worker_memory take_worker(arena& memory) const noexcept {
        worker_memory s{};
        (void)memory.take<detail::work_region>(1); // where for_each_in_regions has it
        const std::size_t widened = panel_group * block_parts * panel_layout::rows;
        if constexpr (integers) s.row = memory.take<std::int8_t>(depth.padded);
        s.scales = memory.take<float>(widened);
        if constexpr (S::has_minimum) s.minimums = memory.take<float>(widened);
        if constexpr (has_zeros) s.zeros = memory.take<std::int32_t>(widened);
        if (!packed_tiles) s.lanes = memory.take<std::byte>(panel_group * lane_bytes);
        s.results = memory.take<float>(panel_group * token_chunk * panel_layout::rows);
        s.totals = memory.take<std::byte>(panel_group * token_chunk * panel_layout::rows * 4);
        return s;
    }
    [[nodiscard]] std::size_t longest_block() const noexcept {
        const std::size_t part_units = depth.padded_part / unit_columns;
        return detail::min_of(
            detail::max_of(block_units, block_parts * part_units <= block_units ? block_units : part_units),
            detail::max_of(block_units, depth.padded / unit_columns));
    }

    // visit(tile_range) for every column block, in order.
    template <class Visit> void for_each_block(Visit&& visit) const {
        const std::size_t part_units = depth.padded_part / unit_columns;
        for (std::size_t part = 0; part < depth.count;) {
            tile_range r{};
            r.part = part;
            if (part_units <= block_units && depth.parts_per_group == 1) {
                r.parts = detail::min_of(block_parts, depth.count - part);
                r.begin = depth.begin(part);
                r.part_units = part_units;
                r.last_units = units_of(part + r.parts - 1);
                visit(r);
                part += r.parts;
            } else {
                const std::size_t units = units_of(part);
                for (std::size_t unit = 0; unit < units; unit += block_units) {
                    r.parts = 1;
                    r.begin = depth.begin(part) + unit * unit_columns;
                    r.part_units = r.last_units = detail::min_of(block_units, units - unit);
                    r.phase = order.quantized() ? unit / phases.quads : 0;
                    r.resume = unit != 0;
                    r.ends_part = unit + block_units >= units;
                    visit(r);
                }
                ++part;
            }
        }
    }

private:
    // Of long parts several at a time, or what begins a block would cost as much as its products.
    static constexpr std::size_t streamed_parts = 4;

    template <class F> void cut() noexcept {
        const std::size_t m = tokens;
        order = F::order;
        phases = phase_plan::make(depth, F::phase_units);
        blocks = token_blocks::make(m, F::tiles.longest, F::tiles.shorter);
        unit_columns = F::unit_columns;
        packed_tiles = F::reads_packed(m, blocks.count);
        // Several panels go through a block of columns side by side, so that activations, which are larger than their
        // lanes, come from the second-level cache once for all of them.
        panel_group = m == 1 ? F::most_panels : F::panels_in_cache(m);
        // Weights are read, and unpacked, once per chunk of tokens: large chunks, whose activations stay in the
        // second-level cache, unless there are too few panels to go round.
        most_tokens = panels / panel_group < 64 ? 96 : F::most_tokens;
        chunk_blocks = detail::ceil_div(blocks.count, detail::ceil_div(blocks.count, most_tokens / F::tiles.longest));
        token_chunk = detail::min_of(m, chunk_blocks * F::tiles.longest);
        block_units = m == 1 ? 1024 * panel_layout::quad / unit_columns : F::cached_units(m, panel_group);
        // One token reads the packed stream once; blocks are then short, so that the scales, which are another stream,
        // come in between a few lines at a time: the hardware's prefetcher keeps up and the processor does not wait for
        // a burst.
        const std::size_t part_units = detail::max_of<std::size_t>(1, depth.padded_part / unit_columns);
        const std::size_t units_at_once = m == 1 ? F::streamed_quads * panel_layout::quad / unit_columns : block_units;
        const std::size_t parts_at_once =
            m == 1 ? detail::min_of(streamed_parts, block_units / part_units) : std::size_t{1};
        block_parts =
            detail::min_of(detail::max_of(detail::max_of<std::size_t>(1, parts_at_once), units_at_once / part_units),
                           128 / panel_group);
        round_block();
        if constexpr (places_parts<F>)
            lane_bytes = F::longest_lanes(longest_block(), part_units);
        else
            lane_bytes = longest_block() * F::lane_bytes;
        panel_groups = detail::ceil_div(panels, panel_group);
        token_chunks = detail::ceil_div(blocks.count, chunk_blocks);
    }
    // Pieces must begin on a phase and on a step: a common multiple of both.
    void round_block() noexcept {
        if (order.quantized()) block_units = detail::max_of<std::size_t>(1, block_units / phases.quads) * phases.quads;
        const std::size_t steps = depth.step / unit_columns;
        block_units = detail::round_up(block_units, steps);
        if (!order.quantized() || block_units % phases.quads == 0) return;
        std::size_t common = phases.quads;
        while (common % steps != 0) common += phases.quads;
        block_units = detail::max_of<std::size_t>(1, block_units / common) * common;
    }
    [[nodiscard]] std::size_t units_of(std::size_t part) const noexcept {
        return detail::round_up(depth.columns(part), depth.step) / unit_columns;
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
