// gguf_writer.hpp: puts tensors of any GGUF type and metadata into a GGUF file, in memory or on disk; the reader's
// inverse.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/io/file_error.hpp>
#include <nibble/io/ggml_quantize.hpp>
#include <nibble/io/ggml_types.hpp>
#include <nibble/io/gguf_parser.hpp>
#include <nibble/io/gguf_split.hpp>
#include <nibble/io/gguf_types.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/io/written_file.hpp>

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/any_format.hpp>
#include <nibble/tensor/quantized.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

[[nodiscard]] constexpr const gguf_block* find_gguf_block(std::string_view name) noexcept {
    for (const gguf_block& block : gguf_blocks)
        if (block.name == name) return &block;
    return nullptr;
}

} // namespace detail

// A number, a boolean or a text, as GGUF's metadata has them.
template <class T>
concept gguf_scalar = gguf_number<T> || std::is_same_v<T, std::string_view>;

// Where a model is cut into parts: a part ends before the tensor that would be one too many, or whose bytes, with their
// padding, would be too many beside those of the part's other tensors (metadata and descriptions come on top, and a
// tensor that is larger alone is a part alone). 0: no such limit.
struct gguf_split {
    std::size_t max_tensors = 0;
    std::size_t max_bytes = 0;
    bool metadata_alone = false; // the first part has no tensors
};

// Collects metadata and tensors, then writes a file of version 3: the metadata and the tensors in the order of add,
// each tensor's data at a multiple of the alignment. Holds all bytes until then, once more while bytes() is made. What
// cannot be in a file is a status, and nothing is added then: malformed for a name or key that is empty or there
// already, mismatch for a shape that does not suit the type or the data, unsupported for a type that is not known.
class gguf_writer {
public:
    // A power of two from 8 on; other than the format's 32 it becomes the key general.alignment.
    explicit gguf_writer(std::uint32_t alignment = 32) : alignment_(alignment) {
        NIBBLE_CHECK(std::has_single_bit(alignment) && alignment >= 8,
                     "gguf_writer: the alignment must be a power of two from 8");
        if (alignment == 32) return;
        begin("general.alignment", gguf_type::u32);
        append(alignment);
    }

    // ---- metadata

    template <gguf_scalar T> [[nodiscard]] status add_metadata(std::string_view key, T value) {
        status s = check_key(key);
        if (!s.ok()) return s;
        begin(key, detail::gguf_type_of<T>);
        append(value);
        return s;
    }
    [[nodiscard]] status add_metadata(std::string_view key, const char* value) {
        return add_metadata(key, std::string_view(value));
    }
    [[nodiscard]] status add_metadata(std::string_view key, const std::string& value) {
        return add_metadata(key, std::string_view(value));
    }
    template <gguf_scalar T> [[nodiscard]] status add_array(std::string_view key, std::span<const T> values) {
        status s = check_key(key);
        if (!s.ok()) return s;
        begin(key, gguf_type::array);
        append(static_cast<std::uint32_t>(detail::gguf_type_of<T>));
        append(static_cast<std::uint64_t>(values.size()));
        for (const T value : values) append(value);
        return s;
    }
    // An entry of a file that was read, as it is: any type, arrays of arrays too. general.alignment is the
    // constructor's.
    [[nodiscard]] status add_metadata(const gguf_value& value) {
        status s = check_key(value.key);
        if (!s.ok()) return s;
        begin(value.key, value.type);
        if (value.type == gguf_type::string) append(static_cast<std::uint64_t>(value.bytes.size()));
        if (value.type == gguf_type::array) {
            append(static_cast<std::uint32_t>(value.element_type));
            append(value.count);
        }
        metadata_->insert(metadata_->end(), value.bytes.begin(), value.bytes.end());
        return s;
    }

    // ---- tensors; `shape` is outermost first; llama.cpp reads up to 4 extents

    // Data as it stands in the file, of any type whose size is known ("Q4_K", "F32", "I32", "IQ2_XXS" ...).
    [[nodiscard]] status add_tensor(std::string_view name, std::string_view type_name,
                                    std::span<const std::size_t> shape, std::vector<std::byte> data) {
        const detail::gguf_block* block = nullptr;
        std::size_t bytes = 0;
        status s = check_tensor(name, type_name, shape, block, bytes);
        if (!s.ok()) return s;
        if (bytes != data.size())
            return {status_code::mismatch, what(name) + "has " + std::to_string(data.size()) +
                                               " bytes, but shape and type need " + std::to_string(bytes)};
        place(name, *block, shape, std::move(data));
        return s;
    }
    // A tensor of a file that was read, as it is.
    [[nodiscard]] status add_tensor(const tensor_info& tensor) {
        return add_tensor(tensor.name, tensor.type_name, tensor.shape, {tensor.data, tensor.data + tensor.bytes});
    }

    // Quantized weights as a type of their scheme, nothing quantized again. mismatch also if the type cannot hold a
    // value that the scheme can (ggml_type's fits).
    template <ggml_type Type>
    [[nodiscard]] status add_quantized(std::string_view name, const quantized<typename Type::scheme>& q) {
        const std::size_t shape[] = {q.rows(), q.cols()};
        const detail::gguf_block* block = nullptr;
        std::size_t bytes = 0;
        status s = check_tensor(name, ggml_block_of<Type>.name, shape, block, bytes);
        if (!s.ok()) return s;
        std::vector<std::byte> data(bytes);
        const std::size_t row_bytes = bytes == 0 ? 0 : bytes / q.rows();
        for (std::size_t row = 0; row < q.rows() && row_bytes != 0; ++row)
            if (!detail::write_ggml_row<Type>(q, row, data.data() + row * row_bytes))
                return {status_code::mismatch, what(name) + "row " + std::to_string(row) +
                                                   " holds the value 2, which " + std::string(block->name) +
                                                   " cannot; write a type of two bits"};
        place(name, *block, shape, std::move(data));
        return s;
    }
    // ... as the first type of ggml_types that has the scheme, or F32, F16, BF16.
    template <any_scheme Scheme> [[nodiscard]] status add_quantized(std::string_view name, const quantized<Scheme>& q) {
        status s{status_code::unsupported,
                 what(name) + "no tensor type of GGUF carries this scheme; see ggml_formats.hpp"};
        bool found = false;
        for_each_ggml_type([&]<class Type>() {
            if constexpr (std::same_as<typename Type::scheme, Scheme>)
                if (!std::exchange(found, true)) s = add_quantized<Type>(name, q);
        });
        if constexpr (std::same_as<Scheme, f32_plain>) s = add_plain(name, "F32", q);
        if constexpr (std::same_as<Scheme, f16_plain>) s = add_plain(name, "F16", q);
        if constexpr (std::same_as<Scheme, bf16_plain>) s = add_plain(name, "BF16", q);
        return s;
    }
    template <class List> [[nodiscard]] status add_quantized(std::string_view name, const any_quantized<List>& q) {
        status s{status_code::mismatch, what(name) + "there is nothing in it"};
        q.visit([&](const auto& weights) { s = add_quantized(name, weights); });
        return s;
    }

    // A float matrix as that type: by quantize_ggml, or F32, F16 and BF16 rounded to nearest even (a value beyond fp16
    // becomes infinite). With ggml_encoding::reference unsupported for the types that have no fixed rule.
    template <ggml_encoding Encoding = ggml_encoding::best, executor Executor = serial>
    [[nodiscard]] status add_matrix(std::string_view name, matrix_view<const float> w, std::string_view type_name,
                                    const Executor& threads = {}) {
        detail::check_executor(threads);
        const std::size_t shape[] = {w.rows(), w.cols()};
        const detail::gguf_block* block = nullptr;
        std::size_t bytes = 0;
        status s = check_tensor(name, type_name, shape, block, bytes);
        if (!s.ok()) return s;
        if (block->type != tensor_type::other) {
            place(name, *block, shape, floats(w, block->type, bytes));
            return s;
        }
        if (w.empty()) return {status_code::mismatch, what(name) + "there are no floats to quantize"};
        s = {status_code::unsupported, what(name) + "floats cannot be written as " + std::string(type_name) +
                                           ", only as a type of ggml_types, F32, F16 or BF16"};
        for_each_ggml_type([&]<class Type>() {
            if (Type::id != block->id) return;
            if constexpr (Encoding == ggml_encoding::best || has_ggml_reference<Type>)
                s = add_quantized<Type>(name, quantize_ggml<Type, Encoding>(w, threads));
            else
                s = {status_code::unsupported,
                     what(name) + "ggml has no fixed rule for " + std::string(type_name) + "; use ggml_encoding::best"};
        });
        return s;
    }

    // ---- the file

    [[nodiscard]] std::vector<std::byte> bytes() const {
        const std::span<const entry> all = *tensors_;
        return bytes_of(all, header(all, *metadata_, keys_->size()));
    }
    // All or nothing: a file of that name is replaced when the new one is complete. cannot_open if that fails.
    [[nodiscard]] status write(const char* path) const {
        const std::span<const entry> all = *tensors_;
        return write(path, all, header(all, *metadata_, keys_->size()));
    }

    // The model as files, each a GGUF file with its own tensors, split.no, split.count and split.tensors.count, and the
    // first with all metadata; one file that is not split if there is one part. unsupported: more than 65,535 parts.
    [[nodiscard]] status parts(const gguf_split& split, std::vector<std::vector<std::byte>>& out) const {
        std::vector<std::vector<std::byte>> files;
        status s = for_each_part(split, [&](std::size_t index, std::size_t count, std::span<const entry> tensors,
                                            const std::vector<std::byte>& head) {
            files.resize(count);
            files[index] = bytes_of(tensors, head);
            return status();
        });
        if (s.ok()) out = std::move(files);
        return s;
    }
    // ... "<prefix>-00001-of-00005.gguf" and so on, which gguf_file opens by the first. Each as by write, the first
    // last: where it is, there are all, unless a file of that name was there before. If one fails, those written before
    // it stay.
    [[nodiscard]] status write_parts(const char* prefix, const gguf_split& split) const {
        if (prefix == nullptr || *prefix == '\0') return {status_code::cannot_open, "no file name given"};
        return for_each_part(split, [&](std::size_t index, std::size_t count, std::span<const entry> tensors,
                                        const std::vector<std::byte>& head) {
            return write(gguf_part_name(prefix, index, count).c_str(), tensors, head);
        });
    }

private:
    struct entry {
        std::string name;
        std::vector<std::size_t> shape;
        std::uint32_t type = 0;
        std::vector<std::byte> data;
    };

    [[nodiscard]] static std::string what(std::string_view name) {
        return "gguf: tensor " + detail::in_quotes(name) + ": ";
    }

    // Numbers go in lowest byte first, whatever the machine's order.
    template <class T> static void append(std::vector<std::byte>& to, T value) {
        using bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
        bits word = 0;
        if constexpr (std::is_floating_point_v<T>)
            word = detail::bit_cast<bits>(value);
        else
            word = static_cast<bits>(value);
        for (std::size_t i = 0; i < sizeof(T); ++i) to.push_back(static_cast<std::byte>(word >> (8 * i) & 255u));
    }
    static void append(std::vector<std::byte>& to, std::string_view text) {
        append(to, static_cast<std::uint64_t>(text.size()));
        const auto* begin = reinterpret_cast<const std::byte*>(text.data());
        to.insert(to.end(), begin, begin + text.size());
    }
    template <class T> void append(T value) { append(*metadata_, value); }

    [[nodiscard]] status check_key(std::string_view key) const {
        const std::string named = "gguf: metadata " + detail::in_quotes(key) + ": ";
        if (key.empty()) return {status_code::malformed, named + "the key is empty"};
        if (key == "general.alignment")
            return {status_code::malformed, named + "the alignment is the constructor's argument"};
        if (detail::is_split_key(key)) return {status_code::malformed, named + "write_parts says how a model is split"};
        for (const std::string& other : *keys_)
            if (other == key) return {status_code::malformed, named + "was added before"};
        return {};
    }
    void begin(std::string_view key, gguf_type type) {
        keys_->emplace_back(key);
        append(key);
        append(static_cast<std::uint32_t>(type));
    }

    [[nodiscard]] status check_tensor(std::string_view name, std::string_view type_name,
                                      std::span<const std::size_t> shape, const detail::gguf_block*& block,
                                      std::size_t& bytes) const {
        if (name.empty()) return {status_code::malformed, what(name) + "the name is empty"};
        for (const entry& other : *tensors_)
            if (other.name == name) return {status_code::malformed, what(name) + "was added before"};
        block = detail::find_gguf_block(type_name);
        if (block == nullptr)
            return {status_code::unsupported, what(name) + "type " + detail::in_quotes(type_name) + " is not known"};
        tensor_info tensor; // as the reader will see it
        tensor.shape.assign(shape.begin(), shape.end());
        if (tensor.cols() % block->elements != 0)
            return {status_code::mismatch,
                    what(name) + std::string(block->name) + " has blocks of " + std::to_string(block->elements) +
                        " elements, which do not divide a row of " + std::to_string(tensor.cols())};
        std::size_t elements = 0;
        if (!detail::count_elements(tensor.shape, elements) || !detail::block_bytes(tensor, *block, bytes))
            return {status_code::mismatch, what(name) + "the size overflows"};
        return {};
    }
    void place(std::string_view name, const detail::gguf_block& block, std::span<const std::size_t> shape,
               std::vector<std::byte> data) {
        tensors_->push_back({std::string(name), {shape.begin(), shape.end()}, block.id, std::move(data)});
    }

    template <any_scheme Scheme>
    [[nodiscard]] status add_plain(std::string_view name, std::string_view type_name, const quantized<Scheme>& q) {
        const std::size_t shape[] = {q.rows(), q.cols()};
        std::vector<std::byte> data(q.rows() * q.row_bytes());
        if (!data.empty()) std::memcpy(data.data(), q.row_codes(0), data.size()); // little-endian there too
        return add_tensor(name, type_name, shape, std::move(data));
    }
    [[nodiscard]] static std::vector<std::byte> floats(matrix_view<const float> w, tensor_type type,
                                                       std::size_t bytes) {
        std::vector<std::byte> data;
        data.reserve(bytes);
        for (std::size_t i = 0; i < w.rows(); ++i)
            for (std::size_t j = 0; j < w.cols(); ++j) {
                if (type == tensor_type::float32) append(data, w(i, j));
                if (type == tensor_type::float16)
                    append(data, f16::encode<rounding::nearest_even, overflow::special>(w(i, j)));
                if (type == tensor_type::bfloat16)
                    append(data, bf16::encode<rounding::nearest_even, overflow::special>(w(i, j)));
            }
        return data;
    }

    [[nodiscard]] std::vector<std::byte> bytes_of(std::span<const entry> tensors, std::vector<std::byte> file) const {
        for (const entry& tensor : tensors) {
            file.insert(file.end(), tensor.data.begin(), tensor.data.end());
            file.resize(detail::round_up(file.size(), alignment_));
        }
        return file;
    }
    [[nodiscard]] status write(const char* path, std::span<const entry> tensors,
                               const std::vector<std::byte>& head) const {
        const std::vector<std::byte> zeros(*alignment_);
        std::vector<std::span<const std::byte>> pieces{head};
        for (const entry& tensor : tensors) {
            pieces.emplace_back(tensor.data);
            pieces.emplace_back(zeros.data(), detail::round_up(tensor.data.size(), alignment_) - tensor.data.size());
        }
        return detail::write_file(path, pieces);
    }

    // part(index, count, tensors, header) for each part, the last one first, until one fails.
    template <class Part> [[nodiscard]] status for_each_part(const gguf_split& split, const Part& part) const {
        const std::span<const entry> all = *tensors_;
        std::vector<std::size_t> starts{0};
        if (split.metadata_alone && !all.empty()) starts.push_back(0);
        std::size_t bytes = 0;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const std::size_t own = detail::round_up(all[i].data.size(), alignment_);
            const std::size_t count = i - starts.back();
            const bool full = (split.max_tensors != 0 && count >= split.max_tensors) ||
                              (split.max_bytes != 0 && (bytes > split.max_bytes || own > split.max_bytes - bytes));
            if (full && count != 0) {
                starts.push_back(i);
                bytes = 0;
            }
            bytes += own;
        }
        const std::size_t count = starts.size();
        if (count == 1) return part(std::size_t{0}, count, all, header(all, *metadata_, keys_->size()));
        if (count > detail::most_parts || all.size() > 0x7fffffffu)
            return {status_code::unsupported, "gguf: " + std::to_string(count) + " parts of " +
                                                  std::to_string(all.size()) + " tensors, there can be " +
                                                  std::to_string(detail::most_parts) +
                                                  " of 2^31 - 1; allow larger ones"};
        for (std::size_t index = count; index-- > 0;) {
            const std::size_t end = index + 1 < count ? starts[index + 1] : all.size();
            std::vector<std::byte> metadata;
            std::size_t keys = 3;
            if (index == 0) {
                metadata = *metadata_;
                keys += keys_->size();
            } else if (alignment_ != 32) {
                append_key(metadata, "general.alignment", *alignment_);
                ++keys;
            }
            append_key(metadata, detail::split_index_key, static_cast<std::uint16_t>(index));
            append_key(metadata, detail::split_count_key, static_cast<std::uint16_t>(count));
            append_key(metadata, detail::split_tensors_key, static_cast<std::int32_t>(all.size()));
            const std::span<const entry> tensors = all.subspan(starts[index], end - starts[index]);
            status s = part(index, count, tensors, header(tensors, metadata, keys));
            if (!s.ok()) return s;
        }
        return {};
    }
    template <class T> static void append_key(std::vector<std::byte>& to, std::string_view key, T value) {
        append(to, key);
        append(to, static_cast<std::uint32_t>(detail::gguf_type_of<T>));
        append(to, value);
    }

    // Everything before the data, padded.
    [[nodiscard]] std::vector<std::byte> header(std::span<const entry> tensors, const std::vector<std::byte>& metadata,
                                                std::size_t keys) const {
        std::vector<std::byte> file;
        for (const char c : std::string_view("GGUF")) file.push_back(static_cast<std::byte>(c));
        append(file, std::uint32_t{3});
        append(file, static_cast<std::uint64_t>(tensors.size()));
        append(file, static_cast<std::uint64_t>(keys));
        file.insert(file.end(), metadata.begin(), metadata.end());
        std::uint64_t offset = 0;
        for (const entry& tensor : tensors) {
            append(file, std::string_view(tensor.name));
            append(file, static_cast<std::uint32_t>(tensor.shape.size()));
            for (std::size_t i = tensor.shape.size(); i-- > 0;) // the contiguous dimension first
                append(file, static_cast<std::uint64_t>(tensor.shape[i]));
            append(file, tensor.type);
            append(file, offset);
            offset += detail::round_up(tensor.data.size(), alignment_);
        }
        file.resize(detail::round_up(file.size(), alignment_));
        return file;
    }

    // Moved away, all four of them, so that what is left is a writer that nothing was added to.
    detail::reset_on_move<std::uint32_t, 32u> alignment_;
    detail::reset_on_move<std::vector<std::string>> keys_;
    detail::reset_on_move<std::vector<std::byte>> metadata_;
    detail::reset_on_move<std::vector<entry>> tensors_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
