// layer_decode.cpp: the fp32 weights of a checkpoint's layer on standard output, for other languages to compare with.
//   layer_decode FILE LAYER [--v2] [--bits B] [--group-size G] [--write COPY]
// Row-major, N x K, little-endian; the name of the format on standard error. --write puts the layer into a file of its
// own. Exit code 1: the layer cannot be read (the reason is on standard error), 2: arguments.
#include <nibble/io/read_layer.hpp>
#include <nibble/io/safetensors.hpp>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace {

// Each width, group size, scale type and kind of zero point at least once, not all of them with one another: that would
// take minutes to compile.
template <int Bits>
using integers = nibble::format_list<
    nibble::detail::integer_format<nibble::unsigned_integer<Bits>, true, nibble::per_group<32>, nibble::f16>,
    nibble::detail::integer_format<nibble::unsigned_integer<Bits>, true, nibble::per_group<64>, nibble::bf16>,
    nibble::detail::integer_format<nibble::unsigned_integer<Bits>, true, nibble::per_group<128>, nibble::f32>,
    nibble::detail::integer_format<nibble::unsigned_integer<Bits>, true, nibble::per_channel, nibble::f16>,
    nibble::detail::integer_format<nibble::integer<Bits>, false, nibble::per_group<32>, nibble::f16>,
    nibble::detail::integer_format<nibble::integer<Bits>, false, nibble::per_channel, nibble::bf16>>;
using formats = nibble::join_formats<
    integers<2>, integers<3>, integers<4>, integers<8>,
    nibble::format_list<nibble::detail::integer_format<nibble::int8, false, nibble::per_channel, nibble::f16>,
                        nibble::detail::integer_format<nibble::int8, false, nibble::per_channel, nibble::f32>,
                        nibble::named_format<"nf4_b64_nested", nibble::bitsandbytes_nested_scheme<nibble::nf4, 64>>,
                        nibble::named_format<"nf4_b64", nibble::bitsandbytes_scheme<nibble::nf4, 64>>,
                        nibble::named_format<"fp4_b64", nibble::bitsandbytes_scheme<nibble::bnb_fp4, 64>>>,
    nibble::nvfp4_formats, nibble::mxfp4_formats, nibble::mxfp8_formats, nibble::llm_int8_formats>;

int fail(const nibble::status& s) {
    std::fprintf(stderr, "layer_decode: %s\n", s.message().c_str());
    return 1;
}

} // namespace

int main(int argc, char** argv) {
    nibble::layer_options options;
    const char* copy = nullptr;
    if (argc < 3) return 2;
    for (int i = 3; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const bool more = i + 1 < argc;
        if (argument == "--v2") {
            options.gptq.checkpoint_format = nibble::gptq_checkpoint_format::gptq_v2;
        } else if (argument == "--bits" && more) {
            options.gptq.bits = options.compressed_tensors.num_bits = std::atoi(argv[++i]);
        } else if (argument == "--group-size" && more) {
            options.group_size = std::atoi(argv[++i]);
        } else if (argument == "--write" && more) {
            copy = argv[++i];
        } else {
            std::fprintf(stderr, "layer_decode: no argument %s\n", argv[i]);
            return 2;
        }
    }
    nibble::safetensors_file file;
    nibble::status s = nibble::safetensors_file::open(argv[1], file);
    if (!s.ok()) return fail(s);
    nibble::quantized_layer<formats> layer;
    s = nibble::read_layer(file, argv[2], layer, options);
    if (!s.ok()) return fail(s);
    const auto name = layer.weights.name();
    std::fprintf(stderr, "%.*s\n", static_cast<int>(name.size()), name.data());
    if (copy != nullptr) {
        nibble::safetensors_writer writer;
        s = nibble::write_layer(layer, argv[2], writer, options);
        if (s.ok()) s = writer.write(copy);
        if (!s.ok()) return fail(s);
    }
    const std::size_t rows = layer.weights.rows();
    const std::size_t cols = layer.weights.cols();
    std::vector<float> weights(rows * cols);
    nibble::dequantize_layer(layer, {weights.data(), rows, cols});
    return std::fwrite(weights.data(), sizeof(float), weights.size(), stdout) == weights.size() &&
                   std::fflush(stdout) == 0
               ? 0
               : 1;
}
