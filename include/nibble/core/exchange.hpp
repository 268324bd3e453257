// exchange.hpp: values given another one, and exchanged: what moves in the containers are made of.
#pragma once

#include <nibble/core/config.hpp>

#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// As in <utility>, whose functions have one name under all compiler flags.
template <class T> [[nodiscard]] NIBBLE_INLINE constexpr T exchange(T& value, std::type_identity_t<T> next) noexcept {
    T before = static_cast<T&&>(value);
    value = static_cast<T&&>(next);
    return before;
}
template <class T> NIBBLE_INLINE constexpr void swap(T& a, T& b) noexcept {
    T before = static_cast<T&&>(a);
    a = static_cast<T&&>(b);
    b = static_cast<T&&>(before);
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
