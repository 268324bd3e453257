// packed.hpp: codes and scales in the order a kernel reads them, with their memory; made by pack, read by gemm.
#pragma once

#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/exchange.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/layout.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A packed_view that owns its memory, and so converts to one; copies are deep, moved from it is 0 x 0. packed_shape
// says what stands where.
template <any_scheme Scheme> class packed : public packed_view<Scheme> {
    using view = packed_view<Scheme>;

public:
    packed() noexcept = default;
    packed(std::size_t rows, std::size_t cols, allocator from = {}) : packed(packed_shape<Scheme>(rows, cols), from) {}
    explicit packed(const packed_shape<Scheme>& shape, allocator from = {}) {
        NIBBLE_CHECK(panel_layout::is_width(shape.panel_rows()), "packed: panels have 8, 16 or 32 rows");
        NIBBLE_CHECK(shape.panels() == 0 || shape.panel_bytes() <= (SIZE_MAX / 4) / shape.panels(),
                     "packed: rows x cols does not fit in the address space");
        memory_ = buffer(shape.bytes(), from);
        static_cast<view&>(*this) = view(shape, memory_.data());
    }
    packed(const packed& other) : view(other), memory_(other.memory_) { this->panels_ = memory_.data(); }
    packed(packed&& other) noexcept
        : view(detail::exchange(static_cast<view&>(other), view())), memory_(static_cast<buffer&&>(other.memory_)) {}
    packed& operator=(packed other) noexcept {
        detail::swap(static_cast<view&>(*this), static_cast<view&>(other));
        detail::swap(memory_, other.memory_);
        return *this;
    }
    ~packed() = default;

    using view::panel;
    [[nodiscard]] std::byte* panel(std::size_t p) noexcept { return memory_.data() + p * this->panel_bytes(); }
    void set_offset(float value) noexcept
        requires(Scheme::has_offset)
    {
        this->offset_ = value;
    }

private:
    buffer memory_{};
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
