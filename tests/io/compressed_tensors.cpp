// compressed_tensors.cpp: compressed-tensors layers of packed integers against their published
// layout.
#include "layer_checks.hpp"

namespace nb = nibble;
using namespace nibble_test;

namespace {

template <int Bits, bool Symmetric> void check_packed() {
    using list =
        std::conditional_t<Symmetric, nb::symmetric_integer_formats<Bits>, nb::asymmetric_integer_formats<Bits>>;
    std::uint64_t seed = 200;
    nb::layer_options options;
    options.compressed_tensors.num_bits = Bits;
    for (const char* scale : {"F16", "BF16", "F32"})
        for (const std::size_t group : {32u, 64u, 128u, 256u})
            for (const bool act_order : {false, true}) {
                INFO(Bits << " bits, groups of " << group << ", " << scale << ", symmetric " << Symmetric
                          << ", act-order " << act_order);
                // 21 outputs fill no whole words of zero points.
                options.group_size = static_cast<int>(group);
                const made_layer made =
                    make_compressed_tensors(++seed, 21, 256, Bits, group, scale, Symmetric, act_order && group != 256);
                const auto layer = check_layer<list>(made, nb::layer_layout::compressed_tensors_packed, options);
                CHECK(layer.columns.empty() == (!act_order || group == 256));
            }
    for (const std::size_t cols : {1u, 5u, 10u, 11u, 20u, 31u, 33u, 77u, 257u}) {
        INFO(Bits << " bits, " << cols << " inputs");
        options.group_size = 0; // one group is one, whatever its size
        check_layer<list>(make_compressed_tensors(cols, 9, cols, Bits, cols, "F16", Symmetric, false),
                          nb::layer_layout::compressed_tensors_packed, options);
    }
}

} // namespace

TEST_CASE("compressed-tensors with 2 bits") {
    check_packed<2, true>();
    check_packed<2, false>();
}
TEST_CASE("compressed-tensors with 3 bits") {
    check_packed<3, true>();
    check_packed<3, false>();
}
TEST_CASE("compressed-tensors with 4 bits") {
    check_packed<4, true>();
    check_packed<4, false>();
}
TEST_CASE("compressed-tensors with 8 bits") {
    check_packed<8, true>();
    check_packed<8, false>();
}

TEST_CASE("compressed-tensors layers run on the kernels") {
    using formats = nb::format_list<nb::named_format<"int4_g64", nb::int4_g64>,
                                    nb::named_format<"int3_g64_asym", nb::int3_g64_asym>>;
    const made_layer symmetric = make_compressed_tensors(1, 40, 256, 4, 64, "F16", true, true);
    check_product(check_layer<formats>(symmetric, nb::layer_layout::compressed_tensors_packed, {.group_size = 64}),
                  symmetric);
    const made_layer asymmetric = make_compressed_tensors(2, 40, 256, 3, 64, "F16", false, false);
    check_product(check_layer<formats>(asymmetric, nb::layer_layout::compressed_tensors_packed, {.group_size = 64}),
                  asymmetric);
}

TEST_CASE("compressed-tensors words are those of the published examples") {
    const auto first_word = [](const auto& q) {
        nb::safetensors_writer writer;
        REQUIRE(nb::write_compressed_tensors(q, {}, "l", writer).ok());
        const auto all = writer.bytes();
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(all, file).ok());
        return nb::detail::load_little<std::uint32_t>(file.find("l.weight_packed")->data);
    };
    std::uint8_t codes[32];
    nb::quantized<nb::int4_g32_asym> four(1, 32);
    for (unsigned k = 0; k < 32; ++k) codes[k] = static_cast<std::uint8_t>(k % 8);
    nb::detail::squeeze_codes<4>(codes, 32, four.row_codes(0));
    CHECK(first_word(four) == 0x76543210u);
    nb::quantized<nb::int3_g32_asym> three(1, 32);
    for (unsigned k = 0; k < 32; ++k) codes[k] = static_cast<std::uint8_t>((5 * k + 3) % 8);
    nb::detail::squeeze_codes<3>(codes, 32, three.row_codes(0));
    CHECK(first_word(three) == 0x03C67543u);
    // Signed codes are stored plus 2^(b - 1): -8 ... is 0 ...
    nb::quantized<nb::int4_g32> sign(1, 32);
    for (unsigned k = 0; k < 32; ++k) codes[k] = static_cast<std::uint8_t>((k + 8) % 16);
    nb::detail::squeeze_codes<4>(codes, 32, sign.row_codes(0));
    CHECK(first_word(sign) == 0x76543210u);
}
