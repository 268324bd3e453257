// atomic.hpp: a value that threads share, in the compiler's own operations; for failure handlers and shared work.
#pragma once

#include <nibble/core/config.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// What std::atomic does, each operation under its order. (std::atomic has functions of one name under all compiler
// flags, so that of two units for different instruction sets the linker keeps either one's.)
template <class T> class atomic {
public:
    explicit constexpr atomic(T value) noexcept : value_(value) {}
    atomic(const atomic&) = delete;
    atomic& operator=(const atomic&) = delete;

    [[nodiscard]] T load_relaxed() const noexcept { return __atomic_load_n(&value_, __ATOMIC_RELAXED); }
    [[nodiscard]] T load_acquire() const noexcept { return __atomic_load_n(&value_, __ATOMIC_ACQUIRE); }
    void store_relaxed(T value) noexcept { __atomic_store_n(&value_, value, __ATOMIC_RELAXED); }
    [[nodiscard]] T exchange(T value) noexcept { return __atomic_exchange_n(&value_, value, __ATOMIC_ACQ_REL); }
    // True if it was `seen` and now is `value`; else, which may happen for no reason, `seen` is what it was.
    [[nodiscard]] bool compare_exchange_relaxed(T& seen, T value) noexcept {
        return __atomic_compare_exchange_n(&value_, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }

private:
    alignas(sizeof(T)) T value_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
