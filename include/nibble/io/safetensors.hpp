// safetensors.hpp: reader of safetensors, the model files of Hugging Face; gives the tensors to quantize by name.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/safetensors_parser.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// An open safetensors file: a length, a JSON header, and the tensors' bytes. The header has been parsed strictly and
// every shape, size and offset checked, so all that is handed out lies inside of the file. As the format rules, the
// header has at most 100 MB, names differ, and the tensors cover the data exactly, without overlap or hole; extents of
// 0, scalars, types that are not known and "__metadata__": null are allowed. The descriptions take memory in proportion
// to the header; the data is not copied.
class safetensors_file {
public:
    safetensors_file() noexcept = default;

    // Maps the file at `path`. If that fails, or the file is not well-formed, `out` stays as it was.
    [[nodiscard]] static status open(const char* path, safetensors_file& out) {
        mapped_file file;
        status s = mapped_file::open(path, file);
        if (!s.ok()) return s;
        return detail::in_file(path, open(std::move(file), out));
    }
    // Takes over a file that is mapped already.
    [[nodiscard]] static status open(mapped_file file, safetensors_file& out) {
        const std::span<const std::byte> bytes = file.bytes();
        status s = parse(bytes, out);
        if (s.ok()) out.file_ = std::move(file);
        return s;
    }
    // Reads a file that is in memory already and must stay there as long as `out` is used.
    [[nodiscard]] static status parse(std::span<const std::byte> bytes, safetensors_file& out) {
        detail::safetensors_content content;
        status s = detail::safetensors_parser(bytes).run(content);
        if (s.ok()) {
            out.content_ = std::move(content);
            out.file_ = mapped_file();
        }
        return s;
    }

    // In the order of the header. Types that read_matrix does not know are listed too, as tensor_type::other.
    [[nodiscard]] std::span<const tensor_info> tensors() const noexcept { return content_->tensors; }
    // nullptr if there is no tensor of that name.
    [[nodiscard]] const tensor_info* find(std::string_view name) const { return content_->find_tensor(name); }

    [[nodiscard]] std::span<const safetensors_text> metadata() const noexcept { return content_->metadata; }
    [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
        const safetensors_text* entry = content_->find_text(key);
        if (entry == nullptr) return std::nullopt;
        return entry->value;
    }

private:
    mapped_file file_; // empty after parse
    detail::reset_on_move<detail::safetensors_content> content_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
