// compressed_tensors.hpp: layers of compressed-tensors checkpoints (llm-compressor, vLLM) with integer codes in int32
// words.
#pragma once

#include <nibble/io/gptq.hpp>
#include <nibble/io/integer_formats.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>
#include <nibble/io/transpose.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/tensor/quantized.hpp>

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

// "pack-quantized": N outputs, K inputs, b bits, f = floor(32 / b) codes per word, groups of G inputs:
//   weight_packed      I32 [N, ceil(K / f)]   code p of a word in bits b p ...; 3 bits: ten codes, the top two bits 0
//   weight_scale       F16, BF16 or F32 [N, ceil(K / G)]
//   weight_shape       I64 or I32 [2]         N, K
//   weight_zero_point  I32 [ceil(N / f), ceil(K / G)], if asymmetric: packed along the outputs
//   weight_g_idx       I32 [K], optional: the group of each input (-1 everywhere: as if it were not there)
// Codes and zero points are stored plus 2^(b - 1). weight(n, k) = (q - zero) x scale.

// Named as in quantization_config. num_bits 7 packs like 8: it is taken for 8 bits unless it is said here.
struct compressed_tensors_options {
    int num_bits = 0;   // 0: from the shapes; otherwise they must agree
    int group_size = 0; // 0: from weight_g_idx, or the shapes where one size fits; -1: one group ("channel")
};

// Every format of an asymmetric and of a symmetric layer, 48 each.
using compressed_tensors_formats =
    join_formats<symmetric_integer_formats<4>, symmetric_integer_formats<8>, symmetric_integer_formats<3>,
                 symmetric_integer_formats<2>, asymmetric_integer_formats<4>, asymmetric_integer_formats<8>,
                 asymmetric_integer_formats<3>, asymmetric_integer_formats<2>>;

namespace detail {

// `count` words of 32 bits, each XORed with `flip`, then cut to its lowest 30 bits and appended to a bit stream.
inline void join_words_of_30(const std::byte* from, std::size_t count, std::uint32_t flip, std::byte* to,
                             std::size_t bytes) {
    std::uint64_t held = 0;
    unsigned fill = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t word = (load_little<std::uint32_t>(from + 4 * i) ^ flip) & 0x3fffffffu;
        held |= std::uint64_t{word} << fill;
        fill += 30;
        if (fill < 32) continue;
        if (at + 4 > bytes) break;
        store_little(to + at, static_cast<std::uint32_t>(held));
        at += 4;
        held >>= 32;
        fill -= 32;
    }
    for (; at < bytes; ++at, held >>= 8) to[at] = static_cast<std::byte>(held & 255u);
}

// The inverse: words of 30 bits out of a bit stream of `bytes` bytes.
inline void split_words_of_30(const std::byte* from, std::size_t bytes, std::size_t count, std::uint32_t flip,
                              std::byte* to) {
    std::uint64_t held = 0;
    unsigned fill = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        for (; fill < 30; fill += 8, ++at)
            held |= std::uint64_t{at < bytes ? static_cast<unsigned>(from[at]) : 0u} << fill;
        store_little(to + 4 * i, (static_cast<std::uint32_t>(held) ^ flip) & 0x3fffffffu);
        held >>= 30;
        fill -= 30;
    }
}

// 2^(b - 1) in every code of a word.
[[nodiscard]] inline std::uint32_t sign_bits(int bits) noexcept {
    return bits == 2 ? 0xaaaaaaaau : bits == 3 ? 0x24924924u : bits == 4 ? 0x88888888u : 0x80808080u;
}

// Zeros behind the last code of each row: of padding in a file nothing is kept.
inline void clear_row_ends(std::byte* codes, std::size_t rows, std::size_t row_bytes, std::size_t row_bits) noexcept {
    if (row_bits % 8 == 0) return;
    const auto mask = static_cast<std::byte>((1u << (row_bits % 8)) - 1u);
    for (std::size_t row = 0; row < rows; ++row) codes[(row + 1) * row_bytes - 1] &= mask;
}

class compressed_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<std::uint32_t> columns;

    [[nodiscard]] bool find(layer_tensors& layer, const compressed_tensors_options& options) {
        packed_ = layer.require(".weight_packed");
        scale_ = packed_ == nullptr ? nullptr : layer.require(".weight_scale");
        const tensor_info* shape = scale_ == nullptr ? nullptr : layer.require(".weight_shape");
        if (shape == nullptr) return false;
        zero_ = layer.find(".weight_zero_point");
        if (!layer.expect_type(*packed_, {"I32"}) || !layer.expect_type(*scale_, {"F16", "BF16", "F32"}) ||
            !layer.expect_type(*shape, {"I64", "I32"}) || (zero_ != nullptr && !layer.expect_type(*zero_, {"I32"})) ||
            !layer.expect_matrix(*packed_) || !layer.expect_matrix(*scale_) ||
            !layer.expect_shape(*shape, {2}, "outputs and inputs") || !extents(layer, *shape) || !width(layer, options))
            return false;
        groups_ = scale_->shape[1];
        if (!layer.expect_shape(*scale_, {rows, groups_}, "a row for each of weight_packed")) return false;
        const std::size_t codes = 32 / static_cast<std::size_t>(format.bits);
        if (zero_ != nullptr &&
            !layer.expect_shape(*zero_, {ceil_div(rows, codes), groups_},
                                std::to_string(codes) + " outputs per word, columns of weight_scale"))
            return false;
        std::size_t group = 0;
        const tensor_info* index = layer.find(".weight_g_idx");
        if (index != nullptr && unused(*index)) index = nullptr;
        if (index == nullptr || options.group_size != 0) {
            if (!layer.group_size(*scale_, cols, groups_, "group_size", options.group_size, 0, group)) return false;
        } else if (groups_ > cols) {
            return layer.fail(status_code::mismatch, *scale_,
                              "has " + std::to_string(groups_) + " groups for " + std::to_string(cols) + " columns");
        }
        if (index != nullptr && !layer.column_order(*index, cols, groups_, group, columns)) return false;
        format.code = zero_ != nullptr ? layer_code::unsigned_integer : layer_code::signed_integer;
        format.zero = zero_ != nullptr;
        format.scale = scale_of_type(scale_->type);
        set_groups(format, group, groups_);
        return true;
    }

    void store(const layer_destination& to) const {
        const std::size_t words = packed_->shape[1];
        const std::uint32_t flip = format.zero ? 0 : sign_bits(format.bits);
        const auto flips = static_cast<std::byte>(flip & 255u);
        const std::size_t row_bytes = to.row_bytes; // a local: stores of bytes may alias `to`
        for (std::size_t row = 0; row < rows; ++row) {
            const std::byte* from = packed_->data + row * words * 4;
            std::byte* codes = to.codes + row * to.row_bytes;
            if (format.bits == 3) {
                join_words_of_30(from, words, flip, codes, to.row_bytes);
            } else if (flip == 0) {
                std::memcpy(codes, from, to.row_bytes);
            } else {
                for (std::size_t i = 0; i < row_bytes; ++i) codes[i] = from[i] ^ flips;
            }
        }
        clear_row_ends(to.codes, rows, to.row_bytes, cols * static_cast<std::size_t>(format.bits));
        if (!columns.empty()) gather_codes(format.bits, to.codes, rows, to.row_bytes, columns);
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        if (zero_ == nullptr) return;
        const std::size_t codes = 32 / static_cast<std::size_t>(format.bits);
        const std::uint32_t mask = (1u << format.bits) - 1u;
        const std::size_t groups = groups_;
        for (std::size_t n = 0; n < rows; ++n) {
            const std::byte* from = zero_->data + n / codes * groups * 4;
            std::byte* zeros = to.zeros + n * groups;
            const auto shift = static_cast<unsigned>(n % codes) * static_cast<unsigned>(format.bits);
            for (std::size_t g = 0; g < groups; ++g)
                zeros[g] = static_cast<std::byte>((load_little<std::uint32_t>(from + 4 * g) >> shift) & mask);
        }
    }

private:
    [[nodiscard]] bool extents(layer_tensors& layer, const tensor_info& shape) {
        const auto extent = [&](std::size_t i) {
            return shape.type_name == "I64" ? load_little<std::int64_t>(shape.data + 8 * i)
                                            : std::int64_t{load_little<std::int32_t>(shape.data + 4 * i)};
        };
        const std::int64_t n = extent(0);
        const std::int64_t k = extent(1);
        if (n < 1 || k < 1)
            return layer.fail(status_code::malformed, shape,
                              "says " + std::to_string(n) + " x " + std::to_string(k) +
                                  ", expected two positive numbers");
        if (static_cast<std::uint64_t>(n) != packed_->shape[0])
            return layer.fail(status_code::mismatch, *packed_,
                              "has " + std::to_string(packed_->shape[0]) + " rows, expected " + std::to_string(n) +
                                  " (weight_shape)");
        rows = packed_->shape[0];
        // 16 codes are the most that a word has.
        if (static_cast<std::uint64_t>(k) > std::uint64_t{packed_->shape[1]} * 16)
            return layer.fail(status_code::mismatch, *packed_,
                              "has " + std::to_string(packed_->shape[1]) + " words per row, too few for " +
                                  std::to_string(k) + " codes (weight_shape)");
        cols = static_cast<std::size_t>(k);
        return true;
    }
    [[nodiscard]] bool width(layer_tensors& layer, const compressed_tensors_options& options) {
        int found = 0;
        int count = 0;
        for (const int bits : {2, 3, 4, 8}) {
            if (options.num_bits != 0 && options.num_bits != bits) continue;
            if (ceil_div(cols, static_cast<std::size_t>(32 / bits)) != packed_->shape[1]) continue;
            found = bits;
            ++count;
        }
        if (count == 1) {
            format.bits = found;
            return true;
        }
        const std::string words =
            "has " + std::to_string(packed_->shape[1]) + " words per row for " + std::to_string(cols) + " columns, ";
        if (count > 1)
            return layer.fail(status_code::mismatch, *packed_,
                              words + "which several widths fit: say the num_bits of the checkpoint's configuration");
        if (options.num_bits != 0)
            return layer.fail(status_code::mismatch, *packed_,
                              words + "which does not fit num_bits " + std::to_string(options.num_bits) +
                                  " (2, 3, 4 and 8 are read)");
        return layer.fail(status_code::unsupported, *packed_, words + "which no width of 2, 3, 4 or 8 bits fits");
    }
    // Initialised and never set: -1 everywhere.
    [[nodiscard]] static bool unused(const tensor_info& index) noexcept {
        if (index.type_name != "I32" || index.bytes == 0) return false;
        for (std::size_t i = 0; i < index.bytes; i += 4)
            if (load_little<std::int32_t>(index.data + i) != -1) return false;
        return true;
    }

    const tensor_info* packed_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* zero_ = nullptr;
    std::size_t groups_ = 0;
};

[[nodiscard]] inline status write_compressed_tensors(const layer_format& format, const layer_source& from,
                                                     std::span<const std::uint32_t> columns, std::string_view prefix,
                                                     safetensors_writer& out) {
    status s = check_integer_layer(prefix, "compressed-tensors", format, from, columns);
    if (!s.ok()) return s;
    const auto bits = static_cast<std::size_t>(format.bits);
    const std::size_t per_word = 32 / bits;
    const std::size_t words = ceil_div(from.cols, per_word);
    const std::size_t group = format.slots == layer_slots::channel ? from.cols : format.size;
    const std::size_t groups = ceil_div(from.cols, group);
    const std::vector<std::byte> codes = codes_in_input_order(from, format.bits, columns);
    const std::uint32_t flip = format.zero ? 0 : sign_bits(format.bits);
    std::vector<std::byte> packed(from.rows * words * 4);
    for (std::size_t row = 0; row < from.rows; ++row) {
        std::byte* to = packed.data() + row * words * 4;
        const std::byte* stream = codes.data() + row * from.row_bytes;
        if (format.bits == 3) {
            split_words_of_30(stream, from.row_bytes, words, flip, to);
        } else {
            for (std::size_t i = 0; i < from.row_bytes; ++i) to[i] = stream[i] ^ static_cast<std::byte>(flip & 255u);
        }
        // Codes of padding are 0.
        const std::size_t last = from.cols - (words - 1) * per_word;
        const std::uint64_t kept = (std::uint64_t{1} << (last * bits)) - 1;
        std::byte* end = to + (words - 1) * 4;
        store_little(end, static_cast<std::uint32_t>(load_little<std::uint32_t>(end) & kept));
    }
    std::vector<std::byte> shape(16);
    store_little(shape.data(), static_cast<std::int64_t>(from.rows));
    store_little(shape.data() + 8, static_cast<std::int64_t>(from.cols));
    const std::string name(prefix);
    const std::size_t packed_shape[] = {from.rows, words};
    const std::size_t scale_shape[] = {from.rows, groups};
    const std::size_t shape_shape[] = {2};
    const std::size_t index_shape[] = {from.cols};
    s = out.add(name + ".weight_packed", "I32", packed_shape, std::move(packed));
    if (s.ok())
        s = out.add(name + ".weight_scale", type_of_scale(format.scale), scale_shape,
                    {from.scales, from.scales + from.scale_count * from.scale_bytes});
    if (s.ok()) s = out.add(name + ".weight_shape", "I64", shape_shape, std::move(shape));
    if (s.ok() && format.zero) {
        const std::size_t zero_shape[] = {ceil_div(from.rows, per_word), groups};
        std::vector<std::byte> zeros(zero_shape[0] * groups * 4);
        for (std::size_t n = 0; n < from.rows; ++n)
            for (std::size_t g = 0; g < groups; ++g) {
                std::byte* word = zeros.data() + (n / per_word * groups + g) * 4;
                store_little(word, load_little<std::uint32_t>(word) |
                                       static_cast<std::uint32_t>(from.zeros[n * groups + g]) << (n % per_word * bits));
            }
        s = out.add(name + ".weight_zero_point", "I32", zero_shape, std::move(zeros));
    }
    if (s.ok() && !columns.empty())
        s = out.add(name + ".weight_g_idx", "I32", index_shape, group_index(from.cols, group, columns));
    return s;
}

} // namespace detail

// The pack-quantized layer `prefix` of a file; codes, zero points and scales as stored (signed codes as two's
// complement instead of plus 2^(b - 1)). Columns as in read_gptq. `out` stays as it was unless the result is ok; errors
// as those of read_gptq, and malformed for a weight_shape that is none. Reads every byte once; allocates the weights.
template <class List>
[[nodiscard]] status read_compressed_tensors(const tensor_source& file, std::string_view prefix,
                                             quantized_layer<List>& out,
                                             const compressed_tensors_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::compressed_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::compressed_tensors_packed;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "compressed-tensors", detail::no_format_text(tensors.format));
        return layer.error();
    }
    result.columns = std::move(tensors.columns);
    out = std::move(result);
    return {};
}

// Adds the tensors of a pack-quantized layer to a file, weight_g_idx only if `columns` (see quantized_layer) says that
// inputs are not in order. unsupported: anything but integers of 2, 3, 4 and 8 bits in groups or rows.
template <any_scheme S>
[[nodiscard]] status write_compressed_tensors(const quantized<S>& weights, std::span<const std::uint32_t> columns,
                                              std::string_view prefix, safetensors_writer& out) {
    return detail::write_compressed_tensors(detail::format_of<S>, detail::sections_of<const std::byte>(weights),
                                            columns, prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
