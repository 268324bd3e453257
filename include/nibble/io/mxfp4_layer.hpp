// mxfp4_layer.hpp: MXFP4 layers as compressed-tensors stores them.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

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

// "mxfp4-pack-quantized": N outputs, K inputs (a multiple of 32): E2M1 codes, two in a byte, the first in the low
// nibble; an E8M0 scale per 32:
//   weight_packed  U8 [N, K / 2]
//   weight_scale   U8 or F8_E8M0 [N, K / 32]
// weight(n, k) = E2M1 x 2^(scale - 127); a scale of 255 is NaN.
using mxfp4_formats = format_list<named_format<"mxfp4", mxfp4>>;

namespace detail {

[[nodiscard]] inline layer_format mxfp4_format() noexcept {
    layer_format format;
    format.code = layer_code::e2m1;
    format.bits = 4;
    format.granularity = layer_granularity::group;
    format.size = 32;
    format.scale = layer_scale::power_of_two;
    return format;
}

class mxfp4_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer) {
        weight_ = layer.require(".weight_packed");
        scale_ = weight_ == nullptr ? nullptr : layer.require(".weight_scale");
        if (scale_ == nullptr) return false;
        if (!layer.expect_no_zeros(".weight_zero_point", "MXFP4")) return false;
        if (!layer.expect_type(*weight_, {"U8"}) || !layer.expect_type(*scale_, {"U8", "F8_E8M0"}) ||
            !layer.expect_matrix(*weight_))
            return false;
        rows = weight_->shape[0];
        cols = weight_->shape[1] * 2;
        if (cols % 32 != 0)
            return layer.fail(status_code::mismatch, *weight_,
                              "has " + std::to_string(cols) + " codes per row, expected a multiple of 32");
        if (!layer.expect_shape(*scale_, {rows, cols / 32}, "one per 32 codes of " + std::string(weight_->name)))
            return false;
        format = mxfp4_format();
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

// Is it MXFP4, of whole blocks?
[[nodiscard]] inline status check_mxfp4(const layer_format& format, const layer_source& from, std::string_view layout,
                                        std::string_view prefix) {
    if (format.code == layer_code::e2m1 && format.granularity == layer_granularity::group && format.size == 32 &&
        format.outer == 0 && !format.zero && format.scale == layer_scale::power_of_two && from.rows != 0 &&
        from.cols != 0 && from.cols % 32 == 0)
        return {};
    return {status_code::unsupported, "layer " + in_quotes(prefix) + ": " + std::string(layout) + " cannot hold " +
                                          format_text(format) + " of " + shape_text(from.rows, from.cols) +
                                          "; it holds the scheme mxfp4 with columns in multiples of 32"};
}

[[nodiscard]] inline status write_mxfp4(const layer_format& format, const layer_source& from, std::string_view prefix,
                                        safetensors_writer& out) {
    status s = check_mxfp4(format, from, "mxfp4-pack-quantized", prefix);
    if (!s.ok()) return s;
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.cols / 2};
    const std::size_t scale_shape[] = {from.rows, from.cols / 32};
    s = out.add(name + ".weight_packed", "U8", shape, {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + ".weight_scale", "U8", scale_shape, {from.scales, from.scales + from.scale_count});
    return s;
}

} // namespace detail

// The compressed-tensors layer `prefix` of a file as mxfp4, every bit as stored. `out` stays as it was unless the
// result is ok: not_found and mismatch as in read_gptq, unsupported for zero points that are not 0, or if List has no
// mxfp4. One copy; allocates the weights.
template <class List>
[[nodiscard]] status read_compressed_tensors_mxfp4(const tensor_source& file, std::string_view prefix,
                                                   quantized_layer<List>& out) {
    detail::layer_tensors layer(file, prefix);
    detail::mxfp4_tensors tensors;
    if (!tensors.find(layer)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::compressed_tensors_mxfp4;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "mxfp4-pack-quantized", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the tensors of a layer to a file, scales as U8. unsupported: anything but mxfp4 (by whichever rule its scales
// were found), or a number of columns that is no multiple of 32.
template <any_scheme S>
[[nodiscard]] status write_compressed_tensors_mxfp4(const quantized<S>& weights, std::string_view prefix,
                                                    safetensors_writer& out) {
    return detail::write_mxfp4(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
