// int32_dots.hpp: an ISA with byte products summed in int32 at once, by its add_quads.
// Compiler flags: those of the ISA.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>

#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// For machines whose add_quads is one instruction; and for all others where lanes and activations are such that int16
// has room for two products and no more (detail::byte_limit).
template <isa Isa> struct int32_dots : Isa {
    using sums = typename Isa::i32;
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        return Isa::pairs_start(pair, center);
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const typename Isa::bytes& codes,
                                                const typename Isa::bytes& activations) noexcept {
        return Isa::add_quads(s, codes, activations);
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot_finish(const sums& s) noexcept { return s; }
    [[nodiscard]] static NIBBLE_INLINE sums add_finished(const sums& total, const sums& s) noexcept {
        return Isa::add(total, s);
    }
};
template <isa Isa>
using int32_dots_of = std::conditional_t<std::is_same_v<typename Isa::sums, typename Isa::i32>, Isa, int32_dots<Isa>>;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
