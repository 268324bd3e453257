// codebooks.hpp: the published lists of values: bitsandbytes' FP4 and dynamic map, AF4, IQ4_NL, FLINT4, BitMoD's grids.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/element.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// FP4 of bitsandbytes: the lower three bits name a magnitude, not in order of size, and bit 3 is the sign. Code 8 is
// -0: it decodes, and no encoder here produces it (bitsandbytes gives it to values in (-0.0026, 0), which compare
// equal). Rounding to nearest is by the published thresholds of the magnitude, seven decimal constants near the
// midpoints; a magnitude equal to a threshold takes the smaller one. Other roundings are those of any element without
// an encoder. NaN is encoded as 0.
struct bnb_fp4 {
    static constexpr int bits = 4;
    using code = std::uint8_t;

private:
    static constexpr float magnitudes[8] = {0.0f,        0.0052083333f, 0.66666667f, 1.0f,
                                            0.33333333f, 0.5f,          0.16666667f, 0.25f};
    static constexpr float thresholds[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                            0.4166667f,  0.583333f,  0.8333333f};
    static constexpr std::uint8_t ascending[8] = {0, 1, 6, 7, 4, 5, 2, 3};

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        const float magnitude = magnitudes[c & 7];
        return (c & 8) != 0 ? -magnitude : magnitude;
    }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        if constexpr (Rounding == rounding::nearest_even) {
            // A sum over all thresholds, each with the step from one code to the next: nothing is looked up, so that a
            // loop over it vectorizes.
            const std::uint32_t word = detail::bit_cast<std::uint32_t>(detail::nan_to_zero(x));
            const float magnitude = detail::bit_cast<float>(word & detail::f32_magnitude);
            const std::uint32_t code = [&]<std::size_t... At>(std::index_sequence<At...>) {
                return (0u + ... +
                        ((0u - static_cast<std::uint32_t>(magnitude > thresholds[At])) &
                         (static_cast<std::uint32_t>(ascending[At + 1]) - static_cast<std::uint32_t>(ascending[At]))));
            }(std::make_index_sequence<7>{});
            const std::uint32_t above_zero = 0u - static_cast<std::uint32_t>(magnitude > thresholds[0]);
            return static_cast<bnb_fp4::code>(code | (above_zero & ((word >> 31) << 3)));
        } else {
            return detail::encode_level<detail::grid_list<bnb_fp4>, Rounding>(x, random);
        }
    }
};

// AF4 for blocks of 64 (Yoshida, "NF4 Isn't Information Theoretically Optimal", 2023): least expected absolute error.
struct af4_levels {
    static constexpr float levels[16] = {
        -1.0f,       -0.69441008f, -0.51243739f, -0.3736951f, -0.25607552f, -0.14982478f, -0.04934812f, 0.0f,
        0.04273164f, 0.12934483f,  0.21961274f,  0.31675666f, 0.42563882f,  0.55496234f,  0.72424863f,  1.0f};
};
using af4 = codebook<af4_levels>;

// IQ4_NL of GGUF: integers, no zero. GGUF's quantizer chooses the scale by a search; by_largest puts max|x| on -127.
struct iq4_nl_levels {
    static constexpr float levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
};
using iq4_nl = codebook<iq4_nl_levels>;

// FLINT4 of ANT (Guo et al., 2022): 15 values in ascending order, so that code c stands for the (c - 7)th.
struct flint4_levels {
    static constexpr float levels[15] = {-16, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 16};
};
using flint4 = codebook<flint4_levels>;

// BitMoD (Chen et al., 2025): small floats whose code of -0 holds one value more. FP3 is 0, 1, 2, 4 with a sign, FP4 is
// twice E2M1. Which extra value is best is chosen per group of weights, see quantize/mixed.hpp.
template <int Extra> struct bitmod_fp3_levels {
    static constexpr float levels[8] = {0, 1, 2, 4, static_cast<float>(Extra), -1, -2, -4};
};
template <int Extra> struct bitmod_fp4_levels {
    static constexpr float levels[16] = {0,  1,  2,  3,  4,  6,  8,  12, static_cast<float>(Extra),
                                         -1, -2, -3, -4, -6, -8, -12};
};
// Extra resolution (a value between two of the basic ones) and extra asymmetry (one beyond the largest).
using bitmod_fp3_er_plus = codebook<bitmod_fp3_levels<3>>;
using bitmod_fp3_er_minus = codebook<bitmod_fp3_levels<-3>>;
using bitmod_fp3_ea_plus = codebook<bitmod_fp3_levels<6>>;
using bitmod_fp3_ea_minus = codebook<bitmod_fp3_levels<-6>>;
using bitmod_fp4_er_plus = codebook<bitmod_fp4_levels<10>>;
using bitmod_fp4_er_minus = codebook<bitmod_fp4_levels<-10>>;
using bitmod_fp4_ea_plus = codebook<bitmod_fp4_levels<16>>;
using bitmod_fp4_ea_minus = codebook<bitmod_fp4_levels<-16>>;

// The signed 8-bit dynamic map of bitsandbytes (Dettmers, "8-bit Approximations", 2015), of its double quantization and
// 8-bit optimizers: for i = 0 ... 6 the midpoints of 2^i equal intervals of [0.1, 1], times 10^(i - 6), with both
// signs; 0; and 1. 256 values in ascending order, with the bits that PyTorch gives create_dynamic_map on machines that
// fuse multiply and add: every step is rounded to fp32, the ends of intervals are counted from the nearer end of [0.1,
// 1].
struct dynamic8_levels {
private:
    static constexpr detail::table<float, 256> all = [] {
        // End number `at` of `intervals` intervals. The product of 24 and 7 bits is exact in double and so is the sum,
        // so that one rounding remains, as in a fused multiply-add.
        const auto end_of = [](int at, int intervals) {
            const float step = (1.0f - 0.1f) / static_cast<float>(intervals);
            const bool low = at < (intervals + 1) / 2;
            const double away = static_cast<double>(step) * (low ? at : intervals - at);
            return static_cast<float>(low ? static_cast<double>(0.1f) + away : 1.0 - away);
        };
        constexpr float decades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
        detail::table<float, 256> t{};
        std::size_t at = 128;
        for (int i = 0; i <= 6; ++i)
            for (int j = 0; j < 1 << i; ++j, ++at)
                t.at[at] = (end_of(j, 1 << i) + end_of(j + 1, 1 << i)) / 2.0f * decades[i];
        t.at[255] = 1.0f;
        t.at[127] = 0.0f;
        for (std::size_t i = 0; i < 127; ++i) t.at[i] = -t.at[254 - i];
        return t;
    }();

public:
    static constexpr const float (&levels)[256] = all.at;
};
using dynamic8 = codebook<dynamic8_levels>;

static_assert(bnb_fp4::encode(0.3f) == 4 && bnb_fp4::encode(-0.3f) == 12 && bnb_fp4::encode(0.002f) == 0);
static_assert(bnb_fp4::encode(0.9f) == 3 && bnb_fp4::encode(-0.002f) == 0 && bnb_fp4::decode(5) == 0.5f);
static_assert(iq4_nl::bits == 4 && flint4::bits == 4 && flint4::encode(0.0f) == 7 && dynamic8::bits == 8);
static_assert(bitmod_fp3_er_minus::encode(-2.9f) == 4 && bitmod_fp4_ea_plus::encode(99.0f) == 8);
static_assert(dynamic8::decode(127) == 0.0f && dynamic8::decode(128) == 0.55f * 1e-6f && dynamic8::decode(255) == 1.0f);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
