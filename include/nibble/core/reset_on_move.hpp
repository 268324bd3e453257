// reset_on_move.hpp: a member that describes memory its object owns, and that goes back to its default when that is
// moved away.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/core/exchange.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// A T that is T{Default...} after it was moved from, so that an object whose memory is gone does not keep its shape:
// with such members the moves that the compiler writes leave an empty object. Copies are those of T; moving it to
// itself changes nothing.
template <class T, auto... Default> class reset_on_move {
public:
    constexpr reset_on_move() noexcept = default;
    constexpr reset_on_move(T value) noexcept : value_(static_cast<T&&>(value)) {}
    constexpr reset_on_move(const reset_on_move&) = default;
    constexpr reset_on_move(reset_on_move&& other) noexcept : value_(detail::exchange(other.value_, T{Default...})) {}
    constexpr reset_on_move& operator=(const reset_on_move&) = default;
    constexpr reset_on_move& operator=(reset_on_move&& other) noexcept {
        T taken = detail::exchange(other.value_, T{Default...});
        value_ = static_cast<T&&>(taken);
        return *this;
    }
    ~reset_on_move() = default;

    [[nodiscard]] constexpr operator const T&() const noexcept { return value_; }
    [[nodiscard]] constexpr const T* operator->() const noexcept { return &value_; }
    [[nodiscard]] constexpr T* operator->() noexcept { return &value_; }
    [[nodiscard]] constexpr const T& operator*() const noexcept { return value_; }
    [[nodiscard]] constexpr T& operator*() noexcept { return value_; }

private:
    T value_{Default...};
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
