// kernel/gemm.hpp: the loops around the tiles: activations once, then panels x tokens in chunks, columns in blocks that
// stay in cache.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

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

// How one gemm call of a scheme is cut up; depends on shapes alone, never on the number of threads.
template <any_scheme S>
struct gemm_plan {
    using element = typename S::element_type;
    static constexpr detail::kernel_family family = detail::family_of<element>;
    static constexpr bool real = family == detail::kernel_family::real;
    static constexpr bool wide = family == detail::kernel_family::wide;
    // Tiles that read the packed stream as it is.
    static constexpr bool direct_nibbles = family == detail::kernel_family::narrow && element::bits == 4;
    static constexpr bool direct_bytes =
        !real && element::bits == 8 && detail::integer_grid_of<element>.linear && wide;
    static constexpr bool direct = direct_nibbles || direct_bytes;
    static constexpr bool has_zeros = !real && (S::has_integer_zero || detail::lane_offset<element> != 0);
    // Sums of a wide element fit in 32 bits over a whole part: without a zero point, which wants sums of activations in 16
    // bits, a phase is as long as a block of columns.
    static constexpr std::size_t longest_phase = wide && !has_zeros ? 256 : detail::phase_quads<element>;
    static constexpr std::size_t tile_tokens = real ? 6 : 4;
    static constexpr std::size_t most_panels = 4;

    detail::depth_plan depth;
    phase_plan phases;
    std::size_t tokens = 0;
    std::size_t outputs = 0;
    std::size_t panels = 0;
    bool per_part = false;       // activation scales per part
    std::size_t panel_group = 1; // panels that go through the columns together
    std::size_t task_panels = 1; // panels per task, a multiple of panel_group
    std::size_t token_blocks = 1; // tokens are cut into so many blocks of equal size, give or take one: 5 = 3 + 2, not 4 + 1
    std::size_t chunk_blocks = 1; // blocks per task
    std::size_t token_chunk = 1;  // tokens per task, at most
    std::size_t unit_columns = 1;
    std::size_t block_units = 1; // units (quads, or columns for real) per column block
    std::size_t block_parts = 1;
    std::size_t panel_tasks = 1;
    std::size_t token_tasks = 1;

    gemm_plan(const packed<S>& w, std::size_t m, bool scale_per_part) noexcept
        : depth(w.depth()), phases(phase_plan::make(depth, longest_phase)), tokens(m), outputs(w.rows()),
          panels(w.panels()), per_part(scale_per_part && !real) {
        unit_columns = real ? 1 : panel_layout::quad;
        panel_group = m == 1 ? most_panels : 1;
        token_blocks = detail::max_of<std::size_t>(1, detail::ceil_div(m, tile_tokens));
        chunk_blocks = detail::min_of(token_blocks, 96 / tile_tokens);
        token_chunk = detail::min_of(m, chunk_blocks * tile_tokens);
        // The lanes of a block take 16 KiB, half of the first-level cache, as every tile of tokens reads them again; with
        // one token the packed stream is read once and only the widened scales count.
        const std::size_t unit_bytes = real ? panel_layout::rows * sizeof(float) : direct_nibbles ? 32 : 64;
        block_units = direct && m == 1 ? 1024 : (std::size_t{16} << 10) / unit_bytes / panel_group;
        const std::size_t part_units = detail::max_of<std::size_t>(1, depth.padded_part / unit_columns);
        block_parts = detail::min_of(detail::max_of<std::size_t>(1, block_units / part_units), 128 / panel_group);
        if (!real) block_units = detail::max_of<std::size_t>(1, block_units / phases.quads) * phases.quads;
        block_units = detail::round_up(block_units, depth.step / unit_columns);
        if (!real && block_units % phases.quads != 0) {
            // Pieces must begin on a phase and on a step: a common multiple of both.
            const std::size_t steps = depth.step / unit_columns;
            std::size_t common = phases.quads;
            while (common % steps != 0) common += phases.quads;
            block_units = detail::max_of<std::size_t>(1, block_units / common) * common;
        }
        // With one token a task is a few microseconds per group: several groups, so that the next one is known and can
        // be asked for in time, but enough tasks to balance.
        task_panels = panel_group * (m == 1 ? detail::max_of<std::size_t>(1, detail::min_of<std::size_t>(4, panels / 64)) : 1);
        panel_tasks = detail::ceil_div(panels, task_panels);
        token_tasks = detail::ceil_div(token_blocks, chunk_blocks);
    }

    // The first token of a block; of block token_blocks, the number of tokens.
    [[nodiscard]] std::size_t block_token(std::size_t block) const noexcept {
        return block * (tokens / token_blocks) + detail::min_of(block, tokens % token_blocks);
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
        std::uint8_t* lanes = nullptr;
        float* real_lanes = nullptr;
        float* results = nullptr;
        std::byte* totals = nullptr;
    };
    [[nodiscard]] worker_memory take_worker(arena& memory) const noexcept {
        worker_memory s{};
        const std::size_t widened = panel_group * block_parts * panel_layout::rows;
        if constexpr (!real) s.row = memory.take<std::int8_t>(depth.padded);
        s.scales = memory.take<float>(widened);
        if constexpr (S::has_minimum) s.minimums = memory.take<float>(widened);
        if constexpr (has_zeros) s.zeros = memory.take<std::int32_t>(widened);
        const std::size_t units = longest_block();
        if constexpr (real)
            s.real_lanes = memory.take<float>(panel_group * units * panel_layout::rows);
        else if constexpr (!direct)
            s.lanes = memory.take<std::uint8_t>(panel_group * units * 64);
        s.results = memory.take<float>(panel_group * token_chunk * panel_layout::rows);
        s.totals = memory.take<std::byte>(panel_group * token_chunk * panel_layout::rows * 4);
        return s;
    }
    [[nodiscard]] std::size_t longest_block() const noexcept {
        const std::size_t part_units = depth.padded_part / unit_columns;
        return detail::min_of(detail::max_of(block_units, block_parts * part_units <= block_units ? block_units : part_units),
                              detail::max_of(block_units, depth.padded / unit_columns));
    }
    [[nodiscard]] std::size_t workspace_bytes(std::size_t workers) const noexcept {
        arena counter;
        (void)take_shared(counter);
        for (std::size_t i = 0; i < workers; ++i) (void)take_worker(counter);
        return counter.used();
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

// Which source an integer scheme's tile reads.
template <isa Isa, any_scheme S>
struct source_of {
    using plan = gemm_plan<S>;
    using element = typename S::element_type;
    using nibbles = std::conditional_t<detail::integer_grid_of<element>.linear, nibble_source<Isa, void>, nibble_source<Isa, element>>;
    using type = std::conditional_t<plan::direct_nibbles, nibbles,
                                    std::conditional_t<plan::wide, word_source<Isa>, byte_source<Isa>>>;
};

template <class Source, bool Zeros, std::size_t Panels>
NIBBLE_INLINE void integer_tile_of(std::size_t tokens, const integer_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 1: return integer_tile<Source, Panels, 1, Zeros>(a, r);
    case 2: return integer_tile<Source, Panels, 2, Zeros>(a, r);
    case 3: return integer_tile<Source, Panels, 3, Zeros>(a, r);
    default: return integer_tile<Source, Panels, 4, Zeros>(a, r);
    }
}
template <isa Isa>
NIBBLE_INLINE void real_tile_of(std::size_t tokens, const real_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 1: return real_tile<Isa, 1, 1>(a, r);
    case 2: return real_tile<Isa, 1, 2>(a, r);
    case 3: return real_tile<Isa, 1, 3>(a, r);
    case 4: return real_tile<Isa, 1, 4>(a, r);
    case 5: return real_tile<Isa, 1, 5>(a, r);
    default: return real_tile<Isa, 1, 6>(a, r);
    }
}

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

// Asks for what widening reads of parts [part, part + parts) of a panel: a short stretch between long streams, which the
// hardware prefetcher only notices when it is over.
template <isa Isa, any_scheme S>
NIBBLE_INLINE void prefetch_scales(const packed<S>& w, const std::byte* panel, std::size_t part, std::size_t parts) noexcept {
    using traits = detail::scheme_traits<S>;
    const auto ask = [&](std::size_t section, std::size_t bytes_per_slot) {
        const std::size_t first = w.depth().scale_of(part);
        const std::size_t last = w.depth().scale_of(part + parts - 1);
        const std::byte* end = panel + section + (last + 1) * bytes_per_slot;
        for (const std::byte* at = panel + section + first * bytes_per_slot; at < end; at += 64) Isa::prefetch(at);
    };
    if constexpr (S::scaled) ask(w.sections().scales, panel_layout::rows * sizeof(typename traits::scale_code));
    if constexpr (traits::has_zero) ask(w.sections().zeros, panel_layout::rows * sizeof(typename traits::zero_code));
}

// Sums of one group of panels, `panels` from `first_panel` on, against the token blocks [first_block, end_block);
// `next_panel` is where the worker goes on, or w.panels().
template <isa Isa, any_scheme S>
NIBBLE_INLINE void sum_group(const gemm_plan<S>& plan, const packed<S>& w, const typename gemm_plan<S>::shared_memory& shared,
                            const typename gemm_plan<S>::worker_memory& own, std::size_t first_panel, std::size_t panels,
                            std::size_t first_block, std::size_t end_block, std::size_t next_panel) noexcept {
    using P = gemm_plan<S>;
    using element = typename S::element_type;
    constexpr std::size_t rows = panel_layout::rows;
    const std::size_t first_token = plan.block_token(first_block);
    const std::size_t tokens = plan.block_token(end_block) - first_token;
    __builtin_memset(own.results, 0, panels * tokens * rows * sizeof(float));
    const bool together = panels == P::most_panels && tokens == 1;
    plan.for_each_block([&](const tile_range& r) {
        const std::size_t stride = r.parts * rows;
        const std::size_t units = (r.parts - 1) * r.part_units + r.last_units;
        const std::size_t offset = w.sections().codes + r.begin / plan.depth.step * detail::step_bytes<element>;
        for (std::size_t p = 0; p < panels; ++p) {
            const std::byte* panel = w.panel(first_panel + p);
            widen_scales<Isa>(w, panel, r.part, r.parts, own.scales + p * stride);
            if constexpr (S::has_minimum) widen_minimums<Isa>(w, panel, r.part, r.parts, own.minimums + p * stride);
            if constexpr (P::has_zeros) widen_zeros(w, panel, r.part, r.parts, own.zeros + p * stride);
            const auto* codes = reinterpret_cast<const std::uint8_t*>(panel + offset);
            if constexpr (P::real)
                unpack_real<Isa, element>(codes, units, own.real_lanes + p * units * rows);
            else if constexpr (!P::direct)
                unpack_integer<Isa, element>(codes, units, own.lanes + p * units * 64);
        }
        if (r.finish && r.part + r.parts == plan.depth.count) {
            for (std::size_t p = next_panel; p < detail::min_of(next_panel + panels, plan.panels); ++p) {
                const std::byte* panel = w.panel(p);
                prefetch_scales<Isa>(w, panel, 0, detail::min_of(plan.block_parts, plan.depth.count));
                for (std::size_t at = 0; at < prefetch_distance; at += 64) Isa::prefetch(panel + w.sections().codes + at);
            }
        } else if (r.finish) {
            const std::size_t part = r.part + r.parts;
            for (std::size_t p = 0; p < panels; ++p)
                prefetch_scales<Isa>(w, w.panel(first_panel + p), part,
                                     detail::min_of(plan.block_parts, plan.depth.count - part));
        }
        if constexpr (P::real) {
            real_tile_arguments a{};
            a.weights_stride = units * rows;
            a.widened_stride = stride;
            for (std::size_t p = 0; p < (together ? 1 : panels); ++p)
                for (std::size_t block = first_block; block < end_block; ++block) {
                    const std::size_t token = plan.block_token(block);
                    const std::size_t n = plan.block_token(block + 1) - token;
                    const std::size_t t = token - first_token;
                    a.weights = own.real_lanes + p * units * rows;
                    a.values = shared.real_values + token * plan.depth.padded + r.begin * n;
                    a.part_sums = shared.part_sums + token * plan.depth.count + r.part * n;
                    a.scales = own.scales + p * stride;
                    a.minimums = S::has_minimum ? own.minimums + p * stride : nullptr;
                    a.results = own.results + (p * tokens + t) * rows;
                    a.totals = reinterpret_cast<float*>(own.totals) + (p * tokens + t) * rows;
                    if (together)
                        real_tile<Isa, P::most_panels, 1>(a, r);
                    else
                        real_tile_of<Isa>(n, a, r);
                }
        } else {
            using source = typename source_of<Isa, S>::type;
            integer_tile_arguments a{};
            a.codes_stride = P::direct ? w.panel_bytes() : units * 64;
            a.widened_stride = stride;
            a.phases_per_part = plan.phases.per_part;
            a.phase_quads = plan.phases.quads;
            a.center = detail::lane_center<element>;
            for (std::size_t p = 0; p < (together ? 1 : panels); ++p)
                for (std::size_t block = first_block; block < end_block; ++block) {
                    const std::size_t token = plan.block_token(block);
                    const std::size_t n = plan.block_token(block + 1) - token;
                    const std::size_t t = token - first_token;
                    a.codes = P::direct ? reinterpret_cast<const std::uint8_t*>(w.panel(first_panel + p) + offset)
                                        : own.lanes + p * units * 64;
                    a.values = shared.values + (token * plan.depth.padded + r.begin * n) * (P::wide ? 2 : 1);
                    a.pair_sums = shared.pair_sums + token * plan.depth.count * plan.phases.per_part +
                                  (r.part * plan.phases.per_part + r.phase) * n;
                    a.part_sums = shared.part_sums + token * plan.depth.count + r.part * n;
                    a.part_scales =
                        plan.per_part ? shared.scales + token * plan.depth.count + r.part * n : nullptr;
                    a.scales = own.scales + p * stride;
                    a.zeros = P::has_zeros ? own.zeros + p * stride : nullptr;
                    a.minimums = S::has_minimum ? own.minimums + p * stride : nullptr;
                    a.results = own.results + (p * tokens + t) * rows;
                    a.totals = reinterpret_cast<std::int32_t*>(own.totals) + (p * tokens + t) * rows;
                    if (together)
                        integer_tile<source, P::most_panels, 1, P::has_zeros>(a, r);
                    else
                        integer_tile_of<source, P::has_zeros, 1>(n, a, r);
                }
        }
    });
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
