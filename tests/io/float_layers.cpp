// float_layers.cpp: bitsandbytes NF4 and FP4 with and without double quantization, NVFP4 of both conventions.
#include "layer_checks.hpp"

#include "mx_layer_support.hpp"

namespace nb = nibble;
using namespace nibble_test;

TEST_CASE("bitsandbytes layers keep their bits") {
    std::uint64_t seed = 400;
    for (const bool is_nf4 : {true, false})
        for (const std::size_t block : {64u, 128u})
            for (const std::size_t nested : {0u, 256u}) {
                INFO((is_nf4 ? "nf4" : "fp4") << ", blocks of " << block << ", nested " << nested);
                // 300 x 256: 1200 or 600 blocks, 5 or 3 of nested ones, the last of each shorter.
                const made_layer made = make_bitsandbytes(++seed, 300, 256, is_nf4, block, nested);
                const auto layer =
                    check_layer<nb::bitsandbytes_formats>(made, nb::layer_layout::bitsandbytes, {}, false);
                CHECK(layer.weights.name() ==
                      std::string(is_nf4 ? "nf4_b" : "fp4_b") + std::to_string(block) + (nested != 0 ? "_nested" : ""));
                // All but the JSON, which may be spelt in other ways.
                nb::safetensors_writer writer;
                REQUIRE(nb::write_layer(layer, "l", writer).ok());
                const auto all = writer.bytes();
                nb::safetensors_file file;
                REQUIRE(nb::safetensors_file::parse(all, file).ok());
                for (const layer_tensor& tensor : made.tensors) {
                    INFO(tensor.name);
                    const nb::tensor_info* found = file.find(tensor.name);
                    REQUIRE(found != nullptr);
                    CHECK(found->type_name == tensor.type);
                    if (tensor.name.find("quant_state") != std::string::npos) continue;
                    CHECK(found->shape == tensor.shape);
                    // -0 of FP4 is written as +0 or not, by whoever makes the map.
                    if (tensor.name != "l.weight.quant_map")
                        CHECK(std::memcmp(found->data, tensor.data.data(), tensor.data.size()) == 0);
                }
            }
}

TEST_CASE("bitsandbytes blocks that straddle rows") {
    for (const std::size_t cols : {1u, 3u, 20u, 63u, 65u, 100u})
        for (const std::size_t nested : {0u, 256u}) {
            INFO(cols << " inputs, nested " << nested);
            const made_layer made = make_bitsandbytes(cols, 37, cols, true, 64, nested);
            const auto layer = check_layer<nb::bitsandbytes_formats>(made, nb::layer_layout::bitsandbytes, {}, false);
            if (cols % 4 == 0) check_product(layer, made);
        }
    // Groups of a row do not do there.
    const bytes all = layer_file(make_bitsandbytes(1, 37, 100, true, 64, 0).tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    using groups =
        nb::format_list<nb::named_format<"nf4_rows", nb::scheme<nb::nf4, nb::per_group<64>, nb::scale<nb::f32>>>>;
    nb::quantized_layer<groups> layer;
    const nb::status s = nb::read_layer(file, "l", layer);
    CHECK(s.code() == nb::status_code::unsupported);
    CHECK(s.message().find(
              "the list of formats has none that holds nf4 in blocks of 64 weights of the flattened matrix") !=
          std::string::npos);
    check_layer<groups>(make_bitsandbytes(2, 37, 128, true, 64, 0), nb::layer_layout::bitsandbytes, {}, false);
}

TEST_CASE("bitsandbytes absmax is expanded where its codes cannot be kept, and where that is asked for") {
    nb::layer_options options;
    options.bitsandbytes.expand_absmax = true;
    const made_layer made = make_bitsandbytes(5, 300, 256, true, 64, 256);
    CHECK(check_layer<nb::bitsandbytes_formats>(made, nb::layer_layout::bitsandbytes, options, false).weights.name() ==
          "nf4_b64");
    // One entry of the map is another: the weights are still those of the file.
    const made_layer nudged = make_bitsandbytes(5, 300, 256, true, 64, 256, true);
    CHECK(!same_bits(nudged.weights, made.weights));
    CHECK(check_layer<nb::bitsandbytes_formats>(nudged, nb::layer_layout::bitsandbytes, {}, false).weights.name() ==
          "nf4_b64");
    // Blocks of another size.
    const made_layer blocks = make_bitsandbytes(5, 300, 256, true, 64, 32);
    CHECK(check_layer<nb::bitsandbytes_formats>(blocks, nb::layer_layout::bitsandbytes, {}, false).weights.name() ==
          "nf4_b64");
}

TEST_CASE("bitsandbytes layers run on the kernels") {
    for (const bool is_nf4 : {true, false})
        for (const std::size_t nested : {0u, 256u}) {
            INFO((is_nf4 ? "nf4" : "fp4") << ", nested " << nested);
            const made_layer made = make_bitsandbytes(3, 300, 256, is_nf4, 64, nested);
            check_product(check_layer<nb::bitsandbytes_formats>(made, nb::layer_layout::bitsandbytes, {}, false), made);
        }
}

TEST_CASE("NVFP4 layers keep their bits, whichever way the global scale goes") {
    for (const float global : {0.00119047623f, 839.9999f, 1.0f, 3.0f, 1e-20f}) {
        INFO("global scale " << global);
        const made_layer times = make_nvfp4(7, 33, 80, false, global);
        CHECK(check_layer<nb::nvfp4_formats>(times, nb::layer_layout::modelopt_nvfp4).weights.name() == "nvfp4");
        const made_layer divided = make_nvfp4(8, 33, 80, true, global);
        CHECK(check_layer<nb::nvfp4_formats>(divided, nb::layer_layout::compressed_tensors_nvfp4).weights.name() ==
              "nvfp4_divided");
        // A list with nvfp4 alone has the same weights.
        using alone = nb::format_list<nb::named_format<"nvfp4", nb::nvfp4>>;
        const auto layer = check_layer<alone>(divided, nb::layer_layout::compressed_tensors_nvfp4, {}, false);
        if (global > 1e-10f) {
            check_product(layer, divided);
            check_product(check_layer<nb::nvfp4_formats>(divided, nb::layer_layout::compressed_tensors_nvfp4), divided);
        }
    }
}

TEST_CASE("bitsandbytes blocks of every size that it makes, 32 to 4096") {
    const auto check = []<std::size_t Block>() {
        for (const bool is_nf4 : {true, false})
            for (const std::size_t nested : {0u, 256u}) {
                INFO((is_nf4 ? "nf4" : "fp4") << ", blocks of " << Block << ", nested " << nested);
                const made_layer made = make_bitsandbytes(Block, 37, 448, is_nf4, Block, nested);
                const auto layer =
                    check_layer<nb::bitsandbytes_block_formats<Block>>(made, nb::layer_layout::bitsandbytes, {}, false);
                CHECK(layer.weights.name() ==
                      std::string(is_nf4 ? "nf4_b" : "fp4_b") + std::to_string(Block) + (nested != 0 ? "_nested" : ""));
            }
    };
    check.template operator()<32>();
    check.template operator()<256>();
    check.template operator()<512>();
    check.template operator()<1024>();
    check.template operator()<2048>();
    check.template operator()<4096>();
    // Kernels, for rows that hold several blocks and for blocks that hold several rows.
    using formats = nb::format_list<nb::named_format<"nf4_b256", nb::bitsandbytes_scheme<nb::nf4, 256>>,
                                    nb::named_format<"nf4_b4096", nb::bitsandbytes_scheme<nb::nf4, 4096>>>;
    for (const std::size_t block : {256u, 4096u}) {
        const made_layer made = make_bitsandbytes(block, 37, 512, true, block, 0);
        check_product(check_layer<formats>(made, nb::layer_layout::bitsandbytes, {}, false), made);
    }
}

TEST_CASE("MXFP4 layers keep their bits") {
    for (const char* scale : {"U8", "F8_E8M0"}) {
        const made_layer made = make_mxfp4(7, 33, 96, scale);
        // Scales are written as bytes, which is what compressed-tensors writes.
        const auto layer = check_layer<nb::mxfp4_formats>(made, nb::layer_layout::compressed_tensors_mxfp4, {},
                                                          std::string_view(scale) == "U8");
        CHECK(layer.weights.name() == "mxfp4");
        check_product(layer, made);
        // The smallest exponents and the largest: subnormal weights, and finite ones up to 2^128.
        for (const std::uint32_t least : {0u, 237u})
            check_layer<nb::mxfp4_formats>(make_mxfp4(8, 5, 64, scale, least),
                                           nb::layer_layout::compressed_tensors_mxfp4, {}, false);
    }
    // Any rule that finds the scales makes the same format.
    nb::safetensors_writer writer;
    REQUIRE(nb::write_compressed_tensors_mxfp4(nb::quantized<nb::mxfp4_rounded>(2, 32), "l", writer).ok());
    const auto message = [&](const auto& q) { return nb::write_compressed_tensors_mxfp4(q, "m", writer).message(); };
    CHECK(
        message(nb::quantized<nb::mxfp4>(2, 48)) ==
        "layer 'm': mxfp4-pack-quantized cannot hold e2m1 in groups of 32, e8m0 scales of 2 x 48; it holds the scheme "
        "mxfp4 with columns in multiples of 32");
    CHECK(message(nb::quantized<nb::nvfp4>(2, 32)).find("mxfp4-pack-quantized cannot hold e2m1 in groups of 16") !=
          std::string::npos);
    CHECK(message(nb::quantized<nb::mxfp8_e4m3>(2, 32)).find("cannot hold e4m3 in groups of 32") != std::string::npos);
}

TEST_CASE("A file of several layouts lists its layers") {
    std::vector<layer_tensor> tensors;
    const auto add = [&](const char* name, const made_layer& made) {
        for (layer_tensor tensor : made.tensors) {
            tensor.name = name + tensor.name.substr(1);
            tensors.push_back(tensor);
        }
    };
    add("gptq", make_gptq(1, 32, 64, 4, 32, "F16", true, false));
    add("awq", make_awq(1, 32, 64, 32, "F16"));
    add("packed", make_compressed_tensors(1, 8, 64, 4, 32, "F16", true, false));
    add("naive", make_naive(1, 8, 64, "I8", {8, 1}, "F16", true, false));
    add("bitsandbytes", make_bitsandbytes(1, 8, 64, true, 64, 0));
    add("times", make_nvfp4(1, 8, 64, false, 0.5f));
    add("divided", make_nvfp4(1, 8, 64, true, 0.5f));
    add("exponents", make_mxfp4(1, 8, 64, "U8"));
    add("bytes", make_mxfp8(1, 8, 64, "F8_E4M3", "U8"));
    add("experts", make_gpt_oss(1, 2, 4, 64));
    tensors.push_back({"norm.weight", "F32", {4}, bytes(16)});
    tensors.push_back({"unknown.weight", "U8", {4}, bytes(4)});
    const bytes all = layer_file(tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    std::string text;
    for (const nb::stored_layer& layer : nb::list_layers(file))
        text += std::string(layer.prefix) + ": " + std::string(nb::layout_name(layer.layout)) + "\n";
    CHECK(text ==
          "gptq: gptq\nawq: awq\npacked: compressed-tensors pack-quantized\nnaive: compressed-tensors naive-quantized\n"
          "bitsandbytes: bitsandbytes\ntimes: modelopt nvfp4\ndivided: compressed-tensors nvfp4-pack-quantized\n"
          "exponents: compressed-tensors mxfp4-pack-quantized\nbytes: compressed-tensors mxfp8-quantized\n"
          "experts: gpt-oss\n");
    nb::quantized_layer<nb::nvfp4_formats> layer;
    const nb::status s = nb::read_layer(file, "norm", layer);
    CHECK(s.code() == nb::status_code::not_found);
    CHECK(s.message() == "layer 'norm': the file has no tensors of that name in a quantized layout; list_layers tells "
                         "which layers it has");
    nb::safetensors_writer writer;
    CHECK(nb::write_layer(layer, "norm", writer).message() ==
          "layer 'norm': is empty, or has no layout to be written in");
}
