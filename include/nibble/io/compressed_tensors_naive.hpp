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
//   weight_scale       F16, BF16 or F32: one number (tensor), [N] or [N, 1] (channel), [N, ceil(K / G)] (groups, I8
//   only),
//                      [ceil(N / B), ceil(K / B)] (block, F8 only; B = 128); DeepSeek-V3 calls it weight_scale_inv
//   weight_zero_point  I8, shaped like weight_scale, for I8 if asymmetric
// weight(n, k) = (q - zero) x scale. A scale that is not one number and has the shapes of several is read as channels
// before tiles.

struct naive_options {
    int group_size = 0;   // of I8; 0: from the shapes, where one size fits; -1: one group
    int block_size = 128; // rows and columns of an FP8 tile (weight_block_size, block_structure)
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
        if (zero_ != nullptr && !integers)
            return layer.fail(status_code::unsupported, *zero_,
                              "zero points of " + std::string(weight_->type_name) + " weights are not read");
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
        return slots(layer, options);
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
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        if (zero_ != nullptr)
            for (std::size_t i = 0; i < zero_->bytes; ++i) to.zeros[i] = zero_->data[i] ^ flip;
    }

private:
    [[nodiscard]] bool slots(layer_tensors& layer, const naive_options& options) {
        const std::vector<std::size_t>& shape = scale_->shape;
        std::size_t count = 0;
        if (count_elements(shape, count) && count == 1 && !(rows == 1 && shape.size() == 2)) {
            format.slots = layer_slots::tensor;
            return true;
        }
        if (options.block_size < 1)
            return layer.fail(status_code::unsupported, "block_size",
                              std::to_string(options.block_size) + " is no size of tiles");
        const auto block = static_cast<std::size_t>(options.block_size);
        const bool tiles = shape.size() == 2 && shape[0] == ceil_div(rows, block) && shape[1] == ceil_div(cols, block);
        const bool channels = (shape.size() == 1 || (shape.size() == 2 && shape[1] == 1)) && shape[0] == rows;
        if (channels) {
            format.slots = layer_slots::channel;
            return true;
        }
        if (shape.size() == 2 && shape[0] == rows && format.code != layer_code::e4m3 &&
            format.code != layer_code::e5m2) {
            std::size_t group = 0;
            if (!layer.group_size(*scale_, cols, shape[1], "group_size", options.group_size, 0, group)) return false;
            set_groups(format, group, shape[1]);
            return true;
        }
        if (tiles && !format.zero) {
            format.slots = layer_slots::tile;
            format.size = block;
            return true;
        }
        return layer.fail(status_code::mismatch, *scale_,
                          "has shape " + extents_text(shape) + ", expected one number, " + std::to_string(rows) +
                              " rows of one, or " + shape_text(ceil_div(rows, block), ceil_div(cols, block)) +
                              " tiles of " + shape_text(block, block) + " (weight " + extents_text(weight_->shape) +
                              ")");
    }

    const tensor_info* weight_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* zero_ = nullptr;
};

[[nodiscard]] inline status write_naive(const layer_format& format, const layer_source& from, std::string_view prefix,
                                        safetensors_writer& out) {
    const bool integers = (format.code == layer_code::unsigned_integer && format.zero) ||
                          (format.code == layer_code::signed_integer && !format.zero);
    const bool floats = (format.code == layer_code::e4m3 || format.code == layer_code::e5m2) && !format.zero;
    const bool slots = format.slots == layer_slots::tensor || format.slots == layer_slots::channel ||
                       (integers && format.slots == layer_slots::group) ||
                       (floats && format.slots == layer_slots::tile && format.size == 128);
    const bool scales = format.scale == layer_scale::float16 || format.scale == layer_scale::bfloat16 ||
                        format.scale == layer_scale::float32;
    if (format.bits != 8 || !(integers || floats) || !slots || !scales || from.rows == 0 || from.cols == 0)
        return {status_code::unsupported, "layer " + in_quotes(prefix) + ": naive-quantized cannot hold " +
                                              format_text(format) + " of " + shape_text(from.rows, from.cols) +
                                              "; it holds int8 and fp8 weights with a scale per tensor or row, int8 in "
                                              "groups and fp8 in tiles of 128 x 128"};
    std::vector<std::size_t> scale_shape;
    if (format.slots == layer_slots::tensor) scale_shape = {1};
    if (format.slots == layer_slots::channel) scale_shape = {from.rows, 1};
    if (format.slots == layer_slots::group) scale_shape = {from.rows, ceil_div(from.cols, format.size)};
    if (format.slots == layer_slots::tile) scale_shape = {ceil_div(from.rows, 128), ceil_div(from.cols, 128)};
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
// stored. `out` stays as it was unless the result is ok; errors as those of read_gptq. Two passes over nothing but the
// copy; allocates the weights.
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
