// layout.hpp: where each code and scale of packed weights sits: panels of 16 rows, quads of 4 columns, bit planes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A panel is 16 consecutive rows: the width that kernels read. (8 and 32 are there for kernels to come; repack of
// pack.hpp converts, and what follows holds for them with as many vectors of 8 rows.) A quad is 4 consecutive columns
// of a panel: 64 codes, seen as two 32-byte vectors of lanes, A for rows 0-7 and B for rows 8-15, where byte 4r + j is
// row r (or 8 + r), column 4 quad + j. One broadcast of four activations thus meets 8 rows in one instruction.
//
// A step is the smallest run of quads that fills whole 32-byte vectors in every bit plane: 1 quad if the element has 4
// or 8 bits, 2 if it has a plane of 2 bits (2, 6), 4 if it has one of 1 bit (1, 3, 5, 7). Codes of a step, plane by
// plane, lowest bits first:
//   8 bits:   per quad A then B (64 bytes)
//   4 bits:   per quad 32 bytes, byte b = A[b] | B[b] << 4
//   2 bits:   per 2 quads 32 bytes, byte b = A0[b] | B0[b] << 2 | A1[b] << 4 | B1[b] << 6
//   1 bit:    per 4 quads 32 bytes, byte b = A0[b] | B0[b] << 1 | A1[b] << 2 | ... | B3[b] << 7
// with 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. 16- and 32-bit codes: per column the codes of the rows. In
// panels of 8 rows a quad is A alone, and 4, 2 and 1 bits join the vectors of 2, 4 and 8 quads; in panels of 32 rows it
// is A, B, C, D, and they join pairs of them, all four, and the eight of 2 quads.
struct panel_layout {
    static constexpr std::size_t rows = 16;
    static constexpr std::size_t quad = 4;
    // Is that a width of panels that pack, unpack and files know?
    [[nodiscard]] static constexpr bool is_width(std::size_t panel_rows) noexcept {
        return panel_rows == 8 || panel_rows == 16 || panel_rows == 32;
    }
};

namespace detail {

[[nodiscard]] constexpr std::size_t step_quads_of(int bits, std::size_t panel_rows = panel_layout::rows) noexcept {
    // The vectors of 8 rows that fill one of 32 bytes in the narrowest plane.
    const std::size_t vectors = bits >= 8 ? 1 : bits % 2 == 1 ? 8 : bits == 4 ? 2 : 4;
    return max_of<std::size_t>(1, vectors * 8 / panel_rows);
}
[[nodiscard]] constexpr std::size_t step_bytes_of(int bits, std::size_t panel_rows = panel_layout::rows) noexcept {
    return step_quads_of(bits, panel_rows) * panel_rows * panel_layout::quad * static_cast<std::size_t>(bits) / 8;
}
template <element E> inline constexpr std::size_t step_quads = step_quads_of(E::bits);
template <element E> inline constexpr std::size_t step_bytes = step_bytes_of(E::bits);

// How the columns of a row are cut: into groups that share a scale (`group_size` columns each, the last may be
// shorter), each padded to whole steps, so that every group starts on a step. A group longer than 65536 columns is cut
// into parts of that length, so that an integer sum over a part always fits in 32 bits.
struct depth_plan {
    std::size_t cols = 0;
    std::size_t group_size = 1; // columns per scale
    std::size_t step = 4;       // columns per step
    std::size_t part = 1;       // columns per part, at most group_size
    std::size_t parts_per_group = 1;
    std::size_t scales = 0;      // scales per row
    std::size_t count = 0;       // parts per row
    std::size_t padded_part = 0; // columns of a full part with padding
    std::size_t padded = 0;      // columns of a row with padding

    [[nodiscard]] static constexpr depth_plan make(std::size_t cols, std::size_t group_size,
                                                   std::size_t step) noexcept {
        constexpr std::size_t longest = 65536;
        depth_plan d{};
        d.cols = cols;
        d.group_size = min_of(group_size, max_of<std::size_t>(cols, 1));
        d.step = step;
        d.part = min_of(d.group_size, longest);
        d.parts_per_group = ceil_div(d.group_size, d.part);
        d.scales = ceil_div(cols, d.group_size);
        d.padded_part = round_up(d.part, step);
        if (cols != 0) {
            const std::size_t whole = cols / d.group_size;
            const std::size_t rest = cols % d.group_size;
            d.count = whole * d.parts_per_group + ceil_div(rest, d.part);
            d.padded = d.begin(d.count - 1) + round_up(d.columns(d.count - 1), step);
        }
        return d;
    }
    [[nodiscard]] friend constexpr bool operator==(const depth_plan&, const depth_plan&) noexcept = default;

    // The first column of part p, and how many it has.
    [[nodiscard]] constexpr std::size_t column(std::size_t p) const noexcept {
        if (parts_per_group == 1) return p * group_size; // no division: this is asked once per part in the kernels
        return (p / parts_per_group) * group_size + (p % parts_per_group) * part;
    }
    [[nodiscard]] constexpr std::size_t columns(std::size_t p) const noexcept {
        const std::size_t first = column(p);
        if (parts_per_group == 1) return min_of(group_size, cols - first);
        const std::size_t group_end = min_of(cols, (p / parts_per_group + 1) * group_size);
        return min_of(part, group_end - first);
    }
    // Where part p starts among the padded columns.
    [[nodiscard]] constexpr std::size_t begin(std::size_t p) const noexcept {
        if (parts_per_group == 1) return p * padded_part;
        const std::size_t last = group_size - (parts_per_group - 1) * part; // columns of a group's last part
        const std::size_t padded_group = (parts_per_group - 1) * padded_part + round_up(last, step);
        return (p / parts_per_group) * padded_group + (p % parts_per_group) * padded_part;
    }
    [[nodiscard]] constexpr std::size_t scale_of(std::size_t p) const noexcept {
        // As p / parts_per_group, which compilers would take for both cases: a division for every part.
        return parts_per_group == 1 ? p : column(p) / group_size;
    }
};

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
