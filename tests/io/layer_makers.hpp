// layer_makers.hpp: more layers made by hand with what their weights are: MXFP8, gpt-oss, planes of GPTQ.
#pragma once

#include "layer_support.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace nibble_test {

// `least` to `least` + 15: the exponents of the scales, with a bias of 127.
inline made_layer make_mxfp8(std::uint64_t seed, std::size_t rows, std::size_t cols, std::string type,
                             std::string scale_type, std::uint32_t least = 112) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t blocks = (cols + 31) / 32;
    bytes weight = random_bytes(random, rows * cols);
    for (std::byte& b : weight) // no NaN and no infinity: the exponent's lowest bit goes
        b &= type == "F8_E5M2" ? std::byte{0xfb} : std::byte{0xf7};
    bytes scales(rows * blocks);
    for (std::byte& b : scales) b = static_cast<std::byte>(least + random.below(16));
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k)
            made.weights[n * cols + k] =
                rounded_product(fp8_value(static_cast<unsigned>(weight[n * cols + k]), type == "F8_E5M2"),
                                std::ldexp(1.0, static_cast<int>(scales[n * blocks + k / 32]) - 127));
    made.tensors = {{"l.weight", type, {rows, cols}, weight}, {"l.weight_scale", scale_type, {rows, blocks}, scales}};
    return made;
}

// `rows` of each of the experts, whose weights lie one below the other.
inline made_layer make_gpt_oss(std::uint64_t seed, std::size_t experts, std::size_t rows, std::size_t cols) {
    made_layer made = make_mxfp4(seed, experts * rows, cols, "U8");
    made.tensors[0].name = "l_blocks";
    made.tensors[0].shape = {experts, rows, cols / 32, 16};
    made.tensors[1].name = "l_scales";
    made.tensors[1].shape = {experts, rows, cols / 32};
    return made;
}

// Code i of planes of 32: the words of each plane lie one behind the other, those of lower bits first, and a word has
// 32 / width codes.
template <class Word> std::uint32_t planar_code(const Word& word, std::size_t i, int bits) {
    std::uint32_t code = 0;
    std::size_t first = i / 32 * static_cast<std::size_t>(bits); // word of the plane
    int shift = 0;
    while (shift < bits) {
        const int width = shift == 0 ? (bits >= 4 ? 4 : 2) : bits - shift >= 2 ? 2 : 1;
        const auto w = static_cast<std::size_t>(width);
        const std::size_t per_word = 32 / w;
        const std::size_t at = i % 32;
        code |= (word(first + at / per_word) >> (w * (at % per_word)) & ((1u << width) - 1u)) << shift;
        first += w;
        shift += width;
    }
    return code;
}

// gptq_p: zeros as stored. Without qzeros they are 2^(bits - 1).
inline made_layer make_gptq_planes(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits, std::size_t group,
                                   std::string scale_type, bool has_qzeros, bool act_order) {
    made_layer made = make_gptq(seed, rows, cols, bits, group, scale_type, true, act_order);
    const bytes& qweight = made.tensors[0].data;
    const bytes& qzeros = made.tensors[1].data;
    const bytes& scales = made.tensors[2].data;
    const std::size_t zero_words = made.tensors[1].shape[1];
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::size_t g = word_at(made.tensors[3].data, k);
            const auto q = planar_code([&](std::size_t w) { return word_at(qweight, w * rows + n); }, k, bits);
            const auto z =
                has_qzeros ? planar_code([&](std::size_t w) { return word_at(qzeros, g * zero_words + w); }, n, bits)
                           : 1u << (bits - 1);
            made.weights[n * cols + k] = rounded_product(static_cast<double>(q) - static_cast<double>(z),
                                                         number_at(scales, scale_type, g * rows + n));
        }
    if (!has_qzeros) made.tensors.erase(made.tensors.begin() + 1);
    return made;
}

// A layer of make_gptq without its qzeros: zero points of 2^(bits - 1).
inline made_layer without_qzeros(made_layer made, int bits) {
    const bytes& scales = made.tensors[2].data;
    for (std::size_t n = 0; n < made.rows; ++n)
        for (std::size_t k = 0; k < made.cols; ++k) {
            const std::size_t g = word_at(made.tensors[3].data, k);
            const auto q = stream_bits([&](std::size_t w) { return word_at(made.tensors[0].data, w * made.rows + n); },
                                       k * static_cast<std::size_t>(bits), bits);
            made.weights[n * made.cols + k] =
                rounded_product(static_cast<double>(q) - static_cast<double>(1u << (bits - 1)),
                                number_at(scales, made.tensors[2].type, g * made.rows + n));
        }
    made.tensors.erase(made.tensors.begin() + 1);
    return made;
}

} // namespace nibble_test
