// bits.hpp: constexpr arithmetic on bit patterns; the rounding, powers of two and code packing that every codec shares.
#pragma once

#include <nibble/core/config.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How x is rounded. Of the values that an encoder can give, `below` and `above` are the two neighbours of x; a value
// that is one of them stays, a value beyond the ends becomes the end (but see overflow), and NaN in an element without
// NaN counts as 0. Every codec means the same by these names.
enum class rounding {
    nearest_even,     // nearest; a tie goes to the even code (ternary, binary and codebook: see there)
    toward_zero,      // the neighbour of smaller magnitude; if they are equal, the one with the sign of x (0: above)
    half_away,        // nearest; a tie goes to the larger magnitude, if they are equal above
    stochastic,       // above with probability (x - below) / (above - below), from the random bits handed in
    half_up,          // nearest; a tie goes above: floor(x + 1/2) on integers
    half_toward_zero, // nearest; a tie goes to the smaller magnitude, if they are equal above; zero has no sign: -0 is
                      // never produced, as in the MXFP4 reference of llama.cpp
    floor,            // below
    ceiling,          // above
    learned,          // above if the lowest bit of what is handed in as random bits is set, else below (AdaRound)
};

// What an encoder makes of a finite value beyond the largest, and of an infinity.
enum class overflow {
    saturate, // the largest finite code of that sign: the default of every quantizer
    special,  // the format's infinity, else its NaN, else saturate
};

namespace detail {

// The functions of <bit>, whose own are, where they are not inlined, one copy for all units of a program, compiled for
// any instruction set; those of this library are not shared by units for different ones.
template <class To, class From> [[nodiscard]] NIBBLE_INLINE constexpr To bit_cast(const From& from) noexcept {
    return __builtin_bit_cast(To, from);
}
[[nodiscard]] NIBBLE_INLINE constexpr int countl_zero(std::uint32_t x) noexcept {
    return x == 0 ? 32 : __builtin_clz(x);
}
[[nodiscard]] NIBBLE_INLINE constexpr int countr_zero(std::uint64_t x) noexcept {
    return x == 0 ? 64 : __builtin_ctzll(x);
}
[[nodiscard]] NIBBLE_INLINE constexpr int bit_width(std::uint64_t x) noexcept {
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
}
[[nodiscard]] NIBBLE_INLINE constexpr bool has_single_bit(std::uint64_t x) noexcept {
    return x != 0 && (x & (x - 1)) == 0;
}
[[nodiscard]] NIBBLE_INLINE constexpr std::size_t bit_ceil(std::size_t x) noexcept {
    return x <= 1 ? 1 : std::size_t{1} << bit_width(x - 1);
}

} // namespace detail

// x, or a zero of its sign if x is an fp32 subnormal: what hardware that flushes its inputs would have encoded, and the
// switch that microxcaling has for it. No encoder of this library does so by itself.
[[nodiscard]] constexpr float flush_subnormal_input(float x) noexcept {
    const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
    return detail::bit_cast<float>((word & 0x7f800000u) == 0 ? word & 0x80000000u : word);
}

namespace detail {

template <class T> [[nodiscard]] constexpr T min_of(T a, T b) noexcept {
    return b < a ? b : a;
}
template <class T> [[nodiscard]] constexpr T max_of(T a, T b) noexcept {
    return a < b ? b : a;
}
[[nodiscard]] constexpr std::size_t ceil_div(std::size_t a, std::size_t b) noexcept {
    return a / b + (a % b != 0);
}
[[nodiscard]] constexpr std::size_t round_up(std::size_t a, std::size_t b) noexcept {
    return ceil_div(a, b) * b;
}

inline constexpr std::uint32_t f32_magnitude = 0x7fffffffu;
inline constexpr std::uint32_t f32_infinity = 0x7f800000u;

[[nodiscard]] constexpr bool is_nan(float x) noexcept {
    return (detail::bit_cast<std::uint32_t>(x) & f32_magnitude) > f32_infinity;
}
[[nodiscard]] constexpr bool is_finite(float x) noexcept {
    return (detail::bit_cast<std::uint32_t>(x) & f32_magnitude) < f32_infinity;
}
[[nodiscard]] constexpr float abs_of(float x) noexcept {
    return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(x) & f32_magnitude);
}
// x, or +0 for NaN. A mask and no choice, because of what compilers make of choices: GCC follows the constant into the
// code behind it, gives NaN a path of its own, and the loop around is no longer one block that it can vectorize. (The
// same below.)
[[nodiscard]] NIBBLE_INLINE constexpr float nan_to_zero(float x) noexcept {
    const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
    return detail::bit_cast<float>(word & (0u - static_cast<std::uint32_t>((word & f32_magnitude) <= f32_infinity)));
}
// x in [low, high], NaN as 0; low <= 0 <= high. Keeps the sign of zero.
[[nodiscard]] NIBBLE_INLINE constexpr float clamp_to(float x, float low, float high) noexcept {
    const std::uint32_t word = detail::bit_cast<std::uint32_t>(nan_to_zero(x));
    const std::uint32_t negative = word >> 31;
    const std::uint32_t top = detail::bit_cast<std::uint32_t>(high);
    const std::uint32_t bottom = detail::bit_cast<std::uint32_t>(low) & f32_magnitude;
    const std::uint32_t end = top + (bottom - top) * negative;
    const std::uint32_t magnitude = word & f32_magnitude;
    return detail::bit_cast<float>((magnitude < end ? magnitude : end) | (negative << 31));
}
// The fp32 value just under a finite x; of either zero the smallest negative one.
[[nodiscard]] constexpr float just_under(float x) noexcept {
    const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
    if ((word & f32_magnitude) == 0) return detail::bit_cast<float>(0x80000001u);
    return detail::bit_cast<float>(word >> 31 != 0 ? word + 1 : word - 1);
}
inline constexpr float quiet_nan = detail::bit_cast<float>(0x7fc00000u);
inline constexpr float infinity = detail::bit_cast<float>(f32_infinity);

// 2^exponent, exact from the smallest subnormal (-149) to 127; 0 below, infinity above.
[[nodiscard]] constexpr float exp2i(int exponent) noexcept {
    if (exponent > 127) return infinity;
    if (exponent >= -126) return detail::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
    if (exponent >= -149) return detail::bit_cast<float>(std::uint32_t{1} << (exponent + 149));
    return 0.0f;
}

// floor(log2(x)) of a positive finite x, subnormals included. Never through log2f, which rounds up just under a power.
[[nodiscard]] constexpr int floor_log2(float x) noexcept {
    const std::uint32_t bits = detail::bit_cast<std::uint32_t>(x) & f32_magnitude;
    if (bits >= 0x00800000u) return static_cast<int>(bits >> 23) - 127;
    return static_cast<int>(detail::bit_width(bits)) - 150;
}

// x / 2^floor_log2(x) of a positive finite x: in [1, 2), exact.
[[nodiscard]] constexpr double mantissa_of(float x) noexcept {
    double v = static_cast<double>(x);
    const int e = floor_log2(x);
    // Two factors, each an fp32 power of two, because 2^149 is none.
    const int half = e / 2;
    v *= static_cast<double>(exp2i(-half));
    return v * static_cast<double>(exp2i(half - e));
}

// x rounded to an integer, ties to even; NaN and |x| >= 2^23 come back as they are. At run time the instruction of the
// default rounding mode, never (x + magic) - magic: that addition fuses with a multiplication in front of it under
// GCC's default contraction.
[[nodiscard]] NIBBLE_INLINE constexpr float round_even(float x) noexcept {
    if (!__builtin_is_constant_evaluated()) return __builtin_rintf(x);
    if (!(abs_of(x) < 8388608.0f)) return x;
    const float magnitude = (abs_of(x) + 8388608.0f) - 8388608.0f;
    return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(magnitude) |
                                   (detail::bit_cast<std::uint32_t>(x) & ~f32_magnitude));
}

// x, opaque to the optimiser: a product in it is rounded by itself and never fuses with a sum around it. (Conversion to
// double and back does not do: GCC narrows that to fp32 again, then fuses.)
[[nodiscard]] NIBBLE_INLINE constexpr float rounded_by_itself(float x) noexcept {
    if (!__builtin_is_constant_evaluated()) __asm__("" : "+m"(x));
    return x;
}
// The same of every value of an array, between two loops that compilers still vectorize.
template <std::size_t N> NIBBLE_INLINE void each_rounded_by_itself(float (&x)[N]) noexcept {
    __asm__("" : "+m"(x));
}

// A fused multiply-add: a x b + c with one rounding, on every machine.
[[nodiscard]] NIBBLE_INLINE float fused_multiply_add(float a, float b, float c) noexcept {
    return __builtin_fmaf(a, b, c);
}

// Random bits of element `index` under `seed`: a counter-based generator (two rounds of a 64-bit finaliser after
// D. Stafford's "Mix13"), so that stochastic rounding is the same for any thread count and any order.
[[nodiscard]] constexpr std::uint32_t random_bits(std::uint64_t seed, std::uint64_t index) noexcept {
    std::uint64_t z = index + 0x9e3779b97f4a7c15u * (seed + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z = (z ^ (z >> 31)) + 0x9e3779b97f4a7c15u * (seed + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::uint32_t>(z >> 32);
}

// A plain array usable as a constant: std::array's operators leave weak symbols behind at -O0 in per-ISA units.
template <class T, std::size_t N> struct table {
    T at[N == 0 ? 1 : N];
    static constexpr std::size_t size = N;
};

// ---- codes of `Bits` bits as a little-endian bit stream: code 0 in the lowest bits of byte 0, no padding
// -------------

// Eight codes, one per byte of a 64-bit word (code 0 in the lowest byte), to the lowest 8 x Bits bits of the result.
template <int Bits> [[nodiscard]] NIBBLE_INLINE constexpr std::uint64_t squeeze8(std::uint64_t codes) noexcept {
    static_assert(Bits >= 1 && Bits <= 8);
    if constexpr (Bits == 8) {
        return codes;
    } else {
        constexpr std::uint64_t single = ((std::uint64_t{1} << Bits) - 1) * 0x0001000100010001u;
        constexpr std::uint64_t pair = ((std::uint64_t{1} << (2 * Bits)) - 1) * 0x0000000100000001u;
        constexpr std::uint64_t quad = (std::uint64_t{1} << (4 * Bits)) - 1;
        codes = (codes & single) | ((codes >> (8 - Bits)) & (single << Bits));
        codes = (codes & pair) | ((codes >> (16 - 2 * Bits)) & (pair << (2 * Bits)));
        codes = (codes & quad) | ((codes >> (32 - 4 * Bits)) & (quad << (4 * Bits)));
        return codes;
    }
}

// The inverse of squeeze8; bits above 8 x Bits are ignored.
template <int Bits> [[nodiscard]] NIBBLE_INLINE constexpr std::uint64_t spread8(std::uint64_t stream) noexcept {
    static_assert(Bits >= 1 && Bits <= 8);
    if constexpr (Bits == 8) {
        return stream;
    } else {
        constexpr std::uint64_t quad = (std::uint64_t{1} << (4 * Bits)) - 1;
        constexpr std::uint64_t pair = ((std::uint64_t{1} << (2 * Bits)) - 1) * 0x0000000100000001u;
        constexpr std::uint64_t single = ((std::uint64_t{1} << Bits) - 1) * 0x0001000100010001u;
        stream = (stream & quad) | ((stream << (32 - 4 * Bits)) & (quad << 32));
        stream = (stream & pair) | ((stream << (16 - 2 * Bits)) & (pair << 16));
        return (stream & single) | ((stream << (8 - Bits)) & (single << 8));
    }
}

[[nodiscard]] NIBBLE_INLINE std::uint64_t load_le64(const std::uint8_t* from) noexcept {
    std::uint64_t word = 0;
    __builtin_memcpy(&word, from, 8);
    if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
    return word;
}
NIBBLE_INLINE void store_le64(std::uint8_t* to, std::uint64_t word) noexcept {
    if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
    __builtin_memcpy(to, &word, 8);
}

// `count` codes, one per byte, to ceil(count x Bits / 8) stream bytes; unused bits of the last byte become 0. Writes
// exactly those bytes.
template <int Bits>
inline void squeeze_codes(const std::uint8_t* codes, std::size_t count, std::uint8_t* stream) noexcept {
    if constexpr (Bits == 8) {
        if (count != 0) __builtin_memcpy(stream, codes, count);
    } else {
        std::size_t i = 0;
        // A full word is stored over what follows as long as that is still inside the stream.
        const std::size_t total = (count * Bits + 7) / 8;
        std::size_t at = 0;
        for (; i + 8 <= count && at + 8 <= total; i += 8, at += Bits)
            store_le64(stream + at, squeeze8<Bits>(load_le64(codes + i)));
        for (; i < count; i += 8, at += Bits) {
            std::uint64_t word = 0;
            const std::size_t left = min_of<std::size_t>(8, count - i);
            for (std::size_t j = 0; j < left; ++j) word |= std::uint64_t{codes[i + j]} << (8 * j);
            word = squeeze8<Bits>(word);
            for (std::size_t j = 0; j < (left * Bits + 7) / 8; ++j)
                stream[at + j] = static_cast<std::uint8_t>(word >> (8 * j));
        }
    }
}

// The inverse of squeeze_codes; reads exactly ceil(count x Bits / 8) bytes.
template <int Bits>
inline void spread_codes(const std::uint8_t* stream, std::size_t count, std::uint8_t* codes) noexcept {
    if constexpr (Bits == 8) {
        if (count != 0) __builtin_memcpy(codes, stream, count);
    } else {
        const std::size_t total = (count * Bits + 7) / 8;
        std::size_t i = 0;
        std::size_t at = 0;
        for (; i + 8 <= count && at + 8 <= total; i += 8, at += Bits)
            store_le64(codes + i, spread8<Bits>(load_le64(stream + at)));
        for (; i < count; i += 8, at += Bits) {
            const std::size_t left = min_of<std::size_t>(8, count - i);
            std::uint64_t word = 0;
            for (std::size_t j = 0; j < (left * Bits + 7) / 8; ++j) word |= std::uint64_t{stream[at + j]} << (8 * j);
            word = spread8<Bits>(word);
            for (std::size_t j = 0; j < left; ++j) codes[i + j] = static_cast<std::uint8_t>(word >> (8 * j));
        }
    }
}

static_assert(exp2i(-149) > 0.0f && exp2i(-150) == 0.0f && exp2i(0) == 1.0f && exp2i(127) > 1e38f);
static_assert(floor_log2(1.0f) == 0 && floor_log2(0.99999994f) == -1 && floor_log2(exp2i(-149)) == -149);
static_assert(just_under(1.0f) == 0x1.fffffep-1f && just_under(-1.0f) == -0x1.000002p0f &&
              just_under(0.0f) == -0x1p-149f);
static_assert(round_even(0.5f) == 0.0f && round_even(1.5f) == 2.0f && round_even(-2.5f) == -2.0f);
static_assert(squeeze8<3>(0x0706050403020100u) == 0xfac688u && spread8<3>(0xfac688u) == 0x0706050403020100u);
static_assert(spread8<6>(squeeze8<6>(0x3f01203f00153f2au) | (std::uint64_t{0xffff} << 48)) == 0x3f01203f00153f2au);
static_assert(spread8<7>(squeeze8<7>(0x7f017a3f00157f2au)) == 0x7f017a3f00157f2au &&
              squeeze8<4>(0x08070605) == 0x8765u);

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
