// json_fields.hpp: fields of JSON objects as what they should be.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>

using nlohmann::json;

// nullptr where there is none, or null.
[[nodiscard]] inline const json* field_of(const json& in, const char* name) {
    const auto at = in.find(name);
    return at != in.end() && !at->is_null() ? &*at : nullptr;
}
[[nodiscard]] inline std::string text_of(const json& in, const char* name, const char* otherwise = "") {
    const json* const value = field_of(in, name);
    return value != nullptr && value->is_string() ? value->get<std::string>() : otherwise;
}
// Of a flag 0 or 1. Without `otherwise` it must be there.
[[nodiscard]] inline double number_of(const json& in, const char* name, std::optional<double> otherwise = {}) {
    const json* const value = field_of(in, name);
    if (value != nullptr && value->is_boolean()) return value->get<bool>() ? 1 : 0;
    if (value != nullptr && value->is_number()) return value->get<double>();
    if (!otherwise) throw std::runtime_error(std::string("the number '") + name + "' is missing");
    return *otherwise;
}
[[nodiscard]] inline std::size_t count_of(const json& in, const char* name, std::optional<double> otherwise = {}) {
    const double value = number_of(in, name, otherwise);
    if (!(value >= 0 && value < 1e9)) throw std::runtime_error(std::string("'") + name + "' is no number of anything");
    return static_cast<std::size_t>(value);
}
