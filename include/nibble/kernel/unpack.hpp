// kernel/unpack.hpp: steps of packed codes to byte, int16 or fp32 lanes, and scales to fp32; what a kernel does once
// per panel before it multiplies.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// spread_lanes of codes of an odd number of bits: four quads with a plane of single bits at the end.
template <isa Isa, int Bits, class Put>
NIBBLE_INLINE void spread_lanes_with_bits(const std::uint8_t* in, const Put& put) noexcept {
    using bytes = typename Isa::bytes;
    constexpr int low = Bits - 1;
    constexpr std::size_t last = detail::step_bytes_of(Bits) - 32;
    const bytes bit = Isa::load_bytes(in + last);
    const auto lower = [&](std::size_t q, bytes& a, bytes& b) NIBBLE_INLINE_LAMBDA {
        if constexpr (low >= 4) {
            const bytes v = Isa::load_bytes(in + 32 * q);
            a = Isa::low_nibbles(v);
            b = Isa::high_nibbles(v);
        }
        if constexpr (low == 6) {
            const bytes v = Isa::load_bytes(in + 128 + 32 * (q / 2));
            a = Isa::template join<4>(a, q % 2 == 0 ? Isa::template field<0, 3>(v) : Isa::template field<4, 3>(v));
            b = Isa::template join<4>(b, q % 2 == 0 ? Isa::template field<2, 3>(v) : Isa::template field<6, 3>(v));
        }
        if constexpr (low == 2) {
            const bytes v = Isa::load_bytes(in + 32 * (q / 2));
            a = q % 2 == 0 ? Isa::template field<0, 3>(v) : Isa::template field<4, 3>(v);
            b = q % 2 == 0 ? Isa::template field<2, 3>(v) : Isa::template field<6, 3>(v);
        }
    };
    const auto quad = [&]<std::size_t Q>() NIBBLE_INLINE_LAMBDA {
        if constexpr (low == 0) {
            put(2 * Q, Isa::template field<2 * Q, 1>(bit));
            put(2 * Q + 1, Isa::template field<2 * Q + 1, 1>(bit));
        } else {
            bytes a;
            bytes b;
            lower(Q, a, b);
            put(2 * Q, Isa::template join<low>(a, Isa::template field<2 * Q, 1>(bit)));
            put(2 * Q + 1, Isa::template join<low>(b, Isa::template field<2 * Q + 1, 1>(bit)));
        }
    };
    quad.template operator()<0>();
    quad.template operator()<1>();
    quad.template operator()<2>();
    quad.template operator()<3>();
}

// Codes of one step as stored, one per byte: quad q's vectors A and B through put(2q) and put(2q + 1).
template <isa Isa, int Bits, class Put>
NIBBLE_INLINE void spread_lanes(const std::uint8_t* in, const Put& put) noexcept {
    using bytes = typename Isa::bytes;
    if constexpr (Bits == 8) {
        put(0, Isa::load_bytes(in));
        put(1, Isa::load_bytes(in + 32));
    } else if constexpr (Bits == 4) {
        const bytes v = Isa::load_bytes(in);
        put(0, Isa::low_nibbles(v));
        put(1, Isa::high_nibbles(v));
    } else if constexpr (Bits == 2) {
        const bytes v = Isa::load_bytes(in);
        put(0, Isa::template field<0, 3>(v));
        put(1, Isa::template field<2, 3>(v));
        put(2, Isa::template field<4, 3>(v));
        put(3, Isa::template field<6, 3>(v));
    } else if constexpr (Bits == 6) {
        const bytes top = Isa::load_bytes(in + 64);
        const bytes v0 = Isa::load_bytes(in);
        const bytes v1 = Isa::load_bytes(in + 32);
        put(0, Isa::template join<4>(Isa::low_nibbles(v0), Isa::template field<0, 3>(top)));
        put(1, Isa::template join<4>(Isa::high_nibbles(v0), Isa::template field<2, 3>(top)));
        put(2, Isa::template join<4>(Isa::low_nibbles(v1), Isa::template field<4, 3>(top)));
        put(3, Isa::template join<4>(Isa::high_nibbles(v1), Isa::template field<6, 3>(top)));
    } else {
        spread_lanes_with_bits<Isa, Bits>(in, put);
    }
}

// The same for vectors that hold both A and B: quad q's through put(q).
template <isa Isa, int Bits, class Put>
NIBBLE_INLINE void spread_panel_lanes(const std::uint8_t* in, const Put& put) noexcept {
    using bytes = typename Isa::bytes;
    if constexpr (Bits == 8) {
        put(0, Isa::load_bytes(in));
    } else {
        // Two bits of a quad, from a plane whose 32 bytes are those of two quads.
        const auto pair = []<std::size_t Q>(const std::uint8_t* plane) NIBBLE_INLINE_LAMBDA {
            if constexpr (Q % 2 == 0)
                return Isa::template fields<0, 2, 3>(plane + 32 * (Q / 2));
            else
                return Isa::template fields<4, 6, 3>(plane + 32 * (Q / 2));
        };
        const auto quad = [&]<std::size_t Q>() NIBBLE_INLINE_LAMBDA {
            constexpr std::size_t quads = detail::step_quads_of(Bits);
            bytes lanes;
            if constexpr (Bits >= 4) lanes = Isa::template fields<0, 4, 15>(in + 32 * Q);
            if constexpr (Bits >= 6) lanes = Isa::template join<4>(lanes, pair.template operator()<Q>(in + 32 * quads));
            if constexpr (Bits == 2 || Bits == 3) lanes = pair.template operator()<Q>(in);
            if constexpr (Bits % 2 == 1) {
                const bytes bit = Isa::template fields<2 * Q, 2 * Q + 1, 1>(in + detail::step_bytes_of(Bits) -
                                                                            panel_layout::rows * 2);
                if constexpr (Bits == 1)
                    lanes = bit;
                else
                    lanes = Isa::template join<Bits - 1>(lanes, bit);
            }
            put(Q, lanes);
        };
        [&]<std::size_t... Q>(std::index_sequence<Q...>) NIBBLE_INLINE_LAMBDA {
            (quad.template operator()<Q>(), ...);
        }(std::make_index_sequence<detail::step_quads_of(Bits)>{});
    }
}

// The integer lanes of a stored vector of codes: see detail::lane_table.
template <isa Isa, element E>
[[nodiscard]] NIBBLE_INLINE typename Isa::bytes to_lanes(const typename Isa::bytes& stored) noexcept {
    if constexpr (detail::integer_mapping_of<E>.linear)
        return stored;
    else
        return Isa::template lookup<detail::lane_table<E>.size>(detail::lane_table<E>, stored);
}

// `quads` quads (whole steps) of codes to 64 integer lanes each.
template <isa Isa, element E>
NIBBLE_NOINLINE void unpack_integer(const std::uint8_t* in, std::size_t quads, std::uint8_t* out) noexcept {
    constexpr std::size_t step = detail::step_quads<E>;
    for (std::size_t q = 0; q < quads; q += step, in += detail::step_bytes<E>, out += 64 * step) {
        Isa::prefetch(in + 1024);
        spread_lanes<Isa, E::bits>(in, [&](std::size_t v, const typename Isa::bytes& codes) NIBBLE_INLINE_LAMBDA {
            Isa::store_bytes(out + 32 * v, to_lanes<Isa, E>(codes));
        });
    }
}

template <isa Isa> NIBBLE_INLINE void store_widened(const typename Isa::bytes& lanes, std::int16_t* out) noexcept {
    Isa::store_words(out, Isa::even_words(lanes));
    Isa::store_words(out + 16, Isa::odd_words(lanes));
}

// The same lanes as int16: per quad A's columns 0 and 2 of each row, A's 1 and 3, B's 0 and 2, B's 1 and 3. The codes
// have been asked for before: what a burst asks for ahead of its end only makes it wait.
template <isa Isa, element E>
NIBBLE_NOINLINE void unpack_words(const std::uint8_t* in, std::size_t quads, std::int16_t* out) noexcept {
    constexpr std::size_t step = detail::step_quads<E>;
    for (std::size_t q = 0; q < quads; q += step, in += detail::step_bytes<E>, out += 64 * step) {
        spread_lanes<Isa, E::bits>(in, [&](std::size_t v, const typename Isa::bytes& codes) NIBBLE_INLINE_LAMBDA {
            store_widened<Isa>(to_lanes<Isa, E>(codes), out + 32 * v);
        });
    }
}
// Of byte lanes that lie there already.
template <isa Isa>
NIBBLE_INLINE void widen_lanes(const std::uint8_t* in, std::size_t quads, std::int16_t* out) noexcept {
    for (std::size_t v = 0; v < 2 * quads; ++v) store_widened<Isa>(Isa::load_bytes(in + 32 * v), out + 32 * v);
}

// What decodes an element to fp32: whole panels at once if the ISA can.
template <isa Isa, element E>
using decoder_of = std::conditional_t<detail::panel_isa_of<Isa>::template decodes<E>, detail::panel_isa_of<Isa>, Isa>;

// `columns` columns (whole steps) of codes to [column][16 rows] fp32.
template <isa Given, element E>
NIBBLE_NOINLINE void unpack_real(const std::uint8_t* in, std::size_t columns, float* out) noexcept {
    using Isa = decoder_of<Given, E>;
    constexpr std::size_t width = Isa::width;
    if constexpr (E::bits > 8) {
        const auto* codes = reinterpret_cast<const typename E::code*>(in);
        for (std::size_t k = 0; k < columns; ++k, codes += 16, out += 16) {
            Isa::prefetch(reinterpret_cast<const std::uint8_t*>(codes) + 1024);
            for (std::size_t half = 0; half < 16; half += width)
                Isa::store(out + half, Isa::template decode_stored<E>(codes + half));
        }
    } else {
        constexpr std::size_t step = detail::step_quads<E>;
        const auto quad = [](const typename Isa::bytes& stored, float* to) NIBBLE_INLINE_LAMBDA {
            const typename Isa::i32 codes = Isa::as_i32(stored);
            Isa::store(to, Isa::template decode<E, 0>(codes));
            Isa::store(to + 16, Isa::template decode<E, 8>(codes));
            Isa::store(to + 32, Isa::template decode<E, 16>(codes));
            Isa::store(to + 48, Isa::template decode<E, 24>(codes));
        };
        for (std::size_t k = 0; k < columns; k += 4 * step, in += detail::step_bytes<E>, out += 64 * step) {
            Isa::prefetch(in + 1024);
            if constexpr (width == panel_layout::rows)
                spread_panel_lanes<Isa, E::bits>(in, [&](std::size_t q, const typename Isa::bytes& stored)
                                                         NIBBLE_INLINE_LAMBDA { quad(stored, out + 64 * q); });
            else
                spread_lanes<Isa, E::bits>(in,
                                           [&](std::size_t v, const typename Isa::bytes& stored) NIBBLE_INLINE_LAMBDA {
                                               quad(stored, out + 64 * (v / 2) + 8 * (v % 2));
                                           });
        }
    }
}

// Has W vectors of 16 of what is stored as E?
template <class W, class E>
inline constexpr bool decodes_sixteen = W::width == panel_layout::rows && requires(const typename E::code* codes) {
    { W::template decode_stored<E>(codes) } -> std::same_as<typename W::f32>;
};
// What decodes all of several elements that scales are stored in: the 16 rows at once if the ISA can.
template <isa Isa, element... E>
using stored_decoder_of =
    std::conditional_t<(decodes_sixteen<detail::panel_isa_of<Isa>, E> && ...), detail::panel_isa_of<Isa>, Isa>;

// visit(from, to, group) for the parts [from, to) under each outer scale, of parts [first, first + parts).
template <any_scheme S, class Visit>
NIBBLE_INLINE void for_each_outer_group(const packed_view<S>& w, std::size_t first, std::size_t parts,
                                        const Visit& visit) {
    const detail::depth_plan& depth = w.depth();
    const std::size_t outer_size = detail::scheme_traits<S>::outer_granularity::group_size(w.cols());
    const std::size_t end = first + parts;
    for (std::size_t from = first; from < end;) {
        const std::size_t group = depth.column(from) / outer_size; // one division for all parts under it
        std::size_t to = from + 1;
        while (to < end && depth.column(to) < (group + 1) * outer_size) ++to;
        visit(from, to, group);
        from = to;
    }
}

// Scales of parts [first, first + parts) of a panel as fp32, [part][16]: inner x outer where outer scales differ along
// a row, times the unit of the family's lanes.
template <isa Given, class Family, any_scheme S>
inline void decode_scales(const packed_view<S>& w, const std::byte* panel, std::size_t first, std::size_t parts,
                          float* out) noexcept {
    using traits = detail::scheme_traits<S>;
    constexpr float unit = Family::unit;
    constexpr std::size_t rows = panel_layout::rows;
    if constexpr (!S::scaled) {
        for (std::size_t i = 0; i < parts * rows; i += 8) Given::store(out + i, Given::broadcast(unit));
    } else {
        const auto* codes = reinterpret_cast<const typename traits::scale_code*>(panel + w.sections().scales);
        const detail::depth_plan& depth = w.depth();
        if constexpr (S::two_level) {
            if (!packed_shape<S>::outer_is_factor(w.cols())) {
                using outer_element = typename traits::outer_element;
                using Isa = stored_decoder_of<Given, typename traits::scale_element, outer_element>;
                const auto* outers = reinterpret_cast<const typename traits::outer_code*>(panel + w.sections().outer);
                for_each_outer_group(
                    w, first, parts, [&](std::size_t from, std::size_t to, std::size_t group) NIBBLE_INLINE_LAMBDA {
                        typename Isa::f32 outer[rows / Isa::width];
                        for (std::size_t at = 0; at < rows; at += Isa::width)
                            outer[at / Isa::width] =
                                Isa::template decode_stored<outer_element>(outers + group * rows + at);
                        for (std::size_t part = from; part < to; ++part, out += rows) {
                            const auto* inner = codes + depth.scale_of(part) * rows;
                            for (std::size_t at = 0; at < rows; at += Isa::width) {
                                typename Isa::f32 s = Isa::multiply(
                                    Isa::template decode_stored<typename traits::scale_element>(inner + at),
                                    outer[at / Isa::width]);
                                if constexpr (S::has_offset) {
                                    Isa::keep(s); // the product is rounded by itself
                                    s = Isa::add(s, Isa::broadcast(w.offset()));
                                }
                                if constexpr (unit != 1.0f) s = Isa::multiply(s, Isa::broadcast(unit));
                                Isa::store(out + at, s);
                            }
                        }
                    });
                return;
            }
        }
        using Isa = stored_decoder_of<Given, typename traits::scale_element>;
        const auto decode = [&](std::size_t group, float* to) NIBBLE_INLINE_LAMBDA {
            for (std::size_t at = 0; at < rows; at += Isa::width) {
                typename Isa::f32 s =
                    Isa::template decode_stored<typename traits::scale_element>(codes + group * rows + at);
                if constexpr (unit != 1.0f) s = Isa::multiply(s, Isa::broadcast(unit));
                Isa::store(to + at, s);
            }
        };
        if (depth.parts_per_group == 1) { // a part, a scale: one stretch of codes
#pragma GCC unroll 2
            for (std::size_t i = 0; i < parts; ++i) decode(first + i, out + i * rows);
        } else {
            for (std::size_t i = 0; i < parts; ++i) decode(depth.scale_of(first + i), out + i * rows);
        }
    }
}

// Minimums of those parts as fp32, [part][16].
template <isa Given, any_scheme S>
inline void decode_minimums(const packed_view<S>& w, const std::byte* panel, std::size_t first, std::size_t parts,
                            float* out) noexcept {
    using traits = detail::scheme_traits<S>;
    using zero_element = typename traits::zero_element;
    constexpr std::size_t rows = panel_layout::rows;
    const detail::depth_plan& depth = w.depth();
    const auto* codes = reinterpret_cast<const typename traits::zero_code*>(panel + w.sections().zeros);
    if constexpr (S::has_two_level_minimum) {
        using outer_element = typename traits::outer_zero_element;
        using Isa = stored_decoder_of<Given, zero_element, outer_element>;
        const auto* outers =
            reinterpret_cast<const typename traits::outer_zero_code*>(panel + w.sections().outer_zeros);
        for_each_outer_group(
            w, first, parts, [&](std::size_t from, std::size_t to, std::size_t group) NIBBLE_INLINE_LAMBDA {
                typename Isa::f32 outer[rows / Isa::width]; // -(inner x outer), in one rounding
                for (std::size_t at = 0; at < rows; at += Isa::width)
                    outer[at / Isa::width] = Isa::multiply(
                        Isa::template decode_stored<outer_element>(outers + group * rows + at), Isa::broadcast(-1.0f));
                for (std::size_t part = from; part < to; ++part, out += rows)
                    for (std::size_t at = 0; at < rows; at += Isa::width)
                        Isa::store(out + at, Isa::multiply(Isa::template decode_stored<zero_element>(
                                                               codes + depth.scale_of(part) * rows + at),
                                                           outer[at / Isa::width]));
            });
    } else {
        using Isa = stored_decoder_of<Given, zero_element>;
        for (std::size_t part = first; part < first + parts; ++part, out += rows)
            for (std::size_t at = 0; at < rows; at += Isa::width)
                Isa::store(out + at,
                           Isa::template decode_stored<zero_element>(codes + depth.scale_of(part) * rows + at));
    }
}

// What comes on top of each lane of an unsigned element, given its centre, twice as int16 in an int32, [part][16]:
// offset - zero, so that centred lane + this = code - zero.
[[nodiscard]] NIBBLE_INLINE std::int32_t zero_pair(int value) noexcept {
    const std::uint32_t one = static_cast<std::uint16_t>(value);
    return static_cast<std::int32_t>(one | (one << 16));
}
template <any_scheme S>
    requires(S::has_integer_zero)
inline void widen_zeros(const packed_view<S>& w, const std::byte* panel, std::size_t first, std::size_t parts,
                        std::int32_t* out) noexcept {
    using traits = detail::scheme_traits<S>;
    constexpr int offset = detail::lane_offset<typename traits::element>;
    const auto* zeros = reinterpret_cast<const std::uint8_t*>(panel + w.sections().zeros);
    for (std::size_t part = first; part < first + parts; ++part, out += panel_layout::rows) {
        // A copy of its own: a byte may alias anything, which would keep the loop scalar.
        std::uint8_t from[panel_layout::rows];
        __builtin_memcpy(from, zeros + w.depth().scale_of(part) * panel_layout::rows, sizeof from);
        for (std::size_t r = 0; r < panel_layout::rows; ++r) out[r] = zero_pair(offset - from[r]);
    }
}
// Of schemes without zero points, for any `parts` parts.
template <element E> NIBBLE_INLINE void fill_zeros(std::size_t parts, std::int32_t* out) noexcept {
    for (std::size_t i = 0; i < parts * panel_layout::rows; ++i) out[i] = zero_pair(detail::lane_offset<E>);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
