// mxfp8_layer.hpp: MXFP8 layers as compressed-tensors and TensorRT Model Optimizer store them.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// "mxfp8-quantized": N outputs, K inputs, an E8M0 scale per 32 of a row (the last one of the rest):
//   weight        F8_E4M3 or F8_E5M2 [N, K]
//   weight_scale  U8 or F8_E8M0 [N, ceil(K / 32)]; others call it weight_scale_inv
// weight(n, k) = code x 2^(scale - 127); a scale of 255 is NaN.
using mxfp8_formats = format_list<named_format<"mxfp8_e4m3", mxfp8_e4m3>, named_format<"mxfp8_e5m2", mxfp8_e5m2>>;

namespace detail {

class mxfp8_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer) {
        weight_ = layer.require(".weight");
        if (weight_ == nullptr) return false;
        scale_ = layer.find(".weight_scale_inv");
        if (scale_ == nullptr) scale_ = layer.require(".weight_scale");
        if (scale_ == nullptr) return false;
        if (!layer.expect_no_zeros(".weight_zero_point", "MXFP8")) return false;
        if (!layer.expect_type(*weight_, {"F8_E4M3", "F8_E5M2"}) || !layer.expect_type(*scale_, {"U8", "F8_E8M0"}) ||
            !layer.expect_matrix(*weight_))
            return false;
        rows = weight_->shape[0];
        cols = weight_->shape[1];
        if (!layer.expect_shape(*scale_, {rows, ceil_div(cols, 32)},
                                "one per 32 codes of " + std::string(weight_->name)))
            return false;
        format.code = weight_->type_name == "F8_E4M3" ? layer_code::e4m3 : layer_code::e5m2;
        format.bits = 8;
        format.granularity = layer_granularity::group;
        format.size = 32;
        format.scale = layer_scale::power_of_two;
        return true;
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.codes, weight_->data, weight_->bytes);
        std::memcpy(to.scales, scale_->data, scale_->bytes);
    }

private:
    const tensor_info* weight_ = nullptr;
    const tensor_info* scale_ = nullptr;
};

[[nodiscard]] inline status write_mxfp8(const layer_format& format, const layer_source& from, std::string_view prefix,
                                        safetensors_writer& out) {
    const bool e4m3_codes = format.code == layer_code::e4m3;
    if (!(e4m3_codes || format.code == layer_code::e5m2) || format.granularity != layer_granularity::group ||
        format.size != 32 || format.outer != 0 || format.zero || format.scale != layer_scale::power_of_two ||
        from.rows == 0 || from.cols == 0)
        return {status_code::unsupported, "layer " + in_quotes(prefix) + ": mxfp8-quantized cannot hold " +
                                              format_text(format) + " of " + shape_text(from.rows, from.cols) +
                                              "; it holds the schemes mxfp8_e4m3 and mxfp8_e5m2"};
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.cols};
    const std::size_t scale_shape[] = {from.rows, ceil_div(from.cols, 32)};
    status s = out.add(name + ".weight", e4m3_codes ? "F8_E4M3" : "F8_E5M2", shape,
                       {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + ".weight_scale", "U8", scale_shape, {from.scales, from.scales + from.scale_count});
    return s;
}

} // namespace detail

// The layer `prefix` of a file as mxfp8_e4m3 or mxfp8_e5m2, every bit as stored. `out` stays as it was unless the
// result is ok: not_found and mismatch as in read_gptq, unsupported for zero points that are not 0, or if List lacks
// the scheme. One copy; allocates the weights.
template <class List>
[[nodiscard]] status read_compressed_tensors_mxfp8(const tensor_source& file, std::string_view prefix,
                                                   quantized_layer<List>& out) {
    detail::layer_tensors layer(file, prefix);
    detail::mxfp8_tensors tensors;
    if (!tensors.find(layer)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::compressed_tensors_mxfp8;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "mxfp8-quantized", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the tensors of a layer to a file, scales as U8. unsupported: anything but mxfp8_e4m3 and mxfp8_e5m2 (by
// whichever rule their scales were found).
template <any_scheme S>
[[nodiscard]] status write_compressed_tensors_mxfp8(const quantized<S>& weights, std::string_view prefix,
                                                    safetensors_writer& out) {
    return detail::write_mxfp8(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
