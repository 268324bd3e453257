// foreign_file.hpp: what a file is that is often given in place of a model file, for the message that refuses it.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/json.hpp>

#include <nibble/core/config.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// The files that the weight_map of an index ("model.safetensors.index.json") names, each once; none if `text` is no
// such JSON.
[[nodiscard]] inline std::vector<std::string> files_of_index(std::string_view text) {
    if (find_invalid_utf8(text) != text.size()) return {};
    std::vector<std::string> files;
    std::vector<char> escaped;
    json_reader json(text, 0, "index", "text");
    const auto file = [&](std::string_view, std::size_t) {
        std::string_view name;
        if (!json.string(name, escaped, "weight_map")) return false;
        for (std::size_t i = files.size(); i-- > 0;) // mostly the last one
            if (files[i] == name) return true;
        files.emplace_back(name);
        return true;
    };
    const bool good = json.object(escaped, "index", [&](std::string_view key, std::size_t) {
        return key == "weight_map" ? json.object(escaped, "weight_map", file) : json.skip_value(escaped, "index");
    });
    return good && json.end("end of the index") ? files : std::vector<std::string>{};
}

// "it is ..., so ...", or "" if nothing is known about such a file. Reads a JSON text once.
[[nodiscard]] inline std::string describe_foreign_file(std::span<const std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.starts_with("version https://git-lfs"))
        return "it is a Git LFS pointer, which stands for a file that is not here; git lfs pull fetches it";
    if (text.starts_with("PK\x03\x04"))
        return "it is a zip archive, as PyTorch writes it; save the model as safetensors";
    const std::size_t start = text.find_first_not_of(" \t\r\n");
    if (start == std::string_view::npos || text[start] != '{') return "";
    const std::vector<std::string> files = files_of_index(text);
    if (files.empty()) return "it is JSON; the weights are in the .safetensors or .gguf file beside it";
    constexpr std::size_t most = 3;
    std::string names;
    for (std::size_t i = 0; i < files.size() && i < most; ++i)
        names.append(i == 0 ? "" : ", ").append(in_quotes(files[i]));
    if (files.size() > most) names += " ...";
    return "it is an index of safetensors files; open the " +
           (files.size() == 1 ? std::string("file that it names: ")
                              : std::to_string(files.size()) + " files that it names, each by itself: ") +
           names;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
