// kernel/gemm_sum.hpp: the sums of a group of panels against blocks of tokens: widen, unpack, tile, over blocks of columns that
// stay in cache.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/real_tile.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::kernel {

// Which source an integer scheme's tile reads: the packed stream (Packed), or lanes made of it; as int16 (Words), or bytes.
template <isa Isa, any_scheme S, bool Packed, bool Words = false>
struct source_of {
    using element = typename S::element_type;
    // Linear elements of one width share their kernels: codes are stored so that masking alone makes lanes of them.
    using lookup = std::conditional_t<gemm_plan<S, Isa>::linear, void, element>;
    template <class Machine>
    using sums_of = std::conditional_t<gemm_plan<S, Isa>::wide_element, int32_dots_of<Machine>, Machine>;
    // Tables of more than 64 entries take so many shuffles that two vectors of them are no slower than one twice as long.
    using packed_isa = sums_of<std::conditional_t<gemm_plan<S, Isa>::linear || element::bits <= 6, detail::panel_isa_of<Isa>, Isa>>;
    using lanes_isa = sums_of<detail::panel_isa_of<Isa>>;
    using type = std::conditional_t<
        Words, std::conditional_t<Packed, packed_word_source<Isa, element::bits, lookup>, word_source<Isa>>,
        std::conditional_t<Packed, packed_source<packed_isa, element::bits, lookup>, byte_source<lanes_isa>>>;
};

template <class Source, bool Zeros, std::size_t Panels>
NIBBLE_INLINE void integer_tile_of(std::size_t tokens, const integer_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 1: return integer_tile<Source, Panels, 1, Zeros>(a, r);
    case 2: return integer_tile<Source, Panels, 2, Zeros>(a, r);
    case 3: return integer_tile<Source, Panels, 3, Zeros>(a, r);
    case 4: return integer_tile<Source, Panels, 4, Zeros>(a, r);
    default:
        {
            constexpr token_tiles tiles = Source::isa_type::facts.integer_tiles;
            if constexpr (tiles.longest > tiles.shorter) return integer_tile<Source, Panels, tiles.longest, Zeros>(a, r);
        }
    }
}
// Two panels at once, for two tokens or more.
template <class Source, bool Zeros>
NIBBLE_INLINE void integer_pair_of(std::size_t tokens, const integer_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 2: return integer_tile<Source, 2, 2, Zeros>(a, r);
    case 3: return integer_tile<Source, 2, 3, Zeros>(a, r);
    case 4: return integer_tile<Source, 2, 4, Zeros>(a, r);
    default: return integer_tile<Source, 2, Source::isa_type::facts.integer_tiles.longest, Zeros>(a, r);
    }
}
template <class Source>
NIBBLE_INLINE void real_pair_of(std::size_t tokens, const real_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 2: return real_tile<Source, 2, 2>(a, r);
    case 3: return real_tile<Source, 2, 3>(a, r);
    case 4: return real_tile<Source, 2, 4>(a, r);
    case 5: return real_tile<Source, 2, 5>(a, r);
    case 6: return real_tile<Source, 2, 6>(a, r);
    default:
        if constexpr (Source::columns == 1) return real_tile<Source, 2, Source::isa_type::facts.float_tiles.longest>(a, r);
    }
}
template <class Source>
NIBBLE_INLINE void real_tile_of(std::size_t tokens, const real_tile_arguments& a, const tile_range& r) noexcept {
    switch (tokens) {
    case 1: return real_tile<Source, 1, 1>(a, r);
    case 2: return real_tile<Source, 1, 2>(a, r);
    case 3: return real_tile<Source, 1, 3>(a, r);
    case 4: return real_tile<Source, 1, 4>(a, r);
    case 5: return real_tile<Source, 1, 5>(a, r);
    case 6: return real_tile<Source, 1, 6>(a, r);
    default:
        {
            constexpr token_tiles tiles = Source::isa_type::facts.float_tiles;
            if constexpr (tiles.longest > tiles.shorter && Source::columns == 1) return real_tile<Source, 1, tiles.longest>(a, r);
        }
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

// What is called when the sums of some tokens, all outputs of the group, are complete.
struct tokens_done {
    void (*call)(const void* by, std::size_t first_token, std::size_t tokens) = nullptr; // or nothing
    const void* by = nullptr;

    template <class Call>
    [[nodiscard]] static tokens_done of(const Call& call) noexcept {
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
    bool begins = false;        // nothing of it has been asked for yet
};

// The sums of one group of panels. With Integers no scale takes part: what remains is the exact sum of a row's only part,
// [panel][token][16] in own.totals. `done` is called block by block, while the sums are in cache and the next tile has work that
// hides the stores. Not inline: one copy for all epilogues and destinations.
template <isa Isa, any_scheme S, bool Integers = false>
NIBBLE_NOINLINE void sum_group(const gemm_plan<S, Isa>& plan, const packed<S>& w,
                               const typename gemm_plan<S, Isa>::shared_memory& shared,
                               const typename gemm_plan<S, Isa>::worker_memory& own, const panel_work& work,
                               const tokens_done& done) {
    using P = gemm_plan<S, Isa>;
    using element = typename S::element_type;
    constexpr std::size_t rows = panel_layout::rows;
    const std::size_t first_panel = work.first_panel;
    const std::size_t panels = work.panels;
    const std::size_t first_block = work.first_block;
    const std::size_t end_block = work.end_block;
    const std::size_t first_token = plan.blocks.first(first_block);
    const std::size_t tokens = plan.blocks.first(end_block) - first_token;
    __builtin_memset(Integers ? static_cast<void*>(own.totals) : own.results, 0, panels * tokens * rows * sizeof(float));
    const bool together = panels == P::most_panels && tokens == 1;
    // Where a panel's rows are one vector, two panels at once share broadcasts, and few tokens have sums enough to hide the
    // latency of what adds to them. Decoders keep the processor busy meanwhile.
    constexpr bool has_pairs = !P::has_words && detail::panel_isa_of<Isa>::width == rows;
    const auto goes_in_pairs = [&](std::size_t n) {
        return has_pairs && panels % 2 == 0 && n >= 2 && !(P::decoded && plan.packed_tiles);
    };
    const auto ahead = static_cast<std::ptrdiff_t>(Isa::tuning().prefetch_distance(together ? panels : 1));
    const auto prefetch_beginning = [&](std::size_t from) NIBBLE_INLINE_LAMBDA {
        for (std::size_t p = from; p < detail::min_of(from + panels, plan.panels); ++p) {
            const std::byte* panel = w.panel(p);
            prefetch_scales<Isa>(w, panel, 0, detail::min_of(plan.block_parts, plan.depth.count));
            for (std::ptrdiff_t at = 0; at < ahead; at += 64) Isa::prefetch(panel + w.sections().codes + at);
        }
    };
    if (plan.depth.count == 0) { // no columns: sums of zero
        if (done.call != nullptr) done.call(done.by, first_token, tokens);
        return;
    }
    if (work.begins) prefetch_beginning(first_panel);
    plan.for_each_block([&](const tile_range& range) {
        tile_range r = range;
        if constexpr (Integers) r.finish = false;
        const std::size_t stride = r.parts * rows;
        const std::size_t units = (r.parts - 1) * r.part_units + r.last_units;
        const std::size_t offset = w.sections().codes + r.begin / plan.depth.step * detail::step_bytes<element>;
        for (std::size_t p = 0; p < panels; ++p) {
            const std::byte* panel = w.panel(first_panel + p);
            if constexpr (!Integers) widen_scales<Isa>(w, panel, r.part, r.parts, own.scales + p * stride);
            if constexpr (S::has_minimum) widen_minimums<Isa>(w, panel, r.part, r.parts, own.minimums + p * stride);
            if constexpr (P::has_zeros) widen_zeros(w, panel, r.part, r.parts, own.zeros + p * stride);
            if constexpr (!P::direct || P::has_words)
                if (!plan.packed_tiles) {
                    const auto* codes = reinterpret_cast<const std::uint8_t*>(panel + offset);
                    std::byte* lanes = own.lanes + p * units * plan.lane_bytes;
                    if constexpr (P::real) unpack_real<Isa, element>(codes, units, reinterpret_cast<float*>(lanes));
                    if constexpr (P::has_words)
                        if (plan.wide) unpack_words<Isa, element>(codes, units, reinterpret_cast<std::int16_t*>(lanes));
                    if constexpr (!P::real && !P::direct)
                        if (!plan.wide) unpack_integer<Isa, element>(codes, units, reinterpret_cast<std::uint8_t*>(lanes));
                }
        }
        if (range.finish && r.part + r.parts == plan.depth.count)
            prefetch_beginning(work.next_panel);
        else if (range.finish) {
            const std::size_t part = r.part + r.parts;
            for (std::size_t p = 0; p < panels; ++p)
                prefetch_scales<Isa>(w, w.panel(first_panel + p), part,
                                     detail::min_of(plan.block_parts, plan.depth.count - part));
        }
        // Lanes are made in bursts, which would wait for memory while nothing is asked of it in between: the codes that come next
        // are, a share with every block of tokens.
        const bool last = r.part + r.parts == plan.depth.count && range.finish;
        const std::size_t code_bytes = units * plan.unit_columns / plan.depth.step * detail::step_bytes<element>;
        // Tiles that make no requests (tile_requests) have them made in between, unless they read the packed stream.
        const auto prefetch_codes = [&](std::size_t block) {
            if (plan.packed_tiles) return;
            const std::size_t lines = code_bytes / 64;
            const std::size_t at = (block - first_block) * lines / (end_block - first_block);
            const std::size_t end = (block - first_block + 1) * lines / (end_block - first_block);
            for (std::size_t p = 0; p < panels; ++p) {
                const std::size_t panel = last ? work.next_panel + p : first_panel + p;
                if (panel >= plan.panels) return;
                const std::byte* from = w.panel(panel) + (last ? w.sections().codes : offset + code_bytes);
                for (std::size_t line = at; line < end; ++line) Isa::prefetch(from + line * 64);
            }
        };
        // Where activations of a block of tokens begin, for these columns.
        const auto values_of = [&](std::size_t block, std::size_t column) {
            const std::size_t token = plan.blocks.first(block);
            return static_cast<std::ptrdiff_t>(token * plan.depth.padded + column * (plan.blocks.first(block + 1) - token));
        };
        // What a tile of a block of tokens asks for: its share of the codes of the next columns or panels, and the next
        // activations; of codes that are read once, those a little ahead of what is being read.
        const bool once = plan.packed_tiles && end_block - first_block == 1;
        const std::size_t share = code_bytes / (end_block - first_block);
        tile_requests requests{};
        requests.next_stride = w.panel_bytes();
        requests.next_pace =
            once ? 256 : detail::ceil_div(share * 256, plan.packed_tiles ? code_bytes : units * plan.lane_bytes);
        const auto requests_of = [&](std::size_t block, std::size_t p, std::size_t at_once, std::size_t value_bytes) {
            const std::size_t next = last ? work.next_panel + p : first_panel + p;
            if (once || next + at_once > plan.panels)
                requests.next = w.panel(first_panel + p) + offset + (once ? Isa::tuning().prefetch_distance(1) : 0);
            else
                requests.next =
                    w.panel(next) + (last ? w.sections().codes : offset + code_bytes) + (block - first_block) * share;
            const std::ptrdiff_t values = block + 1 < end_block ? values_of(block + 1, r.begin)
                                          : last                ? values_of(first_block, 0)
                                                 : values_of(first_block, r.begin + units * plan.unit_columns);
            requests.values_ahead =
                once ? 0 : (values - values_of(block, r.begin)) * static_cast<std::ptrdiff_t>(value_bytes);
            return requests;
        };
        const auto complete = [&](std::size_t token, std::size_t n) {
            if (last && done.call != nullptr) done.call(done.by, token, n);
        };
        if constexpr (P::real) {
            real_tile_arguments a{};
            a.ahead = ahead;
            a.results_stride = tokens * rows;
            a.weights_stride = plan.packed_tiles ? w.panel_bytes() : units * plan.lane_bytes;
            a.widened_stride = stride;
            for (std::size_t block = first_block; block < end_block; ++block) {
                const std::size_t token = plan.blocks.first(block);
                const std::size_t n = plan.blocks.first(block + 1) - token;
                const std::size_t t = token - first_token;
                const bool requesting = n >= Isa::facts.float_tiles.shorter;
                if (!requesting) prefetch_codes(block);
                const bool in_pairs = goes_in_pairs(n);
                const std::size_t at_once = together ? panels : in_pairs ? 2 : 1;
                for (std::size_t p = 0; p < panels; p += at_once) {
                    if (requesting) a.requests = requests_of(block, p, at_once, sizeof(float));
                    a.weights = plan.packed_tiles ? w.panel(first_panel + p) + offset : own.lanes + p * units * plan.lane_bytes;
                    a.values = shared.real_values + token * plan.depth.padded + r.begin * n;
                    a.part_sums = shared.part_sums + token * plan.depth.count + r.part * n;
                    a.scales = own.scales + p * stride;
                    a.minimums = S::has_minimum ? own.minimums + p * stride : nullptr;
                    a.results = own.results + (p * tokens + t) * rows;
                    a.totals = reinterpret_cast<float*>(own.totals) + (p * tokens + t) * rows;
                    if constexpr (has_pairs)
                        if (in_pairs) {
                            if constexpr (P::few_direct && !P::plain && !P::decoded)
                                if (plan.packed_tiles) {
                                    real_pair_of<real_packed_source<Isa, element>>(n, a, r);
                                    continue;
                                }
                            real_pair_of<real_source<detail::panel_isa_of<Isa>>>(n, a, r);
                            continue;
                        }
                    if (together)
                        real_tile<real_packed_source<Isa, element>, P::most_panels, 1>(a, r);
                    else if (P::plain || !plan.packed_tiles)
                        real_tile_of<real_source<detail::panel_isa_of<Isa>>>(n, a, r);
                    else if constexpr (P::few_direct)
                        real_tile_of<real_packed_source<Isa, element>>(n, a, r);
                    else
                        real_tile<real_packed_source<Isa, element>, 1, 1>(a, r);
                }
                complete(token, n);
            }
        } else {
            using packed_pairs = typename source_of<Isa, S, true>::type;
            using lanes_pairs = typename source_of<Isa, S, false>::type;
            integer_tile_arguments a{};
            a.ahead = ahead;
            a.results_stride = tokens * rows;
            a.codes_stride = plan.packed_tiles ? w.panel_bytes() : units * plan.lane_bytes;
            a.widened_stride = stride;
            a.phases_per_part = plan.phases.per_part;
            a.phase_quads = plan.phases.quads;
            a.center = detail::lane_center<element>;
            for (std::size_t block = first_block; block < end_block; ++block) {
                const std::size_t token = plan.blocks.first(block);
                const std::size_t n = plan.blocks.first(block + 1) - token;
                const std::size_t t = token - first_token;
                const bool in_pairs = goes_in_pairs(n);
                const std::size_t at_once = together ? panels : in_pairs ? 2 : 1;
                const bool requesting = in_pairs && n == Isa::facts.integer_tiles.longest &&
                                        (plan.packed_tiles ? makes_requests<packed_pairs, 2, Isa::facts.integer_tiles.longest>
                                                           : makes_requests<lanes_pairs, 2, Isa::facts.integer_tiles.longest>);
                if (!requesting) prefetch_codes(block);
                for (std::size_t p = 0; p < panels; p += at_once) {
                    if (requesting) a.requests = requests_of(block, p, at_once, 1);
                    a.codes = reinterpret_cast<const std::uint8_t*>(
                        plan.packed_tiles ? w.panel(first_panel + p) + offset : own.lanes + p * units * plan.lane_bytes);
                    a.values = shared.values + (token * plan.depth.padded + r.begin * n) * (plan.wide ? 2 : 1);
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
                    const auto run = [&]<bool Words>() NIBBLE_INLINE_LAMBDA {
                        using packed_source = typename source_of<Isa, S, true, Words>::type;
                        using lanes_source = typename source_of<Isa, S, false, Words>::type;
                        if constexpr (has_pairs && !Words)
                            if (in_pairs) {
                                if constexpr (P::few_direct)
                                    if (plan.packed_tiles) return integer_pair_of<packed_source, P::has_zeros>(n, a, r);
                                return integer_pair_of<lanes_source, P::has_zeros>(n, a, r);
                            }
                        if (together)
                            integer_tile<packed_source, P::most_panels, 1, P::has_zeros>(a, r);
                        else if (!plan.packed_tiles)
                            integer_tile_of<lanes_source, P::has_zeros, 1>(n, a, r);
                        else if constexpr (P::few_direct)
                            integer_tile_of<packed_source, P::has_zeros, 1>(n, a, r);
                        else
                            integer_tile<packed_source, 1, 1, P::has_zeros>(a, r);
                    };
                    if constexpr (P::has_words)
                        if (plan.wide) {
                            run.template operator()<true>();
                            continue;
                        }
                    run.template operator()<false>();
                }
                complete(token, n);
            }
        }
    });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
