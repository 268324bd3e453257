// compressed_tensors_variants.cpp: packed integers of other widths and packings, and zero points of older versions.
#include "layer_checks.hpp"

#include "layer_makers.hpp"

#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

template <int Bits>
using two = nb::format_list<
    nb::detail::integer_format<nb::integer<Bits, nb::integer_range::full>, false, nb::per_group<64>, nb::f16>,
    nb::detail::integer_format<nb::unsigned_integer<Bits>, true, nb::per_group<64>, nb::f16>>;
// One list for all widths: what is compiled for each list is compiled once.
using formats = nb::join_formats<two<3>, two<4>, two<5>, two<6>, two<7>>;

nb::layer_options options_of(int bits, bool stream) {
    nb::layer_options options{.group_size = 64};
    options.compressed_tensors.num_bits = bits;
    options.compressed_tensors.stream = stream;
    return options;
}

} // namespace

TEST_CASE("compressed-tensors with 3, 5, 6 and 7 bits, in words and as one stream") {
    for (const int bits : {3, 5, 6, 7})
        for (const bool symmetric : {true, false})
            for (const std::size_t cols : {256u, 299u}) {
                INFO(bits << " bits, symmetric " << symmetric << ", " << cols << " inputs");
                const auto seed = static_cast<std::uint64_t>(bits);
                // 21 outputs fill no whole words of zero points.
                const made_layer stream = make_compressed_tensors_stream(seed, 21, cols, bits, 64, "F16", symmetric);
                check_layer<formats>(stream, nb::layer_layout::compressed_tensors_packed, options_of(bits, true));
                check_layer<formats>(stream, nb::layer_layout::compressed_tensors_packed, options_of(0, true));
                const made_layer words = make_compressed_tensors(seed, 21, cols, bits, 64, "F16", symmetric, false);
                check_layer<formats>(words, nb::layer_layout::compressed_tensors_packed, options_of(bits, false));
                // 7 bits in words have as many as 8: they have to be told.
                if (bits != 7)
                    check_layer<formats>(words, nb::layer_layout::compressed_tensors_packed, options_of(0, false));
            }
    // Act-order, whose columns are put in order code by code.
    check_layer<formats>(make_compressed_tensors(1, 9, 256, 5, 64, "F16", true, true),
                         nb::layer_layout::compressed_tensors_packed, options_of(5, false));
}

TEST_CASE("compressed-tensors with zero points in bytes") {
    for (const int bits : {3, 4, 7}) {
        INFO(bits << " bits");
        const made_layer made =
            with_plain_zeros(make_compressed_tensors(5, 21, 256, bits, 64, "F16", false, false), bits);
        check_layer<formats>(made, nb::layer_layout::compressed_tensors_packed, options_of(bits, false), false);
    }
}

TEST_CASE("A stream of compressed-tensors is that of its definition") {
    // As pack_to_int32 packs 3 bits: 32 codes to three words, code 10 in both the first and the second.
    nb::quantized<nb::int3_g32_asym> three(1, 32);
    std::uint8_t codes[32];
    for (unsigned k = 0; k < 32; ++k) codes[k] = static_cast<std::uint8_t>((5 * k + 3) % 8);
    nb::detail::squeeze_codes<3>(codes, 32, three.row_codes(0));
    nb::safetensors_writer writer;
    REQUIRE(nb::write_compressed_tensors(three, {}, "l", writer, {.stream = true}).ok());
    const auto all = writer.bytes();
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    const nb::tensor_info* packed = file.find("l.weight_packed");
    REQUIRE(packed->shape == std::vector<std::size_t>{1, 3});
    const std::uint32_t wanted[] = {0x43C67543u, 0x7543C675u, 0xC67543C6u};
    for (std::size_t i = 0; i < 3; ++i)
        CHECK(nb::detail::load_little<std::uint32_t>(packed->data + 4 * i) == wanted[i]);
}
