// A model file whose tensors are quantized already: codes and scales go into the kernels as they are.
#include <nibble/any.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/io/gguf_writer.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace nb = nibble;

// What this engine runs; a tensor of any other type is refused with a message.
using formats = nb::format_list<nb::named_format<"q4_k", nb::q4_k>, nb::named_format<"q6_k", nb::q6_k>,
                                nb::named_format<"q8_0", nb::q8_0>, nb::named_format<"f16", nb::f16_plain>>;

int main() {
    const std::size_t tokens = 3, outputs = 64, inputs = 512;
    std::vector<float> w(outputs * inputs), x(tokens * inputs), y(tokens * outputs), exact(outputs * inputs);
    std::mt19937 random;
    for (auto* values : {&w, &x})
        for (float& value : *values) value = std::normal_distribution<float>()(random);

    // A file for this program; yours comes from elsewhere. (add_matrix takes the type's name at run time, and compiles
    // the quantizers of all.)
    nb::gguf_writer writer;
    nb::status status = writer.add_quantized(
        "ffn_down", nb::quantize<nb::q4_k>({w.data(), outputs, inputs}, {.range = nb::range::least_squares}));
    const std::vector<std::byte> bytes = writer.bytes();

    nb::gguf_file file;
    if (status) status = nb::gguf_file::parse(bytes, file); // or open("model.gguf", file)
    const nb::tensor_info* tensor = status ? file.find("ffn_down") : nullptr;
    nb::any_quantized<formats> stored;
    if (tensor != nullptr) status = nb::read_quantized(*tensor, stored);
    if (!status || tensor == nullptr) {
        std::fprintf(stderr, "%s\n", status.message().c_str());
        return 1;
    }
    const nb::any_packed<formats> weights = nb::pack(stored);
    nb::gemm({x.data(), tokens, inputs}, weights, {y.data(), tokens, outputs});

    nb::dequantize(stored, {exact.data(), outputs, inputs});
    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        double sum = 0;
        for (std::size_t k = 0; k < inputs; ++k)
            sum += double{x[i / outputs * inputs + k]} * double{exact[i % outputs * inputs + k]};
        noise += std::pow(y[i] - sum, 2);
        signal += std::pow(sum, 2);
    }
    std::printf("%s, %.2f bits per weight; product with int8 activations %.1f dB\n",
                std::string(weights.name()).c_str(), weights.bits_per_weight(), 10 * std::log10(signal / noise));
    return signal > 1000 * noise ? 0 : 1;
}
