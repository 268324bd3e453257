// digits.hpp: digits of any base packed densely: several of them as one number, in as few bits as hold it.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// `Count` digits of 0 ... Base - 1 as the number sum of digit[i] x Base^i, in the fewest bits: three digits of base 5
// in 7 bits (125 of 128 numbers used), five of base 3 in 8. Codes of elements whose number of levels is no power of two
// (ternary, balanced) fit in fewer bits this way than one by one. What is not a digit, or not such a number, is
// refused.
template <unsigned Base, unsigned Count> struct digits {
    static_assert(Base >= 2 && Base <= 256 && Count >= 1, "digits: base 2 to 256, at least one digit");
    static constexpr unsigned base = Base;
    static constexpr unsigned count = Count;
    // Base^Count.
    static constexpr std::uint64_t numbers = [] {
        std::uint64_t n = 1;
        for (unsigned i = 0; i < Count; ++i) n = n <= (std::uint64_t{1} << 56) / Base ? n * Base : 0;
        return n;
    }();
    static_assert(numbers != 0, "digits: Base to the power of Count must not exceed 2^56");
    static constexpr unsigned bits = static_cast<unsigned>(detail::bit_width(numbers - 1));

    // The number of Count digits, or false, `number` left alone, if one of them is not below Base.
    [[nodiscard]] static constexpr bool join(const std::uint8_t* digit, std::uint64_t& number) noexcept {
        std::uint64_t n = 0;
        bool valid = true;
        for (unsigned i = Count; i-- > 0;) {
            valid = valid && digit[i] < Base;
            n = n * Base + digit[i];
        }
        if (valid) number = n;
        return valid;
    }
    // The inverse, or false, `digit` left alone, if the number is not below Base^Count.
    [[nodiscard]] static constexpr bool split(std::uint64_t number, std::uint8_t* digit) noexcept {
        if (number >= numbers) return false;
        for (unsigned i = 0; i < Count; ++i) {
            digit[i] = static_cast<std::uint8_t>(number % Base);
            number /= Base;
        }
        return true;
    }

    // Bytes of a stream of `digits_in_all` digits: their numbers follow one another from the lowest bit of byte 0 on.
    [[nodiscard]] static constexpr std::size_t stream_bytes(std::size_t digits_in_all) noexcept {
        return detail::ceil_div(detail::ceil_div(digits_in_all, Count) * bits, 8);
    }
    // A last group that is not full is filled up with zeros, and so is the last byte. False at the first value that is
    // no digit; the stream is then unspecified. Writes stream_bytes(digits_in_all) bytes.
    [[nodiscard]] static constexpr bool pack(const std::uint8_t* digit, std::size_t digits_in_all,
                                             std::uint8_t* stream) noexcept {
        std::uint64_t held = 0; // at most 7 bits from before, and 56 new ones
        unsigned held_bits = 0;
        for (std::size_t i = 0; i < digits_in_all; i += Count) {
            std::uint8_t group[Count] = {};
            for (std::size_t j = 0; j < detail::min_of<std::size_t>(Count, digits_in_all - i); ++j)
                group[j] = digit[i + j];
            std::uint64_t number = 0;
            if (!join(group, number)) return false;
            held |= number << held_bits;
            for (held_bits += bits; held_bits >= 8; held_bits -= 8) {
                *stream++ = static_cast<std::uint8_t>(held);
                held >>= 8;
            }
        }
        if (held_bits > 0) *stream = static_cast<std::uint8_t>(held);
        return true;
    }
    // The inverse; false, the digits unspecified, for a stream that pack never makes: a number too large, or digits
    // after the last (unused bits of the last byte are not looked at). Reads stream_bytes(digits_in_all) bytes.
    [[nodiscard]] static constexpr bool unpack(const std::uint8_t* stream, std::size_t digits_in_all,
                                               std::uint8_t* digit) noexcept {
        std::uint64_t held = 0;
        unsigned held_bits = 0;
        for (std::size_t i = 0; i < digits_in_all; i += Count) {
            for (; held_bits < bits; held_bits += 8) held |= std::uint64_t{*stream++} << held_bits;
            std::uint8_t group[Count] = {};
            if (!split(held & ((std::uint64_t{1} << bits) - 1), group)) return false;
            held >>= bits;
            held_bits -= bits;
            for (std::size_t j = 0; j < Count; ++j) {
                if (i + j < digits_in_all)
                    digit[i + j] = group[j];
                else if (group[j] != 0)
                    return false;
            }
        }
        return true;
    }
};

static_assert(digits<5, 3>::bits == 7 && digits<3, 5>::bits == 8 && digits<2, 8>::bits == 8 &&
              digits<256, 7>::bits == 56);
static_assert([] {
    const std::uint8_t from[3] = {4, 0, 3};
    std::uint8_t back[3] = {};
    std::uint64_t number = 0;
    return digits<5, 3>::join(from, number) && number == 79 && digits<5, 3>::split(number, back) && back[0] == 4 &&
           back[1] == 0 && back[2] == 3 && !digits<5, 3>::split(125, back);
}());

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
