// awq.hpp: layers of AWQ checkpoints (AutoAWQ's "gemm" version): 4 bits, eight outputs interleaved in a word.
#pragma once

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

// N outputs, K inputs, groups of G inputs:
//   qweight  I32 [K, N / 8]        nibble p (bits 4 p ...) of word c is the code of output 8 c + {0,2,4,6,1,3,5,7}[p]
//   qzeros   I32 [ceil(K / G), N / 8]  zero points, interleaved the same way
//   scales   F16, BF16 or F32 [ceil(K / G), N]
// weight(n, k) = (code - zero) x scale.

// Named as in quant_config. The types and shapes of tensors tell, but for layers of a few hundred inputs.
enum class awq_version { gemm, gemv, gemv_fast };

struct awq_options {
    int q_group_size = 0; // as in quant_config; 0: from the shapes, where one size fits (gemm only); -1: one group
    // Other than gemm: read_layer takes the layers that could be of several versions for this one.
    awq_version version = awq_version::gemm;
};

// Every format that a layer can have: 12 of them.
using awq_formats = asymmetric_integer_formats<4>;

namespace detail {

// Output 8 c + t of a word stands in nibble awq_nibble[t].
inline constexpr table<int, 8> awq_nibble = {{0, 4, 1, 5, 2, 6, 3, 7}};

// words [rows][words] -> streams: the nibbles of output n, one per row of words, from to + n x to_stride on.
inline void unpack_awq(const std::byte* from, std::size_t rows, std::size_t words, std::byte* to,
                       std::size_t to_stride) {
    constexpr std::size_t width = 16;   // words: one cache line
    constexpr std::size_t height = 128; // rows: one cache line of each output's stream
    const std::size_t row_bytes = ceil_div(rows, 2);
    std::uint32_t in[8][width];
    alignas(64) std::uint32_t tile[height / 8][8][width];
    for (std::size_t k = 0; k < rows; k += height) {
        for (std::size_t c = 0; c < words; c += width) {
            const std::size_t n = min_of(width, words - c);
            for (std::size_t step = 0; step < height / 8 && k + 8 * step < rows; ++step) {
                std::memset(in, 0, sizeof in);
                for (std::size_t j = 0; j < 8 && k + 8 * step + j < rows; ++j) {
                    const std::byte* line = from + ((k + 8 * step + j) * words + c) * 4;
                    if (n == width)
                        for (std::size_t i = 0; i < width; ++i) in[j][i] = load_little<std::uint32_t>(line + 4 * i);
                    else
                        for (std::size_t i = 0; i < n; ++i) in[j][i] = load_little<std::uint32_t>(line + 4 * i);
                }
                for (std::size_t t = 0; t < 8; ++t) {
                    const int shift = 4 * awq_nibble.at[t];
                    for (std::size_t i = 0; i < width; ++i) {
                        std::uint32_t word = 0;
                        for (std::size_t j = 0; j < 8; ++j) word |= ((in[j][i] >> shift) & 15u) << (4 * j);
                        tile[step][t][i] = word;
                    }
                }
            }
            const std::size_t bytes = min_of(height / 2, row_bytes - k / 2);
            for (std::size_t i = 0; i < n; ++i)
                for (std::size_t t = 0; t < 8; ++t) {
                    std::byte line[height / 2];
                    for (std::size_t step = 0; step < height / 8; ++step)
                        store_little(line + 4 * step, tile[step][t][i]);
                    std::memcpy(to + (8 * (c + i) + t) * to_stride + k / 2, line, bytes);
                }
        }
    }
}

// The inverse.
inline void pack_awq(const std::byte* from, std::size_t from_stride, std::size_t rows, std::size_t words,
                     std::byte* to) {
    for (std::size_t k = 0; k < rows; ++k)
        for (std::size_t c = 0; c < words; ++c) {
            std::uint32_t word = 0;
            for (std::size_t t = 0; t < 8; ++t) {
                const auto two = static_cast<std::uint32_t>(from[(8 * c + t) * from_stride + k / 2]);
                word |= ((two >> (4 * (k % 2))) & 15u) << (4 * awq_nibble.at[t]);
            }
            store_little(to + (k * words + c) * 4, word);
        }
}

class awq_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;

    [[nodiscard]] bool find(layer_tensors& layer, const awq_options& options) {
        qweight_ = layer.require(".qweight");
        qzeros_ = qweight_ == nullptr ? nullptr : layer.require(".qzeros");
        scales_ = qzeros_ == nullptr ? nullptr : layer.require(".scales");
        if (scales_ == nullptr) return false;
        if (!layer.expect_type(*qweight_, {"I32"}) || !layer.expect_type(*qzeros_, {"I32"}) ||
            !layer.expect_type(*scales_, {"F16", "BF16", "F32"}) || !layer.expect_matrix(*qweight_) ||
            !layer.expect_matrix(*qzeros_) || !layer.expect_matrix(*scales_))
            return false;
        cols = qweight_->shape[0];
        words_ = qweight_->shape[1];
        rows = words_ * 8;
        groups_ = scales_->shape[0];
        if (!layer.expect_shape(*scales_, {groups_, rows}, "eight columns per word of qweight") ||
            !layer.expect_shape(*qzeros_, {groups_, words_}, "rows of scales, columns of qweight"))
            return false;
        std::size_t group = 0;
        if (!layer.group_size(*scales_, cols, groups_, "q_group_size", options.q_group_size, 0, group)) return false;
        format.code = layer_code::unsigned_integer;
        format.bits = 4;
        format.zero = true;
        format.scale = scale_of_type(scales_->type);
        set_groups(format, group, groups_);
        return true;
    }

    void store(const layer_destination& to) const {
        unpack_awq(qweight_->data, cols, words_, to.codes, to.row_bytes);
        transpose(to.scale_bytes, scales_->data, groups_, rows, rows * to.scale_bytes, to.scales,
                  groups_ * to.scale_bytes);
        const std::size_t groups = groups_; // locals: stores of bytes may alias members
        const std::size_t words = words_;
        const std::byte* from = qzeros_->data;
        std::byte* zeros = to.zeros;
        for (std::size_t c = 0; c < words; ++c)
            for (std::size_t g = 0; g < groups; ++g) {
                const auto word = load_little<std::uint32_t>(from + (g * words + c) * 4);
                for (std::size_t t = 0; t < 8; ++t)
                    zeros[(8 * c + t) * groups + g] = static_cast<std::byte>((word >> (4 * awq_nibble.at[t])) & 15u);
            }
    }

private:
    const tensor_info* qweight_ = nullptr;
    const tensor_info* qzeros_ = nullptr;
    const tensor_info* scales_ = nullptr;
    std::size_t words_ = 0;
    std::size_t groups_ = 0;
};

[[nodiscard]] inline status write_awq(const layer_format& format, const layer_source& from, std::string_view prefix,
                                      safetensors_writer& out) {
    status s = check_integer_layer(prefix, "awq", format, from, {});
    if (!s.ok()) return s;
    const std::string what = "layer " + in_quotes(prefix) + ": awq";
    if (format.code != layer_code::unsigned_integer || format.bits != 4)
        return {status_code::unsupported,
                what + " stores 4 bits and zero points: quantize to a scheme of uint4 with integer_zero"};
    if (from.rows % 8 != 0)
        return {status_code::unsupported,
                what + " packs eight outputs into a word, which " + std::to_string(from.rows) + " outputs do not fill"};
    const std::size_t group = format.granularity == layer_granularity::channel ? from.cols : format.size;
    const std::size_t groups = ceil_div(from.cols, group);
    const std::size_t words = from.rows / 8;
    std::vector<std::byte> qweight(from.cols * words * 4);
    pack_awq(from.codes, from.row_bytes, from.cols, words, qweight.data());
    std::vector<std::byte> qzeros(groups * words * 4);
    for (std::size_t g = 0; g < groups; ++g)
        for (std::size_t c = 0; c < words; ++c) {
            std::uint32_t word = 0;
            for (std::size_t t = 0; t < 8; ++t)
                word |= (static_cast<std::uint32_t>(from.zeros[(8 * c + t) * groups + g]) & 15u)
                        << (4 * awq_nibble.at[t]);
            store_little(qzeros.data() + (g * words + c) * 4, word);
        }
    std::vector<std::byte> scales(groups * from.rows * from.scale_bytes);
    transpose(from.scale_bytes, from.scales, from.rows, groups, groups * from.scale_bytes, scales.data(),
              from.rows * from.scale_bytes);
    const std::string name(prefix);
    const std::size_t weight_shape[] = {from.cols, words};
    const std::size_t zero_shape[] = {groups, words};
    const std::size_t scale_shape[] = {groups, from.rows};
    s = out.add(name + ".qweight", "I32", weight_shape, std::move(qweight));
    if (s.ok()) s = out.add(name + ".qzeros", "I32", zero_shape, std::move(qzeros));
    if (s.ok()) s = out.add(name + ".scales", type_of_scale(format.scale), scale_shape, std::move(scales));
    return s;
}

} // namespace detail

// The AWQ layer `prefix` of a file, codes, zero points and scales as stored. `out` stays as it was unless the result is
// ok; errors as those of read_gptq. Reads every byte once; allocates the weights.
template <class List>
[[nodiscard]] status read_awq(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                              const awq_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::awq_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::awq;
    if (!detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                            [&](const detail::layer_destination& to) { tensors.store(to); })) {
        layer.fail(status_code::unsupported, "awq", detail::no_format_text(tensors.format));
        return layer.error();
    }
    out = std::move(result);
    return {};
}

// Adds the tensors of an AWQ layer to a file. unsupported: anything but uint4 with integer zero points, or a number of
// outputs that is not a multiple of 8.
template <any_scheme S>
[[nodiscard]] status write_awq(const quantized<S>& weights, std::string_view prefix, safetensors_writer& out) {
    return detail::write_awq(detail::format_of<S>, detail::sections_of<const std::byte>(weights), prefix, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
