// float16.hpp: fp16 and bf16 numbers in memory, as engines keep activations; what they mean is the codecs f16 and bf16.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/minifloat.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A number of 16 bits in native byte order, and nothing else: arrays of it lie over an engine's own fp16 or bf16 arrays
// (a pointer to uint16_t is reinterpret_cast). To float: exact. From float: one rounding, ties to even; what is beyond
// the largest number becomes an infinity (fp16: from 65520 up), NaN the one quiet NaN 0x7e00 or 0x7fc0 without sign.
template <element Codec> struct number_in_memory {
    static_assert(Codec::bits == 16);
    using codec = Codec;
    std::uint16_t bits;

    number_in_memory() = default;
    explicit constexpr number_in_memory(float x) noexcept
        : bits(Codec::template encode<rounding::nearest_even, overflow::special>(x)) {}
    [[nodiscard]] static constexpr number_in_memory from_bits(std::uint16_t word) noexcept {
        number_in_memory n{};
        n.bits = word;
        return n;
    }
    // Implicit: it never rounds.
    [[nodiscard]] constexpr operator float() const noexcept { return Codec::decode(bits); }
};

using float16_t = number_in_memory<f16>;
using bfloat16_t = number_in_memory<bf16>;

// What activations and results are stored in.
template <class T>
concept stored_float = std::same_as<T, float> || std::same_as<T, float16_t> || std::same_as<T, bfloat16_t>;

static_assert(sizeof(float16_t) == 2 && std::is_trivial_v<float16_t> && std::is_trivial_v<bfloat16_t>);
static_assert(float16_t(1.0f).bits == 0x3c00 && float16_t(65520.0f).bits == 0x7c00 &&
              float16_t(65519.0f).bits == 0x7bff);
static_assert(float16_t(-detail::quiet_nan).bits == 0x7e00 && bfloat16_t(-detail::quiet_nan).bits == 0x7fc0);
static_assert(bfloat16_t(1.00390625f).bits == 0x3f80 && float(bfloat16_t(-2.0f)) == -2.0f &&
              bfloat16_t(3.4e38f).bits == 0x7f80);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
