// mx_layers.cpp: MXFP8 layers of compressed-tensors, and the MXFP4 experts of gpt-oss.
#include "layer_checks.hpp"

#include "layer_makers.hpp"

#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

TEST_CASE("MXFP8 layers keep their bits") {
    for (const char* type : {"F8_E4M3", "F8_E5M2"})
        for (const char* scale : {"U8", "F8_E8M0"}) {
            INFO(type << ", scales of " << scale);
            made_layer made = make_mxfp8(7, 33, 96, type, scale);
            // Scales are written as bytes, which is what compressed-tensors writes.
            const auto layer = check_layer<nb::mxfp8_formats>(made, nb::layer_layout::compressed_tensors_mxfp8, {},
                                                              std::string_view(scale) == "U8");
            CHECK(layer.weights.name() == (type == std::string_view("F8_E4M3") ? "mxfp8_e4m3" : "mxfp8_e5m2"));
            // The last block of a row is shorter; the smallest exponents.
            check_layer<nb::mxfp8_formats>(make_mxfp8(8, 5, 70, type, scale, 0),
                                           nb::layer_layout::compressed_tensors_mxfp8, {}, false);
            made.tensors[1].name = "l.weight_scale_inv";
            check_layer<nb::mxfp8_formats>(made, nb::layer_layout::compressed_tensors_mxfp8, {}, false);
        }
    nb::safetensors_writer writer;
    CHECK(nb::write_compressed_tensors_mxfp8(nb::quantized<nb::mxfp4>(2, 32), "m", writer).message() ==
          "layer 'm': mxfp8-quantized cannot hold e2m1 in groups of 32, e8m0 scales of 2 x 32; it holds the schemes "
          "mxfp8_e4m3 and mxfp8_e5m2");
}

TEST_CASE("gpt-oss's experts are read together and one by one") {
    const std::size_t rows = 6;
    const std::size_t cols = 64;
    made_layer made = make_gpt_oss(9, 3, rows, cols);
    const auto all = check_layer<nb::mxfp4_formats>(made, nb::layer_layout::gpt_oss);
    CHECK(all.experts == 3);
    for (const bool own : {false, true}) {
        if (own) { // the names of OpenAI's own files
            made.tensors[0].name = "l.blocks";
            made.tensors[1].name = "l.scales";
            check_layer<nb::mxfp4_formats>(made, nb::layer_layout::gpt_oss, {}, false);
        }
        const bytes file_bytes = layer_file(made.tensors);
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(file_bytes, file).ok());
        for (int expert = 0; expert < 3; ++expert) {
            INFO("expert " << expert);
            nb::layer_options options;
            options.gpt_oss.expert = expert;
            nb::quantized_layer<nb::mxfp4_formats> layer;
            REQUIRE(nb::read_layer(file, "l", layer, options).ok());
            CHECK(layer.experts == 1);
            REQUIRE(layer.weights.rows() == rows);
            std::vector<float> weights(rows * cols);
            nb::dequantize_layer(layer, {weights.data(), rows, cols});
            const auto* from = made.weights.data() + static_cast<std::size_t>(expert) * rows * cols;
            CHECK(same_bits(weights, {from, from + rows * cols}));
        }
        for (const int expert : {-2, 3}) {
            nb::layer_options options;
            options.gpt_oss.expert = expert;
            nb::quantized_layer<nb::mxfp4_formats> layer;
            const nb::status s = nb::read_layer(file, "l", layer, options);
            CHECK(s.code() == nb::status_code::not_found);
            CHECK(s.message() == "layer 'l': expert " + std::to_string(expert) + ": there are 3");
        }
    }
    nb::safetensors_writer writer;
    CHECK(nb::write_gpt_oss(nb::quantized<nb::mxfp4>(7, 32), 2, "m", writer).message() ==
          "layer 'm': gpt-oss: 7 rows are no 2 experts of one size");
    CHECK(nb::write_gpt_oss(nb::quantized<nb::mxfp4>(7, 48), 1, "m", writer).message() ==
          "layer 'm': gpt-oss cannot hold e2m1 in groups of 32, e8m0 scales of 7 x 48; it holds the scheme mxfp4 with "
          "columns in multiples of 32");
}

TEST_CASE("gpt-oss stores two codes in a byte, the first of them low") {
    // 32 codes 0, 1 ... 15, 0 ... as the bytes 0x10, 0x32 ...; a scale of 2^1.
    bytes blocks;
    for (unsigned i = 0; i < 16; ++i) blocks.push_back(static_cast<std::byte>((2 * i & 15) | ((2 * i + 1) & 15) << 4));
    const bytes all =
        layer_file({{"l_blocks", "U8", {1, 1, 1, 16}, blocks}, {"l_scales", "U8", {1, 1, 1}, {std::byte{128}}}});
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<nb::mxfp4_formats> layer;
    REQUIRE(nb::read_layer(file, "l", layer).ok());
    float weights[32];
    nb::dequantize_layer(layer, {weights, 1, 32});
    const float twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12};
    for (std::size_t k = 0; k < 32; ++k) CHECK(weights[k] == twice[k % 16]);
}
