// code_stream.hpp: codes in their place in a row of the quantized form: a little-endian bit stream without padding.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Codes to a row's stream from column `position` on, which is a multiple of 8 unless the row ends with them.
template <element E>
inline void store_codes(const typename E::code* codes, std::size_t count, std::uint8_t* row,
                        std::size_t position) noexcept {
    if constexpr (E::bits <= 8)
        squeeze_codes<E::bits>(codes, count, row + position * static_cast<std::size_t>(E::bits) / 8);
    else if (count != 0)
        __builtin_memcpy(row + position * sizeof(typename E::code), codes, count * sizeof(typename E::code));
}

// The inverse of store_codes.
template <element E>
inline void load_codes(const std::uint8_t* row, std::size_t position, std::size_t count,
                       typename E::code* codes) noexcept {
    if constexpr (E::bits <= 8)
        spread_codes<E::bits>(row + position * static_cast<std::size_t>(E::bits) / 8, count, codes);
    else if (count != 0)
        __builtin_memcpy(codes, row + position * sizeof(typename E::code), count * sizeof(typename E::code));
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
