// hadamard.hpp: the fast Walsh-Hadamard transform, which spreads what is large in one channel over all of them; applied
// to numbers before they are stored, and to what meets them in a product.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The longest block that `count` numbers are a whole number of: 128 for 128, 16 for 80, 1 for odd ones.
[[nodiscard]] constexpr std::size_t hadamard_block(std::size_t count) noexcept {
    return count == 0 ? 1 : std::size_t{1} << detail::countr_zero(count);
}

namespace detail {

// Rounds of strides 1, 2 and 4 on 8 numbers, times `by`. One vector: stores of halves would not reach the next round's
// loads without a detour through the cache.
NIBBLE_INLINE void hadamard_8(float* x, float by) noexcept {
    using eight = eight_floats;
    constexpr eight odd{1.0f, -1.0f, 1.0f, -1.0f, 1.0f, -1.0f, 1.0f, -1.0f};
    constexpr eight third{1.0f, 1.0f, -1.0f, -1.0f, 1.0f, 1.0f, -1.0f, -1.0f};
    constexpr eight high{1.0f, 1.0f, 1.0f, 1.0f, -1.0f, -1.0f, -1.0f, -1.0f};
    eight a;
    __builtin_memcpy(&a, x, sizeof a);
    // A product with 1 or -1 is exact, fused or not.
    a = __builtin_shufflevector(a, a, 0, 0, 2, 2, 4, 4, 6, 6) +
        __builtin_shufflevector(a, a, 1, 1, 3, 3, 5, 5, 7, 7) * odd;
    a = __builtin_shufflevector(a, a, 0, 1, 0, 1, 4, 5, 4, 5) +
        __builtin_shufflevector(a, a, 2, 3, 2, 3, 6, 7, 6, 7) * third;
    a = __builtin_shufflevector(a, a, 0, 1, 2, 3, 0, 1, 2, 3) +
        __builtin_shufflevector(a, a, 4, 5, 6, 7, 4, 5, 6, 7) * high;
    a = a * by;
    __builtin_memcpy(x, &a, sizeof a);
}

// One block of n numbers, a power of two.
template <isa Isa> NIBBLE_INLINE void hadamard_of(float* x, std::size_t n, float norm) noexcept {
    using L = lanes<Isa>;
    if (n < 8) {
        for (std::size_t stride = 1; stride < n; stride *= 2)
            for (std::size_t i = 0; i < n; ++i) {
                if ((i & stride) != 0) continue;
                const float a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
        for (std::size_t i = 0; i < n; ++i) x[i] *= norm;
        return;
    }
    for (std::size_t i = 0; i < n; i += 8) hadamard_8(x + i, n == 8 ? norm : 1.0f);
    std::size_t stride = 8;
    for (; 4 * stride <= n; stride *= 4) { // two rounds in registers
        const L by(4 * stride == n ? norm : 1.0f);
        for (std::size_t first = 0; first < n; first += 4 * stride)
            for (std::size_t i = first; i < first + stride; i += 8) {
                const L a = L::load(x + i, 8), b = L::load(x + i + stride, 8);
                const L c = L::load(x + i + 2 * stride, 8), d = L::load(x + i + 3 * stride, 8);
                const L low = a + b, low_difference = a - b, high = c + d, high_difference = c - d;
                ((low + high) * by).store(x + i, 8);
                ((low_difference + high_difference) * by).store(x + i + stride, 8);
                ((low - high) * by).store(x + i + 2 * stride, 8);
                ((low_difference - high_difference) * by).store(x + i + 3 * stride, 8);
            }
    }
    if (stride < n) {
        const L by(norm);
        for (std::size_t i = 0; i < stride; i += 8) {
            const L a = L::load(x + i, 8), b = L::load(x + i + stride, 8);
            ((a + b) * by).store(x + i, 8);
            ((a - b) * by).store(x + i + stride, 8);
        }
    }
}

} // namespace detail

// x = H x for every `block` numbers of x in turn, in place: H[i][j] = (-1)^(number of ones in i and j) / sqrt(block),
// the normalised Walsh-Hadamard matrix in natural order, which is its own transpose and its own inverse. `block` is a
// power of two that divides the length of x.
//
// log2(block) rounds of sums and differences of numbers 1, 2, 4 ... apart, then one product with 1 / sqrt(block): the
// same bits on every ISA, within (log2(block) + 1) x 2^-24 of the exact result, relative to the norm of the block. A
// NaN or an infinity makes NaN or infinity of all its block; sums beyond the largest float are infinite. Allocates
// nothing.
template <isa Isa = best_isa> NIBBLE_NOINLINE void hadamard(array_view<float> x, std::size_t block) {
    NIBBLE_CHECK(detail::has_single_bit(block) && x.size() % block == 0,
                 "hadamard: a block must be a power of two that divides the length");
    const int rounds = detail::countr_zero(block);
    const float norm = detail::exp2i(-(rounds / 2)) * (rounds % 2 == 0 ? 1.0f : 0.70710678f);
    for (std::size_t i = 0; i < x.size(); i += block) detail::hadamard_of<Isa>(x.data() + i, block, norm);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
