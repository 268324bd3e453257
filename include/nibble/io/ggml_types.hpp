// ggml_types.hpp: every tensor type of GGUF that a scheme carries, and rows of its blocks into that scheme, back, and
// to fp32.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/ggml_block.hpp>
#include <nibble/io/ggml_plain_types.hpp>
#include <nibble/io/ggml_super_types.hpp>
#include <nibble/io/ggml_ternary_types.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

template <ggml_type... Types> struct ggml_type_list {
    static constexpr std::size_t size = sizeof...(Types);
};

using ggml_types =
    ggml_type_list<ggml_q4_0, ggml_q4_1, ggml_q5_0, ggml_q5_1, ggml_q8_0, ggml_q8_1, ggml_q2_k, ggml_q3_k, ggml_q4_k,
                   ggml_q5_k, ggml_q6_k, ggml_q8_k, ggml_iq4_nl, ggml_iq4_xs, ggml_tq1_0, ggml_tq2_0, ggml_mxfp4,
                   ggml_nvfp4, ggml_q1_0, ggml_q2_0, ggml_pq2_0, ggml_ptq1_0, ggml_q6_0, ggml_iq1_bn, ggml_iq2_bn>;

// Calls visit.template operator()<Type>() for every type of the list, in order.
template <class Visit, class... Types> constexpr void for_each_ggml_type(ggml_type_list<Types...>, Visit&& visit) {
    (visit.template operator()<Types>(), ...);
}
template <class Visit> constexpr void for_each_ggml_type(Visit&& visit) {
    for_each_ggml_type(ggml_types{}, visit);
}

namespace detail {

// Blocks whose rows open with the scale that all of them share.
template <ggml_type Type> inline constexpr bool scale_in_row = ggml_block_of<Type>.row_bytes != 0;

template <ggml_type Type> [[nodiscard]] constexpr std::size_t ggml_row_bytes(std::size_t cols) noexcept {
    constexpr const gguf_block& block = ggml_block_of<Type>;
    return block.row_bytes + cols / block.elements * block.bytes;
}

// What stands before the blocks of a row, if anything.
template <ggml_type Type> NIBBLE_INLINE void read_row_scale(const std::uint8_t* row, typename Type::parts& p) noexcept {
    if constexpr (ggml_block_of<Type>.row_bytes == 2) p.scales[0] = get16(row);
    if constexpr (ggml_block_of<Type>.row_bytes == 4) p.scales[0] = get32(row);
}
template <ggml_type Type>
NIBBLE_INLINE void write_row_scale(const typename Type::parts& p, std::uint8_t* row) noexcept {
    if constexpr (ggml_block_of<Type>.row_bytes == 2) put16(row, p.scales[0]);
    if constexpr (ggml_block_of<Type>.row_bytes == 4) put32(row, p.scales[0]);
}

// Parts of the block whose first weight is (row, col) to their places in a quantized matrix, and from there.
template <any_scheme S, std::size_t Elements>
inline void store_parts(const ggml_parts<S, Elements>& p, std::size_t row, std::size_t col,
                        quantized<S>& out) noexcept {
    using traits = scheme_traits<S>;
    constexpr std::size_t bits = static_cast<std::size_t>(traits::element::bits);
    squeeze_codes<traits::element::bits>(p.codes, Elements, out.row_codes(row) + col * bits / 8);
    const std::size_t group = traits::granularity::index(row, col, out.cols());
    for (std::size_t s = 0; s < p.groups; ++s) {
        out.scales()[group + s] = p.scales[s];
        if constexpr (traits::has_zero) out.zeros()[group + s] = p.zeros[s];
    }
    if constexpr (S::two_level) out.outer_scales()[traits::outer_granularity::index(row, col, out.cols())] = p.outer;
    if constexpr (S::has_two_level_minimum)
        out.outer_zeros()[traits::outer_granularity::index(row, col, out.cols())] = p.outer_zero;
}
template <any_scheme S, std::size_t Elements>
inline void load_parts(const quantized<S>& in, std::size_t row, std::size_t col, ggml_parts<S, Elements>& p) noexcept {
    using traits = scheme_traits<S>;
    constexpr std::size_t bits = static_cast<std::size_t>(traits::element::bits);
    spread_codes<traits::element::bits>(in.row_codes(row) + col * bits / 8, Elements, p.codes);
    const std::size_t group = traits::granularity::index(row, col, in.cols());
    for (std::size_t s = 0; s < p.groups; ++s) {
        p.scales[s] = in.scales()[group + s];
        if constexpr (traits::has_zero) p.zeros[s] = in.zeros()[group + s];
    }
    if constexpr (S::two_level) p.outer = in.outer_scales()[traits::outer_granularity::index(row, col, in.cols())];
    if constexpr (S::has_two_level_minimum)
        p.outer_zero = in.outer_zeros()[traits::outer_granularity::index(row, col, in.cols())];
}

// What codes alone mean. Arithmetic where the grid allows it: a table in memory would keep the loop from vectorizing.
template <element E> [[nodiscard]] NIBBLE_INLINE float plain_value(std::uint8_t code) noexcept {
    constexpr integer_mapping g = integer_mapping_of<E>;
    if constexpr (g.linear && g.exponent == 0)
        return static_cast<float>((static_cast<int>(code) ^ g.flip) + g.low);
    else
        return decode_table<E>.at[code];
}

// The values of a block, by the formulas of quantized.hpp.
template <any_scheme S, std::size_t Elements>
NIBBLE_INLINE void decode_parts(const ggml_parts<S, Elements>& p, float* to) noexcept {
    using traits = scheme_traits<S>;
    constexpr std::size_t group_size = ggml_parts<S, Elements>::group_size;
    float plain[Elements]; // in a loop of its own, which is longer than that over a group
    for (std::size_t i = 0; i < Elements; ++i) plain[i] = plain_value<typename traits::element>(p.codes[i]);
    for (std::size_t s = 0; s < p.groups; ++s) {
        float scale = traits::scale_element::decode(p.scales[s]);
        float zero = 0.0f;
        if constexpr (S::two_level) scale = two_level_product<S>(scale, traits::outer_element::decode(p.outer), 0.0f);
        if constexpr (S::has_minimum) zero = traits::zero_element::decode(p.zeros[s]);
        if constexpr (S::has_two_level_minimum) zero = -(zero * traits::outer_zero_element::decode(p.outer_zero));
        for (std::size_t i = 0; i < group_size; ++i) {
            if constexpr (S::has_minimum)
                to[s * group_size + i] = fused_multiply_add(scale, plain[s * group_size + i], zero);
            else
                to[s * group_size + i] = scale * plain[s * group_size + i];
        }
    }
}

// One row of `cols` weights, a multiple of the block's.
template <ggml_type Type> void decode_ggml_row(const std::byte* row, std::size_t cols, float* to) noexcept {
    const auto* from = reinterpret_cast<const std::uint8_t*>(row);
    typename Type::parts p;
    read_row_scale<Type>(from, p);
    from += ggml_block_of<Type>.row_bytes;
    for (std::size_t col = 0; col < cols; col += p.elements, from += ggml_block_of<Type>.bytes) {
        Type::read(from, p);
        decode_parts(p, to + col);
    }
}
template <ggml_type Type>
void read_ggml_row(const std::byte* row, std::size_t at, quantized<typename Type::scheme>& out) noexcept {
    const auto* from = reinterpret_cast<const std::uint8_t*>(row);
    typename Type::parts p;
    read_row_scale<Type>(from, p);
    from += ggml_block_of<Type>.row_bytes;
    for (std::size_t col = 0; col < out.cols(); col += p.elements, from += ggml_block_of<Type>.bytes) {
        Type::read(from, p);
        store_parts(p, at, col, out);
    }
}
// False if the type cannot write what the row holds.
template <ggml_type Type>
[[nodiscard]] bool write_ggml_row(const quantized<typename Type::scheme>& in, std::size_t at, std::byte* row) noexcept {
    auto* to = reinterpret_cast<std::uint8_t*>(row);
    typename Type::parts p;
    bool fits = true;
    for (std::size_t col = 0; col < in.cols(); col += p.elements) {
        load_parts(in, at, col, p);
        if (col == 0) {
            write_row_scale<Type>(p, to);
            to += ggml_block_of<Type>.row_bytes;
        }
        if constexpr (requires { Type::fits(p); }) fits = fits && Type::fits(p);
        Type::write(p, to);
        to += ggml_block_of<Type>.bytes;
    }
    return fits;
}

template <ggml_type Type>
inline constexpr row_decoder ggml_row_decoder{ggml_block_of<Type>.elements, ggml_block_of<Type>.bytes,
                                              ggml_block_of<Type>.row_bytes, &decode_ggml_row<Type>};

// nullptr if no scheme carries the type.
[[nodiscard]] inline const row_decoder* find_ggml_decoder(std::uint32_t id) noexcept {
    const row_decoder* found = nullptr;
    for_each_ggml_type([&]<class Type>() {
        if (Type::id == id) found = &ggml_row_decoder<Type>;
    });
    return found;
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
