// kernel/family/int8.hpp: products of bytes, exact: unsigned lanes times signed activations, summed in int16 for as
// long as those have room, or in int32 at once.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/int32_dots.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/family/family.hpp>
#include <nibble/kernel/family/int8_tiles.hpp>
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What the integer families Self have in common. Linear elements of one width share their tiles: codes are stored so
// that masking alone makes lanes of them.
template <class Self, isa Isa, element E> struct integer_family {
    using isa_type = Isa;
    using element_type = E;
    static constexpr token_tiles tiles = Isa::facts.integer_tiles;
    static constexpr std::size_t unit_columns = panel_layout::quad;
    static constexpr float unit = detail::exp2i(detail::integer_mapping_of<E>.exponent);
    static constexpr int lane_offset = detail::lane_offset<E>;
    static constexpr bool linear = detail::integer_mapping_of<E>.linear;
    using table = std::conditional_t<linear, void, E>; // that codes are looked up in
    static constexpr bool decoded = false;
    [[nodiscard]] static constexpr std::size_t panels_in_cache(std::size_t) noexcept { return 2; }
    template <class Loader> static constexpr bool has_longest = true;
    template <class Loader, std::size_t Panels, std::size_t Tokens, bool Zeros>
    static NIBBLE_INLINE void tile(const tile_arguments& a, const tile_range& r) noexcept {
        integer_tile<Loader, Panels, Tokens, Zeros>(a, r);
    }
    template <bool Zeros>
    static NIBBLE_INLINE void multiply(bool packed, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                       const tile_range& r) noexcept {
        tile_ladder<Self, Zeros>::multiply(packed, panels, tokens, a, r);
    }

protected:
    // Panels that one token goes through at once: as many as there are registers for their sums, of which short phases
    // take two sets, and for the codes of a step, of which elements with a plane of single bits have four quads.
    [[nodiscard]] static constexpr std::size_t panels_for_one(bool simple, std::size_t phase) noexcept {
        if (sizeof(typename Isa::sums) > sizeof(typename Isa::i32)) return 2;
        const bool room = phase >= 32 && (Isa::facts.vector_registers >= 32 || detail::step_quads<E> < 4);
        return simple || room ? 4 : 2;
    }
    // The lanes of a block take half of the first-level cache, as every tile of tokens reads them again.
    static constexpr std::size_t lanes_in_cache = std::size_t{16} << 10;
};

// Matrix tiles instead, where the machine has them: of so many tokens that they are faster, more of them for short
// parts, whose sums become fp32 more often (measured: bench/RESULTS.md).
template <class Self, isa Isa, element E, bool HasTiles> struct tiles_alternative {};
template <class Self, isa Isa, element E> struct tiles_alternative<Self, Isa, E, true> {
    using alternative = int8_tiles_family<Isa, E, Self>;
    [[nodiscard]] static bool prefers_alternative(std::size_t tokens, const activation_layout& x) noexcept {
        const std::size_t part = x.depth.padded_part;
        const std::size_t least = part >= 128 ? 64 : part >= 64 ? 128 : 256;
        return part >= 32 && tokens >= least && Isa::matrix_tiles::usable();
    }
};

// Small: of an element whose products int16 has no room for (int16.hpp), with activations of which it has room for two.
template <isa Isa, element E, bool Small = false>
struct int8_family : integer_family<int8_family<Isa, E, Small>, Isa, E>,
                     tiles_alternative<int8_family<Isa, E, Small>, Isa, E, !Small && Isa::facts.matrix_tiles> {
    using common = integer_family<int8_family, Isa, E>;
    using common::linear;
    using common::tiles;
    static constexpr activation_order order = byte_quads;
    static constexpr std::size_t phase_units = [] {
        if constexpr (Small || Isa::facts.dots_in_int32)
            return detail::int32_phase_quads;
        else
            return detail::int16_phase_quads<E>;
    }();
    static constexpr bool wide_sums = Small || Isa::facts.dots_in_int32;
    static constexpr std::size_t lane_bytes = panel_layout::rows * panel_layout::quad;
    static constexpr bool lanes_are_codes = linear && E::bits == 8;
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        unpack_integer<Isa, E>(reinterpret_cast<const std::uint8_t*>(codes), units,
                               reinterpret_cast<std::uint8_t*>(lanes));
    }

    // Tiles read the packed stream and unpack it in registers if the codes are read once: for one token, and for one
    // tile of tokens where elements share the code. For several tiles of tokens lanes are unpacked into the first-level
    // cache once, unless they are what is stored, or unpacking costs nothing: 4 bits where a panel is two vectors, both
    // of which they fill.
    static constexpr bool nibbles = !Small && E::bits == 4;
    static constexpr bool always_packed = lanes_are_codes || (nibbles && !detail::panel_in_one_vector<Isa>);
    static constexpr bool few_packed = linear || nibbles;
    [[nodiscard]] static constexpr bool reads_packed(std::size_t tokens, std::size_t blocks) noexcept {
        return always_packed || tokens == 1 || (few_packed && blocks <= 1);
    }
    static constexpr std::size_t most_panels = common::panels_for_one(always_packed || nibbles, phase_units);
    // Two panels at once share broadcasts, and few tokens have sums enough.
    [[nodiscard]] static constexpr bool in_pairs(bool) noexcept { return detail::panel_in_one_vector<Isa>; }
    [[nodiscard]] static constexpr std::size_t cached_units(std::size_t, std::size_t panels) noexcept {
        return common::lanes_in_cache / (always_packed && E::bits == 4 ? 32 : lane_bytes) / panels;
    }
    static constexpr std::size_t streamed_quads = always_packed || nibbles ? 32 : 64;
    static constexpr std::size_t most_tokens = 192;

    template <class Machine> using sums_of = std::conditional_t<Small, int32_dots_of<Machine>, Machine>;
    // Tables of more than 64 entries take so many shuffles that two vectors of them are no slower than one twice as
    // long.
    using packed_isa = sums_of<std::conditional_t<linear || E::bits <= 6, detail::panel_isa_of<Isa>, Isa>>;
    using packed_loader = kernel::packed_loader<packed_isa, E::bits, typename common::table>;
    using lanes_loader = byte_loader<sums_of<detail::panel_isa_of<Isa>>>;
    [[nodiscard]] static constexpr bool requests(std::size_t tokens, bool pairs, bool packed) noexcept {
        return pairs && tokens == tiles.longest &&
               (packed ? makes_requests<packed_loader, 2, tiles.longest>
                       : makes_requests<lanes_loader, 2, tiles.longest>);
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
