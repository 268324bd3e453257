// ggml_block.hpp: what one block of a GGUF tensor type holds, in a scheme's terms, and the bit fields it is written in.
#pragma once

#include <nibble/io/gguf_types.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/scheme/scheme.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The codes, one per byte, scales and zero points of Elements consecutive weights of a row: what `quantized` holds of
// them. Schemes with one scale per row have it in scales[0], and in the file it stands before the blocks of the row.
template <any_scheme Scheme, std::size_t Elements> struct ggml_parts {
    using traits = detail::scheme_traits<Scheme>;
    static constexpr std::size_t elements = Elements;
    static constexpr std::size_t group_size = detail::min_of(traits::group_size(Elements), Elements);
    static constexpr std::size_t groups = Elements / group_size;
    static_assert(sizeof(typename traits::code) == 1 && Elements % group_size == 0 && Elements % 8 == 0);

    std::uint8_t codes[Elements] = {};
    typename traits::scale_code scales[groups] = {};
    typename traits::zero_code zeros[groups] = {};
    typename traits::outer_code outer = {};
    typename traits::outer_zero_code outer_zero = {};
};

// A tensor type of GGUF whose values a scheme carries:
//   scheme               the scheme
//   id                   its number in the file
//   parts                ggml_parts<scheme, elements of a block>
//   read(block, parts)   from the bytes of a block
//   write(parts, block)  the bytes; read, then write gives the same bytes unless the type says otherwise, write, then
//   read
//                        the same parts always
//   fits(parts)          only if the type cannot write all that the scheme holds: whether it can write this
template <class T>
concept ggml_type =
    any_scheme<typename T::scheme> &&
    requires(const std::uint8_t* from, std::uint8_t* to, typename T::parts& parts, const typename T::parts& fixed) {
        { T::id } -> std::convertible_to<std::uint32_t>;
        { T::read(from, parts) } noexcept;
        { T::write(fixed, to) } noexcept;
    };

// Its name, block length and block size.
template <ggml_type Type> inline constexpr const detail::gguf_block& ggml_block_of = *detail::find_gguf_block(Type::id);

namespace detail {

[[nodiscard]] NIBBLE_INLINE std::uint16_t get16(const std::uint8_t* from) noexcept {
    return static_cast<std::uint16_t>(from[0] | from[1] << 8);
}
NIBBLE_INLINE void put16(std::uint8_t* to, std::uint16_t value) noexcept {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}
[[nodiscard]] NIBBLE_INLINE std::uint32_t get32(const std::uint8_t* from) noexcept {
    return get16(from) | static_cast<std::uint32_t>(get16(from + 2)) << 16;
}
NIBBLE_INLINE void put32(std::uint8_t* to, std::uint32_t value) noexcept {
    put16(to, static_cast<std::uint16_t>(value));
    put16(to + 2, static_cast<std::uint16_t>(value >> 16));
}

// Count bytes of Bits-bit fields to codes: field k of byte l is code k x Count + l.
template <int Bits, std::size_t Count>
NIBBLE_INLINE void get_fields(const std::uint8_t* from, std::uint8_t* codes) noexcept {
    constexpr unsigned mask = (1u << Bits) - 1;
    for (std::size_t k = 0; k < 8 / Bits; ++k)
        for (std::size_t l = 0; l < Count; ++l)
            codes[k * Count + l] = static_cast<std::uint8_t>((from[l] >> (Bits * static_cast<int>(k))) & mask);
}
// The inverse, of the lowest bits of each code after a shift to the right.
template <int Bits, std::size_t Count>
NIBBLE_INLINE void put_fields(const std::uint8_t* codes, std::uint8_t* to, int shift = 0) noexcept {
    constexpr unsigned mask = (1u << Bits) - 1;
    for (std::size_t l = 0; l < Count; ++l) {
        unsigned byte = 0;
        for (std::size_t k = 0; k < 8 / Bits; ++k)
            byte |= ((static_cast<unsigned>(codes[k * Count + l]) >> shift) & mask) << (Bits * static_cast<int>(k));
        to[l] = static_cast<std::uint8_t>(byte);
    }
}
// As get_fields, above the bits that the codes have.
template <int Bits, std::size_t Count>
NIBBLE_INLINE void add_fields(const std::uint8_t* from, std::uint8_t* codes, int shift) noexcept {
    constexpr unsigned mask = (1u << Bits) - 1;
    for (std::size_t k = 0; k < 8 / Bits; ++k)
        for (std::size_t l = 0; l < Count; ++l)
            codes[k * Count + l] = static_cast<std::uint8_t>(
                codes[k * Count + l] | ((from[l] >> (Bits * static_cast<int>(k))) & mask) << shift);
}
// An offset binary code, 0 for the lowest value, is two's complement with its top bit flipped; both ways.
template <std::size_t Count> NIBBLE_INLINE void flip(std::uint8_t* codes, unsigned bit) noexcept {
    for (std::size_t i = 0; i < Count; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] ^ bit);
}
template <std::size_t Count>
NIBBLE_INLINE void copy_flipped(const std::uint8_t* from, std::uint8_t* to, unsigned bit) noexcept {
    for (std::size_t i = 0; i < Count; ++i) to[i] = static_cast<std::uint8_t>(from[i] ^ bit);
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
