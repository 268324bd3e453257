// array_view.hpp: array_view, a borrowed row of elements: what verbs take where one number for each of something is
// asked.
#pragma once

#include <nibble/core/config.hpp>

#include <cstddef>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// size() elements in someone else's memory; none: the pointer may be null. From std::span, std::vector, an array or
// whatever else has data() and size(), without a conversion of elements. Copying copies no element. (Why not std::span:
// its functions have one name under all compiler flags, so that of two units for different instruction sets the linker
// keeps either one's.)
template <class T> class array_view {
    template <class U> static constexpr bool same_elements = std::is_convertible_v<U (*)[], T (*)[]>;

public:
    using value_type = std::remove_cv_t<T>;

    constexpr array_view() noexcept = default;
    constexpr array_view(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N> constexpr array_view(T (&elements)[N]) noexcept : data_(elements), size_(N) {}
    // A temporary lends its elements for the call it stands in, and only to be read.
    template <class Range>
        requires(same_elements<std::remove_pointer_t<decltype(std::declval<Range&>().data())>> &&
                 std::is_convertible_v<decltype(std::declval<Range&>().size()), std::size_t>)
    constexpr array_view(Range&& range) noexcept : data_(range.data()), size_(range.size()) {}

    [[nodiscard]] constexpr T* data() const noexcept { return data_; }
    [[nodiscard]] constexpr std::size_t size() const noexcept { return size_; }
    [[nodiscard]] constexpr bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] constexpr T* begin() const noexcept { return data_; }
    [[nodiscard]] constexpr T* end() const noexcept { return data_ + size_; }
    [[nodiscard]] constexpr T& operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
