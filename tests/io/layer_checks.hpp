// layer_checks.hpp: what every layout's test asks: the weights bit for bit, the same tensors written, products by
// kernels.
#pragma once

#include "support/catch.hpp"

#include <nibble/any.hpp>
#include <nibble/io/read_layer.hpp>

#include "layer_support.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

namespace nibble_test {

// Reads the layer, compares its weights with the layout's words, writes it and compares the tensors. The layer, for
// more.
template <class List>
nibble::quantized_layer<List> check_layer(const made_layer& made, nibble::layer_layout layout,
                                          const nibble::layer_options& options = {}, bool same_tensors = true) {
    const exact_copy file_bytes(layer_file(made.tensors));
    nibble::safetensors_file file;
    const nibble::status parsed = nibble::safetensors_file::parse(file_bytes.view(), file);
    INFO(parsed.message());
    REQUIRE(parsed.ok());
    CHECK(nibble::detect_layout(file, "l") == layout);
    const std::vector<nibble::stored_layer> listed = nibble::list_layers(file);
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].prefix == "l");
    CHECK(listed[0].layout == layout);

    nibble::quantized_layer<List> layer;
    const nibble::status s = nibble::read_layer(file, "l", layer, options);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(layer.layout == layout);
    REQUIRE(layer.weights.rows() == made.rows);
    REQUIRE(layer.weights.cols() == made.cols);
    INFO(layer.weights.name());
    std::vector<float> weights(made.rows * made.cols);
    nibble::dequantize_layer(layer, {weights.data(), made.rows, made.cols});
    CHECK(same_bits(weights, made.weights));

    nibble::safetensors_writer writer;
    const nibble::status written = nibble::write_layer(layer, "l", writer, options);
    INFO(written.message());
    REQUIRE(written.ok());
    const exact_copy again(writer.bytes());
    nibble::safetensors_file reread;
    REQUIRE(nibble::safetensors_file::parse(again.view(), reread).ok());
    if (same_tensors) CHECK(differences(made.tensors, reread) == "");
    nibble::quantized_layer<List> second;
    REQUIRE(nibble::read_layer(reread, "l", second, options).ok());
    std::vector<float> twice(made.rows * made.cols);
    nibble::dequantize_layer(second, {twice.data(), made.rows, made.cols});
    CHECK(same_bits(twice, made.weights));
    return layer;
}

// x w^T by the kernels, with integers for activations (127 among each token's: exact in int8), against a sum in double.
template <class List> void check_product(const nibble::quantized_layer<List>& layer, const made_layer& made) {
    constexpr std::size_t tokens = 3;
    layer_random random(99);
    std::vector<float> x(tokens * made.cols);
    for (float& value : x) value = static_cast<float>(static_cast<int>(random.below(255)) - 127);
    for (std::size_t m = 0; m < tokens; ++m) x[m * made.cols] = 127.0f;
    std::vector<float> gathered(x.size());
    nibble::gather_columns({x.data(), tokens, made.cols}, layer.columns, {gathered.data(), tokens, made.cols});
    const auto packed = nibble::pack(layer.weights);
    std::vector<float> y(tokens * made.rows);
    nibble::gemm_options options;
    options.activations.scale = nibble::activation_scale::per_token; // only the first column's group has its 127
    nibble::gemm({gathered.data(), tokens, made.cols}, packed, nibble::matrix_view<float>{y.data(), tokens, made.rows},
                 nibble::identity{}, options);
    std::size_t wrong = 0;
    for (std::size_t m = 0; m < tokens; ++m)
        for (std::size_t n = 0; n < made.rows; ++n) {
            double sum = 0.0;
            double magnitude = 0.0;
            for (std::size_t k = 0; k < made.cols; ++k) {
                const double term =
                    static_cast<double>(x[m * made.cols + k]) * static_cast<double>(made.weights[n * made.cols + k]);
                sum += term;
                magnitude += std::fabs(term);
            }
            // Codes of both signs may cancel inside of a group, whose sum of magnitudes is up to 2^b / |q - z| times
            // larger: the bound takes the largest code. One rounding per column, and three of the scales.
            const double bound = (static_cast<double>(made.cols) + 8.0) * 0x1p-23 * (magnitude + 1e-30);
            if (!(std::fabs(static_cast<double>(y[m * made.rows + n]) - sum) <= bound)) ++wrong;
        }
    CHECK(wrong == 0);
}

} // namespace nibble_test
