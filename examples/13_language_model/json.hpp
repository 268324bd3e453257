// json.hpp: the little of JSON that lies beside Hugging Face's weights, as a tree.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

inline void append_utf8(std::string& to, unsigned code) {
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr unsigned leads[] = {0, 0xc0, 0xe0, 0xf0};
    to += static_cast<char>(static_cast<unsigned char>(leads[more] | code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i)
        to += static_cast<char>(static_cast<unsigned char>(0x80 | (code >> (6 * i) & 63)));
}

struct json {
    struct field;
    enum class kind { null, boolean, number, text, array, object };
    kind is = kind::null;
    double number = 0; // of a boolean: 0 or 1
    std::string text;
    std::vector<field> items; // of an array: under empty names

    [[nodiscard]] static json parse(std::string_view text);
    // A field of an object; nullptr if there is none or it is null.
    [[nodiscard]] const json* find(std::string_view name) const;
    [[nodiscard]] double number_of(std::string_view name, double otherwise) const {
        const json* value = find(name);
        return value != nullptr ? value->number : otherwise;
    }
    [[nodiscard]] std::string_view text_of(std::string_view name) const {
        const json* value = find(name);
        return value != nullptr ? std::string_view(value->text) : std::string_view();
    }
};
struct json::field {
    std::string name;
    json value;
};
inline const json* json::find(std::string_view name) const {
    for (const field& one : items)
        if (one.name == name && one.value.is != kind::null) return &one.value;
    return nullptr;
}

class json_parser {
public:
    explicit json_parser(std::string_view text) : text_(text) {}
    [[nodiscard]] json whole() {
        json v = value(0);
        if (accept("") && at_ != text_.size()) fail();
        return v;
    }

private:
    [[noreturn]] void fail() const { throw std::runtime_error("no valid JSON at byte " + std::to_string(at_)); }
    [[nodiscard]] bool accept(std::string_view word) { // after spaces
        while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }
    [[nodiscard]] json value(int depth) {
        json v;
        if (depth > 64) fail();
        if (accept("{") || accept("[")) {
            const bool object = text_[at_ - 1] == '{';
            v.is = object ? json::kind::object : json::kind::array;
            for (bool first = true; !accept(object ? "}" : "]"); first = false) {
                if (!first && !accept(",")) fail();
                std::string name;
                if (object) {
                    if (!accept("\"")) fail();
                    name = string();
                    if (!accept(":")) fail();
                }
                v.items.push_back({std::move(name), value(depth + 1)});
            }
        } else if (accept("\"")) {
            v.is = json::kind::text;
            v.text = string();
        } else if (accept("true") || accept("false")) {
            v.is = json::kind::boolean;
            v.number = text_[at_ - 2] == 'u' ? 1 : 0;
        } else if (!accept("null")) {
            const std::string digits(text_.substr(at_, 40));
            char* end = nullptr;
            v.is = json::kind::number;
            v.number = std::strtod(digits.c_str(), &end);
            if (end == digits.c_str()) fail();
            at_ += static_cast<std::size_t>(end - digits.c_str());
        }
        return v;
    }
    [[nodiscard]] unsigned hexadecimal() {
        at_ += 5;
        return static_cast<unsigned>(std::strtoul(std::string(text_.substr(at_ - 4, 4)).c_str(), nullptr, 16));
    }
    [[nodiscard]] std::string string() { // behind the opening quote
        std::string out;
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] != '\\') {
                out += text_[at_++];
            } else if (at_ + 6 <= text_.size() && text_[++at_] == 'u') {
                unsigned code = hexadecimal();
                if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_, 2) == "\\u" && at_++ + 6 <= text_.size())
                    code = 0x10000 + ((code - 0xd800) << 10) + (hexadecimal() - 0xdc00);
                append_utf8(out, code);
            } else {
                const std::size_t i = std::string_view("bfnrt").find(text_[at_]);
                out += i != std::string_view::npos ? "\b\f\n\r\t"[i] : text_[at_];
                ++at_;
            }
        }
        if (at_ >= text_.size()) fail();
        ++at_;
        return out;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};
inline json json::parse(std::string_view text) {
    return json_parser(text).whole();
}
