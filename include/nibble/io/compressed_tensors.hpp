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

// "pack-quantized": N outputs, K inputs, b bits, groups of G inputs. Of 3, 5, 6 and 7 bits there are two packings:
// words of f = floor(32 / b) codes, code p in bits b p ..., the bits behind the last 0; and, by newer versions, one
// stream, code p of a row in bits b p ... of all its words. Of 2, 4 and 8 bits the two are the same.
//   weight_packed      I32 [N, ceil(K / f)], or [N, ceil(K b / 32)]
//   weight_scale       F16, BF16 or F32 [N, ceil(K / G)]
//   weight_shape       I64 or I32 [2]         N, K
//   weight_zero_point  I32 [ceil(N / f), ceil(K / G)], or [ceil(N b / 32), ...], if asymmetric: packed along the
//   outputs;
//                      or I8 [N, ceil(K / G)] as older versions write it: not packed, as they are
//   weight_g_idx       I32 or I64 [K], optional: the group of each input (-1 or 0 everywhere: as if it were not there)
// Codes and packed zero points are stored plus 2^(b - 1). weight(n, k) = (q - zero) x scale.

// Named as in quantization_config.
struct compressed_tensors_options {
    // 0: from the shapes; otherwise they must agree. What fits 2, 3, 4 or 8 bits is not taken for others then: 7 bits
    // in words look like 8. Rows of less than 160 codes may fit both packings: words are taken then.
    int num_bits = 0;
    int group_size = 0;  // 0: from weight_g_idx, or the shapes where one size fits; -1: one group ("channel")
    bool stream = false; // write codes of 3, 5, 6 and 7 bits as one stream, as newer versions read them
};

// Every format of an asymmetric and of a symmetric layer of 2, 3, 4 and 8 bits, 48 each; others are
// symmetric_integer_formats<5> ...
using compressed_tensors_formats =
    join_formats<symmetric_integer_formats<4>, symmetric_integer_formats<8>, symmetric_integer_formats<3>,
                 symmetric_integer_formats<2>, asymmetric_integer_formats<4>, asymmetric_integer_formats<8>,
                 asymmetric_integer_formats<3>, asymmetric_integer_formats<2>>;

namespace detail {

// The lowest `used` bits of each of `count` words of 32 bits, XORed with `flip`, appended to a bit stream.
inline void join_words(int used, const std::byte* from, std::size_t count, std::uint32_t flip, std::byte* to,
                       std::size_t bytes) {
    std::uint64_t held = 0;
    int fill = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t word = (load_little<std::uint32_t>(from + 4 * i) ^ flip) & ((1u << used) - 1u);
        held |= std::uint64_t{word} << fill;
        fill += used;
        if (fill < 32) continue;
        if (at + 4 > bytes) break;
        store_little(to + at, static_cast<std::uint32_t>(held));
        at += 4;
        held >>= 32;
        fill -= 32;
    }
    for (; at < bytes; ++at, held >>= 8) to[at] = static_cast<std::byte>(held & 255u);
}

// The inverse: words of `used` bits out of a bit stream of `bytes` bytes.
inline void split_words(int used, const std::byte* from, std::size_t bytes, std::size_t count, std::byte* to) {
    std::uint64_t held = 0;
    int fill = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        for (; fill < used; fill += 8, ++at)
            held |= std::uint64_t{at < bytes ? static_cast<unsigned>(from[at]) : 0u} << fill;
        store_little(to + 4 * i, static_cast<std::uint32_t>(held) & ((1u << used) - 1u));
        held >>= used;
        fill -= used;
    }
}

// The highest bit of every code in a word of 32 bits.
[[nodiscard]] constexpr std::uint32_t sign_bits(int bits) noexcept {
    std::uint32_t word = 0;
    for (int at = bits; at <= 32; at += bits) word |= 1u << (at - 1);
    return word;
}
// Of widths that divide 32 the two packings are one.
[[nodiscard]] constexpr bool divides_word(int bits) noexcept {
    return bits == 2 || bits == 4 || bits == 8;
}
// Words of 32 bits for `count` codes in a row (or column).
[[nodiscard]] constexpr std::size_t packed_words(std::size_t count, int bits, bool stream) noexcept {
    const auto b = static_cast<std::size_t>(bits);
    // No product that could overflow: a file has less than 2^60 codes in a row.
    return stream ? ceil_div(count * b, 32) : ceil_div(count, 32 / b);
}
// Where code n stands of rows of words that are packed downwards: word and bit.
struct code_place {
    std::size_t word;
    unsigned bit;
    [[nodiscard]] constexpr bool straddles(int bits) const noexcept { return bit + static_cast<unsigned>(bits) > 32; }
};
[[nodiscard]] constexpr code_place place_of_code(std::size_t n, int bits, bool stream) noexcept {
    const auto b = static_cast<std::size_t>(bits);
    return stream ? code_place{n * b / 32, static_cast<unsigned>(n * b % 32)}
                  : code_place{n / (32 / b), static_cast<unsigned>(n % (32 / b) * b)};
}
// Code n of each of `count` columns of words.
inline void unpack_down(const std::byte* from, std::size_t n, std::size_t count, int bits, bool stream,
                        std::byte* to) noexcept {
    const code_place place = place_of_code(n, bits, stream);
    const std::uint32_t mask = (1u << bits) - 1u;
    const std::byte* words = from + place.word * count * 4;
    if (!place.straddles(bits)) {
        for (std::size_t g = 0; g < count; ++g)
            to[g] = static_cast<std::byte>((load_little<std::uint32_t>(words + 4 * g) >> place.bit) & mask);
        return;
    }
    const std::byte* more = words + count * 4;
    for (std::size_t g = 0; g < count; ++g) {
        const std::uint64_t two =
            std::uint64_t{load_little<std::uint32_t>(more + 4 * g)} << 32 | load_little<std::uint32_t>(words + 4 * g);
        to[g] = static_cast<std::byte>(static_cast<std::uint32_t>(two >> place.bit) & mask);
    }
}
// The inverse for one column, whose words are `stride` words apart and 0 where nothing was stored yet.
inline void store_packed_code(std::byte* to, std::size_t n, std::size_t stride, int bits, bool stream,
                              std::uint32_t code) noexcept {
    const code_place place = place_of_code(n, bits, stream);
    const std::uint64_t held = std::uint64_t{code} << place.bit;
    std::byte* first = to + place.word * stride * 4;
    store_little(first, load_little<std::uint32_t>(first) | static_cast<std::uint32_t>(held));
    if (!place.straddles(bits)) return;
    std::byte* second = first + stride * 4;
    store_little(second, load_little<std::uint32_t>(second) | static_cast<std::uint32_t>(held >> 32));
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
            !layer.expect_type(*shape, {"I64", "I32"}) ||
            (zero_ != nullptr && !layer.expect_type(*zero_, {"I32", "I8"})) || !layer.expect_matrix(*packed_) ||
            !layer.expect_matrix(*scale_) || !layer.expect_shape(*shape, {2}, "outputs and inputs") ||
            !extents(layer, *shape) || !width(layer, options))
            return false;
        groups_ = scale_->shape[1];
        if (!layer.expect_shape(*scale_, {rows, groups_}, "a row for each of weight_packed")) return false;
        if (zero_ != nullptr && !zeros(layer)) return false;
        std::size_t group = 0;
        const tensor_info* index = layer.find_index(".weight_g_idx");
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
        const bool bytes = divides_word(format.bits);
        const std::uint32_t flip = format.zero ? 0 : sign_bits(format.bits);
        const auto flips = static_cast<std::byte>(flip & 255u);
        const std::size_t row_bytes = to.row_bytes; // a local: stores of bytes may alias `to`
        for (std::size_t row = 0; row < rows; ++row) {
            const std::byte* from = packed_->data + row * words * 4;
            std::byte* codes = to.codes + row * to.row_bytes;
            if (!bytes && !stream_) {
                join_words(32 / format.bits * format.bits, from, words, flip, codes, to.row_bytes);
            } else if (!bytes || format.zero) {
                std::memcpy(codes, from, to.row_bytes);
            } else {
                for (std::size_t i = 0; i < row_bytes; ++i) codes[i] = from[i] ^ flips;
            }
        }
        clear_row_ends(to.codes, rows, to.row_bytes, cols * static_cast<std::size_t>(format.bits));
        if (!bytes && stream_ && !format.zero) flip_signs(format.bits, to.codes, rows, cols, to.row_bytes);
        if (!columns.empty()) gather_codes(format.bits, to.codes, rows, to.row_bytes, columns);
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        if (zero_ == nullptr) return;
        // Locals: stores of bytes may alias members.
        const std::size_t groups = groups_;
        const std::byte* from = zero_->data;
        const bool plain = zero_->type_name == "I8";
        const bool stream = stream_;
        const int bits = format.bits;
        for (std::size_t n = 0; n < rows; ++n) {
            std::byte* zeros = to.zeros + n * groups;
            if (plain)
                for (std::size_t g = 0; g < groups; ++g)
                    zeros[g] = static_cast<std::byte>(static_cast<unsigned>(from[n * groups + g]) + (1u << (bits - 1)));
            else
                unpack_down(from, n, groups, bits, stream, zeros);
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
        const std::size_t words = packed_->shape[1];
        int count = 0;
        // By words first, of the widths that most checkpoints have; then by what is left.
        const auto try_width = [&](int bits, bool stream) {
            if ((options.num_bits != 0 && options.num_bits != bits) || packed_words(cols, bits, stream) != words)
                return;
            format.bits = bits;
            stream_ = stream;
            ++count;
        };
        for (const int bits : {2, 3, 4, 8}) try_width(bits, false);
        if (count == 0)
            for (const int bits : {3, 5, 6, 7}) {
                const int before = count;
                try_width(bits, true);
                if (bits != 3) try_width(bits, false); // of one width words go before the stream
                if (count > before) count = before + 1;
            }
        if (count == 1) return true;
        const std::string text =
            "has " + std::to_string(words) + " words per row for " + std::to_string(cols) + " columns, ";
        if (count > 1)
            return layer.fail(status_code::mismatch, *packed_,
                              text + "which several widths fit: say the num_bits of the checkpoint's configuration");
        if (options.num_bits != 0)
            return layer.fail(status_code::mismatch, *packed_,
                              text + "which does not fit num_bits " + std::to_string(options.num_bits) +
                                  " (2 to 8 are read)");
        return layer.fail(status_code::unsupported, *packed_, text + "which no width of 2 to 8 bits fits");
    }
    [[nodiscard]] bool zeros(layer_tensors& layer) const {
        const std::string codes = std::to_string(format.bits);
        if (zero_->type_name == "I32")
            return layer.expect_shape(*zero_, {packed_words(rows, format.bits, stream_), groups_},
                                      "outputs in " + codes + " bits, columns of weight_scale");
        if (!layer.expect_shape(*zero_, {rows, groups_}, "one per number of weight_scale")) return false;
        const int half = 1 << (format.bits - 1);
        for (std::size_t i = 0; i < zero_->bytes; ++i) {
            const int zero = load_little<std::int8_t>(zero_->data + i);
            if (zero < -half || zero >= half)
                return layer.fail(status_code::malformed, *zero_,
                                  "number " + std::to_string(i) + " is " + std::to_string(zero) + ", which " + codes +
                                      " bits do not hold");
        }
        return true;
    }

    const tensor_info* packed_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* zero_ = nullptr;
    std::size_t groups_ = 0;
    bool stream_ = false;
};

[[nodiscard]] inline status write_compressed_tensors(const layer_format& format, const layer_source& from,
                                                     std::span<const std::uint32_t> columns, std::string_view prefix,
                                                     const compressed_tensors_options& options,
                                                     safetensors_writer& out) {
    status s = check_integer_layer(prefix, "compressed-tensors", format, from, columns);
    if (!s.ok()) return s;
    const bool bytes = divides_word(format.bits);
    const bool stream = options.stream && !bytes;
    const std::size_t words = packed_words(from.cols, format.bits, stream);
    const std::size_t group = format.granularity == layer_granularity::channel ? from.cols : format.size;
    const std::size_t groups = ceil_div(from.cols, group);
    std::vector<std::byte> codes = codes_in_input_order(from, format.bits, columns);
    clear_row_ends(codes.data(), from.rows, from.row_bytes, from.cols * static_cast<std::size_t>(format.bits));
    if (!format.zero) flip_signs(format.bits, codes.data(), from.rows, from.cols, from.row_bytes);
    std::vector<std::byte> packed(from.rows * words * 4);
    for (std::size_t row = 0; row < from.rows; ++row) {
        std::byte* to = packed.data() + row * words * 4; // what is behind the last code stays 0
        const std::byte* own = codes.data() + row * from.row_bytes;
        if (!bytes && !stream)
            split_words(32 / format.bits * format.bits, own, from.row_bytes, words, to);
        else
            std::memcpy(to, own, from.row_bytes);
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
        const std::size_t zero_shape[] = {packed_words(from.rows, format.bits, stream), groups};
        std::vector<std::byte> zeros(zero_shape[0] * groups * 4);
        for (std::size_t n = 0; n < from.rows; ++n)
            for (std::size_t g = 0; g < groups; ++g)
                store_packed_code(zeros.data() + 4 * g, n, groups, format.bits, stream,
                                  static_cast<std::uint32_t>(from.zeros[n * groups + g]));
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
// inputs are not in order. unsupported: anything but integers of 2 to 8 bits in groups or rows. Of the options only
// stream is looked at.
template <any_scheme S>
[[nodiscard]] status write_compressed_tensors(const quantized<S>& weights, std::span<const std::uint32_t> columns,
                                              std::string_view prefix, safetensors_writer& out,
                                              const compressed_tensors_options& options = {}) {
    return detail::write_compressed_tensors(detail::format_of<S>, detail::sections_of<const std::byte>(weights),
                                            columns, prefix, options, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
