// bitsandbytes_layers.cpp: LLM.int8, and 4-bit weights stored as numbers of other types.
#include "layer_checks.hpp"

#include <bit>
#include <cmath>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

// As Linear8bitLt saves it: codes, the largest magnitude of each row, and the order of the codes.
made_layer make_llm_int8(std::uint64_t seed, std::size_t rows, std::size_t cols) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const bytes weight = random_bytes(random, rows * cols);
    const bytes absmax = random_scales(random, "F32", rows);
    const float part = 7.874015718698502e-3f; // the constant in bitsandbytes
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n) {
        const float scale = rounded_product(static_cast<double>(float_at(absmax, n)), static_cast<double>(part));
        for (std::size_t k = 0; k < cols; ++k) {
            const auto code = static_cast<int>(weight[n * cols + k]);
            made.weights[n * cols + k] = rounded_product(code < 128 ? code : code - 256, static_cast<double>(scale));
        }
    }
    made.tensors = {{"l.weight", "I8", {rows, cols}, weight},
                    {"l.SCB", "F32", {rows}, absmax},
                    {"l.weight_format", "U8", {}, bytes(1)}};
    return made;
}

} // namespace

TEST_CASE("LLM.int8 layers keep their bits") {
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
        made_layer made = make_llm_int8(seed, 37, 70);
        const auto layer = check_layer<nb::llm_int8_formats>(made, nb::layer_layout::bitsandbytes_int8);
        CHECK(layer.weights.name() == "llm_int8");
        // A list with fp32 scales alone has the same weights.
        using scales =
            nb::format_list<nb::named_format<"int8_channel_f32", nb::scheme<nb::integer<8, nb::integer_range::full>,
                                                                            nb::per_channel, nb::scale<nb::f32>>>>;
        check_layer<scales>(made, nb::layer_layout::bitsandbytes_int8, {}, false);
        made.tensors.pop_back(); // older versions write no weight_format
        check_layer<nb::llm_int8_formats>(made, nb::layer_layout::bitsandbytes_int8, {}, false);
    }
    nb::safetensors_writer writer;
    CHECK(nb::write_bitsandbytes_int8(nb::quantized<nb::int4_g32>(2, 32), "m", writer).message() ==
          "layer 'm': bitsandbytes int8 cannot hold int4 in groups of 32, fp16 scales of 2 x 32; it holds int8 per "
          "channel, with fp32 scales or those of llm_int8");
}

TEST_CASE("The scales of LLM.int8 are magnitudes that 127 stands for") {
    CHECK(std::bit_cast<float>(nb::absmax_of_127::encode(1.0f)) == 127.0f);
    for (const float x : {0.0f, 1.0f, -3.25e-3f, 1e30f, -1e-30f})
        CHECK(std::fabs(nb::absmax_of_127::decode(nb::absmax_of_127::encode(x)) - x) <= std::fabs(x) * 0x1p-22f);
    CHECK(std::isfinite(nb::absmax_of_127::decode(nb::absmax_of_127::encode(3e38f))));
    CHECK(std::isfinite(nb::absmax_of_127::decode(nb::absmax_of_127::encode(-3e38f))));
}

TEST_CASE("bitsandbytes weights stored as numbers of another type are the same bytes") {
    // 16 x 32: 256 bytes, which are whole numbers of all of these types.
    struct storage {
        const char* type;
        std::size_t bytes;
    };
    for (const storage& stored : {storage{"U8", 1}, {"I8", 1}, {"BF16", 2}, {"F16", 2}, {"F32", 4}, {"F64", 8}})
        for (const std::size_t nested : {0u, 256u}) {
            INFO("quant_storage " << stored.type << ", nested " << nested);
            made_layer made = make_bitsandbytes(6, 16, 32, true, 64, nested);
            made.tensors[0].type = stored.type;
            made.tensors[0].shape = {256 / stored.bytes, 1};
            check_layer<nb::bitsandbytes_block_formats<64>>(made, nb::layer_layout::bitsandbytes, {}, false);
        }
}
