// mx_layer_support.hpp: layers of MXFP8, and gpt-oss's experts, made by hand with what their weights are.
#pragma once

#include "layer_support.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
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

} // namespace nibble_test
