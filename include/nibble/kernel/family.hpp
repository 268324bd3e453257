// kernel/family.hpp: which family of products multiplies an element on an ISA.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>

#include <cstddef>

namespace nibble::inline NIBBLE_ABI::kernel {

enum class kernel_family {
    narrow, // unsigned lanes: byte products, summed in int16 before they are widened, or in int32 at once
    wide,   // the same lanes, for which int16 has no room: products of int16 pairs, or of bytes if small, summed in int32
    real,   // no small integers: fp32 lanes
};

template <isa Isa, element E>
inline constexpr kernel_family family_of = [] {
    if (!detail::integer_grid_of<E>.exists) return kernel_family::real;
    return Isa::facts.dots_in_int32 || detail::fits_int16_sums<E> ? kernel_family::narrow : kernel_family::wide;
}();

// Quads (4 consecutive k) over which sums of activations are kept, and products are summed before they are widened.
template <isa Isa, element E>
inline constexpr std::size_t phase_quads = [] {
    if constexpr (Isa::facts.dots_in_int32 || !detail::fits_int16_sums<E>)
        return detail::int32_phase_quads;
    else
        return detail::int16_phase_quads<E>;
}();

} // namespace nibble::inline NIBBLE_ABI::kernel
