// json.hpp: strict reading of JSON: safetensors headers and what lies beside them; no tree, no dependency.
#pragma once

#include <nibble/io/file_error.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// The position of the first byte that is no part of valid UTF-8 (no overlong form, no surrogate), or text.size().
[[nodiscard]] inline std::size_t find_invalid_utf8(std::string_view text) noexcept {
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    std::size_t i = 0;
    while (i < text.size()) {
        const unsigned char lead = at(i);
        if (lead < 0x80) {
            ++i;
            continue;
        }
        const std::size_t more = lead >= 0xc2 && lead <= 0xdf   ? 1
                                 : lead >= 0xe0 && lead <= 0xef ? 2
                                 : lead >= 0xf0 && lead <= 0xf4 ? 3
                                                                : 0;
        if (more == 0 || more >= text.size() - i) return i;
        // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
        const unsigned char lowest = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const unsigned char highest = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (at(i + 1) < lowest || at(i + 1) > highest) return i;
        for (std::size_t j = 2; j <= more; ++j)
            if ((at(i + j) & 0xc0) != 0x80) return i;
        i += more + 1;
    }
    return i;
}

// A cursor over one JSON text. Every function either steps over what its name says, white space before it included, or
// sets the error and returns false. `what` says for the message which field is being read.
class json_reader {
public:
    // `text` must be valid UTF-8 and stay; it begins at byte `base` of the file that messages speak of. `format` stands
    // in front of them, `whole` is what they call the text.
    json_reader(std::string_view text, std::size_t base, std::string_view format = "safetensors",
                std::string_view whole = "header") noexcept
        : text_(text), base_(base), format_(format), whole_(whole) {}

    [[nodiscard]] const status& error() const noexcept { return error_; }
    // Byte offset in the file of what comes next.
    [[nodiscard]] std::size_t offset() {
        skip_space();
        return base_ + at_;
    }
    // Puts a tensor's name in front of the field in messages from here on.
    void name_tensor(std::string_view name) {
        tensor_ = name;
        in_tensor_ = true;
    }
    void leave_tensor() noexcept { in_tensor_ = false; }
    // skip_value takes NaN, Infinity and -Infinity for numbers from here on: Python writes them.
    void allow_nonfinite() noexcept { nonfinite_ = true; }

    // `offset` counts from the beginning of the file.
    bool fail(status_code code, std::string_view what, std::size_t offset, std::string_view why) {
        std::string field = in_tensor_ ? "tensor " + in_quotes(tensor_) + " " : std::string();
        field.append(what);
        error_ = file_error(code, format_, field, offset, why);
        return false;
    }

    // Steps over `c` if that is what comes next; no error otherwise.
    [[nodiscard]] bool accept(char c) {
        skip_space();
        if (at_ == text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    [[nodiscard]] bool expect(char c, std::string_view what) {
        return accept(c) || unexpected(std::string("'") + c + "'", what);
    }
    [[nodiscard]] bool end(std::string_view what) {
        skip_space();
        return at_ == text_.size() || unexpected("nothing but spaces", what);
    }

    // Where a string has no escapes, `out` views the text itself; others are written out into `escaped`, whose capacity
    // must be at least the text's size (so that it never moves: an escape is longer than what it stands for).
    [[nodiscard]] bool string(std::string_view& out, std::vector<char>& escaped, std::string_view what) {
        if (!expect('"', what)) return false;
        const std::size_t start = at_;
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (c == '"') {
                out = text_.substr(start, at_ - start);
                ++at_;
                return true;
            }
            if (c == '\\') return escaped_string(out, start, escaped, what);
            if (static_cast<unsigned char>(c) < 0x20) return unexpected("no control character in a string", what);
            ++at_;
        }
        return unexpected("'\"'", what);
    }

    // An object: visit(key, offset of the key) steps over each field's value, or returns false after setting the error.
    template <class Visit>
    [[nodiscard]] bool object(std::vector<char>& escaped, std::string_view what, const Visit& visit) {
        if (!expect('{', what)) return false;
        if (accept('}')) return true;
        do {
            const std::size_t at = offset();
            std::string_view key;
            if (!string(key, escaped, "field name") || !expect(':', what) || !visit(key, at)) return false;
        } while (accept(','));
        return expect('}', what);
    }

    // A number without sign, fraction, exponent or leading zero, of at most 64 bits.
    [[nodiscard]] bool integer(std::uint64_t& out, std::string_view what) {
        skip_space();
        const std::size_t start = at_;
        out = 0;
        for (; digit(); ++at_) {
            if (at_ > start && text_[start] == '0') return unexpected("no leading zero", what);
            if (__builtin_mul_overflow(out, std::uint64_t{10}, &out) ||
                __builtin_add_overflow(out, static_cast<std::uint64_t>(text_[at_] - '0'), &out))
                return fail(status_code::malformed, what, base_ + start, "the number does not fit in 64 bits");
        }
        if (at_ == start) return unexpected("an unsigned integer", what);
        if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E'))
            return unexpected("an integer without fraction or exponent", what);
        return true;
    }

    // Any number, as it is spelt.
    [[nodiscard]] bool number_text(std::string_view& out, std::string_view what) {
        skip_space();
        const std::size_t start = at_;
        if (!number(what)) return false;
        out = text_.substr(start, at_ - start);
        return true;
    }

    // The first character of what comes next, 0 at the end: tells what kind of value it is.
    [[nodiscard]] char peek() noexcept {
        skip_space();
        return at_ < text_.size() ? text_[at_] : '\0';
    }

    // Any value, checked and dropped.
    [[nodiscard]] bool skip_value(std::vector<char>& escaped, std::string_view what, int depth = 0) {
        if (depth > deepest) return fail(status_code::malformed, what, offset(), "nested too deeply");
        std::string_view text;
        const char c = peek();
        if (nonfinite_)
            for (const std::string_view word : {"NaN", "Infinity", "-Infinity"})
                if (text_.substr(at_, word.size()) == word) {
                    at_ += word.size();
                    return true;
                }
        switch (c) {
        case '"':
            return string(text, escaped, what);
        case '{':
        case '[': {
            const char close = c == '{' ? '}' : ']';
            ++at_;
            if (accept(close)) return true;
            do {
                if (c == '{' && (!string(text, escaped, what) || !expect(':', what))) return false;
                if (!skip_value(escaped, what, depth + 1)) return false;
            } while (accept(','));
            return expect(close, what);
        }
        case 't':
            return word("true", what);
        case 'f':
            return word("false", what);
        case 'n':
            return word("null", what);
        default:
            return number(what);
        }
    }

private:
    static constexpr int deepest = 32;

    void skip_space() noexcept {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
            ++at_;
    }
    [[nodiscard]] bool digit() const noexcept { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; }
    // Fails at the cursor.
    bool unexpected(std::string_view wanted, std::string_view what) {
        const std::string found =
            at_ < text_.size() ? in_quotes(text_.substr(at_, 1)) : "the end of the " + std::string(whole_);
        return fail(status_code::malformed, what, base_ + at_, "expected " + std::string(wanted) + ", found " + found);
    }

    [[nodiscard]] bool word(std::string_view literal, std::string_view what) {
        if (text_.substr(at_, literal.size()) != literal) return unexpected("a JSON value", what);
        at_ += literal.size();
        return true;
    }
    [[nodiscard]] bool digits(std::string_view what) {
        if (!digit()) return unexpected("a digit", what);
        while (digit()) ++at_;
        return true;
    }
    [[nodiscard]] bool number(std::string_view what) {
        const auto one_of = [&](char a, char b) { return at_ < text_.size() && (text_[at_] == a || text_[at_] == b); };
        if (one_of('-', '-')) ++at_;
        if (!digit()) return unexpected("a JSON value", what);
        if (text_[at_] == '0')
            ++at_;
        else if (!digits(what))
            return false;
        if (one_of('.', '.')) {
            ++at_;
            if (!digits(what)) return false;
        }
        if (one_of('e', 'E')) {
            ++at_;
            if (one_of('+', '-')) ++at_;
            if (!digits(what)) return false;
        }
        return true;
    }

    [[nodiscard]] bool escaped_string(std::string_view& out, std::size_t start, std::vector<char>& escaped,
                                      std::string_view what) {
        escaped.reserve(text_.size());
        const std::size_t first = escaped.size();
        for (at_ = start; at_ < text_.size(); ++at_) {
            const char c = text_[at_];
            if (c == '"') {
                out = {escaped.data() + first, escaped.size() - first};
                ++at_;
                return true;
            }
            if (static_cast<unsigned char>(c) < 0x20) return unexpected("no control character in a string", what);
            if (c != '\\')
                escaped.push_back(c);
            else if (!escape(escaped, what))
                return false;
        }
        return unexpected("'\"'", what);
    }
    // From a backslash to the last character of its escape.
    [[nodiscard]] bool escape(std::vector<char>& escaped, std::string_view what) {
        ++at_;
        switch (at_ < text_.size() ? text_[at_] : '\0') {
        case '"':
            escaped.push_back('"');
            return true;
        case '\\':
            escaped.push_back('\\');
            return true;
        case '/':
            escaped.push_back('/');
            return true;
        case 'b':
            escaped.push_back('\b');
            return true;
        case 'f':
            escaped.push_back('\f');
            return true;
        case 'n':
            escaped.push_back('\n');
            return true;
        case 'r':
            escaped.push_back('\r');
            return true;
        case 't':
            escaped.push_back('\t');
            return true;
        case 'u':
            break;
        default:
            return unexpected("a JSON escape", what);
        }
        const std::size_t start = base_ + at_;
        std::uint32_t code = 0;
        if (!hexadecimal(code, what)) return false;
        if (code >= 0xd800 && code < 0xe000) { // half of a pair
            std::uint32_t second = 0;
            const bool pair = code < 0xdc00 && text_.substr(at_ + 1, 2) == "\\u";
            at_ += pair ? 2 : 0;
            if (pair && !hexadecimal(second, what)) return false;
            if (second < 0xdc00 || second >= 0xe000)
                return fail(status_code::malformed, what, start, "half of a surrogate pair in a string");
            code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
        }
        append_utf8(escaped, code);
        return true;
    }
    // The four digits after the cursor, which is left on the last one.
    [[nodiscard]] bool hexadecimal(std::uint32_t& out, std::string_view what) {
        out = 0;
        for (int i = 0; i < 4; ++i) {
            ++at_;
            const char c = at_ < text_.size() ? text_[at_] : '\0';
            const int value = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
            if (value < 0) return unexpected("a hexadecimal digit", what);
            out = out << 4 | static_cast<std::uint32_t>(value);
        }
        return true;
    }
    static void append_utf8(std::vector<char>& to, std::uint32_t code) {
        const auto push = [&](std::uint32_t byte) { to.push_back(static_cast<char>(byte)); };
        if (code < 0x80) {
            push(code);
        } else if (code < 0x800) {
            push(0xc0 | code >> 6);
            push(0x80 | (code & 63));
        } else if (code < 0x10000) {
            push(0xe0 | code >> 12);
            push(0x80 | (code >> 6 & 63));
            push(0x80 | (code & 63));
        } else {
            push(0xf0 | code >> 18);
            push(0x80 | (code >> 12 & 63));
            push(0x80 | (code >> 6 & 63));
            push(0x80 | (code & 63));
        }
    }

    std::string_view text_;
    std::size_t base_;
    std::size_t at_ = 0;
    std::string_view format_;
    std::string_view whole_;
    std::string_view tensor_;
    bool in_tensor_ = false;
    bool nonfinite_ = false;
    status error_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
