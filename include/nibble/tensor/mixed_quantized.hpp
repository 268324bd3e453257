// mixed_quantized.hpp: groups of weights that each choose their element from a short list, of equal or different
// widths; in plain order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/element/codebooks.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Groups of Size columns, one scale in ScaleFormat each, and a selector that names one of the elements.
template <std::size_t Size, element ScaleFormat, small_element... Elements> struct mixed_groups {
    static_assert(Size >= 8 && Size % 8 == 0, "mixed_groups: the group size must be a positive multiple of 8");
    static_assert(sizeof...(Elements) >= 2 && sizeof...(Elements) <= 256, "mixed_groups: 2 to 256 elements");
    static constexpr std::size_t size = Size;
    static constexpr std::size_t count = sizeof...(Elements);
    static constexpr int selector_bits = detail::bit_width(count - 1);
    static constexpr int element_bits[count] = {Elements::bits...};
    using scale_format = ScaleFormat;
    using granularity = per_group<Size>;
    // The values of an element's codes.
    static constexpr const float* values[count] = {decode_table<Elements>.at...};
    // The scheme in which all groups have the same element.
    template <element E> using scheme_of = scheme<E, per_group<Size>, scale<ScaleFormat>>;
    // List<scheme_of<Elements>...>
    template <template <class...> class List> using schemes = List<scheme_of<Elements>...>;

    // The bits of two's complement integers that hold every value of every element; 0 if some value is no integer of
    // at most 8 bits.
    static constexpr int carrier_bits = [] {
        int bits = 2;
        for (std::size_t e = 0; e < count; ++e)
            for (std::size_t c = 0; c < (std::size_t{1} << element_bits[e]); ++c) {
                const float v = values[e][c];
                if (!(v >= -128.0f && v <= 127.0f) || static_cast<float>(static_cast<int>(v)) != v) return 0;
                while (static_cast<int>(v) >= 1 << (bits - 1) || static_cast<int>(v) < -(1 << (bits - 1))) ++bits;
            }
        return bits;
    }();
};

// BitMoD (Chen et al., 2025): per group one of four grids, extra resolution or extra asymmetry of either sign.
template <std::size_t Size = 128>
using bitmod_fp3 =
    mixed_groups<Size, f16, bitmod_fp3_er_plus, bitmod_fp3_er_minus, bitmod_fp3_ea_plus, bitmod_fp3_ea_minus>;
template <std::size_t Size = 128>
using bitmod_fp4 =
    mixed_groups<Size, f16, bitmod_fp4_er_plus, bitmod_fp4_er_minus, bitmod_fp4_ea_plus, bitmod_fp4_ea_minus>;
// Groups of few bits, some of which get more.
template <int Narrow, int Wide, std::size_t Size = 128>
using mixed_integers = mixed_groups<Size, f16, integer<Narrow>, integer<Wide>>;

// A rows x cols matrix, owning its memory: one block of three sections, each on a 64-byte boundary. Groups are numbered
// row by row; the last group of a row may be shorter.
//   scales     one code of the scale format per group
//   selectors  the little-endian bit stream of selector_bits per group, no padding; the last byte is filled with zeros
//   codes      per group the little-endian bit stream of its codes in the width of its element, in whole bytes (only a
//              shorter last group may have bits to fill, with zeros), one group after the other without padding
// value = scale x decode(code) in the element that the selector names.
// Written out, these are the three sections one after the other without the padding between.
template <class Mixed> class mixed_quantized {
public:
    using mixed = Mixed;
    using scale_format = typename Mixed::scale_format;
    using scale_code = typename scale_format::code;

    mixed_quantized() noexcept = default;
    // Codes and scales 0; the selectors, one byte each here, decide how many bytes the codes take.
    mixed_quantized(std::size_t rows, std::size_t cols, const std::uint8_t* selectors, allocator from = {})
        : rows_(rows), cols_(cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "mixed_quantized: rows x cols does not fit in the address space");
        if (rows == 0 || cols == 0) return;
        row_starts_->assign(rows + 1, 0);
        std::size_t at = 0;
        std::size_t code_bits = 0;
        for (std::size_t row = 0; row < rows; ++row) {
            (*row_starts_)[row] = at;
            for (std::size_t g = 0; g < row_groups(); ++g) {
                const std::uint8_t selector = selectors[row * row_groups() + g];
                NIBBLE_CHECK(selector < Mixed::count, "mixed_quantized: a selector names no element");
                at += group_bytes(g, selector);
                code_bits += group_columns(g) * static_cast<std::size_t>(Mixed::element_bits[selector]);
            }
        }
        (*row_starts_)[rows] = at;
        code_bits_ = code_bits;
        memory_ = buffer(codes_offset() + at, from);
        detail::squeeze_codes<Mixed::selector_bits>(selectors, groups(), this->selectors());
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t row_groups() const noexcept { return detail::ceil_div(cols_, Mixed::size); }
    [[nodiscard]] std::size_t groups() const noexcept { return rows_ * row_groups(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    [[nodiscard]] std::size_t code_bytes() const noexcept { return row_starts_->empty() ? 0 : row_starts_->back(); }
    [[nodiscard]] std::size_t code_bits() const noexcept { return code_bits_; } // without what fills bytes
    // True if the matrix that was quantized held a NaN or an infinity.
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

    [[nodiscard]] scale_code* scales() noexcept { return memory_.template as<scale_code>(); }
    [[nodiscard]] const scale_code* scales() const noexcept { return memory_.template as<scale_code>(); }
    [[nodiscard]] const std::uint8_t* selectors() const noexcept {
        return memory_.template as<std::uint8_t>(selectors_offset());
    }
    [[nodiscard]] std::uint8_t* row_codes(std::size_t row) noexcept {
        return memory_.template as<std::uint8_t>(codes_offset()) + (*row_starts_)[row];
    }
    [[nodiscard]] const std::uint8_t* row_codes(std::size_t row) const noexcept {
        return memory_.template as<std::uint8_t>(codes_offset()) + (*row_starts_)[row];
    }

    [[nodiscard]] std::uint8_t selector(std::size_t group) const noexcept {
        const std::size_t at = group * static_cast<std::size_t>(Mixed::selector_bits);
        const std::uint8_t* from = selectors();
        unsigned word = from[at / 8];
        if (at % 8 + static_cast<std::size_t>(Mixed::selector_bits) > 8)
            word |= static_cast<unsigned>(from[at / 8 + 1]) << 8;
        return static_cast<std::uint8_t>((word >> (at % 8)) & ((1u << Mixed::selector_bits) - 1u));
    }
    // Columns of the g-th group of a row, and the bytes that their codes take.
    [[nodiscard]] std::size_t group_columns(std::size_t g) const noexcept {
        return detail::min_of(Mixed::size, cols_ - g * Mixed::size);
    }
    [[nodiscard]] std::size_t group_bytes(std::size_t g, std::uint8_t selector) const noexcept {
        return detail::ceil_div(group_columns(g) * static_cast<std::size_t>(Mixed::element_bits[selector]), 8);
    }
    // visit(group number, selector, first column, columns, pointer to its codes) for the groups of a row, in order.
    template <class Visit> void for_each_group(std::size_t row, Visit&& visit) const {
        const std::uint8_t* codes = row_codes(row);
        for (std::size_t g = 0; g < row_groups(); ++g) {
            const std::size_t group = row * row_groups() + g;
            const std::uint8_t chosen = selector(group);
            visit(group, chosen, g * Mixed::size, group_columns(g), codes);
            codes += group_bytes(g, chosen);
        }
    }
    // The codes of a group, one per byte.
    static void load_codes(std::uint8_t selector, const std::uint8_t* from, std::size_t count, std::uint8_t* codes) {
        with_bits(Mixed::element_bits[selector], [&]<int Bits>() { detail::spread_codes<Bits>(from, count, codes); });
    }

    // One value, for tests and tools.
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const {
        float value = 0.0f;
        for_each_group(row, [&](std::size_t group, std::uint8_t chosen, std::size_t first, std::size_t n,
                                const std::uint8_t* from) {
            if (col < first || col >= first + n) return;
            std::uint8_t codes[Mixed::size];
            load_codes(chosen, from, n, codes);
            value = scale_format::decode(scales()[group]) * Mixed::values[chosen][codes[col - first]];
        });
        return value;
    }

private:
    template <class Visit, int Bits = 1> static void with_bits(int bits, Visit&& visit) {
        if (bits == Bits)
            visit.template operator()<Bits>();
        else if constexpr (Bits < 8)
            with_bits<Visit, Bits + 1>(bits, static_cast<Visit&&>(visit));
    }
    [[nodiscard]] std::uint8_t* selectors() noexcept { return memory_.template as<std::uint8_t>(selectors_offset()); }
    [[nodiscard]] std::size_t selectors_offset() const noexcept {
        return detail::round_up(groups() * sizeof(scale_code), 64);
    }
    [[nodiscard]] std::size_t codes_offset() const noexcept {
        return selectors_offset() +
               detail::round_up(detail::ceil_div(groups() * static_cast<std::size_t>(Mixed::selector_bits), 8), 64);
    }

    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<std::size_t> code_bits_;
    detail::reset_on_move<bool> nonfinite_;
    detail::reset_on_move<dynamic_array<std::size_t>>
        row_starts_; // follow from the selectors; not part of the stored bytes
    buffer memory_{};
};

// All bits of codes, selectors and scales, per weight.
template <class Mixed> [[nodiscard]] double bits_per_weight(const mixed_quantized<Mixed>& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    const double per_group = Mixed::selector_bits + Mixed::scale_format::bits;
    return (static_cast<double>(q.code_bits()) + static_cast<double>(q.groups()) * per_group) /
           (static_cast<double>(q.rows()) * static_cast<double>(q.cols()));
}

// The scheme of one integer element that holds the same values, for pack and gemm.
template <class Mixed>
using carrier_scheme =
    scheme<integer<Mixed::carrier_bits>, per_group<Mixed::size>, scale<typename Mixed::scale_format>>;

// q with its values written as integers of one width under the same scales: every weight has the same value (-0 becomes
// 0). BitMoD's FP3 takes 4 bits, its FP4 6, integers those of the widest.
template <class Mixed> [[nodiscard]] quantized<carrier_scheme<Mixed>> to_carrier(const mixed_quantized<Mixed>& q) {
    static_assert(Mixed::carrier_bits != 0,
                  "to_carrier: an element has values that are not integers of at most 8 bits");
    constexpr std::size_t bits = static_cast<std::size_t>(Mixed::carrier_bits);
    quantized<carrier_scheme<Mixed>> out(q.rows(), q.cols());
    out.set_nonfinite(q.nonfinite());
    if (q.rows() == 0 || q.cols() == 0) return out;
    std::memcpy(out.scales(), q.scales(), q.groups() * sizeof(typename mixed_quantized<Mixed>::scale_code));
    std::uint8_t codes[Mixed::size];
    for (std::size_t row = 0; row < q.rows(); ++row)
        q.for_each_group(
            row, [&](std::size_t, std::uint8_t chosen, std::size_t first, std::size_t n, const std::uint8_t* from) {
                mixed_quantized<Mixed>::load_codes(chosen, from, n, codes);
                for (std::size_t i = 0; i < n; ++i) {
                    const int value = static_cast<int>(Mixed::values[chosen][codes[i]]);
                    codes[i] = static_cast<std::uint8_t>(static_cast<unsigned>(value) & ((1u << bits) - 1u));
                }
                detail::squeeze_codes<Mixed::carrier_bits>(codes, n, out.row_codes(row) + first * bits / 8);
            });
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
