// element/lanes.hpp: which arithmetic turns codes into fp32 lanes, and into integer lanes, and what room their sums
// have; derived from its decoded values alone, so a user's element gets the fast path its values allow.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// ---- integer lanes ------------------------------------------------------------------------------------------------

// Largest magnitude of a quantized activation; -128 is never produced.
inline constexpr int activation_qmax = 127;

// How many products of four a narrow element may sum in each int16 before widening: every int16 holds pairs of
// products, and because arithmetic is modulo 2^16 only the final centred sum must fit (kernel-techniques A1.3).
[[nodiscard]] constexpr int narrow_depth(int magnitude) noexcept {
    return 32767 / (2 * max_of(magnitude, 1) * activation_qmax);
}

// Below this depth the widening costs more than int16 products would; and the largest magnitude that has it.
inline constexpr int least_narrow_depth = 4;
inline constexpr int narrow_limit = 32767 / (2 * least_narrow_depth * activation_qmax);
static_assert(narrow_depth(narrow_limit) >= least_narrow_depth && narrow_depth(narrow_limit + 1) < least_narrow_depth);

// Whether int16 sums serve an integer element. 127: one instruction sums two products unsigned x signed, which must fit
// in int16 by themselves, and others take lanes for signed bytes.
template <element E>
inline constexpr bool fits_int16_sums = [] {
    constexpr integer_mapping g = integer_mapping_of<E>;
    return g.exists && g.high - g.low <= 127 && g.magnitude <= narrow_limit;
}();

template <element E> inline constexpr bool needs_int32_sums = integer_mapping_of<E>.exists && !fits_int16_sums<E>;

// Quads (4 consecutive k) whose products are summed in int16 before they are widened.
template <element E>
    requires fits_int16_sums<E>
inline constexpr std::size_t int16_phase_quads =
    static_cast<std::size_t>(min_of(narrow_depth(integer_mapping_of<E>.magnitude), 64));
// Where sums are in int32: the length over which sums of activations are kept, so that those fit in int16: 2 columns of
// every quad x 127, or x -128.
inline constexpr std::size_t int32_phase_quads = 128;
static_assert(int32_phase_quads * 2 * 128 <= 32768);

// The largest magnitude of activations such that two products with lanes of E fit in int16 whatever the codes: up to
// there byte products, two of them added by one instruction, make exact sums in int32. 64 for 8 bits; 128, which only
// -128 reaches, if the integers of E are at most 128 apart.
template <element E>
inline constexpr int byte_limit =
    min_of(128, 16384 / max_of(1, integer_mapping_of<E>.high - integer_mapping_of<E>.low));

// Lanes are unsigned, integer - low; the kernel takes the centre off again, by way of the sums of the activations.
template <element E> inline constexpr int lane_center = integer_mapping_of<E>.center;
// What the kernel's centred integer plus this gives the element's own integer: 0 but for unsigned elements.
template <element E>
inline constexpr int lane_offset = [] {
    constexpr integer_mapping g = integer_mapping_of<E>;
    return g.linear && g.low == 0 ? (1 << (E::bits - 1)) : 0;
}();

// The lane of every code.
template <small_element E>
inline constexpr auto lane_table = [] {
    table<std::uint8_t, (std::size_t{1} << E::bits)> t{};
    constexpr integer_mapping g = integer_mapping_of<E>;
    for (std::size_t c = 0; c < t.size; ++c) {
        double v = static_cast<double>(decode_table<E>.at[c]);
        for (int i = 0; i < g.exponent; ++i) v *= 0.5;
        for (int i = 0; i > g.exponent; --i) v *= 2.0;
        const int integer = g.exists ? static_cast<int>(v) : 0;
        t.at[c] = static_cast<std::uint8_t>(integer - g.low);
    }
    return t;
}();

// ---- codes to fp32
// -------------------------------------------------------------------------------------------------------

enum class real_decode {
    table16,      // at most 16 values: a register table
    integer,      // linear integers: sign-extended or masked, converted, times a power of two
    shift,        // sign and magnitude moved into place in an fp32 pattern, times a power of two
    power_of_two, // 2^(code - 127), NaN at 255
    gather,       // anything else of at most 8 bits: a memory table
    half,         // IEEE fp16
    bfloat,       // the upper half of an fp32
    plain,        // fp32 itself
};

struct real_lanes {
    real_decode kind = real_decode::gather;
    // For integer: (code, as two's complement if has_sign, + offset) x factor. For shift: magnitude << shift, sign to
    // bit 31, times factor; magnitudes from infinite_from on have their exponent filled with ones (IEEE infinities and
    // NaN). NaN codes without an infinity are left to the row's factor, see pack.
    int magnitude_bits = 0;
    int shift = 0;
    float factor = 1.0f;
    int infinite_from = 0; // 0: none
    int offset = 0;
    bool has_sign = false;
};

// 2^(code - 127), and NaN at 255?
template <element E>
inline constexpr bool is_power_of_two = [] {
    bool power = E::bits == 8;
    for (std::size_t c = 0; c < decode_table<E>.size && power; ++c)
        power = c == 255 ? is_nan(decode_table<E>.at[c]) : decode_table<E>.at[c] == exp2i(static_cast<int>(c) - 127);
    return power;
}();

// The magnitude from which codes are infinite or NaN, or 0; -1 if a pattern of so many bits of magnitude and mantissa
// cannot tell them from others: IEEE has them, exactly the first infinite, the others NaN, in the one exponent that is
// filled with ones.
template <element E> [[nodiscard]] constexpr int first_infinite(int magnitude_bits, int mantissa) noexcept {
    constexpr auto& t = decode_table<E>;
    int first = 0;
    for (unsigned c = 0; c < t.size; ++c) {
        const int m = static_cast<int>(c & ((1u << magnitude_bits) - 1));
        if (abs_of(t.at[c]) != infinity) continue;
        if (m == 0) return -1; // that bit is no sign
        if (first == 0 || m < first) first = m;
    }
    if (first == 0) return 0;
    for (unsigned c = 0; c < t.size; ++c) {
        const int m = static_cast<int>(c & ((1u << magnitude_bits) - 1));
        if (m == first ? abs_of(t.at[c]) != infinity : m > first ? !is_nan(t.at[c]) : !is_finite(t.at[c])) return -1;
    }
    const bool one_exponent = (first & ((1 << mantissa) - 1)) == 0 && first + (1 << mantissa) == 1 << magnitude_bits;
    return one_exponent ? first : -1;
}

// Lanes of real_decode::shift with so many bits of magnitude and mantissa, if they give every finite value; else
// gather.
template <element E> [[nodiscard]] constexpr real_lanes shift_lanes(int magnitude_bits, int mantissa) noexcept {
    constexpr auto& t = decode_table<E>;
    const int shift = 23 - mantissa;
    // The factor follows from the largest finite magnitude.
    double factor = 0.0;
    for (unsigned m = (1u << magnitude_bits) - 1; m > 0 && factor == 0.0; --m)
        if (is_finite(t.at[m]))
            factor = static_cast<double>(t.at[m]) / static_cast<double>(detail::bit_cast<float>(m << shift));
    if (!(factor > 0.0) || factor > 0x1p127) return {};
    if (detail::bit_cast<std::uint32_t>(static_cast<float>(factor)) % 0x00800000u != 0) return {};
    for (unsigned c = 0; c < t.size; ++c) {
        const unsigned m = c & ((1u << magnitude_bits) - 1);
        const double v = static_cast<double>(detail::bit_cast<float>(m << shift)) * factor;
        // As bits: 0 and -0 differ.
        if (is_finite(t.at[c]) && detail::bit_cast<std::uint64_t>(static_cast<double>(t.at[c])) !=
                                      detail::bit_cast<std::uint64_t>(c == m ? v : -v))
            return {};
    }
    const int infinite_from = first_infinite<E>(magnitude_bits, mantissa);
    if (infinite_from < 0) return {};
    return {.kind = real_decode::shift,
            .magnitude_bits = magnitude_bits,
            .shift = shift,
            .factor = static_cast<float>(factor),
            .infinite_from = infinite_from,
            .has_sign = magnitude_bits < E::bits};
}

template <element E>
inline constexpr real_lanes real_lanes_of = [] {
    if constexpr (E::bits == 32) {
        return real_lanes{.kind = real_decode::plain};
    } else if constexpr (E::bits == 16) {
        const bool half = E::decode(0x3c00) == 1.0f && E::decode(0x0001) == 0x1p-24f && E::decode(0x7bff) == 65504.0f;
        const bool bfloat = E::decode(0x3f80) == 1.0f && E::decode(0x0001) == 0x1p-133f;
        // gather: not supported, the kernels say so
        return real_lanes{.kind = bfloat ? real_decode::bfloat : half ? real_decode::half : real_decode::gather};
    } else {
        constexpr integer_mapping g = integer_mapping_of<E>;
        if (E::bits <= 4) return real_lanes{.kind = real_decode::table16};
        if (g.linear && g.exponent >= -126 && g.exponent <= 127)
            return real_lanes{.kind = real_decode::integer,
                              .magnitude_bits = E::bits,
                              .factor = exp2i(g.exponent),
                              .offset = g.flip != 0 ? 0 : g.low, // codes that ascend from the lowest integer
                              .has_sign = g.flip != 0};
        if (is_power_of_two<E>) return real_lanes{.kind = real_decode::power_of_two};
        for (int magnitude_bits = E::bits - 1; magnitude_bits <= E::bits; ++magnitude_bits)
            // The pattern's own exponent must stay below all ones.
            for (int mantissa = max_of(0, magnitude_bits - 7); mantissa < magnitude_bits; ++mantissa) {
                const real_lanes r = shift_lanes<E>(magnitude_bits, mantissa);
                if (r.kind == real_decode::shift) return r;
            }
        return real_lanes{};
    }
}();

// True if the lanes of real_lanes_of read NaN codes as numbers, so that pack must mark rows that hold one.
template <element E>
inline constexpr bool marks_nan = E::bits <= 8 && has_nan_code<E> && real_lanes_of<E>.kind == real_decode::shift &&
                                  real_lanes_of<E>.infinite_from == 0;

// Is every code decoded alike and in few steps: no infinities to set apart, no table of more than 16 numbers?
template <element E>
inline constexpr bool decodes_alike = [] {
    constexpr real_decode kind = real_lanes_of<E>.kind;
    return kind == real_decode::half || kind == real_decode::bfloat || kind == real_decode::plain ||
           kind == real_decode::table16 || (kind == real_decode::shift && real_lanes_of<E>.infinite_from == 0);
}();

// Codes of at most 8 bits by way of fp16: sign to bit 15, magnitude << shift (mantissa to mantissa), converted, times a
// power of two. Exact, subnormal codes included, and without the fp32 subnormals of real_decode::shift, which take
// Intel's cores over a hundred cycles each. NaN codes are those with (code & nan_mask) == nan_value.
struct half_lanes {
    bool exists = false;
    int shift = 0;
    float factor = 1.0f;
    int nan_mask = 0; // 0: fp16 has the NaN codes itself, or there are none
    int nan_value = 0;
};

template <element E>
inline constexpr half_lanes half_lanes_of = [] {
    half_lanes h{};
    if constexpr (E::bits <= 8) {
        constexpr real_lanes r = real_lanes_of<E>;
        if constexpr (r.kind == real_decode::shift) {
            const int mantissa = 23 - r.shift;
            const int exponent = r.magnitude_bits - mantissa;
            // An exponent of 31 is special in fp16.
            if (mantissa > 10 || exponent > 5 || (exponent == 5) != (r.infinite_from != 0)) return h;
            h.shift = 10 - mantissa;
            h.factor = static_cast<float>(static_cast<double>(r.factor) * 0x1p-112); // 2^15 / 2^127 of the biases
            if (!(h.factor >= 0x1p-100f && h.factor <= 0x1p100f)) return h;
            if (marks_nan<E>) {
                const int masks[] = {(1 << E::bits) - 1, (1 << r.magnitude_bits) - 1};
                for (const int mask : masks) {
                    int value = -1;
                    for (std::size_t c = 0; c < decode_table<E>.size && value < 0; ++c)
                        if (is_nan(decode_table<E>.at[c])) value = static_cast<int>(c) & mask;
                    bool same = true;
                    for (std::size_t c = 0; c < decode_table<E>.size; ++c)
                        same = same && is_nan(decode_table<E>.at[c]) == ((static_cast<int>(c) & mask) == value);
                    if (same) {
                        h.nan_mask = mask;
                        h.nan_value = value;
                    }
                }
                if (h.nan_mask == 0) return h;
            }
            h.exists = true;
        }
    }
    return h;
}();

// Of the elements that real_decode::shift serves, those of 3 bits of exponent or less: many of their codes are
// subnormal, and numbers near zero are the most frequent. Where a machine takes its time over subnormal numbers in
// fp32, they take another way.
template <element E>
inline constexpr bool often_subnormal = [] {
    constexpr real_lanes r = real_lanes_of<E>;
    return r.kind == real_decode::shift && r.magnitude_bits - (23 - r.shift) <= 3;
}();

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
