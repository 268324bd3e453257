// byte_layers.cpp: layers with one code per byte, INT8 and FP8, by tensor, row, group and tile.
#include "layer_checks.hpp"

namespace nb = nibble;
using namespace nibble_test;

TEST_CASE("Layers of one code per byte keep their bits") {
    std::uint64_t seed = 300;
    for (const char* scale : {"F16", "BF16", "F32"}) {
        for (const bool symmetric : {true, false}) {
            for (const std::size_t per_row : {1u, 2u, 4u, 8u})
                check_layer<nb::naive_formats>(
                    make_naive(++seed, 19, 256, "I8", {19, per_row}, scale, symmetric, false),
                    nb::layer_layout::compressed_tensors_naive, {.group_size = static_cast<int>(256 / per_row)});
            check_layer<nb::naive_formats>(make_naive(++seed, 19, 70, "I8", {1}, scale, symmetric, false),
                                           nb::layer_layout::compressed_tensors_naive);
        }
        for (const char* type : {"F8_E4M3", "F8_E5M2"}) {
            check_layer<nb::naive_formats>(make_naive(++seed, 19, 70, type, {19, 1}, scale, true, false),
                                           nb::layer_layout::compressed_tensors_naive);
            check_layer<nb::naive_formats>(make_naive(++seed, 19, 70, type, {1}, scale, true, false),
                                           nb::layer_layout::compressed_tensors_naive);
        }
        made_layer tiles = make_naive(++seed, 200, 300, "F8_E4M3", {2, 3}, scale, true, true);
        check_layer<nb::naive_formats>(tiles, nb::layer_layout::compressed_tensors_naive);
        tiles.tensors[1].name = "l.weight_scale_inv"; // DeepSeek-V3
        check_layer<nb::naive_formats>(tiles, nb::layer_layout::compressed_tensors_naive, {}, false);
    }
    // Another way to write a scale per row, and one per tensor.
    made_layer flat = make_naive(++seed, 19, 70, "I8", {19, 1}, "F32", true, false);
    flat.tensors[1].shape = {19};
    check_layer<nb::naive_formats>(flat, nb::layer_layout::compressed_tensors_naive, {}, false);
    made_layer scalar = make_naive(++seed, 19, 70, "I8", {1}, "F32", true, false);
    scalar.tensors[1].shape = {};
    check_layer<nb::naive_formats>(scalar, nb::layer_layout::compressed_tensors_naive, {}, false);
}
