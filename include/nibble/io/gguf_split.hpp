// gguf_split.hpp: GGUF models in several files: what a part says of itself, the names of the parts, and all of them as
// one.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/gguf_parser.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The name of part `index` (from 0) of `count`, as llama-gguf-split makes it: "m-00002-of-00005.gguf" of "m", 1, 5.
[[nodiscard]] inline std::string gguf_part_name(std::string_view prefix, std::size_t index, std::size_t count) {
    const auto five_digits = [](std::size_t number) {
        const std::string digits = std::to_string(number);
        return digits.size() < 5 ? std::string(5 - digits.size(), '0') + digits : digits;
    };
    return std::string(prefix) + "-" + five_digits(index + 1) + "-of-" + five_digits(count) + ".gguf";
}

namespace detail {

inline constexpr std::string_view split_index_key = "split.no";
inline constexpr std::string_view split_count_key = "split.count";
inline constexpr std::string_view split_tensors_key = "split.tensors.count";
inline constexpr std::uint64_t most_parts = 65535; // the key has 16 bits

// What a part says of itself. A file that is whole has count 1.
struct gguf_part {
    std::uint64_t index = 0;
    std::uint64_t count = 1;
    std::uint64_t tensors = 0; // of all parts
};

// A count of a file: an integer of any type that is not negative.
[[nodiscard]] inline bool whole_number(const gguf_value& value, std::uint64_t& out) noexcept {
    const std::size_t bytes = gguf_type_bytes(value.type);
    if (bytes == 0 || value.type == gguf_type::float32 || value.type == gguf_type::float64 ||
        value.type == gguf_type::boolean)
        return false;
    out = 0;
    for (std::size_t i = 0; i < bytes; ++i) out |= static_cast<std::uint64_t>(value.bytes[i]) << (8 * i);
    const bool has_sign = value.type == gguf_type::i8 || value.type == gguf_type::i16 || value.type == gguf_type::i32 ||
                          value.type == gguf_type::i64;
    return !has_sign || (out >> (8 * bytes - 1) & 1u) == 0;
}

[[nodiscard]] inline status find_part(const gguf_content& file, gguf_part& out) {
    gguf_part part;
    const gguf_value* count = file.find_value(split_count_key);
    if (count != nullptr && !whole_number(*count, part.count))
        return {status_code::malformed, "gguf: metadata 'split.count': must be an integer that is not negative"};
    if (part.count <= 1) { // of one part, or, as some writers say it, of none
        out = {};
        return {};
    }
    if (part.count > most_parts)
        return {status_code::malformed, "gguf: metadata 'split.count': " + std::to_string(part.count) +
                                            " parts, there can be " + std::to_string(most_parts)};
    const gguf_value* index = file.find_value(split_index_key);
    if (index == nullptr || !whole_number(*index, part.index) || part.index >= part.count)
        return {status_code::malformed, "gguf: metadata 'split.no': of " + std::to_string(part.count) +
                                            " parts each must have an integer from 0 to " +
                                            std::to_string(part.count - 1)};
    const gguf_value* tensors = file.find_value(split_tensors_key);
    if (tensors == nullptr || !whole_number(*tensors, part.tensors))
        return {status_code::malformed,
                "gguf: metadata 'split.tensors.count': must be an integer that is not negative, in every part"};
    out = part;
    return {};
}

// What stands in front of "-00001-of-00005.gguf" in a path; false if the path does not end in that.
[[nodiscard]] inline bool split_prefix(std::string_view path, std::size_t index, std::size_t count,
                                       std::string_view& out) {
    const std::string ending = gguf_part_name("", index, count);
    if (!path.ends_with(ending)) return false;
    out = path.substr(0, path.size() - ending.size());
    return true;
}

[[nodiscard]] inline bool is_split_key(std::string_view key) noexcept {
    return key == split_index_key || key == split_count_key || key == split_tensors_key;
}

// "part 2 of 5: "
[[nodiscard]] inline std::string part_text(std::size_t index, std::size_t count) {
    return "part " + std::to_string(index + 1) + " of " + std::to_string(count) + ": ";
}

// Adds a part's tensors to those of the parts before it; part 0 also brings the metadata. Which of them fits is
// checked: number and count, and that metadata which both have are the same, for parts of two models may have the same
// names and counts.
[[nodiscard]] inline status add_part(std::size_t index, gguf_content part, const gguf_part& first, gguf_content& all) {
    const std::string name = part_text(index, static_cast<std::size_t>(first.count));
    gguf_part told;
    status s = find_part(part, told);
    if (!s.ok()) return {s.code(), name + s.message()};
    if (told.count != first.count || told.index != index)
        return {status_code::mismatch,
                name + "says that it is part " + std::to_string(told.index + 1) + " of " + std::to_string(told.count)};
    if (told.tensors != first.tensors)
        return {status_code::mismatch, name + "counts " + std::to_string(told.tensors) + " tensors in all parts, the " +
                                           "first part " + std::to_string(first.tensors)};
    if (index == 0) {
        all = std::move(part);
        return {};
    }
    for (const gguf_value& value : part.metadata) {
        const gguf_value* known = all.find_value(value.key);
        if (known == nullptr || is_split_key(value.key) || value.key == "general.alignment") continue;
        if (known->type != value.type || known->element_type != value.element_type || known->count != value.count ||
            known->bytes.size() != value.bytes.size() ||
            (!value.bytes.empty() && std::memcmp(known->bytes.data(), value.bytes.data(), value.bytes.size()) != 0))
            return {status_code::mismatch, name + "metadata " + in_quotes(value.key) +
                                               " differ from those of the first part: it is a part "
                                               "of another model"};
    }
    for (tensor_info& tensor : part.tensors) all.tensors.push_back(std::move(tensor));
    for (std::vector<char>& names : part.type_names) all.type_names.push_back(std::move(names));
    return {};
}

// After the last part: all tensors there, each once. Then they are found by name, and the metadata are those of a file
// that was never split.
[[nodiscard]] inline status finish_parts(const gguf_part& first, gguf_content& all) {
    const std::size_t count = all.tensors.size();
    if (count != first.tensors)
        return {status_code::mismatch, "gguf: the " + std::to_string(first.count) + " parts have " +
                                           std::to_string(count) + " tensors, 'split.tensors.count' says " +
                                           std::to_string(first.tensors)};
    const std::size_t twice = all.tensor_names.build(count, [&](std::size_t i) { return all.tensors[i].name; });
    if (twice != count)
        return {status_code::malformed,
                "gguf: tensor " + in_quotes(all.tensors[twice].name) + " comes twice, in two of the parts"};
    std::size_t kept = 0;
    for (const gguf_value& value : all.metadata)
        if (!is_split_key(value.key)) all.metadata[kept++] = value;
    all.metadata.resize(kept);
    static_cast<void>(all.keys.build(kept, [&](std::size_t i) { return all.metadata[i].key; }));
    return {};
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
