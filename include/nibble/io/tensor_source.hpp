// tensor_source.hpp: whatever has tensors by name, for readers of layers: one safetensors file, or a model of several.
#pragma once

#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What a tensor_source can stand for: safetensors_file, safetensors_model, model_file, or a user's own.
//   tensors()           every tensor
//   find(name)          the tensor of that name, nullptr if there is none
//   metadata_text(key)  what the file says besides, if it does
template <class F>
concept has_tensors = requires(const F& file, std::string_view name) {
    { file.tensors() } -> std::convertible_to<std::span<const tensor_info>>;
    { file.find(name) } -> std::convertible_to<const tensor_info*>;
    { file.metadata_text(name) } -> std::convertible_to<std::optional<std::string_view>>;
};

// A view of an open file: it owns nothing, and the file must stay as long as it is used. Made of any file without being
// asked, so that functions take one in place of a file. Every tensor that it hands out must have the bytes that its
// shape and type need, as the readers of this library see to.
class tensor_source {
public:
    template <has_tensors File>
        requires(!std::same_as<std::remove_cvref_t<File>, tensor_source>)
    tensor_source(const File& file) noexcept // NOLINT(google-explicit-constructor): see above
        : file_(&file), tensors_([](const void* f) -> std::span<const tensor_info> { return as<File>(f).tensors(); }),
          find_([](const void* f, std::string_view name) -> const tensor_info* { return as<File>(f).find(name); }),
          text_([](const void* f, std::string_view key) -> std::optional<std::string_view> {
              return as<File>(f).metadata_text(key);
          }) {}

    [[nodiscard]] std::span<const tensor_info> tensors() const { return tensors_(file_); }
    // nullptr if there is no tensor of that name.
    [[nodiscard]] const tensor_info* find(std::string_view name) const { return find_(file_, name); }
    [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
        return text_(file_, key);
    }

private:
    template <class File> [[nodiscard]] static const File& as(const void* file) noexcept {
        return *static_cast<const File*>(file);
    }

    const void* file_;
    std::span<const tensor_info> (*tensors_)(const void*);
    const tensor_info* (*find_)(const void*, std::string_view);
    std::optional<std::string_view> (*text_)(const void*, std::string_view);
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
