// kernel/rotary.hpp: rotary position embedding: queries rotated by their position, and panels of keys as attention
// reads them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

struct rotation {
    double cosine = 1.0;
    double sine = 0.0;
};

// Cosine and sine of position x frequency within 2^-50, position up to 2^31 and |frequency| up to 8: the product is
// kept in two parts, as is what quarter turns leave of it. No library: the same bits everywhere.
[[nodiscard]] inline rotation rotation_of(std::uint64_t position, double frequency) noexcept {
    constexpr double quarter = 1.5707963267948966; // pi / 2 in two parts
    constexpr double quarter_rest = 6.123233995736766e-17;
    constexpr double to_integer = 0x1.8p52;
    const double p = static_cast<double>(position);
    const double angle = p * frequency;
    const double rest = __builtin_fma(p, frequency, -angle);
    const double quarters = __builtin_fma(angle, 0.6366197723675814, to_integer) - to_integer;
    double r = __builtin_fma(-quarters, quarter, angle);
    r = __builtin_fma(-quarters, quarter_rest, r) + rest;
    // Taylor's series, whose next terms are below 5e-17 at pi / 4.
    const double s = r * r;
    double sine = 0.0, cosine = 0.0;
    constexpr double of_sine[] = {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                                  -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0,        1.0};
    for (const double c : of_sine) sine = __builtin_fma(sine, s, c);
    sine *= r;
    constexpr double of_cosine[] = {1.0 / 20922789888000.0,
                                    -1.0 / 87178291200.0,
                                    1.0 / 479001600.0,
                                    -1.0 / 3628800.0,
                                    1.0 / 40320.0,
                                    -1.0 / 720.0,
                                    1.0 / 24.0,
                                    -0.5,
                                    1.0};
    for (const double c : of_cosine) cosine = __builtin_fma(cosine, s, c);
    const auto quarter_turns = static_cast<std::int64_t>(quarters);
    const double a = (quarter_turns & 1) != 0 ? sine : cosine;
    const double b = (quarter_turns & 1) != 0 ? cosine : sine;
    return {((quarter_turns + 1) & 2) != 0 ? -a : a, (quarter_turns & 2) != 0 ? -b : b};
}

// Pairs of channels and what each is rotated by per position; the rotations of 16 tokens and of the panels of a block,
// to put together.
class rotary_tables {
public:
    rotary_tables(std::size_t dims, bool interleaved, dynamic_array<double> frequencies)
        : pairs_(dims / 2), interleaved_(interleaved), frequencies_(std::move(frequencies)),
          tokens_(pairs_ * 2 * panel_layout::rows), panels_(attention_panels * 2 * padded()) {
        constexpr std::size_t rows = panel_layout::rows;
        for (std::size_t i = 0; i < pairs_; ++i)
            for (std::size_t t = 0; t < rows; ++t)
                put(rotation_of(t, frequencies_[i]), tokens_[i * 2 * rows + t], tokens_[(i * 2 + 1) * rows + t]);
        for (std::size_t p = 0; p < attention_panels; ++p) rotations_at(p * rows, panels_.data() + p * 2 * padded());
    }
    [[nodiscard]] std::size_t pairs() const noexcept { return pairs_; }
    [[nodiscard]] std::size_t padded() const noexcept { return detail::round_up(pairs_, 8); } // pairs in vectors
    [[nodiscard]] std::size_t first(std::size_t pair) const noexcept { return interleaved_ ? 2 * pair : pair; }
    [[nodiscard]] std::size_t second(std::size_t pair) const noexcept {
        return interleaved_ ? 2 * pair + 1 : pair + pairs_;
    }

    // The rotations of a position: of every pair.
    void rotations_at(std::size_t position, rotation* out) const noexcept {
        for (std::size_t i = 0; i < pairs_; ++i) out[i] = rotation_of(position, frequencies_[i]);
    }
    // As fp32, cosines and then sines, each padded() of them.
    void rotations_at(std::size_t position, float* out) const noexcept {
        for (std::size_t i = 0; i < padded(); ++i)
            put(i < pairs_ ? rotation_of(position, frequencies_[i]) : rotation{}, out[i], out[padded() + i]);
    }

    // One row, by the rotations of its position.
    void rotate_row(const rotation* by, float* x) const noexcept {
        for (std::size_t i = 0; i < pairs_; ++i) {
            const double a = static_cast<double>(x[first(i)]);
            const double b = static_cast<double>(x[second(i)]);
            const double of_a = a * by[i].cosine, of_b = a * by[i].sine;
            x[first(i)] = static_cast<float>(__builtin_fma(-b, by[i].sine, of_a));
            x[second(i)] = static_cast<float>(__builtin_fma(b, by[i].cosine, of_b));
        }
    }

    // Panel `panel` of a block, x[channel][16 tokens]: by the rotations of the block's first position (as rotations_at
    // gives them), of the panel in it and of each token in that. Their cosines and sines are off by at most 5 x 2^-24.
    // `scratch`: 2 x padded().
    template <isa Isa>
    NIBBLE_NOINLINE void rotate_panel(const float* block, std::size_t panel, float* x, float* scratch) const noexcept {
        put_together<Isa>(block, panels_.data() + panel * 2 * padded(), scratch);
        using L = token_lanes<Isa>;
        constexpr std::size_t rows = panel_layout::rows;
        for (std::size_t i = 0; i < pairs_; ++i) {
            const L c(scratch[i]), s(scratch[padded() + i]), minus_s(-scratch[padded() + i]);
            const float* token = tokens_.data() + i * 2 * rows;
            float* const a = x + first(i) * rows;
            float* const b = x + second(i) * rows;
            for (std::size_t t = 0; t < rows; t += L::width) {
                const L token_c = L::load(token + t, L::width), token_s = L::load(token + rows + t, L::width);
                const L cosine = fma(minus_s, token_s, (c * token_c).kept());
                const L sine = fma(s, token_c, (c * token_s).kept());
                const L va = L::load(a + t, L::width), vb = L::load(b + t, L::width);
                fma(L(0.0f) - vb, sine, (va * cosine).kept()).store(a + t, L::width);
                fma(vb, cosine, (va * sine).kept()).store(b + t, L::width);
            }
        }
    }

private:
    static void put(const rotation& from, float& cosine, float& sine) noexcept {
        cosine = static_cast<float>(from.cosine);
        sine = static_cast<float>(from.sine);
    }
    // The rotations of all pairs: one after another.
    template <isa Isa> void put_together(const float* a, const float* b, float* out) const noexcept {
        using L = lanes<Isa>;
        const std::size_t n = padded();
        for (std::size_t i = 0; i < n; i += 8) {
            const L ac = L::load(a + i, 8), as = L::load(a + n + i, 8);
            const L bc = L::load(b + i, 8), bs = L::load(b + n + i, 8);
            fma(L(0.0f) - as, bs, (ac * bc).kept()).store(out + i, 8);
            fma(as, bc, (ac * bs).kept()).store(out + n + i, 8);
        }
    }

    std::size_t pairs_;
    bool interleaved_;
    dynamic_array<double> frequencies_;
    dynamic_array<float> tokens_; // [pair][cosine, sine][16]
    dynamic_array<float> panels_; // [panel of a block][cosine, sine][pair]
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
