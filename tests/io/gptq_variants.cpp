// gptq_variants.cpp: GPTQ as some tools write it: codes in planes (gptq_p), no qzeros, an index of groups that says
// nothing.
#include "layer_checks.hpp"

#include "layer_makers.hpp"

#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

template <int Bits>
using unsigned_formats =
    nb::format_list<nb::detail::integer_format<nb::unsigned_integer<Bits>, true, nb::per_group<64>, nb::f16>>;
template <int Bits>
using signed_formats = nb::format_list<
    nb::detail::integer_format<nb::integer<Bits, nb::integer_range::full>, false, nb::per_group<64>, nb::f16>>;

// One list for all widths: what is compiled for each list is compiled once.
using formats = nb::join_formats<unsigned_formats<3>, unsigned_formats<4>, unsigned_formats<5>, unsigned_formats<6>,
                                 unsigned_formats<7>, signed_formats<2>, signed_formats<3>, signed_formats<4>,
                                 signed_formats<5>, signed_formats<6>, signed_formats<7>, signed_formats<8>>;

nb::layer_options options_of(nb::gptq_checkpoint_format format, bool write_qzeros = false) {
    nb::layer_options options;
    options.gptq.checkpoint_format = format;
    options.gptq.write_qzeros = write_qzeros;
    return options;
}

void check_planes(int bits) {
    // Planes are taken for what they are whatever checkpoint_format says, but of 3 bits.
    const auto format = bits == 3 ? nb::gptq_checkpoint_format::gptq_p : nb::gptq_checkpoint_format::gptq;
    const auto seed = static_cast<std::uint64_t>(bits);
    for (const bool act_order : {false, true})
        for (const bool has_qzeros : {true, false}) {
            INFO(bits << " bits, act-order " << act_order << ", qzeros " << has_qzeros);
            check_layer<formats>(make_gptq_planes(seed, 32, 128, bits, 64, "F16", has_qzeros, act_order),
                                 nb::layer_layout::gptq, options_of(format));
        }
}

// The layer, read with these options, or the message.
std::string read(const std::vector<layer_tensor>& tensors, const made_layer& made, const nb::layer_options& options,
                 const char* bits_told = nullptr) {
    nb::safetensors_writer writer;
    for (const layer_tensor& tensor : tensors)
        REQUIRE(writer.add(tensor.name, tensor.type, tensor.shape, tensor.data).ok());
    if (bits_told != nullptr) REQUIRE(writer.add_metadata("gptq_bits", bits_told).ok());
    const auto all = writer.bytes();
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<formats> layer;
    const nb::status s = nb::read_layer(file, "l", layer, options);
    if (!s.ok()) return s.message();
    std::vector<float> weights(made.rows * made.cols);
    REQUIRE(layer.weights.rows() == made.rows);
    REQUIRE(layer.weights.cols() == made.cols);
    nb::dequantize_layer(layer, {weights.data(), made.rows, made.cols});
    return same_bits(weights, made.weights) ? "" : "other weights";
}

} // namespace

TEST_CASE("GPTQ in planes: gptq_p") {
    check_planes(3);
    check_planes(5);
    check_planes(6);
    check_planes(7);
    // Codes that fill whole words have one plane: 4 bits are those of gptq_v2.
    check_layer<formats>(make_gptq(4, 32, 128, 4, 64, "F16", true, false), nb::layer_layout::gptq,
                         options_of(nb::gptq_checkpoint_format::gptq_p));
}

TEST_CASE("Planes of GPTQ are those of its definition") {
    // Codes 0 ... 31 of 5 bits: four words of their low halves, eight to a word, and one of their highest bits.
    nb::quantized<nb::scheme<nb::unsigned_integer<5>, nb::per_channel, nb::scale<nb::f16>, nb::integer_zero>> q(32, 32);
    for (std::size_t n = 0; n < 32; ++n) {
        std::uint8_t codes[32];
        for (std::size_t k = 0; k < 32; ++k) codes[k] = static_cast<std::uint8_t>(k);
        nb::detail::squeeze_codes<5>(codes, 32, q.row_codes(n));
    }
    nb::safetensors_writer writer;
    REQUIRE(nb::write_gptq(q, {}, "l", writer).ok());
    const auto all = writer.bytes();
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    const nb::tensor_info* words = file.find("l.qweight");
    REQUIRE(words != nullptr);
    REQUIRE(words->shape == std::vector<std::size_t>{5, 32});
    const std::uint32_t wanted[] = {0x76543210u, 0xfedcba98u, 0x76543210u, 0xfedcba98u, 0xffff0000u};
    for (std::size_t w = 0; w < 5; ++w)
        CHECK(nb::detail::load_little<std::uint32_t>(words->data + w * 32 * 4) == wanted[w]);
}

TEST_CASE("GPTQ without qzeros has signed codes") {
    const auto options = options_of(nb::gptq_checkpoint_format::gptq);
    for (const int bits : {2, 3, 4, 8})
        for (const bool act_order : {false, true}) {
            INFO(bits << " bits, act-order " << act_order);
            const made_layer made = without_qzeros(make_gptq(9, 32, 128, bits, 64, "F16", false, act_order), bits);
            check_layer<formats>(made, nb::layer_layout::gptq, options);
            // Zero points of 2^(b - 1) where the list has no signed ones.
            if (bits == 4) check_layer<unsigned_formats<4>>(made, nb::layer_layout::gptq, options, false);
        }

    // Signed codes are written with qzeros unless that is asked for: 7 everywhere in v1, 8 in v2.
    const made_layer made = without_qzeros(make_gptq(9, 32, 128, 4, 64, "F16", false, false), 4);
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<formats> layer;
    REQUIRE(nb::read_layer(file, "l", layer).ok());
    for (const bool v2 : {false, true}) {
        nb::safetensors_writer writer;
        const auto format = v2 ? nb::gptq_checkpoint_format::gptq_v2 : nb::gptq_checkpoint_format::gptq;
        REQUIRE(nb::write_layer(layer, "l", writer, options_of(format, true)).ok());
        const auto written = writer.bytes();
        nb::safetensors_file again;
        REQUIRE(nb::safetensors_file::parse(written, again).ok());
        const nb::tensor_info* zeros = again.find("l.qzeros");
        REQUIRE(zeros != nullptr);
        CHECK(zeros->shape == std::vector<std::size_t>{2, 4});
        for (std::size_t i = 0; i < zeros->bytes; ++i)
            CHECK(zeros->data[i] == std::byte{static_cast<unsigned char>(v2 ? 0x88 : 0x77)});
        nb::quantized_layer<formats> second;
        REQUIRE(nb::read_layer(again, "l", second, options_of(format)).ok());
        std::vector<float> weights(32 * 128);
        nb::dequantize_layer(second, {weights.data(), 32, 128});
        CHECK(same_bits(weights, made.weights));
    }
}

TEST_CASE("GPTQ without qzeros takes its width from what there is") {
    made_layer made = without_qzeros(make_gptq(9, 32, 128, 4, 64, "F16", false, false), 4);
    nb::layer_options options = options_of(nb::gptq_checkpoint_format::gptq);
    CHECK(read(made.tensors, made, options) == ""); // from the length of g_idx
    made.tensors.pop_back();
    options.group_size = 64;
    CHECK(read(made.tensors, made, options) ==
          "layer 'l': tensor 'l.qweight': has neither qzeros nor a g_idx beside it: say the bits of the checkpoint's "
          "configuration (read_quantization_config takes it from there)");
    CHECK(read(made.tensors, made, options, "4") == "");
    CHECK(read(made.tensors, made, options, "9") ==
          "layer 'l': tensor 'l.qweight': has 16 rows of words, which are no codes of 2 to 8 bits");
    options.gptq.bits = 4;
    CHECK(read(made.tensors, made, options) == "");
    options.gptq.bits = 7;
    CHECK(read(made.tensors, made, options) ==
          "layer 'l': tensor 'l.qweight': has 16 rows of words, no whole number of codes of 7 bits");
    options.gptq.bits = 8; // 64 columns, which have no two groups of 64
    CHECK(read(made.tensors, made, options).find("has 2 groups, expected 1 (64 columns in groups of 64)") !=
          std::string::npos);
}

TEST_CASE("An index of groups that says nothing is as none") {
    made_layer made = make_gptq(5, 32, 128, 4, 64, "F16", true, false);
    nb::layer_options options = options_of(nb::gptq_checkpoint_format::gptq_v2);
    options.group_size = 64;
    const bytes ordered = made.tensors[3].data;
    const auto set = [&](std::string type, std::size_t count, auto value_at) {
        byte_writer w;
        for (std::size_t k = 0; k < count; ++k)
            type == "I64" ? w.u64(static_cast<std::uint64_t>(std::int64_t{value_at(k)}))
                          : w.u32(static_cast<std::uint32_t>(std::int32_t{value_at(k)}));
        made.tensors[3] = {"l.g_idx", type, {count}, w.take()};
    };
    for (const char* type : {"I32", "I64"}) {
        INFO(type);
        set(type, 0, [](std::size_t) { return 0; });
        CHECK(read(made.tensors, made, options) == "");
        for (const int constant : {0, -1}) {
            set(type, 128, [&](std::size_t) { return constant; });
            CHECK(read(made.tensors, made, options) == "");
        }
        set(type, 128, [](std::size_t) { return 1; });
        CHECK(read(made.tensors, made, options).find("tensor 'l.g_idx': group 0 has 0 columns, expected 64") !=
              std::string::npos);
        set(type, 128, [](std::size_t k) { return k == 127 ? 1 : 0; });
        CHECK(read(made.tensors, made, options).find("tensor 'l.g_idx': group 0 has 127 columns") != std::string::npos);
        set(type, 128, [](std::size_t k) { return static_cast<int>(k / 64); });
        CHECK(read(made.tensors, made, options) == "");
    }
    // Act-order by an index of I64.
    made = make_gptq(6, 32, 128, 4, 64, "F16", true, true);
    const bytes shuffled = made.tensors[3].data;
    set("I64", 128, [&](std::size_t k) { return static_cast<int>(word_at(shuffled, k)); });
    CHECK(read(made.tensors, made, options) == "");
    made.tensors[3].data[7] = std::byte{0x7f}; // beyond 2^32
    CHECK(read(made.tensors, made, options).find("column 0 is in group 91") != std::string::npos);
}
