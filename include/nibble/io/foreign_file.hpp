// foreign_file.hpp: what a file is that is often given in place of a model file, for the message that refuses it.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/safetensors_index.hpp>

#include <nibble/core/config.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// "it is ..., so ...", or "" if nothing is known about such a file. Reads a JSON text once.
[[nodiscard]] inline std::string describe_foreign_file(std::span<const std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.starts_with("version https://git-lfs"))
        return "it is a Git LFS pointer, which stands for a file that is not here; git lfs pull fetches it";
    if (text.starts_with("PK\x03\x04"))
        return "it is a zip archive, as PyTorch writes it; save the model as safetensors";
    const std::size_t start = text.find_first_not_of(" \t\r\n");
    if (start == std::string_view::npos || text[start] != '{') return "";
    safetensors_index index;
    if (!safetensors_index_parser(text).run(index).ok() || index.files.empty())
        return "it is JSON; the weights are in the .safetensors or .gguf file beside it";
    constexpr std::size_t most = 3;
    std::string names;
    for (std::size_t i = 0; i < index.files.size() && i < most; ++i)
        names.append(i == 0 ? "" : ", ").append(in_quotes(index.files[i]));
    if (index.files.size() > most) names += " ...";
    return "it is an index of safetensors files; safetensors_model opens it with the " +
           (index.files.size() == 1 ? std::string("file that it names: ")
                                    : std::to_string(index.files.size()) + " files that it names: ") +
           names;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
