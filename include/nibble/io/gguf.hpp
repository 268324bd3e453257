// gguf.hpp: reader of GGUF, the model files of llama.cpp; gives the tensors to quantize and the metadata beside them.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/gguf_array.hpp>
#include <nibble/io/gguf_parser.hpp>
#include <nibble/io/gguf_split.hpp>
#include <nibble/io/gguf_types.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// An open GGUF file: versions 2 and 3, little-endian. Every count, length, offset and product in it has been checked
// against the file's size, so all that it hands out lies inside of the file. It holds no copy of the data, only
// descriptions, and these take memory in proportion to the part of the file that describes (never to a number in it).
//
// Stricter than the format's text: no empty or repeated key or tensor name.
// Laxer than llama.cpp: any number of dimensions (none: a scalar), extents of 0, long names, gaps between and any order
// of tensors, and types that only forks know, or nobody.
//
// Of a split model the tensors of all parts, and the metadata of the first, which has them all, without split.no,
// split.count and split.tensors.count: as if it were one file.
class gguf_file {
public:
    gguf_file() noexcept = default;

    // Maps the file at `path`, and if it is the first part of a split model ("m-00001-of-00005.gguf", split.count 5)
    // all the others beside it: their tensors, in the order of the parts, and the first part's metadata. If a file
    // cannot be opened or is not well-formed, `out` stays as it was:
    //   cannot_open   also a part that is missing
    //   malformed     also a tensor that is in two parts
    //   mismatch      a part that says another number, or counts other parts or tensors; a path that is not the first
    //                 part's; metadata of another model; tensors that are in no part
    [[nodiscard]] static status open(const char* path, gguf_file& out) {
        mapped_file file;
        status s = mapped_file::open(path, file);
        if (!s.ok()) return s;
        return detail::in_file(path, open(std::move(file), path, out));
    }
    // Takes over the file at `path`, which is mapped already.
    [[nodiscard]] static status open(mapped_file file, const char* path, gguf_file& out);
    // Takes over a file that is mapped already; of a split model that part only.
    [[nodiscard]] static status open(mapped_file file, gguf_file& out) {
        const std::span<const std::byte> bytes = file.bytes();
        status s = parse(bytes, out);
        if (s.ok()) out.files_->push_back(std::move(file));
        return s;
    }
    // All parts of a split model, in their order, whatever their names are.
    [[nodiscard]] static status open(std::span<const char* const> paths, gguf_file& out);

    // Reads a file that is in memory already and must stay there as long as `out` is used; of a split model that part
    // only, of which metadata_integer("split.count") tells.
    [[nodiscard]] static status parse(std::span<const std::byte> bytes, gguf_file& out) {
        detail::gguf_content content;
        status s = detail::gguf_parser(bytes).run(content);
        if (s.ok()) out.take(std::move(content), {});
        return s;
    }
    // All parts of a split model in memory, in their order; one part: a whole file.
    [[nodiscard]] static status parse(std::span<const std::span<const std::byte>> parts, gguf_file& out);

    [[nodiscard]] std::uint32_t version() const noexcept { return content_->version; }
    // In file order. Types that read_matrix does not know are listed too, as tensor_type::other; what a scheme carries
    // is tensor_type::blocks (gguf_quantized.hpp loads those as they are).
    [[nodiscard]] std::span<const tensor_info> tensors() const noexcept { return content_->tensors; }
    // nullptr if there is no tensor of that name.
    [[nodiscard]] const tensor_info* find(std::string_view name) const { return content_->find_tensor(name); }

    [[nodiscard]] std::span<const gguf_value> metadata() const noexcept { return content_->metadata; }
    // nullptr if there is no such key.
    [[nodiscard]] const gguf_value* metadata_value(std::string_view key) const { return content_->find_value(key); }
    // The value of a key if it is there and of that kind: an integer that fits in 64 signed bits, a float or integer, a
    // boolean, a string.
    [[nodiscard]] std::optional<std::int64_t> metadata_integer(std::string_view key) const;
    [[nodiscard]] std::optional<double> metadata_number(std::string_view key) const;
    [[nodiscard]] std::optional<bool> metadata_flag(std::string_view key) const {
        const gguf_value* value = metadata_value(key);
        if (value == nullptr || value->type != gguf_type::boolean) return std::nullopt;
        return value->bytes[0] != std::byte{0};
    }
    [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
        const gguf_value* value = metadata_value(key);
        if (value == nullptr || value->type != gguf_type::string) return std::nullopt;
        return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
    }

    // The elements of an array of strings, read where they lie (gguf_array.hpp); nullopt for anything else.
    [[nodiscard]] std::optional<gguf_strings> metadata_strings(std::string_view key) const {
        const gguf_value* value = metadata_value(key);
        if (value == nullptr || value->type != gguf_type::array || value->element_type != gguf_type::string)
            return std::nullopt;
        return gguf_strings(*value);
    }
    // ... of an array of just this type: bool, float, double or an integer of 8 to 64 bits.
    template <gguf_number T> [[nodiscard]] std::optional<gguf_array<T>> metadata_array(std::string_view key) const {
        const gguf_value* value = metadata_value(key);
        if (value == nullptr || value->type != gguf_type::array || value->element_type != detail::gguf_type_of<T>)
            return std::nullopt;
        return gguf_array<T>(*value);
    }
    // Copies: views of the strings, which stay in the file; numbers and booleans of any type as doubles (integers
    // beyond 2^53 rounded).
    [[nodiscard]] std::optional<std::vector<std::string_view>> metadata_texts(std::string_view key) const;
    [[nodiscard]] std::optional<std::vector<double>> metadata_numbers(std::string_view key) const;

private:
    void take(detail::gguf_content content, std::vector<mapped_file> files) {
        content_ = std::move(content);
        files_ = std::move(files);
    }
    // Parts 1 to first.count - 1 after part 0; bytes_of(index, bytes) gives each.
    template <class BytesOf>
    [[nodiscard]] static status add_parts(const detail::gguf_part& first, detail::gguf_content& all,
                                          const BytesOf& bytes_of);

    detail::reset_on_move<std::vector<mapped_file>> files_; // empty after parse
    detail::reset_on_move<detail::gguf_content> content_;
};

template <class BytesOf>
status gguf_file::add_parts(const detail::gguf_part& first, detail::gguf_content& all, const BytesOf& bytes_of) {
    const auto count = static_cast<std::size_t>(first.count);
    for (std::size_t index = 1; index < count; ++index) {
        std::span<const std::byte> bytes;
        status s = bytes_of(index, bytes);
        if (!s.ok()) return {s.code(), detail::part_text(index, count) + s.message()};
        detail::gguf_content part;
        s = detail::gguf_parser(bytes).run(part);
        if (!s.ok()) return {s.code(), detail::part_text(index, count) + s.message()};
        s = detail::add_part(index, std::move(part), first, all);
        if (!s.ok()) return s;
    }
    return detail::finish_parts(first, all);
}

inline status gguf_file::open(mapped_file file, const char* path, gguf_file& out) {
    detail::gguf_content content;
    status s = detail::gguf_parser(file.bytes()).run(content);
    if (!s.ok()) return s;
    detail::gguf_part first;
    s = detail::find_part(content, first);
    if (!s.ok()) return s;
    std::vector<mapped_file> files;
    files.push_back(std::move(file));
    if (first.count > 1) {
        const auto count = static_cast<std::size_t>(first.count);
        std::string_view prefix;
        if (first.index != 0)
            return {status_code::mismatch, "gguf: this is part " + std::to_string(first.index + 1) + " of " +
                                               std::to_string(count) + "; open the first, " +
                                               gguf_part_name("...", 0, count)};
        if (!detail::split_prefix(path, 0, count, prefix))
            return {status_code::mismatch, "gguf: this is the first of " + std::to_string(count) +
                                               " parts; its name must end in " + gguf_part_name("", 0, count) +
                                               ", by which the others are found, or be given with theirs"};
        s = add_parts(first, content, [&](std::size_t index, std::span<const std::byte>& bytes) {
            mapped_file part;
            status opened = mapped_file::open(gguf_part_name(prefix, index, count).c_str(), part);
            if (!opened.ok()) return opened;
            bytes = part.bytes();
            files.push_back(std::move(part));
            return opened;
        });
        if (!s.ok()) return s;
    }
    out.take(std::move(content), std::move(files));
    return {};
}

inline status gguf_file::open(std::span<const char* const> paths, gguf_file& out) {
    std::vector<mapped_file> files;
    std::vector<std::span<const std::byte>> parts;
    for (const char* path : paths) {
        mapped_file file;
        status s = mapped_file::open(path, file);
        if (!s.ok()) return s;
        parts.push_back(file.bytes());
        files.push_back(std::move(file));
    }
    status s = parse(parts, out);
    if (s.ok()) out.files_ = std::move(files);
    return s;
}

inline status gguf_file::parse(std::span<const std::span<const std::byte>> parts, gguf_file& out) {
    if (parts.empty()) return {status_code::mismatch, "gguf: no part is given"};
    detail::gguf_content content;
    status s = detail::gguf_parser(parts[0]).run(content);
    if (!s.ok()) return s;
    detail::gguf_part first;
    s = detail::find_part(content, first);
    if (!s.ok()) return s;
    if (first.index != 0 || first.count != parts.size())
        return {status_code::mismatch, "gguf: part " + std::to_string(first.index + 1) + " of " +
                                           std::to_string(first.count) + " is given as the first of " +
                                           std::to_string(parts.size())};
    if (first.count > 1)
        s = add_parts(first, content, [&](std::size_t index, std::span<const std::byte>& bytes) {
            bytes = parts[index];
            return status();
        });
    if (s.ok()) out.take(std::move(content), {});
    return s;
}

inline std::optional<std::int64_t> gguf_file::metadata_integer(std::string_view key) const {
    const gguf_value* value = metadata_value(key);
    if (value == nullptr) return std::nullopt;
    const std::byte* at = value->bytes.data();
    switch (value->type) {
    case gguf_type::u8:
        return detail::load_little<std::uint8_t>(at);
    case gguf_type::i8:
        return detail::load_little<std::int8_t>(at);
    case gguf_type::u16:
        return detail::load_little<std::uint16_t>(at);
    case gguf_type::i16:
        return detail::load_little<std::int16_t>(at);
    case gguf_type::u32:
        return detail::load_little<std::uint32_t>(at);
    case gguf_type::i32:
        return detail::load_little<std::int32_t>(at);
    case gguf_type::i64:
        return detail::load_little<std::int64_t>(at);
    case gguf_type::u64: {
        const auto number = detail::load_little<std::uint64_t>(at);
        if (number > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
        return static_cast<std::int64_t>(number);
    }
    case gguf_type::float32:
    case gguf_type::float64:
    case gguf_type::boolean:
    case gguf_type::string:
    case gguf_type::array:
        break;
    }
    return std::nullopt;
}

inline std::optional<double> gguf_file::metadata_number(std::string_view key) const {
    const gguf_value* value = metadata_value(key);
    if (value == nullptr) return std::nullopt;
    const std::byte* at = value->bytes.data();
    if (value->type == gguf_type::float32) return detail::load_little<float>(at);
    if (value->type == gguf_type::float64) return detail::load_little<double>(at);
    if (value->type == gguf_type::u64) return static_cast<double>(detail::load_little<std::uint64_t>(at));
    const std::optional<std::int64_t> integer = metadata_integer(key);
    if (!integer.has_value()) return std::nullopt;
    return static_cast<double>(*integer);
}

namespace detail {

// visit(the number) of a type of fixed size, as that type; a boolean is 0 or 1.
template <class Visit> void visit_gguf_number(gguf_type type, const std::byte* at, const Visit& visit) {
    switch (type) {
    case gguf_type::u8:
    case gguf_type::boolean:
        return visit(load_little<std::uint8_t>(at));
    case gguf_type::i8:
        return visit(load_little<std::int8_t>(at));
    case gguf_type::u16:
        return visit(load_little<std::uint16_t>(at));
    case gguf_type::i16:
        return visit(load_little<std::int16_t>(at));
    case gguf_type::u32:
        return visit(load_little<std::uint32_t>(at));
    case gguf_type::i32:
        return visit(load_little<std::int32_t>(at));
    case gguf_type::i64:
        return visit(load_little<std::int64_t>(at));
    case gguf_type::u64:
        return visit(load_little<std::uint64_t>(at));
    case gguf_type::float32:
        return visit(load_little<float>(at));
    case gguf_type::float64:
        return visit(load_little<double>(at));
    case gguf_type::string:
    case gguf_type::array:
        break;
    }
}

} // namespace detail

inline std::optional<std::vector<std::string_view>> gguf_file::metadata_texts(std::string_view key) const {
    const std::optional<gguf_strings> strings = metadata_strings(key);
    if (!strings.has_value()) return std::nullopt;
    std::vector<std::string_view> texts;
    texts.reserve(strings->size());
    for (const std::string_view text : *strings) texts.push_back(text);
    return texts;
}

inline std::optional<std::vector<double>> gguf_file::metadata_numbers(std::string_view key) const {
    const gguf_value* value = metadata_value(key);
    if (value == nullptr || value->type != gguf_type::array) return std::nullopt;
    const std::size_t bytes = detail::gguf_type_bytes(value->element_type);
    if (bytes == 0) return std::nullopt;
    std::vector<double> numbers;
    numbers.reserve(static_cast<std::size_t>(value->count));
    for (std::size_t at = 0; at < value->bytes.size(); at += bytes)
        detail::visit_gguf_number(value->element_type, value->bytes.data() + at,
                                  [&](auto number) { numbers.push_back(static_cast<double>(number)); });
    return numbers;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
