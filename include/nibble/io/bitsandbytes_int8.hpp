// bitsandbytes_int8.hpp: 8-bit layers of bitsandbytes (LLM.int8): a byte per weight, the largest magnitude per output.
#pragma once

#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>
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

// N outputs, K inputs:
//   weight         I8 [N, K]
//   SCB            F32 [N]: the largest magnitude of each output, which the code 127 stands for
//   weight_format  U8, one number, optional: 0, the others being orders that older versions kept for GPUs
// weight(n, k) = code x (SCB x (1 / 127)), each step rounded to fp32, 1 / 127 too. What bitsandbytes does with the few
// activations that are outliers changes no weight.

// An fp32 number that stands for its 127th part: decode(c) is c x (1 / 127).
struct absmax_of_127 {
    static constexpr int bits = 32;
    using code = std::uint32_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        return detail::bit_cast<float>(c) * (1.0f / 127.0f);
    }
    // 127 x; the largest finite number where that is beyond fp32.
    template <rounding = rounding::nearest_even, overflow = overflow::special>
    [[nodiscard]] static constexpr code encode(float x, std::uint32_t = 0) noexcept {
        constexpr float largest = 0x1.fffffep127f;
        constexpr float limit = largest / 127.0f;
        const bool finite = x >= -largest && x <= largest;
        const float absmax = finite && x > limit ? largest : finite && x < -limit ? -largest : x * 127.0f;
        return detail::bit_cast<code>(absmax);
    }
};

// What such a layer is, bit by bit. symmetric_integer_formats<8> holds the same weights with fp32 scales.
using llm_int8 = scheme<integer<8, integer_range::full>, per_channel, scale<absmax_of_127>>;
using llm_int8_formats = format_list<named_format<"llm_int8", llm_int8>>;

namespace detail {

template <class Rule> inline constexpr layer_scale scale_of<scale<absmax_of_127, Rule>> = layer_scale::absmax_of_127;

class llm_int8_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer) {
        weight_ = layer.require(".weight");
        absmax_ = weight_ == nullptr ? nullptr : layer.require(".SCB");
        if (absmax_ == nullptr) return false;
        if (!layer.expect_type(*weight_, {"I8"}) || !layer.expect_type(*absmax_, {"F32"}) ||
            !layer.expect_matrix(*weight_))
            return false;
        rows = weight_->shape[0];
        cols = weight_->shape[1];
        if (!layer.expect_shape(*absmax_, {rows}, "one per row of " + std::string(weight_->name))) return false;
        if (const tensor_info* order = layer.find(".weight_format")) {
            if (!layer.expect_type(*order, {"U8"}) || !layer.expect_one(*order)) return false;
            if (order->data[0] != std::byte{0})
                return layer.fail(status_code::unsupported, *order,
                                  "is " + std::to_string(static_cast<unsigned>(order->data[0])) +
                                      ", an order of older versions for GPUs: only rows (0) are read");
        }
        format.code = layer_code::signed_integer;
        format.bits = 8;
        format.granularity = layer_granularity::channel;
        format.scale = layer_scale::absmax_of_127;
        return true;
    }

    void store(const layer_destination& to) const {
        std::memcpy(to.codes, weight_->data, weight_->bytes);
        std::memcpy(to.scales, absmax_->data, absmax_->bytes);
    }
    void store_scales(const layer_destination& to) const {
        store(to);
        for (std::size_t n = 0; n < rows; ++n)
            store_little(to.scales + 4 * n, absmax_of_127::decode(load_little<std::uint32_t>(absmax_->data + 4 * n)));
    }

private:
    const tensor_info* weight_ = nullptr;
    const tensor_info* absmax_ = nullptr;
};

// A number whose 127th part is `scale` just so; false if there is none.
[[nodiscard]] inline bool find_absmax(float scale, std::uint32_t& out) noexcept {
    const std::uint32_t nearest = absmax_of_127::encode(scale);
    for (std::uint32_t i = 0; i < 9; ++i) { // itself and its neighbours
        out = nearest + i - 4;
        if (bit_cast<std::uint32_t>(absmax_of_127::decode(out)) == bit_cast<std::uint32_t>(scale)) return true;
    }
    return false;
}

[[nodiscard]] inline status write_llm_int8(const layer_format& format, const layer_source& from,
                                           std::string_view prefix, safetensors_writer& out) {
    const std::string what = "layer " + in_quotes(prefix) + ": bitsandbytes int8";
    const bool absmax = format.scale == layer_scale::absmax_of_127;
    if (format.code != layer_code::signed_integer || format.bits != 8 ||
        format.granularity != layer_granularity::channel || format.zero ||
        !(absmax || format.scale == layer_scale::float32) || from.rows == 0 || from.cols == 0)
        return {status_code::unsupported, what + " cannot hold " + format_text(format) + " of " +
                                              shape_text(from.rows, from.cols) +
                                              "; it holds int8 per channel, with fp32 scales or those of llm_int8"};
    std::vector<std::byte> scales(from.scales, from.scales + from.rows * 4);
    for (std::size_t n = 0; n < from.rows && !absmax; ++n) {
        std::uint32_t code = 0;
        if (!find_absmax(load_little<float>(from.scales + 4 * n), code))
            return {status_code::unsupported, what + " cannot store the scale of output " + std::to_string(n) +
                                                  ": no fp32 number has it as its 127th part"};
        store_little(scales.data() + 4 * n, code);
    }
    const std::string name(prefix);
    const std::size_t shape[] = {from.rows, from.cols};
    const std::size_t scale_shape[] = {from.rows};
    status s = out.add(name + ".weight", "I8", shape, {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + ".SCB", "F32", scale_shape, std::move(scales));
    if (s.ok()) s = out.add(name + ".weight_format", "U8", {}, std::vector<std::byte>(1));
    return s;
}

} // namespace detail

// The LLM.int8 layer `prefix` of a file as llm_int8, every bit as stored, if List has it, else as int8 per channel with
// SCB x (1 / 127) for its scales: the weights are the same bit for bit. `out` stays as it was unless the result is ok:
// not_found and mismatch as in read_gptq, unsupported for another weight_format, or if List has neither. One copy;
// allocates the weights.
template <class List>
[[nodiscard]] status read_bitsandbytes_int8(const tensor_source& file, std::string_view prefix,
                                            quantized_layer<List>& out) {
    detail::layer_tensors layer(file, prefix);
    detail::llm_int8_tensors tensors;
    if (!tensors.find(layer)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::bitsandbytes_int8;
    bool made = detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                                   [&](const detail::layer_destination& to) { tensors.store(to); });
    if (!made) {
        detail::layer_format scales = tensors.format;
        scales.scale = detail::layer_scale::float32;
        made = detail::make_layer(scales, tensors.rows, tensors.cols, result.weights,
                                  [&](const detail::layer_destination& to) { tensors.store_scales(to); });
    }
    if (!made) {
        layer.fail(status_code::unsupported, "bitsandbytes int8", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the tensors of an LLM.int8 layer to a file. unsupported: anything but int8 per channel, and an fp32 scale that
// is no 127th part of an fp32 number.
template <any_scheme S>
[[nodiscard]] status write_bitsandbytes_int8(const quantized<S>& weights, std::string_view prefix,
                                             safetensors_writer& out) {
    return detail::write_llm_int8(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
