// pack.hpp: the second verb: quantized weights into kernel order, and back, bit for bit.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// q in panels of 16 rows. Codes, scales and zero points are kept as they are: unpack gives the same bits back. One
// pass; allocates the result and, per panel in work, 16 rows of codes.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] packed<S> pack(const quantized<S>& q, const Executor& threads = {}) {
    detail::check_executor(threads);
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using code = typename element::code;
    packed<S> out(q.rows(), q.cols());
    if (q.rows() == 0 || q.cols() == 0) return out;
    if constexpr (S::has_offset) out.set_offset(q.offset());
    const detail::depth_plan& depth = out.depth();
    const detail::panel_sections& at = out.sections();
    detail::for_each_task(out.panels(), threads, [&](std::size_t p, std::size_t) {
        std::byte* panel = out.panel(p);
        const std::size_t first = p * panel_layout::rows;
        const std::size_t rows = detail::min_of(panel_layout::rows, q.rows() - first);
        dynamic_array<code> plain(detail::round_up(q.cols(), 8));
        dynamic_array<code> padded(panel_layout::rows * depth.padded, kernel::padding_code<element>);
        float* factors = reinterpret_cast<float*>(panel + at.factors);
        for (std::size_t r = 0; r < panel_layout::rows; ++r) factors[r] = 1.0f;
        for (std::size_t r = 0; r < rows; ++r) {
            kernel::load_codes<element>(q.row_codes(first + r), 0, q.cols(), plain.data());
            code* to = padded.data() + r * depth.padded;
            for (std::size_t part = 0; part < depth.count; ++part)
                std::memcpy(to + depth.begin(part), plain.data() + depth.column(part),
                            depth.columns(part) * sizeof(code));
            if constexpr (S::two_level) {
                auto* outer = reinterpret_cast<typename traits::outer_code*>(panel + at.outer);
                const std::size_t slots = packed<S>::outer_slots(q.cols());
                for (std::size_t s = 0; s < slots; ++s)
                    outer[s * panel_layout::rows + r] = q.outer_scales()[traits::outer_granularity::index(
                        first + r, s * packed<S>::outer_run(q.cols()), q.cols())];
                if (packed<S>::outer_is_factor(q.cols())) factors[r] = traits::outer_element::decode(outer[r]);
            }
            if constexpr (S::has_two_level_minimum) {
                auto* outer = reinterpret_cast<typename traits::outer_zero_code*>(panel + at.outer_zeros);
                for (std::size_t s = 0; s < packed<S>::outer_slots(q.cols()); ++s)
                    outer[s * panel_layout::rows + r] = q.outer_zeros()[traits::outer_granularity::index(
                        first + r, s * packed<S>::outer_run(q.cols()), q.cols())];
            }
            if constexpr (S::scaled) {
                auto* scales = reinterpret_cast<typename traits::scale_code*>(panel + at.scales);
                for (std::size_t s = 0; s < depth.scales; ++s)
                    scales[s * panel_layout::rows + r] =
                        q.scales()[traits::granularity::index(first + r, s * depth.run, q.cols())];
            }
            if constexpr (traits::has_zero) {
                auto* zeros = reinterpret_cast<typename traits::zero_code*>(panel + at.zeros);
                for (std::size_t s = 0; s < depth.scales; ++s)
                    zeros[s * panel_layout::rows + r] =
                        q.zeros()[traits::granularity::index(first + r, s * depth.run, q.cols())];
            }
            if constexpr (detail::marks_nan<element>) {
                for (std::size_t k = 0; k < q.cols(); ++k)
                    if (detail::is_nan(decode_table<element>.at[plain[k]])) factors[r] = detail::quiet_nan;
            }
            // Scales and minimums in such a format likewise: all of them take part in every output of the row.
            const auto mark = [&]<class E>(const typename E::code* from, std::size_t count) {
                if constexpr (detail::marks_nan<E>)
                    for (std::size_t s = 0; s < count; ++s)
                        if (detail::is_nan(E::decode(from[s * panel_layout::rows + r]))) factors[r] = detail::quiet_nan;
            };
            if constexpr (S::scaled)
                mark.template operator()<typename traits::scale_element>(
                    reinterpret_cast<const typename traits::scale_code*>(panel + at.scales), depth.scales);
            if constexpr (S::two_level)
                mark.template operator()<typename traits::outer_element>(
                    reinterpret_cast<const typename traits::outer_code*>(panel + at.outer),
                    packed<S>::outer_slots(q.cols()));
            if constexpr (S::has_minimum)
                mark.template operator()<typename traits::zero_element>(
                    reinterpret_cast<const typename traits::zero_code*>(panel + at.zeros), depth.scales);
            if constexpr (S::has_two_level_minimum)
                mark.template operator()<typename traits::outer_zero_element>(
                    reinterpret_cast<const typename traits::outer_zero_code*>(panel + at.outer_zeros),
                    packed<S>::outer_slots(q.cols()));
        }
        kernel::squeeze_panel<element>(padded.data(), depth.padded, depth.padded,
                                       reinterpret_cast<std::uint8_t*>(panel + at.codes));
    });
    return out;
}

// The exact inverse of pack. (nonfinite() is not part of the packed form and comes back false.)
template <any_scheme S, executor Executor = serial>
[[nodiscard]] quantized<S> unpack(const packed<S>& w, const Executor& threads = {}) {
    detail::check_executor(threads);
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;
    using code = typename element::code;
    quantized<S> out(w.rows(), w.cols());
    if (w.rows() == 0 || w.cols() == 0) return out;
    if constexpr (S::has_offset) out.set_offset(w.offset());
    const detail::depth_plan& depth = w.depth();
    const detail::panel_sections& at = w.sections();
    // Slots that several rows share are written by the task of panel 0 alone or with equal values: rows go in order.
    const auto one = [&](std::size_t p, bool shared) {
        const std::byte* panel = w.panel(p);
        const std::size_t first = p * panel_layout::rows;
        const std::size_t rows = detail::min_of(panel_layout::rows, w.rows() - first);
        if (!shared) {
            dynamic_array<code> plain(detail::round_up(w.cols(), 8));
            dynamic_array<code> padded(panel_layout::rows * depth.padded);
            kernel::spread_panel<element>(reinterpret_cast<const std::uint8_t*>(panel + at.codes), depth.padded,
                                          padded.data(), depth.padded);
            for (std::size_t r = 0; r < rows; ++r) {
                const code* from = padded.data() + r * depth.padded;
                for (std::size_t part = 0; part < depth.count; ++part)
                    std::memcpy(plain.data() + depth.column(part), from + depth.begin(part),
                                depth.columns(part) * sizeof(code));
                kernel::store_codes<element>(plain.data(), w.cols(), out.row_codes(first + r), 0);
            }
            return;
        }
        for (std::size_t r = 0; r < rows; ++r) {
            if constexpr (S::two_level) {
                const auto* outer = reinterpret_cast<const typename traits::outer_code*>(panel + at.outer);
                for (std::size_t s = 0; s < packed<S>::outer_slots(w.cols()); ++s)
                    out.outer_scales()[traits::outer_granularity::index(first + r, s * packed<S>::outer_run(w.cols()),
                                                                        w.cols())] = outer[s * panel_layout::rows + r];
            }
            if constexpr (S::has_two_level_minimum) {
                const auto* outer = reinterpret_cast<const typename traits::outer_zero_code*>(panel + at.outer_zeros);
                for (std::size_t s = 0; s < packed<S>::outer_slots(w.cols()); ++s)
                    out.outer_zeros()[traits::outer_granularity::index(first + r, s * packed<S>::outer_run(w.cols()),
                                                                       w.cols())] = outer[s * panel_layout::rows + r];
            }
            if constexpr (S::scaled) {
                const auto* scales = reinterpret_cast<const typename traits::scale_code*>(panel + at.scales);
                for (std::size_t s = 0; s < depth.scales; ++s)
                    out.scales()[traits::granularity::index(first + r, s * depth.run, w.cols())] =
                        scales[s * panel_layout::rows + r];
            }
            if constexpr (traits::has_zero) {
                const auto* zeros = reinterpret_cast<const typename traits::zero_code*>(panel + at.zeros);
                for (std::size_t s = 0; s < depth.scales; ++s)
                    out.zeros()[traits::granularity::index(first + r, s * depth.run, w.cols())] =
                        zeros[s * panel_layout::rows + r];
            }
        }
    };
    detail::for_each_task(w.panels(), threads, [&](std::size_t p, std::size_t) { one(p, false); });
    for (std::size_t p = 0; p < w.panels(); ++p) one(p, true);
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
