// packed.hpp: codes and scales in the order a kernel reads them; made by pack, read by gemm.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Byte offsets of the sections of one panel; every section starts on a 64-byte boundary.
struct panel_sections {
    std::size_t factors = 0;     // 16 x fp32: what the result of each row is multiplied by at the end
    std::size_t outer = 0;       // [outer slot][16] codes of the outer scale format (two_level)
    std::size_t outer_zeros = 0; // [outer slot][16] codes of the minimum's outer format (two_level_minimum)
    std::size_t scales = 0;      // [scale][16] codes of the scale format
    std::size_t zeros = 0;       // [scale][16] bytes, or codes of the minimum's format
    std::size_t codes = 0;       // [step] as layout.hpp has them
    std::size_t bytes = 0;       // the whole panel
};

} // namespace detail

// A rows x cols matrix in a scheme, in panels of 16 rows (layout.hpp), owning its memory; moved from, it is 0 x 0. A
// panel holds, each on a 64-byte boundary: 16 fp32 row factors, the outer scales and minimums of two_level schemes, the
// scales, the zero points, then all codes in one stream. Scales stand before the codes rather than between them: the
// code stream is then one sequential read for the hardware prefetcher, and a kernel that is independent of the scale's
// type first widens them to fp32. Rows beyond the matrix in the last panel have zero bytes for scales; columns beyond
// it hold the code of zero. The row factor is the outer scale if rows have one each and nothing is added to scaled
// codes (1 otherwise), and NaN if the row holds a NaN code, of a weight, a scale or a minimum, that the kernels'
// arithmetic would read as a number: a NaN makes every output of its row NaN for any input.
template <any_scheme Scheme> class packed {
public:
    using scheme_type = Scheme;
    using traits = detail::scheme_traits<Scheme>;
    using element = typename traits::element;
    using scale_code = typename traits::scale_code;
    using outer_code = typename traits::outer_code;
    using zero_code = typename traits::zero_code;
    using outer_zero_code = typename traits::outer_zero_code;

    packed() noexcept = default;
    packed(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), depth_(plan(cols)), sections_(layout(cols)) {
        const std::size_t count = panels();
        NIBBLE_CHECK(count == 0 || sections_->bytes <= (SIZE_MAX / 4) / count,
                     "packed: rows x cols does not fit in the address space");
        memory_ = buffer(count * sections_->bytes, from);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    // Bytes of the packed form, which is what a kernel reads once per pass over the weights.
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    [[nodiscard]] std::size_t panels() const noexcept { return detail::ceil_div(rows_, panel_layout::rows); }
    [[nodiscard]] const std::byte* panel(std::size_t p) const noexcept { return memory_.data() + p * sections_->bytes; }
    [[nodiscard]] std::byte* panel(std::size_t p) noexcept { return memory_.data() + p * sections_->bytes; }
    [[nodiscard]] const detail::panel_sections& sections() const noexcept { return sections_; }
    [[nodiscard]] const detail::depth_plan& depth() const noexcept { return depth_; }
    [[nodiscard]] std::size_t panel_bytes() const noexcept { return sections_->bytes; }

    // What a mean_offset adds to every scale; 0 for schemes without one.
    [[nodiscard]] float offset() const noexcept { return offset_; }
    void set_offset(float value) noexcept
        requires(Scheme::has_offset)
    {
        offset_ = value;
    }

    // Outer scales that differ along a row are part of the widened scales; one per row goes into the row factor.
    [[nodiscard]] static constexpr std::size_t outer_run(std::size_t cols) noexcept {
        if constexpr (Scheme::two_level)
            return detail::max_of<std::size_t>(1, detail::min_of(cols, traits::outer_granularity::run(cols)));
        else
            return detail::max_of<std::size_t>(cols, 1);
    }
    [[nodiscard]] static constexpr std::size_t outer_slots(std::size_t cols) noexcept {
        return Scheme::two_level ? detail::ceil_div(cols, outer_run(cols)) : 0;
    }

    // Is the outer scale the row's factor? Not where something besides it is added up: a minimum, an offset.
    [[nodiscard]] static constexpr bool outer_is_factor(std::size_t cols) noexcept {
        return Scheme::two_level && !Scheme::has_minimum && !Scheme::has_offset && outer_slots(cols) == 1;
    }

    [[nodiscard]] static constexpr detail::depth_plan plan(std::size_t cols) noexcept {
        return detail::depth_plan::make(cols, traits::run(cols), detail::step_quads<element> * panel_layout::quad);
    }
    [[nodiscard]] static constexpr detail::panel_sections layout(std::size_t cols) noexcept {
        const detail::depth_plan d = plan(cols);
        detail::panel_sections s{};
        const auto section = [](std::size_t bytes) { return detail::round_up(bytes, 64); };
        s.outer = section(panel_layout::rows * sizeof(float));
        s.outer_zeros = s.outer + section(outer_slots(cols) * panel_layout::rows * sizeof(outer_code));
        s.scales = s.outer_zeros + (Scheme::has_two_level_minimum
                                        ? section(outer_slots(cols) * panel_layout::rows * sizeof(outer_zero_code))
                                        : 0);
        s.zeros = s.scales + (Scheme::scaled ? section(d.scales * panel_layout::rows * sizeof(scale_code)) : 0);
        s.codes = s.zeros + (traits::has_zero ? section(d.scales * panel_layout::rows * sizeof(zero_code)) : 0);
        s.bytes = s.codes + section(d.padded / d.step * detail::step_bytes<element>);
        return s;
    }

private:
    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<detail::depth_plan> depth_;
    detail::reset_on_move<detail::panel_sections> sections_;
    detail::reset_on_move<float> offset_;
    buffer memory_{};
};

// As of the quantized form: all bits of codes, scales and zero points, without padding and row factors.
template <any_scheme Scheme> [[nodiscard]] double bits_per_weight(const packed<Scheme>& w) noexcept {
    return bits_per_weight<Scheme>(w.rows(), w.cols());
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
