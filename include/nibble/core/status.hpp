// status.hpp: what try_ functions and readers return when data, not the caller, is at fault.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/config.hpp>

#include <string>
#include <string_view>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

enum class status_code {
    ok,
    cannot_open, // the file is missing, unreadable or cannot be mapped
    truncated,   // data ends before a field that it announces
    malformed,   // a field has a value that the format forbids
    unsupported, // legal, but of a type or version that this library does not read
    not_found,   // no tensor, or format, of that name
    mismatch,    // stored for another scheme or shape
};

// A code and, unless it is ok, a sentence that says which field, where, and what was wrong.
class status {
public:
    status() noexcept = default;
    status(status_code code, std::string message) : code_(code), message_(std::move(message)) {}
    [[nodiscard]] bool ok() const noexcept { return code_ == status_code::ok; }
    [[nodiscard]] explicit operator bool() const noexcept { return ok(); }
    [[nodiscard]] status_code code() const noexcept { return code_; }
    [[nodiscard]] const std::string& message() const noexcept { return message_; }

private:
    status_code code_ = status_code::ok;
    std::string message_;
};

namespace detail {

// not_found: "verb: no <what> 'name'; there are a, b, c".
[[nodiscard]] inline status no_such_name(std::string_view verb, std::string_view what, std::string_view name,
                                         array_view<const std::string_view> known) {
    std::string text;
    text.append(verb).append(": no ").append(what).append(" '").append(name).append("'; there are ");
    for (std::size_t i = 0; i < known.size(); ++i) text.append(i == 0 ? "" : ", ").append(known[i]);
    return {status_code::not_found, std::move(text)};
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
