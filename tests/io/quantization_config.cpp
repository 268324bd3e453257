// quantization_config.cpp: what configurations of every kind tell about layers, and what of it must not be believed.
#include "layer_checks.hpp"

#include <nibble/io/quantization_config.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace nb = nibble;
using namespace nibble_test;

namespace {

using nb::gptq_checkpoint_format;

nb::layer_options told(const std::string& json) {
    nb::layer_options options;
    const nb::status s = nb::parse_quantization_config(json, options);
    INFO(json << ": " << s.message());
    REQUIRE(s.ok());
    return options;
}

// All that a configuration can set, as one line.
std::string text(const nb::layer_options& o) {
    return std::to_string(o.group_size) + " gptq " + std::to_string(o.gptq.bits) + " " +
           std::to_string(o.gptq.group_size) +
           (o.gptq.checkpoint_format == gptq_checkpoint_format::gptq_v2  ? " v2"
            : o.gptq.checkpoint_format == gptq_checkpoint_format::gptq_p ? " p"
                                                                         : "") +
           " awq " +
           (o.awq.version == nb::awq_version::gemv        ? "gemv "
            : o.awq.version == nb::awq_version::gemv_fast ? "gemv_fast "
                                                          : "") +
           std::to_string(o.awq.q_group_size) + " ct " + std::to_string(o.compressed_tensors.num_bits) + " " +
           std::to_string(o.compressed_tensors.group_size) + " naive " + std::to_string(o.naive.group_size) + " " +
           std::to_string(o.naive.block_rows) +
           (o.naive.block_cols != o.naive.block_rows ? "x" + std::to_string(o.naive.block_cols) : "") +
           (o.bitsandbytes.expand_absmax ? " expanded" : "");
}
const std::string nothing = "0 gptq 0 0 awq 0 ct 0 0 naive 0 128";

std::string in_model(const std::string& config) {
    return R"({"architectures":["A"],"bits":3,"group_size":7,"version":"gemv","quantization_config":)" + config + "}";
}
// compressed-tensors: two groups of layers with these weights.
std::string compressed(const std::string& first, const std::string& second) {
    return in_model(
        R"({"quant_method":"compressed-tensors","format":"pack-quantized","ignore":["lm_head"],)"
        R"("config_groups":{"group_0":{"targets":["Linear"],"input_activations":{"num_bits":8,"type":"int",)"
        R"("group_size":32,"strategy":"group"},"output_activations":null,"weights":)" +
        first + R"(},"group_1":{"targets":["re:.*down_proj"],"weights":)" + second + "}}}");
}

} // namespace

TEST_CASE("configurations of every kind tell what the tensors do not", "[io]") {
    CHECK(text(nb::layer_options{}) == nothing);
    // GPTQ: quantize_config.json by itself, then in config.json, as transformers and GPTQModel write them.
    CHECK(text(told(R"({"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": false, "sym": true})")) ==
          "128 gptq 4 0 awq 0 ct 0 0 naive 0 128");
    CHECK(text(told(in_model(R"({"bits":3,"group_size":-1,"quant_method":"gptq","checkpoint_format":"gptq_v2"})"))) ==
          "-1 gptq 3 0 v2 awq 0 ct 0 0 naive 0 128");
    CHECK(text(told(in_model(R"({"bits":4,"group_size":64,"quant_method":"gptq","checkpoint_format":"gptq",)"
                             R"("dynamic":{},"meta":{"quantizer":["gptqmodel:4.0.0"],"group_size":1}})"))) ==
          "64 gptq 4 0 awq 0 ct 0 0 naive 0 128");
    // AWQ: quant_config.json, and config.json.
    CHECK(text(told(R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})")) ==
          "64 gptq 4 0 awq 0 ct 0 0 naive 0 128");
    CHECK(text(told(in_model(R"({"bits":4,"group_size":128,"quant_method":"awq","version":"gemm","zero_point":true,)"
                             R"("modules_to_not_convert":null,"checkpoint_format":"gemm"})"))) ==
          "128 gptq 4 0 awq 0 ct 0 0 naive 0 128");
    // compressed-tensors.
    const std::string group128 = R"({"num_bits":4,"type":"int","strategy":"group","group_size":128,"symmetric":true})";
    const std::string group48 = R"({"num_bits":4,"type":"int","strategy":"group","group_size":48,"symmetric":true})";
    const std::string channel = R"({"num_bits":8,"type":"int","strategy":"channel","group_size":null})";
    const std::string fp8 =
        R"({"num_bits":8,"type":"float","strategy":"block","block_structure":[128,128],"group_size":null})";
    const std::string old_block = R"({"num_bits":8,"type":"float","strategy":"block","block_structure":"64x64"})";
    const std::string nvfp4 = R"({"num_bits":4,"type":"float","strategy":"tensor_group","group_size":16})";
    CHECK(text(told(compressed(group128, group128))) == "0 gptq 0 0 awq 0 ct 4 128 naive 128 128");
    CHECK(text(told(compressed(group48, fp8))) == "0 gptq 0 0 awq 0 ct 4 48 naive 48 128");
    CHECK(text(told(compressed(group48, old_block))) == "0 gptq 0 0 awq 0 ct 4 48 naive 48 64");
    CHECK(text(told(compressed(nvfp4, nvfp4))) == nothing);
    CHECK(text(told(compressed(channel, channel))) == "0 gptq 0 0 awq 0 ct 8 0 naive 0 128");
    CHECK(text(told(compressed("null", group128))) == "0 gptq 0 0 awq 0 ct 4 128 naive 128 128");
    // What differs from layer to layer is told for none: read_layer asks.
    CHECK(text(told(compressed(group128, group48))) == "0 gptq 0 0 awq 0 ct 4 0 naive 0 128");
    CHECK(text(told(compressed(group128, channel))) == nothing);
    CHECK(text(told(in_model(R"({"bits":4,"group_size":128,"quant_method":"gptq","checkpoint_format":"gptq_v2",)"
                             R"("dynamic":{"+:.*\\.18\\..*":{"bits":8,"group_size":64}}})"))) ==
          "0 gptq 0 0 v2 awq 0 ct 0 0 naive 0 128");
    CHECK(text(told(in_model(R"({"bits":4,"group_size":128,"quant_method":"auto-round",)"
                             R"("extra_config":{"lm_head":{"bits":16}}})"))) == nothing);
    CHECK(text(told(in_model(R"({"bits":5,"group_size":64,"quant_method":"gptq","checkpoint_format":"gptq_p"})"))) ==
          "64 gptq 5 0 p awq 0 ct 0 0 naive 0 128");
    CHECK(text(told(R"({"zero_point":true,"q_group_size":64,"w_bit":4,"version":"GEMV"})")) ==
          "64 gptq 4 0 awq gemv 0 ct 0 0 naive 0 128");
    CHECK(text(told(in_model(R"({"quant_method":"awq","bits":4,"group_size":128,"version":"gemv_fast"})"))) ==
          "128 gptq 4 0 awq gemv_fast 0 ct 0 0 naive 0 128");
    // DeepSeek-V3, bitsandbytes, an older name, and a model of several.
    CHECK(text(told(in_model(R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":[64,64]})"))) ==
          "0 gptq 0 0 awq 0 ct 0 0 naive 0 64");
    CHECK(text(told(in_model(R"({"quant_method":"fp8","weight_block_size":[1,128]})"))) ==
          "0 gptq 0 0 awq 0 ct 0 0 naive 0 1x128");
    CHECK(text(told(in_model(R"({"config_groups":{"g":{"weights":{"num_bits":8,"type":"float","strategy":"group",)"
                             R"("group_size":64}}}})"))) == "0 gptq 0 0 awq 0 ct 0 0 naive 64 128");
    CHECK(text(told(in_model(R"({"quant_method":"bitsandbytes","load_in_4bit":true})"))) == nothing);
    CHECK(text(told(R"({"compression_config":{"config_groups":{"g":{"weights":)" + group48 + "}}}}")) ==
          "0 gptq 0 0 awq 0 ct 4 48 naive 48 128");
    CHECK(text(told(R"({"text_config":{"group_size":9,"quantization_config":{"bits":4,"group_size":32}}})")) ==
          "32 gptq 4 0 awq 0 ct 0 0 naive 0 128");
    // Numbers as only Python writes them, escapes, nested values that are not looked at.
    CHECK(text(told(R"({"time_step_limit":[0.0,Infinity],"a":-Infinity,"b":{"c":[NaN]},)"
                    R"("quantization_c\u006fnfig":{"bits":4,"group_\u0073ize":128}})")) ==
          "128 gptq 4 0 awq 0 ct 0 0 naive 0 128");
}

TEST_CASE("a configuration that cannot be used is refused, and changes nothing", "[io]") {
    const auto refused = [](const std::string& json, nb::status_code code, const std::string& fragment) {
        nb::layer_options options{.group_size = 5};
        options.bitsandbytes.expand_absmax = true;
        const nb::status s = nb::parse_quantization_config(json, options);
        INFO(json << ": " << s.message());
        CHECK(s.code() == code);
        CHECK(s.message().find("configuration: ") == 0);
        CHECK(s.message().find(fragment) != std::string::npos);
        CHECK(text(options) == "5 gptq 0 0 awq 0 ct 0 0 naive 0 128 expanded");
    };
    using nb::status_code;
    refused("", status_code::malformed, "JSON at byte 0: expected '{', found the end of the text");
    refused("[]", status_code::malformed, "expected '{', found '['");
    refused("{\"bits\":4,\"group_size\":128", status_code::malformed, "expected '}', found the end of the text");
    refused("{\"bits\":4} x", status_code::malformed, "expected nothing but spaces, found 'x'");
    refused("{\"bits\":4,\"a\":\"\xff\"}", status_code::malformed, "is not valid UTF-8");
    refused("{\"a\":" + std::string(100, '[') + "}", status_code::malformed, "nested too deeply");
    refused(R"({"bits":4,"group_size":"128"})", status_code::malformed,
            "group_size at byte 23: expected a JSON value, found '\"'");
    refused(R"({"bits":4,"group_size":128.5})", status_code::malformed,
            "group_size at byte 23: is no integer of 32 bits");
    refused(R"({"bits":4,"group_size":99999999999})", status_code::malformed, "is no integer of 32 bits");
    refused(R"({"bits":4,"group_size":NaN})", status_code::malformed, "expected a JSON value, found 'N'");
    for (const char* none : {"{}", R"({"hidden_size":64,"group_size":3,"version":"gemv"})",
                             R"({"quantization_config":null,"model_type":"llama"})", R"({"text_config":{"bits":4}})"})
        refused(none, status_code::not_found, "quantization_config");
    refused(in_model(R"({"quant_method":"awq","bits":4,"version":"marlin"})"), status_code::unsupported,
            "'marlin': of AWQ only gemm, gemv and gemv_fast are read");
    refused(R"({"w_bit":4,"q_group_size":128,"version":"Marlin"})", status_code::unsupported,
            "version at byte 30: 'marlin': of AWQ only gemm, gemv and gemv_fast are read");
    refused(in_model(R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})"), status_code::unsupported,
            "'marlin': of GPTQ only gptq, gptq_v2 and gptq_p are read");
    refused(in_model(R"({"quant_method":"fp8","weight_block_size":[128,0]})"), status_code::unsupported,
            "128 x 0 is no size of tiles");
    refused(in_model(R"({"quant_method":"fp8","weight_block_size":[128]})"), status_code::malformed, "expected ','");
    refused(
        compressed(R"({"type":"float","block_structure":[64,64]})", R"({"type":"float","block_structure":[32,32]})"),
        status_code::unsupported, "layers have tiles of different sizes");
}

TEST_CASE("a configuration's file makes a checkpoint's layers readable in one line", "[io]") {
    const std::string path = (std::filesystem::temp_directory_path() / "nibble-config-XXXXXX").string();
    const std::string folder = [&] {
        std::string name = path;
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        return name;
    }();
    const std::string config = folder + "/config.json";
    std::ofstream(config) << compressed(R"({"num_bits":4,"type":"int","strategy":"group","group_size":128})", "null");
    nb::layer_options options;
    const nb::status s = nb::read_quantization_config(config.c_str(), options);
    INFO(s.message());
    REQUIRE(s.ok());
    // 192 columns in groups of 128: two groups, as of 96.
    using list = nb::format_list<nb::named_format<"int4_g128", nb::int4_g128>>;
    check_layer<list>(make_compressed_tensors(1, 8, 192, 4, 128, "F16", true, false),
                      nb::layer_layout::compressed_tensors_packed, options);
    CHECK(nb::read_quantization_config((folder + "/none.json").c_str(), options).code() ==
          nb::status_code::cannot_open);
    std::ofstream(config) << "{}";
    CHECK(nb::read_quantization_config(config.c_str(), options).message().find(config + ": configuration: ") == 0);
    std::filesystem::remove_all(folder);
}
