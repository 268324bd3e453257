// kernel/real_tile.hpp: the tiles of fp32: chains of fma over the columns of a part.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Operand loaders as of integer_tile.hpp, by columns: each_column(from, use) gives use(column, the vectors of its 16
// rows) for those of a step. fp32 lanes that unpack_real has made.
template <isa Isa> struct real_loader {
    using isa_type = Isa;
    static constexpr std::size_t columns = 1;
    static constexpr std::size_t bytes = panel_layout::rows * sizeof(float);
    static constexpr std::size_t halves = panel_layout::rows / Isa::width;
    struct weights {
        typename Isa::f32 v[halves];
    };
    template <class Use> static NIBBLE_INLINE void each_column(const std::byte* from, const Use& use) noexcept {
        const auto* lanes = reinterpret_cast<const float*>(from);
        if constexpr (halves == 1)
            use(0, weights{{Isa::load(lanes)}});
        else
            use(0, weights{{Isa::load(lanes), Isa::load(lanes + 8)}});
    }
};
// Codes in the packed stream, decoded in registers.
template <isa Isa, element E> struct packed_real_loader {
    using isa_type = Isa;
    static constexpr std::size_t columns = E::bits > 8 ? 1 : panel_layout::quad* detail::step_quads<E>;
    static constexpr std::size_t bytes = E::bits > 8 ? panel_layout::rows * sizeof(typename E::code)
                                                     : detail::step_bytes<E>;
    static constexpr std::size_t halves = panel_layout::rows / Isa::width;
    struct weights {
        typename Isa::f32 v[halves];
    };
    template <class Use> static NIBBLE_INLINE void each_column(const std::byte* from, const Use& use) noexcept {
        if constexpr (E::bits > 8) {
            const auto* codes = reinterpret_cast<const typename E::code*>(from);
            if constexpr (halves == 1)
                use(0, weights{{Isa::template decode_stored<E>(codes)}});
            else
                use(0, weights{{Isa::template decode_stored<E>(codes), Isa::template decode_stored<E>(codes + 8)}});
        } else if constexpr (halves == 1) {
            spread_panel_lanes<Isa, E::bits>(reinterpret_cast<const std::uint8_t*>(from),
                                             [&](std::size_t q, const typename Isa::bytes& stored)
                                                 NIBBLE_INLINE_LAMBDA {
                                                     const typename Isa::i32 codes = Isa::as_i32(stored);
                                                     use(4 * q, weights{{Isa::template decode<E, 0>(codes)}});
                                                     use(4 * q + 1, weights{{Isa::template decode<E, 8>(codes)}});
                                                     use(4 * q + 2, weights{{Isa::template decode<E, 16>(codes)}});
                                                     use(4 * q + 3, weights{{Isa::template decode<E, 24>(codes)}});
                                                 });
        } else {
            typename Isa::bytes low;
            spread_lanes<Isa, E::bits>(
                reinterpret_cast<const std::uint8_t*>(from),
                [&](std::size_t v, const typename Isa::bytes& stored) NIBBLE_INLINE_LAMBDA {
                    if (v % 2 == 0) {
                        low = stored;
                        return;
                    }
                    const typename Isa::i32 a = Isa::as_i32(low);
                    const typename Isa::i32 b = Isa::as_i32(stored);
                    use(2 * v - 2, weights{{Isa::template decode<E, 0>(a), Isa::template decode<E, 0>(b)}});
                    use(2 * v - 1, weights{{Isa::template decode<E, 8>(a), Isa::template decode<E, 8>(b)}});
                    use(2 * v, weights{{Isa::template decode<E, 16>(a), Isa::template decode<E, 16>(b)}});
                    use(2 * v + 1, weights{{Isa::template decode<E, 24>(a), Isa::template decode<E, 24>(b)}});
                });
        }
    }
};

template <isa Isa, element E> using real_packed_loader = packed_real_loader<decoder_of<Isa, E>, E>;

// As in integer_tile.hpp.
template <class Loader, std::size_t Panels, std::size_t Tokens>
inline constexpr bool real_shares_broadcasts = Panels == 2 && Tokens > 1 && Loader::columns == 1;
template <class Loader, std::size_t Tokens>
inline constexpr bool real_makes_requests = Tokens >= Loader::isa_type::facts.float_tiles.shorter;

// results = fma(sum of a part, scale, results), part by part in order; each sum is one chain of fma over its columns.
template <class Loader, std::size_t Panels, std::size_t Tokens>
NIBBLE_NOINLINE void real_tile(const tile_arguments& arguments, const tile_range& bounds) noexcept {
    using Isa = typename Loader::isa_type;
    using f32 = typename Isa::f32;
    constexpr std::size_t halves = Loader::halves;
    constexpr std::size_t lanes = panel_layout::rows / halves;
    constexpr std::size_t unroll = detail::max_of<std::size_t>(1, (Panels > 1 || Tokens > 4 ? 2 : 4) / Loader::columns);
    const std::byte* weights[Panels];
#pragma GCC unroll 8
    for (std::size_t p = 0; p < Panels; ++p) weights[p] = arguments.weights + p * arguments.weights_stride;
    std::size_t offset = 0;
    const std::ptrdiff_t ahead = arguments.ahead;
    const auto* values = reinterpret_cast<const float*>(arguments.values);
    const auto steps = [&]<std::size_t Steps>(f32(&s)[Panels][Tokens][halves],
                                              const prefetch_plan& requests) NIBBLE_INLINE_LAMBDA {
        if constexpr (real_makes_requests<Loader, Tokens>) {
            const std::byte* next = requests.next + offset * requests.next_pace / 256;
            const std::byte* coming = reinterpret_cast<const std::byte*>(values) + requests.values_ahead;
            NIBBLE_OPAQUE(coming); // or each of its lines takes a register
#pragma GCC unroll 8
            for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 2
                for (std::size_t at = 0; at < Steps * Loader::bytes; at += 64)
                    Isa::prefetch(next + p * requests.next_stride + at);
#pragma GCC unroll 8
            for (std::size_t at = 0; at < Steps * Loader::columns * Tokens * sizeof(float); at += 64)
                Isa::prefetch(coming + at);
        }
        const auto vectors_of = [&](std::size_t p, std::size_t step) NIBBLE_INLINE_LAMBDA {
            const std::byte* from = weights[p] + offset + step * Loader::bytes;
            if constexpr (!real_makes_requests<Loader, Tokens>)
                prefetch_step<Isa, Loader::bytes, Steps>(from, ahead, step);
            return from;
        };
#pragma GCC unroll 8
        for (std::size_t step = 0; step < Steps; ++step) {
            if constexpr (real_shares_broadcasts<Loader, Panels, Tokens>) {
                typename Loader::weights w[Panels];
#pragma GCC unroll 8
                for (std::size_t p = 0; p < Panels; ++p)
                    Loader::each_column(vectors_of(p, step), [&](std::size_t, const typename Loader::weights& column)
                                                                 NIBBLE_INLINE_LAMBDA { w[p] = column; });
#pragma GCC unroll 16
                for (std::size_t t = 0; t < Tokens; ++t) {
                    const f32 x = Isa::broadcast(values[step * Tokens + t]);
#pragma GCC unroll 8
                    for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 2
                        for (std::size_t half = 0; half < halves; ++half) {
                            s[p][t][half] = Isa::fma(x, w[p].v[half], s[p][t][half]);
                            Isa::keep(s[p][t][half]);
                        }
                }
            } else {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < Panels; ++p) {
                    const float* of = values + step * Loader::columns * Tokens;
                    Loader::each_column(vectors_of(p, step),
                                        [&](std::size_t column, const typename Loader::weights& w)
                                            NIBBLE_INLINE_LAMBDA {
#pragma GCC unroll 16
                                                for (std::size_t t = 0; t < Tokens; ++t) {
                                                    const f32 x = Isa::broadcast(of[column * Tokens + t]);
#pragma GCC unroll 2
                                                    for (std::size_t half = 0; half < halves; ++half)
                                                        s[p][t][half] = Isa::fma(x, w.v[half], s[p][t][half]);
                                                }
                                            });
                }
            }
        }
        if constexpr (Panels > 1 || real_makes_requests<Loader, Tokens>) {
            offset += Steps * Loader::bytes;
            NIBBLE_OPAQUE(offset);
        } else {
            weights[0] += Steps * Loader::bytes;
            NIBBLE_OPAQUE(weights[0]);
        }
        values += Steps * Loader::columns * Tokens;
    };
    for (std::size_t part = 0; part < reload(bounds)->parts; ++part) {
        const tile_range* range = reload(bounds);
        const auto* resumed = reinterpret_cast<const float*>(reload(arguments)->totals);
        const bool last_part = part + 1 == range->parts;
        std::size_t columns = last_part ? range->last_units : range->part_units;
        f32 s[Panels][Tokens][halves];
        const bool begun = range->resume && part == 0;
        const std::size_t begun_apart = Panels > 1 ? reload(arguments)->results_stride : 0;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (std::size_t t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < halves; ++half)
                    s[p][t][half] =
                        begun ? Isa::load(resumed + p * begun_apart + t * 16 + half * lanes) : Isa::broadcast(0.0f);
        const prefetch_plan requests = reload(arguments)->prefetches;
#pragma GCC unroll 1
        for (; columns >= unroll * Loader::columns; columns -= unroll * Loader::columns)
            steps.template operator()<unroll>(s, requests);
        if constexpr (unroll > 1)
#pragma GCC unroll 1
            for (; columns != 0; columns -= Loader::columns) steps.template operator()<1>(s, requests);
        const tile_arguments* given = reload(arguments);
        float* const results = given->results;
        auto* const totals = reinterpret_cast<float*>(given->totals);
        const float* const scales = given->scales + part * 16;
        const float* const minimums = given->minimums;
        const float* const part_sums = given->part_sums + part * Tokens;
        const std::size_t stride = Panels > 1 ? given->scales_stride : 0;
        const std::size_t apart = Panels > 1 ? given->results_stride : 0;
        const bool complete = !last_part || range->ends_part;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (std::size_t t = 0; t < Tokens; ++t)
#pragma GCC unroll 2
                for (std::size_t half = 0; half < halves; ++half) {
                    if (!complete) {
                        Isa::store(totals + p * apart + t * 16 + half * lanes, s[p][t][half]);
                        continue;
                    }
                    float* to = results + p * apart + t * 16 + half * lanes;
                    const std::size_t wide = p * stride + half * lanes;
                    f32 r = Isa::fma(s[p][t][half], Isa::load(scales + wide), Isa::load(to));
                    if (minimums != nullptr)
                        r = Isa::fma(Isa::broadcast(part_sums[t]), Isa::load(minimums + part * 16 + wide), r);
                    Isa::store(to, r);
                }
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
