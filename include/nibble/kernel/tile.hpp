// kernel/tile.hpp: the register tiles: Panels x 16 rows of weights against Tokens rows of activations, over a range of
// columns. Everything that is hot in gemm is in this file.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// The columns a tile covers: whole parts, or a piece of one part that begins and ends on a phase.
struct tile_range {
    std::size_t part = 0;        // the first part
    std::size_t parts = 0;
    std::size_t begin = 0;       // its first padded column, or that of the piece
    std::size_t part_units = 0;  // quads (integer) or columns (real) of every part but the last
    std::size_t last_units = 0;  // of the last part, or of the piece
    std::size_t phase = 0;       // the first phase of the piece within its part (integer)
    bool resume = false;         // the piece continues sums in `totals`
    bool finish = true;          // the last part is complete with this range
};

// ---- integer tiles -----------------------------------------------------------------------------------------------------

struct integer_tile_arguments {
    const std::uint8_t* codes = nullptr; // of the range's first quad
    std::size_t codes_stride = 0;        // bytes from panel to panel
    const std::int8_t* values = nullptr; // activations of the range's first quad
    const std::int32_t* pair_sums = nullptr; // of the range's first phase
    const float* part_sums = nullptr;    // of the range's first part
    const float* part_scales = nullptr;  // of the range's first part; null if scales are per token
    const float* scales = nullptr;       // [panel][part][16]
    const std::int32_t* zeros = nullptr; // [panel][part][16] or null
    const float* minimums = nullptr;     // [panel][part][16] or null
    std::size_t widened_stride = 0;      // floats from panel to panel in scales, zeros, minimums
    std::size_t phases_per_part = 1;
    std::size_t phase_quads = 1;
    int center = 0;
    float* results = nullptr;            // [panel][token][16], read and written
    std::int32_t* totals = nullptr;      // likewise: sums of an unfinished part
};

// A source says how one quad of codes becomes lanes, and which products it takes.
// Nibbles in the packed stream, unpacked in registers; Element void: lanes are the nibbles themselves.
template <isa Isa, class Element>
struct nibble_source {
    using isa_type = Isa;
    using sums = typename Isa::sums;
    static constexpr std::size_t bytes_per_quad = 32;
    static constexpr std::size_t activation_bytes = 4;
    struct weights {
        typename Isa::bytes low, high;
    };
    [[nodiscard]] static NIBBLE_INLINE weights load(const std::uint8_t* codes) noexcept {
        const typename Isa::bytes v = Isa::load_bytes(codes);
        if constexpr (element<Element>)
            return {to_lanes<Isa, Element>(Isa::low_nibbles(v)), to_lanes<Isa, Element>(Isa::high_nibbles(v))};
        else
            return {Isa::low_nibbles(v), Isa::high_nibbles(v)};
    }
    [[nodiscard]] static NIBBLE_INLINE sums start(const std::int32_t* pair, int center) noexcept {
        return Isa::dot_start(pair, center);
    }
    static NIBBLE_INLINE void accumulate(sums& low, sums& high, const weights& w, const std::int8_t* activations) noexcept {
        const typename Isa::bytes a = Isa::broadcast4(activations);
        low = Isa::dot(low, w.low, a);
        high = Isa::dot(high, w.high, a);
        Isa::pin(low);
        Isa::pin(high);
    }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 finish(const sums& s) noexcept { return Isa::dot_finish(s); }
};

// Unsigned byte lanes made by unpack_integer.
template <isa Isa>
struct byte_source : nibble_source<Isa, void> {
    using base = nibble_source<Isa, void>;
    static constexpr std::size_t bytes_per_quad = 64;
    [[nodiscard]] static NIBBLE_INLINE typename base::weights load(const std::uint8_t* codes) noexcept {
        return {Isa::load_bytes(codes), Isa::load_bytes(codes + 32)};
    }
};

// Signed byte lanes: the packed stream itself for 8-bit elements. Exact for every code and activation.
template <isa Isa>
struct word_source {
    using isa_type = Isa;
    using sums = typename Isa::i32;
    static constexpr std::size_t bytes_per_quad = 64;
    static constexpr std::size_t activation_bytes = 8;
    struct weights {
        typename Isa::words low_even, low_odd, high_even, high_odd;
    };
    [[nodiscard]] static NIBBLE_INLINE weights load(const std::uint8_t* codes) noexcept {
        const typename Isa::bytes a = Isa::load_bytes(codes);
        const typename Isa::bytes b = Isa::load_bytes(codes + 32);
        return {Isa::even_words(a), Isa::odd_words(a), Isa::even_words(b), Isa::odd_words(b)};
    }
    [[nodiscard]] static NIBBLE_INLINE sums start(const std::int32_t*, int) noexcept { return Isa::zeros(); }
    static NIBBLE_INLINE void accumulate(sums& low, sums& high, const weights& w, const std::int8_t* activations) noexcept {
        const auto* from = reinterpret_cast<const std::int16_t*>(activations);
        const typename Isa::words even = Isa::broadcast2(from);
        low = Isa::add(low, Isa::multiply_pairs(w.low_even, even));
        high = Isa::add(high, Isa::multiply_pairs(w.high_even, even));
        const typename Isa::words odd = Isa::broadcast2(from + 2);
        low = Isa::add(low, Isa::multiply_pairs(w.low_odd, odd));
        high = Isa::add(high, Isa::multiply_pairs(w.high_odd, odd));
        Isa::pin(low);
        Isa::pin(high);
    }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 finish(const sums& s) noexcept { return s; }
};

// Bytes a tile asks for ahead of its reads: far enough to cover the memory latency at full speed, and in the same panel
// or the next.
inline constexpr std::size_t prefetch_distance = 512;

// What remains of a phase: its sums are widened and, if the part is complete, go into the results by one fma each.
//   Begun     earlier phases of the part have left sums in `totals`
//   Complete  this was the part's last phase
//   Extra     scales per part of the activations, or minimums, take part
// Compile-time flags, because a branch per vector costs as much as the work.
template <class Source, std::size_t Panels, std::size_t Tokens, bool Zeros, bool Begun, bool Complete, bool Extra>
NIBBLE_INLINE void finish_phase(const integer_tile_arguments& a, std::size_t part, const std::int32_t* pairs,
                                typename Source::sums (&s)[Panels][Tokens][2]) noexcept {
    using Isa = typename Source::isa_type;
#pragma GCC unroll 8
    for (std::size_t p = 0; p < Panels; ++p) {
        const std::size_t wide = p * a.widened_stride + part * 16;
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
#pragma GCC unroll 8
            for (std::size_t t = 0; t < Tokens; ++t) {
                const std::size_t at = (p * Tokens + t) * 16 + half * 8;
                typename Isa::i32 d = Source::finish(s[p][t][half]);
                if constexpr (Zeros)
                    d = Isa::subtract(d, Isa::multiply_pairs(Isa::load_words(a.zeros + wide + half * 8),
                                                         Isa::broadcast2(pairs + t)));
                if constexpr (Begun) d = Isa::add(d, Isa::load(a.totals + at));
                if constexpr (!Complete) {
                    Isa::store(a.totals + at, d);
                } else {
                    typename Isa::f32 scale = Isa::load(a.scales + wide + half * 8);
                    if constexpr (Extra) {
                        const std::size_t one = part * Tokens + t;
                        if (a.part_scales != nullptr) scale = Isa::multiply(scale, Isa::broadcast(a.part_scales[one]));
                        typename Isa::f32 r = Isa::fma(Isa::to_float(d), scale, Isa::load(a.results + at));
                        if (a.minimums != nullptr)
                            r = Isa::fma(Isa::broadcast(a.part_sums[one]), Isa::load(a.minimums + wide + half * 8), r);
                        Isa::store(a.results + at, r);
                    } else {
                        Isa::store(a.results + at, Isa::fma(Isa::to_float(d), scale, Isa::load(a.results + at)));
                    }
                }
            }
        }
    }
}

// results += scale x (exact integer dot product of a part), part by part in order; see gemm.hpp for the formula.
template <class Source, std::size_t Panels, std::size_t Tokens, bool Zeros>
NIBBLE_NOINLINE void integer_tile(const integer_tile_arguments& a, const tile_range& range) noexcept {
    using Isa = typename Source::isa_type;
    using sums = typename Source::sums;
    // One base per panel and one offset for all, so that a load is base + offset.
    const std::uint8_t* codes[Panels];
#pragma GCC unroll 8
    for (std::size_t p = 0; p < Panels; ++p) codes[p] = a.codes + p * a.codes_stride;
    std::size_t offset = 0;
    const std::int8_t* values = a.values;
    const std::int32_t* pair_sums = a.pair_sums;
    const bool extra = a.part_scales != nullptr || a.minimums != nullptr;
    for (std::size_t part = 0; part < range.parts; ++part) {
        const bool last_part = part + 1 == range.parts;
        std::size_t left = last_part ? range.last_units : range.part_units;
        bool begun = range.resume && part == 0;
        const std::int32_t* pairs = pair_sums;
        while (left != 0) {
            const std::size_t quads = left < a.phase_quads ? left : a.phase_quads;
            left -= quads;
            sums s[Panels][Tokens][2];
#pragma GCC unroll 8
            for (std::size_t t = 0; t < Tokens; ++t) {
                const sums start = Source::start(pairs + t, a.center);
#pragma GCC unroll 8
                for (std::size_t p = 0; p < Panels; ++p) s[p][t][0] = s[p][t][1] = start;
            }
            // Not unrolled: measured slower by up to 15 % (GCC 12 adds copies and a prologue to every phase).
            for (std::size_t q = 0; q < quads; ++q) {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < Panels; ++p) {
                    const std::uint8_t* from = codes[p] + offset;
                    Isa::prefetch(from + prefetch_distance);
                    const typename Source::weights w = Source::load(from);
#pragma GCC unroll 8
                    for (std::size_t t = 0; t < Tokens; ++t)
                        Source::accumulate(s[p][t][0], s[p][t][1], w,
                                           values + t * Source::activation_bytes);
                }
                offset += Source::bytes_per_quad;
                values += Tokens * Source::activation_bytes;
            }
            const bool complete = left == 0 && (!last_part || range.finish);
            if (!complete) {
                if (begun)
                    finish_phase<Source, Panels, Tokens, Zeros, true, false, false>(a, part, pairs, s);
                else
                    finish_phase<Source, Panels, Tokens, Zeros, false, false, false>(a, part, pairs, s);
            } else if (!extra) {
                if (begun)
                    finish_phase<Source, Panels, Tokens, Zeros, true, true, false>(a, part, pairs, s);
                else
                    finish_phase<Source, Panels, Tokens, Zeros, false, true, false>(a, part, pairs, s);
            } else {
                if (begun)
                    finish_phase<Source, Panels, Tokens, Zeros, true, true, true>(a, part, pairs, s);
                else
                    finish_phase<Source, Panels, Tokens, Zeros, false, true, true>(a, part, pairs, s);
            }
            begun = true;
            pairs += Tokens;
        }
        pair_sums += a.phases_per_part * Tokens;
    }
}

// ---- fp32 tiles --------------------------------------------------------------------------------------------------------

struct real_tile_arguments {
    const float* weights = nullptr; // [panel][column][16]
    std::size_t weights_stride = 0; // floats from panel to panel
    const float* values = nullptr;  // [column][token]
    const float* part_sums = nullptr;
    const float* scales = nullptr;
    const float* minimums = nullptr;
    std::size_t widened_stride = 0;
    float* results = nullptr;
    float* totals = nullptr;
};

// results = fma(sum of a part, scale, results), part by part in order; each sum is one chain of fma over its columns.
template <isa Isa, std::size_t Panels, std::size_t Tokens>
NIBBLE_NOINLINE void real_tile(const real_tile_arguments& a, const tile_range& range) noexcept {
    using f32 = typename Isa::f32;
    const float* weights = a.weights;
    const float* values = a.values;
    for (std::size_t part = 0; part < range.parts; ++part) {
        const bool last_part = part + 1 == range.parts;
        const std::size_t columns = last_part ? range.last_units : range.part_units;
        f32 s[Panels][Tokens][2];
        const bool begun = range.resume && part == 0;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 8
            for (std::size_t t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < 2; ++half)
                    s[p][t][half] = begun ? Isa::load(a.totals + (p * Tokens + t) * 16 + half * 8) : Isa::broadcast(0.0f);
#pragma GCC unroll 2
        for (std::size_t k = 0; k < columns; ++k) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < Panels; ++p) {
                const float* from = weights + p * a.weights_stride;
                const f32 low = Isa::load(from);
                const f32 high = Isa::load(from + 8);
#pragma GCC unroll 8
                for (std::size_t t = 0; t < Tokens; ++t) {
                    const f32 x = Isa::broadcast(values[t]);
                    s[p][t][0] = Isa::fma(x, low, s[p][t][0]);
                    s[p][t][1] = Isa::fma(x, high, s[p][t][1]);
                }
            }
            weights += 16;
            values += Tokens;
        }
        const bool complete = !last_part || range.finish;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 8
            for (std::size_t t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < 2; ++half) {
                    const std::size_t at = (p * Tokens + t) * 16 + half * 8;
                    if (!complete) {
                        Isa::store(a.totals + at, s[p][t][half]);
                        continue;
                    }
                    const std::size_t wide =
                        p * a.widened_stride + part * 16 + half * 8;
                    f32 r = Isa::fma(s[p][t][half], Isa::load(a.scales + wide), Isa::load(a.results + at));
                    if (a.minimums != nullptr)
                        r = Isa::fma(Isa::broadcast(a.part_sums[part * Tokens + t]),
                                   Isa::load(a.minimums + wide), r);
                    Isa::store(a.results + at, r);
                }
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
