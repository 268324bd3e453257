// gguf_parser.hpp: turns the bytes of a GGUF file into descriptions of what is in it; the work behind gguf.hpp.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/io/file_error.hpp>
#include <nibble/io/foreign_file.hpp>
#include <nibble/io/ggml_types.hpp>
#include <nibble/io/gguf_older_q2_0.hpp>
#include <nibble/io/gguf_types.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
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

// One metadata entry, as it lies in the file.
struct gguf_value {
    std::string_view key;
    gguf_type type = gguf_type::u8;
    gguf_type element_type = gguf_type::u8; // of an array; else equal to type
    std::uint64_t count = 1;                // elements of an array
    std::span<const std::byte> bytes;       // little-endian value, text of a string, or all elements of an array
};

namespace detail {

// What a parsed file holds; views into its bytes. May be moved: moving a vector leaves its elements where they are.
struct gguf_content {
    std::uint32_t version = 0;
    std::vector<tensor_info> tensors;
    std::vector<gguf_value> metadata;
    name_index tensor_names;
    name_index keys;
    std::vector<std::vector<char>> type_names; // of types that have none, per part of a split file

    [[nodiscard]] const tensor_info* find_tensor(std::string_view name) const {
        const std::size_t i = tensor_names.find(name, [this](std::size_t at) { return tensors[at].name; });
        return i < tensors.size() ? &tensors[i] : nullptr;
    }
    [[nodiscard]] const gguf_value* find_value(std::string_view key) const {
        const std::size_t i = keys.find(key, [this](std::size_t at) { return metadata[at].key; });
        return i < metadata.size() ? &metadata[i] : nullptr;
    }
};

// One pass over the bytes before the tensor data. Each step returns false after setting the error.
class gguf_parser {
public:
    explicit gguf_parser(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}

    [[nodiscard]] status run(gguf_content& out) {
        gguf_content file;
        if (!header(file) || !metadata(file) || !tensors(file) || !place(file)) return error_;
        out = std::move(file);
        return {};
    }

private:
    static constexpr std::uint64_t smallest_entry = 8 + 1 + 4 + 1;      // key of one character, type, a byte
    static constexpr std::uint64_t smallest_tensor = 8 + 1 + 4 + 4 + 8; // name, rank, type, offset
    static constexpr std::uint32_t longest_nesting = 4;

    bool fail(status_code code, std::string_view field, std::size_t offset, std::string_view why) {
        error_ = file_error(code, "gguf", field, offset, why);
        return false;
    }
    [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - at_; }
    [[nodiscard]] std::string left_text() const { return std::to_string(left()) + " bytes are left"; }

    // `field` is called for the field's name, and only when it is needed.
    template <class T, class Field> [[nodiscard]] bool number(T& out, const Field& field) {
        if (left() < sizeof(T))
            return fail(status_code::truncated, field(), at_,
                        "needs " + std::to_string(sizeof(T)) + " bytes, " + left_text());
        out = load_little<T>(bytes_.data() + at_);
        at_ += sizeof(T);
        return true;
    }
    template <class Field> [[nodiscard]] bool text(std::string_view& out, const Field& field) {
        const std::size_t start = at_;
        std::uint64_t length = 0;
        if (!number(length, field)) return false;
        if (length > left())
            return fail(status_code::truncated, field(), start,
                        "a string of " + std::to_string(length) + " bytes, but " + left_text());
        out = {reinterpret_cast<const char*>(bytes_.data() + at_), static_cast<std::size_t>(length)};
        at_ += out.size();
        return true;
    }
    // A number of items of which each takes at least `smallest` bytes of the rest of the file.
    template <class Field>
    [[nodiscard]] bool item_count(std::uint64_t& out, std::uint64_t smallest, const Field& field) {
        const std::size_t start = at_;
        if (!number(out, field)) return false;
        if (out > left() / smallest)
            return fail(status_code::truncated, field(), start,
                        "announces " + std::to_string(out) + ", but " + left_text());
        return true;
    }

    [[nodiscard]] bool header(gguf_content& file) {
        if (left() < 4) return fail(status_code::truncated, "magic", 0, "needs 4 bytes, " + left_text());
        if (std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
            const std::string foreign = describe_foreign_file(bytes_);
            return fail(status_code::malformed, "magic", 0,
                        "is not 'GGUF', so this is no GGUF file" + (foreign.empty() ? foreign : "; " + foreign));
        }
        at_ = 4;
        if (!number(file.version, [] { return "version"; })) return false;
        const std::uint32_t version = file.version;
        if (version != 2 && version != 3) {
            if (version != 0 && (version & 0xffffu) == 0)
                return fail(status_code::unsupported, "version", 4, "the file is big-endian");
            return fail(status_code::unsupported, "version", 4, std::to_string(version) + " is neither 2 nor 3");
        }
        return number(tensor_count_, [] { return "tensor count"; }) &&
               item_count(entry_count_, smallest_entry, [] { return "metadata count"; }) && tensors_can_follow();
    }
    [[nodiscard]] bool tensors_can_follow() {
        if (tensor_count_ <= left() / smallest_tensor) return true;
        return fail(status_code::truncated, "tensor count", 8,
                    "announces " + std::to_string(tensor_count_) + ", but " + left_text());
    }

    [[nodiscard]] bool metadata(gguf_content& file) {
        std::vector<std::size_t> starts; // where each key stands, for the message about a repeated one
        for (std::uint64_t i = 0; i < entry_count_; ++i) {
            const std::size_t start = at_;
            gguf_value entry;
            if (!text(entry.key, [&] { return "key of metadata entry " + std::to_string(i); })) return false;
            if (entry.key.empty())
                return fail(status_code::malformed, "key of metadata entry " + std::to_string(i), start, "is empty");
            const auto field = [&] { return "metadata " + in_quotes(entry.key); };
            if (!value(entry, field)) return false;
            if (entry.key == "general.alignment" && !alignment(entry, field)) return false;
            starts.push_back(start);
            file.metadata.push_back(entry);
        }
        const std::size_t count = file.metadata.size();
        const std::size_t twice = file.keys.build(count, [&](std::size_t i) { return file.metadata[i].key; });
        if (twice == count) return true;
        return fail(status_code::malformed, "metadata " + in_quotes(file.metadata[twice].key), starts[twice],
                    "the key comes twice");
    }

    template <class Field> [[nodiscard]] bool value_type(gguf_type& out, const Field& field) {
        const std::size_t start = at_;
        std::uint32_t type = 0;
        if (!number(type, field)) return false;
        if (type > static_cast<std::uint32_t>(gguf_type::float64))
            return fail(status_code::malformed, field(), start, "unknown value type " + std::to_string(type));
        out = static_cast<gguf_type>(type);
        return true;
    }
    template <class Field> [[nodiscard]] bool value(gguf_value& entry, const Field& field) {
        if (!value_type(entry.type, field)) return false;
        entry.element_type = entry.type;
        if (entry.type == gguf_type::array) return array(entry, field, 1);
        if (entry.type == gguf_type::string) {
            std::string_view string;
            if (!text(string, field)) return false;
            entry.bytes = {reinterpret_cast<const std::byte*>(string.data()), string.size()};
            return true;
        }
        return fixed(entry, field);
    }
    template <class Field> [[nodiscard]] bool array(gguf_value& entry, const Field& field, std::uint32_t depth) {
        if (depth > longest_nesting)
            return fail(status_code::unsupported, field(), at_,
                        "arrays nested deeper than " + std::to_string(longest_nesting));
        if (!value_type(entry.element_type, field)) return false;
        const gguf_type type = entry.element_type;
        const std::size_t fixed_bytes = gguf_type_bytes(type);
        const std::size_t smallest = fixed_bytes != 0 ? fixed_bytes : type == gguf_type::string ? 8 : 12;
        if (!item_count(entry.count, smallest, field)) return false;
        if (fixed_bytes != 0) return fixed(entry, field);
        const std::size_t start = at_;
        for (std::uint64_t i = 0; i < entry.count; ++i) {
            std::string_view string;
            gguf_value inner;
            if (type == gguf_type::string ? !text(string, field) : !array(inner, field, depth + 1)) return false;
        }
        entry.bytes = bytes_.subspan(start, at_ - start);
        return true;
    }
    // entry.count values of a type of fixed size.
    template <class Field> [[nodiscard]] bool fixed(gguf_value& entry, const Field& field) {
        const std::size_t one = gguf_type_bytes(entry.element_type);
        if (entry.count > left() / one)
            return fail(status_code::truncated, field(), at_,
                        "needs " + std::to_string(one) + " bytes, " + left_text());
        entry.bytes = bytes_.subspan(at_, static_cast<std::size_t>(entry.count) * one);
        if (entry.element_type == gguf_type::boolean) {
            for (std::size_t i = 0; i < entry.bytes.size(); ++i)
                if (entry.bytes[i] > std::byte{1})
                    return fail(status_code::malformed, field(), at_ + i, "a boolean that is neither 0 nor 1");
        }
        at_ += entry.bytes.size();
        return true;
    }
    template <class Field> [[nodiscard]] bool alignment(const gguf_value& entry, const Field& field) {
        const std::size_t start = at_ - entry.bytes.size();
        if (entry.type != gguf_type::u32)
            return fail(status_code::malformed, field(), start, "must be an unsigned 32-bit number");
        alignment_ = load_little<std::uint32_t>(entry.bytes.data());
        if (!std::has_single_bit(alignment_))
            return fail(status_code::malformed, field(), start, std::to_string(alignment_) + " is not a power of two");
        return true;
    }

    // What a tensor's description says and its tensor_info does not.
    struct description {
        std::size_t start;     // where it begins
        std::size_t offset_at; // where its offset stands
        std::uint64_t offset;  // from the start of the tensor data
        std::uint32_t type;
    };

    [[nodiscard]] bool tensors(gguf_content& file) {
        if (!tensors_can_follow()) return false;
        std::size_t unknown_bytes = 0;
        for (std::uint64_t i = 0; i < tensor_count_; ++i) {
            description d{};
            d.start = at_;
            tensor_info tensor;
            if (!text(tensor.name, [&] { return "name of tensor " + std::to_string(i); })) return false;
            if (tensor.name.empty())
                return fail(status_code::malformed, "name of tensor " + std::to_string(i), d.start, "is empty");
            const auto field = [&](const char* what) { return "tensor " + in_quotes(tensor.name) + " " + what; };
            const std::size_t shape_at = at_;
            if (!shape(tensor, field)) return false;
            const std::size_t type_at = at_;
            if (!number(d.type, [&] { return field("type"); })) return false;
            if (const gguf_block* block = find_gguf_block(d.type)) {
                if (!sized(tensor, *block, shape_at, type_at, field)) return false;
            } else {
                unknown_bytes += unknown_type_name(d.type).size();
            }
            d.offset_at = at_;
            if (!number(d.offset, [&] { return field("offset"); })) return false;
            descriptions_.push_back(d);
            file.tensors.push_back(std::move(tensor));
        }
        name_unknown_types(file, unknown_bytes);
        const std::size_t count = file.tensors.size();
        const std::size_t twice = file.tensor_names.build(count, [&](std::size_t i) { return file.tensors[i].name; });
        if (twice == count) return true;
        return fail(status_code::malformed, "tensor " + in_quotes(file.tensors[twice].name), descriptions_[twice].start,
                    "the name comes twice");
    }

    template <class Field> [[nodiscard]] bool shape(tensor_info& tensor, const Field& field) {
        const std::size_t start = at_;
        std::uint32_t rank = 0;
        if (!number(rank, [&] { return field("dimension count"); })) return false;
        if (rank > left() / 8)
            return fail(status_code::truncated, field("dimension count"), start,
                        "announces " + std::to_string(rank) + ", but " + left_text());
        tensor.shape.resize(rank);
        for (std::uint32_t i = rank; i-- > 0;) { // the file has the contiguous dimension first
            const std::size_t extent_at = at_;
            std::uint64_t extent = 0;
            if (!number(extent, [&] { return field("dimension"); })) return false;
            if (!to_size(extent, tensor.shape[i]))
                return fail(status_code::unsupported, field("dimension"), extent_at,
                            "does not fit in the address space");
        }
        std::size_t elements = 0;
        if (!count_elements(tensor.shape, elements))
            return fail(status_code::malformed, field("dimensions"), start, "their product overflows");
        return true;
    }
    template <class Field>
    [[nodiscard]] bool sized(tensor_info& tensor, const gguf_block& block, std::size_t shape_at, std::size_t type_at,
                             const Field& field) {
        tensor.decoder = find_ggml_decoder(block.id);
        tensor.type = tensor.decoder != nullptr ? tensor_type::blocks : block.type;
        tensor.type_name = block.name;
        if (tensor.cols() % block.elements != 0)
            return fail(status_code::malformed, field("type"), type_at,
                        std::string(block.name) + " has blocks of " + std::to_string(block.elements) +
                            " elements, which do not divide a row of " + std::to_string(tensor.cols()));
        if (!block_bytes(tensor, block, tensor.bytes))
            return fail(status_code::malformed, field("dimensions"), shape_at, "the size in bytes overflows");
        return true;
    }

    [[nodiscard]] static std::string unknown_type_name(std::uint32_t type) { return "type " + std::to_string(type); }
    void name_unknown_types(gguf_content& file, std::size_t bytes) const {
        std::vector<char>& names = file.type_names.emplace_back();
        names.reserve(bytes); // all at once, for the names are viewed
        for (std::size_t i = 0; i < file.tensors.size(); ++i) {
            if (!file.tensors[i].type_name.empty()) continue;
            const std::string name = unknown_type_name(descriptions_[i].type);
            const std::size_t start = names.size();
            names.insert(names.end(), name.begin(), name.end());
            file.tensors[i].type_name = {names.data() + start, name.size()};
        }
    }

    // Finds the data, now that it is known where it begins: at the first multiple of the alignment.
    [[nodiscard]] bool place(gguf_content& file) {
        if (file.tensors.empty()) return true; // then the padding may be missing too
        const std::size_t padding = (alignment_ - at_ % alignment_) % alignment_;
        if (padding > left())
            return fail(status_code::truncated, "tensor data", at_,
                        std::to_string(padding) + " bytes of padding come first, " + left_text());
        const std::span<const std::byte> data = bytes_.subspan(at_ + padding);
        if (!older_q2_0(file, data)) return false;
        for (std::size_t i = 0; i < file.tensors.size(); ++i) {
            tensor_info& tensor = file.tensors[i];
            const description& d = descriptions_[i];
            const auto field = [&] { return "tensor " + in_quotes(tensor.name) + " offset"; };
            if (d.offset % alignment_ != 0)
                return fail(status_code::malformed, field(), d.offset_at,
                            std::to_string(d.offset) + " is not a multiple of the alignment " +
                                std::to_string(alignment_));
            if (tensor.is_empty()) { // no bytes to be cut off, wherever the file ends
                tensor.data = data.data() + (d.offset <= data.size() ? d.offset : 0);
                continue;
            }
            if (d.offset > data.size() || tensor.bytes > data.size() - d.offset)
                return fail(status_code::truncated, field(), d.offset_at,
                            std::to_string(tensor.bytes) + " bytes of " + std::string(tensor.type_name) +
                                " from offset " + std::to_string(d.offset) + ", but the file has " +
                                std::to_string(data.size()) + " bytes of tensor data");
            tensor.data = data.data() + d.offset;
        }
        return true;
    }

    // Tensors of type 42 in blocks of 128 become PQ2_0, which those are.
    [[nodiscard]] bool older_q2_0(gguf_content& file, std::span<const std::byte> data) {
        std::vector<q2_0_place> places;
        for (std::size_t i = 0; i < file.tensors.size(); ++i)
            if (descriptions_[i].type == q2_0_id && !file.tensors[i].is_empty())
                places.push_back({descriptions_[i].offset, i});
        if (places.empty()) return true;
        std::vector<std::uint64_t> starts;
        for (std::size_t i = 0; i < file.tensors.size(); ++i)
            if (!file.tensors[i].is_empty()) starts.push_back(descriptions_[i].offset);
        const q2_0_meaning meaning = meaning_of_q2_0(file.tensors, places, std::move(starts), data, alignment_);
        if (meaning == q2_0_meaning::blocks_of_64) return true;
        const gguf_block& older = *find_gguf_block(pq2_0_id);
        for (const q2_0_place& place : places) {
            tensor_info& tensor = file.tensors[place.tensor];
            if (meaning == q2_0_meaning::in_doubt)
                return fail(
                    status_code::unsupported, "tensor " + in_quotes(tensor.name) + " type",
                    descriptions_[place.tensor].offset_at - sizeof(std::uint32_t),
                    "42 is Q2_0 in blocks of 64, or in older files of 128, and the sizes of this file's tensors "
                    "do not tell which; give those of 128 their own type, 142");
            tensor.type_name = older.name;
            tensor.decoder = find_ggml_decoder(older.id);
            if (!block_bytes(tensor, older, tensor.bytes)) // smaller than what was counted already
                return fail(status_code::malformed, "tensor data", at_, "the size in bytes overflows");
        }
        return true;
    }

    std::span<const std::byte> bytes_;
    std::size_t at_ = 0;
    std::uint64_t tensor_count_ = 0;
    std::uint64_t entry_count_ = 0;
    std::uint32_t alignment_ = 32; // the format's default
    std::vector<description> descriptions_;
    status error_;
};

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
