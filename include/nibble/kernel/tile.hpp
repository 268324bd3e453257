// kernel/tile.hpp: what the register tiles of products, Panels x 16 rows of weights against Tokens rows of activations
// over a range of columns, have in common: integer_tile.hpp and real_tile.hpp, where everything is that is hot in gemm.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/kernel/prefetch.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The columns a tile covers: whole parts, or a piece of one part that begins and ends on a phase.
struct tile_range {
    std::size_t part = 0; // the first part
    std::size_t parts = 0;
    std::size_t begin = 0;      // its first padded column, or that of the piece
    std::size_t part_units = 0; // quads (integer) or columns (real) of every part but the last
    std::size_t last_units = 0; // of the last part, or of the piece
    std::size_t phase = 0;      // the first phase of the piece within its part (integer)
    bool resume = false;        // the piece continues sums in `totals`
    bool ends_part = true;      // the last part is complete with this range
};

// What a tile is given.
struct tile_arguments {
    const std::byte* weights = nullptr; // codes or lanes of the range's first unit, as the tile's loader reads them
    std::size_t weights_stride = 0;     // bytes from panel to panel
    std::size_t columns = 0;            // of a token's activations, with their padding
    const std::byte* values = nullptr;  // activations of the range's first unit, in their family's order
    const std::int32_t* pair_sums = nullptr; // of the range's first phase; of activations that are integers
    const float* part_sums = nullptr;        // of the range's first part
    const float* part_scales = nullptr;      // of the range's first part; null if scales are per token
    const float* scales = nullptr;           // [panel][part][16]
    const std::int32_t* zeros = nullptr;     // [panel][part][16] or null: see widen_zeros
    const float* minimums = nullptr;         // [panel][part][16] or null
    std::size_t scales_stride = 0;           // floats from panel to panel in scales, zeros, minimums
    std::size_t phases_per_part = 1;
    std::size_t phase_quads = 1;
    int center = 0;
    std::ptrdiff_t ahead = 0;       // bytes from a code to the one that is prefetched when it is read, where the tile
    prefetch_plan prefetches{};     // does not follow these
    float* results = nullptr;       // [panel][token][16], read and written
    std::size_t results_stride = 0; // floats from panel to panel
    std::byte* totals = nullptr;    // likewise, and as far apart: int32 or fp32 sums of an unfinished part
};

// What is asked for once per part is read from memory when it is: kept in registers it would push the pointers of the
// innermost loop out of them.
template <class T> [[nodiscard]] NIBBLE_INLINE const T* reload(const T& of) noexcept {
    const T* at = &of;
    NIBBLE_OPAQUE(at);
    return at;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
