// ggml_ternary_types.hpp: the tensor types of GGUF with values of one sign or a trit: TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0,
// PTQ1_0, IQ1_BN, IQ2_BN.
#pragma once

#include <nibble/io/ggml_block.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// A fraction of 8 bits in base 3: byte = ceil(256 v / 243) for v of five trits. Multiplied by 3^n, what is left of 256
// has the n-th trit after the point in front, so that byte x 3 / 256 is that trit.
[[nodiscard]] NIBBLE_INLINE std::uint8_t trit(std::uint8_t byte, unsigned power_of_3) noexcept {
    const unsigned rest = (byte * power_of_3) & 255u;
    return static_cast<std::uint8_t>((rest * 3u) >> 8);
}
[[nodiscard]] NIBBLE_INLINE std::uint8_t trits_to_byte(unsigned v) noexcept {
    return static_cast<std::uint8_t>((v * 256u + 242u) / 243u);
}
// A trit says codes 0 to 2. Code 3, a value of 2, it cannot say; it becomes 2.
[[nodiscard]] NIBBLE_INLINE unsigned as_trit(std::uint8_t code) noexcept {
    return code > 2 ? 2u : code;
}
template <std::size_t Count> [[nodiscard]] NIBBLE_INLINE bool all_trits(const std::uint8_t* codes) noexcept {
    unsigned top = 0;
    for (std::size_t i = 0; i < Count; ++i)
        top |= static_cast<unsigned>(codes[i]) & (static_cast<unsigned>(codes[i]) << 1);
    return (top & 2u) == 0;
}

inline constexpr table<std::uint8_t, 5> powers_of_3{{1, 3, 9, 27, 81}};

// Count bytes of Digits trits each, the first in front: trit n of byte l is code n x Count + l.
template <std::size_t Digits, std::size_t Count>
NIBBLE_INLINE void get_trits(const std::uint8_t* from, std::uint8_t* codes) noexcept {
    for (std::size_t n = 0; n < Digits; ++n)
        for (std::size_t l = 0; l < Count; ++l) codes[n * Count + l] = trit(from[l], powers_of_3.at[n]);
}
template <std::size_t Digits, std::size_t Count>
NIBBLE_INLINE void put_trits(const std::uint8_t* codes, std::uint8_t* to) noexcept {
    for (std::size_t l = 0; l < Count; ++l) {
        unsigned v = 0;
        for (std::size_t n = 0; n < Digits; ++n) v += as_trit(codes[n * Count + l]) * powers_of_3.at[4 - n];
        to[l] = trits_to_byte(v);
    }
}

} // namespace detail

// 32 bytes of five trits for codes 0 to 159, 16 of five for 160 to 239, 4 of four for the last 16 (their fifth is 0), d
// at 52. 243 of the 256 bytes are what trits give (81 in the last four); the others decode as in ggml and are written
// as the byte of the same trits. A code 3, which the scheme and TQ2_0 can hold, does not fit.
struct ggml_tq1_0 {
    using scheme = ternary_g256;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 34;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        detail::get_trits<5, 32>(from, p.codes);
        detail::get_trits<5, 16>(from + 32, p.codes + 160);
        detail::get_trits<4, 4>(from + 48, p.codes + 240);
        p.scales[0] = detail::get16(from + 52);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put_trits<5, 32>(p.codes, to);
        detail::put_trits<5, 16>(p.codes + 160, to + 32);
        detail::put_trits<4, 4>(p.codes + 240, to + 48);
        detail::put16(to + 52, p.scales[0]);
    }
    [[nodiscard]] static bool fits(const parts& p) noexcept { return detail::all_trits<256>(p.codes); }
};

// Two bits each: codes l, l + 32, l + 64, l + 96 of each half in byte l, d at 64. Code 3 is the value 2.
struct ggml_tq2_0 {
    using scheme = ternary_g256;
    using parts = ggml_parts<scheme, 256>;
    static constexpr std::uint32_t id = 35;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t h = 0; h < 2; ++h) detail::get_fields<2, 32>(from + 32 * h, p.codes + 128 * h);
        p.scales[0] = detail::get16(from + 64);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        for (std::size_t h = 0; h < 2; ++h) detail::put_fields<2, 32>(p.codes + 128 * h, to + 32 * h);
        detail::put16(to + 64, p.scales[0]);
    }
};

// d at 0, then a bit each, in order: 1 is +d, 0 is -d.
struct ggml_q1_0 {
    using scheme = binary_g128;
    using parts = ggml_parts<scheme, 128>;
    static constexpr std::uint32_t id = 41;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::spread_codes<1>(from + 2, 128, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::squeeze_codes<1>(p.codes, 128, to + 2);
    }
};

// d at 0, then two bits each, in order; as TQ2_0.
struct ggml_q2_0 {
    using scheme = ternary_g64;
    using parts = ggml_parts<scheme, 64>;
    static constexpr std::uint32_t id = 42;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::spread_codes<2>(from + 2, 64, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::squeeze_codes<2>(p.codes, 64, to + 2);
    }
};

// PrismML: Q2_0 with blocks of 128. Older files of theirs call it type 42 (gguf_older_q2_0.hpp). Weights whose columns
// the file's metadata say to be rotated want gguf_hadamard.hpp.
struct ggml_pq2_0 {
    using scheme = ternary_g128;
    using parts = ggml_parts<scheme, 128>;
    static constexpr std::uint32_t id = 142;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        p.scales[0] = detail::get16(from);
        detail::spread_codes<2>(from + 2, 128, p.codes);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put16(to, p.scales[0]);
        detail::squeeze_codes<2>(p.codes, 128, to + 2);
    }
};

// PrismML: TQ1_0 with blocks of 128. 16 bytes of five trits for codes 0 to 79, 8 of five for 80 to 119, 2 of four for
// the last 8, d at 26. Bytes that trits do not give, and codes 3, are as in TQ1_0.
struct ggml_ptq1_0 {
    using scheme = ternary_g128;
    using parts = ggml_parts<scheme, 128>;
    static constexpr std::uint32_t id = 143;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        detail::get_trits<5, 16>(from, p.codes);
        detail::get_trits<5, 8>(from + 16, p.codes + 80);
        detail::get_trits<4, 2>(from + 24, p.codes + 120);
        p.scales[0] = detail::get16(from + 26);
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        detail::put_trits<5, 16>(p.codes, to);
        detail::put_trits<5, 8>(p.codes + 80, to + 16);
        detail::put_trits<4, 2>(p.codes + 120, to + 24);
        detail::put16(to + 26, p.scales[0]);
    }
    [[nodiscard]] static bool fits(const parts& p) noexcept { return detail::all_trits<128>(p.codes); }
};

// ik_llama.cpp; the scale of a row, fp16, stands before its blocks. Of each 16 codes 15 are in three bytes of five
// trits, the last trit in front; the sixteenth ones are trits of byte 12, the last in front and the fifth 0. Bytes that
// trits do not give, and codes 3, are as in TQ1_0.
struct ggml_iq1_bn {
    using scheme = ternary_channel_f16;
    using parts = ggml_parts<scheme, 64>;
    static constexpr std::uint32_t id = 134;
    static void read(const std::uint8_t* from, parts& p) noexcept {
        for (std::size_t g = 0; g < 4; ++g) {
            for (std::size_t k = 0; k < 3; ++k)
                for (std::size_t j = 0; j < 5; ++j)
                    p.codes[16 * g + 5 * k + j] = detail::trit(from[3 * g + k], detail::powers_of_3.at[4 - j]);
            p.codes[16 * g + 15] = detail::trit(from[12], detail::powers_of_3.at[4 - g]);
        }
    }
    static void write(const parts& p, std::uint8_t* to) noexcept {
        unsigned last = 0;
        for (std::size_t g = 0; g < 4; ++g) {
            for (std::size_t k = 0; k < 3; ++k) {
                unsigned v = 0;
                for (std::size_t j = 0; j < 5; ++j)
                    v += detail::as_trit(p.codes[16 * g + 5 * k + j]) * detail::powers_of_3.at[j];
                to[3 * g + k] = detail::trits_to_byte(v);
            }
            last += detail::as_trit(p.codes[16 * g + 15]) * detail::powers_of_3.at[g];
        }
        to[12] = detail::trits_to_byte(last);
    }
    [[nodiscard]] static bool fits(const parts& p) noexcept { return detail::all_trits<64>(p.codes); }
};

// ik_llama.cpp; the scale of a row, fp32, stands before its blocks. Codes l, l + 16, l + 32, l + 48 in byte l; as
// TQ2_0.
struct ggml_iq2_bn {
    using scheme = ternary_channel;
    using parts = ggml_parts<scheme, 64>;
    static constexpr std::uint32_t id = 135;
    static void read(const std::uint8_t* from, parts& p) noexcept { detail::get_fields<2, 16>(from, p.codes); }
    static void write(const parts& p, std::uint8_t* to) noexcept { detail::put_fields<2, 16>(p.codes, to); }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
