// kernel/integer_tile.hpp: the tiles of integers: exact dot products of codes and quantized activations, part by part.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/int32_dots.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// use(quad, A, B) for the quads of a step: their lanes, looked up in Element's table unless that is void.
template <isa Isa, int Bits, class Element, class Use>
NIBBLE_INLINE void each_pair_of_lanes(const std::uint8_t* from, const Use& use) noexcept {
    typename Isa::bytes low;
    spread_lanes<Isa, Bits>(from, [&](std::size_t v, const typename Isa::bytes& codes) NIBBLE_INLINE_LAMBDA {
        typename Isa::bytes lanes = codes;
        if constexpr (element<Element>) lanes = to_lanes<Isa, Element>(codes);
        if (v % 2 == 0)
            low = lanes;
        else
            use(v / 2, low, lanes);
    });
}

// An operand loader says how the packed codes, or lanes made of them beforehand, become factors, and which products
// those take.
//   quads, bytes      of one step, the least that each_quad reads
//   activation_bytes  of one quad of one token
//   unroll            quads per turn of the loop: more, and GCC runs out of registers
//   halves            vectors that the 16 rows of a panel take: 2, or 1 in 512 bits
//   streams           from memory, or perhaps: the tile asks for what comes next
//   each_quad(from, use)   use(quad, weights) for every quad of a step, each before the next is unpacked: few registers
// Lanes of narrow elements, unpacked in registers: codes of `Bits` bits, looked up in Element's table unless that is
// void.
template <isa Isa, int Bits, class Element> struct packed_loader {
    using isa_type = Isa;
    static constexpr bool streams = true;
    using sums = typename Isa::sums;
    static constexpr std::size_t quads = detail::step_quads_of(Bits);
    static constexpr std::size_t bytes = detail::step_bytes_of(Bits);
    static constexpr std::size_t activation_bytes = 4;
    static constexpr std::size_t unroll = element<Element> ? 2 : 4;
    static constexpr std::size_t halves = panel_layout::rows / Isa::width;
    struct weights {
        typename Isa::bytes v[halves];
    };
    template <class Use> static NIBBLE_INLINE void each_quad(const std::uint8_t* from, const Use& use) noexcept {
        if constexpr (halves == 1) {
            spread_panel_lanes<Isa, Bits>(from,
                                          [&](std::size_t q, const typename Isa::bytes& codes) NIBBLE_INLINE_LAMBDA {
                                              if constexpr (element<Element>)
                                                  use(q, weights{{to_lanes<Isa, Element>(codes)}});
                                              else
                                                  use(q, weights{{codes}});
                                          });
        } else {
            each_pair_of_lanes<Isa, Bits, Element>(from, [&](std::size_t q, const typename Isa::bytes& a,
                                                             const typename Isa::bytes& b) NIBBLE_INLINE_LAMBDA {
                use(q, weights{{a, b}});
            });
        }
    }
    [[nodiscard]] static NIBBLE_INLINE sums start(const std::int32_t* pair, int center) noexcept {
        return Isa::dot_start(pair, center);
    }
    static NIBBLE_INLINE void accumulate(sums (&s)[halves], const weights& w, const std::int8_t* activations) noexcept {
        const typename Isa::bytes a = Isa::broadcast4(activations);
#pragma GCC unroll 2
        for (std::size_t h = 0; h < halves; ++h) {
            s[h] = Isa::dot(s[h], w.v[h], a);
            Isa::pin(s[h]);
        }
    }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 finish(const sums& s) noexcept { return Isa::dot_finish(s); }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 add_finished(const typename Isa::i32& total,
                                                                      const sums& s) noexcept {
        return Isa::add_finished(total, s);
    }
};

// What loaders of lanes as int16 have in common: products of pairs, summed in int32. Exact for every code and
// activation.
template <isa Isa> struct word_products {
    using isa_type = Isa;
    using sums = typename Isa::i32;
    static constexpr std::size_t activation_bytes = 8;
    static constexpr std::size_t unroll = 2;
    static constexpr std::size_t halves = 2;
    struct weights {
        typename Isa::words low_even, low_odd, high_even, high_odd;
    };
    [[nodiscard]] static NIBBLE_INLINE sums start(const std::int32_t* pair, int center) noexcept {
        return Isa::pairs_start(pair, center);
    }
    static NIBBLE_INLINE void accumulate(sums (&s)[halves], const weights& w, const std::int8_t* activations) noexcept {
        sums& low = s[0];
        sums& high = s[1];
        const auto* from = reinterpret_cast<const std::int16_t*>(activations);
        const typename Isa::words even = Isa::broadcast2(from);
        low = Isa::add_pairs(low, w.low_even, even);
        high = Isa::add_pairs(high, w.high_even, even);
        const typename Isa::words odd = Isa::broadcast2(from + 2);
        low = Isa::add_pairs(low, w.low_odd, odd);
        high = Isa::add_pairs(high, w.high_odd, odd);
        Isa::pin(low);
        Isa::pin(high);
    }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 finish(const sums& s) noexcept { return s; }
    [[nodiscard]] static NIBBLE_INLINE typename Isa::i32 add_finished(const typename Isa::i32& total,
                                                                      const sums& s) noexcept {
        return Isa::add(total, s);
    }
};

// Lanes of wide elements, unpacked and widened in registers.
template <isa Isa, int Bits, class Element> struct packed_word_loader : word_products<Isa> {
    using weights = typename word_products<Isa>::weights;
    static constexpr bool streams = true;
    static constexpr std::size_t quads = detail::step_quads_of(Bits);
    static constexpr std::size_t bytes = detail::step_bytes_of(Bits);
    template <class Use> static NIBBLE_INLINE void each_quad(const std::uint8_t* from, const Use& use) noexcept {
        each_pair_of_lanes<Isa, Bits, Element>(
            from, [&](std::size_t q, const typename Isa::bytes& a, const typename Isa::bytes& b) NIBBLE_INLINE_LAMBDA {
                use(q, weights{Isa::even_words(a), Isa::odd_words(a), Isa::even_words(b), Isa::odd_words(b)});
            });
    }
};

// Lanes that unpack_integer has made: one byte each, as 8-bit codes are.
template <isa Isa> using byte_loader = packed_loader<Isa, 8, void>;
// Lanes that unpack_words has made.
template <isa Isa> struct word_loader : word_products<Isa> {
    using weights = typename word_products<Isa>::weights;
    static constexpr bool streams = false;
    static constexpr std::size_t quads = 1;
    static constexpr std::size_t bytes = 128;
    template <class Use> static NIBBLE_INLINE void each_quad(const std::uint8_t* from, const Use& use) noexcept {
        use(0, weights{Isa::load_words(from), Isa::load_words(from + 32), Isa::load_words(from + 64),
                       Isa::load_words(from + 96)});
    }
};

// Do the vectors of two panels meet one broadcast of the activations? Loads, of which there are two in a cycle, as
// there are products, would be the limit otherwise. And does the tile make its requests itself? No constexpr local says
// so: lambdas would capture it, and GCC 12 then keeps the sums in memory.
template <class Loader, std::size_t Panels, std::size_t Tokens>
inline constexpr bool shares_broadcasts = Panels == 2 && Tokens > 1 && Loader::quads == 1 && Loader::halves == 1;
template <class Loader, std::size_t Panels, std::size_t Tokens>
inline constexpr bool makes_requests =
    shares_broadcasts<Loader, Panels, Tokens> && Tokens == Loader::isa_type::facts.integer_tiles.longest;

// results += scale x (exact integer dot product of a part), part by part in order; see gemm.hpp for the formula.
template <class Loader, std::size_t Panels, std::size_t Tokens, bool Zeros>
NIBBLE_NOINLINE void integer_tile(const tile_arguments& arguments, const tile_range& bounds) noexcept {
    using Isa = typename Loader::isa_type;
    using sums = typename Loader::sums;
    using i32 = typename Isa::i32;
    using f32 = typename Isa::f32;
    constexpr std::size_t halves = Loader::halves;
    constexpr std::size_t lanes = panel_layout::rows / halves;
    constexpr std::size_t most_quads = Panels * Tokens > 1 ? Isa::facts.unrolled_quads : Loader::unroll;
    constexpr std::size_t unroll = detail::max_of<std::size_t>(
        1, detail::min_of<std::size_t>(Loader::unroll, most_quads) / Loader::quads / (Panels > 1 ? 2 : 1));
    constexpr std::size_t quads_at_once = unroll * Loader::quads;
    // One base per panel and one offset for all, so that a load is base + offset.
    const std::uint8_t* codes[Panels];
#pragma GCC unroll 8
    for (std::size_t p = 0; p < Panels; ++p)
        codes[p] = reinterpret_cast<const std::uint8_t*>(arguments.weights) + p * arguments.weights_stride;
    std::size_t offset = 0;
    const auto* values = reinterpret_cast<const std::int8_t*>(arguments.values);
    const std::int32_t* pair_sums = arguments.pair_sums;

    // The products of `quads` quads on top of s.
    const auto steps = [&]<std::size_t Steps>(sums(&s)[Panels][Tokens][halves]) NIBBLE_INLINE_LAMBDA {
        if constexpr (makes_requests<Loader, Panels, Tokens>) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 2
                for (std::size_t at = 0; at < Steps * Loader::bytes; at += 64)
                    Isa::prefetch(arguments.prefetches.next + p * arguments.prefetches.next_stride +
                                  offset * arguments.prefetches.next_pace / 256 + at);
#pragma GCC unroll 8
            for (std::size_t at = 0; at < Steps * Tokens * Loader::activation_bytes; at += 64)
                Isa::prefetch(values + arguments.prefetches.values_ahead + at);
        }
#pragma GCC unroll 8
        for (std::size_t step = 0; step < Steps; ++step)
            if constexpr (shares_broadcasts<Loader, Panels, Tokens>) {
                const auto codes_of = [&](std::size_t p) NIBBLE_INLINE_LAMBDA {
                    const std::uint8_t* from = codes[p] + offset + step * Loader::bytes;
                    if constexpr (Loader::streams && !makes_requests<Loader, Panels, Tokens>)
                        prefetch_step<Isa, Loader::bytes, Steps>(from, arguments.ahead, step);
                    return from;
                };
                using quad = typename Loader::weights;
                Loader::each_quad(codes_of(0), [&](std::size_t, const quad& first) NIBBLE_INLINE_LAMBDA {
                    Loader::each_quad(codes_of(1), [&](std::size_t, const quad& second) NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 8
                        for (std::size_t t = 0; t < Tokens; ++t) {
                            const std::int8_t* of = values + (step * Tokens + t) * Loader::activation_bytes;
                            Loader::accumulate(s[0][t], first, of);
                            Loader::accumulate(s[1][t], second, of);
                        }
                    });
                });
            } else {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < Panels; ++p) {
                    const std::uint8_t* from = codes[p] + offset + step * Loader::bytes;
                    if constexpr (Loader::streams)
                        prefetch_step<Isa, Loader::bytes, Steps>(from, arguments.ahead, step);
                    Loader::each_quad(from, [&](std::size_t q, const typename Loader::weights& w) NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 8
                        for (std::size_t t = 0; t < Tokens; ++t)
                            Loader::accumulate(s[p][t], w,
                                               values + ((step * Loader::quads + q) * Tokens + t) *
                                                            Loader::activation_bytes);
                    });
                }
            }
        if constexpr (Panels > 1) {
            offset += Steps * Loader::bytes;
            NIBBLE_OPAQUE(offset);
        } else {
            codes[0] += Steps * Loader::bytes;
            NIBBLE_OPAQUE(codes[0]);
        }
        values += Steps * Loader::quads * Tokens * Loader::activation_bytes;
    };
    const auto products = [&](std::size_t quads, sums(&s)[Panels][Tokens][halves]) NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 1
        for (; quads >= quads_at_once; quads -= quads_at_once) steps.template operator()<unroll>(s);
        if constexpr (unroll > 1)
#pragma GCC unroll 1
            for (; quads != 0; quads -= Loader::quads) steps.template operator()<1>(s);
    };
    const auto begin = [](int center, const std::int32_t* pairs, sums(&s)[Panels][Tokens][halves])
                           NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 8
                               for (std::size_t t = 0; t < Tokens; ++t) {
                                   const sums start = Loader::start(pairs + t, center);
#pragma GCC unroll 8
                                   for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 2
                                       for (std::size_t half = 0; half < halves; ++half) s[p][t][half] = start;
                               }
                           };
    // The exact sum of a phase in int32, and that on top of earlier phases. Zeros are stored negative.
    const auto widened = [](const std::int32_t* zeros, const sums& s, const std::int32_t* pair) NIBBLE_INLINE_LAMBDA {
        i32 d = Loader::finish(s);
        if constexpr (Zeros) d = Isa::add_pairs(d, Isa::load_words(zeros), Isa::broadcast2(pair));
        return d;
    };
    const auto add_widened = [](const i32& total, const std::int32_t* zeros, const sums& s, const std::int32_t* pair)
                                 NIBBLE_INLINE_LAMBDA {
                                     i32 d = Loader::add_finished(total, s);
                                     if constexpr (Zeros)
                                         d = Isa::add_pairs(d, Isa::load_words(zeros), Isa::broadcast2(pair));
                                     return d;
                                 };
    // A complete part into the results, by one fma each, with scales per part of the activations and with minimums
    // where there are some: a branch per vector would cost as much as the work.
    const auto join = []<bool Scaled, bool Minimum>(const tile_arguments* given, std::size_t part,
                                                    const auto& total) NIBBLE_INLINE_LAMBDA {
        // Read before the stores to the results, which might change them for all the compiler knows.
        float* const results = given->results;
        const float* const scales = given->scales + part * 16;
        const float* const part_scales = Scaled || Minimum ? given->part_scales : nullptr;
        const float* const minimums = Minimum ? given->minimums : nullptr;
        const float* const part_sums = Minimum ? given->part_sums + part * Tokens : nullptr;
        const std::int32_t* const zeros = Zeros ? given->zeros + part * 16 : nullptr;
        const std::size_t stride = Panels > 1 ? given->scales_stride : 0;
        const std::size_t apart = Panels > 1 ? given->results_stride : 0;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 2
            for (std::size_t half = 0; half < halves; ++half) {
                const std::size_t wide = p * stride + half * lanes;
                const f32 scale = Isa::load(scales + wide);
#pragma GCC unroll 8
                for (std::size_t t = 0; t < Tokens; ++t) {
                    float* to = results + p * apart + t * 16 + half * lanes;
                    const f32 dot = Isa::to_float(total(Zeros ? zeros + wide : nullptr, p, t, half));
                    f32 both = scale;
                    if (Scaled || (Minimum && part_scales != nullptr))
                        both = Isa::multiply(both, Isa::broadcast(part_scales[part * Tokens + t]));
                    f32 r = Isa::fma(dot, both, Isa::load(to));
                    if constexpr (Minimum)
                        r = Isa::fma(Isa::broadcast(part_sums[t]), Isa::load(minimums + part * 16 + wide), r);
                    Isa::store(to, r);
                }
            }
    };
    const auto complete = [&](std::size_t part, const auto& total) NIBBLE_INLINE_LAMBDA {
        const tile_arguments* given = reload(arguments);
        if (given->minimums != nullptr)
            join.template operator()<false, true>(given, part, total);
        else if (given->part_scales != nullptr)
            join.template operator()<true, false>(given, part, total);
        else
            join.template operator()<false, false>(given, part, total);
    };

    for (std::size_t part = 0; part < reload(bounds)->parts; ++part) {
        const tile_range* range = reload(bounds);
        const tile_arguments* given = reload(arguments);
        const bool last_part = part + 1 == range->parts;
        std::size_t left = last_part ? range->last_units : range->part_units;
        const bool resumed = range->resume && part == 0;
        const int center = given->center;
        // All vectors of sums, `apart` floats from panel to panel where they lie in memory.
        const auto each = [](std::size_t apart, const auto& visit) NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 8
                for (std::size_t t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
                    for (std::size_t half = 0; half < halves; ++half)
                        visit(p, t, half, p * apart + t * 16 + half * lanes);
        };
        const auto stored = [given](std::size_t at) NIBBLE_INLINE_LAMBDA {
            return Isa::load(reinterpret_cast<const std::int32_t*>(given->totals) + at);
        };
        // Of a part's sums, to which its zeros have come.
        const auto end_part = [&](bool finished, std::size_t apart,
                                  const i32(&totals)[Panels][Tokens][halves]) NIBBLE_INLINE_LAMBDA {
            if (finished) {
                complete(part, [&](const std::int32_t*, std::size_t p, std::size_t t, std::size_t half)
                                   NIBBLE_INLINE_LAMBDA { return totals[p][t][half]; });
            } else {
                auto* to = reinterpret_cast<std::int32_t*>(reload(arguments)->totals);
                each(apart, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t at)
                                NIBBLE_INLINE_LAMBDA { Isa::store(to + at, totals[p][t][half]); });
            }
        };
        if constexpr (std::is_same_v<sums, i32>) {
            const auto apart = [&]()
                                   NIBBLE_INLINE_LAMBDA { return Panels > 1 ? reload(arguments)->results_stride : 0; };
            // One phase on top of the other, mostly a single one: half the registers, and one copy of all code.
            i32 totals[Panels][Tokens][halves];
            begin(center, pair_sums, totals);
            if (resumed)
                each(apart(), [&](std::size_t p, std::size_t t, std::size_t half, std::size_t at) NIBBLE_INLINE_LAMBDA {
                    totals[p][t][half] = Isa::add(totals[p][t][half], stored(at));
                });
            for (;;) {
                const std::size_t phase_quads = reload(arguments)->phase_quads;
                const std::size_t quads = left < phase_quads ? left : phase_quads;
                left -= quads;
                products(quads, totals);
                if constexpr (Zeros) {
                    const tile_arguments* now = reload(arguments);
                    const std::int32_t* const zeros = now->zeros + part * 16;
                    const std::size_t stride = Panels > 1 ? now->scales_stride : 0;
                    each(0, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t) NIBBLE_INLINE_LAMBDA {
                        totals[p][t][half] =
                            widened(zeros + p * stride + half * lanes, totals[p][t][half], pair_sums + t);
                    });
                }
                pair_sums += Tokens;
                if (left == 0) break;
                each(0, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t) NIBBLE_INLINE_LAMBDA {
                    totals[p][t][half] =
                        Isa::add(totals[p][t][half], Loader::start(pair_sums + t, reload(arguments)->center));
                });
            }
            const tile_range* ends = reload(bounds);
            end_part(part + 1 != ends->parts || ends->ends_part, apart(), totals);
        } else {
            sums s[Panels][Tokens][halves];
            const std::int32_t* pairs = pair_sums;
            pair_sums += given->phases_per_part * Tokens;
            const bool finished = !last_part || range->ends_part;
            if (left <= given->phase_quads && !resumed && finished) { // one phase is all of the part
                begin(center, pairs, s);
                products(left, s);
                complete(part, [&](const std::int32_t* zeros, std::size_t p, std::size_t t, std::size_t half)
                                   NIBBLE_INLINE_LAMBDA { return widened(zeros, s[p][t][half], pairs + t); });
                continue;
            }
            const std::size_t phase_quads = given->phase_quads;
            i32 totals[Panels][Tokens][halves];
            const std::size_t apart = Panels > 1 ? reload(arguments)->results_stride : 0;
            if (resumed)
                each(apart, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t at)
                                NIBBLE_INLINE_LAMBDA { totals[p][t][half] = stored(at); });
            else
                each(apart, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t)
                                NIBBLE_INLINE_LAMBDA { totals[p][t][half] = Isa::zeros(); });
            while (left != 0) {
                const std::size_t quads = left < phase_quads ? left : phase_quads;
                left -= quads;
                begin(center, pairs, s);
                products(quads, s);
                const tile_arguments* now = reload(arguments);
                const std::int32_t* const zeros = Zeros ? now->zeros + part * 16 : nullptr;
                const std::size_t stride = Panels > 1 ? now->scales_stride : 0;
                each(apart, [&](std::size_t p, std::size_t t, std::size_t half, std::size_t) NIBBLE_INLINE_LAMBDA {
                    totals[p][t][half] =
                        add_widened(totals[p][t][half], Zeros ? zeros + p * stride + half * lanes : nullptr,
                                    s[p][t][half], pairs + t);
                });
                pairs += Tokens;
            }
            end_part(finished, apart, totals);
        }
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
