// linear_checkpoints.cpp: what quantized Hugging Face checkpoints hold: GPTQ and AWQ of 4 bits in groups of 128 or 32,
// FP8 with a scale per output. Who runs others adds their formats to the list.
#include "linear_unit.hpp"

namespace {
using formats = nb::format_list<nb::named_format<"int4_g128_asym", nb::int4_g128_asym>,
                                nb::named_format<"int4_g32_asym", nb::int4_g32_asym>,
                                nb::named_format<"fp8_e4m3_channel", nb::fp8_e4m3_channel>>;
} // namespace

weight_unit checkpoint_weights() {
    return weight_unit_of<formats>();
}

nb::status read_checkpoint_layer(const nb::safetensors_model& file, std::string_view name,
                                 const nb::layer_options& options, nb::matrix_view<float> w,
                                 const nb::thread_pool& threads, std::unique_ptr<linear>& out) {
    nb::quantized_layer<formats> layer;
    const nb::status s = nb::read_layer(file, name, layer, options);
    if (!s) return s;
    if (w.empty() && !layer.columns.empty())
        return {nb::status_code::unsupported,
                "layer '" + std::string(name) + "': its columns are in act-order; take --weights to quantize it anew"};
    if (w.empty())
        out = std::make_unique<linear_of<formats>>(nb::pack(layer.weights, threads));
    else if (layer.weights.rows() == w.rows() && layer.weights.cols() == w.cols())
        nb::dequantize_layer(layer, w);
    else
        return {nb::status_code::mismatch,
                "layer '" + std::string(name) + "' has another shape than the configuration says"};
    return s;
}
