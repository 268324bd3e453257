// gpt_oss.hpp: MXFP4 experts as gpt-oss checkpoints store them, one or all of a layer's.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/mxfp4_layer.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// E experts of N outputs and K inputs (a multiple of 32); the layer "model.layers.0.mlp.experts.gate_up_proj":
//   ..._blocks  U8 [E, N, K / 32, 16]  the 32 E2M1 codes of a block; of two in a byte the first is in the low nibble
//   ..._scales  U8 [E, N, K / 32]      E8M0
// OpenAI's own files write .blocks and .scales ("block.0.mlp.mlp1_weight"). weight(e, n, k) = E2M1 x 2^(scale - 127);
// a scale of 255 is NaN. Of gate_up_proj output 2 i is that of the gate, 2 i + 1 of what it gates.

struct gpt_oss_options {
    int expert =
        -1; // the one to read; -1: all of them, one below the other: row e N + n, quantized_layer::experts is E
};

namespace detail {

class gpt_oss_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t experts = 0;

    [[nodiscard]] bool find(layer_tensors& layer, const gpt_oss_options& options) {
        const bool own = layer.find("_blocks") == nullptr && layer.find(".blocks") != nullptr;
        blocks_ = layer.require(own ? ".blocks" : "_blocks");
        scales_ = blocks_ == nullptr ? nullptr : layer.require(own ? ".scales" : "_scales");
        if (scales_ == nullptr) return false;
        if (!layer.expect_type(*blocks_, {"U8"}) || !layer.expect_type(*scales_, {"U8", "F8_E8M0"})) return false;
        const auto& shape = blocks_->shape;
        if (shape.size() != 4 || shape[3] != 16 || blocks_->is_empty())
            return layer.fail(status_code::mismatch, *blocks_,
                              "has shape " + extents_text(shape) +
                                  ", expected experts x outputs x blocks x 16 that is not empty");
        if (!layer.expect_shape(*scales_, {shape[0], shape[1], shape[2]},
                                "one per block of " + std::string(blocks_->name)))
            return false;
        if (options.expert < -1 || (options.expert >= 0 && static_cast<std::size_t>(options.expert) >= shape[0]))
            return layer.fail(status_code::not_found, "expert " + std::to_string(options.expert),
                              "there are " + std::to_string(shape[0]));
        experts = options.expert < 0 ? shape[0] : 1;
        rows = experts * shape[1];
        cols = shape[2] * 32;
        first_ = options.expert < 0 ? 0 : static_cast<std::size_t>(options.expert) * shape[1];
        format = mxfp4_format();
        return true;
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.codes, blocks_->data + first_ * (cols / 2), rows * (cols / 2));
        std::memcpy(to.scales, scales_->data + first_ * (cols / 32), rows * (cols / 32));
    }

private:
    const tensor_info* blocks_ = nullptr;
    const tensor_info* scales_ = nullptr;
    std::size_t first_ = 0; // row
};

[[nodiscard]] inline status write_gpt_oss(const layer_format& format, const layer_source& from, std::size_t experts,
                                          std::string_view prefix, safetensors_writer& out) {
    status s = check_mxfp4(format, from, "gpt-oss", prefix);
    if (!s.ok()) return s;
    if (experts == 0 || from.rows % experts != 0)
        return {status_code::mismatch, "layer " + in_quotes(prefix) + ": gpt-oss: " + std::to_string(from.rows) +
                                           " rows are no " + std::to_string(experts) + " experts of one size"};
    const std::string name(prefix);
    const std::size_t shape[] = {experts, from.rows / experts, from.cols / 32, 16};
    const std::size_t scale_shape[] = {experts, from.rows / experts, from.cols / 32};
    s = out.add(name + "_blocks", "U8", shape, {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + "_scales", "U8", scale_shape, {from.scales, from.scales + from.scale_count});
    return s;
}

} // namespace detail

// The experts of the gpt-oss layer `prefix` of a file, or one of them, as mxfp4, every bit as stored. `out` stays as it
// was unless the result is ok: not_found and mismatch as in read_gptq, not_found for an expert that is not there,
// unsupported if List has no mxfp4. One copy; allocates the weights.
template <class List>
[[nodiscard]] status read_gpt_oss(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                  const gpt_oss_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::gpt_oss_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::gpt_oss;
    result.experts = tensors.experts;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "gpt-oss", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the experts of a layer to a file, their rows one below the other, as transformers names them, scales as U8.
// unsupported: anything but mxfp4 (by whichever rule its scales were found), or a number of columns that is no multiple
// of 32; mismatch: rows that make no such number of experts.
template <any_scheme S>
[[nodiscard]] status write_gpt_oss(const quantized<S>& weights, std::size_t experts, std::string_view prefix,
                                   safetensors_writer& out) {
    return detail::write_gpt_oss(detail::format_of<S>, detail::sections_of<const std::byte>(weights), experts, prefix,
                                 out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
