// packed_layout.hpp: what a packed matrix is, in plain numbers: one type for all translation units, whatever
// instruction set they are compiled for.
#pragma once

#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble {

// Not in the inline namespace of the version and the instruction set: units of different flags hand these to each
// other. Hence no member function, no default member value and no standard type: there is no code that a linker could
// choose.
struct packed_layout {
    std::uint64_t scheme;     // scheme_digest of the scheme (scheme/scheme_digest.hpp)
    std::uint32_t version;    // packed_layout_version of the unit that packed it
    std::uint32_t panel_rows; // 8, 16 or 32
    std::size_t rows;
    std::size_t cols;
    std::size_t bytes; // of all panels
    float offset;      // of a mean_offset, else 0
};

// A packed matrix without its type: packed_view::untyped makes it, packed_view(untyped) of another unit takes it.
// Whoever owns the panels keeps them meanwhile.
struct untyped_packed {
    packed_layout layout;
    const std::byte* panels; // on a 64-byte boundary
};

} // namespace nibble

namespace nibble::inline NIBBLE_ABI {

// Counts up with every change of where a number of a panel stands (layout.hpp, packed_view.hpp).
inline constexpr std::uint32_t packed_layout_version = 1;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
