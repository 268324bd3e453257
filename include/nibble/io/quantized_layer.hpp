// quantized_layer.hpp: one linear layer of a quantized checkpoint: how it is stored, its weights, the order of its
// columns.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/tensor_file.hpp>

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
    compressed_tensors_packed, // .weight_packed .weight_scale .weight_shape ... ("pack-quantized")
    compressed_tensors_nvfp4,  // .weight_packed .weight_scale .weight_global_scale ("nvfp4-pack-quantized")
    compressed_tensors_mxfp4,  // .weight_packed .weight_scale ("mxfp4-pack-quantized")
    compressed_tensors_naive,  // .weight of I8 or F8 with .weight_scale ("int-quantized", "float-quantized"), and
                               // .weight_scale_inv of DeepSeek-V3's tiles
    bitsandbytes,   // .weight .weight.absmax .weight.quant_map .weight.quant_state.bitsandbytes__nf4 or __fp4
    modelopt_nvfp4, // .weight .weight_scale .weight_scale_2 (TensorRT Model Optimizer)
    mlx,            // .weight of U32 .scales .biases (MLX)
    quanto,         // .weight._data or .weight._data._data .weight._scale .weight._shift (optimum-quanto)
};

[[nodiscard]] constexpr std::string_view layout_name(layer_layout layout) noexcept {
    switch (layout) {
    case layer_layout::none:
        return "none";
    case layer_layout::gptq:
        return "gptq";
    case layer_layout::awq:
        return "awq";
    case layer_layout::compressed_tensors_packed:
        return "compressed-tensors pack-quantized";
    case layer_layout::compressed_tensors_nvfp4:
        return "compressed-tensors nvfp4-pack-quantized";
    case layer_layout::compressed_tensors_mxfp4:
        return "compressed-tensors mxfp4-pack-quantized";
    case layer_layout::compressed_tensors_naive:
        return "compressed-tensors naive-quantized";
    case layer_layout::bitsandbytes:
        return "bitsandbytes";
    case layer_layout::modelopt_nvfp4:
        return "modelopt nvfp4";
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
[[nodiscard]] inline layer_layout detect_layout(const safetensors_file& file, std::string_view prefix) {
    const auto find = [&](std::string_view suffix) { return file.find(std::string(prefix).append(suffix)); };
    if (const tensor_info* words = find(".qweight")) {
        const tensor_info* scales = find(".scales");
        // AWQ packs eight outputs into a word, GPTQ inputs; only the first has fewer columns than there are outputs.
        const bool awq = scales != nullptr && words->shape.size() == 2 && scales->shape.size() == 2 &&
                         words->shape[1] != scales->shape[1] && words->shape[1] == scales->shape[1] / 8;
        return awq ? layer_layout::awq : layer_layout::gptq;
    }
    if (const tensor_info* packed = find(".weight_packed")) {
        if (find(".weight_global_scale") != nullptr) return layer_layout::compressed_tensors_nvfp4;
        if (packed->type_name != "U8") return layer_layout::compressed_tensors_packed;
        // Without a number for the whole tensor the scales of blocks are exponents.
        const tensor_info* scale = find(".weight_scale");
        return scale != nullptr && (scale->type_name == "U8" || scale->type_name == "F8_E8M0")
                   ? layer_layout::compressed_tensors_mxfp4
                   : layer_layout::compressed_tensors_nvfp4;
    }
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
    if ((weight->type_name == "I8" || weight->type_name == "F8_E4M3" || weight->type_name == "F8_E5M2") &&
        (find(".weight_scale") != nullptr || find(".weight_scale_inv") != nullptr))
        return layer_layout::compressed_tensors_naive;
    return layer_layout::none;
}

// Every quantized layer of a file, in the file's order. n log n in the number of tensors.
[[nodiscard]] inline std::vector<stored_layer> list_layers(const safetensors_file& file) {
    std::vector<stored_layer> layers;
    for (const tensor_info& tensor : file.tensors())
        for (const std::string_view suffix : {".qweight", ".weight_packed", ".weight._scale", ".weight"}) {
            if (!tensor.name.ends_with(suffix)) continue;
            const std::string_view prefix = tensor.name.substr(0, tensor.name.size() - suffix.size());
            const layer_layout layout = detect_layout(file, prefix);
            // One entry per layer: for the tensor that decided.
            const bool words = layout == layer_layout::gptq || layout == layer_layout::awq;
            const bool packed = layout == layer_layout::compressed_tensors_packed ||
                                layout == layer_layout::compressed_tensors_nvfp4 ||
                                layout == layer_layout::compressed_tensors_mxfp4;
            const bool quanto = layout == layer_layout::quanto;
            const std::string_view decided = words    ? ".qweight"
                                             : packed ? ".weight_packed"
                                             : quanto ? ".weight._scale"
                                                      : ".weight";
            if (layout != layer_layout::none && decided == suffix) layers.push_back({prefix, layout});
        }
    return layers;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
