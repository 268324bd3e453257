// rotary.hpp: rotary position embedding of queries and keys, by tables that all layers of a forward pass share.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/rotary.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Rotary position embedding (Su et al., 2021). (a, b) becomes (a cos r - b sin r, a sin r + b cos r) for the pairs of a
// head's first `dims` channels, with r = position x the pair's frequency. As a part of a kv_transform attend applies
// it, to queries by their position and to keys as it reads them: for keys that are stored, and appended, unrotated; a
// token's position is its number in the sequence. rotary_positions applies it to matrices.
struct rotary_embedding {
    std::size_t dims = 0;     // even, up to the head size; 0: none
    bool interleaved = false; // pair i is channels 2i and 2i + 1 (GPT-J); else i and i + dims / 2 (GPT-NeoX, Llama)
    double base = 10000.0;    // pair i has the frequency base^(-2i / dims), by the C library's pow
    dynamic_array<double>
        frequencies{}; // of each pair, in radians per position and at most 8, instead: any scaling of contexts
};

namespace detail {

inline void check_rotary(const rotary_embedding& r, std::size_t head_size) {
    NIBBLE_CHECK(r.dims % 2 == 0 && r.dims <= head_size,
                 "rotary_embedding: an even number of dims is needed, at most the head size");
    NIBBLE_CHECK(r.base >= 1.0 && r.base <= 1e30, "rotary_embedding: the base is 1 to 1e30");
    NIBBLE_CHECK(r.frequencies.empty() || r.frequencies.size() == r.dims / 2,
                 "rotary_embedding: a frequency for each pair is needed, or none");
    for (const double f : r.frequencies)
        NIBBLE_CHECK(f >= -8.0 && f <= 8.0, "rotary_embedding: a frequency is at most 8 radians");
}

[[nodiscard]] inline dynamic_array<double> frequencies_of(const rotary_embedding& r) {
    dynamic_array<double> frequencies = r.frequencies;
    for (std::size_t i = frequencies.size(); i < r.dims / 2; ++i)
        frequencies.push_back(__builtin_pow(r.base, -2.0 * static_cast<double>(i) / static_cast<double>(r.dims)));
    return frequencies;
}

} // namespace detail

// The cosines and sines of some positions, computed once per pass and applied to queries and keys of every layer.
class rotary_positions {
public:
    rotary_positions() noexcept = default;

    // For row i of the matrices to come: its position. Allocates only if it never held as many; the numbers are within
    // 2^-24 of the exact ones for positions below 2^31.
    void assign(const rotary_embedding& r, array_view<const std::uint32_t> positions) {
        detail::check_rotary(r, r.dims);
        const dynamic_array<double> frequencies = detail::frequencies_of(r);
        pairs_ = r.dims / 2;
        interleaved_ = r.interleaved;
        count_ = positions.size();
        const std::size_t each = numbers_per_position();
        if (rotations_.size() < count_ * each) rotations_.resize(count_ * each);
        for (std::size_t t = 0; t < count_; ++t)
            for (std::size_t i = 0; i < pairs_; ++i) {
                const kernel::rotation by = kernel::rotation_of(positions[t], frequencies[i]);
                const float cosine = static_cast<float>(by.cosine), sine = static_cast<float>(by.sine);
                float* const to = rotations_.data() + t * each;
                if (interleaved_) {
                    to[2 * i] = to[2 * pairs_ + 2 * i + 1] = cosine;
                    to[2 * i + 1] = sine;
                    to[2 * pairs_ + 2 * i] = -sine;
                } else {
                    to[i] = cosine;
                    to[pairs_ + i] = sine;
                }
            }
    }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }

    // Every head of every row of x, in place, in fp32: a' = fma(-b, sin, a cos), b' = fma(b, cos, a sin). x has a row
    // per position and whole heads of `head_size` channels, of which those beyond `dims` stay. NaN and infinities as in
    // IEEE arithmetic. The same bits for any executor and ISA.
    template <isa Isa = best_isa, executor Executor = serial>
    void rotate(matrix_view<float> x, std::size_t head_size, const Executor& threads = {}) const {
        detail::check_executor(threads);
        NIBBLE_CHECK(x.rows() == count_, "rotary_positions: x must have a row for each position");
        NIBBLE_CHECK(head_size != 0 && x.cols() % head_size == 0 && 2 * pairs_ <= head_size,
                     "rotary_positions: a row must have whole heads, of at least `dims` channels");
        if (x.empty() || pairs_ == 0) return;
        const std::size_t rows_per_task = detail::max_of<std::size_t>(1, 8192 / x.cols());
        detail::for_each_task(detail::ceil_div(count_, rows_per_task), threads, [&](std::size_t task, std::size_t) {
            const std::size_t end = detail::min_of(count_, (task + 1) * rows_per_task);
            for (std::size_t t = task * rows_per_task; t < end; ++t)
                for (std::size_t h = 0; h < x.cols(); h += head_size) rotate_head<Isa>(t, x.row(t) + h);
        });
    }

private:
    template <isa Isa> NIBBLE_NOINLINE void rotate_head(std::size_t token, float* x) const noexcept {
        using L = lanes<Isa>;
        const float* of_a = rotations_.data() + token * numbers_per_position();
        const float* of_b = of_a + 2 * pairs_;
        if (interleaved_) { // four pairs in a register, a in both lanes of one and b in those of another
            for (std::size_t i = 0; i < 2 * pairs_; i += 8) {
                const std::size_t n = detail::min_of<std::size_t>(8, 2 * pairs_ - i);
                const L v = L::load(x + i, n);
                const L first = (duplicate_even(v) * L::load(of_a + i, n)).kept();
                fma(duplicate_odd(v), L::load(of_b + i, n), first).store(x + i, n);
            }
            return;
        }
        const float* cosines = of_a;
        const float* sines = of_a + pairs_;
        for (std::size_t i = 0; i < pairs_; i += 8) {
            const std::size_t n = detail::min_of<std::size_t>(8, pairs_ - i);
            const L a = L::load(x + i, n), b = L::load(x + pairs_ + i, n);
            const L c = L::load(cosines + i, n), s = L::load(sines + i, n);
            fma(L(0.0f) - b, s, (a * c).kept()).store(x + i, n);
            fma(b, c, (a * s).kept()).store(x + pairs_ + i, n);
        }
    }

    [[nodiscard]] std::size_t numbers_per_position() const noexcept { return (interleaved_ ? 4 : 2) * pairs_; }

    std::size_t pairs_ = 0;
    std::size_t count_ = 0;
    bool interleaved_ = false;
    // [position][cosines, sines][pair]; of interleaved pairs (c, s), (c, s) ... of the first numbers and (-s, c) ... of
    // the second
    dynamic_array<float> rotations_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
