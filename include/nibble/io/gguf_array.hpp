// gguf_array.hpp: arrays among a GGUF file's metadata, read where they lie: strings one after the other, numbers by
// index.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/gguf_parser.hpp>
#include <nibble/io/gguf_types.hpp>

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The strings of an array; views of the file, which must stay open. Each follows its length, so they are walked in
// order, in one pass and without memory of its own: `for (std::string_view text : strings)`. Of any bytes, NUL among
// them.
class gguf_strings {
public:
    // An entry of an open file; aborts if it is no array of strings.
    explicit gguf_strings(const gguf_value& value)
        : bytes_(value.bytes), count_(static_cast<std::size_t>(value.count)) {
        NIBBLE_CHECK(value.type == gguf_type::array && value.element_type == gguf_type::string,
                     "gguf_strings: this entry is no array of strings");
    }

    class iterator {
    public:
        using value_type = std::string_view;
        using difference_type = std::ptrdiff_t;
        using iterator_category = std::forward_iterator_tag;
        using pointer = const std::string_view*;
        using reference = std::string_view;

        iterator() noexcept = default;
        [[nodiscard]] std::string_view operator*() const {
            const std::size_t length = text_length();
            return {reinterpret_cast<const char*>(rest_.data() + 8), length};
        }
        iterator& operator++() {
            rest_ = rest_.subspan(8 + text_length());
            --left_;
            return *this;
        }
        iterator operator++(int) {
            const iterator before = *this;
            ++*this;
            return before;
        }
        [[nodiscard]] friend bool operator==(const iterator& a, const iterator& b) noexcept {
            return a.left_ == b.left_;
        }

    private:
        friend class gguf_strings;
        iterator(std::span<const std::byte> rest, std::size_t left) noexcept : rest_(rest), left_(left) {}
        // The reader has walked the array once, so this fails for the end only, or for a file that changed since.
        [[nodiscard]] std::size_t text_length() const {
            NIBBLE_CHECK(left_ != 0 && rest_.size() >= 8, "gguf_strings: there is no string here");
            const auto length = detail::load_little<std::uint64_t>(rest_.data());
            NIBBLE_CHECK(length <= rest_.size() - 8, "gguf_strings: the string ends outside of the array");
            return static_cast<std::size_t>(length);
        }

        std::span<const std::byte> rest_;
        std::size_t left_ = 0;
    };

    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] iterator begin() const noexcept { return {bytes_, count_}; }
    [[nodiscard]] iterator end() const noexcept { return {}; }

private:
    std::span<const std::byte> bytes_;
    std::size_t count_;
};

// The numbers of an array, each loaded when it is asked for, for they lie at any address and lowest byte first.
template <gguf_number T> class gguf_array {
public:
    // An entry of an open file; aborts if it is no array of T.
    explicit gguf_array(const gguf_value& value) : bytes_(value.bytes) {
        NIBBLE_CHECK(value.type == gguf_type::array && value.element_type == detail::gguf_type_of<T>,
                     "gguf_array: this entry is an array of another type");
    }

    class iterator {
    public:
        using value_type = T;
        using difference_type = std::ptrdiff_t;
        using iterator_category = std::forward_iterator_tag;
        using pointer = const T*;
        using reference = T;

        iterator() noexcept = default;
        [[nodiscard]] T operator*() const {
            NIBBLE_CHECK(rest_.size() >= sizeof(T), "gguf_array: there is no number here");
            return detail::load_little<T>(rest_.data());
        }
        iterator& operator++() {
            NIBBLE_CHECK(rest_.size() >= sizeof(T), "gguf_array: there is no number here");
            rest_ = rest_.subspan(sizeof(T));
            return *this;
        }
        iterator operator++(int) {
            const iterator before = *this;
            ++*this;
            return before;
        }
        [[nodiscard]] friend bool operator==(const iterator& a, const iterator& b) noexcept {
            return a.rest_.size() == b.rest_.size();
        }

    private:
        friend class gguf_array;
        explicit iterator(std::span<const std::byte> rest) noexcept : rest_(rest) {}

        std::span<const std::byte> rest_;
    };

    [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() / sizeof(T); }
    [[nodiscard]] bool empty() const noexcept { return bytes_.empty(); }
    // Aborts outside of the array.
    [[nodiscard]] T operator[](std::size_t i) const {
        NIBBLE_CHECK(i < size(), "gguf_array: there is no number of this index");
        return detail::load_little<T>(bytes_.data() + i * sizeof(T));
    }
    [[nodiscard]] iterator begin() const noexcept { return iterator(bytes_); }
    [[nodiscard]] iterator end() const noexcept { return {}; }

private:
    std::span<const std::byte> bytes_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
