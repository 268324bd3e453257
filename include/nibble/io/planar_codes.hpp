// planar_codes.hpp: codes cut into planes of 1, 2 and 4 bits, as GPTQModel's gptq_p stores those of 3, 5, 6 and 7 bits.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// 32 codes of b bits are b words of 32 bits either way. Planar: the lowest 4 bits of each (2 of 3), a stream by
// themselves; behind them the next 2, if there are as many; behind those the last one.
template <int Bits, class Visit> void for_each_plane(const Visit& visit) {
    constexpr int low = Bits >= 4 ? 4 : 2;
    visit.template operator()<low>(0);
    if constexpr (Bits - low >= 2) visit.template operator()<2>(low);
    if constexpr ((Bits - low) % 2 != 0) visit.template operator()<1>(Bits - 1);
}

// Blocks of 32 codes, planar in `from`, as one stream in `to`; the two may be the same.
template <int Bits> inline void stream_from_planes(const std::uint8_t* from, std::size_t blocks, std::uint8_t* to) {
    constexpr std::size_t bytes = std::size_t{4} * Bits;
    for (std::size_t block = 0; block < blocks; ++block, from += bytes, to += bytes) {
        std::uint8_t codes[32] = {};
        for_each_plane<Bits>([&]<int Width>(int shift) {
            std::uint8_t part[32];
            spread_codes<Width>(from + std::size_t{4} * static_cast<unsigned>(shift), 32,
                                part); // planes of lower bits lie in front
            for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | part[i] << shift);
        });
        squeeze_codes<Bits>(codes, 32, to);
    }
}

// The inverse.
template <int Bits> inline void planes_from_stream(const std::uint8_t* from, std::size_t blocks, std::uint8_t* to) {
    constexpr std::size_t bytes = std::size_t{4} * Bits;
    for (std::size_t block = 0; block < blocks; ++block, from += bytes, to += bytes) {
        std::uint8_t codes[32];
        spread_codes<Bits>(from, 32, codes);
        for_each_plane<Bits>([&]<int Width>(int shift) {
            std::uint8_t part[32];
            for (int i = 0; i < 32; ++i) part[i] = static_cast<std::uint8_t>(codes[i] >> shift & ((1 << Width) - 1));
            squeeze_codes<Width>(part, 32, to + std::size_t{4} * static_cast<unsigned>(shift));
        });
    }
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
