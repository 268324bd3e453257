// quanto_layer.cpp: layers as optimum-quanto serializes them, against its own packing and dequantization.
#include "layer_checks.hpp"

namespace nb = nibble;
using namespace nibble_test;

namespace {

// pack_weights of quanto: groups g, g + R, g + 2 R ... share bytes, the first in the lowest bits. With a shift of
// floats the weight is scale x code - shift, with one of integers scale x (code - shift).
made_layer make_packed(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits, std::size_t group,
                       std::string type, bool integers) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t groups = rows * cols / group, per_byte = static_cast<std::size_t>(8 / bits);
    const std::size_t packed_rows = (groups + per_byte - 1) / per_byte;
    bytes data(packed_rows * group);
    const bytes scales = random_scales(random, type, groups);
    bytes shifts = random_scales(random, type, groups);
    if (integers) {
        shifts.resize(groups);
        for (std::byte& shift : shifts) shift = static_cast<std::byte>(random.below(1u << bits));
    }
    for (std::size_t i = 0; i < rows * cols; ++i) {
        const std::size_t g = i / group;
        const std::uint32_t code = random.below(1u << bits);
        data[g % packed_rows * group + i % group] |=
            static_cast<std::byte>(code << (static_cast<std::size_t>(bits) * (g / packed_rows)));
        const double scale = number_at(scales, type, g);
        made.weights.push_back(static_cast<float>(
            integers ? scale * (static_cast<double>(code) - static_cast<double>(static_cast<unsigned>(shifts[g])))
                     : scale * code - number_at(shifts, type, g)));
    }
    made.tensors = {{"l.weight._data._data", "U8", {packed_rows, group}, data},
                    {"l.weight._scale", type, {groups, 1}, scales},
                    {"l.weight._shift", integers ? "U8" : type, {groups, 1}, shifts}};
    return made;
}
made_layer make_bytes(std::string data_type, std::vector<std::size_t> scale_shape, std::string type) {
    made_layer made = make_naive(3, 9, 40, data_type, scale_shape, type, true, false);
    made.tensors[0].name = "l.weight._data";
    made.tensors[1].name = "l.weight._scale";
    return made;
}
template <class List> nb::status read(const made_layer& made, const nb::quanto_options& options) {
    const exact_copy all(layer_file(made.tensors));
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all.view(), file).ok());
    nb::quantized_layer<List> layer;
    return nb::read_quanto(file, "l", layer, options);
}

} // namespace

TEST_CASE("quanto's qint2 and qint4 keep their bits", "[io]") {
    const auto check = []<int Bits>() {
        std::uint64_t seed = Bits * 10;
        for (const std::size_t group : {32u, 64u, 96u, 128u})
            for (const char* type : {"F16", "BF16", "F32"}) {
                INFO(Bits << " bits, groups of " << group << ", " << type);
                nb::layer_options options;
                options.quanto = {Bits, 3 * group};
                // 21 groups: no whole number of bytes of 2 or 4 codes.
                const made_layer made = make_packed(++seed, 7, 3 * group, Bits, group, type, false);
                check_layer<nb::quanto_formats<Bits>>(made, nb::layer_layout::quanto, options);
            }
    };
    check.template operator()<2>();
    check.template operator()<4>();
    nb::layer_options options;
    options.quanto.inputs = 256;
    using zeros = nb::format_list<nb::named_format<"int4_g128_asym", nb::int4_g128_asym>>;
    check_layer<zeros>(make_packed(1, 6, 256, 4, 128, "F16", true), nb::layer_layout::quanto, options);
}

TEST_CASE("quanto's qint8 and qfloat8 keep their bits", "[io]") {
    using formats = nb::format_list<
        nb::named_format<"i8",
                         nb::scheme<nb::integer<8, nb::integer_range::full>, nb::per_channel, nb::scale<nb::bf16>>>,
        nb::named_format<"i8_tensor",
                         nb::scheme<nb::integer<8, nb::integer_range::full>, nb::per_tensor, nb::scale<nb::f32>>>,
        nb::named_format<"e4m3", nb::scheme<nb::e4m3, nb::per_channel, nb::scale<nb::f16>>>,
        nb::named_format<"e5m2", nb::scheme<nb::e5m2, nb::per_channel, nb::scale<nb::f32>>>>;
    check_layer<formats>(make_bytes("I8", {9, 1}, "BF16"), nb::layer_layout::quanto);
    check_layer<formats>(make_bytes("I8", {}, "F32"), nb::layer_layout::quanto);
    check_layer<formats>(make_bytes("F8_E4M3", {9, 1}, "F16"), nb::layer_layout::quanto);
    check_layer<formats>(make_bytes("F8_E5M2", {9, 1}, "F32"), nb::layer_layout::quanto);
}

TEST_CASE("quanto layers that do not tell their shape, or do not fit, are refused", "[io]") {
    using list = nb::format_list<nb::named_format<"int4_g128_asym", nb::int4_g128_asym>>;
    const made_layer good = make_packed(1, 6, 256, 4, 128, "F16", true);
    nb::status s = read<list>(good, {});
    CHECK(s.code() == nb::status_code::mismatch);
    CHECK(s.message().find("has 12 groups of 128 inputs, which do not tell how many inputs there are: say inputs") !=
          std::string::npos);
    CHECK(read<list>(good, {.inputs = 256}).ok());
    CHECK(read<list>(good, {.bits = 4, .inputs = 256}).ok());
    made_layer with_bias = good;
    with_bias.tensors.push_back({"l.bias", "F16", {6}, bytes(12)});
    CHECK(read<list>(with_bias, {}).ok());
    with_bias.tensors.back() = {"l.bias", "F16", {5}, bytes(10)};
    CHECK(read<list>(with_bias, {}).code() == nb::status_code::mismatch);
    for (const std::size_t inputs : {1u, 128u * 5, 128u * 13, 1u << 30})
        CHECK(read<list>(good, {.inputs = inputs}).code() == nb::status_code::mismatch);
    CHECK(read<list>(good, {.bits = 2, .inputs = 256}).code() == nb::status_code::mismatch);
    CHECK(read<list>(make_packed(1, 1, 128, 4, 128, "F16", true), {.inputs = 128}).code() ==
          nb::status_code::mismatch); // one group: 2 or 4 bits
    made_layer broken = good;
    broken.tensors[2].data[3] = std::byte{16};
    CHECK(read<list>(broken, {.inputs = 256}).code() == nb::status_code::malformed);
    CHECK(read<list>(make_packed(1, 6, 256, 4, 128, "F16", false), {.inputs = 256}).code() ==
          nb::status_code::unsupported);
    for (const std::size_t missing : {0u, 1u, 2u}) {
        made_layer without = good;
        without.tensors.erase(without.tensors.begin() + static_cast<std::ptrdiff_t>(missing));
        CHECK(read<list>(without, {.inputs = 256}).code() == nb::status_code::not_found);
    }
    broken = good;
    broken.tensors[0].shape = {3, 128};
    broken.tensors[0].data.resize(3 * 128); // 12 groups would be 2 bits
    CHECK(read<list>(broken, {.bits = 4, .inputs = 256}).code() == nb::status_code::mismatch);
    broken = good;
    broken.tensors[1].shape = {6, 2};
    CHECK(read<list>(broken, {.inputs = 256}).code() == nb::status_code::mismatch);
}
