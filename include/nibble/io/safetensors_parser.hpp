// safetensors_parser.hpp: turns a safetensors header into descriptions of tensors; the work behind safetensors.hpp.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/foreign_file.hpp>
#include <nibble/io/json.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// One entry of the header's __metadata__.
struct safetensors_text {
    std::string_view key;
    std::string_view value;
};

namespace detail {

// What a parsed file holds; views into its bytes. May be moved: moving a vector leaves its elements where they are.
struct safetensors_content {
    std::vector<tensor_info> tensors;
    std::vector<safetensors_text> metadata;
    name_index tensor_names;
    name_index keys;
    std::vector<char> escaped; // strings that the header spells with escapes

    [[nodiscard]] const tensor_info* find_tensor(std::string_view name) const {
        const std::size_t i = tensor_names.find(name, [this](std::size_t at) { return tensors[at].name; });
        return i < tensors.size() ? &tensors[i] : nullptr;
    }
    [[nodiscard]] const safetensors_text* find_text(std::string_view key) const {
        const std::size_t i = keys.find(key, [this](std::size_t at) { return metadata[at].key; });
        return i < metadata.size() ? &metadata[i] : nullptr;
    }
};

// An element type of the format. Those that are missing here are listed as `other`, of the length that the file says.
struct safetensors_type {
    std::string_view name;
    std::uint32_t bits;
    tensor_type type = tensor_type::other;
};

inline constexpr safetensors_type safetensors_types[] = {
    {.name = "F32", .bits = 32, .type = tensor_type::float32},
    {.name = "F16", .bits = 16, .type = tensor_type::float16},
    {.name = "BF16", .bits = 16, .type = tensor_type::bfloat16},
    {.name = "BOOL", .bits = 8},
    {.name = "F4", .bits = 4},
    {.name = "F6_E2M3", .bits = 6},
    {.name = "F6_E3M2", .bits = 6},
    {.name = "U8", .bits = 8},
    {.name = "I8", .bits = 8},
    {.name = "F8_E5M2", .bits = 8},
    {.name = "F8_E4M3", .bits = 8},
    {.name = "F8_E8M0", .bits = 8},
    {.name = "F8_E4M3FNUZ", .bits = 8},
    {.name = "F8_E5M2FNUZ", .bits = 8},
    {.name = "I16", .bits = 16},
    {.name = "U16", .bits = 16},
    {.name = "I32", .bits = 32},
    {.name = "U32", .bits = 32},
    {.name = "C64", .bits = 64},
    {.name = "F64", .bits = 64},
    {.name = "I64", .bits = 64},
    {.name = "U64", .bits = 64},
};

// Each step returns false after setting the reader's error.
class safetensors_parser {
public:
    explicit safetensors_parser(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}

    [[nodiscard]] status run(safetensors_content& out) {
        if (!length()) return json_.error();
        safetensors_content file;
        if (!header(file) || !index(file) || !cover(file)) return json_.error();
        out = std::move(file);
        return {};
    }

private:
    static constexpr std::uint64_t longest_header = 100'000'000; // the format's limit

    [[nodiscard]] bool length() {
        if (bytes_.size() < 8)
            return json_.fail(status_code::truncated, "header length", 0,
                              "needs 8 bytes, " + std::to_string(bytes_.size()) + " bytes are there");
        const auto length = load_little<std::uint64_t>(bytes_.data());
        if (length > longest_header) {
            const std::string foreign = describe_foreign_file(bytes_);
            return json_.fail(status_code::malformed, "header length", 0,
                              std::to_string(length) + " is above the limit of " + std::to_string(longest_header) +
                                  (foreign.empty() ? "" : ": this is no safetensors file, ") + foreign);
        }
        if (length > bytes_.size() - 8)
            return json_.fail(status_code::truncated, "header length", 0,
                              std::to_string(length) + ", but " + std::to_string(bytes_.size() - 8) +
                                  " bytes are left");
        const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + 8, static_cast<std::size_t>(length));
        data_ = bytes_.subspan(8 + text.size());
        json_ = json_reader(text, 8);
        const std::size_t invalid = find_invalid_utf8(text);
        if (invalid != text.size())
            return json_.fail(status_code::malformed, "header", 8 + invalid, "is not valid UTF-8");
        if (text.empty() || text[0] != '{')
            return json_.fail(status_code::malformed, "header", 8, "does not begin with '{'");
        return true;
    }

    [[nodiscard]] bool header(safetensors_content& file) {
        if (!json_.expect('{', "header")) return false;
        if (!json_.accept('}')) {
            do {
                const std::size_t start = json_.offset();
                std::string_view key;
                if (!json_.string(key, file.escaped, "name") || !json_.expect(':', "header")) return false;
                if (key == "__metadata__" ? !metadata(file, start) : !tensor(file, key, start)) return false;
            } while (json_.accept(','));
            if (!json_.expect('}', "header")) return false;
        }
        return json_.end("end of the header");
    }

    [[nodiscard]] bool metadata(safetensors_content& file, std::size_t start) {
        if (std::exchange(has_metadata_, true))
            return json_.fail(status_code::malformed, "__metadata__", start, "comes twice");
        if (json_.peek() == 'n') return json_.skip_value(file.escaped, "__metadata__"); // null: there is none
        if (!json_.expect('{', "__metadata__")) return false;
        if (json_.accept('}')) return true;
        do {
            safetensors_text entry;
            entry_starts_.push_back(json_.offset());
            if (!json_.string(entry.key, file.escaped, "key in __metadata__") ||
                !json_.expect(':', "entry of __metadata__") ||
                !json_.string(entry.value, file.escaped, "value in __metadata__"))
                return false;
            file.metadata.push_back(entry);
        } while (json_.accept(','));
        return json_.expect('}', "__metadata__");
    }

    // What a tensor's description says and its tensor_info does not.
    struct description {
        std::size_t start;      // where it begins in the file
        std::size_t shape_at;   // where its shape stands
        std::size_t offsets_at; // where its data_offsets stand
        std::size_t begin;      // from the start of the data
        std::size_t end;
    };

    [[nodiscard]] bool tensor(safetensors_content& file, std::string_view name, std::size_t start) {
        json_.name_tensor(name);
        tensor_info tensor;
        tensor.name = name;
        description d{};
        d.start = start;
        bool has_type = false;
        bool has_shape = false;
        bool has_offsets = false;
        const auto once = [&](bool& seen, std::string_view field, std::size_t at) {
            return !std::exchange(seen, true) || json_.fail(status_code::malformed, field, at, "comes twice");
        };
        if (!json_.expect('{', "description")) return false;
        if (!json_.accept('}')) {
            do {
                const std::size_t at = json_.offset();
                std::string_view key;
                if (!json_.string(key, file.escaped, "field name") || !json_.expect(':', "description")) return false;
                bool good = false;
                if (key == "dtype")
                    good = once(has_type, key, at) && type_name(tensor, file);
                else if (key == "shape")
                    good = once(has_shape, key, at) && shape(tensor, d);
                else if (key == "data_offsets")
                    good = once(has_offsets, key, at) && offsets(d);
                else
                    good = json_.skip_value(file.escaped, "unknown field"); // as the reference reader does
                if (!good) return false;
            } while (json_.accept(','));
            if (!json_.expect('}', "description")) return false;
        }
        const char* missing = !has_type ? "dtype" : !has_shape ? "shape" : !has_offsets ? "data_offsets" : nullptr;
        if (missing != nullptr) return json_.fail(status_code::malformed, missing, start, "is missing");
        if (!sized(tensor, d)) return false;
        json_.leave_tensor();
        descriptions_.push_back(d);
        file.tensors.push_back(std::move(tensor));
        return true;
    }
    // A type need not be known, but it must be a name as types have them: messages about the tensor print it as it is.
    [[nodiscard]] bool type_name(tensor_info& tensor, safetensors_content& file) {
        const std::size_t start = json_.offset();
        if (!json_.string(tensor.type_name, file.escaped, "dtype")) return false;
        bool good = !tensor.type_name.empty() && tensor.type_name.size() <= 32;
        for (const char c : tensor.type_name)
            good = good && ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_');
        return good || json_.fail(status_code::malformed, "dtype", start,
                                  "is not a type's name, which has 1 to 32 letters, digits and underscores");
    }
    [[nodiscard]] bool shape(tensor_info& tensor, description& d) {
        d.shape_at = json_.offset();
        if (!json_.expect('[', "shape")) return false;
        if (json_.accept(']')) return true;
        do {
            const std::size_t at = json_.offset();
            std::uint64_t extent = 0;
            if (!json_.integer(extent, "shape")) return false;
            tensor.shape.push_back(0);
            if (!to_size(extent, tensor.shape.back()))
                return json_.fail(status_code::unsupported, "shape", at, "an extent does not fit in the address space");
        } while (json_.accept(','));
        if (!json_.expect(']', "shape")) return false;
        std::size_t elements = 0;
        return count_elements(tensor.shape, elements) ||
               json_.fail(status_code::malformed, "shape", d.shape_at, "the product of its extents overflows");
    }
    [[nodiscard]] bool offsets(description& d) {
        d.offsets_at = json_.offset();
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        if (!json_.expect('[', "data_offsets") || !json_.integer(begin, "data_offsets") ||
            !json_.expect(',', "data_offsets") || !json_.integer(end, "data_offsets") ||
            !json_.expect(']', "data_offsets"))
            return false;
        if (begin > end)
            return json_.fail(status_code::malformed, "data_offsets", d.offsets_at,
                              std::to_string(begin) + " is behind " + std::to_string(end));
        if (end > data_.size())
            return json_.fail(status_code::truncated, "data_offsets", d.offsets_at,
                              "ends at " + std::to_string(end) + ", but the file has " + std::to_string(data_.size()) +
                                  " bytes of data");
        d.begin = static_cast<std::size_t>(begin);
        d.end = static_cast<std::size_t>(end);
        return true;
    }
    // Type and shape must need just the bytes that the offsets give.
    [[nodiscard]] bool sized(tensor_info& tensor, const description& d) {
        tensor.bytes = d.end - d.begin;
        tensor.data = data_.data() + d.begin;
        for (const safetensors_type& type : safetensors_types) {
            if (type.name != tensor.type_name) continue;
            tensor.type = type.type;
            std::size_t bits = 0;
            if (!count_elements(tensor.shape, bits) || !multiply(bits, type.bits, bits))
                return json_.fail(status_code::malformed, "shape", d.shape_at, "the size in bits overflows");
            if (bits % 8 != 0 || bits / 8 != tensor.bytes)
                return json_.fail(status_code::malformed, "data_offsets", d.offsets_at,
                                  std::to_string(tensor.bytes) + " bytes, but shape and dtype need " +
                                      std::to_string(bits / 8) + (bits % 8 != 0 ? " and a part of one" : ""));
        }
        return true;
    }

    [[nodiscard]] bool index(safetensors_content& file) {
        const std::size_t entries = file.metadata.size();
        std::size_t twice = file.keys.build(entries, [&](std::size_t i) { return file.metadata[i].key; });
        if (twice != entries)
            return json_.fail(status_code::malformed, "__metadata__ " + in_quotes(file.metadata[twice].key),
                              entry_starts_[twice], "the key comes twice");
        const std::size_t count = file.tensors.size();
        twice = file.tensor_names.build(count, [&](std::size_t i) { return file.tensors[i].name; });
        if (twice == count) return true;
        return json_.fail(status_code::malformed, "tensor " + in_quotes(file.tensors[twice].name),
                          descriptions_[twice].start, "the name comes twice");
    }

    // In the order of their offsets each tensor begins where the one before ends, and the last ends with the file.
    [[nodiscard]] bool cover(const safetensors_content& file) {
        std::vector<std::size_t> order(descriptions_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        heap_sort(order, [&](std::size_t a, std::size_t b) {
            const description& x = descriptions_[a];
            const description& y = descriptions_[b];
            return x.begin != y.begin ? x.begin < y.begin : x.end != y.end ? x.end < y.end : a < b;
        });
        std::size_t covered = 0;
        for (const std::size_t i : order) {
            const description& d = descriptions_[i];
            if (d.begin != covered)
                return json_.fail(status_code::malformed, "tensor " + in_quotes(file.tensors[i].name) + " data_offsets",
                                  d.offsets_at,
                                  "begins at " + std::to_string(d.begin) + ", but the tensors before it end at " +
                                      std::to_string(covered) + (d.begin < covered ? ": an overlap" : ": a hole"));
            covered = d.end;
        }
        if (covered != data_.size())
            return json_.fail(status_code::malformed, "data", bytes_.size() - data_.size() + covered,
                              std::to_string(data_.size() - covered) + " bytes behind the last tensor belong to none");
        return true;
    }

    std::span<const std::byte> bytes_;
    std::span<const std::byte> data_;
    json_reader json_{{}, 0};
    bool has_metadata_ = false;
    std::vector<std::size_t> entry_starts_;
    std::vector<description> descriptions_;
};

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
