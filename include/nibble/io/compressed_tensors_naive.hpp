// compressed_tensors_naive.hpp: layers with one code per byte, INT8 and FP8: compressed-tensors, and DeepSeek-V3's
// tiles.
#pragma once

#include <nibble/io/gptq.hpp>
#include <nibble/io/integer_formats.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/per_tile.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// "int-quantized", "float-quantized", "naive-quantized": N outputs, K inputs:
//   weight             I8, F8_E4M3 or F8_E5M2 [N, K]
//   weight_scale       F16, BF16 or F32: one number (tensor), [N] or [N, 1] (channel), [N, ceil(K / G)] (groups),
//                      [ceil(N / R), ceil(K / C)] (block, R x C = 128 x 128, without zero points), [P] or [P, 1] (one
//                      number for each of P layers that were fused); DeepSeek-V3 calls it weight_scale_inv
//   weight_zero_point  I8, shaped like weight_scale, for I8 if asymmetric; for F8 older versions write zeros
// weight(n, k) = (q - zero) x scale. A scale that is not one number and has the shapes of several is read as channels
// before parts, those before tiles, and those of F8 before groups.

struct naive_options {
    int group_size = 0;   // 0: from the shapes, where one size fits; -1: one group
    int block_rows = 128; // of an FP8 tile (weight_block_size, block_structure)
    int block_cols = 128;
    // Outputs of each of the layers that fused ones consist of (queries, keys and values), for scales of as many
    // numbers: read as one for each output. Layers whose scales are shaped otherwise have nothing to do with it.
    std::vector<std::size_t> part_rows = {};
};

// Every format that a layer can have: 45 of them.
using naive_formats =
    join_formats<symmetric_integer_formats<8>,
                 detail::integer_scales<integer<8, integer_range::full>, false, per_tensor>,
                 asymmetric_integer_formats<8>, detail::integer_scales<uint8, true, per_tensor>,
                 format_list<named_format<"fp8_e4m3_channel_f16", scheme<e4m3, per_channel, scale<f16>>>,
                             named_format<"fp8_e4m3_channel_bf16", scheme<e4m3, per_channel, scale<bf16>>>,
                             named_format<"fp8_e4m3_channel_f32", scheme<e4m3, per_channel, scale<f32>>>,
                             named_format<"fp8_e4m3_tensor_f16", scheme<e4m3, per_tensor, scale<f16>>>,
                             named_format<"fp8_e4m3_tensor_bf16", scheme<e4m3, per_tensor, scale<bf16>>>,
                             named_format<"fp8_e4m3_tensor_f32", scheme<e4m3, per_tensor, scale<f32>>>,
                             named_format<"fp8_e4m3_tile128_f16", scheme<e4m3, per_tile<128, 128>, scale<f16>>>,
                             named_format<"fp8_e4m3_tile128_bf16", scheme<e4m3, per_tile<128, 128>, scale<bf16>>>,
                             named_format<"fp8_e4m3_tile128_f32", scheme<e4m3, per_tile<128, 128>, scale<f32>>>,
                             named_format<"fp8_e5m2_channel_f16", scheme<e5m2, per_channel, scale<f16>>>,
                             named_format<"fp8_e5m2_channel_bf16", scheme<e5m2, per_channel, scale<bf16>>>,
                             named_format<"fp8_e5m2_channel_f32", scheme<e5m2, per_channel, scale<f32>>>,
                             named_format<"fp8_e5m2_tensor_f16", scheme<e5m2, per_tensor, scale<f16>>>,
                             named_format<"fp8_e5m2_tensor_bf16", scheme<e5m2, per_tensor, scale<bf16>>>,
                             named_format<"fp8_e5m2_tensor_f32", scheme<e5m2, per_tensor, scale<f32>>>>>;

namespace detail {

class naive_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, const naive_options& options) {
        weight_ = layer.require(".weight");
        if (weight_ == nullptr) return false;
        scale_ = layer.find(".weight_scale_inv");
        if (scale_ == nullptr) scale_ = layer.require(".weight_scale");
        if (scale_ == nullptr) return false;
        if (weight_->type_name != "I8" && (scale_->type_name == "U8" || scale_->type_name == "F8_E8M0"))
            return layer.fail(status_code::unsupported, *scale_,
                              "is " + std::string(scale_->type_name) +
                                  ", exponents of MXFP8: read_layer and read_compressed_tensors_mxfp8 read it");
        if (!layer.expect_type(*weight_, {"I8", "F8_E4M3", "F8_E5M2"}) ||
            !layer.expect_type(*scale_, {"F16", "BF16", "F32"}) || !layer.expect_matrix(*weight_))
            return false;
        rows = weight_->shape[0];
        cols = weight_->shape[1];
        const bool integers = weight_->type_name == "I8";
        zero_ = layer.find(".weight_zero_point");
        if (!integers) {
            if (!layer.expect_no_zeros(".weight_zero_point", weight_->type_name)) return false;
            zero_ = nullptr;
        }
        if (zero_ != nullptr) {
            if (!layer.expect_type(*zero_, {"I8"})) return false;
            if (zero_->shape != scale_->shape)
                return layer.fail(status_code::mismatch, *zero_,
                                  "has shape " + extents_text(zero_->shape) + ", expected " +
                                      extents_text(scale_->shape) + " (weight_scale)");
        }
        format.bits = 8;
        format.code = !integers          ? (weight_->type_name == "F8_E4M3" ? layer_code::e4m3 : layer_code::e5m2)
                      : zero_ != nullptr ? layer_code::unsigned_integer
                                         : layer_code::signed_integer;
        format.zero = zero_ != nullptr;
        format.scale = scale_of_type(scale_->type);
        return read_granularity(layer, options);
    }

    void store(const layer_destination& to) const {
        // Signed codes and zero points move up by 2^7 together.
        const std::byte flip{static_cast<unsigned char>(format.zero ? 0x80 : 0)};
        const std::size_t count = weight_->bytes; // locals: stores of bytes may alias what is behind a pointer
        const std::byte* from = weight_->data;
        std::byte* codes = to.codes;
        if (format.zero)
            for (std::size_t i = 0; i < count; ++i) codes[i] = from[i] ^ flip;
        else
            std::memcpy(to.codes, weight_->data, weight_->bytes);
        if (!parts_.empty()) {
            std::size_t row = 0;
            for (std::size_t part = 0; part < parts_.size(); ++part)
                for (const std::size_t end = row + parts_[part]; row < end; ++row) {
                    std::memcpy(to.scales + row * to.scale_bytes, scale_->data + part * to.scale_bytes, to.scale_bytes);
                    if (zero_ != nullptr) to.zeros[row] = zero_->data[part] ^ flip;
                }
            return;
        }
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        if (zero_ != nullptr)
            for (std::size_t i = 0; i < zero_->bytes; ++i) to.zeros[i] = zero_->data[i] ^ flip;
    }

private:
    [[nodiscard]] bool read_granularity(layer_tensors& layer, const naive_options& options) {
        const std::vector<std::size_t>& shape = scale_->shape;
        std::size_t count = 0;
        if (count_elements(shape, count) && count == 1 && !(rows == 1 && shape.size() == 2)) {
            format.granularity = layer_granularity::tensor;
            return true;
        }
        if (options.block_rows < 1 || options.block_cols < 1)
            return layer.fail(status_code::unsupported, "block_rows and block_cols",
                              std::to_string(options.block_rows) + " x " + std::to_string(options.block_cols) +
                                  " is no size of tiles");
        const auto block_rows = static_cast<std::size_t>(options.block_rows);
        const auto block_cols = static_cast<std::size_t>(options.block_cols);
        const bool floats = format.code == layer_code::e4m3 || format.code == layer_code::e5m2;
        const bool groups = shape.size() == 2 && shape[0] == rows;
        const bool tiles = !format.zero && shape.size() == 2 && shape[0] == ceil_div(rows, block_rows) &&
                           shape[1] == ceil_div(cols, block_cols);
        const bool column = shape.size() == 1 || (shape.size() == 2 && shape[1] == 1);
        if (column && shape[0] == rows) {
            format.granularity = layer_granularity::channel;
            return true;
        }
        if (column && shape[0] == options.part_rows.size()) return parts(layer, options.part_rows);
        if (tiles && !(groups && !floats)) {
            format.granularity = layer_granularity::tile;
            format.size = block_cols;
            format.tile_rows = block_rows;
            return true;
        }
        if (groups) {
            std::size_t group = 0;
            if (!layer.group_size(*scale_, cols, shape[1], "group_size", options.group_size, 0, group)) return false;
            set_groups(format, group, shape[1]);
            return true;
        }
        std::string expected = "has shape " + extents_text(shape) + ", expected one number, " + std::to_string(rows) +
                               " rows of one, or " +
                               shape_text(ceil_div(rows, block_rows), ceil_div(cols, block_cols)) + " tiles of " +
                               shape_text(block_rows, block_cols) + " (weight " + extents_text(weight_->shape) + ")";
        if (column && shape[0] > 1 && shape[0] < rows)
            expected += "; if this is one number for each of several layers that were fused, say their outputs "
                        "(naive_options::part_rows)";
        return layer.fail(status_code::mismatch, *scale_, expected);
    }
    [[nodiscard]] bool parts(layer_tensors& layer, const std::vector<std::size_t>& part_rows) {
        std::size_t left = rows;
        for (const std::size_t part : part_rows) {
            if (part > left) left = rows + 1; // more than there are, and no sum that could overflow
            if (left > rows) break;
            left -= part;
        }
        if (left != 0)
            return layer.fail(status_code::mismatch, *weight_,
                              "has " + std::to_string(rows) + " outputs, which are no parts of " +
                                  extents_text(part_rows) + " (part_rows)");
        format.granularity = layer_granularity::channel;
        parts_ = part_rows;
        return true;
    }

    const tensor_info* weight_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* zero_ = nullptr;
    std::vector<std::size_t> parts_; // outputs of each number, if there is one for each of several layers
};

[[nodiscard]] inline status write_naive(const layer_format& format, const layer_source& from, std::string_view prefix,
                                        safetensors_writer& out) {
    const bool integers = (format.code == layer_code::unsigned_integer && format.zero) ||
                          (format.code == layer_code::signed_integer && !format.zero);
    const bool floats = (format.code == layer_code::e4m3 || format.code == layer_code::e5m2) && !format.zero;
    const bool granularity_fits =
        format.granularity == layer_granularity::tensor || format.granularity == layer_granularity::channel ||
        format.granularity == layer_granularity::group || (floats && format.granularity == layer_granularity::tile);
    const bool scales = format.scale == layer_scale::float16 || format.scale == layer_scale::bfloat16 ||
                        format.scale == layer_scale::float32;
    if (format.bits != 8 || !(integers || floats) || !granularity_fits || !scales || from.rows == 0 || from.cols == 0)
        return {status_code::unsupported,
                "layer " + in_quotes(prefix) + ": naive-quantized cannot hold " + format_text(format) + " of " +
                    shape_text(from.rows, from.cols) +
                    "; it holds int8 and fp8 weights with a scale per tensor, row or group, and "
                    "fp8 in tiles"};
    std::vector<std::size_t> scale_shape;
    if (format.granularity == layer_granularity::tensor) scale_shape = {1};
    if (format.granularity == layer_granularity::channel) scale_shape = {from.rows, 1};
    if (format.granularity == layer_granularity::group) scale_shape = {from.rows, ceil_div(from.cols, format.size)};
    if (format.granularity == layer_granularity::tile)
        scale_shape = {ceil_div(from.rows, format.tile_rows), ceil_div(from.cols, format.size)};
    std::vector<std::byte> codes(from.codes, from.codes + from.rows * from.row_bytes);
    std::vector<std::byte> zeros;
    if (format.zero) {
        for (std::byte& code : codes) code ^= std::byte{0x80};
        zeros.assign(from.zeros, from.zeros + from.scale_count);
        for (std::byte& zero : zeros) zero ^= std::byte{0x80};
    }
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.cols};
    status s = out.add(name + ".weight",
                       integers                          ? "I8"
                       : format.code == layer_code::e4m3 ? "F8_E4M3"
                                                         : "F8_E5M2",
                       shape, std::move(codes));
    if (s.ok())
        s = out.add(name + ".weight_scale", type_of_scale(format.scale), scale_shape,
                    {from.scales, from.scales + from.scale_count * from.scale_bytes});
    if (s.ok() && format.zero) s = out.add(name + ".weight_zero_point", "I8", scale_shape, std::move(zeros));
    return s;
}

} // namespace detail

// The layer `prefix` of a file with one code per byte; codes, zero points (plus 2^7, as the codes then) and scales as
// stored; of fused layers one scale for each output. `out` stays as it was unless the result is ok; errors as those of
// read_gptq. Two passes over nothing but the copy; allocates the weights.
template <class List>
[[nodiscard]] status read_naive(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                const naive_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::naive_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::compressed_tensors_naive;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "naive-quantized", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds weight, weight_scale and, for asymmetric integers, weight_zero_point to a file. unsupported: other formats.
template <any_scheme S>
[[nodiscard]] status write_naive(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_naive(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
