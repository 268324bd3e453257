// safetensors_index.hpp: reads model.safetensors.index.json, which says what file each tensor of a sharded model is in.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/json.hpp>
#include <nibble/io/name_index.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// A parsed index; views into its text and into `escaped`. Moving keeps them valid.
struct safetensors_index {
    struct entry {
        std::string_view tensor;
        std::string_view file_name;
        std::size_t file = 0; // in `files`
    };
    std::vector<std::string_view> files; // each once, in the order of their names
    std::vector<entry> entries;
    std::optional<std::uint64_t> total_size; // bytes of all tensors; of newer files that write a float, its whole part
    std::vector<char> escaped;
};

// Is this the name of a file in the folder of the index, or below it? Not absolute, no step upwards, no empty part.
[[nodiscard]] inline bool is_name_below(std::string_view name) noexcept {
    if (name.find('\0') != std::string_view::npos || name.find('\\') != std::string_view::npos) return false;
    for (std::size_t begin = 0; begin <= name.size();) {
        const std::size_t slash = name.find('/', begin);
        const std::size_t end = slash == std::string_view::npos ? name.size() : slash;
        const std::string_view part = name.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..") return false;
        begin = end + 1;
    }
    return true;
}

class safetensors_index_parser {
public:
    explicit safetensors_index_parser(std::string_view text) : text_(text), json_(text, 0, "index", "text") {
        json_.allow_nonfinite();
    }

    // malformed: no JSON, no weight_map, or one that names a file outside of the folder. That a tensor comes twice is
    // for the caller to see, who indexes the names.
    [[nodiscard]] status run(safetensors_index& out) {
        const std::size_t invalid = find_invalid_utf8(text_);
        if (invalid != text_.size()) {
            json_.fail(status_code::malformed, "JSON", invalid, "is not valid UTF-8");
            return json_.error();
        }
        safetensors_index index;
        bool has_map = false;
        const auto field = [&](std::string_view key, std::size_t at) {
            if (key == "weight_map") {
                if (std::exchange(has_map, true))
                    return json_.fail(status_code::malformed, "weight_map", at, "comes twice");
                return json_.object(index.escaped, "weight_map",
                                    [&](std::string_view tensor, std::size_t) { return file_of(tensor, index); });
            }
            if (key == "metadata" && json_.peek() == '{')
                return json_.object(index.escaped, "metadata", [&](std::string_view name, std::size_t) {
                    return name == "total_size" ? total_size(index) : json_.skip_value(index.escaped, "metadata");
                });
            return json_.skip_value(index.escaped, "index");
        };
        if (!json_.object(index.escaped, "index", field) || !json_.end("end of the index")) return json_.error();
        if (!has_map) {
            json_.fail(status_code::malformed, "weight_map", text_.size(), "is missing");
            return json_.error();
        }
        number_files(index);
        out = std::move(index);
        return {};
    }

private:
    [[nodiscard]] bool file_of(std::string_view tensor, safetensors_index& index) {
        const std::size_t at = json_.offset();
        std::string_view name;
        if (!json_.string(name, index.escaped, "weight_map")) return false;
        if (!is_name_below(name))
            return json_.fail(status_code::malformed, "weight_map", at,
                              "file " + in_quotes(name) + " is not in the folder of the index");
        index.entries.push_back({tensor, name});
        return true;
    }
    static void number_files(safetensors_index& index) {
        std::vector<std::size_t> order(index.entries.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        heap_sort(order, [&](std::size_t a, std::size_t b) {
            return index.entries[a].file_name < index.entries[b].file_name;
        });
        for (const std::size_t i : order) {
            if (index.files.empty() || index.files.back() != index.entries[i].file_name)
                index.files.push_back(index.entries[i].file_name);
            index.entries[i].file = index.files.size() - 1;
        }
    }
    // Python writes an integer, or a float where it divided bits: 5700576256.0. What is neither is not told.
    [[nodiscard]] bool total_size(safetensors_index& index) {
        if (const char c = json_.peek(); c < '0' || c > '9') return json_.skip_value(index.escaped, "total_size");
        std::string_view spelt;
        if (!json_.number_text(spelt, "total_size")) return false;
        std::uint64_t value = 0;
        for (const char c : spelt) {
            if (c == '.') break;
            if (c < '0' || c > '9' || __builtin_mul_overflow(value, std::uint64_t{10}, &value) ||
                __builtin_add_overflow(value, static_cast<std::uint64_t>(c - '0'), &value))
                return true; // an exponent, or beyond any file
        }
        index.total_size = value;
        return true;
    }

    std::string_view text_;
    json_reader json_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
