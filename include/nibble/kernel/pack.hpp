// kernel/pack.hpp: the loops behind pack and unpack: a panel's rows of codes to bit planes of quads and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What a stored code is XORed with on its way into a panel: linear elements of the integer families are stored so that
// masking alone makes lanes of them, ascending from 0.
template <element E>
inline constexpr unsigned panel_flip = [] {
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    return g.exists && g.linear ? static_cast<unsigned>(g.flip) : 0u;
}();

// The code that pads columns: the element's zero where it has one.
template <element E> inline constexpr typename E::code padding_code = encode<E>(0.0f);

NIBBLE_INLINE std::uint32_t load_word(const std::uint8_t* from) noexcept {
    std::uint32_t word = 0;
    __builtin_memcpy(&word, from, 4);
    return word;
}
NIBBLE_INLINE void store_word(std::uint8_t* to, std::uint32_t word) noexcept {
    __builtin_memcpy(to, &word, 4);
}

// One step of codes of a panel, one per byte in lanes[quad][row][4] (vectors of 32: A, B ...), to its planes.
template <int Bits, std::size_t Rows> inline void squeeze_step(const std::uint8_t* lanes, std::uint8_t* out) noexcept {
    static_assert(Bits < 8);
    constexpr std::size_t vectors = detail::step_quads_of(Bits, Rows) * Rows / 8;
    int low = 0; // bits already placed
    if constexpr (Bits >= 4) {
        for (std::size_t v = 0; v < vectors; v += 2, out += 32)
            for (std::size_t i = 0; i < 32; i += 4)
                store_word(out + i, (load_word(lanes + 32 * v + i) & 0x0f0f0f0fu) |
                                        ((load_word(lanes + 32 * v + 32 + i) & 0x0f0f0f0fu) << 4));
        low = 4;
    }
    if constexpr ((Bits & 2) != 0) {
        for (std::size_t four = 0; four < vectors; four += 4, out += 32)
            for (std::size_t i = 0; i < 32; i += 4) {
                std::uint32_t word = 0;
                for (std::size_t v = 0; v < 4; ++v)
                    word |= ((load_word(lanes + 32 * (four + v) + i) >> low) & 0x03030303u) << (2 * v);
                store_word(out + i, word);
            }
        low += 2;
    }
    if constexpr ((Bits & 1) != 0) {
        for (std::size_t i = 0; i < 32; i += 4) {
            std::uint32_t word = 0;
            for (std::size_t v = 0; v < 8; ++v) word |= ((load_word(lanes + 32 * v + i) >> low) & 0x01010101u) << v;
            store_word(out + i, word);
        }
    }
}

// The inverse of squeeze_step.
template <int Bits, std::size_t Rows> inline void spread_step(const std::uint8_t* in, std::uint8_t* lanes) noexcept {
    static_assert(Bits < 8);
    constexpr std::size_t vectors = detail::step_quads_of(Bits, Rows) * Rows / 8;
    for (std::size_t i = 0; i < 32 * vectors; ++i) lanes[i] = 0;
    int low = 0;
    if constexpr (Bits >= 4) {
        for (std::size_t v = 0; v < vectors; v += 2, in += 32)
            for (std::size_t i = 0; i < 32; ++i) {
                lanes[32 * v + i] = static_cast<std::uint8_t>(in[i] & 15);
                lanes[32 * v + 32 + i] = static_cast<std::uint8_t>(in[i] >> 4);
            }
        low = 4;
    }
    if constexpr ((Bits & 2) != 0) {
        for (std::size_t four = 0; four < vectors; four += 4, in += 32)
            for (std::size_t v = four; v < four + 4; ++v)
                for (std::size_t i = 0; i < 32; ++i)
                    lanes[32 * v + i] =
                        static_cast<std::uint8_t>(lanes[32 * v + i] | (((in[i] >> (2 * (v - four))) & 3) << low));
        low += 2;
    }
    if constexpr ((Bits & 1) != 0) {
        for (std::size_t v = 0; v < 8; ++v)
            for (std::size_t i = 0; i < 32; ++i)
                lanes[32 * v + i] = static_cast<std::uint8_t>(lanes[32 * v + i] | (((in[i] >> v) & 1) << low));
    }
}

// Which way numbers go between plain order and a panel.
enum class panel_direction { to_panel, from_panel };

// codes[row][column] of a panel's rows, `stride` apart, for `columns` columns (a multiple of a step), to its stream or
// back; `flip` is panel_flip of the element, on every code. One function for all elements of so many bits.
template <panel_direction Direction, int Bits, std::size_t Rows, class Code, class Byte>
NIBBLE_NOINLINE void copy_codes(Code* codes, std::size_t stride, std::size_t columns, std::uint32_t flip,
                                Byte* stream) noexcept {
    constexpr bool to_panel = Direction == panel_direction::to_panel;
    if constexpr (Bits > 8) {
        if constexpr (to_panel) {
            for (std::size_t k = 0; k < columns; ++k) {
                Code column[Rows];
                for (std::size_t r = 0; r < Rows; ++r) column[r] = codes[r * stride + k];
                __builtin_memcpy(stream + k * sizeof column, column, sizeof column);
            }
        } else {
            // Some columns at a time: rows lie a power of two apart as a rule, in the same few lines of the cache.
            constexpr std::size_t at_once = 64 / sizeof(Code);
            for (std::size_t k = 0; k < columns; k += at_once) {
                const std::size_t end = detail::min_of(columns, k + at_once);
                for (std::size_t r = 0; r < Rows; ++r)
                    for (std::size_t i = k; i < end; ++i)
                        __builtin_memcpy(codes + r * stride + i, stream + (i * Rows + r) * sizeof(Code), sizeof(Code));
            }
        }
    } else {
        constexpr std::size_t quads = detail::step_quads_of(Bits, Rows);
        // Words of a quad of each row, to lanes[] or from them.
        const auto words = [&](auto* lanes, std::size_t k) NIBBLE_INLINE_LAMBDA {
            for (std::size_t q = 0; q < quads; ++q)
                for (std::size_t r = 0; r < Rows; ++r) {
                    auto* const lane = lanes + panel_layout::quad * (q * Rows + r);
                    Code* const code = codes + r * stride + k + panel_layout::quad * q;
                    if constexpr (to_panel)
                        store_word(lane, load_word(code) ^ (flip * 0x01010101u));
                    else
                        store_word(code, load_word(lane) ^ (flip * 0x01010101u));
                }
        };
        for (std::size_t k = 0; k < columns; k += quads * panel_layout::quad) {
            if constexpr (Bits == 8) {
                words(stream, k); // lanes as they are
            } else {
                std::uint8_t lanes[panel_layout::quad * Rows * quads];
                if constexpr (!to_panel) spread_step<Bits, Rows>(stream, lanes);
                words(lanes, k);
                if constexpr (to_panel) squeeze_step<Bits, Rows>(lanes, stream);
            }
            stream += detail::step_bytes_of(Bits, Rows);
        }
    }
}

// That of a width of panels that is known at run time.
template <panel_direction Direction, int Bits, class Code, class Byte>
[[nodiscard]] inline auto copy_codes_of(std::size_t panel_rows) noexcept
    -> void (*)(Code*, std::size_t, std::size_t, std::uint32_t, Byte*) noexcept {
    return panel_rows == 8    ? &copy_codes<Direction, Bits, 8, Code, Byte>
           : panel_rows == 32 ? &copy_codes<Direction, Bits, 32, Code, Byte>
                              : &copy_codes<Direction, Bits, 16, Code, Byte>;
}

// The bits of one row's quad within a step: visit(bytes that hold them, shift of the first, bits of a code, its lowest)
// for every plane. The bytes are the four of its columns; a code's bits are `shift` up in each.
template <element E, class Step, class Visit>
NIBBLE_INLINE void for_each_plane(Step* step, std::size_t q, std::size_t row, const Visit& visit) noexcept {
    static_assert(E::bits <= 8);
    constexpr std::size_t quads = detail::step_quads<E>;
    const std::size_t half = row / 8;
    Step* at = step + 4 * (row % 8);
    if constexpr (E::bits == 8) {
        visit(at + 64 * q + 32 * half, std::size_t{0}, 8, 0);
    } else {
        if constexpr (E::bits >= 4) {
            visit(at + 32 * q, 4 * half, 4, 0);
            at += 32 * quads;
        }
        if constexpr ((E::bits & 2) != 0) {
            visit(at + 32 * (q / 2), 4 * (q % 2) + 2 * half, 2, E::bits & 4);
            at += 16 * quads;
        }
        if constexpr ((E::bits & 1) != 0) visit(at, 2 * q + half, 1, E::bits & 6);
    }
}

// Codes of row `row`, quad q of a step, one per byte of `codes`, in place of those whose bytes `which` has set (0xff
// each); all others stay as they are.
template <element E>
NIBBLE_INLINE void put_quad(std::uint8_t* step, std::size_t q, std::size_t row, std::uint32_t codes,
                            std::uint32_t which = 0xffffffffu) noexcept {
    const std::uint32_t stored = codes ^ (panel_flip<E> * 0x01010101u);
    for_each_plane<E>(step, q, row,
                      [&](std::uint8_t* at, std::size_t shift, int bits, int lowest) NIBBLE_INLINE_LAMBDA {
                          const std::uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
                          const std::uint32_t placed = ((stored >> lowest) & mask) << shift;
                          const std::uint32_t taken = (mask << shift) & which;
                          store_word(at, (load_word(at) & ~taken) | (placed & taken));
                      });
}
template <element E>
[[nodiscard]] NIBBLE_INLINE std::uint32_t get_quad(const std::uint8_t* step, std::size_t q, std::size_t row) noexcept {
    std::uint32_t stored = 0;
    for_each_plane<E>(step, q, row,
                      [&](const std::uint8_t* at, std::size_t shift, int bits, int lowest) NIBBLE_INLINE_LAMBDA {
                          stored |= ((load_word(at) >> shift) & (((1u << bits) - 1) * 0x01010101u)) << lowest;
                      });
    return stored ^ (panel_flip<E> * 0x01010101u);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
