// mlx_layer.hpp: layers that MLX has quantized (mlx_lm.convert): integers with a scale and a bias per group, and its
// modes mxfp4, mxfp8 and nvfp4.
#pragma once

#include <nibble/io/integer_formats.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_writer.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// N outputs, K inputs, codes of B bits in groups of G along K, each row a little-endian stream of bits:
//   weight  U32 [N, K B / 32]
//   scales  mode affine: F16, BF16 or F32 [N, K / G]; mxfp4, mxfp8: U8, E8M0; nvfp4: U8, E4M3
//   biases  like scales, in mode affine only
// affine: weight(n, k) = scale x code + bias, B of 2, 3, 4, 5, 6 or 8, G of 32, 64 or 128. mxfp4 and mxfp8: E2M1 and
// E4M3 x scale, G = 32. nvfp4: E2M1 x scale, G = 16. MLX computes that in the type of the scales, nibble in fp32.

// What config.json says under "quantization", for one layer where it says so.
struct mlx_layer_options {
    std::string name; // as in the file, "model.layers.0.mlp.down_proj"
    int group_size = 0;
    int bits = 0;
};
struct mlx_options {
    int group_size = 0;                         // 0: from the shapes and bits, where those leave one
    int bits = 0;                               // 0: from the shapes and group_size
    std::vector<mlx_layer_options> layers = {}; // go before the two above
};

namespace detail {

template <class E, class G, element F>
using affine_format = named_format<join_names(format_name(integer_name<E::bits>), granularity_name<G>,
                                              format_name("_min"), scale_name<F>),
                                   scheme<E, G, scale<F>, minimum<F>>>;
template <class E, class G>
using affine_scales = format_list<affine_format<E, G, f16>, affine_format<E, G, bf16>, affine_format<E, G, f32>>;

} // namespace detail

// Mode affine with that many bits, named int4_g64_min_bf16 and so on; and the other modes. MLX's weights in nvfp4 have
// no scale of the tensor: that is 1.
template <int Bits>
using mlx_affine_formats = join_formats<detail::affine_scales<unsigned_integer<Bits>, per_group<64>>,
                                        detail::affine_scales<unsigned_integer<Bits>, per_group<32>>,
                                        detail::affine_scales<unsigned_integer<Bits>, per_group<128>>>;
using mlx_float_formats =
    format_list<named_format<"mxfp4", mxfp4>, named_format<"mxfp8_e4m3", mxfp8_e4m3>, named_format<"nvfp4", nvfp4>>;

namespace detail {

class mlx_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, std::string_view prefix, const mlx_options& options) {
        weight_ = layer.require(".weight");
        scales_ = weight_ == nullptr ? nullptr : layer.require(".scales");
        if (scales_ == nullptr) return false;
        biases_ = layer.find(".biases");
        if (!layer.expect_type(*weight_, {"U32"}) || !layer.expect_matrix(*weight_) || !layer.expect_matrix(*scales_))
            return false;
        if (const tensor_info* global = layer.find(".global_scale"))
            return layer.fail(status_code::unsupported, *global, "nvfp4 with a scale of the tensor is not read");
        rows = weight_->shape[0];
        const std::size_t words = weight_->shape[1];
        const std::size_t groups = scales_->shape[1];
        if (!layer.expect_shape(*scales_, {rows, groups}, "as many rows as weight")) return false;
        if (words % groups != 0)
            return layer.fail(status_code::mismatch, *scales_,
                              "has " + std::to_string(groups) + " groups for " + std::to_string(words) +
                                  " words per row, which are no whole words each");
        int group_size = options.group_size;
        int bits = options.bits;
        for (const mlx_layer_options& own : options.layers)
            if (own.name == prefix) {
                group_size = own.group_size;
                bits = own.bits;
            }
        const std::size_t each = words / groups;
        return biases_ != nullptr ? affine(layer, each, group_size, bits) : floats(layer, each, group_size, bits);
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.codes, weight_->data, weight_->bytes);
        std::memcpy(to.scales, scales_->data, scales_->bytes);
        if (biases_ != nullptr) std::memcpy(to.zeros, biases_->data, biases_->bytes);
        const float one = 1.0f;
        if (to.outer_count == 1) std::memcpy(to.outer, &one, sizeof one);
    }

private:
    // `each`: words per group, group_size x bits / 32, which several pairs make.
    [[nodiscard]] bool affine(layer_tensors& layer, std::size_t each, int group_size, int bits) {
        if (!layer.expect_type(*scales_, {"F16", "BF16", "F32"}) || !layer.expect_type(*biases_, {scales_->type_name}))
            return false;
        if (biases_->shape != scales_->shape)
            return layer.fail(status_code::mismatch, *biases_,
                              "has shape " + extents_text(biases_->shape) + ", expected " +
                                  extents_text(scales_->shape) + " (scales)");
        std::string pairs;
        int found = 0;
        for (const int size : {32, 64, 128})
            for (const int width : {2, 3, 4, 5, 6, 8}) {
                if (static_cast<std::size_t>(size) * static_cast<std::size_t>(width) != 32 * each ||
                    (group_size != 0 && group_size != size) || (bits != 0 && bits != width))
                    continue;
                ++found;
                format.size = static_cast<std::size_t>(size);
                format.bits = width;
                pairs.append(pairs.empty() ? "" : " or ");
                pairs.append(std::to_string(width) + " bits in groups of " + std::to_string(size));
            }
        const std::string has = "has " + std::to_string(each) + " words of weight per group";
        if (found > 1)
            return layer.fail(status_code::mismatch, *scales_,
                              has + ", which are " + pairs +
                                  ": say bits or group_size of the checkpoint's configuration "
                                  "(read_quantization_config takes them from there)");
        if (found == 0)
            return layer.fail(status_code::mismatch, *scales_,
                              has + ", which are no codes of " +
                                  (bits != 0 ? std::to_string(bits) : std::string("2 to 8")) + " bits in groups of " +
                                  (group_size != 0 ? std::to_string(group_size) : std::string("32, 64 or 128")));
        format.code = layer_code::unsigned_integer;
        format.granularity = layer_granularity::group;
        format.scale = scales_->type == tensor_type::float32   ? layer_scale::float32
                       : scales_->type == tensor_type::float16 ? layer_scale::float16
                                                               : layer_scale::bfloat16;
        format.minimum = format.scale;
        cols = scales_->shape[1] * format.size;
        return true;
    }
    [[nodiscard]] bool floats(layer_tensors& layer, std::size_t each, int group_size, int bits) {
        if (!layer.expect_type(*scales_, {"U8"})) return false;
        if (each != 2 && each != 4 && each != 8)
            return layer.fail(status_code::mismatch, *scales_,
                              "has " + std::to_string(each) + " words of weight per group, expected 4 (mxfp4), 8 " +
                                  "(mxfp8) or 2 (nvfp4), for there are no biases");
        format.code = each == 8 ? layer_code::e4m3 : layer_code::e2m1;
        format.bits = each == 8 ? 8 : 4;
        format.granularity = layer_granularity::group;
        format.size = each == 2 ? 16 : 32;
        format.scale = each == 2 ? layer_scale::e4m3_times : layer_scale::power_of_two;
        if ((bits != 0 && bits != format.bits) ||
            (group_size != 0 && static_cast<std::size_t>(group_size) != format.size))
            return layer.fail(status_code::mismatch, *scales_,
                              "has " + std::to_string(each) + " words of weight per group, which are not " +
                                  std::to_string(bits) + " bits in groups of " + std::to_string(group_size));
        cols = scales_->shape[1] * format.size;
        return true;
    }

    const tensor_info* weight_ = nullptr;
    const tensor_info* scales_ = nullptr;
    const tensor_info* biases_ = nullptr;
};

[[nodiscard]] inline status write_mlx(const layer_format& format, const layer_source& from, std::string_view prefix,
                                      safetensors_writer& out) {
    const bool size_of_affine = format.size == 32 || format.size == 64 || format.size == 128;
    const bool affine = format.code == layer_code::unsigned_integer && format.minimum == format.scale &&
                        size_of_affine && format.bits >= 2 && format.bits != 7 && format.bits <= 8 &&
                        format.scale != layer_scale::other;
    const bool mx = (format.code == layer_code::e2m1 || format.code == layer_code::e4m3) && format.size == 32 &&
                    format.scale == layer_scale::power_of_two;
    const bool nv = format.code == layer_code::e2m1 && format.size == 16 && format.scale == layer_scale::e4m3_times &&
                    format.outer == 0 && from.outer_count == 1;
    if (!(affine || mx || nv) || format.zero || format.granularity != layer_granularity::group || from.rows == 0 ||
        from.cols == 0 || from.cols % (format.size < 32 ? 32 : format.size) != 0)
        return {status_code::unsupported,
                "layer " + in_quotes(prefix) + ": MLX cannot hold " + format_text(format) + " of " +
                    shape_text(from.rows, from.cols) +
                    "; it holds mlx_affine_formats and mlx_float_formats with columns in whole groups"};
    if (nv) {
        float outer = 0.0f;
        std::memcpy(&outer, from.outer, sizeof outer);
        if (outer != 1.0f)
            return {status_code::mismatch,
                    "layer " + in_quotes(prefix) + ": MLX's nvfp4 has no scale of the tensor, and this one's is not 1"};
    }
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.row_bytes / 4};
    const std::size_t scale_shape[] = {from.rows, from.cols / format.size};
    const std::size_t scale_bytes = from.scale_count * from.scale_bytes;
    const std::string_view type = format.scale == layer_scale::float16    ? "F16"
                                  : format.scale == layer_scale::bfloat16 ? "BF16"
                                  : format.scale == layer_scale::float32  ? "F32"
                                                                          : "U8";
    status s = out.add(name + ".weight", "U32", shape, {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + ".scales", type, scale_shape, {from.scales, from.scales + scale_bytes});
    if (s.ok() && affine) s = out.add(name + ".biases", type, scale_shape, {from.zeros, from.zeros + scale_bytes});
    return s;
}

} // namespace detail

// The MLX layer (or embedding) `prefix` of a file, every bit as stored. `out` stays as it was unless the result is ok:
// not_found and mismatch as in read_gptq, mismatch also where shapes leave a choice of bits and groups that the options
// do not make; unsupported if List lacks the format. One copy; allocates the weights.
template <class List>
[[nodiscard]] status read_mlx(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                              const mlx_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::mlx_tensors tensors;
    if (!tensors.find(layer, prefix, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::mlx;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "MLX",
                   "the list of formats has none that holds " + detail::format_text(tensors.format) +
                       "; mlx_affine_formats<" + std::to_string(tensors.format.bits) + "> or mlx_float_formats has it");
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds weight, scales and biases to a file. unsupported: other formats; mismatch: nvfp4 with a scale of the tensor
// other than 1.
template <any_scheme S>
[[nodiscard]] status write_mlx(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_mlx(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
