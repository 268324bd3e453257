// group_sizes.cpp: the number of groups of a row may come from several sizes: a layer is read with the right one or
// refused.
#include "layer_checks.hpp"

#include <nibble/io/quantization_config.hpp>

#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

// Groups of G columns, as each of the four layouts has them.
template <class Element, bool Zero, std::size_t... G>
using groups =
    nb::join_formats<nb::format_list<nb::detail::integer_format<Element, Zero, nb::per_group<G>, nb::f16>...>,
                     nb::format_list<nb::detail::integer_format<Element, Zero, nb::per_channel, nb::f16>>>;
template <std::size_t... G> using signed_groups = groups<nb::integer<4, nb::integer_range::full>, false, G...>;
template <std::size_t... G> using unsigned_groups = groups<nb::uint4, true, G...>;
template <std::size_t... G> using byte_groups = groups<nb::integer<8, nb::integer_range::full>, false, G...>;

struct grouped {
    std::size_t cols;
    std::size_t group;
    int smallest; // of the sizes that make as many groups
    int largest;
};
constexpr grouped ambiguous[] = {{64, 48, 32, 63},   {64, 32, 32, 63},    {128, 96, 64, 127},
                                 {128, 64, 64, 127}, {192, 128, 96, 191}, {192, 96, 96, 191},
                                 {160, 64, 54, 79},  {256, 32, 32, 36},   {1056, 32, 32, 32}};

std::string refusal(const char* tensor, const char* option, const grouped& g) {
    return "layer 'l': tensor 'l." + std::string(tensor) + "': has " +
           std::to_string((g.cols + g.group - 1) / g.group) + " groups for " + std::to_string(g.cols) +
           " columns, which groups of " + std::to_string(g.smallest) + " to " + std::to_string(g.largest) +
           " columns make: say the " + option +
           " of the checkpoint's configuration (read_quantization_config takes it from there)";
}

template <class List>
void check_grouped(const made_layer& made, nb::layer_layout layout, const std::string& message, const grouped& g) {
    INFO(nb::layout_name(layout) << ", " << g.cols << " columns in groups of " << g.group);
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<List> layer;
    const nb::status s = nb::read_layer(file, "l", layer);
    const bool unique = g.smallest == g.largest;
    CHECK(s.ok() == unique);
    CHECK(layer.weights.empty() == !unique);
    if (!unique) {
        CHECK(s.code() == nb::status_code::mismatch);
        CHECK(s.message() == message);
    }
    check_layer<List>(made, layout, {.group_size = static_cast<int>(g.group)});
    // Sizes that the shapes rule out are refused, also with a configuration.
    for (const int wrong : {g.smallest - 1, g.largest + 1, -1}) {
        nb::quantized_layer<List> none;
        CHECK(nb::read_layer(file, "l", none, {.group_size = wrong}).code() == nb::status_code::mismatch);
        CHECK(none.weights.empty());
    }
}

} // namespace

TEST_CASE("Groups of several possible sizes are asked for, in every layout", "[io]") {
    using nb::layer_layout;
    std::uint64_t seed = 500;
    for (const grouped& g : ambiguous) {
        made_layer gptq = make_gptq(++seed, 32, g.cols, 4, g.group, "F16", false, false, false);
        check_grouped<signed_groups<32, 48, 64, 96, 128>>(
            make_compressed_tensors(++seed, 8, g.cols, 4, g.group, "F16", true, false),
            layer_layout::compressed_tensors_packed, refusal("weight_scale", "group_size", g), g);
        check_grouped<unsigned_groups<32, 48, 64, 96, 128>>(
            make_compressed_tensors(++seed, 8, g.cols, 4, g.group, "F16", false, false),
            layer_layout::compressed_tensors_packed, refusal("weight_scale", "group_size", g), g);
        check_grouped<unsigned_groups<32, 48, 64, 96, 128>>(make_awq(++seed, 16, g.cols, g.group, "F16"),
                                                            layer_layout::awq, refusal("scales", "q_group_size", g), g);
        made_layer bytes_of = make_compressed_tensors(++seed, 8, g.cols, 8, g.group, "F16", true, false);
        for (std::byte& b : bytes_of.tensors[0].data) b ^= std::byte{0x80}; // stored plus 2^7 there
        bytes_of.tensors[0] = {"l.weight", "I8", {8, g.cols}, bytes_of.tensors[0].data};
        bytes_of.tensors.resize(2);
        check_grouped<byte_groups<32, 48, 64, 96, 128>>(bytes_of, layer_layout::compressed_tensors_naive,
                                                        refusal("weight_scale", "group_size", g), g);
        // GPTQ's g_idx tells.
        check_layer<unsigned_groups<32, 48, 64, 96, 128>>(gptq, layer_layout::gptq);
        gptq.tensors.pop_back();
        const bytes all = layer_file(gptq.tensors);
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(all, file).ok());
        nb::quantized_layer<unsigned_groups<32, 48, 64, 96, 128>> layer;
        const nb::status s = nb::read_layer(file, "l", layer);
        CHECK((s.ok() ? g.smallest == g.largest : s.message() == refusal("scales", "group_size", g)));
        REQUIRE(nb::read_layer(file, "l", layer, {.group_size = static_cast<int>(g.group)}).ok());
        std::vector<float> weights(32 * g.cols);
        nb::dequantize_layer(layer, {weights.data(), 32, g.cols});
        CHECK(same_bits(weights, gptq.weights));
    }
}

TEST_CASE("compressed-tensors' weight_g_idx tells the size of groups", "[io]") {
    for (const bool shuffled : {false, true}) {
        made_layer made = make_compressed_tensors(3, 8, 192, 4, 128, "F16", true, shuffled);
        if (!shuffled) {
            std::vector<std::uint32_t> index(192);
            for (std::size_t k = 0; k < 192; ++k) index[k] = k < 128 ? 0 : 1;
            made.tensors.push_back({"l.weight_g_idx", "I32", {192}, int32_bytes(index)});
        }
        const bytes all = layer_file(made.tensors);
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(all, file).ok());
        nb::quantized_layer<signed_groups<96, 128>> layer;
        REQUIRE(nb::read_layer(file, "l", layer).ok());
        CHECK(layer.weights.name() == "int4_g128_f16");
        std::vector<float> weights(8 * 192);
        nb::dequantize_layer(layer, {weights.data(), 8, 192});
        CHECK(same_bits(weights, made.weights));
        // -1 everywhere: as if it were not there.
        made.tensors.back().data = int32_bytes(std::vector<std::uint32_t>(192, 0xffffffffu));
        const bytes unused = layer_file(made.tensors);
        REQUIRE(nb::safetensors_file::parse(unused, file).ok());
        const nb::status s = nb::read_layer(file, "l", layer);
        CHECK(s.code() == nb::status_code::mismatch);
        CHECK(s.message() == refusal("weight_scale", "group_size", {192, 128, 96, 191}));
    }
}

TEST_CASE("A size of groups is taken from the shapes where no other makes as many", "[io]") {
    const bytes nothing = safetensors("{}", 0);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(nothing, file).ok());
    nb::tensor_info scales;
    scales.name = "scales";
    std::size_t unique = 0;
    for (std::size_t cols = 1; cols <= 96; ++cols)
        for (std::size_t count = 0; count <= cols + 1; ++count) {
            INFO(count << " groups of " << cols << " columns");
            std::vector<std::size_t> sizes; // all that make as many; beyond the columns they make one
            for (std::size_t size = 1; size <= cols; ++size)
                if ((cols + size - 1) / size == count) sizes.push_back(size);
            // All sizes of one group are one.
            const bool one = count == 1;
            nb::detail::layer_tensors layer(file, "l");
            std::size_t found = 0;
            const bool good = layer.group_size(scales, cols, count, "group_size", 0, 0, found);
            REQUIRE(good == (one || sizes.size() == 1));
            if (good) REQUIRE(found == (one ? cols : sizes[0]));
            unique += good && !one;
            if (good) continue;
            REQUIRE(layer.error().code() == nb::status_code::mismatch);
            const bool asks = layer.error().message().find("say the group_size") != std::string::npos;
            REQUIRE(asks == !sizes.empty());
            if (asks)
                REQUIRE(layer.error().message().find("groups of " + std::to_string(sizes.front()) + " to " +
                                                     std::to_string(sizes.back()) + " columns") != std::string::npos);
            // What the file says besides counts if it is one of them.
            for (const std::size_t size : sizes) {
                nb::detail::layer_tensors told(file, "l");
                REQUIRE(told.group_size(scales, cols, count, "group_size", 0, static_cast<int>(size), found));
                REQUIRE(found == size);
                REQUIRE(told.group_size(scales, cols, count, "group_size", static_cast<int>(size), 1, found));
                REQUIRE(found == size);
            }
        }
    CHECK(unique > 500);
}

TEST_CASE("FP8 tiles are of the size that the configuration tells", "[io]") {
    // 192 x 192 in tiles of 96: as many as there are of 128.
    layer_random random(9);
    bytes weight = random_bytes(random, 192 * 192);
    for (std::byte& b : weight) b &= std::byte{0xf7};
    const bytes scales = random_scales(random, "F32", 4);
    const std::vector<layer_tensor> tensors = {{"l.weight", "F8_E4M3", {192, 192}, weight},
                                               {"l.weight_scale_inv", "F32", {2, 2}, scales}};
    std::vector<float> expected(192 * 192);
    for (std::size_t n = 0; n < 192; ++n)
        for (std::size_t k = 0; k < 192; ++k)
            expected[n * 192 + k] = rounded_product(fp8_value(static_cast<unsigned>(weight[n * 192 + k]), false),
                                                    static_cast<double>(float_at(scales, n / 96 * 2 + k / 96)));
    const bytes all = layer_file(tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    using tiles =
        nb::format_list<nb::named_format<"tile128", nb::scheme<nb::e4m3, nb::per_tile<128, 128>, nb::scale<nb::f32>>>,
                        nb::named_format<"tile96", nb::scheme<nb::e4m3, nb::per_tile<96, 96>, nb::scale<nb::f32>>>>;
    nb::layer_options options;
    REQUIRE(nb::parse_quantization_config(
                R"({"quantization_config":{"quant_method":"fp8","weight_block_size":[96,96]}})", options)
                .ok());
    CHECK(options.naive.block_rows == 96);
    CHECK(options.naive.block_cols == 96);
    nb::quantized_layer<tiles> layer;
    REQUIRE(nb::read_layer(file, "l", layer, options).ok());
    CHECK(layer.weights.name() == "tile96");
    std::vector<float> weights(192 * 192);
    nb::dequantize_layer(layer, {weights.data(), 192, 192});
    CHECK(same_bits(weights, expected));
}
