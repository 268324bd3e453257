// awq.cpp: AWQ layers of every group size and scale type against their published layout.
#include "layer_checks.hpp"

namespace nb = nibble;
using namespace nibble_test;

TEST_CASE("AWQ layers keep their bits") {
    std::uint64_t seed = 100;
    for (const char* scale : {"F16", "BF16", "F32"})
        for (const std::size_t group : {32u, 64u, 128u, 256u})
            // 40 and 136 outputs: 5 and 17 words, fewer and more than a cache line of them.
            for (const std::size_t rows : {40u, 136u, 256u}) {
                INFO("groups of " << group << ", " << scale << ", " << rows << " outputs");
                const made_layer made = make_awq(++seed, rows, 256, group, scale);
                check_layer<nb::awq_formats>(made, nb::layer_layout::awq, {.group_size = static_cast<int>(group)});
            }
}

TEST_CASE("AWQ layers of any number of inputs keep their bits") {
    nb::layer_options options;
    options.awq.q_group_size = -1;
    for (const std::size_t cols : {1u, 2u, 3u, 7u, 8u, 9u, 63u, 64u, 65u, 131u}) {
        INFO(cols << " inputs");
        const made_layer made = make_awq(cols, 24, cols, cols, "F16");
        check_layer<nb::awq_formats>(made, nb::layer_layout::awq, options);
    }
    options.awq.q_group_size = 32; // the last group of 100 inputs has 4
    check_layer<nb::awq_formats>(make_awq(5, 24, 100, 32, "F16"), nb::layer_layout::awq, options);
}

TEST_CASE("AWQ layers run on the kernels") {
    using formats = nb::format_list<nb::named_format<"int4_g64_asym", nb::int4_g64_asym>>;
    const made_layer made = make_awq(17, 72, 256, 64, "F16");
    check_product(check_layer<formats>(made, nb::layer_layout::awq, {.group_size = 64}), made);
}

TEST_CASE("AWQ words are that of the published example") {
    // Outputs 0 ... 7 with the codes 0 ... 7 make 0x75316420.
    nb::quantized<nb::int4_g32_asym> q(8, 1);
    for (std::size_t n = 0; n < 8; ++n) q.row_codes(n)[0] = static_cast<std::uint8_t>(n);
    for (std::size_t n = 0; n < 8; ++n) q.zeros()[n] = static_cast<std::uint8_t>(n);
    nb::safetensors_writer writer;
    REQUIRE(nb::write_awq(q, "l", writer).ok());
    const auto all = writer.bytes();
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    CHECK(nb::detail::load_little<std::uint32_t>(file.find("l.qweight")->data) == 0x75316420u);
    CHECK(nb::detail::load_little<std::uint32_t>(file.find("l.qzeros")->data) == 0x75316420u);
}

TEST_CASE("AWQ writes what it can hold, and says what it cannot") {
    nb::safetensors_writer writer;
    const auto message = [&](const auto& q) { return nb::write_awq(q, "l", writer).message(); };
    CHECK(message(nb::quantized<nb::int4_g32_asym>(12, 32)) ==
          "layer 'l': awq packs eight outputs into a word, which 12 outputs do not fill");
    CHECK(message(nb::quantized<nb::int3_g32_asym>(8, 32)) ==
          "layer 'l': awq stores 4 bits and zero points: quantize to a scheme of uint4 with integer_zero");
    CHECK(message(nb::quantized<nb::mxfp4>(8, 32)).find("layer 'l': awq cannot hold e2m1") == 0);
    CHECK(message(nb::quantized<nb::int4_g32_asym>(0, 32)) == "layer 'l': awq cannot hold a matrix without weights");
    CHECK(writer.bytes().size() == 16); // nothing was added
}
