// kernel/attention_side.hpp: what products with keys and with values have in common: a scheme's numbers as the tiles of
// gemm take them, and which tile that is.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/family.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// What a panel stores of an element, as an element of its own: for fp32 products with elements of the integer families.
template <element E> struct panel_element {
    static constexpr int bits = E::bits;
    using code = typename E::code;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return E::decode(static_cast<code>(c ^ panel_flip<E>));
    }
};

// How one side multiplies: the element's own way, or in fp32.
template <isa Isa, any_scheme S, bool Integers> struct attention_side {
    using element = typename S::element_type;
    using traits = detail::scheme_traits<S>;
    using own_family = family_of<Isa, element>;
    // Attention makes bytes or words of its numbers by itself; of other orders it knows nothing.
    static constexpr bool integer = Integers && has_tile_sources<own_family> &&
                                    (own_family::order == byte_quads || own_family::order == word_quads);
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
    using family = std::conditional_t<integer, own_family, float32_family<Isa, real_element>>;
    static constexpr bool wide = family::order == word_quads; // lanes and activations of 8 bits meet as int16
    static constexpr bool plain = family::lanes_are_codes;
    static constexpr std::size_t unit_columns = family::unit_columns;
    static constexpr std::size_t lane_bytes = family::lane_bytes; // of a unit
    // What the kernel's integers miss of the element's own.
    static constexpr int lane_offset = family::lane_offset;
    static constexpr bool has_minimum = traits::has_zero || lane_offset != 0;
    static constexpr float unit = family::unit;

    // Tiles unpack in registers for one row, and for one tile of rows where gemm has such tiles; else panels are
    // unpacked once.
    static constexpr bool few_packed = plain || family::few_packed;
    [[nodiscard]] static bool unpacks(const token_blocks& rows) noexcept {
        return !plain && rows.tokens > 1 &&
               (!few_packed || rows.count > 1 || (family::decoded && rows.tokens > family::tiles.shorter));
    }
    // Panels that a single row goes through at once.
    static constexpr std::size_t most_panels = family::most_panels;
    // And more of them, where a panel's rows are one vector: two share broadcasts, and their sums wait less for one
    // another.
    static constexpr std::size_t few_panels = family::in_pairs(false) ? 2 : 1;
    [[nodiscard]] static std::size_t panels_at_once(const token_blocks& rows, std::size_t left) noexcept {
        if (rows.tokens == 1) return left >= most_panels ? most_panels : left >= 2 ? 2 : 1;
        return left >= few_panels && family::in_pairs(!unpacks(rows)) ? few_panels : 1;
    }

    // The scale and the minimum of `count` groups, a multiple of eight: value = lane x scale + minimum.
    using scale_code = typename traits::scale_code;
    using zero_code = typename traits::zero_code;
    static NIBBLE_INLINE void decode_scales(const scale_code* scales, const zero_code* zeros, std::size_t count,
                                            float fixed, float* scale, float* minimum) noexcept {
        const auto at = [&](std::size_t i) NIBBLE_INLINE_LAMBDA { return has_minimum ? minimum + i : nullptr; };
        std::size_t i = 0;
        if constexpr (widens<detail::panel_isa_of<Isa>>)
            for (; i + 16 <= count; i += 16)
                widen_vector<detail::panel_isa_of<Isa>>(scales + i, zeros + i, fixed, scale + i, at(i));
        for (; i < count; i += 8) widen_vector<Isa>(scales + i, zeros + i, fixed, scale + i, at(i));
    }
    template <class W>
    static constexpr bool widens = [] {
        if constexpr (W::width != 16)
            return false;
        else
            return (!detail::token_format<S>::stores_scales || decodes_sixteen<W, typename traits::scale_element>)&&(
                !S::has_minimum || decodes_sixteen<W, typename traits::zero_element>);
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
                for (std::size_t i = 0; i < W::width; ++i)
                    z[i] = static_cast<float>(lane_offset - static_cast<int>(zeros[i]));
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

    // Those of any number of groups, in whole vectors of eight.
    static NIBBLE_INLINE void decode_channel_scales(const scale_code* scales, const zero_code* zeros, std::size_t count,
                                                    float fixed, float* scale, float* minimum) noexcept {
        const std::size_t whole = count / 8 * 8;
        decode_scales(scales, zeros, whole, fixed, scale, minimum);
        if (whole == count) return;
        scale_code some_scales[8] = {};
        zero_code some_zeros[8] = {};
        __builtin_memcpy(some_scales, scales + whole, (count - whole) * sizeof *scales);
        if constexpr (detail::token_format<S>::stores_zeros)
            __builtin_memcpy(some_zeros, zeros + whole, (count - whole) * sizeof *zeros);
        decode_scales(some_scales, some_zeros, 8, fixed, scale + whole, minimum + whole);
    }

    // What streams from memory is prefetched as such.
    template <class Loader> using streamed = streamed_loader<Loader, element::bits>;
    using packed_loader = streamed<typename family::packed_loader>;
    using lanes_loader =
        std::conditional_t<plain, streamed<typename family::lanes_loader>, typename family::lanes_loader>;

    // One tile: `panels` panels whose codes are `stride` bytes apart, or one whose lanes lie unpacked.
    static NIBBLE_INLINE void tile(bool unpacked, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                   const tile_range& r) noexcept {
        if constexpr (few_panels > 1)
            if (tokens == 1 && panels > 1 && unpacked)
                return run<lanes_loader, few_panels>(a, r); // the last of many rows
        if (tokens == 1 && panels > 1) {
            if constexpr (most_panels > 2)
                if (panels == 2) return run<packed_loader, 2>(a, r);
            return run<packed_loader, most_panels>(a, r);
        }
        tile_ladder<family, false>::template rows<packed_loader, lanes_loader, true>(!unpacked, panels, tokens, a, r);
    }
    // Codes of `units` quads, or columns, to lanes.
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        family::unpack(codes, units, lanes);
    }
    [[nodiscard]] static activation_layout layout(const detail::depth_plan& depth, const phase_plan& phases,
                                                  std::size_t rows) noexcept {
        return {.depth = depth,
                .phases = phases,
                .blocks = token_blocks::make(rows, family::tiles.longest, family::tiles.shorter),
                .order = family::order,
                .per_part = false};
    }
    static constexpr std::size_t longest_phase = family::phase_units;

    // What a tile is told of all blocks of rows.
    [[nodiscard]] static tile_arguments arguments_of(const activation_layout& l) noexcept {
        tile_arguments a{};
        if constexpr (integer) {
            a.phases_per_part = l.phases.per_part;
            a.phase_quads = l.phases.quads;
            a.center = detail::lane_center<element>;
        }
        return a;
    }
    // And of one, of n rows: codes, or lanes, whose panels are `stride` bytes apart, against the rows from a column on.
    static NIBBLE_INLINE void point(tile_arguments& a, const std::byte* codes, std::size_t stride,
                                    const activation_layout& l, const activation_memory& x, std::size_t column,
                                    std::size_t n) noexcept {
        constexpr std::size_t value_bytes = family::order.value_bytes;
        a.prefetches = {.next = codes + a.ahead,
                        .next_stride = stride,
                        .next_pace = 256,
                        .values_ahead = static_cast<std::ptrdiff_t>(n * l.depth.padded * value_bytes)};
        a.weights = codes;
        a.weights_stride = stride;
        a.values = x.values + column * n * value_bytes;
        if constexpr (integer) a.pair_sums = x.pair_sums + column / panel_layout::quad / l.phases.quads * n;
        a.part_sums = x.part_sums;
    }

private:
    template <class Loader, std::size_t Panels>
    static NIBBLE_INLINE void run(const tile_arguments& a, const tile_range& r) noexcept {
        family::template tile<Loader, Panels, 1, false>(a, r);
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
