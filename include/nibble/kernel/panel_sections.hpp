// kernel/panel_sections.hpp: the sections of a panel, one after the other, between plain order and kernel order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// A section of numbers that columns share: where it is, in a panel and in plain order.
template <class Granularity, class Element, class Code> struct number_section {
    using granularity = Granularity;
    using element = Element; // what the codes mean, or void: integers
    Code* plain;
    std::size_t offset;     // in a panel
    std::size_t groups;     // of a row
    std::size_t group_size; // columns of each
};

// One panel of packed weights and its rows of the quantized form: every number of it goes to the panel or back.
template <panel_direction Direction, any_scheme S, class Quantized> class panel_copy {
    static constexpr bool to_panel = Direction == panel_direction::to_panel;
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using code = typename element::code;
    using byte = std::conditional_t<to_panel, std::byte, const std::byte>;
    using stream = std::conditional_t<to_panel, std::uint8_t, const std::uint8_t>;

public:
    // What copies the codes of panels of the width that kernels read, or of one that is known at run time: most
    // programs have code for the one alone.
    using code_copy = void (*)(code*, std::size_t, std::size_t, std::uint32_t, stream*) noexcept;
    static constexpr code_copy copy_of_kernels =
        &copy_codes<Direction, element::bits, panel_layout::rows, code, stream>;
    [[nodiscard]] static code_copy copy_of(std::size_t panel_rows) noexcept {
        return copy_codes_of<Direction, element::bits, code, stream>(panel_rows);
    }

    panel_copy(Quantized& q, const packed_shape<S>& w, std::size_t p, byte* panel) noexcept
        : q_(q), w_(w), panel_(panel), first_(p * w.panel_rows()),
          rows_(detail::min_of(w.panel_rows(), w.rows() - first_)) {}

    // All codes; allocates what the panel's rows take with a byte or more for each.
    void codes(code_copy copy) const {
        // Copies: a code of a byte may alias anything.
        const detail::depth_plan depth = w_.depth();
        const std::size_t cols = w_.cols();
        const std::size_t panel_rows = w_.panel_rows();
        dynamic_array<code> plain(detail::round_up(cols, 8));
        dynamic_array<code> padded(panel_rows * depth.padded, padding_code<element>);
        const auto between = [&] {
            copy(padded.data(), depth.padded, depth.padded, panel_flip<element>,
                 reinterpret_cast<stream*>(panel_ + w_.sections().codes));
        };
        if constexpr (!to_panel) between();
        for (std::size_t r = 0; r < rows_; ++r) {
            if constexpr (to_panel) detail::load_codes<element>(q_.row_codes(first_ + r), 0, cols, plain.data());
            for (std::size_t part = 0; part < depth.count; ++part) {
                code* const in_row = plain.data() + depth.column(part);
                code* const in_panel = padded.data() + r * depth.padded + depth.begin(part);
                __builtin_memcpy(to_panel ? in_panel : in_row, to_panel ? in_row : in_panel,
                                 depth.columns(part) * sizeof(code));
            }
            if constexpr (!to_panel) detail::store_codes<element>(plain.data(), cols, q_.row_codes(first_ + r), 0);
            if constexpr (to_panel && detail::marks_nan<element>) {
                bool nan = false;
                for (std::size_t k = 0; k < cols; ++k) nan |= detail::is_nan(decode_table<element>.at[plain[k]]);
                if (nan) factors()[r] = detail::quiet_nan;
            }
        }
        if constexpr (to_panel) between();
    }

    // All scales, zero points and minimums. From the panel: groups that several rows share are written by each of them.
    void numbers() const {
        for_each_section([&](const auto& section) {
            auto* const in_panel = at(section);
            const std::size_t panel_rows = w_.panel_rows();
            for (std::size_t r = 0; r < rows_; ++r)
                for (std::size_t s = 0; s < section.groups; ++s) {
                    auto& plain = section.plain[std::remove_cvref_t<decltype(section)>::granularity::index(
                        first_ + r, s * section.group_size, w_.cols())];
                    if constexpr (to_panel)
                        in_panel[s * panel_rows + r] = plain;
                    else
                        plain = in_panel[s * panel_rows + r];
                }
        });
    }

    // The row factors, before codes() marks rows: 1, the outer scale, or NaN for a row whose scales or minimums hold
    // one in a format whose NaN kernels would read as a number: all of them take part in every output of the row.
    void row_factors() const
        requires to_panel
    {
        float* const factor = factors();
        for (std::size_t r = 0; r < w_.panel_rows(); ++r) factor[r] = 1.0f;
        if constexpr (S::two_level)
            if (w_.outer_is_factor(w_.cols())) {
                const auto* outer = reinterpret_cast<const typename traits::outer_code*>(panel_ + w_.sections().outer);
                for (std::size_t r = 0; r < rows_; ++r) factor[r] = traits::outer_element::decode(outer[r]);
            }
        for_each_section([&](const auto& section) {
            using E = typename std::remove_cvref_t<decltype(section)>::element;
            if constexpr (!std::is_void_v<E>)
                if constexpr (detail::marks_nan<E>)
                    for (std::size_t s = 0; s < section.groups; ++s)
                        for (std::size_t r = 0; r < rows_; ++r)
                            if (detail::is_nan(E::decode(at(section)[s * w_.panel_rows() + r])))
                                factor[r] = detail::quiet_nan;
        });
    }

private:
    [[nodiscard]] float* factors() const noexcept { return reinterpret_cast<float*>(panel_ + w_.sections().factors); }
    template <class Granularity, class Element, class Code>
    [[nodiscard]] auto at(const number_section<Granularity, Element, Code>& section) const noexcept {
        using number = std::remove_const_t<Code>;
        return reinterpret_cast<std::conditional_t<to_panel, number, const number>*>(panel_ + section.offset);
    }
    template <class Granularity, class Element, class Code, class Visit>
    static void visit_section(const Visit& visit, Code* plain, std::size_t offset, std::size_t groups,
                              std::size_t group_size) {
        visit(number_section<Granularity, Element, Code>{plain, offset, groups, group_size});
    }
    // visit(number_section) for all that the scheme has, in the order of the panel.
    template <class Visit> void for_each_section(const Visit& visit) const {
        using outer = typename traits::outer_granularity;
        using inner = typename traits::granularity;
        const detail::panel_sections& sections = w_.sections();
        const detail::depth_plan& depth = w_.depth();
        const std::size_t outer_groups = w_.outer_groups(w_.cols());
        const std::size_t outer_size = w_.outer_size(w_.cols());
        if constexpr (S::two_level)
            visit_section<outer, typename traits::outer_element>(visit, q_.outer_scales(), sections.outer, outer_groups,
                                                                 outer_size);
        if constexpr (S::has_two_level_minimum)
            visit_section<outer, typename traits::outer_zero_element>(visit, q_.outer_zeros(), sections.outer_zeros,
                                                                      outer_groups, outer_size);
        if constexpr (S::scaled)
            visit_section<inner, typename traits::scale_element>(visit, q_.scales(), sections.scales, depth.scales,
                                                                 depth.group_size);
        if constexpr (traits::has_zero)
            visit_section<inner, std::conditional_t<S::has_minimum, typename traits::zero_element, void>>(
                visit, q_.zeros(), sections.zeros, depth.scales, depth.group_size);
    }

    Quantized& q_;
    const packed_shape<S>& w_;
    byte* panel_;
    std::size_t first_; // row of the matrix
    std::size_t rows_;  // in this panel
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
