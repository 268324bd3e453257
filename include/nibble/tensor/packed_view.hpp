// packed_view.hpp: where everything stands in packed weights of a scheme, and a view of such memory; what kernels read.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/element/element.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/scheme/scheme_digest.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed_layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Byte offsets of the sections of one panel of R rows; every section starts on a 64-byte boundary.
struct panel_sections {
    std::size_t factors = 0;     // R x fp32: what the result of each row is multiplied by at the end
    std::size_t outer = 0;       // [outer group][R] codes of the outer scale format (two_level)
    std::size_t outer_zeros = 0; // [outer group][R] codes of the minimum's outer format (two_level_minimum)
    std::size_t scales = 0;      // [scale][R] codes of the scale format
    std::size_t zeros = 0;       // [scale][R] bytes, or codes of the minimum's format
    std::size_t codes = 0;       // [step] as layout.hpp has them
    std::size_t bytes = 0;       // the whole panel
};

} // namespace detail

// The packed form of a rows x cols matrix, without its memory: panels of panel_rows rows (layout.hpp; 16 is what
// kernels read), the last one filled up. A panel holds, each on a 64-byte boundary: fp32 row factors, the outer scales
// and minimums of two_level schemes, the scales, the zero points, then all codes in one stream. Scales stand before the
// codes rather than between them: the code stream is then one sequential read for the hardware prefetcher, and a kernel
// that is independent of the scale's type first widens them to fp32. Rows beyond the matrix in the last panel have zero
// bytes for scales; columns beyond it hold the code of zero. The row factor is the outer scale if rows have one each
// and nothing is added to scaled codes (1 otherwise), and NaN if the row holds a NaN code, of a weight, a scale or a
// minimum, that the kernels' arithmetic would read as a number: a NaN makes every output of its row NaN for any input.
template <any_scheme Scheme> class packed_shape {
public:
    using scheme_type = Scheme;
    using traits = detail::scheme_traits<Scheme>;
    using element = typename traits::element;
    using scale_code = typename traits::scale_code;
    using outer_code = typename traits::outer_code;
    using zero_code = typename traits::zero_code;
    using outer_zero_code = typename traits::outer_zero_code;

    constexpr packed_shape() noexcept = default;
    // panel_rows is 8, 16 or 32.
    constexpr packed_shape(std::size_t rows, std::size_t cols, std::size_t panel_rows = panel_layout::rows) noexcept
        : rows_(rows), cols_(cols), panel_rows_(panel_rows), depth_(plan(cols, panel_rows)),
          sections_(layout(depth_, panel_rows)) {}

    [[nodiscard]] constexpr std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] constexpr std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] constexpr std::size_t panel_rows() const noexcept { return panel_rows_; }
    [[nodiscard]] constexpr std::size_t panels() const noexcept { return detail::ceil_div(rows_, panel_rows_); }
    [[nodiscard]] constexpr std::size_t panel_bytes() const noexcept { return sections_.bytes; }
    // Bytes of the packed form, which is what a kernel reads once per pass over the weights.
    [[nodiscard]] constexpr std::size_t bytes() const noexcept { return panels() * sections_.bytes; }
    [[nodiscard]] constexpr const detail::panel_sections& sections() const noexcept { return sections_; }
    [[nodiscard]] constexpr const detail::depth_plan& depth() const noexcept { return depth_; }

    // Outer scales that differ along a row are part of the decoded scales; one per row goes into the row factor.
    [[nodiscard]] static constexpr std::size_t outer_size(std::size_t cols) noexcept {
        if constexpr (Scheme::two_level)
            return detail::max_of<std::size_t>(1, detail::min_of(cols, traits::outer_granularity::group_size(cols)));
        else
            return detail::max_of<std::size_t>(cols, 1);
    }
    [[nodiscard]] static constexpr std::size_t outer_groups(std::size_t cols) noexcept {
        return Scheme::two_level ? detail::ceil_div(cols, outer_size(cols)) : 0;
    }
    // Is the outer scale the row's factor? Not where something besides it is added up: a minimum, an offset.
    [[nodiscard]] static constexpr bool outer_is_factor(std::size_t cols) noexcept {
        return Scheme::two_level && !Scheme::has_minimum && !Scheme::has_offset && outer_groups(cols) == 1;
    }

private:
    [[nodiscard]] static constexpr detail::depth_plan plan(std::size_t cols, std::size_t panel_rows) noexcept {
        return detail::depth_plan::make(cols, traits::group_size(cols),
                                        detail::step_quads_of(element::bits, panel_rows) * panel_layout::quad);
    }
    [[nodiscard]] static constexpr detail::panel_sections layout(const detail::depth_plan& d,
                                                                 std::size_t panel_rows) noexcept {
        detail::panel_sections s{};
        const auto section = [&](bool there, std::size_t groups, std::size_t number) {
            return there ? detail::round_up(groups * panel_rows * number, 64) : 0;
        };
        const std::size_t outer = outer_groups(d.cols);
        s.outer = section(true, 1, sizeof(float));
        s.outer_zeros = s.outer + section(Scheme::two_level, outer, sizeof(outer_code));
        s.scales = s.outer_zeros + section(Scheme::has_two_level_minimum, outer, sizeof(outer_zero_code));
        s.zeros = s.scales + section(Scheme::scaled, d.scales, sizeof(scale_code));
        s.codes = s.zeros + section(traits::has_zero, d.scales, sizeof(zero_code));
        s.bytes = s.codes + detail::round_up(d.padded / d.step * detail::step_bytes_of(element::bits, panel_rows), 64);
        return s;
    }

    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
    std::size_t panel_rows_ = panel_layout::rows;
    detail::depth_plan depth_{};
    detail::panel_sections sections_{};
};

// As of the quantized form: all bits of codes, scales and zero points, without padding and row factors.
template <any_scheme Scheme> [[nodiscard]] double bits_per_weight(const packed_shape<Scheme>& w) noexcept {
    return bits_per_weight<Scheme>(w.rows(), w.cols());
}

// Packed weights in memory that something else owns: a packed<Scheme>, which is one, a file (io/packed_file.hpp),
// another translation unit. Copying it copies no weight; the verbs take it wherever they take packed<Scheme>.
template <any_scheme Scheme> class packed_view : public packed_shape<Scheme> {
public:
    packed_view() noexcept = default;
    // `panels` has shape.bytes() bytes, on a 64-byte boundary; offset is that of a mean_offset.
    packed_view(const packed_shape<Scheme>& shape, const std::byte* panels, float offset = 0.0f)
        : packed_shape<Scheme>(shape), panels_(panels), offset_(offset) {
        NIBBLE_CHECK(reinterpret_cast<std::uintptr_t>(panels) % 64 == 0,
                     "packed_view: the panels must start on a 64-byte boundary");
        NIBBLE_CHECK(panels != nullptr || shape.bytes() == 0, "packed_view: there is no memory");
    }
    // What a unit of other flags made by untyped(). It must be of this scheme and of this library's layout.
    explicit packed_view(const untyped_packed& from)
        : packed_view(checked_shape(from.layout), from.panels, from.layout.offset) {}

    [[nodiscard]] const std::byte* data() const noexcept { return panels_; }
    [[nodiscard]] const std::byte* panel(std::size_t p) const noexcept { return panels_ + p * this->panel_bytes(); }
    // What a mean_offset adds to every scale; 0 for schemes without one.
    [[nodiscard]] float offset() const noexcept { return offset_; }

    // For a unit that is compiled for another instruction set, whose packed_view of this scheme is another type.
    [[nodiscard]] untyped_packed untyped() const noexcept {
        return {{scheme_digest<Scheme>, packed_layout_version, static_cast<std::uint32_t>(this->panel_rows()),
                 this->rows(), this->cols(), this->bytes(), offset_},
                panels_};
    }

protected:
    const std::byte* panels_ = nullptr;
    float offset_ = 0.0f;

private:
    [[nodiscard]] static packed_shape<Scheme> checked_shape(const packed_layout& l) {
        NIBBLE_CHECK(l.version == packed_layout_version,
                     "packed_view: packed by a version of nibble that lays panels out otherwise");
        NIBBLE_CHECK(l.scheme == scheme_digest<Scheme>, "packed_view: these weights are of another scheme");
        NIBBLE_CHECK(panel_layout::is_width(l.panel_rows), "packed_view: panels have 8, 16 or 32 rows");
        const packed_shape<Scheme> shape(l.rows, l.cols, l.panel_rows);
        NIBBLE_CHECK(shape.bytes() == l.bytes, "packed_view: rows x cols need another number of bytes");
        return shape;
    }
};

namespace detail {

// Kernels' loads are of panels of one width.
template <any_scheme S> void check_panel_rows(const packed_view<S>& w) {
    NIBBLE_CHECK(w.panel_rows() == panel_layout::rows,
                 "the weights are in panels of 8 or 32 rows, kernels read panels of 16: take repack(w, 16)");
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
