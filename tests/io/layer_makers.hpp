// layer_makers.hpp: more layers made by hand with what their weights are: MXFP8, gpt-oss, planes of GPTQ, AWQ by
// outputs.
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

// Columns of AutoAWQ's scales and zeros for this many groups.
inline std::size_t awq_gemv_width(std::size_t groups, std::size_t group) {
    const std::size_t multiple = group >= 128 ? 1 : group == 64 ? 2 : 4;
    return ((groups + 7) / 8 + multiple - 1) / multiple * multiple * 8;
}

inline made_layer make_awq_gemv(std::uint64_t seed, std::size_t rows, std::size_t cols, std::size_t group,
                                std::string scale_type) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t groups = cols / group;
    const std::size_t width = awq_gemv_width(groups, group);
    const bytes qweight = random_bytes(random, rows * cols / 2);
    std::vector<std::uint32_t> qzeros(rows * width / 8, 0);
    bytes scales(rows * width * type_bytes(scale_type));
    const bytes own = random_scales(random, scale_type, rows * groups);
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t g = 0; g < groups; ++g) {
            const std::uint32_t z = random.below(16);
            qzeros[n * width / 8 + g / 8] |= z << (4 * (g % 8));
            for (std::size_t b = 0; b < type_bytes(scale_type); ++b)
                scales[(n * width + g) * type_bytes(scale_type) + b] =
                    own[(n * groups + g) * type_bytes(scale_type) + b];
            for (std::size_t k = g * group; k < (g + 1) * group; ++k) {
                const std::uint32_t q = word_at(qweight, n * (cols / 8) + k / 8) >> (4 * (k % 8)) & 15u;
                made.weights[n * cols + k] = rounded_product(static_cast<double>(q) - static_cast<double>(z),
                                                             number_at(own, scale_type, n * groups + g));
            }
        }
    made.tensors = {{"l.qweight", "I32", {rows, cols / 8}, qweight},
                    {"l.qzeros", "I32", {rows, width / 8}, int32_bytes(qzeros)},
                    {"l.scales", scale_type, {rows, width}, scales}};
    return made;
}

// qzeros are minimums here; those of AutoAWQ are -zero x scale.
inline made_layer make_awq_gemv_fast(std::uint64_t seed, std::size_t rows, std::size_t cols, std::size_t group) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t groups = cols / group;
    const std::size_t width = awq_gemv_width(groups, group);
    bytes scales = random_scales(random, "F16", groups * rows);
    bytes minimums = random_scales(random, "F16", groups * rows);
    std::vector<std::uint32_t> words(rows / 4 * cols, 0); // of 16 bits
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::uint32_t q = random.below(16);
            // AutoAWQ's two shuffles: of 32 inputs, written a b c with four, four and two values, the place is b c a.
            // Of tiles of 64 inputs the rows of four outputs follow one another, four places to a word.
            const std::size_t a = k % 32 / 8;
            const std::size_t b = k % 8 / 2;
            const std::size_t c = k % 2;
            const std::size_t place = n % 4 * 64 + k % 64 / 32 * 32 + b * 8 + c * 4 + a;
            words[n / 4 * cols + k / 64 * 64 + place / 4] |= q << (4 * (place % 4));
            const std::size_t slot = k / group * rows + n;
            made.weights[n * cols + k] = static_cast<float>(static_cast<double>(q) * number_at(scales, "F16", slot) +
                                                            number_at(minimums, "F16", slot));
        }
    scales.resize(width * rows * 2);
    minimums.resize(width * rows * 2);
    byte_writer qweight;
    for (const std::uint32_t word : words) qweight.u16(static_cast<std::uint16_t>(word));
    made.tensors = {{"l.qweight", "I16", {rows / 4, cols}, qweight.take()},
                    {"l.qzeros", "F16", {width, rows}, minimums},
                    {"l.scales", "F16", {width, rows}, scales}};
    return made;
}

// E4M3 in tiles; one row of them is groups.
inline made_layer make_fp8_tiles(std::uint64_t seed, std::size_t rows, std::size_t cols, std::size_t tile_rows,
                                 std::size_t tile_cols) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t across = (cols + tile_cols - 1) / tile_cols;
    const std::size_t down = (rows + tile_rows - 1) / tile_rows;
    bytes weight = random_bytes(random, rows * cols);
    for (std::byte& b : weight) b &= std::byte{0xf7}; // no NaN
    const bytes scales = random_scales(random, "F32", down * across);
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k)
            made.weights[n * cols + k] =
                rounded_product(fp8_value(static_cast<unsigned>(weight[n * cols + k]), false),
                                number_at(scales, "F32", n / tile_rows * across + k / tile_cols));
    made.tensors = {{"l.weight", "F8_E4M3", {rows, cols}, weight}, {"l.weight_scale", "F32", {down, across}, scales}};
    return made;
}

// pack-quantized by newer versions of compressed-tensors: code p of a row, and zero point p of a column, in bits p b
// ... of all its words.
inline made_layer make_compressed_tensors_stream(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits,
                                                 std::size_t group, std::string scale_type, bool symmetric) {
    layer_random random(seed);
    const auto b = static_cast<std::size_t>(bits);
    const std::size_t words = (cols * b + 31) / 32;
    const std::size_t zero_rows = (rows * b + 31) / 32;
    const std::size_t groups = (cols + group - 1) / group;
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    std::vector<std::uint32_t> packed(rows * words, 0);
    std::vector<std::uint32_t> zeros(zero_rows * groups, 0);
    const auto put = [&](std::vector<std::uint32_t>& to, std::size_t first, std::size_t stride, std::size_t at,
                         std::uint32_t code) {
        for (std::size_t i = 0; i < b; ++i)
            to[first + (at * b + i) / 32 * stride] |= (code >> i & 1u) << ((at * b + i) % 32);
    };
    const int half = 1 << (bits - 1);
    std::vector<int> z(rows * groups, 0);
    for (std::size_t i = 0; i < z.size() && !symmetric; ++i) {
        const std::uint32_t code = random.below(1u << bits);
        z[i] = static_cast<int>(code) - half;
        put(zeros, i % groups, groups, i / groups, code);
    }
    const bytes scales = random_scales(random, scale_type, rows * groups);
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::uint32_t code = random.below(1u << bits);
            put(packed, n * words, 1, k, code);
            const std::size_t slot = n * groups + k / group;
            made.weights[n * cols + k] =
                rounded_product(static_cast<int>(code) - half - z[slot], number_at(scales, scale_type, slot));
        }
    made.tensors = {{"l.weight_packed", "I32", {rows, words}, int32_bytes(packed)},
                    {"l.weight_scale", scale_type, {rows, groups}, scales},
                    {"l.weight_shape", "I64", {2}, byte_writer().u64(rows).u64(cols).take()}};
    if (!symmetric) made.tensors.push_back({"l.weight_zero_point", "I32", {zero_rows, groups}, int32_bytes(zeros)});
    return made;
}

// A layer of make_compressed_tensors with its zero points as older versions write them: one in each byte, signed.
inline made_layer with_plain_zeros(made_layer made, int bits) {
    layer_tensor& zeros = made.tensors[3];
    const std::size_t groups = zeros.shape[1];
    const auto per_word = static_cast<std::size_t>(32 / bits);
    bytes plain;
    for (std::size_t i = 0; i < made.rows * groups; ++i) {
        const std::size_t n = i / groups;
        const std::uint32_t code =
            word_at(zeros.data, n / per_word * groups + i % groups) >> (n % per_word * static_cast<std::size_t>(bits)) &
            ((1u << bits) - 1u);
        plain.push_back(static_cast<std::byte>((code - (1u << (bits - 1))) & 255u));
    }
    zeros = {"l.weight_zero_point", "I8", {made.rows, groups}, plain};
    return made;
}

} // namespace nibble_test
