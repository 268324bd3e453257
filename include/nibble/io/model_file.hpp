// model_file.hpp: a model file of either format behind one interface; for programs that only want the tensors.
#pragma once

#include <nibble/io/foreign_file.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

enum class model_format { none, gguf, safetensors };

// What a file is by its content (the file's name does not matter): GGUF begins with its magic, the JSON of safetensors
// at byte 8 with a brace. No promise that the rest is well-formed.
[[nodiscard]] inline model_format detect_model_format(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) return model_format::gguf;
    if (bytes.size() > 8 && bytes[8] == std::byte{'{'}) return model_format::safetensors;
    return model_format::none;
}

// An open file of either format; see gguf_file and safetensors_file for what has been checked. Names and metadata stay
// those of the format (llama.cpp's "blk.0.attn_q.weight", Hugging Face's "model.layers.0.self_attn.q_proj.weight").
class model_file {
public:
    model_file() noexcept = default;

    // Maps the file at `path`, and with the first part of a split GGUF model its other parts. If that fails, or a file
    // is not well-formed, `out` stays as it was.
    [[nodiscard]] static status open(const char* path, model_file& out) {
        mapped_file file;
        status s = mapped_file::open(path, file);
        if (!s.ok()) return s;
        const std::span<const std::byte> bytes = file.bytes();
        s = read(bytes, out, [&](auto& reader) {
            if constexpr (requires { reader.open(std::move(file), path, reader); })
                return reader.open(std::move(file), path, reader);
            else
                return reader.open(std::move(file), reader);
        });
        return detail::in_file(path, s);
    }
    // Reads a file that is in memory already and must stay there as long as `out` is used.
    [[nodiscard]] static status parse(std::span<const std::byte> bytes, model_file& out) {
        return read(bytes, out, [&](auto& reader) { return reader.parse(bytes, reader); });
    }

    [[nodiscard]] model_format format() const noexcept { return format_; }
    [[nodiscard]] std::span<const tensor_info> tensors() const noexcept {
        return format_ == model_format::gguf ? gguf_.tensors() : safetensors_.tensors();
    }
    // nullptr if there is no tensor of that name.
    [[nodiscard]] const tensor_info* find(std::string_view name) const {
        return format_ == model_format::gguf ? gguf_.find(name) : safetensors_.find(name);
    }
    [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
        return format_ == model_format::gguf ? gguf_.metadata_text(key) : safetensors_.metadata_text(key);
    }

    // The reader of the format that this is; nullptr for the other one.
    [[nodiscard]] const gguf_file* as_gguf() const noexcept { return format_ == model_format::gguf ? &gguf_ : nullptr; }
    [[nodiscard]] const safetensors_file* as_safetensors() const noexcept {
        return format_ == model_format::safetensors ? &safetensors_ : nullptr;
    }

private:
    template <class Read>
    [[nodiscard]] static status read(std::span<const std::byte> bytes, model_file& out, const Read& read_into) {
        model_file file;
        file.format_ = detect_model_format(bytes);
        if (file.format_ == model_format::none) {
            const std::string foreign = detail::describe_foreign_file(bytes);
            return {status_code::malformed,
                    "model file: neither GGUF (no magic at byte 0) nor safetensors (no '{' at byte 8)" +
                        (foreign.empty() ? foreign : "; " + foreign)};
        }
        status s = file.format_ == model_format::gguf ? read_into(file.gguf_) : read_into(file.safetensors_);
        if (s.ok()) out = std::move(file);
        return s;
    }

    detail::reset_on_move<model_format> format_;
    gguf_file gguf_;
    safetensors_file safetensors_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
