// read_layer.hpp: reads a layer of any of the layouts that checkpoints have, and writes one; what loaders call.
#pragma once

#include <nibble/io/awq.hpp>
#include <nibble/io/awq_gemv.hpp>
#include <nibble/io/bitsandbytes.hpp>
#include <nibble/io/bitsandbytes_int8.hpp>
#include <nibble/io/compressed_tensors.hpp>
#include <nibble/io/compressed_tensors_naive.hpp>
#include <nibble/io/gpt_oss.hpp>
#include <nibble/io/gptq.hpp>
#include <nibble/io/mlx_layer.hpp>
#include <nibble/io/mxfp4_layer.hpp>
#include <nibble/io/mxfp8_layer.hpp>
#include <nibble/io/nvfp4_layer.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/quanto_layer.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <string>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What the tensors of a layer do not tell: one size of groups for whichever layout it is in, and more by layout.
// read_quantization_config (quantization_config.hpp) takes it from a checkpoint's config.json.
struct layer_options {
    // Of integers: columns that share a scale, -1: one group. A layout's own (gptq.group_size ...) goes before it. 0:
    // not told, and a layer is refused whose shapes leave a choice: 32 scales in a row of 4096 may be groups of 128 to
    // 132.
    int group_size = 0;
    gptq_options gptq = {};
    awq_options awq = {};
    compressed_tensors_options compressed_tensors = {};
    naive_options naive = {};
    bitsandbytes_options bitsandbytes = {};
    gpt_oss_options gpt_oss = {};
    mlx_options mlx = {};
    quanto_options quanto = {};
};

// The layer `prefix` of a file ("model.layers.0.self_attn.q_proj"), whichever layout detect_layout finds; not_found if
// there is none. `file` is a safetensors_file, or a safetensors_model, where its tensors may lie in different shards.
// List holds the formats that the program runs, for example join_formats<asymmetric_integer_formats<4>, nvfp4_formats>;
// see the reader of each layout for the rest.
template <class List>
[[nodiscard]] status read_layer(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                const layer_options& options = {}) {
    layer_options o = options;
    for (int* size : {&o.gptq.group_size, &o.awq.q_group_size, &o.compressed_tensors.group_size, &o.naive.group_size})
        if (*size == 0) *size = options.group_size;
    layer_layout layout = detect_layout(file, prefix);
    const bool could_be_gemv = layout == layer_layout::gptq || layout == layer_layout::awq;
    if (could_be_gemv && o.awq.version == awq_version::gemv) layout = layer_layout::awq_gemv;
    switch (layout) {
    case layer_layout::gptq:
        return read_gptq(file, prefix, out, o.gptq);
    case layer_layout::awq:
        return read_awq(file, prefix, out, o.awq);
    case layer_layout::awq_gemv:
        return read_awq_gemv(file, prefix, out, o.awq);
    case layer_layout::awq_gemv_fast:
        return read_awq_gemv_fast(file, prefix, out, o.awq);
    case layer_layout::compressed_tensors_packed:
        return read_compressed_tensors(file, prefix, out, o.compressed_tensors);
    case layer_layout::compressed_tensors_nvfp4:
        return read_compressed_tensors_nvfp4(file, prefix, out);
    case layer_layout::compressed_tensors_mxfp4:
        return read_compressed_tensors_mxfp4(file, prefix, out);
    case layer_layout::compressed_tensors_mxfp8:
        return read_compressed_tensors_mxfp8(file, prefix, out);
    case layer_layout::compressed_tensors_naive:
        return read_naive(file, prefix, out, o.naive);
    case layer_layout::bitsandbytes:
        return read_bitsandbytes(file, prefix, out, o.bitsandbytes);
    case layer_layout::bitsandbytes_int8:
        return read_bitsandbytes_int8(file, prefix, out);
    case layer_layout::modelopt_nvfp4:
        return read_modelopt(file, prefix, out);
    case layer_layout::gpt_oss:
        return read_gpt_oss(file, prefix, out, o.gpt_oss);
    case layer_layout::mlx:
        return read_mlx(file, prefix, out, o.mlx);
    case layer_layout::quanto:
        return read_quanto(file, prefix, out, o.quanto);
    case layer_layout::none:
        break;
    }
    return {status_code::not_found,
            "layer " + detail::in_quotes(prefix) +
                ": the file has no tensors of that name in a quantized layout; list_layers tells "
                "which layers it has"};
}

// Adds a layer's tensors to a file, in the layout that layer.layout names.
template <class List>
[[nodiscard]] status write_layer(const quantized_layer<List>& layer, std::string_view prefix, safetensors_writer& out,
                                 const layer_options& options = {}) {
    status s{status_code::unsupported,
             "layer " + detail::in_quotes(prefix) + ": is empty, or has no layout to be written in"};
    layer.weights.visit([&](const auto& weights) {
        switch (layer.layout) {
        case layer_layout::gptq:
            s = write_gptq(weights, layer.columns, prefix, out, options.gptq);
            return;
        case layer_layout::awq:
            s = write_awq(weights, prefix, out);
            break;
        case layer_layout::awq_gemv:
            s = write_awq_gemv(weights, prefix, out);
            break;
        case layer_layout::awq_gemv_fast:
            s = write_awq_gemv_fast(weights, prefix, out);
            break;
        case layer_layout::compressed_tensors_packed:
            s = write_compressed_tensors(weights, layer.columns, prefix, out, options.compressed_tensors);
            return;
        case layer_layout::compressed_tensors_nvfp4:
            s = write_compressed_tensors_nvfp4(weights, prefix, out);
            break;
        case layer_layout::compressed_tensors_mxfp4:
            s = write_compressed_tensors_mxfp4(weights, prefix, out);
            break;
        case layer_layout::compressed_tensors_mxfp8:
            s = write_compressed_tensors_mxfp8(weights, prefix, out);
            break;
        case layer_layout::compressed_tensors_naive:
            s = write_naive(weights, prefix, out);
            break;
        case layer_layout::bitsandbytes:
            s = write_bitsandbytes(weights, prefix, out);
            break;
        case layer_layout::bitsandbytes_int8:
            s = write_bitsandbytes_int8(weights, prefix, out);
            break;
        case layer_layout::modelopt_nvfp4:
            s = write_modelopt(weights, prefix, out);
            break;
        case layer_layout::gpt_oss:
            s = write_gpt_oss(weights, layer.experts, prefix, out);
            break;
        case layer_layout::mlx:
            s = write_mlx(weights, prefix, out);
            break;
        case layer_layout::quanto:
            s = write_quanto(weights, prefix, out);
            break;
        case layer_layout::none:
            break;
        }
    });
    return s;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
