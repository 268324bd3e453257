// gguf_hadamard.hpp: PrismML's models whose weights lie in a rotated basis (metadata prism.hadamard.*): what must be
// done to the activations, or to an embedding's rows, before they mean what they should.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/gguf.hpp>

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What a tensor wants. With H the normalised Walsh-Hadamard matrix of each block of block_size inputs
// (transform/hadamard.hpp), S the signs on a diagonal, W the weights that are meant and V those in the file:
enum class gguf_rotation {
    none,    // V = W
    input,   // V = W S H, so W x = V (H S x): rotate x before the product
    inverse, // an embedding; row i of W is S H (row i of V): rotate the row back after it was looked up
};

// The rotation of an open file; views of it. read_hadamard makes it.
class gguf_hadamard {
public:
    gguf_hadamard() = default;

    // 0: the file says nothing of a rotation.
    [[nodiscard]] std::size_t block_size() const noexcept { return block_; }
    // Which rotation the tensor of that name wants; a product of its weights without it is noise. Walks the names.
    [[nodiscard]] gguf_rotation of(std::string_view tensor) const {
        if (holds(inverse_, tensor)) return gguf_rotation::inverse;
        return holds(weights_, tensor) ? gguf_rotation::input : gguf_rotation::none;
    }
    // The input of ssm_out.weight has its heads in the order "group, then head of the group" in the weights, and "head
    // of the group, then group" where llama.cpp computes it: it must be put into the first before rotate.
    [[nodiscard]] bool value_heads_grouped() const noexcept { return heads_grouped_; }
    // Whether rows of that many numbers can be rotated: whole blocks, and signs for them if the file has any.
    [[nodiscard]] bool rotates(std::size_t cols) const noexcept {
        std::size_t first = 0;
        return block_ != 0 && cols % block_ == 0 && find_signs(cols, first);
    }

    // x = S x, in place; of a length that rotates() takes, else aborts. H S x is flip_signs(x), then hadamard(x,
    // block_size()) of transform/hadamard.hpp; S H x those in the other order.
    void flip_signs(array_view<float> x) const {
        std::size_t first = 0;
        NIBBLE_CHECK(block_ != 0 && x.size() % block_ == 0 && find_signs(x.size(), first),
                     "gguf_hadamard: the file has no rotation for rows of this length");
        for (std::size_t i = 0; has_signs_ && i < x.size(); ++i)
            if (negative_[first + i]) x[i] = -x[i];
    }

private:
    friend status read_hadamard(const gguf_file& file, gguf_hadamard& out);

    [[nodiscard]] static bool holds(const std::optional<gguf_strings>& names, std::string_view name) {
        if (!names.has_value()) return false;
        for (const std::string_view other : *names)
            if (other == name) return true;
        return false;
    }
    [[nodiscard]] bool find_signs(std::size_t cols, std::size_t& first) const noexcept {
        first = 0;
        for (const std::size_t width : widths_) {
            if (width == cols) return true;
            first += width;
        }
        return !has_signs_;
    }

    // What read_hadamard reads, key by key: each returns what it refuses.
    static constexpr const char* prefix = "prism.hadamard.";
    [[nodiscard]] static status refuse(status_code code, const char* key, std::string_view why) {
        return {code, "gguf: metadata " + detail::in_quotes(std::string(prefix) + key) + ": " + std::string(why)};
    }
    [[nodiscard]] static status check_transform(const gguf_file& file);
    [[nodiscard]] status read_block_size(const gguf_file& file);
    [[nodiscard]] status read_names(const gguf_file& file);
    [[nodiscard]] status read_signs(const gguf_file& file);
    [[nodiscard]] status check_tensors(const gguf_file& file) const;

    std::size_t block_ = 0;
    bool has_signs_ = false;
    bool heads_grouped_ = false;
    std::optional<gguf_strings> weights_;
    std::optional<gguf_strings> inverse_;
    std::vector<std::size_t> widths_;
    std::vector<bool> negative_; // the signs of one width after those of another
};

// The version, and the one transform, along the one axis, that it knows.
inline status gguf_hadamard::check_transform(const gguf_file& file) {
    if (file.metadata_integer(std::string(prefix) + "version") != 1)
        return refuse(status_code::unsupported, "version", "only version 1 is read");
    const struct {
        const char* key;
        std::string_view value;
    } fixed[] = {{"transform", "normalized-sylvester-walsh-hadamard"}, {"axis", "input-last-dimension"}};
    for (const auto& must : fixed) {
        const std::optional<std::string_view> text = file.metadata_text(std::string(prefix) + must.key);
        if (!text.has_value()) return refuse(status_code::malformed, must.key, "must be a text");
        if (*text != must.value)
            return refuse(status_code::unsupported, must.key,
                          detail::in_quotes(*text) + ": only " + std::string(must.value) + " is read");
    }
    return {};
}
inline status gguf_hadamard::read_block_size(const gguf_file& file) {
    const std::int64_t block = file.metadata_integer(std::string(prefix) + "block_size").value_or(0);
    if (block < 1 || !std::has_single_bit(static_cast<std::uint64_t>(block)) || block > (std::int64_t{1} << 30))
        return refuse(status_code::malformed, "block_size", "must be a power of two");
    block_ = static_cast<std::size_t>(block);
    return {};
}
// The names of the rotated tensors, and whether ssm_out.weight's heads are grouped.
inline status gguf_hadamard::read_names(const gguf_file& file) {
    const std::string grouped = std::string(prefix) + "gdn_v_grouped";
    const std::string inverse = std::string(prefix) + "inverse_weight_names";
    const gguf_value* value = file.metadata_value(grouped);
    if (value != nullptr && value->type != gguf_type::boolean)
        return refuse(status_code::malformed, "gdn_v_grouped", "must be a boolean");
    heads_grouped_ = file.metadata_flag(grouped).value_or(false);
    weights_ = file.metadata_strings(std::string(prefix) + "weight_names");
    if (!weights_.has_value() || weights_->empty())
        return refuse(status_code::malformed, "weight_names", "must be an array of names");
    inverse_ = file.metadata_strings(inverse);
    if (!inverse_.has_value() && file.metadata_value(inverse) != nullptr)
        return refuse(status_code::malformed, "inverse_weight_names", "must be an array of names");
    return {};
}
inline status gguf_hadamard::read_signs(const gguf_file& file) {
    const std::optional<std::string_view> mode = file.metadata_text(std::string(prefix) + "sign_mode");
    if (mode != "identity" && mode != "explicit")
        return refuse(mode.has_value() ? status_code::unsupported : status_code::malformed, "sign_mode",
                      "only identity and explicit are read");
    has_signs_ = mode == "explicit";
    if (!has_signs_) return {};
    const std::optional<std::vector<double>> widths = file.metadata_numbers(std::string(prefix) + "sign_widths");
    const std::optional<std::vector<double>> values = file.metadata_numbers(std::string(prefix) + "sign_values");
    if (!widths.has_value() || widths->empty())
        return refuse(status_code::malformed, "sign_widths", "must be an array of numbers");
    if (!values.has_value()) return refuse(status_code::malformed, "sign_values", "must be an array of numbers");
    std::size_t total = 0;
    for (const double width : *widths) {
        const std::size_t left = values->size() - total;
        // Compared as doubles first: only what is within the values is a size.
        if (!(width >= 1.0 && width <= static_cast<double>(left)) ||
            width != static_cast<double>(static_cast<std::size_t>(width)) ||
            static_cast<std::size_t>(width) % block_ != 0)
            return refuse(status_code::malformed, "sign_widths",
                          "must be multiples of block_size whose sum is the number of sign_values");
        widths_.push_back(static_cast<std::size_t>(width));
        total += widths_.back();
    }
    if (total != values->size())
        return refuse(status_code::malformed, "sign_widths",
                      "must be multiples of block_size whose sum is the number of sign_values");
    for (const double value : *values) {
        if (value != 1.0 && value != -1.0) return refuse(status_code::malformed, "sign_values", "must be 1 or -1");
        negative_.push_back(value < 0.0);
    }
    return {};
}
// Every tensor that is named is there, and has rows that can be rotated.
inline status gguf_hadamard::check_tensors(const gguf_file& file) const {
    for (const auto* names : {&weights_, &inverse_}) {
        if (!names->has_value()) continue;
        for (const std::string_view name : **names) {
            const tensor_info* tensor = file.find(name);
            if (tensor == nullptr || !rotates(tensor->cols()))
                return refuse(status_code::malformed, names == &weights_ ? "weight_names" : "inverse_weight_names",
                              detail::in_quotes(name) + (tensor == nullptr
                                                             ? ": there is no such tensor"
                                                             : ": there are no signs or blocks for its " +
                                                                   std::to_string(tensor->cols()) + " columns"));
        }
    }
    return {};
}

// The rotation that a file's metadata say; block_size() 0 if they say none. `out` stays as it was unless the result is
// ok: unsupported for another version, transform, axis or kind of signs than are known here, malformed for keys that
// are missing, of another type, or do not fit together.
[[nodiscard]] inline status read_hadamard(const gguf_file& file, gguf_hadamard& out) {
    gguf_hadamard read;
    if (file.metadata_value(std::string(gguf_hadamard::prefix) + "version") == nullptr) {
        for (const gguf_value& value : file.metadata())
            if (value.key.starts_with(gguf_hadamard::prefix))
                return gguf_hadamard::refuse(status_code::malformed, "version", "is missing");
        out = std::move(read);
        return {};
    }
    status s = gguf_hadamard::check_transform(file);
    if (s.ok()) s = read.read_block_size(file);
    if (s.ok()) s = read.read_names(file);
    if (s.ok()) s = read.read_signs(file);
    if (s.ok()) s = read.check_tensors(file);
    if (s.ok()) out = std::move(read);
    return s;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
