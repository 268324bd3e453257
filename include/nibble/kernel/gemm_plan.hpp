// kernel/gemm_plan.hpp: how one product is cut up: parts and phases of the columns, panels and tokens at a time, and the
// memory that takes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/work_region.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/family.hpp>
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/real_tile.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// Hands out 64-byte aligned pieces of a block of memory; with a null base it only counts.
class arena {
public:
    explicit arena(std::byte* base = nullptr) noexcept : base_(base) {}
    template <class T>
    [[nodiscard]] T* take(std::size_t count) noexcept {
        T* at = base_ != nullptr ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += detail::round_up(count * sizeof(T), 64);
        return at;
    }
    [[nodiscard]] std::size_t used() const noexcept { return used_; }

private:
    std::byte* base_;
    std::size_t used_ = 0;
};

// How one gemm call of a scheme is cut up on an ISA; depends on shapes alone, never on the number of threads.
template <any_scheme S, isa Isa>
struct gemm_plan {
    using element = typename S::element_type;
    static constexpr kernel_family family = family_of<Isa, element>;
    static constexpr bool real = family == kernel_family::real;
    static constexpr bool wide_element = family == kernel_family::wide;
    // Are there activations, of 8 bits, that lanes can only meet as int16?
    static constexpr bool has_words = wide_element && detail::byte_limit<element> < 128;
    // Tiles read the packed stream and unpack it in registers if the codes are read once: for one token, and for one tile of
    // tokens where elements share the code. For several tiles of tokens lanes are unpacked into the first-level cache once,
    // unless they are what is stored (8-bit integers, fp32), or unpacking costs nothing: 4 bits in 256-bit tiles, which have two
    // vectors to fill where those of 512 bits have one.
    static constexpr bool linear = !real && detail::integer_grid_of<element>.linear;
    static constexpr bool nibbles = !wide_element && !real && element::bits == 4;
    static constexpr bool plain = real && element::bits == 32;
    static constexpr bool direct = (nibbles && !detail::panel_in_one_vector<Isa>) || (linear && element::bits == 8) || plain;
    static constexpr bool decoded = real && decodes_few_tokens<Isa, element>;
    static constexpr bool few_direct = linear || nibbles || element::bits > 8 || decoded; // packed tiles for several tokens exist
    static constexpr bool has_zeros = !real && (S::has_integer_zero || detail::lane_offset<element> != 0);
    static constexpr std::size_t tile_tokens = real ? Isa::facts.float_tiles.longest : Isa::facts.integer_tiles.longest;
    // Panels that one token goes through at once: as many as there are registers for their sums, of which short phases take
    // two sets, and for the codes of a step, of which elements with a plane of single bits have four quads.
    static constexpr std::size_t most_panels =
        direct || nibbles || real ||
                (phase_quads<Isa, element> >= 32 && (Isa::facts.vector_registers >= 32 || detail::step_quads<element> < 4))
            ? 4
            : 2;

    detail::depth_plan depth;
    phase_plan phases;
    token_blocks blocks;
    std::size_t tokens = 0;
    std::size_t outputs = 0;
    std::size_t panels = 0;
    bool per_part = false;       // activation scales per part
    int limit = detail::activation_limit; // the largest magnitude of the activations
    bool wide = false;           // lanes and activations as int16
    std::size_t lane_bytes = 0;  // of the lanes of a quad, or of a column, in cache
    bool packed_tiles = false;   // tiles read the packed stream
    std::size_t panel_group = 1; // panels that go through the columns together
    std::size_t chunk_blocks = 1; // blocks of tokens at a time
    std::size_t token_chunk = 1;  // tokens at a time, at most
    std::size_t most_tokens = 1;  // that token_chunk can be for any number of tokens
    std::size_t unit_columns = 1;
    std::size_t block_units = 1; // units (quads, or columns for real) per column block
    std::size_t block_parts = 1;
    std::size_t panel_groups = 1;
    std::size_t token_chunks = 1;

    gemm_plan(const packed<S>& w, std::size_t m, bool scale_per_part, int largest_activation) noexcept
        : depth(w.depth()), phases(phase_plan::make(depth, phase_quads<Isa, element>)),
          blocks(token_blocks::make(m, tile_tokens, real ? Isa::facts.float_tiles.shorter : Isa::facts.integer_tiles.shorter)), tokens(m),
          outputs(w.rows()), panels(w.panels()), per_part(scale_per_part && !real), limit(largest_activation),
          wide(has_words && largest_activation > detail::byte_limit<element>), lane_bytes(panel_layout::rows * (wide ? 8 : 4)) {
        unit_columns = real ? 1 : panel_layout::quad;
        // fp16 and bf16 are decoded so cheaply that doing it twice, for two tiles of tokens, is less than storing lanes; bytes
        // become int16 for four (measured: 16 tokens 0.96 times as fast through lanes, 128 tokens 1.08).
        const bool few = real ? m <= 12 : blocks.count <= (wide ? 4 : 1);
        packed_tiles = (direct && !wide) || m == 1 || (few_direct && few && (!decoded || m <= most_decoded_tokens));
        // Several panels go through a block of columns side by side, so that activations, which are larger than their lanes,
        // come from the second-level cache once for all of them.
        panel_group = m == 1 ? most_panels : real && !few ? 4 : 2;
        // Weights are read, and unpacked, once per chunk of tokens: large chunks, whose activations stay in the second-level
        // cache, unless there are too few panels to go round.
        most_tokens = panels / panel_group < 64 ? 96 : real ? 384 : wide ? 128 : 192;
        chunk_blocks = detail::ceil_div(blocks.count, detail::ceil_div(blocks.count, most_tokens / tile_tokens));
        token_chunk = detail::min_of(m, chunk_blocks * tile_tokens);
        // The lanes of a block take 16 KiB, half of the first-level cache, as every tile of tokens reads them again.
        // fp32 lanes come from the second-level cache at the speed of the products, for long blocks, whose sums are
        // stored and read again less often (measured, f32: 64, 128, 256, 512 columns of four panels at 151, 158, 157,
        // 153 GFLOP/s; more panels lose).
        const std::size_t unit_bytes = direct && element::bits == 4 ? 32 : lane_bytes;
        block_units = m == 1 ? 1024 * panel_layout::quad / unit_columns
                      : real && !few ? 256 : (std::size_t{16} << 10) / unit_bytes / panel_group;
        // One token reads the packed stream once; blocks are then short, so that the scales, which are another stream, come
        // in between a few lines at a time: the hardware's prefetcher keeps up and the processor does not wait for a burst.
        const std::size_t part_units = detail::max_of<std::size_t>(1, depth.padded_part / unit_columns);
        const std::size_t units_at_once = m == 1 ? (direct || nibbles ? 32 : 64) * panel_layout::quad / unit_columns : block_units;
        block_parts = detail::min_of(detail::max_of<std::size_t>(1, units_at_once / part_units), 128 / panel_group);
        if (!real) block_units = detail::max_of<std::size_t>(1, block_units / phases.quads) * phases.quads;
        block_units = detail::round_up(block_units, depth.step / unit_columns);
        if (!real && block_units % phases.quads != 0) {
            // Pieces must begin on a phase and on a step: a common multiple of both.
            const std::size_t steps = depth.step / unit_columns;
            std::size_t common = phases.quads;
            while (common % steps != 0) common += phases.quads;
            block_units = detail::max_of<std::size_t>(1, block_units / common) * common;
        }
        panel_groups = detail::ceil_div(panels, panel_group);
        token_chunks = detail::ceil_div(blocks.count, chunk_blocks);
    }

    // Memory that all workers share.
    struct shared_memory {
        std::int8_t* values = nullptr;
        float* real_values = nullptr;
        std::int32_t* pair_sums = nullptr;
        float* part_sums = nullptr;
        float* scales = nullptr;
    };
    [[nodiscard]] shared_memory take_shared(arena& memory) const noexcept {
        shared_memory s{};
        if constexpr (real) {
            s.real_values = memory.take<float>(tokens * depth.padded);
        } else {
            s.values = memory.take<std::int8_t>(tokens * depth.padded * (wide ? 2 : 1));
            s.pair_sums = memory.take<std::int32_t>(tokens * depth.count * phases.per_part);
            s.scales = memory.take<float>(tokens * (per_part ? depth.count : 1));
        }
        s.part_sums = memory.take<float>(tokens * depth.count);
        return s;
    }
    // Memory of one worker.
    struct worker_memory {
        std::int8_t* row = nullptr;
        float* scales = nullptr;
        float* minimums = nullptr;
        std::int32_t* zeros = nullptr;
        std::byte* lanes = nullptr; // of one block of columns: bytes, int16, or fp32
        float* results = nullptr;
        std::byte* totals = nullptr;
    };
    [[nodiscard]] worker_memory take_worker(arena& memory) const noexcept {
        worker_memory s{};
        (void)memory.take<detail::work_region>(1); // where for_each_in_regions has it
        const std::size_t widened = panel_group * block_parts * panel_layout::rows;
        if constexpr (!real) s.row = memory.take<std::int8_t>(depth.padded);
        s.scales = memory.take<float>(widened);
        if constexpr (S::has_minimum) s.minimums = memory.take<float>(widened);
        if constexpr (has_zeros) s.zeros = memory.take<std::int32_t>(widened);
        const std::size_t units = longest_block();
        if (!packed_tiles)
            s.lanes = memory.take<std::byte>(panel_group * units * lane_bytes);
        s.results = memory.take<float>(panel_group * token_chunk * panel_layout::rows);
        s.totals = memory.take<std::byte>(panel_group * token_chunk * panel_layout::rows * 4);
        return s;
    }
    [[nodiscard]] std::size_t longest_block() const noexcept {
        const std::size_t part_units = depth.padded_part / unit_columns;
        return detail::min_of(detail::max_of(block_units, block_parts * part_units <= block_units ? block_units : part_units),
                              detail::max_of(block_units, depth.padded / unit_columns));
    }

    // visit(tile_range) for every column block, in order.
    template <class Visit>
    void for_each_block(Visit&& visit) const {
        const std::size_t part_units = depth.padded_part / unit_columns;
        for (std::size_t part = 0; part < depth.count;) {
            tile_range r{};
            r.part = part;
            if (part_units <= block_units && depth.parts_per_run == 1) {
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
                    r.phase = real ? 0 : unit / phases.quads;
                    r.resume = unit != 0;
                    r.finish = unit + block_units >= units;
                    visit(r);
                }
                ++part;
            }
        }
    }

private:
    [[nodiscard]] std::size_t units_of(std::size_t part) const noexcept {
        return detail::round_up(depth.columns(part), depth.step) / unit_columns;
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
