// kernel/prefetch.hpp: what products prefetch: codes a little ahead of their reads, shares of what the next tiles read,
// and streams that are read much later.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What a tile prefetches besides what it reads: of several tiles in a row each takes a share of what comes next, spread
// over its loop. A burst of prefetches between tiles would take the first-level cache's line buffers from the tile's
// own reads.
struct prefetch_plan {
    const std::byte* next = nullptr; // the first panel's share of the codes that come next
    std::size_t next_stride = 0;     // bytes from panel to panel
    std::size_t next_pace = 0;       // 1/256 bytes per byte of weights that the tile reads
    std::ptrdiff_t values_ahead = 0; // bytes from the activations to those of the next tile
};

// What a step of `Bytes` prefetches, one of `Steps`: every line, once where lines are steps or several.
template <isa Isa, std::size_t Bytes, std::size_t Steps, class Byte>
NIBBLE_INLINE void prefetch_step(const Byte* from, std::ptrdiff_t ahead, std::size_t step) noexcept {
    if constexpr (Bytes <= 64) {
        if (Bytes * Steps < 64 || step * Bytes % 64 == 0) Isa::prefetch(from + ahead);
    } else {
#pragma GCC unroll 4
        for (std::size_t line = 0; line < Bytes; line += 64) Isa::prefetch(from + ahead + line);
    }
}

// Prefetches of what is read long after, as attention makes them. A Zen has 24 lines on the way to its first-level
// cache at most, prefetches and reads alike, which is less than memory could bring: there they go to the second level.
// (Zen 4, cold caches, one query: 32 and 16 bits 1.1 to 1.4 times as fast, 8 bits 1.3 to 1.5, int4_g32 0.96 to 1.36; 2
// bits, which need few lines at a time, .8 to .9. Emerald Rapids .93 to 1.03. Products with cold weights, whose streams
// the hardware follows, .92 to 1.1.)
template <isa Isa, int Bits> inline constexpr bool prefetches_l2 = Isa::facts.prefetches_second_level && Bits >= 4;
template <isa Isa> struct prefetch_l2_isa : Isa {
    static NIBBLE_INLINE void prefetch(const void* at) noexcept { Isa::prefetch_second_level(at); }
};
template <class Loader> struct prefetch_l2_loader : Loader {
    using isa_type = prefetch_l2_isa<typename Loader::isa_type>;
};
template <class Loader, int Bits>
using streamed_loader =
    std::conditional_t<prefetches_l2<typename Loader::isa_type, Bits>, prefetch_l2_loader<Loader>, Loader>;

// Memory that will be read soon, prefetched a few lines at a time while the processor computes something else.
struct prefetch_cursor {
    const std::byte* at = nullptr;
    const std::byte* end = nullptr;
    std::size_t step = 0; // bytes at once, lines of 64
    template <isa Isa> NIBBLE_INLINE void prefetch(std::size_t times = 1) noexcept {
        if (at >= end) return;
        using streamed = std::conditional_t<Isa::facts.prefetches_second_level, prefetch_l2_isa<Isa>, Isa>;
        for (std::size_t i = 0; i < times * step; i += 64) streamed::prefetch(at + i);
        at += times * step;
    }
};

// From what is read to what is to be read after it: the tiles' prefetches have the same place there.
[[nodiscard]] inline std::ptrdiff_t prefetch_offset(const std::byte* from, const std::byte* next) noexcept {
    if (next == nullptr) return 0;
    return static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(next) - reinterpret_cast<std::uintptr_t>(from));
}

// How far ahead a tile prefetches within a stream that the machine's own prefetcher follows too.
inline constexpr std::ptrdiff_t stream_ahead = 2048;

// Panels that lie one after the other, several at a time: as many streams, each of which goes on from panel to panel,
// as prefetchers of memory have it. run(first panel, how many, panels from one to the next, whether they are the last).
template <class AtOnce, class Run>
NIBBLE_INLINE void for_each_stream(std::size_t panels, const AtOnce& at_once, const Run& run) noexcept {
    for (std::size_t done = 0; done < panels;) {
        const std::size_t streams = at_once(panels - done);
        const std::size_t length = (panels - done) / streams;
        for (std::size_t i = 0; i < length; ++i)
            run(done + i, streams, length, i + 1 == length && done + streams * length == panels);
        done += streams * length;
    }
}

// What decoding the scales of parts [part, part + parts) of a panel reads: a short stretch between long streams, which
// the hardware prefetcher only notices when it is over.
template <isa Isa, any_scheme S>
NIBBLE_INLINE void prefetch_scales(const packed_view<S>& w, const std::byte* panel, std::size_t part,
                                   std::size_t parts) noexcept {
    using traits = detail::scheme_traits<S>;
    const auto prefetch = [&](std::size_t section, std::size_t bytes_per_group, std::size_t first, std::size_t last) {
        const std::byte* end = panel + section + (last + 1) * bytes_per_group;
        for (const std::byte* at = panel + section + first * bytes_per_group; at < end; at += 64) Isa::prefetch(at);
    };
    constexpr std::size_t rows = panel_layout::rows;
    const std::size_t first = w.depth().scale_of(part);
    const std::size_t last = w.depth().scale_of(part + parts - 1);
    if constexpr (S::scaled) prefetch(w.sections().scales, rows * sizeof(typename traits::scale_code), first, last);
    if constexpr (traits::has_zero)
        prefetch(w.sections().zeros, rows * sizeof(typename traits::zero_code), first, last);
    if constexpr (S::two_level) {
        if (packed_shape<S>::outer_is_factor(w.cols())) return;
        const std::size_t outer_size = traits::outer_granularity::group_size(w.cols());
        const std::size_t outer_first = w.depth().column(part) / outer_size;
        const std::size_t outer_last = w.depth().column(part + parts - 1) / outer_size;
        prefetch(w.sections().outer, rows * sizeof(typename traits::outer_code), outer_first, outer_last);
        if constexpr (S::has_two_level_minimum)
            prefetch(w.sections().outer_zeros, rows * sizeof(typename traits::outer_zero_code), outer_first,
                     outer_last);
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
