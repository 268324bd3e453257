// kernel/gemm_sum.hpp: the sums of a group of panels against blocks of tokens: decode scales, unpack, multiply, over
// blocks of columns that stay in cache.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What is called when the sums of some tokens, all outputs of the group, are complete.
struct tokens_done {
    void (*call)(const void* by, std::size_t first_token, std::size_t tokens) = nullptr; // or nothing
    const void* by = nullptr;

    template <class Call> [[nodiscard]] static tokens_done of(const Call& call) noexcept {
        return {[](const void* it, std::size_t first_token, std::size_t tokens) {
                    (*static_cast<const Call*>(it))(first_token, tokens);
                },
                &call};
    }
};

// What one worker does at a time: panels [first_panel, first_panel + panels) against the blocks of tokens [first_block,
// end_block).
struct panel_work {
    std::size_t first_panel = 0;
    std::size_t panels = 0;
    std::size_t first_block = 0;
    std::size_t end_block = 0;
    std::size_t next_panel = 0; // where its worker goes on, most likely; or the number of panels
    bool begins = false;        // nothing of it has been prefetched yet
};

// The sums of one group of panels by family F of the plan. With Integers no scale takes part: what remains is the exact
// sum of a row's only part, [panel][token][16] in own.totals.
template <class F, isa Isa, any_scheme S, bool Integers> class group_sums {
    using plan_type = gemm_plan<S, Isa>;
    using element = typename S::element_type;
    static constexpr std::size_t rows = panel_layout::rows;
    static constexpr std::size_t step_columns = detail::step_quads<element> * panel_layout::quad;
    static constexpr bool has_zeros = plan_type::template zeros_of<F>;

public:
    group_sums(const plan_type& plan, const packed_view<S>& w, const activation_memory& shared,
               const typename plan_type::worker_memory& own, const panel_work& work, const tokens_done& done) noexcept
        : plan_(plan), w_(w), shared_(shared), own_(own), work_(work), done_(done),
          first_token_(plan.blocks.first(work.first_block)), tokens_(plan.blocks.first(work.end_block) - first_token_),
          together_(work.panels == F::most_panels && tokens_ == 1),
          ahead_(static_cast<std::ptrdiff_t>(Isa::tuning().prefetch_distance(together_ ? work.panels : 1))) {}

    void run() const {
        [[maybe_unused]] const session_of<F> session{};
        __builtin_memset(Integers ? static_cast<void*>(own_.totals) : own_.results, 0,
                         work_.panels * tokens_ * rows * sizeof(float));
        if (plan_.depth.count == 0) { // no columns: sums of zero
            if (done_.call != nullptr) done_.call(done_.by, first_token_, tokens_);
            return;
        }
        if constexpr (has_zeros && !S::has_integer_zero) // the lanes' offset, everywhere the same
            fill_zeros<element>(work_.panels * plan_.block_parts, own_.zeros);
        if (work_.begins) prefetch_beginning(work_.first_panel);
        plan_.for_each_block([&](const tile_range& range) { columns(range); });
    }

private:
    // A block of columns.
    struct column_block {
        tile_range range{};
        std::size_t stride = 0;     // scales from panel to panel
        std::size_t units = 0;      // of a panel
        std::size_t offset = 0;     // of its codes in a panel
        std::size_t code_bytes = 0; // and their size
        bool last = false;          // sums are complete with it
    };

    NIBBLE_NOINLINE void columns(const tile_range& range) const {
        column_block b{range};
        if constexpr (Integers) b.range.ends_part = false;
        b.stride = range.parts * rows;
        b.units = (range.parts - 1) * range.part_units + range.last_units;
        b.offset = w_.sections().codes + range.begin / step_columns * detail::step_bytes<element>;
        b.code_bytes = b.units * F::unit_columns / step_columns * detail::step_bytes<element>;
        b.last = range.part + range.parts == plan_.depth.count && range.ends_part;
        unpack(b);
        prefetch_next_scales(b, range.ends_part);
        multiply(b);
    }

    // Scales, and lanes unless tiles read the packed stream.
    NIBBLE_INLINE void unpack(const column_block& b) const {
        const tile_range& r = b.range;
        for (std::size_t p = 0; p < work_.panels; ++p) {
            const std::byte* panel = w_.panel(work_.first_panel + p);
            if constexpr (!Integers) decode_scales<Isa, F>(w_, panel, r.part, r.parts, own_.scales + p * b.stride);
            if constexpr (S::has_minimum)
                decode_minimums<Isa>(w_, panel, r.part, r.parts, own_.minimums + p * b.stride);
            if constexpr (S::has_integer_zero) widen_zeros(w_, panel, r.part, r.parts, own_.zeros + p * b.stride);
            if constexpr (!F::always_packed)
                if (!plan_.packed_tiles) unpack_codes(b, panel + b.offset, own_.lanes + p * lane_stride(b));
        }
    }

    static NIBBLE_INLINE void unpack_codes(const column_block& b, const std::byte* codes, std::byte* lanes) noexcept {
        if constexpr (places_parts<F>)
            F::unpack(codes, b.range, lanes);
        else
            F::unpack(codes, b.units, lanes);
    }
    // Of lanes, from panel to panel.
    [[nodiscard]] static NIBBLE_INLINE std::size_t lane_stride(const column_block& b) noexcept {
        if constexpr (places_parts<F>)
            return F::lane_stride(b.range);
        else
            return b.units * F::lane_bytes;
    }

    void prefetch_beginning(std::size_t from) const {
        for (std::size_t p = from; p < detail::min_of(from + work_.panels, plan_.panels); ++p) {
            const std::byte* panel = w_.panel(p);
            prefetch_scales<Isa>(w_, panel, 0, detail::min_of(plan_.block_parts, plan_.depth.count));
            for (std::ptrdiff_t at = 0; at < ahead_; at += 64) Isa::prefetch(panel + w_.sections().codes + at);
        }
    }
    NIBBLE_INLINE void prefetch_next_scales(const column_block& b, bool ends_part) const {
        if (!ends_part) return;
        const std::size_t part = b.range.part + b.range.parts;
        if (part == plan_.depth.count) return prefetch_beginning(work_.next_panel);
        for (std::size_t p = 0; p < work_.panels; ++p)
            prefetch_scales<Isa>(w_, w_.panel(work_.first_panel + p), part,
                                 detail::min_of(plan_.block_parts, plan_.depth.count - part));
    }
    // Lanes are made in bursts, which would wait for memory while nothing is prefetched in between: the codes that come
    // next are, a share with every block of tokens. Where tiles do not do that (prefetch_plan) it is done in between,
    // unless they read the packed stream.
    NIBBLE_INLINE void prefetch_codes(const column_block& b, std::size_t block) const {
        if (plan_.packed_tiles) return;
        const std::size_t blocks = work_.end_block - work_.first_block;
        const std::size_t lines = b.code_bytes / 64;
        const std::size_t at = (block - work_.first_block) * lines / blocks;
        const std::size_t end = (block - work_.first_block + 1) * lines / blocks;
        for (std::size_t p = 0; p < work_.panels; ++p) {
            const std::size_t panel = b.last ? work_.next_panel + p : work_.first_panel + p;
            if (panel >= plan_.panels) return;
            const std::byte* from = w_.panel(panel) + (b.last ? w_.sections().codes : b.offset + b.code_bytes);
            for (std::size_t line = at; line < end; ++line) Isa::prefetch(from + line * 64);
        }
    }
    // Where activations of a block of tokens begin, for these columns.
    [[nodiscard]] NIBBLE_INLINE std::ptrdiff_t values_of(std::size_t block, std::size_t column) const {
        const std::size_t token = plan_.blocks.first(block);
        return static_cast<std::ptrdiff_t>(token * plan_.depth.padded +
                                           column * (plan_.blocks.first(block + 1) - token));
    }
    // What a tile of a block of tokens prefetches: its share of the codes of the next columns or panels, and the next
    // activations; of codes that are read once, those a little ahead of what is being read.
    [[nodiscard]] NIBBLE_INLINE bool once() const {
        return plan_.packed_tiles && work_.end_block - work_.first_block == 1;
    }
    NIBBLE_INLINE void plan_prefetches(prefetch_plan& to, const column_block& b, std::size_t block, std::size_t p,
                                       std::size_t at_once) const {
        const std::size_t share = b.code_bytes / (work_.end_block - work_.first_block);
        const std::size_t next = b.last ? work_.next_panel + p : work_.first_panel + p;
        if (once() || next + at_once > plan_.panels)
            to.next = w_.panel(work_.first_panel + p) + b.offset + (once() ? Isa::tuning().prefetch_distance(1) : 0);
        else
            to.next = w_.panel(next) + (b.last ? w_.sections().codes : b.offset + b.code_bytes) +
                      (block - work_.first_block) * share;
        const std::ptrdiff_t values = block + 1 < work_.end_block ? values_of(block + 1, b.range.begin)
                                      : b.last
                                          ? values_of(work_.first_block, 0)
                                          : values_of(work_.first_block, b.range.begin + b.units * F::unit_columns);
        to.values_ahead =
            once() ? 0 : (values - values_of(block, b.range.begin)) * static_cast<std::ptrdiff_t>(F::order.value_bytes);
    }

    // What a tile is told of all blocks of tokens.
    [[nodiscard]] NIBBLE_INLINE tile_arguments arguments_of(const column_block& b) const {
        tile_arguments a{};
        a.ahead = ahead_;
        a.results_stride = tokens_ * rows;
        a.weights_stride = plan_.packed_tiles ? w_.panel_bytes() : lane_stride(b);
        a.columns = plan_.depth.padded;
        a.scales_stride = b.stride;
        if (tokens_ > 1) { // one token's tiles prefetch what they read alone
            a.prefetches.next_stride = w_.panel_bytes();
            const std::size_t share = b.code_bytes / (work_.end_block - work_.first_block);
            a.prefetches.next_pace =
                once() ? 256
                       : detail::ceil_div(share * 256, plan_.packed_tiles ? b.code_bytes : b.units * F::lane_bytes);
        }
        if constexpr (plan_type::integers) {
            a.phases_per_part = plan_.phases.per_part;
            a.phase_quads = plan_.phases.quads;
            a.center = detail::lane_center<element> - (has_zeros ? 0 : F::lane_offset);
        }
        return a;
    }
    // Of one, of n tokens,
    NIBBLE_INLINE void point_to_values(tile_arguments& a, const tile_range& r, std::size_t token, std::size_t n) const {
        const std::size_t parts = token * plan_.depth.count;
        a.values = shared_.values + (token * plan_.depth.padded + r.begin * n) * F::order.value_bytes;
        a.part_sums = shared_.part_sums + parts + r.part * n;
        if constexpr (plan_type::integers) {
            const std::size_t phases = plan_.phases.per_part;
            a.pair_sums = shared_.pair_sums + parts * phases + (r.part * phases + r.phase) * n;
            a.part_scales = plan_.per_part ? shared_.scales + parts + r.part * n : nullptr;
        }
    }
    // and of a panel, or the first of several.
    NIBBLE_INLINE void point_to_panel(tile_arguments& a, const column_block& b, std::size_t p, std::size_t t) const {
        a.weights = plan_.packed_tiles ? w_.panel(work_.first_panel + p) + b.offset : own_.lanes + p * lane_stride(b);
        a.scales = own_.scales + p * b.stride;
        if constexpr (has_zeros) a.zeros = own_.zeros + p * b.stride;
        if constexpr (S::has_minimum) a.minimums = own_.minimums + p * b.stride;
        a.results = own_.results + (p * tokens_ + t) * rows;
        a.totals = own_.totals + (p * tokens_ + t) * rows * sizeof(float);
    }

    // Block by block of tokens; `done` is called while the sums are in cache and the next tile has work that hides the
    // stores.
    NIBBLE_INLINE void multiply(const column_block& b) const {
        tile_arguments a = arguments_of(b);
        for (std::size_t block = work_.first_block; block < work_.end_block; ++block) {
            const std::size_t token = plan_.blocks.first(block);
            const std::size_t n = plan_.blocks.first(block + 1) - token;
            const bool in_pairs = work_.panels % 2 == 0 && n >= 2 && F::in_pairs(plan_.packed_tiles);
            const std::size_t at_once = together_ ? work_.panels : in_pairs ? 2 : 1;
            const bool requesting = F::requests(n, in_pairs, plan_.packed_tiles);
            if (!requesting) prefetch_codes(b, block);
            point_to_values(a, b.range, token, n);
            for (std::size_t p = 0; p < work_.panels; p += at_once) {
                if (requesting) plan_prefetches(a.prefetches, b, block, p, at_once);
                point_to_panel(a, b, p, token - first_token_);
                F::template multiply<has_zeros>(plan_.packed_tiles, at_once, n, a, b.range);
            }
            if (b.last && done_.call != nullptr) done_.call(done_.by, token, n);
        }
    }

    const plan_type& plan_;
    const packed_view<S>& w_;
    const activation_memory& shared_;
    const typename plan_type::worker_memory& own_;
    const panel_work& work_;
    const tokens_done& done_;
    std::size_t first_token_;
    std::size_t tokens_;
    bool together_;
    std::ptrdiff_t ahead_;
};

// Not inline: one copy for all epilogues and destinations.
template <isa Isa, any_scheme S, bool Integers = false>
NIBBLE_NOINLINE void sum_group(const gemm_plan<S, Isa>& plan, const packed_view<S>& w, const activation_memory& shared,
                               const typename gemm_plan<S, Isa>::worker_memory& own, const panel_work& work,
                               const tokens_done& done) {
    using P = gemm_plan<S, Isa>;
    if constexpr (P::has_alternative)
        if (plan.uses_alternative)
            return group_sums<typename P::alternative, Isa, S, Integers>(plan, w, shared, own, work, done).run();
    group_sums<typename P::family, Isa, S, Integers>(plan, w, shared, own, work, done).run();
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
