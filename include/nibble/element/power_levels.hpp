// power_levels.hpp: elements whose values are powers: of two, of the square root of two, and of a uniform grid.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/codebook.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// All of these are lists for codebook<>: rounding is to the nearest value, and a tie goes to the lower one. (Quantizers
// that round the logarithm instead have their thresholds at geometric means; their codes decode alike.) Lists with both
// signs and a zero have 2^Bits - 1 values in ascending order: code c stands for q = c - (2^(Bits - 1) - 1).

namespace detail {

// 2^(halves / 2): one rounding for odd ones.
[[nodiscard]] constexpr float root_two_power(int halves) noexcept {
    const int whole = (halves - (halves & 1)) / 2;
    return exp2i(whole) * ((halves & 1) != 0 ? 1.41421356237309504880f : 1.0f);
}

// Natural logarithm of 0 < x <= 1 and e^x of -700 < x <= 0 by series, to a few units in the last place of double; at
// compile time <cmath> is not there.
[[nodiscard]] constexpr double series_log(double x) noexcept {
    int exponent = 0;
    for (; x < 0.70710678118654752; ++exponent) x *= 2.0;
    const double t = (x - 1.0) / (x + 1.0); // log x = 2 (t + t^3/3 + t^5/5 + ...), |t| < 0.172
    double sum = 0.0;
    for (int n = 41; n >= 1; n -= 2) sum = sum * (t * t) + 1.0 / n;
    return 2.0 * t * sum - exponent * 0.69314718055994530942;
}
[[nodiscard]] constexpr double series_exp(double x) noexcept {
    int exponent = 0;
    for (; x < -0.34657359027997264; ++exponent) x += 0.69314718055994530942;
    double sum = 1.0;
    for (int n = 24; n >= 1; --n) sum = 1.0 + sum * x / n;
    for (; exponent > 0; --exponent) sum *= 0.5;
    return sum;
}

// Levels from a function of q = -Last ... Last.
template <std::size_t Last, class Magnitude>
[[nodiscard]] constexpr table<float, 2 * Last + 1> symmetric_levels(Magnitude magnitude) noexcept {
    table<float, 2 * Last + 1> t{};
    t.at[Last] = 0.0f;
    for (std::size_t q = 1; q <= Last; ++q) {
        t.at[Last + q] = magnitude(static_cast<int>(q));
        t.at[Last - q] = -t.at[Last + q];
    }
    return t;
}

} // namespace detail

// Powers of two with a sign, and zero: 0 and +-2^-k for k = 0 ... 2^(Bits-1) - 2; q is 0 or has the sign and
// |q| = 2^(Bits-1) - 1 - k. Scaled by max|x| (PoT, APoT's base case; INQ, ShiftAddLLM's scales).
template <int Bits> struct power_of_two_levels {
    static_assert(Bits >= 2 && Bits <= 8, "power_of_two_levels: 2 to 8 bits");

private:
    static constexpr std::size_t last = (std::size_t{1} << (Bits - 1)) - 1;
    static constexpr auto all =
        detail::symmetric_levels<last>([](int q) { return detail::exp2i(q - static_cast<int>(last)); });

public:
    static constexpr const float (&levels)[2 * last + 1] = all.at;
};
template <int Bits> using signed_log2 = codebook<power_of_two_levels<Bits>>;

// 2^-c for code c: softmax outputs on a logarithmic scale (no zero: the smallest value stands for it).
template <int Bits> struct unsigned_log2_levels {
    static_assert(Bits >= 1 && Bits <= 7, "unsigned_log2_levels: 1 to 7 bits");

private:
    static constexpr auto all = [] {
        detail::table<float, (std::size_t{1} << Bits)> t{};
        for (std::size_t c = 0; c < t.size; ++c) t.at[c] = detail::exp2i(-static_cast<int>(c));
        return t;
    }();

public:
    static constexpr const float (&levels)[std::size_t{1} << Bits] = all.at;
};
template <int Bits> using unsigned_log2 = codebook<unsigned_log2_levels<Bits>>;

// Powers of the square root of two with a sign, and zero: 0 and +-2^(-k/2), k = 0 ... 2^(Bits-1) - 2 (POST of ASQ).
template <int Bits> struct power_of_root_two_levels {
    static_assert(Bits >= 2 && Bits <= 8, "power_of_root_two_levels: 2 to 8 bits");

private:
    static constexpr std::size_t last = (std::size_t{1} << (Bits - 1)) - 1;
    static constexpr auto all =
        detail::symmetric_levels<last>([](int q) { return detail::root_two_power(q - static_cast<int>(last)); });

public:
    static constexpr const float (&levels)[2 * last + 1] = all.at;
};
template <int Bits> using signed_log_root_two = codebook<power_of_root_two_levels<Bits>>;

// 2^(-c/2) for codes c below Levels - 1, and 0 for the last one.
template <std::size_t Levels> struct unsigned_log_root_two_levels {
    static_assert(Levels >= 2 && Levels <= 253, "unsigned_log_root_two_levels: 2 to 253 levels");

private:
    static constexpr auto all = [] {
        detail::table<float, Levels> t{};
        for (std::size_t c = 0; c + 1 < Levels; ++c) t.at[c] = detail::root_two_power(-static_cast<int>(c));
        t.at[Levels - 1] = 0.0f;
        return t;
    }();

public:
    static constexpr const float (&levels)[Levels] = all.at;
};
// RepQ-ViT's softmax quantizer of "Bits" bits has 2^Bits powers and, for all that is smaller, an exact 0: 2^Bits + 1
// values, which take one bit more. The second one fits: its top code is the 0, for one power less.
template <int Bits> using unsigned_log_root_two = codebook<unsigned_log_root_two_levels<(std::size_t{1} << Bits) + 1>>;
template <int Bits>
using unsigned_log_root_two_packed = codebook<unsigned_log_root_two_levels<(std::size_t{1} << Bits)>>;

// DenseShift (Li et al., 2023): +-2^p without a zero; the top bit of a code is the sign, the others are p.
template <int Bits> struct dense_shift_levels {
    static_assert(Bits >= 2 && Bits <= 8, "dense_shift_levels: 2 to 8 bits");

private:
    static constexpr std::size_t half = std::size_t{1} << (Bits - 1);
    static constexpr auto all = [] {
        detail::table<float, 2 * half> t{};
        for (std::size_t p = 0; p < half; ++p) {
            t.at[p] = detail::exp2i(static_cast<int>(p));
            t.at[half + p] = -t.at[p];
        }
        return t;
    }();

public:
    static constexpr const float (&levels)[2 * half] = all.at;
};
template <int Bits> using dense_shift = codebook<dense_shift_levels<Bits>>;

// PowerQuant (Yvinec et al., 2023) with the exponent a = Numerator / Denominator in (0, 1]:
// sign(q) (|q| / Q)^(1 / a), Q = 2^(Bits-1) - 1, each rounded once to fp32. Scaled by max|x|.
template <int Bits, int Numerator, int Denominator> struct power_exponent_levels {
    static_assert(Bits >= 2 && Bits <= 8, "power_exponent_levels: 2 to 8 bits");
    static_assert(Numerator >= 1 && Numerator <= Denominator, "power_exponent_levels: the exponent must be in (0, 1]");

private:
    static constexpr std::size_t last = (std::size_t{1} << (Bits - 1)) - 1;
    static constexpr auto all = detail::symmetric_levels<last>([](int q) {
        const double ratio = static_cast<double>(q) / static_cast<double>(last);
        if (ratio == 1.0 || Numerator == Denominator) return static_cast<float>(ratio);
        const double log = detail::series_log(ratio);
        return static_cast<float>(detail::series_exp(log * Denominator / Numerator));
    });

public:
    static constexpr const float (&levels)[2 * last + 1] = all.at;
};
template <int Bits, int Numerator, int Denominator>
using power_exponent = codebook<power_exponent_levels<Bits, Numerator, Denominator>>;

static_assert(signed_log2<4>::decode(0) == -1.0f && signed_log2<4>::decode(7) == 0.0f &&
              signed_log2<4>::decode(8) == 0x1p-6f);
static_assert(unsigned_log2<4>::decode(15) == 0x1p-15f && dense_shift<3>::decode(7) == -8.0f &&
              dense_shift<3>::bits == 3);
static_assert(unsigned_log_root_two<4>::bits == 5 && unsigned_log_root_two<4>::decode(16) == 0.0f);
static_assert(unsigned_log_root_two_packed<4>::bits == 4 && unsigned_log_root_two_packed<4>::decode(15) == 0.0f);
static_assert(power_exponent<4, 1, 2>::decode(14) == 1.0f && power_exponent<4, 1, 1>::decode(13) == 0.85714285714f);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
