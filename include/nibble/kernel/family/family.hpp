// kernel/family/family.hpp: what a family of products is, as a concept: how its activations lie, what lanes it makes of
// codes, and the tiles that multiply the two.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/tile.hpp>

#include <concepts>
#include <cstddef>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// A family is one way to multiply the codes of an element by activations, a struct of static members: float32.hpp,
// int8.hpp and int16.hpp, or yours. An element gets the one that its values allow (family.hpp), or the one that it
// names as product_family<Isa>. What a family works on is a unit, of one column or a quad, of the 16 rows of a panel;
// gemm_sum.hpp does all else: it cuts the columns into blocks, decodes scales, unpacks, prefetches, and calls multiply.
//
// Activations
//   order             how they lie (activation_order): numbers, tables or planes of them, whatever its place function
//   makes of a
//                     token's integers; of fp32 [column][token]
//   tiles             the numbers of tokens that multiply takes
//   unit_columns      columns of a unit
//   phase_units       units over which sums of activations are kept, if they are integers
// Weights
//   unit, lane_offset value of a code = unit x (lane - lane_center + lane_offset), as float32 has it 1 x lane
//   lane_bytes        of a unit of a panel, unpacked
//   lanes_are_codes   nothing to unpack
//   unpack(codes, units, lanes)   whole steps of the packed stream
// Planning
//   reads_packed(tokens, blocks)  do tiles read the packed stream, or lanes that were unpacked into cache?
//   always_packed                 they never read lanes
//   most_panels       panels that a single token goes through at once
//   in_pairs(packed)  do several tokens go through two panels at once?
//   panels_in_cache(tokens), cached_units(tokens, panels), streamed_quads, most_tokens    sizes of blocks
//   requests(tokens, pairs, packed)   do tiles prefetch by themselves (tile_requests)?
// Products
//   multiply<Zeros>(packed, panels, tokens, arguments, range)
//     results += scale x (dot product of a part), part by part in order, for 1, 2 or (of one token) most_panels panels:
//     the same bits whatever the shape; with zeros (see widen_zeros) if the scheme has them.
template <class F>
concept product_family = requires(const std::byte* codes, std::byte* lanes, std::size_t n, bool packed,
                                  const tile_arguments& a, const tile_range& r) {
    requires isa<typename F::isa_type>;
    requires element<typename F::element_type>;
    { F::order } -> std::same_as<const activation_order&>;
    { F::tiles } -> std::same_as<const token_tiles&>;
    { F::unit_columns + F::phase_units + F::lane_bytes + F::most_panels + F::streamed_quads + F::most_tokens };
    { F::unit } -> std::same_as<const float&>;
    { F::lane_offset } -> std::same_as<const int&>;
    { F::lanes_are_codes&& F::always_packed } -> std::same_as<bool>;
    F::unpack(codes, n, lanes);
    { F::reads_packed(n, n) } -> std::same_as<bool>;
    { F::in_pairs(packed) } -> std::same_as<bool>;
    { F::panels_in_cache(n) } -> std::same_as<std::size_t>;
    { F::cached_units(n, n) } -> std::same_as<std::size_t>;
    { F::requests(n, packed, packed) } -> std::same_as<bool>;
    F::template multiply<false>(packed, n, n, a, r);
};

// Has F register tiles of operand loaders, as tile_ladder puts them together? Attention multiplies with those of bytes,
// words and fp32; where a family has none, in fp32.
template <class F>
concept has_tile_sources = product_family<F> && requires {
    typename F::packed_loader;
    typename F::lanes_loader;
    { F::few_packed&& F::decoded } -> std::same_as<bool>;
};

// Are F's sums of a part in int32 throughout? Then any centre will do for its lanes (F::wide_sums; int16 has room for
// sums about the middle alone).
template <class F> inline constexpr bool has_wide_sums = requires { requires F::wide_sums; };

// Do lanes lie as a range's parts do, not one unit after the other? Then unpack(codes, range, lanes) places them,
// lane_stride(range) from panel to panel, and longest_lanes(units, part_units) is the most that a panel takes.
template <class F>
concept places_parts = product_family<F> && requires(const std::byte* codes, std::byte* lanes, const tile_range& r) {
    F::unpack(codes, r, lanes);
    { F::lane_stride(r) } -> std::same_as<std::size_t>;
    { F::longest_lanes(r.parts, r.part_units) } -> std::same_as<std::size_t>;
};

// What must live while a thread multiplies, if a family needs anything.
struct no_session {};
template <class F> struct family_session {
    using type = no_session;
};
template <class F>
    requires requires { typename F::session; }
struct family_session<F> {
    using type = typename F::session;
};
template <class F> using session_of = typename family_session<F>::type;

// Another family that serves some products of the same weights: prefers_alternative(tokens, layout) says which, by the
// depth and the limit of a layout that is not complete yet. F itself if it has none.
template <class F> struct alternative_family {
    using type = F;
};
template <class F>
    requires requires { typename F::alternative; }
struct alternative_family<F> {
    using type = typename F::alternative;
};

// The tiles of a family that has register tiles: F::tile<Loader, Panels, Tokens, Zeros>, of loaders F::packed_loader
// and F::lanes_loader.
template <class F, bool Zeros> struct tile_ladder {
    // The tile of as many tokens, First or more.
    template <class Loader, std::size_t Panels, std::size_t First>
    static NIBBLE_INLINE void by_tokens(std::size_t tokens, const tile_arguments& a, const tile_range& r) noexcept {
        const bool done = [&]<std::size_t... More>(std::index_sequence<More...>) NIBBLE_INLINE_LAMBDA {
            return ((tokens == First + More ? (F::template tile<Loader, Panels, First + More, Zeros>(a, r), true)
                                            : false) ||
                    ...);
        }(std::make_index_sequence<F::tiles.shorter + 1 - First>{});
        if constexpr (F::tiles.longest > F::tiles.shorter && F::template has_longest<Loader>)
            if (!done) F::template tile<Loader, Panels, F::tiles.longest, Zeros>(a, r);
    }
    // Two panels of several tokens, or one of any number.
    template <class Packed, class Lanes, bool HasLanes>
    static NIBBLE_INLINE void rows(bool packed, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                   const tile_range& r) noexcept {
        if constexpr (F::in_pairs(false))
            if (panels > 1) {
                if constexpr (F::in_pairs(true) && F::few_packed && !F::lanes_are_codes)
                    if (packed) return by_tokens<Packed, 2, 2>(tokens, a, r);
                return by_tokens<Lanes, 2, 2>(tokens, a, r);
            }
        if constexpr (HasLanes || F::lanes_are_codes)
            if (!packed || F::lanes_are_codes) return by_tokens<Lanes, 1, 1>(tokens, a, r);
        if constexpr (F::few_packed && !F::lanes_are_codes)
            by_tokens<Packed, 1, 1>(tokens, a, r);
        else if constexpr (!F::lanes_are_codes)
            F::template tile<Packed, 1, 1, Zeros>(a, r);
    }
    // As products have them.
    static NIBBLE_INLINE void multiply(bool packed, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                       const tile_range& r) noexcept {
        using Packed = typename F::packed_loader;
        if (panels == F::most_panels && tokens == 1) return F::template tile<Packed, F::most_panels, 1, Zeros>(a, r);
        rows<Packed, typename F::lanes_loader, !F::always_packed>(packed, panels, tokens, a, r);
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
