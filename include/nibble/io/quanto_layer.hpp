// quanto_layer.hpp: layers that optimum-quanto has quantized: qint2 and qint4 in groups, qint8 and qfloat8 per output.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/mlx_layer.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_writer.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
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

// N outputs, K inputs. qint8, qfloat8_e4m3fn, qfloat8_e5m2:
//   weight._data   I8, F8_E4M3 or F8_E5M2 [N, K]
//   weight._scale  F16, BF16 or F32 [N, 1], or one number
// weight(n, k) = code x scale. qint2 and qint4, B bits, T = N K / G groups of G inputs one after the other:
//   weight._data._data  U8 [ceil(T B / 8), G]: with R its rows, code j of group g in bits B (g / R) of row g mod R
//   weight._scale       F16, BF16 or F32 [T, 1]
//   weight._shift       like _scale: weight = scale x code - shift; or U8, I8: scale x (code - shift)
// input_scale and output_scale beside them are of the activations.

struct quanto_options {
    int bits = 0;           // of _data._data, 2 or 4; 0: from the shapes, where those leave one
    std::size_t inputs = 0; // K, which no tensor tells where there are groups; 0: from the layer's bias, which has N
};

// qint2 and qint4, named int4_g128_min_bf16 and so on, with shifts of floats; quanto makes groups of 128, 96, 64 or 32.
// With integers for shifts asymmetric_integer_formats has them, and qint8 and qfloat8 naive_formats.
template <int Bits>
using quanto_formats = join_formats<detail::affine_scales<unsigned_integer<Bits>, per_group<128>>,
                                    detail::affine_scales<unsigned_integer<Bits>, per_group<96>>,
                                    detail::affine_scales<unsigned_integer<Bits>, per_group<64>>,
                                    detail::affine_scales<unsigned_integer<Bits>, per_group<32>>>;

namespace detail {

class quanto_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, const quanto_options& options) {
        scale_ = layer.require(".weight._scale");
        if (scale_ == nullptr || !layer.expect_type(*scale_, {"F16", "BF16", "F32"})) return false;
        format.scale = scale_->type == tensor_type::float32   ? layer_scale::float32
                       : scale_->type == tensor_type::float16 ? layer_scale::float16
                                                              : layer_scale::bfloat16;
        data_ = layer.find(".weight._data");
        return data_ != nullptr ? whole_bytes(layer) : packed(layer, options);
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.scales, scale_->data, scale_->bytes);
        if (format.bits == 8) {
            std::memcpy(to.codes, data_->data, data_->bytes);
            return;
        }
        const std::size_t group = data_->shape[1];
        const std::size_t groups = scale_->shape[0];
        const std::size_t packed_rows = data_->shape[0];
        const int bits = format.bits;
        std::memset(to.codes, 0, rows * to.row_bytes);
        for (std::size_t g = 0; g < groups; ++g) {
            const std::byte* from = data_->data + g % packed_rows * group;
            const int shift = bits * static_cast<int>(g / packed_rows);
            std::byte* codes = to.codes + g / (cols / group) * to.row_bytes;
            const std::size_t first = g % (cols / group) * group; // the code in its row
            for (std::size_t j = 0; j < group; ++j) {
                const unsigned code = static_cast<unsigned>(from[j]) >> shift & ((1u << bits) - 1);
                const std::size_t bit = (first + j) * static_cast<std::size_t>(bits);
                codes[bit / 8] |= static_cast<std::byte>(code << (bit % 8));
            }
        }
        std::memcpy(to.zeros, shift_->data, shift_->bytes);
        // scale x code - shift is scale x code + minimum: its sign is the highest bit of the number.
        if (!format.zero)
            for (std::size_t i = to.scale_bytes - 1; i < shift_->bytes; i += to.scale_bytes)
                to.zeros[i] ^= std::byte{0x80};
    }

private:
    [[nodiscard]] bool whole_bytes(layer_tensors& layer) {
        if (!layer.expect_type(*data_, {"I8", "F8_E4M3", "F8_E5M2"}) || !layer.expect_matrix(*data_)) return false;
        rows = data_->shape[0];
        cols = data_->shape[1];
        format.bits = 8;
        format.code = data_->type_name == "I8"        ? layer_code::signed_integer
                      : data_->type_name == "F8_E4M3" ? layer_code::e4m3
                                                      : layer_code::e5m2;
        std::size_t count = 0;
        if (count_elements(scale_->shape, count) && count == 1 && rows != 1) {
            format.granularity = layer_granularity::tensor;
            return true;
        }
        format.granularity = layer_granularity::channel;
        return layer.expect_shape(*scale_, {rows, 1}, "one per output");
    }

    [[nodiscard]] bool packed(layer_tensors& layer, const quanto_options& options) {
        data_ = layer.require(".weight._data._data");
        shift_ = data_ == nullptr ? nullptr : layer.require(".weight._shift");
        if (shift_ == nullptr || !layer.expect_type(*data_, {"U8"}) ||
            !layer.expect_type(*shift_, {scale_->type_name, "U8", "I8"}) || !layer.expect_matrix(*data_) ||
            !layer.expect_matrix(*scale_))
            return false;
        const std::size_t group = data_->shape[1];
        const std::size_t groups = scale_->shape[0];
        if (!layer.expect_shape(*scale_, {groups, 1}, "one per group") ||
            !layer.expect_shape(*shift_, {groups, 1}, "one per group"))
            return false;
        for (const int bits : {4, 2})
            if (ceil_div(groups, static_cast<std::size_t>(8 / bits)) == data_->shape[0] &&
                (options.bits == 0 || options.bits == bits)) {
                if (format.bits != 0)
                    return layer.fail(status_code::mismatch, *data_,
                                      "may have codes of 2 or of 4 bits: say bits, as quanto_qmap.json has them");
                format.bits = bits;
            }
        if (format.bits == 0)
            return layer.fail(status_code::mismatch, *data_,
                              "has " + std::to_string(data_->shape[0]) + " rows for " + std::to_string(groups) +
                                  " groups, which are no codes of " +
                                  (options.bits == 0 ? std::string("2 or 4") : std::to_string(options.bits)) + " bits");
        if (!shape(layer, options, group, groups)) return false;
        format.zero = shift_->type_name == "U8" || shift_->type_name == "I8";
        format.code = layer_code::unsigned_integer;
        if (!format.zero) format.minimum = format.scale;
        for (std::size_t i = 0; format.zero && i < shift_->bytes; ++i)
            if (static_cast<unsigned>(shift_->data[i]) >= 1u << format.bits)
                return layer.fail(status_code::malformed, *shift_,
                                  "has a zero point that is no code of " + std::to_string(format.bits) + " bits");
        format.granularity = layer_granularity::group;
        format.size = group;
        return true;
    }

    // Rows are whole groups, but how many of them no tensor of the weights tells.
    [[nodiscard]] bool shape(layer_tensors& layer, const quanto_options& options, std::size_t group,
                             std::size_t groups) {
        const tensor_info* bias = layer.find(".bias");
        std::size_t per_row = 0;
        if (options.inputs != 0 && options.inputs % group == 0) per_row = options.inputs / group;
        if (options.inputs == 0 && bias != nullptr && bias->shape.size() == 1 && bias->shape[0] != 0 &&
            groups % bias->shape[0] == 0)
            per_row = groups / bias->shape[0];
        if (options.inputs == 0 && bias == nullptr)
            return layer.fail(status_code::mismatch, *scale_,
                              "has " + std::to_string(groups) + " groups of " + std::to_string(group) +
                                  " inputs, which do not tell how many inputs there are: say inputs");
        if (per_row == 0 || groups % per_row != 0)
            return layer.fail(
                status_code::mismatch, *scale_,
                "has " + std::to_string(groups) + " groups of " + std::to_string(group) +
                    " inputs, which do not make rows of " +
                    (options.inputs != 0 ? std::to_string(options.inputs) + " inputs" : "the outputs that bias has"));
        cols = per_row * group;
        rows = groups / per_row;
        return true;
    }

    const tensor_info* data_ = nullptr;
    const tensor_info* scale_ = nullptr;
    const tensor_info* shift_ = nullptr;
};

[[nodiscard]] inline status write_quanto(const layer_format& format, const layer_source& from, std::string_view prefix,
                                         safetensors_writer& out) {
    const bool bytes =
        format.bits == 8 && !format.zero &&
        (format.code == layer_code::signed_integer || format.code == layer_code::e4m3 ||
         format.code == layer_code::e5m2) &&
        (format.granularity == layer_granularity::channel || format.granularity == layer_granularity::tensor);
    const bool integers = (format.bits == 2 || format.bits == 4) && format.granularity == layer_granularity::group &&
                          format.size != 0 && from.cols % format.size == 0 &&
                          format.code == layer_code::unsigned_integer &&
                          (format.zero || format.minimum == format.scale);
    const bool numbers = format.scale == layer_scale::float16 || format.scale == layer_scale::bfloat16 ||
                         format.scale == layer_scale::float32;
    if (!(bytes || integers) || !numbers || from.rows == 0 || from.cols == 0)
        return {status_code::unsupported,
                "layer " + in_quotes(prefix) + ": quanto cannot hold " + format_text(format) + " of " +
                    shape_text(from.rows, from.cols) +
                    "; it holds quanto_formats in whole groups, and int8 and fp8 with a scale per row or tensor"};
    const std::string name = std::string(prefix) + ".weight.";
    const std::string_view type = format.scale == layer_scale::float16    ? "F16"
                                  : format.scale == layer_scale::bfloat16 ? "BF16"
                                                                          : "F32";
    std::vector<std::size_t> scale_shape;
    if (format.granularity != layer_granularity::tensor) scale_shape = {from.scale_count, 1};
    std::vector<std::byte> scales(from.scales, from.scales + from.scale_count * from.scale_bytes);
    status s;
    if (bytes) {
        const std::size_t shape[] = {from.rows, from.cols};
        s = out.add(name + "_data",
                    format.code == layer_code::signed_integer ? "I8"
                    : format.code == layer_code::e4m3         ? "F8_E4M3"
                                                              : "F8_E5M2",
                    shape, {from.codes, from.codes + from.rows * from.row_bytes});
        return s.ok() ? out.add(name + "_scale", type, scale_shape, std::move(scales)) : s;
    }
    const std::size_t group = format.size;
    const std::size_t per_row = from.cols / group;
    const std::size_t shape[] = {ceil_div(from.scale_count, static_cast<std::size_t>(8 / format.bits)), group};
    std::vector<std::byte> data(shape[0] * group);
    for (std::size_t g = 0; g < from.scale_count; ++g)
        for (std::size_t j = 0; j < group; ++j) {
            const std::size_t bit = (g % per_row * group + j) * static_cast<std::size_t>(format.bits);
            const unsigned code =
                static_cast<unsigned>(from.codes[g / per_row * from.row_bytes + bit / 8]) >> (bit % 8) &
                ((1u << format.bits) - 1);
            data[g % shape[0] * group + j] |=
                static_cast<std::byte>(code << (static_cast<std::size_t>(format.bits) * (g / shape[0])));
        }
    const std::size_t shift_bytes = format.zero ? 1 : from.scale_bytes;
    std::vector<std::byte> shifts(from.zeros, from.zeros + from.scale_count * shift_bytes);
    if (!format.zero)
        for (std::size_t i = shift_bytes - 1; i < shifts.size(); i += shift_bytes) shifts[i] ^= std::byte{0x80};
    s = out.add(name + "_data._data", "U8", shape, std::move(data));
    if (s.ok()) s = out.add(name + "_scale", type, scale_shape, std::move(scales));
    if (s.ok()) s = out.add(name + "_shift", format.zero ? "U8" : type, scale_shape, std::move(shifts));
    return s;
}

} // namespace detail

// The quanto layer `prefix` of a file; codes and scales as stored, shifts of floats with the other sign. `out` stays as
// it was unless the result is ok: not_found and mismatch as in read_gptq, mismatch also where the number of inputs or
// of bits is not told; malformed: a zero point that is no code; unsupported if List lacks the format. One pass;
// allocates the weights.
template <class List>
[[nodiscard]] status read_quanto(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                 const quanto_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::quanto_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::quanto;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "quanto", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds _data or _data._data, _scale and _shift to a file; integer zero points as U8. unsupported: other formats.
template <any_scheme S>
[[nodiscard]] status write_quanto(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_quanto(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
