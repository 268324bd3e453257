// seeds.cpp: writes the files that the fuzzers begin with: valid ones of every type, and every broken one of the tests.
#include "../io/broken_gguf.hpp"
#include "../io/broken_safetensors.hpp"
#include "../io/io_support.hpp"
#include "../io/layer_makers.hpp"
#include "../io/layer_support.hpp"
#include "../io/packed_support.hpp"

#include <nibble/io/gguf_types.hpp>
#include <nibble/io/safetensors_parser.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using nibble_test::bytes;
using nibble_test::gguf_description;

namespace {

std::vector<bytes> gguf_files() {
    gguf_description valid = nibble_test::valid_gguf();
    std::vector<bytes> files = {valid.write(), nibble_test::small_gguf().write()};
    valid.version = 2;
    files.push_back(valid.write());
    for (const nb::detail::gguf_block& block : nb::detail::gguf_blocks) {
        gguf_description one = nibble_test::small_gguf();
        one.tensors = {{"w", {2 * block.elements, 2}, block.id, 0}};
        one.data.clear();
        for (std::size_t i = 0; i < 2 * (2 * block.bytes + block.row_bytes); ++i)
            one.data.push_back(static_cast<std::byte>(i * 37 + 11));
        files.push_back(one.write());
    }
    gguf_description odd = nibble_test::small_gguf();
    odd.tensors = {{"scalar", {}, 0, 0},
                   {"none", {0}, 2, 4096},
                   {"nothing", {0, 1ull << 62}, 135, 0},
                   {"five", {1, 1, 1, 1, 4}, 0, 0}};
    files.push_back(odd.write());
    for (const std::uint16_t part : {std::uint16_t{0}, std::uint16_t{1}})
        files.push_back(nibble_test::split_part(part, 2, 2, {part == 0 ? "a" : "b"}).write());
    for (const nibble_test::broken_file& broken : nibble_test::broken_gguf_files()) files.push_back(broken.file);
    return files;
}

std::vector<bytes> safetensors_files() {
    std::vector<bytes> files = {nibble_test::valid_safetensors(), nibble_test::safetensors("{}", 0)};
    for (const nb::detail::safetensors_type& type : nb::detail::safetensors_types)
        files.push_back(nibble_test::safetensors(R"({"w":{"dtype":")" + std::string(type.name) +
                                                     R"(","shape":[2,4],"data_offsets":[0,)" +
                                                     std::to_string(type.bits) + "]}}",
                                                 type.bits));
    using namespace nibble_test;
    for (const made_layer& layer : {make_gptq(1, 32, 64, 4, 32, "F16", true, false),
                                    make_gptq(2, 32, 64, 4, 32, "F16", true, true),
                                    make_gptq(3, 32, 32, 3, 32, "BF16", true, false),
                                    make_gptq(4, 16, 32, 2, 32, "F32", true, false),
                                    make_gptq(5, 8, 32, 8, 32, "F16", true, false),
                                    make_gptq_planes(6, 32, 64, 5, 32, "F16", true, false),
                                    without_qzeros(make_gptq(7, 32, 64, 4, 32, "F16", false, false), 4),
                                    make_awq(1, 32, 64, 32, "F16"),
                                    make_awq_gemv(1, 8, 512, 32, "F16"),
                                    make_awq_gemv_fast(1, 8, 64, 32),
                                    make_compressed_tensors(1, 8, 64, 4, 32, "F16", true, false),
                                    make_compressed_tensors(2, 8, 64, 4, 32, "F16", false, true),
                                    make_compressed_tensors(3, 11, 35, 3, 35, "F32", false, false),
                                    make_compressed_tensors_stream(4, 8, 64, 5, 32, "F16", false),
                                    with_plain_zeros(make_compressed_tensors(5, 8, 64, 4, 32, "F16", false, false), 4),
                                    make_naive(1, 8, 64, "I8", {8, 1}, "F16", true, false),
                                    make_naive(2, 8, 64, "I8", {1}, "F32", true, false),
                                    make_naive(3, 8, 64, "I8", {8}, "F32", false, false),
                                    make_naive(4, 8, 64, "F8_E4M3", {1, 1}, "F32", true, true),
                                    make_naive(5, 8, 64, "F8_E5M2", {8}, "BF16", true, false),
                                    make_bitsandbytes(1, 8, 64, true, 64, 0),
                                    make_bitsandbytes(2, 7, 100, false, 64, 0),
                                    make_bitsandbytes(3, 8, 64, true, 64, 256),
                                    make_nvfp4(1, 8, 64, false, 0.5f),
                                    make_nvfp4(2, 8, 64, true, 0.5f),
                                    make_mxfp4(1, 8, 64, "U8"),
                                    make_mxfp4(2, 8, 64, "F8_E8M0"),
                                    make_mxfp8(1, 8, 64, "F8_E4M3", "U8"),
                                    make_gpt_oss(1, 2, 4, 64)})
        files.push_back(layer_file(layer.tensors));
    files.push_back(nibble_test::safetensors(R"({"__metadata__":null})", 0));
    // Configurations, which fuzz_safetensors reads from byte 8 on.
    for (const char* config :
         {R"({"quantization_config":{"bits":4,"group_size":128,"quant_method":"gptq","checkpoint_format":"gptq_v2"}})",
          R"({"zero_point":true,"q_group_size":64,"w_bit":4,"version":"GEMM"})",
          R"({"text_config":{"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}})",
          R"({"quantization_config":{"config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int",)"
          R"("strategy":"group","group_size":128}},"group_1":{"weights":{"block_structure":"64x64"}}}}})"})
        files.push_back(nibble_test::safetensors(config, 0));
    // As deep as an input can be; the broken file that is deeper is too long for one.
    const std::string deep(3500, '[');
    files.push_back(nibble_test::safetensors(R"({"w":{"more":)" + deep + std::string(3500, ']') + "}}", 0));
    for (const nibble_test::broken_file& broken : nibble_test::broken_safetensors_files()) files.push_back(broken.file);
    return files;
}

std::vector<bytes> packed_files() {
    std::vector<bytes> files;
    for (const std::size_t panel_rows : {std::size_t{8}, std::size_t{16}, std::size_t{32}})
        for (bytes& file : nibble_test::packed_files(panel_rows)) files.push_back(std::move(file));
    return files;
}

// Empties the folder first: what an earlier version of this program wrote has no place in it.
bool write_all(const std::filesystem::path& folder, const std::vector<bytes>& files) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    for (std::size_t i = 0; i < files.size(); ++i) {
        std::ofstream file(folder / std::to_string(i), std::ios::binary);
        file.write(reinterpret_cast<const char*>(files[i].data()), static_cast<std::streamsize>(files[i].size()));
        if (!file.flush()) return false;
    }
    std::printf("%s: %zu files\n", folder.filename().c_str(), files.size());
    return true;
}

} // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: %s <folder>\n", arguments[0]);
        return 2;
    }
    const std::filesystem::path folder(arguments[1]);
    return write_all(folder / "gguf", gguf_files()) && write_all(folder / "safetensors", safetensors_files()) &&
                   write_all(folder / "packed", packed_files())
               ? 0
               : 1;
}
