// quantized_layer.hpp: one linear layer of a quantized checkpoint: how it is stored, its weights, the order of its
// columns.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/any_format.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How a checkpoint stores a linear layer; which tensors stand behind the layer's name.
enum class layer_layout {
    none,
    gptq,                      // .qweight .qzeros .scales .g_idx (AutoGPTQ, GPTQModel)
    awq,                       // the same names, packed along the outputs (AutoAWQ "gemm")
    awq_gemv,                  // the same names, packed along the inputs (AutoAWQ "gemv")
    awq_gemv_fast,             // the same names, .qweight of I16 (AutoAWQ "gemv_fast")
    compressed_tensors_packed, // .weight_packed .weight_scale .weight_shape ... ("pack-quantized")
    compressed_tensors_nvfp4,  // .weight_packed .weight_scale .weight_global_scale ("nvfp4-pack-quantized")
    compressed_tensors_mxfp4,  // .weight_packed .weight_scale ("mxfp4-pack-quantized")
    compressed_tensors_mxfp8,  // .weight of F8 .weight_scale of U8 or F8_E8M0 ("mxfp8-quantized")
    compressed_tensors_naive,  // .weight of I8 or F8 with .weight_scale ("int-quantized", "float-quantized"), and
                               // .weight_scale_inv of DeepSeek-V3's tiles
    bitsandbytes,      // .weight .weight.absmax .weight.quant_map .weight.quant_state.bitsandbytes__nf4 or __fp4
    bitsandbytes_int8, // .weight of I8 .SCB (LLM.int8)
    modelopt_nvfp4,    // .weight .weight_scale .weight_scale_2 (TensorRT Model Optimizer)
    gpt_oss,           // _blocks _scales of all experts of a layer (OpenAI's gpt-oss)
    mlx,               // .weight of U32 .scales .biases (MLX)
    quanto,            // .weight._data or .weight._data._data .weight._scale .weight._shift (optimum-quanto)
};

[[nodiscard]] constexpr std::string_view layout_name(layer_layout layout) noexcept {
    switch (layout) {
    case layer_layout::none:
        return "none";
    case layer_layout::gptq:
        return "gptq";
    case layer_layout::awq:
        return "awq";
    case layer_layout::awq_gemv:
        return "awq gemv";
    case layer_layout::awq_gemv_fast:
        return "awq gemv_fast";
    case layer_layout::compressed_tensors_packed:
        return "compressed-tensors pack-quantized";
    case layer_layout::compressed_tensors_nvfp4:
        return "compressed-tensors nvfp4-pack-quantized";
    case layer_layout::compressed_tensors_mxfp4:
        return "compressed-tensors mxfp4-pack-quantized";
    case layer_layout::compressed_tensors_mxfp8:
        return "compressed-tensors mxfp8-quantized";
    case layer_layout::compressed_tensors_naive:
        return "compressed-tensors naive-quantized";
    case layer_layout::bitsandbytes:
        return "bitsandbytes";
    case layer_layout::bitsandbytes_int8:
        return "bitsandbytes int8";
    case layer_layout::modelopt_nvfp4:
        return "modelopt nvfp4";
    case layer_layout::gpt_oss:
        return "gpt-oss";
    case layer_layout::mlx:
        return "mlx";
    case layer_layout::quanto:
        return "quanto";
    }
    return "none";
}

// The weights of a layer, N (outputs) x K (inputs), with the checkpoint's own codes, scales and zero points.
template <class List> struct quantized_layer {
    layer_layout layout = layer_layout::none;
    any_quantized<List> weights;
    // Act-order: weights' column k multiplies input columns[k] (see gather_columns). Empty: input k.
    std::vector<std::uint32_t> columns;
    // Matrices of as many rows each, one below the other in `weights`.
    std::size_t experts = 1;
};

// out(m, k) = x(m, columns[k]): the activations in the order of the weights' columns; once for all layers of one order.
// Shapes M x K; columns must hold numbers below K, or be empty, which copies. One pass, no allocation.
inline void gather_columns(matrix_view<const float> x, std::span<const std::uint32_t> columns, matrix_view<float> out) {
    NIBBLE_CHECK(x.rows() == out.rows() && x.cols() == out.cols(),
                 "gather_columns: x and out must have the same shape");
    NIBBLE_CHECK(columns.empty() || columns.size() == x.cols(),
                 "gather_columns: there must be as many columns as x has");
    for (const std::uint32_t column : columns)
        NIBBLE_CHECK(column < x.cols(), "gather_columns: a column is not one of x");
    for (std::size_t i = 0; i < x.rows(); ++i) {
        if (columns.empty() && x.cols() != 0) std::memcpy(out.row(i), x.row(i), x.cols() * sizeof(float));
        for (std::size_t k = 0; k < columns.size(); ++k) out(i, k) = x(i, columns[k]);
    }
}

// The fp32 weights of a layer, N x K, its columns in the order of the inputs: dequantize, then each column to its
// place.
template <class List> void dequantize_layer(const quantized_layer<List>& layer, matrix_view<float> out) {
    NIBBLE_CHECK(!layer.weights.empty(), "dequantize_layer: this layer is empty; read one first");
    layer.weights.visit([&](const auto& weights) { dequantize(weights, out); });
    if (layer.columns.empty()) return;
    NIBBLE_CHECK(layer.columns.size() == out.cols(),
                 "dequantize_layer: the order must have as many columns as the weights");
    std::vector<float> row(out.cols());
    for (std::size_t n = 0; n < out.rows(); ++n) {
        if (!row.empty()) std::memcpy(row.data(), out.row(n), row.size() * sizeof(float));
        for (std::size_t k = 0; k < row.size(); ++k) out(n, layer.columns[k]) = row[k];
    }
}

// A layer of a file: what stands in front of ".weight" or ".qweight" (a view of the file's names), and its layout.
struct stored_layer {
    std::string_view prefix;
    layer_layout layout = layer_layout::none;
};

// The layout of the layer `prefix`, from the names, types and shapes of its tensors; none if it is not quantized, or
// not there. No promise that the tensors fit together: the readers check that.
[[nodiscard]] inline layer_layout detect_layout(const tensor_source& file, std::string_view prefix) {
    const auto find = [&](std::string_view suffix) { return file.find(std::string(prefix).append(suffix)); };
    const auto are_exponents = [](const tensor_info* scale) {
        return scale != nullptr && (scale->type_name == "U8" || scale->type_name == "F8_E8M0");
    };
    if (const tensor_info* words = find(".qweight")) {
        if (words->type_name == "I16") return layer_layout::awq_gemv_fast;
        const tensor_info* scales = find(".scales");
        const tensor_info* zeros = find(".qzeros");
        if (scales == nullptr || words->shape.size() != 2 || scales->shape.size() != 2) return layer_layout::gptq;
        const auto& w = words->shape;
        const auto& s = scales->shape;
        if (w[1] == s[1]) return layer_layout::gptq; // columns are the outputs
        // AWQ packs eight outputs into a word: only that has fewer columns than there are outputs. "gemv" packs inputs
        // and has rows of outputs everywhere.
        if (w[1] == s[1] / 8) return layer_layout::awq;
        return zeros != nullptr && zeros->shape.size() == 2 && w[0] == s[0] && w[0] == zeros->shape[0] &&
                       zeros->shape[1] == s[1] / 8
                   ? layer_layout::awq_gemv
                   : layer_layout::gptq;
    }
    if (const tensor_info* packed = find(".weight_packed")) {
        if (find(".weight_global_scale") != nullptr) return layer_layout::compressed_tensors_nvfp4;
        if (packed->type_name != "U8") return layer_layout::compressed_tensors_packed;
        // Without a number for the whole tensor the scales of blocks are exponents.
        return are_exponents(find(".weight_scale")) ? layer_layout::compressed_tensors_mxfp4
                                                    : layer_layout::compressed_tensors_nvfp4;
    }
    if ((find("_blocks") != nullptr && find("_scales") != nullptr) ||
        (find(".blocks") != nullptr && find(".scales") != nullptr))
        return layer_layout::gpt_oss;
    if (find(".weight._scale") != nullptr &&
        (find(".weight._data") != nullptr || find(".weight._data._data") != nullptr))
        return layer_layout::quanto;
    const tensor_info* weight = find(".weight");
    if (weight == nullptr) return layer_layout::none;
    if (find(".weight.quant_state.bitsandbytes__nf4") != nullptr ||
        find(".weight.quant_state.bitsandbytes__fp4") != nullptr)
        return layer_layout::bitsandbytes;
    if (weight->type_name == "U32" && find(".scales") != nullptr) return layer_layout::mlx;
    if (weight->type_name == "U8" && find(".weight_scale_2") != nullptr) return layer_layout::modelopt_nvfp4;
    if (weight->type_name == "I8" && find(".SCB") != nullptr) return layer_layout::bitsandbytes_int8;
    const bool floats = weight->type_name == "F8_E4M3" || weight->type_name == "F8_E5M2";
    if (floats && (are_exponents(find(".weight_scale")) || are_exponents(find(".weight_scale_inv"))))
        return layer_layout::compressed_tensors_mxfp8;
    if ((weight->type_name == "I8" || floats) &&
        (find(".weight_scale") != nullptr || find(".weight_scale_inv") != nullptr))
        return layer_layout::compressed_tensors_naive;
    return layer_layout::none;
}

namespace detail {

// Of the tensors of a layer the one that it is listed for: once.
[[nodiscard]] inline std::string_view deciding_suffix(const tensor_source& file, std::string_view prefix,
                                                      layer_layout layout) {
    switch (layout) {
    case layer_layout::gptq:
    case layer_layout::awq:
    case layer_layout::awq_gemv:
    case layer_layout::awq_gemv_fast:
        return ".qweight";
    case layer_layout::compressed_tensors_packed:
    case layer_layout::compressed_tensors_nvfp4:
    case layer_layout::compressed_tensors_mxfp4:
        return ".weight_packed";
    case layer_layout::gpt_oss:
        return file.find(std::string(prefix).append("_blocks")) != nullptr ? "_blocks" : ".blocks";
    case layer_layout::quanto:
        return ".weight._scale";
    default:
        return ".weight";
    }
}

} // namespace detail

// Every quantized layer of a file, in the file's order. n log n in the number of tensors.
[[nodiscard]] inline std::vector<stored_layer> list_layers(const tensor_source& file) {
    std::vector<stored_layer> layers;
    for (const tensor_info& tensor : file.tensors())
        for (const std::string_view suffix :
             {".qweight", ".weight_packed", ".weight", ".weight._scale", "_blocks", ".blocks"}) {
            if (!tensor.name.ends_with(suffix)) continue;
            const std::string_view prefix = tensor.name.substr(0, tensor.name.size() - suffix.size());
            const layer_layout layout = detect_layout(file, prefix);
            if (layout != layer_layout::none && suffix == detail::deciding_suffix(file, prefix, layout))
                layers.push_back({prefix, layout});
        }
    return layers;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
