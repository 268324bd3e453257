// gptq.cpp: GPTQ layers of every width, group size, scale type and order against their published layout.
#include "layer_checks.hpp"

namespace nb = nibble;
using namespace nibble_test;

namespace {

// The integer formats are compiled one width at a time.
template <int Bits> using list = nb::asymmetric_integer_formats<Bits>;

nb::layer_options version(bool v2) {
    nb::layer_options options;
    options.gptq.checkpoint_format = v2 ? nb::gptq_checkpoint_format::gptq_v2 : nb::gptq_checkpoint_format::gptq;
    return options;
}

template <int Bits> void check_width() {
    std::uint64_t seed = 1;
    for (const char* scale : {"F16", "BF16", "F32"})
        for (const std::size_t group : {32u, 64u, 128u, 256u})
            for (const bool v2 : {false, true})
                for (const bool act_order : {false, true}) {
                    INFO(Bits << " bits, groups of " << group << ", " << scale << ", v2 " << v2 << ", act-order "
                              << act_order);
                    const made_layer made = make_gptq(++seed, 96, 256, Bits, group, scale, v2, act_order, v2);
                    const auto layer = check_layer<list<Bits>>(made, nb::layer_layout::gptq, version(v2));
                    CHECK(layer.columns.empty() == (!act_order || group == 256));
                    const std::string_view name = layer.weights.name();
                    CHECK(name.substr(0, 4) == "int" + std::to_string(Bits));
                    CHECK((name.find(group == 256 ? "_channel" : "_g" + std::to_string(group)) != name.npos));
                }
}

} // namespace

TEST_CASE("GPTQ with 2 bits") {
    check_width<2>();
}
TEST_CASE("GPTQ with 3 bits") {
    check_width<3>();
}
TEST_CASE("GPTQ with 4 bits") {
    check_width<4>();
}
TEST_CASE("GPTQ with 8 bits") {
    check_width<8>();
}

TEST_CASE("GPTQ layers run on the kernels") {
    using formats = nb::format_list<nb::named_format<"int4_g64_asym", nb::int4_g64_asym>,
                                    nb::named_format<"int3_g64_asym", nb::int3_g64_asym>>;
    for (const int bits : {3, 4})
        for (const bool act_order : {false, true}) {
            const made_layer made = make_gptq(7, 64, 256, bits, 64, "F16", true, act_order);
            nb::layer_options options = version(true);
            check_product(check_layer<formats>(made, nb::layer_layout::gptq, options), made);
        }
}

TEST_CASE("GPTQ words are those of the published examples") {
    // Codes 0 ... 7 make 0x76543210; c(i) = (5 i + 3) mod 8 of 3 bits make 43C67543 7543C675 C67543C6.
    for (const int bits : {4, 3}) {
        const std::size_t cols = 32;
        nb::safetensors_writer writer;
        const auto write = [&]<class S>(nb::quantized<S> q) {
            for (std::size_t n = 0; n < q.rows(); ++n) {
                std::uint8_t codes[32];
                for (std::size_t k = 0; k < cols; ++k)
                    codes[k] = static_cast<std::uint8_t>(bits == 4 ? k % 8 : (5 * k + 3) % 8);
                if (bits == 4) nb::detail::squeeze_codes<4>(codes, cols, q.row_codes(n));
                if (bits == 3) nb::detail::squeeze_codes<3>(codes, cols, q.row_codes(n));
            }
            for (std::size_t i = 0; i < q.zero_count(); ++i) q.zeros()[i] = 1;
            REQUIRE(nb::write_gptq(q, {}, "l", writer).ok());
        };
        if (bits == 4) write(nb::quantized<nb::int4_g32_asym>(32, cols));
        if (bits == 3) write(nb::quantized<nb::int3_g32_asym>(32, cols));
        const auto all = writer.bytes();
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(all, file).ok());
        const nb::tensor_info* words = file.find("l.qweight");
        REQUIRE(words != nullptr);
        REQUIRE(words->shape == std::vector<std::size_t>{static_cast<std::size_t>(bits), 32});
        const auto word = [&](std::size_t row) {
            return nb::detail::load_little<std::uint32_t>(words->data + row * 32 * 4);
        };
        if (bits == 4) {
            for (std::size_t row = 0; row < 4; ++row) CHECK(word(row) == 0x76543210u);
        } else {
            CHECK(word(0) == 0x43C67543u);
            CHECK(word(1) == 0x7543C675u);
            CHECK(word(2) == 0xC67543C6u);
        }
        // The zero point 1 is stored as 0.
        const nb::tensor_info* zeros = file.find("l.qzeros");
        for (std::size_t i = 0; i < zeros->bytes; ++i) CHECK(zeros->data[i] == std::byte{0});
    }
}

TEST_CASE("GPTQ's v1 has no zero point 0 to write, and reads one masked") {
    nb::quantized<nb::int4_g32_asym> q(32, 64);
    for (std::size_t i = 0; i < q.zero_count(); ++i) q.zeros()[i] = 8;
    q.zeros()[2 * 5 + 1] = 0;
    nb::safetensors_writer writer;
    const nb::status s = nb::write_gptq(q, {}, "l", writer);
    CHECK(s.code() == nb::status_code::unsupported);
    CHECK(s.message() ==
          "layer 'l': gptq cannot store the zero point 0 of output 5, group 1: readers of this format disagree "
          "about it; write gptq_v2");
    REQUIRE(nb::write_gptq(q, {}, "l", writer, version(true).gptq).ok());

    // A stored 15 is 16 modulo 16.
    made_layer made = make_gptq(3, 32, 32, 4, 32, "F16", false, false);
    made.tensors[1].data.assign(made.tensors[1].data.size(), std::byte{0xff});
    for (std::size_t n = 0; n < 32; ++n)
        for (std::size_t k = 0; k < 32; ++k)
            made.weights[n * 32 + k] =
                rounded_product(word_at(made.tensors[0].data, k / 8 * 32 + n) >> (4 * (k % 8)) & 15u,
                                number_at(made.tensors[2].data, "F16", n));
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<list<4>> layer;
    REQUIRE(nb::read_gptq(file, "l", layer).ok());
    std::vector<float> weights(32 * 32);
    nb::dequantize_layer(layer, {weights.data(), 32, 32});
    CHECK(same_bits(weights, made.weights));
}

TEST_CASE(
    "GPTQ without g_idx takes its groups from the configuration, or from what AutoGPTQ writes into the metadata") {
    made_layer made = make_gptq(11, 32, 160, 4, 64, "F16", true, false); // groups of 64, 64, 32
    made.tensors.pop_back();
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<list<4>> layer;
    nb::gptq_options options = version(true).gptq;
    const nb::status s = nb::read_gptq(file, "l", layer, options);
    CHECK(s.code() == nb::status_code::mismatch);
    CHECK(s.message() ==
          "layer 'l': tensor 'l.scales': has 3 groups for 160 columns, which groups of 54 to 79 columns make: say the "
          "group_size of the checkpoint's configuration (read_quantization_config takes it from there)");
    CHECK(layer.weights.empty());
    options.group_size = 64;
    REQUIRE(nb::read_gptq(file, "l", layer, options).ok());
    std::vector<float> weights(32 * 160);
    nb::dequantize_layer(layer, {weights.data(), 32, 160});
    CHECK(same_bits(weights, made.weights));

    // The metadata counts where it agrees with the shapes.
    for (const char* told : {"64", "-1", "32", "0", "-5", "64 ", "", "sixty-four", "99999999999999999999"}) {
        INFO(told);
        nb::safetensors_writer writer;
        for (const layer_tensor& tensor : made.tensors)
            REQUIRE(writer.add(tensor.name, tensor.type, tensor.shape, tensor.data).ok());
        REQUIRE(writer.add_metadata("gptq_group_size", told).ok());
        const auto with_metadata = writer.bytes();
        REQUIRE(nb::safetensors_file::parse(with_metadata, file).ok());
        nb::quantized_layer<list<4>> from_metadata;
        const bool right = told == std::string_view("64");
        CHECK(nb::read_gptq(file, "l", from_metadata, version(true).gptq).code() ==
              (right ? nb::status_code::ok : nb::status_code::mismatch));
        CHECK(from_metadata.weights.empty() == !right);
        if (!right) continue;
        nb::dequantize_layer(from_metadata, {weights.data(), 32, 160});
        CHECK(same_bits(weights, made.weights));
    }
}

TEST_CASE("Activations are gathered in the order of the columns") {
    const float x[] = {1, 2, 3, 4, 5, 6};
    float out[6] = {};
    const std::uint32_t order[] = {2, 0, 1};
    nb::gather_columns({x, 2, 3}, order, {out, 2, 3});
    CHECK(std::vector<float>(out, out + 6) == std::vector<float>{3, 1, 2, 6, 4, 5});
    nb::gather_columns({x, 2, 3}, {}, {out, 2, 3});
    CHECK(std::vector<float>(out, out + 6) == std::vector<float>(x, x + 6));
}
