// dynamic_array.hpp: dynamic_array, elements in memory of their own that can grow: what options and results hold
// numbers in.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The part of std::vector that this library needs, under its names, for elements that are copied as bytes; it converts
// from and to standard containers. New elements are zero, or what their type begins with. A moved-from one is empty.
// (Why not std::vector: what it is made of, over float for example, has one name under all compiler flags, so that of
// two units for different instruction sets the linker keeps either one's.)
template <class T> class dynamic_array {
    static_assert(std::is_trivially_copyable_v<T>, "dynamic_array: elements that are copied as bytes");

public:
    using value_type = T;
    using size_type = std::size_t;
    using iterator = T*;
    using const_iterator = const T*;

    dynamic_array() noexcept = default;
    explicit dynamic_array(std::size_t count) { grow(count); }
    dynamic_array(std::size_t count, const T& value) { assign(count, value); }
    dynamic_array(const T* first, const T* last) { assign(first, last); }
    dynamic_array(std::initializer_list<T> values) { assign(values.begin(), values.end()); }
    template <class Range>
        requires requires(const Range& range) {
            { range.data() } -> std::same_as<const T*>;
            { range.size() } -> std::convertible_to<std::size_t>;
        }
    dynamic_array(const Range& range) {
        assign(range.data(), range.data() + range.size());
    }
    dynamic_array(const dynamic_array& other) { assign(other.begin(), other.end()); }
    dynamic_array(dynamic_array&& other) noexcept : data_(other.data_), size_(other.size_), capacity_(other.capacity_) {
        other.forget();
    }
    dynamic_array& operator=(const dynamic_array& other) {
        if (this != &other) assign(other.begin(), other.end());
        return *this;
    }
    dynamic_array& operator=(dynamic_array&& other) noexcept {
        if (this != &other) {
            delete[] data_;
            data_ = other.data_;
            size_ = other.size_;
            capacity_ = other.capacity_;
            other.forget();
        }
        return *this;
    }
    ~dynamic_array() { delete[] data_; }

    // To a standard container.
    template <class Container>
        requires(std::is_same_v<typename Container::value_type, T> &&
                 requires(const T* p) {
                     typename Container::allocator_type;
                     Container(p, p);
                 })
    operator Container() const {
        return Container(begin(), end());
    }

    [[nodiscard]] T* data() noexcept { return data_; }
    [[nodiscard]] const T* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] T* begin() noexcept { return data_; }
    [[nodiscard]] T* end() noexcept { return data_ + size_; }
    [[nodiscard]] const T* begin() const noexcept { return data_; }
    [[nodiscard]] const T* end() const noexcept { return data_ + size_; }
    [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
    [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }
    [[nodiscard]] T& front() noexcept { return data_[0]; }
    [[nodiscard]] const T& front() const noexcept { return data_[0]; }
    [[nodiscard]] T& back() noexcept { return data_[size_ - 1]; }
    [[nodiscard]] const T& back() const noexcept { return data_[size_ - 1]; }

    void clear() noexcept { size_ = 0; }
    void reserve(std::size_t capacity) {
        if (capacity > capacity_) reallocate(capacity);
    }
    void resize(std::size_t count) {
        if (count > capacity_) {
            grow(count);
        } else {
            for (std::size_t i = size_; i < count; ++i) data_[i] = T();
            size_ = count;
        }
    }
    void resize(std::size_t count, const T& value) {
        const T kept = value;
        const std::size_t before = size_;
        if (count > capacity_) reallocate(detail::max_of(count, 2 * size_));
        for (std::size_t i = before; i < count; ++i) data_[i] = kept;
        size_ = count;
    }
    void assign(std::size_t count, const T& value) {
        const T kept = value; // which may be one of the elements
        size_ = 0;
        reserve(count);
        for (std::size_t i = 0; i < count; ++i) data_[i] = kept;
        size_ = count;
    }
    // [first, last) lies outside.
    void assign(const T* first, const T* last) {
        size_ = 0;
        append(first, last);
    }
    void append(const T* first, const T* last) {
        const std::size_t count = static_cast<std::size_t>(last - first);
        if (count == 0) return;
        if (size_ + count > capacity_) reallocate(detail::max_of(size_ + count, 2 * size_));
        __builtin_memcpy(static_cast<void*>(data_ + size_), first, count * sizeof(T));
        size_ += count;
    }
    void push_back(const T& value) {
        const T kept = value;
        if (size_ == capacity_) reallocate(detail::max_of<std::size_t>(8, 2 * size_));
        data_[size_++] = kept;
    }
    void pop_back() noexcept { --size_; }

    template <class Range>
    [[nodiscard]] friend bool operator==(const dynamic_array& a, const Range& b) noexcept
        requires requires { b.data() == a.data(); }
    {
        if (a.size() != b.size()) return false;
        for (std::size_t i = 0; i < a.size(); ++i)
            if (!(a.data()[i] == b.data()[i])) return false;
        return true;
    }

private:
    void forget() noexcept {
        data_ = nullptr;
        size_ = 0;
        capacity_ = 0;
    }
    // Those from size_ on have the value that T begins with.
    void reallocate(std::size_t capacity) {
        T* const larger = new T[capacity]();
        if (size_ != 0) __builtin_memcpy(static_cast<void*>(larger), data_, size_ * sizeof(T));
        delete[] data_;
        data_ = larger;
        capacity_ = capacity;
    }
    void grow(std::size_t count) {
        if (count == 0) return;
        reallocate(count);
        size_ = count;
    }

    T* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
