// ggml_plain_types.hpp: the tensor types of GGUF with one scale per block or group: Q4_0 to Q8_K, IQ4_NL, MXFP4, NVFP4.
#pragma once

#include <nibble/io/ggml_block.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// d: fp16 at byte 0, then 16 bytes: code i in the low, code i + 16 in the high nibble of byte i.
struct ggml_q4_0 {
    using scheme = q4_0;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 2;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::get_fields<4, 16>(from + 2, p.codes);
        detail::flip<32>(p.codes, 8);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        std::uint8_t codes[32];
        detail::copy_flipped<32>(p.codes, codes, 8);
        detail::put16(to, p.scales[0]);
        detail::put_fields<4, 16>(codes, to + 2);
    }
};

// d at 0, the minimum at 2, codes at 4 as in Q4_0.
struct ggml_q4_1 {
    using scheme = int4_g32_min;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 3;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        p.zeros[0] = detail::get16(from + 2);
        detail::get_fields<4, 16>(from + 4, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::put16(to + 2, p.zeros[0]);
        detail::put_fields<4, 16>(p.codes, to + 4);
    }
};

namespace detail {

// 32 codes of 5 bits: a word with their highest bits, code 0 in the lowest, then the others as in Q4_0.
NIBBLE_INLINE void get_fives(const std::uint8_t* from, std::uint8_t* codes) noexcept {
    std::uint8_t high[32];
    spread_codes<1>(from, 32, high);
    get_fields<4, 16>(from + 4, codes);
    for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | high[i] << 4);
}
NIBBLE_INLINE void put_fives(const std::uint8_t* codes, std::uint8_t* to) noexcept {
    std::uint8_t high[32];
    for (std::size_t i = 0; i < 32; ++i) high[i] = static_cast<std::uint8_t>(codes[i] >> 4 & 1);
    squeeze_codes<1>(high, 32, to);
    put_fields<4, 16>(codes, to + 4);
}

} // namespace detail

// d at 0, the codes' highest bits at 2, the others at 6.
struct ggml_q5_0 {
    using scheme = q5_0;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 6;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::get_fives(from + 2, p.codes);
        detail::flip<32>(p.codes, 16);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        std::uint8_t codes[32];
        detail::copy_flipped<32>(p.codes, codes, 16);
        detail::put16(to, p.scales[0]);
        detail::put_fives(codes, to + 2);
    }
};

// d at 0, the minimum at 2, the codes' highest bits at 4, the others at 8.
struct ggml_q5_1 {
    using scheme = int5_g32_min;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 7;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        p.zeros[0] = detail::get16(from + 2);
        detail::get_fives(from + 4, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::put16(to + 2, p.zeros[0]);
        detail::put_fives(p.codes, to + 4);
    }
};

// ik_llama.cpp: d at 0, at 2 eight bytes with the upper two bits of codes l, l + 16, l + 8, l + 24 in byte l, at 10 the
// lower four as in Q4_0.
struct ggml_q6_0 {
    using scheme = q6_0;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 133;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::get_fields<4, 16>(from + 10, p.codes);
        std::uint8_t high[32];
        detail::get_fields<2, 8>(from + 2, high);
        for (std::size_t k = 0; k < 4; ++k)
            for (std::size_t l = 0; l < 8; ++l)
                p.codes[8 * k + l] = static_cast<std::uint8_t>((p.codes[8 * k + l] | high[8 * place[k] + l] << 4) ^ 32);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        std::uint8_t codes[32];
        detail::copy_flipped<32>(p.codes, codes, 32);
        std::uint8_t high[32];
        for (std::size_t k = 0; k < 4; ++k)
            for (std::size_t l = 0; l < 8; ++l) high[8 * place[k] + l] = codes[8 * k + l] >> 4;
        detail::put16(to, p.scales[0]);
        detail::put_fields<2, 8>(high, to + 2);
        detail::put_fields<4, 16>(codes, to + 10);
    }

private:
    static constexpr std::size_t place[4] = {0, 2, 1, 3}; // of eight codes among the upper bits
};

// d at 0, signed bytes at 2.
struct ggml_q8_0 {
    using scheme = q8_0;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 8;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        __builtin_memcpy(p.codes, from + 2, 32);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        __builtin_memcpy(to + 2, p.codes, 32);
    }
};

// d at 0, s at 2, signed bytes at 4. s follows from the others and is not kept: written, it is d x (sum of the codes)
// with d as stored, rounded to fp16 (ggml has it from the unrounded d).
struct ggml_q8_1 {
    using scheme = q8_0;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 9;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        __builtin_memcpy(p.codes, from + 4, 32);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        int sum = 0;
        for (const std::uint8_t code : p.codes) sum += static_cast<std::int8_t>(code);
        detail::put16(to, p.scales[0]);
        detail::put16(to + 2, f16::encode<rounding::nearest_even, overflow::special>(f16::decode(p.scales[0]) *
                                                                                     static_cast<float>(sum)));
        __builtin_memcpy(to + 4, p.codes, 32);
    }
};

// d: fp32 at 0, signed bytes at 4, the sum of each 16 of them as int16 at 260. The sums are not kept, and written anew.
struct ggml_q8_k {
    using scheme = q8_k;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 15;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get32(from);
        __builtin_memcpy(p.codes, from + 4, 256);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put32(to, p.scales[0]);
        __builtin_memcpy(to + 4, p.codes, 256);
        for (std::size_t j = 0; j < 16; ++j) {
            int sum = 0;
            for (std::size_t l = 0; l < 16; ++l) sum += static_cast<std::int8_t>(p.codes[16 * j + l]);
            detail::put16(to + 260 + 2 * j, static_cast<std::uint16_t>(sum));
        }
    }
};

// As Q4_0, the codes being positions in a table.
struct ggml_iq4_nl {
    using scheme = iq4_nl_g32;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 20;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::get_fields<4, 16>(from + 2, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::put_fields<4, 16>(p.codes, to + 2);
    }
};

// The exponent at 0, E2M1 codes at 1 as in Q4_0. Code 8 is -0 and exponent 255 NaN, as OCP MX has them; in ggml they
// are +0 and 2^128.
struct ggml_mxfp4 {
    using scheme = mxfp4;
    using parts = ggml_parts<scheme, 32>;
    static constexpr std::uint32_t id = 39;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = from[0];
        detail::get_fields<4, 16>(from + 1, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        to[0] = p.scales[0];
        detail::put_fields<4, 16>(p.codes, to + 1);
    }
};

// Four unsigned E4M3 scales at 0, then for each 8 bytes: code j in the low, j + 8 in the high nibble of byte j. Code 8
// is -0 (in ggml +0). A scale's highest bit means nothing and is not kept; its code 0x7f is 0 in ggml, not NaN, and
// read as 0.
struct ggml_nvfp4 {
    using scheme = nvfp4_g16;
    using parts = ggml_parts<scheme, 64>;
    static constexpr std::uint32_t id = 40;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t s = 0; s < 4; ++s) {
            const unsigned scale = from[s] & 0x7fu;
            p.scales[s] = static_cast<std::uint8_t>(scale == 0x7f ? 0 : scale);
            detail::get_fields<4, 8>(from + 4 + 8 * s, p.codes + 16 * s);
        }
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        for (std::size_t s = 0; s < 4; ++s) {
            to[s] = p.scales[s];
            detail::put_fields<4, 8>(p.codes + 16 * s, to + 4 + 8 * s);
        }
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
