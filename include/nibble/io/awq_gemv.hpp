// awq_gemv.hpp: layers of AutoAWQ's "gemv" and "gemv_fast" versions: 4 bits, each output's codes by themselves.
#pragma once

#include <nibble/io/awq.hpp>
#include <nibble/io/gptq.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>
#include <nibble/io/transpose.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
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

// N outputs, K inputs, groups of G inputs (a divisor of K: 32, 64, or 128 and more), of which there are K / G, padded
// with zeros to P: a multiple of 8 (G = 64: 16; G = 32: 32). "gemv":
//   qweight  I32 [N, K / 8]  eight inputs per word, the first in the lowest bits
//   qzeros   I32 [N, P / 8]  zero points of eight groups per word, the same way
//   scales   F16, BF16 or F32 [N, P]
// weight(n, k) = (code - zero) x scale. "gemv_fast" (N a multiple of 4, K of 64):
//   qweight  I16 [N / 4, K]  64 words per 4 outputs and 64 inputs, 16 for each output: word u of eight has inputs u, 8
//   + u,
//                            16 + u and 24 + u of 32, the first in the lowest bits
//   qzeros   F16 [P, N]      -zero x scale, rounded
//   scales   F16 [P, N]
// weight(n, k) = fma(scale, code, qzeros).

// Every format of a gemv_fast layer. Those of gemv are awq_formats.
using awq_gemv_fast_formats =
    format_list<named_format<"int4_g128_min_f16", scheme<uint4, per_group<128>, scale<f16>, minimum<f16>>>,
                named_format<"int4_g64_min_f16", scheme<uint4, per_group<64>, scale<f16>, minimum<f16>>>,
                named_format<"int4_g32_min_f16", scheme<uint4, per_group<32>, scale<f16>, minimum<f16>>>,
                named_format<"int4_channel_min_f16", scheme<uint4, per_channel, scale<f16>, minimum<f16>>>>;

namespace detail {

// Columns of scales for `groups` groups of `group` inputs; 0 if there are no such groups.
[[nodiscard]] inline std::size_t padded_groups(std::size_t groups, std::size_t group) noexcept {
    const std::size_t eights = group >= 128 ? 1 : group == 64 ? 2 : group == 32 ? 4 : 0;
    return eights == 0 ? 0 : ceil_div(ceil_div(groups, 8), eights) * eights * 8;
}

// Eight words of 16 bits and a stream of 32 codes of 4.
inline void stream_from_gemv_fast(const std::byte* from, std::byte* to) noexcept {
    std::uint8_t codes[32];
    for (std::size_t u = 0; u < 8; ++u) {
        const auto word = load_little<std::uint16_t>(from + 2 * u);
        for (std::size_t a = 0; a < 4; ++a) codes[8 * a + u] = static_cast<std::uint8_t>(word >> (4 * a) & 15);
    }
    squeeze_codes<4>(codes, 32, as_codes(to));
}
inline void gemv_fast_from_stream(const std::byte* from, std::byte* to) noexcept {
    std::uint8_t codes[32];
    spread_codes<4>(as_codes(from), 32, codes);
    for (std::size_t u = 0; u < 8; ++u) {
        unsigned word = 0;
        for (std::size_t a = 0; a < 4; ++a) word |= static_cast<unsigned>(codes[8 * a + u]) << (4 * a);
        store_little(to + 2 * u, static_cast<std::uint16_t>(word));
    }
}

class awq_gemv_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, bool fast, const awq_options& options) {
        fast_ = fast;
        qweight_ = layer.require(".qweight");
        qzeros_ = qweight_ == nullptr ? nullptr : layer.require(".qzeros");
        scales_ = qzeros_ == nullptr ? nullptr : layer.require(".scales");
        if (scales_ == nullptr || !layer.expect_matrix(*qweight_) || !layer.expect_matrix(*qzeros_) ||
            !layer.expect_matrix(*scales_))
            return false;
        if (fast ? !layer.expect_type(*qweight_, {"I16"}) || !layer.expect_type(*qzeros_, {"F16"}) ||
                       !layer.expect_type(*scales_, {"F16"})
                 : !layer.expect_type(*qweight_, {"I32"}) || !layer.expect_type(*qzeros_, {"I32"}) ||
                       !layer.expect_type(*scales_, {"F16", "BF16", "F32"}))
            return false;
        rows = qweight_->shape[0] * (fast ? 4 : 1);
        cols = qweight_->shape[1] * (fast ? 1 : 8);
        if (fast && cols % 64 != 0)
            return layer.fail(status_code::mismatch, *qweight_,
                              "has " + std::to_string(cols) + " columns, expected a multiple of 64");
        if (options.q_group_size < -1 || options.q_group_size == 0)
            return layer.fail(options.q_group_size == 0 ? status_code::mismatch : status_code::unsupported,
                              "q_group_size",
                              options.q_group_size == 0
                                  ? "is not told, and padding hides it: say that of the checkpoint's configuration "
                                    "(read_quantization_config takes it from there)"
                                  : std::to_string(options.q_group_size) + " is no group size");
        const std::size_t group = options.q_group_size == -1 ? cols : static_cast<std::size_t>(options.q_group_size);
        groups_ = cols / group;
        padded_ = padded_groups(groups_, group);
        if (cols % group != 0 || padded_ == 0)
            return layer.fail(status_code::mismatch, *qweight_,
                              "has " + std::to_string(cols) + " columns, which are no groups of " +
                                  std::to_string(group) + " as AWQ makes them");
        const std::string why = std::to_string(groups_) + " groups of " + std::to_string(group) + ", padded";
        if (fast ? !layer.expect_shape(*scales_, {padded_, rows}, why) ||
                       !layer.expect_shape(*qzeros_, {padded_, rows}, why)
                 : !layer.expect_shape(*scales_, {rows, padded_}, why) ||
                       !layer.expect_shape(*qzeros_, {rows, padded_ / 8}, why))
            return false;
        format.code = layer_code::unsigned_integer;
        format.bits = 4;
        format.zero = !fast;
        format.minimum = fast ? layer_scale::float16 : layer_scale::other;
        format.scale = scale_of_type(scales_->type);
        set_groups(format, group, groups_);
        return true;
    }

    void store(const layer_destination& to) const {
        if (fast_) {
            for (std::size_t n = 0; n < rows; ++n)
                for (std::size_t block = 0; block < cols / 32; ++block)
                    stream_from_gemv_fast(qweight_->data + fast_word(n, block) * 2,
                                          to.codes + n * to.row_bytes + block * 16);
            transpose<2>(scales_->data, groups_, rows, rows * 2, to.scales, groups_ * 2);
            transpose<2>(qzeros_->data, groups_, rows, rows * 2, to.zeros, groups_ * 2);
            return;
        }
        std::memcpy(to.codes, qweight_->data, qweight_->bytes);
        const std::size_t row_scales = groups_ * to.scale_bytes;
        for (std::size_t n = 0; n < rows; ++n) {
            std::memcpy(to.scales + n * row_scales, scales_->data + n * padded_ * to.scale_bytes, row_scales);
            spread_codes<4>(as_codes(qzeros_->data) + n * (padded_ / 2), groups_, as_codes(to.zeros) + n * groups_);
        }
    }

    // Where the words of 32 inputs of an output begin in gemv_fast.
    [[nodiscard]] std::size_t fast_word(std::size_t n, std::size_t block) const noexcept {
        return n / 4 * cols + block / 2 * 64 + n % 4 * 16 + block % 2 * 8;
    }

private:
    const tensor_info* qweight_ = nullptr;
    const tensor_info* qzeros_ = nullptr;
    const tensor_info* scales_ = nullptr;
    std::size_t groups_ = 0;
    std::size_t padded_ = 0;
    bool fast_ = false;
};

template <class List>
[[nodiscard]] status read_awq_gemv(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                   bool fast, const awq_options& options) {
    layer_tensors layer(file, prefix);
    awq_gemv_tensors tensors;
    if (!tensors.find(layer, fast, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = fast ? layer_layout::awq_gemv_fast : layer_layout::awq_gemv;
    if (!make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                    [&](const layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, layout_name(result.layout), no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// What both writers ask of a scheme and its shape; the groups that a row has, and those with padding.
[[nodiscard]] inline status check_awq_gemv(const layer_format& format, const layer_source& from, bool fast,
                                           std::string_view prefix, std::size_t& groups, std::size_t& padded) {
    const std::string what = "layer " + in_quotes(prefix) + ": awq " + (fast ? "gemv_fast" : "gemv");
    const bool granularity_fits =
        format.granularity == layer_granularity::channel || format.granularity == layer_granularity::group;
    const bool scales =
        fast ? format.scale == layer_scale::float16 && format.minimum == layer_scale::float16
             : format.zero && (format.scale == layer_scale::float16 || format.scale == layer_scale::bfloat16 ||
                               format.scale == layer_scale::float32);
    if (format.code != layer_code::unsigned_integer || format.bits != 4 || !granularity_fits || !scales ||
        from.rows == 0 || from.cols == 0)
        return {status_code::unsupported, what + " cannot hold " + format_text(format) + " of " +
                                              shape_text(from.rows, from.cols) +
                                              "; it holds uint4 in groups or rows, " +
                                              (fast ? "with fp16 scales and minimums" : "with integer zero points")};
    const std::size_t group = format.granularity == layer_granularity::channel ? from.cols : format.size;
    groups = from.cols / group;
    padded = padded_groups(groups, group);
    if (from.cols % group != 0 || padded == 0 || from.cols % (fast ? 64 : 8) != 0 || from.rows % (fast ? 4 : 1) != 0)
        return {status_code::unsupported,
                what + " cannot hold " + shape_text(from.rows, from.cols) + " in groups of " + std::to_string(group)};
    return {};
}

[[nodiscard]] inline status write_awq_gemv(const layer_format& format, const layer_source& from,
                                           std::string_view prefix, safetensors_writer& out) {
    std::size_t groups = 0;
    std::size_t padded = 0;
    status s = check_awq_gemv(format, from, false, prefix, groups, padded);
    if (!s.ok()) return s;
    std::vector<std::byte> qzeros(from.rows * (padded / 2));
    std::vector<std::byte> scales(from.rows * padded * from.scale_bytes);
    for (std::size_t n = 0; n < from.rows; ++n) {
        std::memcpy(scales.data() + n * padded * from.scale_bytes, from.scales + n * groups * from.scale_bytes,
                    groups * from.scale_bytes);
        squeeze_codes<4>(as_codes(from.zeros) + n * groups, groups, as_codes(qzeros.data()) + n * (padded / 2));
    }
    const std::string name(prefix);
    const std::size_t weight_shape[] = {from.rows, from.cols / 8};
    const std::size_t zero_shape[] = {from.rows, padded / 8};
    const std::size_t scale_shape[] = {from.rows, padded};
    s = out.add(name + ".qweight", "I32", weight_shape, {from.codes, from.codes + from.rows * from.row_bytes});
    if (s.ok()) s = out.add(name + ".qzeros", "I32", zero_shape, std::move(qzeros));
    if (s.ok()) s = out.add(name + ".scales", type_of_scale(format.scale), scale_shape, std::move(scales));
    return s;
}

[[nodiscard]] inline status write_awq_gemv_fast(const layer_format& format, const layer_source& from,
                                                std::string_view prefix, safetensors_writer& out) {
    std::size_t groups = 0;
    std::size_t padded = 0;
    status s = check_awq_gemv(format, from, true, prefix, groups, padded);
    if (!s.ok()) return s;
    awq_gemv_tensors places;
    places.cols = from.cols;
    std::vector<std::byte> qweight(from.rows * from.cols / 2);
    for (std::size_t n = 0; n < from.rows; ++n)
        for (std::size_t block = 0; block < from.cols / 32; ++block)
            gemv_fast_from_stream(from.codes + n * from.row_bytes + block * 16,
                                  qweight.data() + places.fast_word(n, block) * 2);
    std::vector<std::byte> scales(padded * from.rows * 2);
    std::vector<std::byte> qzeros(padded * from.rows * 2);
    transpose<2>(from.scales, from.rows, groups, groups * 2, scales.data(), from.rows * 2);
    transpose<2>(from.zeros, from.rows, groups, groups * 2, qzeros.data(), from.rows * 2);
    const std::string name(prefix);
    const std::size_t weight_shape[] = {from.rows / 4, from.cols};
    const std::size_t scale_shape[] = {padded, from.rows};
    s = out.add(name + ".qweight", "I16", weight_shape, std::move(qweight));
    if (s.ok()) s = out.add(name + ".qzeros", "F16", scale_shape, std::move(qzeros));
    if (s.ok()) s = out.add(name + ".scales", "F16", scale_shape, std::move(scales));
    return s;
}

} // namespace detail

// The AWQ layer `prefix` of a file in version "gemv" or "gemv_fast": codes, zero points or minimums, and scales as
// stored. options.q_group_size must be told. `out` stays as it was unless the result is ok; errors as those of
// read_gptq. Reads every byte once; allocates the weights.
template <class List>
[[nodiscard]] status read_awq_gemv(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                   const awq_options& options) {
    return detail::read_awq_gemv(file, prefix, out, false, options);
}
template <class List>
[[nodiscard]] status read_awq_gemv_fast(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                                        const awq_options& options) {
    return detail::read_awq_gemv(file, prefix, out, true, options);
}

// Add the tensors of an AWQ layer to a file. unsupported: anything but uint4 with integer zero points (gemv), or with
// fp16 scales and minimums (gemv_fast), and groups and shapes that the version cannot have.
template <any_scheme S>
[[nodiscard]] status write_awq_gemv(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_awq_gemv(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}
template <any_scheme S>
[[nodiscard]] status write_awq_gemv_fast(const quantized<S>& weights, std::string_view prefix,
                                         safetensors_writer& out) {
    return detail::write_awq_gemv_fast(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix,
                                       out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
