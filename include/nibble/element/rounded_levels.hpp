// rounded_levels.hpp: an element whose levels are another's, rounded to integers times a power of two; the same codes,
// for the kernels that multiply integers.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/element/minifloat.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Code c means round(f x Element::decode(c)) / f, halves to the even integer and signs kept, of zeros too, where f is
// the largest power of two for which no integer is above Limit in magnitude. So no level moves by more than 1 / (2 f),
// scales keep their meaning, and recode turns weights of Element into these with the codes and scales that they have.
// Quantizing is to the levels as they are after rounding, with thresholds halfway between them (ties go to the even
// code of the two levels, to the lower level if both codes are even or neither is): that loses less than to take over
// Element's codes. Levels that meet in one integer have one code, the lowest, although all of them decode. Element has
// at most 8 bits, finite values, and not all of them 0. What it costs is that, and that activations are quantized to
// int8 as for any integer element. Mean squared error of weights over that of Element, normally distributed, quantized
// (and recoded):
//                                Limit    f    worst level      against Element's MSE    distinct levels
//   NF4, groups of 64              32    32    0.0142 of 1      1.024 (1.037)            16 of 16
//                              64, 127   64    0.0069 of 1      1.002 (1.008)            16
//   E3M2, groups of 32             32     1    0.5 of 28        1.063 (1.095)            31 of 63
//                                  63     2    0.25 of 28       1.008 (1.012)            39
//                                 127     4    0.125 of 28      1.001 (1.002)            47
//   E3M2, rows of 4096             32     1    0.5 of 28        1.200 (1.298)            31
//                                  63     2    0.25 of 28       1.026 (1.039)            39
//                                 127     4    0.125 of 28      1.003 (1.005)            47
// The default Limit is the largest of which byte products are summed in int16 on machines that cannot sum them in
// int32. Why a power of two: other factors fit some lists better (NF4 with 22.5: 0.992), but then scales would have to
// change.
template <small_element Element, int Limit = detail::narrow_limit> struct rounded_levels {
    static_assert(Limit >= 1 && Limit <= 127, "rounded_levels: the integers' limit is 1 to 127");

    using rounded_element = Element; // whose codes these are
    static constexpr int bits = Element::bits;
    using code = std::uint8_t;

private:
    static constexpr std::size_t count = std::size_t{1} << bits;
    static constexpr double top = [] {
        double t = 0.0;
        for (std::size_t c = 0; c < count; ++c) {
            const float v = decode_table<Element>.at[c];
            if (!detail::is_finite(v)) return -1.0;
            t = detail::max_of(t, static_cast<double>(detail::abs_of(v)));
        }
        return t;
    }();
    static_assert(top > 0.0, "rounded_levels: the values must be finite, and one of them other than 0");

    // For magnitudes below 2^31.
    [[nodiscard]] static constexpr double nearest_even(double magnitude) noexcept {
        const std::int64_t below = static_cast<std::int64_t>(magnitude);
        const double rest = magnitude - static_cast<double>(below);
        return static_cast<double>(below + (rest > 0.5 || (rest == 0.5 && below % 2 != 0) ? 1 : 0));
    }

public:
    static constexpr double factor = [] {
        const auto fits = [](double f) { return top * f <= Limit + 0.5 && nearest_even(top * f) <= Limit; };
        double f = 1.0;
        while (!fits(f)) f *= 0.5;
        while (fits(2.0 * f)) f *= 2.0;
        return f;
    }();

private:
    static constexpr detail::table<float, count> levels = [] {
        detail::table<float, count> t{};
        for (std::size_t c = 0; c < count; ++c) {
            const float v = decode_table<Element>.at[c];
            const auto rounded =
                static_cast<float>(nearest_even(static_cast<double>(detail::abs_of(v)) * factor) / factor);
            t.at[c] = detail::bit_cast<std::uint32_t>(v) >> 31 != 0 ? -rounded : rounded;
        }
        return t;
    }();

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept { return levels.at[c & (count - 1)]; }
};

static_assert(rounded_levels<nf4>::factor == 32.0 && rounded_levels<nf4, 127>::factor == 64.0);
static_assert(rounded_levels<nf4>::decode(15) == 1.0f && rounded_levels<nf4>::decode(8) == 3.0f / 32.0f);
static_assert(rounded_levels<e3m2>::factor == 1.0 && rounded_levels<e3m2>::decode(31) == 28.0f);
static_assert(rounded_levels<e3m2>::decode(2) == 0.0f && rounded_levels<e3m2>::decode(0x1f | 0x20) == -28.0f);
static_assert(encode<rounded_levels<nf4>>(0.1f) == 8 && encode<rounded_levels<nf4>>(-9.0f) == 0);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
