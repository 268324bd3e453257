// bitsandbytes.hpp: 4-bit layers of bitsandbytes (QLoRA), NF4 and FP4, with and without double quantization.
#pragma once

#include <nibble/io/json.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/codebooks.hpp>
#include <nibble/granularity/per_flat_block.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/quantized.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// N outputs, K inputs; the N K weights as one row-major stream in blocks of B (they do not end where rows do):
//   weight                        U8 [ceil(N K / 2), 1]  two codes per byte, the first in the high nibble; or these
//                                 bytes as numbers of another type (quant_storage: BF16, F16, F32, F64, I8), fewer rows
//   weight.absmax                 F32 [ceil(N K / B)], or U8 under double quantization
//   weight.quant_map              F32 [16]               the values of the codes: those of nf4 or bnb_fp4
//   weight.nested_absmax          F32 [ceil(blocks / B2)]
//   weight.nested_quant_map       F32 [256]
//   weight.quant_state.bitsandbytes__nf4 (or __fp4)  U8: JSON with quant_type, blocksize, shape, and nested_blocksize,
//                                 nested_offset under double quantization; dtype and others are not looked at
// weight = quant_map[code] x absmax, and absmax = nested_quant_map[absmax code] x nested_absmax + nested_offset, each
// step rounded to fp32.

// Blocks of 64 (the default), 128 or another number of weights. A K that is not a multiple of B leaves blocks that
// straddle rows: the weights can be dequantized, and packed for gemm if K is a multiple of 4.
template <element E, std::size_t Block> using bitsandbytes_scheme = scheme<E, per_flat_block<Block>, scale<f32>>;
// Blocks of 256 absmax codes, under one fp32 number each, plus an offset. The stored map must be dynamic8's.
template <element E, std::size_t Block>
using bitsandbytes_nested_scheme = scheme<E, two_level<per_flat_block<Block>, per_flat_block<256 * Block>>,
                                          two_level_scale<dynamic8, f32, by_largest, mean_offset>>;

namespace detail {

template <std::size_t Block, std::size_t N> inline constexpr auto block_name(const char (&code)[N], const auto& end) {
    return join_names(format_name(code), decimal_name<Block>, end);
}

} // namespace detail

// Every format of a layer in blocks of Block weights: nf4_b64_nested, nf4_b64, fp4_b64_nested, fp4_b64. bitsandbytes
// makes blocks of 32 to 4096, each a power of two.
template <std::size_t Block>
using bitsandbytes_block_formats = format_list<
    named_format<detail::block_name<Block>("nf4_b", format_name("_nested")), bitsandbytes_nested_scheme<nf4, Block>>,
    named_format<detail::block_name<Block>("nf4_b", format_name("")), bitsandbytes_scheme<nf4, Block>>,
    named_format<detail::block_name<Block>("fp4_b", format_name("_nested")),
                 bitsandbytes_nested_scheme<bnb_fp4, Block>>,
    named_format<detail::block_name<Block>("fp4_b", format_name("")), bitsandbytes_scheme<bnb_fp4, Block>>>;

// Those of the two common sizes. Kernels are instantiated for each: join others where a checkpoint has them.
using bitsandbytes_formats = join_formats<bitsandbytes_block_formats<64>, bitsandbytes_block_formats<128>>;

struct bitsandbytes_options {
    // Store the absmax of double quantization as the fp32 numbers that it stands for, also where it could be kept: the
    // same weights bit for bit, 0.37 bits more for each.
    bool expand_absmax = false;
};

namespace detail {

// What quant_state says.
struct bitsandbytes_state {
    std::string quant_type;
    std::size_t blocksize = 0;
    std::size_t nested_blocksize = 0;
    float nested_offset = 0.0f;
    std::vector<std::size_t> shape;
    bool has_nested_blocksize = false;
    bool has_nested_offset = false;
};

class bitsandbytes_state_parser {
public:
    [[nodiscard]] bool run(const tensor_info& tensor, bitsandbytes_state& out) {
        const std::string_view text(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
        json_ = json_reader(text, 0);
        json_.name_tensor(tensor.name);
        const std::size_t invalid = find_invalid_utf8(text);
        if (invalid != text.size()) return json_.fail(status_code::malformed, "JSON", invalid, "is not valid UTF-8");
        if (!json_.object(escaped_, "JSON", [&](std::string_view key, std::size_t at) {
                for (const std::string& other : keys_)
                    if (other == key) return json_.fail(status_code::malformed, key, at, "comes twice");
                keys_.emplace_back(key);
                return field(keys_.back(), out);
            }))
            return false;
        return json_.end("end of the JSON");
    }
    [[nodiscard]] const status& error() const noexcept { return json_.error(); }

private:
    [[nodiscard]] bool field(const std::string& key, bitsandbytes_state& out) {
        if (key == "quant_type") {
            std::string_view text;
            if (!json_.string(text, escaped_, key)) return false;
            out.quant_type = text;
            return true;
        }
        if (key == "blocksize") return size(key, out.blocksize);
        if (key == "nested_blocksize") return out.has_nested_blocksize = size(key, out.nested_blocksize);
        if (key == "nested_offset") return out.has_nested_offset = offset(key, out.nested_offset);
        if (key == "shape") {
            if (!json_.expect('[', key)) return false;
            if (json_.accept(']')) return true;
            do {
                out.shape.push_back(0);
                if (!size(key, out.shape.back())) return false;
            } while (json_.accept(','));
            return json_.expect(']', key);
        }
        return json_.skip_value(escaped_, key);
    }
    [[nodiscard]] bool size(std::string_view key, std::size_t& out) {
        const std::size_t at = json_.offset();
        std::uint64_t value = 0;
        if (!json_.integer(value, key)) return false;
        return to_size(value, out) ||
               json_.fail(status_code::unsupported, key, at, "does not fit in the address space");
    }
    [[nodiscard]] bool offset(std::string_view key, float& out) {
        const std::size_t at = json_.offset();
        std::string_view text;
        if (!json_.number_text(text, key)) return false;
        // The number of a Python float that was an fp32 one: the double is exact, and with it what it is narrowed to.
        double value = 0.0;
        const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
        if (parsed.ec != std::errc() || !(value >= -3.4028234663852886e38 && value <= 3.4028234663852886e38))
            return json_.fail(status_code::malformed, key, at, "is beyond fp32");
        out = static_cast<float>(value);
        return true;
    }

    json_reader json_{{}, 0};
    std::vector<char> escaped_;
    std::vector<std::string> keys_;
};

// bitsandbytes' stream of nibbles, high first, and rows of codes, low first and each from a byte of its own. Nibbles
// that two rows share a byte with are split; the padding of a row is 0.
inline void rows_from_stream(const std::byte* stream, std::size_t rows, std::size_t cols, std::byte* to,
                             std::size_t row_bytes) {
    const auto swapped = [](std::byte b) { return (b << 4) | (b >> 4); };
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t first = row * cols;
        const std::byte* from = stream + first / 2;
        std::byte* codes = to + row * row_bytes;
        if (first % 2 == 0) {
            for (std::size_t i = 0; i < row_bytes; ++i) codes[i] = swapped(from[i]);
        } else {
            for (std::size_t i = 0; i < cols / 2; ++i)
                codes[i] = (from[i] & std::byte{15}) | (from[i + 1] & std::byte{0xf0});
            if (cols % 2 != 0) codes[row_bytes - 1] = from[cols / 2];
        }
        if (cols % 2 != 0) codes[row_bytes - 1] &= std::byte{15};
    }
}
inline void stream_from_rows(const std::byte* from, std::size_t rows, std::size_t cols, std::size_t row_bytes,
                             std::byte* stream) {
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::size_t i = row * cols + k;
            const std::byte code = (from[row * row_bytes + k / 2] >> (4 * (k % 2))) & std::byte{15};
            stream[i / 2] |= i % 2 == 0 ? code << 4 : code;
        }
}

// Entry i of a file's map that is not element E's (zeros of either sign are the same), or the map's size.
template <element E> [[nodiscard]] std::size_t find_difference(const tensor_info& map) {
    for (std::size_t i = 0; i < decode_table<E>.size; ++i)
        if (load_little<float>(map.data + 4 * i) != decode_table<E>.at[i]) return i;
    return decode_table<E>.size;
}

class bitsandbytes_tensors {
public:
    layer_format format; // with fp32 absmax
    std::size_t rows = 0;
    std::size_t cols = 0;
    bool nested = false;
    bool keepable = false; // dynamic8 in blocks of 256: the codes of absmax can be kept

    [[nodiscard]] bool find(layer_tensors& layer) {
        const tensor_info* state = layer.find(".weight.quant_state.bitsandbytes__nf4");
        const bool is_nf4 = state != nullptr;
        if (!is_nf4) state = layer.find(".weight.quant_state.bitsandbytes__fp4");
        if (state == nullptr)
            return layer.fail(status_code::not_found, "tensor '...weight.quant_state.bitsandbytes__nf4' or '...__fp4'",
                              "is missing");
        weight_ = layer.require(".weight");
        absmax_ = weight_ == nullptr ? nullptr : layer.require(".weight.absmax");
        const tensor_info* map = absmax_ == nullptr ? nullptr : layer.require(".weight.quant_map");
        if (map == nullptr) return false;
        if (!layer.expect_type(*state, {"U8"}) ||
            !layer.expect_type(*weight_, {"U8", "BF16", "F16", "F32", "F64", "I8"}) ||
            !layer.expect_type(*absmax_, {"F32", "U8"}) || !layer.expect_type(*map, {"F32"}) ||
            !layer.expect_shape(*map, {16}, "a value per code"))
            return false;
        bitsandbytes_state_parser parser;
        if (!parser.run(*state, state_)) return layer.fail(parser.error().code(), *state, parser.error().message());
        if (!says(layer, *state, is_nf4) || !blocks(layer)) return false;
        const std::size_t wrong = is_nf4 ? find_difference<nf4>(*map) : find_difference<bnb_fp4>(*map);
        if (wrong != 16)
            return layer.fail(status_code::unsupported, *map,
                              "entry " + std::to_string(wrong) + " is " +
                                  std::to_string(load_little<float>(map->data + 4 * wrong)) + ", which is not " +
                                  (is_nf4 ? "nf4's" : "bnb_fp4's"));
        format.code = is_nf4 ? layer_code::nf4 : layer_code::fp4;
        format.bits = 4;
        format.granularity = layer_granularity::span;
        format.size = state_.blocksize;
        format.scale = layer_scale::float32;
        nested = absmax_->type_name == "U8";
        return !nested || double_quantization(layer, *state);
    }

    [[nodiscard]] layer_format nested_format() const noexcept {
        layer_format f = format;
        f.scale = layer_scale::dynamic8_offset;
        f.outer = 256 * format.size;
        return f;
    }
    void store(const layer_destination& to) const {
        rows_from_stream(weight_->data, rows, cols, to.codes, to.row_bytes);
        if (!nested) {
            std::memcpy(to.scales, absmax_->data, absmax_->bytes);
            return;
        }
        for (std::size_t i = 0; i < absmax_->bytes; ++i) {
            const auto code = static_cast<std::size_t>(absmax_->data[i]);
            // Two roundings, as the scheme with the codes has it.
            const float product = load_little<float>(nested_map_->data + 4 * code) *
                                  load_little<float>(nested_absmax_->data + 4 * (i / state_.nested_blocksize));
            store_little(to.scales + 4 * i, rounded_by_itself(product) + state_.nested_offset);
        }
    }
    void store_nested(layer_destination& to) const {
        rows_from_stream(weight_->data, rows, cols, to.codes, to.row_bytes);
        std::memcpy(to.scales, absmax_->data, absmax_->bytes);
        std::memcpy(to.outer, nested_absmax_->data, nested_absmax_->bytes);
        to.offset = state_.nested_offset;
    }

private:
    [[nodiscard]] bool says(layer_tensors& layer, const tensor_info& state, bool is_nf4) {
        if (state_.quant_type != (is_nf4 ? "nf4" : "fp4"))
            return layer.fail(status_code::mismatch, state,
                              "says quant_type " + detail::in_quotes(state_.quant_type) + ", expected " +
                                  (is_nf4 ? "'nf4'" : "'fp4'"));
        if (state_.blocksize == 0) return layer.fail(status_code::malformed, state, "has no blocksize, or says 0");
        if (state_.shape.size() != 2 || state_.shape[0] == 0 || state_.shape[1] == 0)
            return layer.fail(status_code::malformed, state,
                              "says shape " + extents_text(state_.shape) + ", expected two positive numbers");
        rows = state_.shape[0];
        cols = state_.shape[1];
        return true;
    }
    [[nodiscard]] bool blocks(layer_tensors& layer) {
        std::size_t count = 0;
        if (!multiply(rows, cols, count) || ceil_div(count, 2) != weight_->bytes)
            return layer.fail(status_code::mismatch, *weight_,
                              "has " + std::to_string(weight_->bytes) + " bytes, expected two codes in each for " +
                                  shape_text(rows, cols) + " (quant_state)");
        blocks_ = ceil_div(count, state_.blocksize);
        return layer.expect_shape(*absmax_, {blocks_},
                                  "blocks of " + std::to_string(state_.blocksize) + " in " + shape_text(rows, cols));
    }
    [[nodiscard]] bool double_quantization(layer_tensors& layer, const tensor_info& state) {
        nested_absmax_ = layer.require(".weight.nested_absmax");
        nested_map_ = nested_absmax_ == nullptr ? nullptr : layer.require(".weight.nested_quant_map");
        if (nested_map_ == nullptr) return false;
        if (!state_.has_nested_offset || !state_.has_nested_blocksize || state_.nested_blocksize == 0)
            return layer.fail(status_code::malformed, state,
                              "has no nested_blocksize and nested_offset, which absmax of U8 needs, or says 0");
        if (!layer.expect_type(*nested_absmax_, {"F32"}) || !layer.expect_type(*nested_map_, {"F32"}) ||
            !layer.expect_shape(*nested_map_, {256}, "a value per absmax code") ||
            !layer.expect_shape(*nested_absmax_, {ceil_div(blocks_, state_.nested_blocksize)},
                                "blocks of " + std::to_string(state_.nested_blocksize) + " absmax codes"))
            return false;
        keepable = state_.nested_blocksize == 256 && find_difference<dynamic8>(*nested_map_) == 256;
        return true;
    }

    const tensor_info* weight_ = nullptr;
    const tensor_info* absmax_ = nullptr;
    const tensor_info* nested_absmax_ = nullptr;
    const tensor_info* nested_map_ = nullptr;
    std::size_t blocks_ = 0;
    bitsandbytes_state state_;
};

template <element E> [[nodiscard]] std::vector<std::byte> map_bytes() {
    std::vector<std::byte> map(decode_table<E>.size * 4);
    for (std::size_t i = 0; i < decode_table<E>.size; ++i) store_little(map.data() + 4 * i, decode_table<E>.at[i]);
    return map;
}

[[nodiscard]] inline status write_bitsandbytes(const layer_format& format, const layer_source& from,
                                               std::string_view prefix, std::string_view dtype,
                                               safetensors_writer& out) {
    const bool is_nf4 = format.code == layer_code::nf4;
    const bool nested = format.scale == layer_scale::dynamic8_offset;
    // Groups that fill rows are blocks of the stream too.
    const bool blocks = format.granularity == layer_granularity::span ||
                        (format.granularity == layer_granularity::group && from.cols % format.size == 0);
    if (!(is_nf4 || format.code == layer_code::fp4) || format.zero || !blocks || from.rows == 0 || from.cols == 0 ||
        !(nested ? format.outer == 256 * format.size : format.scale == layer_scale::float32))
        return {status_code::unsupported, "layer " + in_quotes(prefix) + ": bitsandbytes cannot hold " +
                                              format_text(format) + " of " + shape_text(from.rows, from.cols) +
                                              "; it holds nf4 and bnb_fp4 in blocks with fp32 scales, or dynamic8 ones "
                                              "in blocks of 256 with an offset"};
    char number[64];
    const auto end = std::to_chars(number, number + sizeof number, static_cast<double>(from.offset));
    if (nested && !is_finite(from.offset))
        return {status_code::unsupported, "layer " + in_quotes(prefix) + ": bitsandbytes: the offset is not finite"};
    std::string state = std::string("{\"quant_type\": \"") + (is_nf4 ? "nf4" : "fp4") +
                        "\", \"blocksize\": " + std::to_string(format.size) + ", \"dtype\": ";
    append_json_string(state, dtype);
    state += ", \"shape\": [" + std::to_string(from.rows) + ", " + std::to_string(from.cols) + "]";
    if (nested)
        state += ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": " +
                 std::string(number, static_cast<std::size_t>(end.ptr - number));
    state += "}";

    std::vector<std::byte> stream(ceil_div(from.rows * from.cols, 2));
    stream_from_rows(from.codes, from.rows, from.cols, from.row_bytes, stream.data());
    const std::string name = std::string(prefix) + ".weight";
    const std::size_t shape[] = {stream.size(), 1};
    const std::size_t absmax_shape[] = {from.scale_count};
    const std::size_t map_shape[] = {16};
    const std::size_t outer_shape[] = {from.outer_count};
    const std::size_t nested_map_shape[] = {256};
    const std::size_t state_shape[] = {state.size()};
    const auto* text = reinterpret_cast<const std::byte*>(state.data());
    status s = out.add(name, "U8", shape, std::move(stream));
    if (s.ok())
        s = out.add(name + ".absmax", nested ? "U8" : "F32", absmax_shape,
                    {from.scales, from.scales + from.scale_count * from.scale_bytes});
    if (s.ok()) s = out.add(name + ".quant_map", "F32", map_shape, is_nf4 ? map_bytes<nf4>() : map_bytes<bnb_fp4>());
    if (s.ok() && nested)
        s = out.add(name + ".nested_absmax", "F32", outer_shape, {from.outer, from.outer + from.outer_count * 4});
    if (s.ok() && nested) s = out.add(name + ".nested_quant_map", "F32", nested_map_shape, map_bytes<dynamic8>());
    if (s.ok())
        s = out.add(name + ".quant_state.bitsandbytes__" + (is_nf4 ? "nf4" : "fp4"), "U8", state_shape,
                    {text, text + state.size()});
    return s;
}

} // namespace detail

// The bitsandbytes layer `prefix` of a file. Codes are kept. absmax of fp32 is kept; that of double quantization is
// kept as codes, block numbers and offset if List has such a scheme, the file's map is dynamic8's bit for bit, and
// options do not ask otherwise; else it becomes the fp32 numbers that it stands for, if List has the scheme for those:
// either way the weights are those of the formula above. `out` stays as it was unless the result is ok:
//   not_found, mismatch  as in read_gptq
//   malformed            quant_state is no JSON, or lacks what is needed
//   unsupported          a quant_map of other values, or List has no scheme of that block size
//                        (bitsandbytes_block_formats<size> has)
// Reads every byte once; allocates the weights.
template <class List>
[[nodiscard]] status read_bitsandbytes(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                       const bitsandbytes_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::bitsandbytes_tensors tensors;
    if (!tensors.find(layer)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::bitsandbytes;
    bool made = false;
    if (tensors.nested && tensors.keepable && !options.expand_absmax)
        made = detail::make_layer(tensors.nested_format(), tensors.rows, tensors.cols, result.weights,
                                  [&](detail::layer_destination& to) { tensors.store_nested(to); });
    if (!made)
        made = detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                                  [&](const detail::layer_destination& to) { tensors.store(to); });
    if (!made) {
        layer.fail(status_code::unsupported, "bitsandbytes", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the tensors of a bitsandbytes layer to a file, weight as U8; `dtype` is what bitsandbytes is to dequantize to.
// unsupported: other elements than nf4 and bnb_fp4, other scales, groups that end inside of rows.
template <any_scheme S>
[[nodiscard]] status write_bitsandbytes(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out,
                                        std::string_view dtype = "bfloat16") {
    return detail::write_bitsandbytes(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix,
                                      dtype, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
