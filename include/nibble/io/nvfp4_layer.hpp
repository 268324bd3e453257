// nvfp4_layer.hpp: NVFP4 layers as TensorRT Model Optimizer and compressed-tensors store them.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// N outputs, K inputs (a multiple of 16): E2M1 codes, two in a byte, the first in the low nibble; an E4M3 scale per 16.
//   Model Optimizer     weight         U8 [N, K / 2]   weight_scale F8_E4M3 [N, K / 16]   weight_scale_2      F32, one
//   number compressed-tensors  weight_packed  U8 [N, K / 2]   weight_scale F8_E4M3 [N, K / 16]   weight_global_scale
//   F32, one number
// Model Optimizer: weight(n, k) = E2M1 x (scale x weight_scale_2). compressed-tensors divides by the global scale,
// which is (448 x 6) / max|w|: here E2M1 x (scale x (1 / weight_global_scale)), each step rounded to fp32; that is
// within 1.5 units in the last place of scale / weight_global_scale, and what kernels make of it that take the
// reciprocal beforehand.

// nvfp4 with the number of compressed-tensors for an outer scale, kept as stored.
using nvfp4_divided = scheme<e2m1, two_level<per_group<16>, per_tensor>, two_level_scale<e4m3, reciprocal_f32>>;

using nvfp4_formats = format_list<named_format<"nvfp4", nvfp4>, named_format<"nvfp4_divided", nvfp4_divided>>;

namespace detail {

class nvfp4_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, bool divided) {
        weight_ = layer.require(divided ? ".weight_packed" : ".weight");
        scale_ = weight_ == nullptr ? nullptr : layer.require(".weight_scale");
        global_ = scale_ == nullptr ? nullptr : layer.require(divided ? ".weight_global_scale" : ".weight_scale_2");
        if (global_ == nullptr || !layer.expect_no_zeros(".weight_zero_point", "NVFP4")) return false;
        if (!layer.expect_type(*weight_, {"U8"}) || !layer.expect_type(*scale_, {"F8_E4M3"}) ||
            !layer.expect_type(*global_, {"F32"}) || !layer.expect_matrix(*weight_) || !layer.expect_one(*global_))
            return false;
        rows = weight_->shape[0];
        cols = weight_->shape[1] * 2;
        if (cols % 16 != 0)
            return layer.fail(status_code::mismatch, *weight_,
                              "has " + std::to_string(cols) + " codes per row, expected a multiple of 16");
        if (!layer.expect_shape(*scale_, {rows, cols / 16}, "one per 16 codes of " + std::string(weight_->name)))
            return false;
        format.code = layer_code::e2m1;
        format.bits = 4;
        format.granularity = layer_granularity::group;
        format.size = 16;
        format.scale = divided ? layer_scale::e4m3_divided : layer_scale::e4m3_times;
        return true;
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.codes, weight_->data, weight_->bytes);
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        std::memcpy(to.outer, global_->data, 4);
    }
    void store_reciprocal(const layer_destination& to) const {
        store(to);
        store_little(to.outer, reciprocal_f32::decode(load_little<std::uint32_t>(global_->data)));
    }

private:
    const tensor_info* weight_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* global_ = nullptr;
};

template <class List>
[[nodiscard]] status read_nvfp4(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                layer_layout layout) {
    const bool divided = layout == layer_layout::compressed_tensors_nvfp4;
    layer_tensors layer(file, prefix);
    nvfp4_tensors tensors;
    if (!tensors.find(layer, divided)) return layer.error();
    quantized_layer<List> result;
    result.layout = layout;
    bool made = make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                           [&](const layer_destination& to) { tensors.store(to); });
    if (!made && divided) {
        layer_format times = tensors.format;
        times.scale = layer_scale::e4m3_times;
        made = make_layer(times, tensors.rows, tensors.cols, result.weights,
                          [&](const layer_destination& to) { tensors.store_reciprocal(to); });
    }
    if (!made) {
        layer.fail(status_code::unsupported, "nvfp4", no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

[[nodiscard]] inline status write_nvfp4(const layer_format& format, const layer_source& from, std::string_view prefix,
                                        bool divided, safetensors_writer& out) {
    const bool times = format.scale == layer_scale::e4m3_times;
    if (format.code != layer_code::e2m1 || format.granularity != layer_granularity::group || format.size != 16 ||
        format.outer != 0 || !(times || format.scale == layer_scale::e4m3_divided) || from.rows == 0 ||
        from.cols == 0 || from.cols % 16 != 0)
        return {status_code::unsupported, "layer " + in_quotes(prefix) + ": nvfp4 cannot hold " + format_text(format) +
                                              " of " + shape_text(from.rows, from.cols) +
                                              "; it holds the scheme nvfp4 with columns in multiples of 16"};
    std::vector<std::byte> global(from.outer, from.outer + 4);
    if (times == divided) store_little(global.data(), reciprocal_f32::decode(load_little<std::uint32_t>(from.outer)));
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.cols / 2};
    const std::size_t scale_shape[] = {from.rows, from.cols / 16};
    const std::size_t one[] = {1};
    status s = out.add(name + (divided ? ".weight_packed" : ".weight"), "U8", shape,
                       {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok())
        s = out.add(name + ".weight_scale", "F8_E4M3", scale_shape, {from.scales, from.scales + from.scale_count});
    // A scalar there, one element here, as the two write it.
    if (s.ok())
        s = divided ? out.add(name + ".weight_global_scale", "F32", one, std::move(global))
                    : out.add(name + ".weight_scale_2", "F32", {}, std::move(global));
    return s;
}

} // namespace detail

// The Model Optimizer layer `prefix` of a file as nvfp4, every bit as stored. `out` stays as it was unless the result
// is ok: not_found and mismatch as in read_gptq, unsupported if List has no nvfp4. One copy; allocates the weights.
template <class List>
[[nodiscard]] status read_modelopt(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out) {
    return detail::read_nvfp4(file, prefix, out, layer_layout::modelopt_nvfp4);
}

// The compressed-tensors layer `prefix` of a file: as nvfp4_divided, every bit as stored, if List has it, else as nvfp4
// with the reciprocal of the global scale, rounded once, for its outer scale. The weights are the same bit for bit.
template <class List>
[[nodiscard]] status read_compressed_tensors_nvfp4(const tensor_source& file, std::string_view prefix,
                                                   quantized_layer<List>& out) {
    return detail::read_nvfp4(file, prefix, out, layer_layout::compressed_tensors_nvfp4);
}

// Add the tensors of a layer to a file. unsupported: anything but nvfp4 and nvfp4_divided, or a number of columns that
// is no multiple of 16. A scheme of the other convention has the reciprocal of its outer scale written, rounded once.
template <any_scheme S>
[[nodiscard]] status write_modelopt(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_nvfp4(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, false, out);
}
template <any_scheme S>
[[nodiscard]] status write_compressed_tensors_nvfp4(const quantized<S>& weights, std::string_view prefix,
                                                    safetensors_writer& out) {
    return detail::write_nvfp4(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, true, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
