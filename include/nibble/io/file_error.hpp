// file_error.hpp: how the readers speak of a broken file, and the checked arithmetic that keeps them inside of it.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// A name out of a file, fit for a message: in quotes, what does not print as \xNN, the end of a long one left out.
[[nodiscard]] inline std::string in_quotes(std::string_view name) {
    constexpr std::size_t longest = 80;
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text = "'";
    for (const char c : name.substr(0, longest)) {
        const auto code = static_cast<unsigned char>(c);
        if (code >= 0x20 && code < 0x7f) {
            text += c;
        } else {
            text += "\\x";
            text += digits[code >> 4];
            text += digits[code & 15];
        }
    }
    return text += name.size() > longest ? "...'" : "'";
}

// "<format>: <field> at byte <offset>: <why>"
[[nodiscard]] inline status file_error(status_code code, std::string_view format, std::string_view field,
                                       std::size_t offset, std::string_view why) {
    std::string text(format);
    text.append(": ").append(field).append(" at byte ").append(std::to_string(offset)).append(": ").append(why);
    return {code, std::move(text)};
}

// The same failure with the file's name in front.
[[nodiscard]] inline status in_file(const char* path, const status& s) {
    return s.ok() ? s : status(s.code(), std::string(path) + ": " + s.message());
}

// out = a x b; false if that does not fit.
[[nodiscard]] inline bool multiply(std::size_t a, std::size_t b, std::size_t& out) noexcept {
    return !__builtin_mul_overflow(a, b, &out);
}

// out = value; false if that does not fit, which only a 32-bit program can see.
[[nodiscard]] inline bool to_size(std::uint64_t value, std::size_t& out) noexcept {
    return !__builtin_add_overflow(value, std::uint64_t{0}, &out);
}

// A little-endian number at any address.
template <class T> [[nodiscard]] NIBBLE_INLINE T load_little(const std::byte* from) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    using narrow = std::conditional_t<sizeof(T) == 1, std::uint8_t, std::uint16_t>;
    using wide = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    using bits = std::conditional_t<(sizeof(T) <= 2), narrow, wide>;
    bits word = 0;
    std::memcpy(&word, from, sizeof word);
    if constexpr (std::endian::native == std::endian::big) {
        if constexpr (sizeof(T) == 2) word = __builtin_bswap16(word);
        if constexpr (sizeof(T) == 4) word = __builtin_bswap32(word);
        if constexpr (sizeof(T) == 8) word = __builtin_bswap64(word);
    }
    return detail::bit_cast<T>(word);
}

// A number to its little-endian bytes.
template <class T> inline void store_little(std::byte* to, T value) noexcept {
    if constexpr (std::endian::native == std::endian::big) {
        std::byte raw[sizeof(T)];
        std::memcpy(raw, &value, sizeof value);
        for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = raw[sizeof(T) - 1 - i];
    } else {
        std::memcpy(to, &value, sizeof value);
    }
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
