// awq_gemv.cpp: AWQ layers of the versions gemv and gemv_fast against what AutoAWQ packs.
#include "layer_checks.hpp"

#include "layer_makers.hpp"

#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

template <class Granularity, nb::element Scale>
using with_zeros = nb::detail::integer_format<nb::uint4, true, Granularity, Scale>;
using formats =
    nb::join_formats<nb::format_list<with_zeros<nb::per_group<32>, nb::f16>, with_zeros<nb::per_group<64>, nb::bf16>,
                                     with_zeros<nb::per_group<128>, nb::f32>, with_zeros<nb::per_channel, nb::f16>>,
                     nb::awq_gemv_fast_formats>;

} // namespace

TEST_CASE("AWQ's gemv layers keep their bits") {
    struct shape {
        std::size_t cols;
        std::size_t group;
        const char* scale;
    };
    // Groups of 1 to 17, padded to 8, 16, 24 and 32; the first layers are of other layouts by their shapes, but for the
    // version that is told.
    for (const shape& s :
         {shape{64, 32, "F16"}, {256, 32, "F16"}, {1088, 64, "BF16"}, {2176, 128, "F32"}, {576, 576, "F16"}}) {
        INFO(s.cols << " inputs in groups of " << s.group << ", " << s.scale);
        nb::layer_options options{.group_size = static_cast<int>(s.group)};
        const made_layer made = make_awq_gemv(s.cols, 24, s.cols, s.group, s.scale);
        if (s.cols > 256) {
            check_layer<formats>(made, nb::layer_layout::awq_gemv, options);
            if (s.cols == s.group) options.group_size = -1;
            check_layer<formats>(made, nb::layer_layout::awq_gemv, options);
            continue;
        }
        options.awq.version = nb::awq_version::gemv;
        const bytes all = layer_file(made.tensors);
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(all, file).ok());
        nb::quantized_layer<formats> layer;
        REQUIRE(nb::read_layer(file, "l", layer, options).ok());
        std::vector<float> weights(made.rows * made.cols);
        nb::dequantize_layer(layer, {weights.data(), made.rows, made.cols});
        CHECK(same_bits(weights, made.weights));
        nb::safetensors_writer writer;
        REQUIRE(nb::write_layer(layer, "l", writer).ok());
        const auto written = writer.bytes();
        REQUIRE(nb::safetensors_file::parse(written, file).ok());
        CHECK(differences(made.tensors, file) == "");
    }
}

TEST_CASE("AWQ's gemv_fast layers keep their bits") {
    for (const std::size_t group : {32u, 64u, 128u, 384u}) {
        INFO("groups of " << group);
        const made_layer made = make_awq_gemv_fast(group, 24, 384, group);
        const auto layer =
            check_layer<formats>(made, nb::layer_layout::awq_gemv_fast, {.group_size = static_cast<int>(group)});
        CHECK(layer.weights.name() == (group == 384 ? "int4_channel" : "int4_g" + std::to_string(group)) + "_min_f16");
    }
}

TEST_CASE("AWQ's gemv_fast has four codes in a word, eight inputs apart") {
    // Inputs 0 ... 63 with the codes k / 8: the first word of the first output has those of 0, 8, 16 and 24.
    nb::quantized<nb::scheme<nb::uint4, nb::per_channel, nb::scale<nb::f16>, nb::minimum<nb::f16>>> q(4, 64);
    for (std::size_t n = 0; n < 4; ++n)
        for (std::size_t k = 0; k < 64; k += 2) q.row_codes(n)[k / 2] = static_cast<std::uint8_t>(k / 8 * 17);
    nb::safetensors_writer writer;
    REQUIRE(nb::write_awq_gemv_fast(q, "l", writer).ok());
    const auto all = writer.bytes();
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    const nb::tensor_info* words = file.find("l.qweight");
    REQUIRE(words != nullptr);
    REQUIRE(words->shape == std::vector<std::size_t>{1, 64});
    for (std::size_t t = 0; t < 64; ++t)
        CHECK(nb::detail::load_little<std::uint16_t>(words->data + 2 * t) == (t % 16 < 8 ? 0x3210u : 0x7654u));
    CHECK(file.find("l.scales")->shape == std::vector<std::size_t>{16, 4}); // one group of 64
}

TEST_CASE("What AWQ's versions by outputs cannot hold") {
    nb::safetensors_writer writer;
    CHECK(nb::write_awq_gemv(nb::quantized<nb::int4_g32>(8, 64), "m", writer).message() ==
          "layer 'm': awq gemv cannot hold int4 in groups of 32, fp16 scales of 8 x 64; it holds uint4 in groups or "
          "rows, "
          "with integer zero points");
    CHECK(nb::write_awq_gemv(nb::quantized<nb::int4_g32_asym>(8, 72), "m", writer).message() ==
          "layer 'm': awq gemv cannot hold 8 x 72 in groups of 32");
    CHECK(nb::write_awq_gemv_fast(nb::quantized<nb::int4_g32_min>(6, 64), "m", writer).message() ==
          "layer 'm': awq gemv_fast cannot hold 6 x 64 in groups of 32");
    CHECK(nb::write_awq_gemv_fast(nb::quantized<nb::int4_g32_asym>(8, 64), "m", writer).message() ==
          "layer 'm': awq gemv_fast cannot hold uint4 in groups of 32, fp16 scales, integer zero points of 8 x 64; it "
          "holds uint4 in groups or rows, with fp16 scales and minimums");
}
