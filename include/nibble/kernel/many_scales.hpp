// kernel/many_scales.hpp: the sums that a search compares scales by, of many scales at once: one in each lane.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/nearest_lanes.hpp>
#include <nibble/kernel/statistics.hpp>

#include <cstddef>
#include <cstdint>

// Sums in fp32 cost a quarter of sums in double, but what is near the best must be told apart as doubles tell it. Where
// all values of an element are integers of few bits (times one power of two), sums of products with parts of x that
// have few bits are exact in fp32; two parts of x are nearly all of it. Elsewhere the sums are those of fp32, with a
// bound of their error.
NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The bits of the largest integer of E's values, or 0 if sums of products with them are not exact.
template <element E>
inline constexpr int integer_bits = [] {
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    int bits = 0;
    const int top = detail::max_of(-g.low, g.high);
    while (g.exists && bits < 8 && (1 << bits) <= top) ++bits;
    return (1 << bits) > top ? bits : 0;
}();

// How many products one sum has at most before it is added to a double.
inline constexpr std::size_t exact_run = 128;

// Parts of x / power, |x / power| < 2: the upper has Bits bits less than fp32, the lower is what remains, to 24 - Bits
// bits. Products with integers of Bits bits are exact, and sums of exact_run of those with the upper part, too.
template <int Bits, std::size_t Size> struct split_values {
    static constexpr int upper_step = 16 - Bits; // steps of 2^-upper_step
    static constexpr int lower_step = 25 + upper_step - Bits;
    static_assert(exact_run == 128 && Size % 16 == 0);
    alignas(64) float value[Size]; // x / power
    alignas(64) float upper[Size];
    alignas(64) float lower[Size];

    // The power of two at or below `top`, the largest magnitude; of subnormals 2^-126.
    [[nodiscard]] static NIBBLE_INLINE float power_of(float top) noexcept {
        const std::uint32_t exponent = detail::bit_cast<std::uint32_t>(top) & 0x7f800000u;
        return detail::bit_cast<float>(exponent == 0 ? 0x00800000u : exponent);
    }
    // Of the first n values.
    template <isa Isa> NIBBLE_INLINE void split(std::size_t n) noexcept {
        using vector = lanes<Isa>;
        const vector upper_magic(1.5f * detail::exp2i(23 - upper_step));
        const vector lower_magic(1.5f * detail::exp2i(23 - lower_step));
        for (std::size_t i = 0; i < n; i += Isa::width) {
            const vector all(Isa::load(value + i));
            const vector high = (all + upper_magic) - upper_magic;
            const vector low = ((all - high) + lower_magic) - lower_magic;
            high.store(upper + i, Isa::width);
            low.store(lower + i, Isa::width);
        }
    }
};
template <int Bits> using split_run = split_values<Bits, exact_run>;

using four_doubles = detail::fixed_vector<double, 4>;

// Sums over x with the codes' values under each of Count scales, of q, q^2 and x q / power. The last is within about
// 2^-30 n max|q|, and the same for the same codes.
template <std::size_t Count> struct sums_of_many {
    static_assert(Count % 16 == 0);
    alignas(64) double q[Count];
    alignas(64) double qq[Count];
    alignas(64) double xq[Count];
    double power = 1.0;
};

// Lanes, and the sum of two, into doubles, or onto those.
template <isa Isa> NIBBLE_INLINE void add_wide(double* to, const lanes<Isa>& v, bool overwrite) noexcept {
    if (overwrite) {
        Isa::store_wide(to, v.value);
        return;
    }
    alignas(64) double more[Isa::width];
    Isa::store_wide(more, v.value);
    for (std::size_t i = 0; i < Isa::width; i += 4) {
        four_doubles a, b;
        __builtin_memcpy(&a, to + i, sizeof a);
        __builtin_memcpy(&b, more + i, sizeof b);
        a += b;
        __builtin_memcpy(to + i, &a, sizeof a);
    }
}

// code_of(x, first lane) gives a function from a value of x, in all lanes, to the values of its codes under the scales
// from that one on. `top` is the largest magnitude of x.
template <isa Isa, element E, bool WithQ, std::size_t Count, class CodeOf>
NIBBLE_INLINE void sum_many(const float* x, std::size_t n, float top, sums_of_many<Count>& sums,
                            const CodeOf& codes_from) noexcept {
    using wide = detail::panel_isa_of<Isa>;
    using vector = lanes<wide>;
    constexpr int bits = integer_bits<E>;
    static_assert(bits != 0);
    const float power = split_run<bits>::power_of(top);
    sums.power = static_cast<double>(power);
    const vector per_power(1.0f / power);
    split_run<bits> parts;
    for (std::size_t start = 0; start < n; start += exact_run) {
        const std::size_t count = detail::min_of(n - start, exact_run);
        for (std::size_t i = 0; i < count; i += wide::width)
            (vector::load(x + start + i, detail::min_of(wide::width, count - i)) * per_power)
                .store(parts.value + i, wide::width);
        parts.template split<wide>(count);
        for (std::size_t first = 0; first < Count; first += wide::width) {
            const auto code_of = codes_from(first);
            // Two of each: a sum waits for the one before.
            vector q[2] = {0.0f, 0.0f};
            vector qq[2] = {0.0f, 0.0f};
            vector upper[2] = {0.0f, 0.0f};
            vector lower[2] = {0.0f, 0.0f};
            const auto add = [&]<std::size_t Which>(std::size_t i) NIBBLE_INLINE_LAMBDA {
                const vector code = code_of(vector(x[start + i]));
                if constexpr (WithQ) q[Which] = q[Which] + code;
                qq[Which] = qq[Which] + code * code;
                upper[Which] = upper[Which] + code * vector(parts.upper[i]);
                lower[Which] = lower[Which] + code * vector(parts.lower[i]);
            };
            std::size_t i = 0;
            for (; i + 2 <= count; i += 2) {
                add.template operator()<0>(i);
                add.template operator()<1>(i + 1);
            }
            if (i < count) add.template operator()<0>(i);
            const bool overwrite = start == 0;
            if constexpr (WithQ) add_wide(sums.q + first, q[0] + q[1], overwrite);
            add_wide(sums.qq + first, qq[0] + qq[1], overwrite);
            add_wide(sums.xq + first, upper[0] + upper[1], overwrite);
            add_wide(sums.xq + first, lower[0] + lower[1], false);
        }
    }
}
// The largest of as many floats as there are lanes.
[[nodiscard]] NIBBLE_INLINE float largest_of(const eight_floats& v) noexcept {
    const eight_floats four = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    eight_floats top = v > four ? v : four;
    const eight_floats two = __builtin_shufflevector(top, top, 2, 3, 0, 1, 6, 7, 4, 5);
    top = top > two ? top : two;
    return top[0] > top[1] ? top[0] : top[1];
}

// Calls visit(j) for those of the first `candidates` of Count scales, in order, that gain more than `known` (of x as it
// is) and may gain most: (sum x q)^2 / sum q^2 is what a scale gains over none. In fp32, which has a bound; a few are
// left.
template <std::size_t Count, class Visit>
NIBBLE_INLINE void visit_largest_gains(const sums_of_many<Count>& sums, std::size_t candidates, double known,
                                       const Visit& visit) noexcept {
    alignas(64) float gains[Count];
    for (std::size_t j = 0; j < Count; ++j) {
        const float qq = static_cast<float>(sums.qq[j]);
        const float xq = static_cast<float>(sums.xq[j]);
        gains[j] = xq * xq / (qq > 0.0f ? qq : 1.0f);
    }
    for (std::size_t j = candidates; j < Count; ++j) gains[j] = 0.0f;
    eight_floats top;
    __builtin_memcpy(&top, gains, sizeof top);
    for (std::size_t first = 8; first < Count; first += 8) {
        eight_floats more;
        __builtin_memcpy(&more, gains + first, sizeof more);
        top = top > more ? top : more;
    }
    const float before = static_cast<float>(known / (sums.power * sums.power));
    const float now = largest_of(top);
    const float least = (now > before ? now : before) * (1.0f - 0x1p-20f);
    for (std::size_t j = 0; j < candidates; ++j)
        if (!(gains[j] < least)) visit(j);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
