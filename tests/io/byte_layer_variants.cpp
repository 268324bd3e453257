// byte_layer_variants.cpp: FP8 in tiles of any shape and in groups, fused layers with a scale for each, zero points
// that are none.
#include "layer_checks.hpp"

#include "layer_makers.hpp"

#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

using formats = nb::format_list<
    nb::named_format<"e4m3_tile_64x128", nb::scheme<nb::e4m3, nb::per_tile<64, 128>, nb::scale<nb::f32>>>,
    nb::named_format<"e4m3_tile_32x32", nb::scheme<nb::e4m3, nb::per_tile<32, 32>, nb::scale<nb::f32>>>,
    nb::named_format<"e4m3_g64", nb::scheme<nb::e4m3, nb::per_group<64>, nb::scale<nb::f32>>>,
    nb::named_format<"e4m3_channel", nb::scheme<nb::e4m3, nb::per_channel, nb::scale<nb::f32>>>,
    nb::named_format<"int8_channel",
                     nb::scheme<nb::integer<8, nb::integer_range::full>, nb::per_channel, nb::scale<nb::f32>>>,
    nb::named_format<"uint8_channel", nb::scheme<nb::uint8, nb::per_channel, nb::scale<nb::f32>, nb::integer_zero>>>;

} // namespace

TEST_CASE("FP8 in tiles of any shape, and in groups") {
    struct shape {
        std::size_t tile_rows;
        std::size_t tile_cols;
        const char* name;
    };
    for (const shape& s : {shape{64, 128, "e4m3_tile_64x128"}, {32, 32, "e4m3_tile_32x32"}, {1, 64, "e4m3_g64"}}) {
        INFO(s.name);
        nb::layer_options options;
        options.naive.block_rows = static_cast<int>(s.tile_rows);
        options.naive.block_cols = static_cast<int>(s.tile_cols);
        const made_layer made = make_fp8_tiles(s.tile_cols, 100, 300, s.tile_rows, s.tile_cols);
        const auto layer = check_layer<formats>(made, nb::layer_layout::compressed_tensors_naive, options);
        CHECK(layer.weights.name() == s.name);
        if (s.tile_rows != 1) continue;
        // Groups by their size, where nothing is said of tiles.
        CHECK(
            check_layer<formats>(made, nb::layer_layout::compressed_tensors_naive, {.group_size = 64}).weights.name() ==
            s.name);
    }
}

TEST_CASE("Fused layers have a scale for each of their parts") {
    const std::size_t part_rows[] = {12, 4, 4}; // queries, keys and values
    nb::layer_options options;
    options.naive.part_rows.assign(part_rows, part_rows + 3);
    for (const char* type : {"F8_E4M3", "I8"})
        for (const bool symmetric : {true, false}) {
            if (!symmetric && type != std::string("I8")) continue;
            INFO(type << ", symmetric " << symmetric);
            // As of a scale per output, of which all of a part are the same.
            made_layer made = make_naive(3, 20, 70, type, {20, 1}, "F32", symmetric, false);
            const bytes scales = made.tensors[1].data;
            bytes of_parts;
            bytes zeros;
            std::size_t row = 0;
            for (const std::size_t part : part_rows) {
                of_parts.insert(of_parts.end(), scales.begin() + static_cast<std::ptrdiff_t>(4 * row),
                                scales.begin() + static_cast<std::ptrdiff_t>(4 * row + 4));
                if (!symmetric) zeros.push_back(made.tensors[2].data[row]);
                const double zero =
                    symmetric ? 0.0 : static_cast<double>(static_cast<std::int8_t>(made.tensors[2].data[row]));
                const double scale = number_at(scales, "F32", row);
                for (const std::size_t end = row + part; row < end; ++row)
                    for (std::size_t k = 0; k < 70; ++k) {
                        const auto code = static_cast<unsigned>(made.tensors[0].data[row * 70 + k]);
                        const double q = type == std::string("I8")
                                             ? static_cast<double>(static_cast<std::int8_t>(code)) - zero
                                             : fp8_value(code, false);
                        made.weights[row * 70 + k] = rounded_product(q, scale);
                    }
            }
            for (const bool column : {false, true}) {
                made.tensors[1].data = of_parts;
                made.tensors[1].shape = column ? std::vector<std::size_t>{3, 1} : std::vector<std::size_t>{3};
                if (!symmetric) {
                    made.tensors[2].data = zeros;
                    made.tensors[2].shape = made.tensors[1].shape;
                }
                check_layer<formats>(made, nb::layer_layout::compressed_tensors_naive, options, false);
            }
        }
    // One that is not fused is read as it is.
    check_layer<formats>(make_naive(3, 20, 70, "F8_E4M3", {20, 1}, "F32", true, false),
                         nb::layer_layout::compressed_tensors_naive, options);
}

TEST_CASE("Zero points that are 0 of codes without any are none") {
    for (const unsigned char zero : {static_cast<unsigned char>(0x00), static_cast<unsigned char>(0x80)}) {
        made_layer made = make_naive(4, 20, 70, "F8_E4M3", {20, 1}, "F32", true, false);
        made.tensors.push_back({"l.weight_zero_point", "F8_E4M3", {20, 1}, bytes(20, std::byte{zero})});
        check_layer<formats>(made, nb::layer_layout::compressed_tensors_naive, {}, false);
    }
    made_layer made = make_mxfp4(9, 5, 64, "U8");
    made.tensors.push_back({"l.weight_zero_point", "I8", {5, 2}, bytes(10)});
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<nb::mxfp4_formats> layer;
    CHECK(nb::read_layer(file, "l", layer).ok());
}
