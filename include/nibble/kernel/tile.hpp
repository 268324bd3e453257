// kernel/tile.hpp: what the register tiles of products, Panels x 16 rows of weights against Tokens rows of activations over a range
// of columns, have in common: integer_tile.hpp and real_tile.hpp, where everything is that is hot in gemm.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>

#include <cstddef>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::kernel {

// The columns a tile covers: whole parts, or a piece of one part that begins and ends on a phase.
struct tile_range {
    std::size_t part = 0;        // the first part
    std::size_t parts = 0;
    std::size_t begin = 0;       // its first padded column, or that of the piece
    std::size_t part_units = 0;  // quads (integer) or columns (real) of every part but the last
    std::size_t last_units = 0;  // of the last part, or of the piece
    std::size_t phase = 0;       // the first phase of the piece within its part (integer)
    bool resume = false;         // the piece continues sums in `totals`
    bool finish = true;          // the last part is complete with this range
};

// What a tile asks for besides what it reads: of several tiles in a row each asks for a share of what comes next, spread over
// its loop. A burst of requests between tiles would take the first-level cache's line buffers from the tile's own reads.
struct tile_requests {
    const std::byte* next = nullptr; // the first panel's share of the codes that come next
    std::size_t next_stride = 0;     // bytes from panel to panel
    std::size_t next_pace = 0;       // 1/256 bytes per byte of weights that the tile reads
    std::ptrdiff_t values_ahead = 0; // bytes from the activations to those of the next tile
};

// What a step of `Bytes` asks for, one of `Steps`: every line, once where lines are steps or several.
template <isa Isa, std::size_t Bytes, std::size_t Steps, class Byte>
NIBBLE_INLINE void prefetch_step(const Byte* from, std::ptrdiff_t ahead, std::size_t step) noexcept {
    if constexpr (Bytes <= 64) {
        if (Bytes * Steps < 64 || step * Bytes % 64 == 0) Isa::prefetch(from + ahead);
    } else {
#pragma GCC unroll 4
        for (std::size_t line = 0; line < Bytes; line += 64) Isa::prefetch(from + ahead + line);
    }
}

// Requests for what is read long after, as attention makes them. A Zen has 24 lines on the way to its first-level cache at most,
// requests and reads alike, which is less than memory could bring: there they go to the second level. (Zen 4, cold caches, one
// query: 32 and 16 bits 1.1 to 1.4 times as fast, 8 bits 1.3 to 1.5, int4_g32 0.96 to 1.36; 2 bits, which need few lines at a time,
// .8 to .9. Emerald Rapids .93 to 1.03. Products with cold weights, whose streams the hardware follows, .92 to 1.1.)
template <isa Isa, int Bits>
inline constexpr bool asks_second_level = Isa::facts.prefetches_second_level && Bits >= 4;
template <isa Isa>
struct early_isa : Isa {
    static NIBBLE_INLINE void prefetch(const void* at) noexcept { Isa::prefetch_second_level(at); }
};
template <class Source>
struct early_source : Source {
    using isa_type = early_isa<typename Source::isa_type>;
};
template <class Source, int Bits>
using asked_early = std::conditional_t<asks_second_level<typename Source::isa_type, Bits>, early_source<Source>, Source>;

// What is asked for once per part is read from memory when it is: kept in registers it would push the pointers of the innermost
// loop out of them.
template <class T>
[[nodiscard]] NIBBLE_INLINE const T* fresh(const T& of) noexcept {
    const T* at = &of;
    NIBBLE_OPAQUE(at);
    return at;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
