// safetensors_writer.hpp: puts tensors and metadata into a safetensors file, in memory or on disk; the reader's
// inverse.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/json.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/safetensors_parser.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/io/written_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
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

namespace detail {

inline void append_json_string(std::string& to, std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    to += '"';
    for (const char c : text) {
        const auto code = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            to += '\\';
            to += c;
        } else if (code < 0x20) {
            to.append("\\u00");
            to += digits[code >> 4];
            to += digits[code & 15];
        } else {
            to += c;
        }
    }
    to += '"';
}

} // namespace detail

// Collects tensors, then writes them all: widest elements first, otherwise in the order of add, so that each tensor
// stands on a multiple of its element's size; the header is padded with spaces to a multiple of 8 bytes. Holds every
// tensor's bytes until then, and the file's once more while it is written.
class safetensors_writer {
public:
    // `type_name` as the format spells it ("F16", "I32", "F8_E4M3"); `data` little-endian, dense, row-major. malformed:
    // a name that is not UTF-8, is there already or is "__metadata__"; unsupported: a type that is not known; mismatch:
    // data of another length than shape and type need. Nothing is added then.
    [[nodiscard]] status add(std::string_view name, std::string_view type_name, std::span<const std::size_t> shape,
                             std::vector<std::byte> data) {
        const std::string what = "safetensors: tensor " + detail::in_quotes(name);
        if (name == "__metadata__") return {status_code::malformed, what + ": this name is taken by the format"};
        if (detail::find_invalid_utf8(name) != name.size())
            return {status_code::malformed, what + ": the name is not valid UTF-8"};
        for (const entry& other : *entries_)
            if (other.name == name) return {status_code::malformed, what + ": was added before"};
        const detail::safetensors_type* type = nullptr;
        for (const detail::safetensors_type& known : detail::safetensors_types)
            if (known.name == type_name) type = &known;
        if (type == nullptr)
            return {status_code::unsupported,
                    what + ": type " + detail::in_quotes(type_name) + " is not one of the format's"};
        const std::vector<std::size_t> extents(shape.begin(), shape.end());
        std::size_t bits = 0;
        if (!detail::count_elements(extents, bits) || !detail::multiply(bits, type->bits, bits) || bits % 8 != 0)
            return {status_code::mismatch, what + ": shape and type make no whole number of bytes"};
        if (bits / 8 != data.size())
            return {status_code::mismatch, what + ": has " + std::to_string(data.size()) +
                                               " bytes, but shape and type need " + std::to_string(bits / 8)};
        entries_->push_back({std::string(name), std::string(type_name), extents, std::move(data), type->bits});
        return {};
    }
    // An entry of __metadata__. malformed: text that is not UTF-8, or a key that is there already.
    [[nodiscard]] status add_metadata(std::string_view key, std::string_view value) {
        const std::string what = "safetensors: __metadata__ " + detail::in_quotes(key);
        if (detail::find_invalid_utf8(key) != key.size() || detail::find_invalid_utf8(value) != value.size())
            return {status_code::malformed, what + ": is not valid UTF-8"};
        for (const auto& [other, text] : *metadata_)
            if (other == key) return {status_code::malformed, what + ": was added before"};
        metadata_->emplace_back(key, value);
        return {};
    }

    // The whole file.
    [[nodiscard]] std::vector<std::byte> bytes() const {
        std::vector<std::byte> header;
        std::vector<std::byte> file;
        for (const std::span<const std::byte> piece : pieces(header))
            file.insert(file.end(), piece.begin(), piece.end());
        return file;
    }
    // Writes the file, all or nothing: beside `path`, as "<path>.partial", then moved there. cannot_open if that fails.
    [[nodiscard]] status write(const char* path) const {
        std::vector<std::byte> header;
        return detail::write_file(path, pieces(header));
    }

private:
    struct entry {
        std::string name;
        std::string type;
        std::vector<std::size_t> shape;
        std::vector<std::byte> data;
        std::uint32_t bits = 0;
    };

    // What the file consists of, one after the other; `header` gets the first of it.
    [[nodiscard]] std::vector<std::span<const std::byte>> pieces(std::vector<std::byte>& header) const {
        std::vector<std::size_t> order(entries_->size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        detail::heap_sort(order, [&](std::size_t a, std::size_t b) {
            return (*entries_)[a].bits != (*entries_)[b].bits ? (*entries_)[a].bits > (*entries_)[b].bits : a < b;
        });
        std::string text = "{";
        if (!metadata_->empty()) {
            text += "\"__metadata__\":{";
            for (std::size_t i = 0; i < metadata_->size(); ++i) {
                if (i != 0) text += ',';
                detail::append_json_string(text, (*metadata_)[i].first);
                text += ':';
                detail::append_json_string(text, (*metadata_)[i].second);
            }
            text += entries_->empty() ? "}" : "},";
        }
        std::vector<std::span<const std::byte>> parts(1);
        std::size_t end = 0;
        for (const std::size_t i : order) {
            const entry& tensor = (*entries_)[i];
            if (parts.size() != 1) text += ',';
            detail::append_json_string(text, tensor.name);
            text.append(":{\"dtype\":\"").append(tensor.type).append("\",\"shape\":[");
            for (std::size_t d = 0; d < tensor.shape.size(); ++d)
                text.append(d == 0 ? "" : ",").append(std::to_string(tensor.shape[d]));
            text.append("],\"data_offsets\":[").append(std::to_string(end)).append(",");
            end += tensor.data.size();
            text.append(std::to_string(end)).append("]}");
            parts.emplace_back(tensor.data);
        }
        text += '}';
        text.append((8 - text.size() % 8) % 8, ' ');
        header.resize(8 + text.size());
        detail::store_little(header.data(), static_cast<std::uint64_t>(text.size()));
        std::memcpy(header.data() + 8, text.data(), text.size());
        parts[0] = header;
        return parts;
    }

    detail::reset_on_move<std::vector<entry>> entries_;
    detail::reset_on_move<std::vector<std::pair<std::string, std::string>>> metadata_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
