// ggml_super_types.hpp: the tensor types of GGUF with scales of 4 to 8 bits under one fp16 per 256 weights: Q2_K to
// Q6_K and IQ4_XS.
#pragma once

#include <nibble/io/ggml_block.hpp>

#include <nibble/core/config.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// In a byte each for 16 groups of 16: the scale's 4 bits, above them the minimum's; at 16 the codes, at 80 d, at 82
// dmin.
struct ggml_q2_k {
    using scheme = q2_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 10;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t s = 0; s < 16; ++s) {
            p.scales[s] = from[s] & 15;
            p.zeros[s] = from[s] >> 4;
        }
        for (std::size_t h = 0; h < 2; ++h) detail::get_fields<2, 32>(from + 16 + 32 * h, p.codes + 128 * h);
        p.outer = detail::get16(from + 80);
        p.outer_zero = detail::get16(from + 82);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        for (std::size_t s = 0; s < 16; ++s) to[s] = static_cast<std::uint8_t>(p.scales[s] | p.zeros[s] << 4);
        for (std::size_t h = 0; h < 2; ++h) detail::put_fields<2, 32>(p.codes + 128 * h, to + 16 + 32 * h);
        detail::put16(to + 80, p.outer);
        detail::put16(to + 82, p.outer_zero);
    }
};

// The highest bit of code 32j + l in bit j of byte l, set for values from 0 on; at 32 the lower two, at 96 the scales
// of 16 groups of 16 plus 32: bytes 0 to 7 hold the lower nibbles of s and s + 8, bytes 8 to 11 the upper two bits of
// s, s + 4, s + 8 and s + 12; at 108 d.
struct ggml_q3_k {
    using scheme = q3_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 11;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t h = 0; h < 2; ++h) detail::get_fields<2, 32>(from + 32 + 32 * h, p.codes + 128 * h);
        detail::add_fields<1, 32>(from, p.codes, 2);
        detail::flip<256>(p.codes, 4);
        detail::get_fields<4, 8>(from + 96, p.scales);
        detail::add_fields<2, 4>(from + 104, p.scales, 4);
        detail::flip<16>(p.scales, 32);
        p.outer = detail::get16(from + 108);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        std::uint8_t codes[256];
        detail::copy_flipped<256>(p.codes, codes, 4);
        detail::put_fields<1, 32>(codes, to, 2);
        for (std::size_t h = 0; h < 2; ++h) detail::put_fields<2, 32>(codes + 128 * h, to + 32 + 32 * h);
        std::uint8_t scales[16];
        detail::copy_flipped<16>(p.scales, scales, 32);
        detail::put_fields<4, 8>(scales, to + 96);
        detail::put_fields<2, 4>(scales, to + 104, 4);
        detail::put16(to + 108, p.outer);
    }
};

namespace detail {

// Eight scales and eight minimums of 6 bits in 12 bytes: bytes 0 to 3 hold scales 0 to 3 and the upper two bits of
// scales 4 to 7, bytes 4 to 7 the same of the minimums, bytes 8 to 11 the lower nibbles of scales and of minimums 4
// to 7.
NIBBLE_INLINE void get_sixes(const std::uint8_t* from, std::uint8_t* scales, std::uint8_t* minimums) noexcept {
    for (std::size_t j = 0; j < 4; ++j) {
        scales[j] = from[j] & 63;
        minimums[j] = from[j + 4] & 63;
        scales[j + 4] = static_cast<std::uint8_t>((from[j + 8] & 15) | (from[j] >> 6) << 4);
        minimums[j + 4] = static_cast<std::uint8_t>(from[j + 8] >> 4 | (from[j + 4] >> 6) << 4);
    }
}
NIBBLE_INLINE void put_sixes(const std::uint8_t* scales, const std::uint8_t* minimums, std::uint8_t* to) noexcept {
    for (std::size_t j = 0; j < 4; ++j) {
        to[j] = static_cast<std::uint8_t>((scales[j] & 63) | (scales[j + 4] >> 4) << 6);
        to[j + 4] = static_cast<std::uint8_t>((minimums[j] & 63) | (minimums[j + 4] >> 4) << 6);
        to[j + 8] = static_cast<std::uint8_t>((scales[j + 4] & 15) | (minimums[j + 4] & 15) << 4);
    }
}

} // namespace detail

// d at 0, dmin at 2, scales and minimums of 8 groups of 32 at 4, codes at 16: groups 2p and 2p + 1 in the low and the
// high nibbles of the same 32 bytes.
struct ggml_q4_k {
    using scheme = q4_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 12;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.outer = detail::get16(from);
        p.outer_zero = detail::get16(from + 2);
        detail::get_sixes(from + 4, p.scales, p.zeros);
        for (std::size_t j = 0; j < 4; ++j) detail::get_fields<4, 32>(from + 16 + 32 * j, p.codes + 64 * j);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.outer);
        detail::put16(to + 2, p.outer_zero);
        detail::put_sixes(p.scales, p.zeros, to + 4);
        for (std::size_t j = 0; j < 4; ++j) detail::put_fields<4, 32>(p.codes + 64 * j, to + 16 + 32 * j);
    }
};

// As Q4_K, but at 16 the highest bit of code 32j + l in bit j of byte l, and the lower four at 48.
struct ggml_q5_k {
    using scheme = q5_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 13;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.outer = detail::get16(from);
        p.outer_zero = detail::get16(from + 2);
        detail::get_sixes(from + 4, p.scales, p.zeros);
        for (std::size_t j = 0; j < 4; ++j) detail::get_fields<4, 32>(from + 48 + 32 * j, p.codes + 64 * j);
        detail::add_fields<1, 32>(from + 16, p.codes, 4);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.outer);
        detail::put16(to + 2, p.outer_zero);
        detail::put_sixes(p.scales, p.zeros, to + 4);
        detail::put_fields<1, 32>(p.codes, to + 16, 4);
        for (std::size_t j = 0; j < 4; ++j) detail::put_fields<4, 32>(p.codes + 64 * j, to + 48 + 32 * j);
    }
};

// The codes plus 32: their lower nibbles at 0, the upper two bits at 128; signed scales of 16 groups of 16 at 192; d at
// 208.
struct ggml_q6_k {
    using scheme = q6_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 14;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t h = 0; h < 2; ++h) {
            detail::get_fields<4, 64>(from + 64 * h, p.codes + 128 * h);
            detail::add_fields<2, 32>(from + 128 + 32 * h, p.codes + 128 * h, 4);
        }
        detail::flip<256>(p.codes, 32);
        __builtin_memcpy(p.scales, from + 192, 16);
        p.outer = detail::get16(from + 208);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        std::uint8_t codes[256];
        detail::copy_flipped<256>(p.codes, codes, 32);
        for (std::size_t h = 0; h < 2; ++h) {
            detail::put_fields<4, 64>(codes + 128 * h, to + 64 * h);
            detail::put_fields<2, 32>(codes + 128 * h, to + 128 + 32 * h, 4);
        }
        __builtin_memcpy(to + 192, p.scales, 16);
        detail::put16(to + 208, p.outer);
    }
};

// d at 0; the scales of 8 groups of 32 plus 32: their upper two bits in a word at 2, the lower four at 4, two to a
// byte; at 8 for each group 16 bytes of codes as in IQ4_NL.
struct ggml_iq4_xs {
    using scheme = iq4_xs;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 23;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.outer = detail::get16(from);
        const unsigned high = detail::get16(from + 2);
        for (std::size_t j = 0; j < 8; ++j) {
            const unsigned low = (unsigned{from[4 + j / 2]} >> (4 * (j % 2))) & 15u;
            p.scales[j] = static_cast<std::uint8_t>((low | ((high >> (2 * j)) & 3u) << 4) ^ 32u);
            detail::get_fields<4, 16>(from + 8 + 16 * j, p.codes + 32 * j);
        }
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.outer);
        unsigned high = 0;
        unsigned low = 0;
        for (std::size_t j = 0; j < 8; ++j) {
            const unsigned scale = p.scales[j] ^ 32u;
            high |= (scale >> 4) << (2 * j);
            low = j % 2 == 0 ? scale & 15u : low | (scale & 15u) << 4;
            to[4 + j / 2] = static_cast<std::uint8_t>(low);
            detail::put_fields<4, 16>(p.codes + 32 * j, to + 8 + 16 * j);
        }
        detail::put16(to + 2, static_cast<std::uint16_t>(high));
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
