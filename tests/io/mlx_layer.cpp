// mlx_layer.cpp: layers as mlx_lm.convert writes them, against the sums of MLX's own description, and what config.json
// says of them.
#include "layer_checks.hpp"

#include <nibble/io/quantization_config.hpp>

#include <bit>
#include <cmath>

namespace nb = nibble;
using namespace nibble_test;

namespace {

made_layer make_affine(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits, std::size_t group,
                       std::string type) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t words = cols * static_cast<std::size_t>(bits) / 32, groups = cols / group;
    const bytes weight = random_bytes(random, 4 * rows * words);
    const bytes scales = random_scales(random, type, rows * groups),
                biases = random_scales(random, type, rows * groups);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const auto q = stream_bits([&](std::size_t w) { return word_at(weight, n * words + w); },
                                       k * static_cast<std::size_t>(bits), bits);
            const std::size_t slot = n * groups + k / group; // exact in double, so rounded once as the fused sum is
            made.weights.push_back(
                static_cast<float>(number_at(scales, type, slot) * q + number_at(biases, type, slot)));
        }
    made.tensors = {{"l.weight", "U32", {rows, words}, weight},
                    {"l.scales", type, {rows, groups}, scales},
                    {"l.biases", type, {rows, groups}, biases}};
    return made;
}

made_layer make_float(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits, std::size_t group) {
    constexpr double e2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t words = cols * static_cast<std::size_t>(bits) / 32, groups = cols / group;
    bytes weight = random_bytes(random, 4 * rows * words);
    if (bits == 8)
        for (std::byte& b : weight) b &= std::byte{0xf7}; // no NaN
    bytes scales;
    for (std::size_t i = 0; i < rows * groups; ++i)
        scales.push_back(static_cast<std::byte>(group == 16 ? random.below(0x7f) : 110 + random.below(20)));
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const auto q = stream_bits([&](std::size_t w) { return word_at(weight, n * words + w); },
                                       k * static_cast<std::size_t>(bits), bits);
            const auto s = static_cast<unsigned>(scales[n * groups + k / group]);
            const double scale = group == 16 ? fp8_value(s, false) : std::ldexp(1.0, static_cast<int>(s) - 127);
            made.weights.push_back(rounded_product(bits == 8 ? fp8_value(q, false) : e2m1[q], scale));
        }
    made.tensors = {{"l.weight", "U32", {rows, words}, weight}, {"l.scales", "U8", {rows, groups}, scales}};
    return made;
}

nb::status read(const made_layer& made, const nb::layer_options& options = {}) {
    const exact_copy all(layer_file(made.tensors));
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all.view(), file).ok());
    nb::quantized_layer<nb::format_list<nb::named_format<"mxfp4", nb::mxfp4>>> layer;
    return nb::read_mlx(file, "l", layer, options.mlx);
}

} // namespace

TEST_CASE("MLX layers of every number of bits keep theirs", "[io]") {
    const auto check = []<int Bits>() {
        std::uint64_t seed = Bits * 100;
        for (const std::size_t group : {32u, 64u, 128u})
            for (const char* type : {"F16", "BF16", "F32"}) {
                INFO(Bits << " bits, groups of " << group << ", " << type);
                const made_layer made = make_affine(++seed, 5, 384, Bits, group, type);
                nb::layer_options options;
                options.mlx.bits = Bits;
                const auto layer = check_layer<nb::mlx_affine_formats<Bits>>(made, nb::layer_layout::mlx, options);
                CHECK(layer.weights.name() == "int" + std::to_string(Bits) + "_g" + std::to_string(group) + "_min_" +
                                                  (type[0] == 'B'   ? "bf16"
                                                   : type[1] == '1' ? "f16"
                                                                    : "f32"));
            }
    };
    check.template operator()<2>();
    check.template operator()<3>();
    check.template operator()<4>();
    check.template operator()<5>();
    check.template operator()<6>();
    check.template operator()<8>();
}

TEST_CASE("MLX's float modes keep their bits", "[io]") {
    CHECK(check_layer<nb::mlx_float_formats>(make_float(1, 7, 96, 4, 32), nb::layer_layout::mlx).weights.name() ==
          "mxfp4");
    CHECK(check_layer<nb::mlx_float_formats>(make_float(2, 7, 96, 8, 32), nb::layer_layout::mlx).weights.name() ==
          "mxfp8_e4m3");
    CHECK(check_layer<nb::mlx_float_formats>(make_float(3, 7, 96, 4, 16), nb::layer_layout::mlx).weights.name() ==
          "nvfp4");
    // A scale of the tensor has no place there.
    nb::quantized<nb::nvfp4> q(2, 32);
    q.outer_scales()[0] = std::bit_cast<std::uint32_t>(0.5f);
    nb::safetensors_writer writer;
    CHECK(nb::write_mlx(q, "l", writer).code() == nb::status_code::mismatch);
    CHECK(nb::write_mlx(nb::quantized<nb::int4_g32>(2, 32), "l", writer).code() == nb::status_code::unsupported);
    CHECK(nb::write_mlx(nb::quantized<nb::q4_k>(2, 256), "l", writer).code() == nb::status_code::unsupported);
}

TEST_CASE("config.json says bits and groups of MLX layers, and of single ones", "[io]") {
    nb::layer_options options;
    const nb::status s = nb::parse_quantization_config(
        R"({"quantization":{"group_size":64,"bits":4,"mode":"affine","l":{"group_size":32,"bits":8},"lm_head":false},)"
        R"("quantization_config":{"group_size":64,"bits":4,"mode":"affine","l":{"group_size":32,"bits":8}}})",
        options);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(options.mlx.group_size == 64);
    CHECK(options.mlx.bits == 4);
    REQUIRE(options.mlx.layers.size() == 1);
    CHECK(options.mlx.layers[0].name == "l");
    CHECK(options.mlx.layers[0].group_size == 32);
    CHECK(options.mlx.layers[0].bits == 8);
    // 8 words a group are 4 bits in 64, 8 in 32 and 2 in 128: the layer's own numbers count.
    check_layer<nb::mlx_affine_formats<8>>(make_affine(1, 3, 128, 8, 32, "BF16"), nb::layer_layout::mlx, options);
    CHECK(nb::parse_quantization_config(R"({"quantization":{"bits":4,"mode":"trellis"}})", options).code() ==
          nb::status_code::unsupported);
    // Another tool's object of that name.
    CHECK(nb::parse_quantization_config(R"({"quantization":{"quant_algo":"NVFP4","group_size":16}})", options).code() ==
          nb::status_code::not_found);
    CHECK(options.mlx.layers.size() == 1);
}

TEST_CASE("MLX layers whose tensors do not fit are refused", "[io]") {
    const made_layer good = make_affine(1, 4, 128, 4, 64, "F16");
    nb::status s = read(good);
    CHECK(s.code() == nb::status_code::mismatch);
    CHECK(s.message().find(
              "has 8 words of weight per group, which are 8 bits in groups of 32 or 4 bits in groups of 64 or "
              "2 bits in groups of 128: say bits or group_size") != std::string::npos);
    nb::layer_options four;
    four.mlx.bits = 4;
    s = read(good, four);
    CHECK(s.code() == nb::status_code::unsupported); // by the list
    CHECK(s.message().find("uint4 in groups of 64, fp16 scales, minimums; mlx_affine_formats<4>") != std::string::npos);
    const auto broken = [&](std::size_t tensor, std::string type, std::vector<std::size_t> shape) {
        made_layer made = good;
        layer_tensor& t = made.tensors[tensor];
        t.type = type;
        t.shape = shape;
        std::size_t count = type == "U32" ? 4 : type_bytes(type);
        for (const std::size_t extent : shape) count *= extent;
        t.data.resize(count);
        const nb::status refused = read(made, four);
        CHECK(!refused.message().empty());
        return refused.code();
    };
    constexpr auto mismatch = nb::status_code::mismatch;
    CHECK(broken(0, "I32", {4, 16}) == mismatch);
    CHECK(broken(0, "U32", {64}) == mismatch);
    CHECK(broken(0, "U32", {4, 0}) == mismatch);
    CHECK(broken(0, "U32", {4, 17}) == mismatch);
    CHECK(broken(0, "U32", {5, 16}) == mismatch);
    CHECK(broken(0, "U32", {4, 14}) == mismatch); // 7 words a group
    CHECK(broken(1, "U8", {4, 2}) == mismatch);
    CHECK(broken(1, "F32", {4, 2}) == mismatch); // biases are F16
    CHECK(broken(2, "F16", {4, 1}) == mismatch);
    made_layer without = good;
    without.tensors.pop_back();
    CHECK(read(without, four).code() == mismatch);
    made_layer floats = make_float(1, 4, 64, 4, 32);
    CHECK(read(floats).ok());
    nb::layer_options eight;
    eight.mlx.bits = 8;
    CHECK(read(floats, eight).code() == mismatch);
    floats.tensors.push_back({"l.global_scale", "F32", {1}, bytes(4)});
    CHECK(read(floats).code() == nb::status_code::unsupported);
}
