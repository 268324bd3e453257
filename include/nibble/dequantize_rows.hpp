// dequantize_rows.hpp: rows of weights as fp32, packed or not: by number, as embeddings, or some side by side.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/dequantize.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// One row of a panel: its numbers stand 16 apart in every section but that of the codes.
template <any_scheme S> class panel_row {
public:
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    using code = typename traits::code;

    panel_row(const packed_view<S>& w, std::size_t row) noexcept
        : w_(w), panel_(w.panel(row / panel_layout::rows)), row_(row % panel_layout::rows) {}

    // The codes of `count` padded columns from `first` on, which is a multiple of a step; up to 15 more are written.
    void codes(std::size_t first, std::size_t count, code* out) const noexcept {
        const auto* from = reinterpret_cast<const std::uint8_t*>(panel_ + w_.sections().codes);
        if constexpr (element::bits > 8) {
            for (std::size_t i = 0; i < count; ++i)
                std::memcpy(out + i, from + ((first + i) * panel_layout::rows + row_) * sizeof(code), sizeof(code));
        } else {
            constexpr std::size_t step = step_quads<element> * panel_layout::quad;
            for (std::size_t i = 0; i < count; i += step) {
                const std::uint8_t* at = from + (first + i) / step * step_bytes<element>;
                for (std::size_t q = 0; q < step_quads<element>; ++q) {
                    const std::uint32_t four = kernel::get_quad<element>(at, q, row_);
                    std::memcpy(out + i + q * panel_layout::quad, &four, sizeof four);
                }
            }
        }
    }
    // As scale_reader of quantized has them.
    [[nodiscard]] float scale(std::size_t group, std::size_t column) const noexcept {
        if constexpr (!S::scaled) {
            return 1.0f;
        } else {
            const float inner = decoded<typename traits::scale_element>(
                number<typename traits::scale_code>(w_.sections().scales, group));
            if constexpr (S::two_level)
                return two_level_product<S>(inner,
                                            decoded<typename traits::outer_element>(number<typename traits::outer_code>(
                                                w_.sections().outer, column / packed_shape<S>::outer_size(w_.cols()))),
                                            w_.offset());
            else
                return inner;
        }
    }
    [[nodiscard]] float zero(std::size_t group, std::size_t column) const noexcept {
        if constexpr (S::has_integer_zero)
            return static_cast<float>(number<typename traits::zero_code>(w_.sections().zeros, group));
        else if constexpr (S::has_two_level_minimum)
            return -(
                decoded<typename traits::zero_element>(number<typename traits::zero_code>(w_.sections().zeros, group)) *
                decoded<typename traits::outer_zero_element>(number<typename traits::outer_zero_code>(
                    w_.sections().outer_zeros, column / packed_shape<S>::outer_size(w_.cols()))));
        else if constexpr (S::has_minimum)
            return decoded<typename traits::zero_element>(
                number<typename traits::zero_code>(w_.sections().zeros, group));
        else
            return 0.0f;
    }

private:
    template <class Code> [[nodiscard]] Code number(std::size_t section, std::size_t group) const noexcept {
        return reinterpret_cast<const Code*>(panel_ + section)[group * panel_layout::rows + row_];
    }

    const packed_view<S>& w_;
    const std::byte* panel_;
    std::size_t row_;
};

template <isa Isa, any_scheme S>
NIBBLE_NOINLINE void dequantize_row(const packed_view<S>& w, std::size_t row, float* out) {
    constexpr std::size_t block = 512; // a multiple of every step
    const panel_row<S> from(w, row);
    const depth_plan& depth = w.depth();
    typename panel_row<S>::code codes[block + 16] = {};
    for (std::size_t part = 0; part < depth.count; ++part) {
        const std::size_t column = depth.column(part);
        const std::size_t columns = depth.columns(part);
        const float scale = from.scale(depth.scale_of(part), column);
        const float zero = from.zero(depth.scale_of(part), column);
        for (std::size_t i = 0; i < columns; i += block) {
            const std::size_t n = min_of(block, columns - i);
            from.codes(depth.begin(part) + i, n, codes);
            kernel::decode_group<Isa, S>(codes, n, scale, zero, out + column + i);
        }
    }
}

} // namespace detail

namespace detail {

template <class W>
void check_named_rows(const W& w, array_view<const std::uint32_t> rows, matrix_view<const float> out) {
    NIBBLE_CHECK(out.rows() == rows.size() && out.cols() == w.cols(),
                 "dequantize_rows: out must have a row for each number and the columns of the weights");
    for (const std::uint32_t row : rows)
        NIBBLE_CHECK(row < w.rows(), "dequantize_rows: a number is not that of a row of the weights");
}
template <class W> void check_row_range(const W& w, std::size_t first, matrix_view<const float> out) {
    NIBBLE_CHECK(out.cols() == w.cols() && first <= w.rows() && out.rows() <= w.rows() - first,
                 "dequantize_rows: out must have the columns of the weights, and no more rows than there are from the "
                 "first on");
}

} // namespace detail

// out(i, k) = the value of weight (rows[i], k), bit for bit as dequantize has it: rows of an embedding that is stored
// once, packed, for the products with logits too. Any numbers of rows in any order, repeated ones too; a number that is
// not that of a row is an error. Reads the rows named and no others; allocates nothing.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void dequantize_rows(const packed_view<S>& w, array_view<const std::uint32_t> rows, matrix_view<float> out,
                     const Executor& threads = {}) {
    detail::check_panel_rows(w);
    detail::check_named_rows(w, rows, out);
    detail::for_each_row_of(out, threads,
                            [&](std::size_t i, float* to) { detail::dequantize_row<Isa>(w, rows[i], to); });
}
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void dequantize_rows(const quantized<S>& q, array_view<const std::uint32_t> rows, matrix_view<float> out,
                     const Executor& threads = {}) {
    detail::check_named_rows(q, rows, out);
    const auto scales = q.read_scales();
    detail::for_each_row_of(out, threads,
                            [&](std::size_t i, float* to) { detail::dequantize_row<Isa>(q, scales, rows[i], to); });
}

// Rows [first, first + out.rows()) of the weights likewise: a part of a matrix, or all of it from its packed form.
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void dequantize_rows(const packed_view<S>& w, std::size_t first, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_panel_rows(w);
    detail::check_row_range(w, first, out);
    detail::for_each_row_of(out, threads,
                            [&](std::size_t i, float* to) { detail::dequantize_row<Isa>(w, first + i, to); });
}
template <isa Isa = best_isa, any_scheme S, executor Executor = serial>
void dequantize_rows(const quantized<S>& q, std::size_t first, matrix_view<float> out, const Executor& threads = {}) {
    detail::check_row_range(q, first, out);
    const auto scales = q.read_scales();
    detail::for_each_row_of(out, threads,
                            [&](std::size_t i, float* to) { detail::dequantize_row<Isa>(q, scales, first + i, to); });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
