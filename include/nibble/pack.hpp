// pack.hpp: the second verb: quantized weights into kernel order, and back, bit for bit.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/panel_sections.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

template <any_scheme S>
using panel_packing = kernel::panel_copy<kernel::panel_direction::to_panel, S, const quantized<S>>;
template <any_scheme S>
using panel_unpacking = kernel::panel_copy<kernel::panel_direction::from_panel, S, quantized<S>>;

// `copy` is that of panel_rows.
template <any_scheme S, executor Executor>
[[nodiscard]] packed<S> pack_panels(const quantized<S>& q, std::size_t panel_rows,
                                    typename panel_packing<S>::code_copy copy, const Executor& threads) {
    check_executor(threads);
    packed<S> out(packed_shape<S>(q.rows(), q.cols(), panel_rows));
    if (q.rows() == 0 || q.cols() == 0) return out;
    if constexpr (S::has_offset) out.set_offset(q.offset());
    for_each_task(out.panels(), threads, [&](std::size_t p, std::size_t) {
        const panel_packing<S> panel(q, out, p, out.panel(p));
        panel.numbers();
        panel.row_factors();
        panel.codes(copy);
    });
    return out;
}

} // namespace detail

// q in panels of 16 rows. Codes, scales and zero points are kept as they are: unpack gives the same bits back. One
// pass; allocates the result and, per panel in work, 16 rows of codes.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] packed<S> pack(const quantized<S>& q, const Executor& threads = {}) {
    return detail::pack_panels(q, panel_layout::rows, detail::panel_packing<S>::copy_of_kernels, threads);
}

// The exact inverse of pack, of panels of any width. (nonfinite() is not part of the packed form and comes back false.)
template <any_scheme S, executor Executor = serial>
[[nodiscard]] quantized<S> unpack(const packed_view<S>& w, const Executor& threads = {}) {
    detail::check_executor(threads);
    quantized<S> out(w.rows(), w.cols());
    if (w.rows() == 0 || w.cols() == 0) return out;
    if constexpr (S::has_offset) out.set_offset(w.offset());
    using panel = detail::panel_unpacking<S>;
    const auto copy = panel::copy_of(w.panel_rows());
    detail::for_each_task(w.panels(), threads,
                          [&](std::size_t p, std::size_t) { panel(out, w, p, w.panel(p)).codes(copy); });
    // Not in parallel: rows of several panels may share a scale group.
    for (std::size_t p = 0; p < w.panels(); ++p) panel(out, w, p, w.panel(p)).numbers();
    return out;
}

// The same weights in panels of `panel_rows` rows, 8, 16 or 32; kernels read 16. Exactly what packing the unpacked form
// gives, and so made; allocates both.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] packed<S> repack(const packed_view<S>& w, std::size_t panel_rows, const Executor& threads = {}) {
    NIBBLE_CHECK(panel_layout::is_width(panel_rows), "repack: panels have 8, 16 or 32 rows");
    return detail::pack_panels(unpack(w, threads), panel_rows, detail::panel_packing<S>::copy_of(panel_rows), threads);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
