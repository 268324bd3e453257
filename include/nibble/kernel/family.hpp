// kernel/family.hpp: which family of products multiplies an element on an ISA.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/family/family.hpp>
#include <nibble/kernel/family/float32.hpp>
#include <nibble/kernel/family/int16.hpp>
#include <nibble/kernel/family/int8.hpp>

#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Of integers times one power of two, small ones (up to 6 bits, E2M1, ternary) multiply bytes; large ones too where the
// machine sums byte products in int32, or multiplies them exactly, or the activations are small, else int16. All others
// decode to fp32 lanes.
template <isa Isa, element E> struct family_for {
    using type = typename decltype([] {
        if constexpr (!detail::integer_mapping_of<E>.exists)
            return std::type_identity<float32_family<Isa, E>>{};
        else if constexpr (Isa::facts.dots_in_int32 || detail::fits_int16_sums<E>)
            return std::type_identity<int8_family<Isa, E>>{};
        else if constexpr (detail::byte_limit<E> >= 128 || Isa::facts.exact_byte_products) // of every activation
            return std::type_identity<int8_family<Isa, E, true>>{};
        else
            return std::type_identity<int16_family<Isa, E>>{};
    }())::type;
};
// An element of one's own may name another.
template <isa Isa, element E>
    requires requires { typename E::template product_family<Isa>; }
struct family_for<Isa, E> {
    using type = typename E::template product_family<Isa>;
};
template <isa Isa, element E> using family_of = typename family_for<Isa, E>::type;

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
