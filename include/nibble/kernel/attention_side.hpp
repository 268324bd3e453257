// kernel/attention_side.hpp: what products with keys and with values have in common: a scheme's numbers as the tiles of gemm take
// them, and which tile that is.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/real_tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::kernel {

// What a panel stores of an element, as an element of its own: for fp32 products with elements of the integer families.
template <element E>
struct panel_element {
    static constexpr int bits = E::bits;
    using code = typename E::code;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return E::decode(static_cast<code>(c ^ panel_flip<E>)); }
};

// From what is read to what is to be read after it, for prefetches: those of the tiles have the same place there.
[[nodiscard]] inline std::ptrdiff_t ahead_of(const std::byte* from, const std::byte* next) noexcept {
    if (next == nullptr) return 0;
    return static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(next) - reinterpret_cast<std::uintptr_t>(from));
}

// How far ahead a tile asks within a stream, which the machine's own prefetcher follows too.
inline constexpr std::ptrdiff_t stream_ahead = 2048;

// Panels that lie one after the other, several at a time: as many streams, each of which goes on from panel to panel, as
// prefetchers of memory have it. run(first panel, how many, panels from one to the next, whether they are the last).
template <class AtOnce, class Run>
NIBBLE_INLINE void for_each_stream(std::size_t panels, const AtOnce& at_once, const Run& run) noexcept {
    for (std::size_t done = 0; done < panels;) {
        const std::size_t streams = at_once(panels - done);
        const std::size_t length = (panels - done) / streams;
        for (std::size_t i = 0; i < length; ++i) run(done + i, streams, length, i + 1 == length && done + streams * length == panels);
        done += streams * length;
    }
}

// How one side multiplies: the element's own way, or in fp32.
template <isa Isa, any_scheme S, bool Integers>
struct attention_side {
    using element = typename S::element_type;
    using traits = detail::scheme_traits<S>;
    static constexpr bool integer = Integers && family_of<Isa, element> != kernel_family::real;
    static constexpr bool wide = integer && gemm_plan<S, Isa>::has_words; // lanes and activations of 8 bits meet as int16
    static constexpr bool flipped = [] {
        if constexpr (element::bits <= 8)
            return panel_flip<element> != 0;
        else
            return false;
    }();
    struct own {
        using type = element;
    };
    struct stored {
        using type = panel_element<element>;
    };
    using real_element = typename std::conditional_t<flipped, stored, own>::type;
    // Lanes are what is stored: nothing to unpack.
    static constexpr bool plain = integer ? gemm_plan<S, Isa>::linear && element::bits == 8 && !wide : element::bits == 32;
    static constexpr std::size_t tile_tokens = integer ? Isa::facts.integer_tiles.longest : Isa::facts.float_tiles.longest;
    static constexpr std::size_t shorter = integer ? Isa::facts.integer_tiles.shorter : Isa::facts.float_tiles.shorter;
    static constexpr std::size_t unit_columns = integer ? panel_layout::quad : 1;
    static constexpr std::size_t lane_bytes = wide ? 128 : 64; // of a unit
    // What the kernel's integers miss of the element's own.
    static constexpr int lane_offset = integer ? detail::lane_offset<element> : 0;
    static constexpr bool has_minimum = traits::has_zero || lane_offset != 0;
    static constexpr float unit = integer ? detail::exp2i(detail::integer_grid_of<element>.exponent) : 1.0f;

    // Tiles unpack in registers for one row, and for one tile of rows where gemm has such tiles; else panels are unpacked once.
    static constexpr bool decoded = !integer && decodes_few_tokens<Isa, real_element>;
    static constexpr bool few_direct = plain || decoded || (integer ? gemm_plan<S, Isa>::few_direct : element::bits > 8);
    [[nodiscard]] static bool unpacks(const token_blocks& rows) noexcept {
        return !plain && rows.tokens > 1 && (!few_direct || rows.count > 1 || (decoded && rows.tokens > shorter));
    }
    // Panels that a single row goes through at once.
    static constexpr std::size_t most_panels = integer ? gemm_plan<S, Isa>::most_panels : 4;
    // And more of them, where a panel's rows are one vector: two share broadcasts, and their sums wait less for one another.
    static constexpr std::size_t few_panels = detail::panel_isa_of<Isa>::width == panel_layout::rows && !wide ? 2 : 1;
    [[nodiscard]] static std::size_t panels_at_once(const token_blocks& rows, std::size_t left) noexcept {
        if (rows.tokens == 1) return left >= most_panels ? most_panels : left >= 2 ? 2 : 1;
        if (decoded && !unpacks(rows)) return 1; // decoders keep the processor busy meanwhile
        return left >= few_panels ? few_panels : 1;
    }

    // The scale and the minimum of `count` slots, a multiple of eight: value = lane x scale + minimum.
    using scale_code = typename traits::scale_code;
    using zero_code = typename traits::zero_code;
    static NIBBLE_INLINE void widen(const scale_code* scales, const zero_code* zeros, std::size_t count, float fixed, float* scale,
                                    float* minimum) noexcept {
        const auto at = [&](std::size_t i) NIBBLE_INLINE_LAMBDA { return has_minimum ? minimum + i : nullptr; };
        std::size_t i = 0;
        if constexpr (widens<detail::panel_isa_of<Isa>>)
            for (; i + 16 <= count; i += 16)
                widen_vector<detail::panel_isa_of<Isa>>(scales + i, zeros + i, fixed, scale + i, at(i));
        for (; i < count; i += 8) widen_vector<Isa>(scales + i, zeros + i, fixed, scale + i, at(i));
    }
    // Has W vectors of 16 of what is stored?
    template <class W, class E>
    static constexpr bool decodes_stored = requires(const typename E::code* codes) {
        { W::template decode_stored<E>(codes) } -> std::same_as<typename W::f32>;
    };
    template <class W>
    static constexpr bool widens = [] {
        if constexpr (W::width != 16)
            return false;
        else
            return (!detail::token_format<S>::stores_scales || decodes_stored<W, typename traits::scale_element>) &&
                   (!S::has_minimum || decodes_stored<W, typename traits::zero_element>);
    }();
    template <class W>
    static NIBBLE_INLINE void widen_vector(const scale_code* scales, const zero_code* zeros, float fixed, float* scale,
                                           float* minimum) noexcept {
        using format = detail::token_format<S>;
        using f32 = typename W::f32;
        f32 s = W::broadcast(S::scaled ? fixed : 1.0f);
        if constexpr (format::stores_scales) {
            s = W::template decode_stored<typename traits::scale_element>(scales);
            if constexpr (S::two_level) s = W::multiply(s, W::broadcast(fixed));
        }
        if constexpr (unit != 1.0f) s = W::multiply(s, W::broadcast(unit));
        if constexpr (has_minimum) {
            f32 m = W::broadcast(static_cast<float>(lane_offset));
            if constexpr (S::has_integer_zero) {
                float z[W::width];
                for (std::size_t i = 0; i < W::width; ++i) z[i] = static_cast<float>(lane_offset - static_cast<int>(zeros[i]));
                m = W::multiply(s, W::load(z));
            } else if constexpr (S::has_minimum) {
                m = W::fma(s, m, W::template decode_stored<typename traits::zero_element>(zeros));
            } else {
                m = W::multiply(s, m);
            }
            W::store(minimum, m);
        }
        W::store(scale, s);
    }

    // Those of any number of slots, in whole vectors of eight.
    static NIBBLE_INLINE void widen_channels(const scale_code* scales, const zero_code* zeros, std::size_t count, float fixed,
                                             float* scale, float* minimum) noexcept {
        const std::size_t whole = count / 8 * 8;
        widen(scales, zeros, whole, fixed, scale, minimum);
        if (whole == count) return;
        scale_code some_scales[8] = {};
        zero_code some_zeros[8] = {};
        __builtin_memcpy(some_scales, scales + whole, (count - whole) * sizeof *scales);
        if constexpr (detail::token_format<S>::stores_zeros)
            __builtin_memcpy(some_zeros, zeros + whole, (count - whole) * sizeof *zeros);
        widen(some_scales, some_zeros, 8, fixed, scale + whole, minimum + whole);
    }

    template <class Source>
    using early = asked_early<Source, element::bits>;
    template <class Lanes>
    using stored_lanes = std::conditional_t<plain, early<Lanes>, Lanes>;

    // One tile: `panels` panels whose codes are `stride` bytes apart, or one whose lanes lie unpacked.
    template <class Arguments>
    static NIBBLE_INLINE void tile(bool unpacked, std::size_t panels, std::size_t tokens, const Arguments& a,
                                   const tile_range& r) noexcept {
        if constexpr (integer) {
            using packed = typename source_of<Isa, S, true, wide>::type;
            using lanes = typename source_of<Isa, S, false, wide>::type;
            one_of<early<packed>, stored_lanes<lanes>>(unpacked, panels, tokens, a, r);
        } else {
            using packed = real_packed_source<Isa, real_element>;
            using lanes = real_source<detail::panel_isa_of<Isa>>;
            one_of<early<packed>, stored_lanes<lanes>>(unpacked, panels, tokens, a, r);
        }
    }
    template <class Packed, class Lanes, class Arguments>
    static NIBBLE_INLINE void one_of(bool unpacked, std::size_t panels, std::size_t tokens, const Arguments& a,
                                     const tile_range& r) noexcept {
        if constexpr (few_panels > 1)
            if (tokens == 1 && panels > 1 && unpacked) return run<Lanes, few_panels, 1>(a, r); // the last of many rows
        if (tokens == 1 && panels > 1) return several<Packed, most_panels, 1>(panels, a, r);
        if constexpr (few_panels > 1)
            if (panels > 1) {
                if constexpr (few_direct && !plain && !decoded)
                    if (!unpacked) return pair<Packed>(tokens, a, r);
                return pair<Lanes>(tokens, a, r);
            }
        if (unpacked || plain)
            single<Lanes>(tokens, a, r);
        else if constexpr (few_direct)
            single<Packed>(tokens, a, r);
        else
            run<Packed, 1, 1>(a, r);
    }
    template <class Source, std::size_t Panels, std::size_t Tokens, class Arguments>
    static NIBBLE_INLINE void run(const Arguments& a, const tile_range& r) noexcept {
        if constexpr (integer)
            integer_tile<Source, Panels, Tokens, false>(a, r);
        else
            real_tile<Source, Panels, Tokens>(a, r);
    }
    template <class Source, class Arguments>
    static NIBBLE_INLINE void pair(std::size_t tokens, const Arguments& a, const tile_range& r) noexcept {
        if constexpr (integer)
            integer_pair_of<Source, false>(tokens, a, r);
        else
            real_pair_of<Source>(tokens, a, r);
    }
    template <class Source, class Arguments>
    static NIBBLE_INLINE void single(std::size_t tokens, const Arguments& a, const tile_range& r) noexcept {
        if constexpr (integer)
            integer_tile_of<Source, false, 1>(tokens, a, r);
        else
            real_tile_of<Source>(tokens, a, r);
    }
    template <class Source, std::size_t Most, std::size_t Tokens, class Arguments>
    static NIBBLE_INLINE void several(std::size_t panels, const Arguments& a, const tile_range& r) noexcept {
        if constexpr (Most > 2)
            if (panels == 2) return run<Source, 2, Tokens>(a, r);
        run<Source, Most, Tokens>(a, r);
    }
    // Codes of `units` quads, or columns, to lanes.
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        const auto* from = reinterpret_cast<const std::uint8_t*>(codes);
        if constexpr (wide)
            unpack_words<Isa, element>(from, units, reinterpret_cast<std::int16_t*>(lanes));
        else if constexpr (integer)
            unpack_integer<Isa, element>(from, units, reinterpret_cast<std::uint8_t*>(lanes));
        else
            unpack_real<Isa, real_element>(from, units, reinterpret_cast<float*>(lanes));
    }
    [[nodiscard]] static activation_layout layout(const detail::depth_plan& depth, const phase_plan& phases,
                                                  std::size_t rows) noexcept {
        return {.depth = depth,
                .phases = phases,
                .blocks = token_blocks::make(rows, tile_tokens, shorter),
                .real = !integer,
                .wide = wide,
                .per_part = false};
    }
    static constexpr std::size_t longest_phase = phase_quads<Isa, element>;

    // What a tile is told of all blocks of rows.
    using arguments = std::conditional_t<integer, integer_tile_arguments, real_tile_arguments>;
    [[nodiscard]] static arguments arguments_of(const activation_layout& l) noexcept {
        arguments a{};
        if constexpr (integer) {
            a.phases_per_part = l.phases.per_part;
            a.phase_quads = l.phases.quads;
            a.center = detail::lane_center<element>;
        }
        return a;
    }
    // And of one, of n rows: codes, or lanes, whose panels are `stride` bytes apart, against the rows from a column on.
    static NIBBLE_INLINE void point(arguments& a, const std::byte* codes, std::size_t stride, const activation_layout& l,
                                    const activation_memory& x, std::size_t column, std::size_t n) noexcept {
        constexpr std::size_t value_bytes = integer ? (wide ? 2 : 1) : sizeof(float);
        a.requests = {.next = codes + a.ahead,
                      .next_stride = stride,
                      .next_pace = 256,
                      .values_ahead = static_cast<std::ptrdiff_t>(n * l.depth.padded * value_bytes)};
        if constexpr (integer) {
            a.codes = reinterpret_cast<const std::uint8_t*>(codes);
            a.codes_stride = stride;
            a.values = x.values + column * n * (wide ? 2 : 1);
            a.pair_sums = x.pair_sums + column / panel_layout::quad / l.phases.quads * n;
        } else {
            a.weights = codes;
            a.weights_stride = stride;
            a.values = x.real_values + column * n;
        }
        a.part_sums = x.part_sums;
    }

    // Memory of rows as the tiles read them.
    [[nodiscard]] static activation_memory take(arena& memory, const activation_layout& l, std::size_t rows) noexcept {
        activation_memory m{};
        if constexpr (integer) {
            m.values = memory.take<std::int8_t>(rows * l.depth.padded * (wide ? 2 : 1));
            m.pair_sums = memory.take<std::int32_t>(rows * l.depth.count * l.phases.per_part);
            m.scales = memory.take<float>(rows);
        } else {
            m.real_values = memory.take<float>(rows * l.depth.padded);
        }
        m.part_sums = memory.take<float>(rows * l.depth.count);
        return m;
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
