// kernel/arena.hpp: pieces of one block of memory, or their sizes.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Hands out 64-byte aligned pieces of a block of memory; with a null base it only counts.
class arena {
public:
    explicit arena(std::byte* base = nullptr) noexcept : base_(base) {}
    template <class T> [[nodiscard]] T* take(std::size_t count) noexcept {
        T* at = base_ != nullptr ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += detail::round_up(count * sizeof(T), 64);
        return at;
    }
    [[nodiscard]] std::size_t used() const noexcept { return used_; }

private:
    std::byte* base_;
    std::size_t used_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
