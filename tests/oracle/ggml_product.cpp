// ggml_product.cpp: a tensor of a GGUF file, read as it is, packed and multiplied, for gguf.py.
//   ggml_product FILE TENSOR TOKENS   reads TOKENS x cols fp32, writes TOKENS x rows fp32
#include <nibble/any.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace nb = nibble;

// What a program runs is what it lists; ggml_formats lists all.
using formats = nb::format_list<nb::named_format<"q4_0", nb::q4_0>, nb::named_format<"q4_1", nb::int4_g32_min>,
                                nb::named_format<"q5_0", nb::q5_0>, nb::named_format<"q8_0", nb::q8_0>,
                                nb::named_format<"q2_k", nb::q2_k>, nb::named_format<"q4_k", nb::q4_k>,
                                nb::named_format<"q6_k", nb::q6_k>>;

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    nb::gguf_file file;
    nb::status s = nb::gguf_file::open(argv[1], file);
    const nb::tensor_info* tensor = s.ok() ? file.find(argv[2]) : nullptr;
    nb::any_quantized<formats> weights;
    if (tensor != nullptr) s = nb::read_quantized(*tensor, weights);
    if (!s.ok() || tensor == nullptr) {
        std::fprintf(stderr, "ggml_product: %s\n", s.ok() ? "no such tensor" : s.message().c_str());
        return 1;
    }
    const nb::any_packed<formats> packed = nb::pack(weights);
    const auto tokens = static_cast<std::size_t>(std::atoi(argv[3]));
    std::vector<float> x(tokens * tensor->cols());
    std::vector<float> y(tokens * tensor->rows());
    if (std::fread(x.data(), sizeof(float), x.size(), stdin) != x.size()) return 1;
    nb::gemm({x.data(), tokens, tensor->cols()}, packed, {y.data(), tokens, tensor->rows()});
    return std::fwrite(y.data(), sizeof(float), y.size(), stdout) == y.size() && std::fflush(stdout) == 0 ? 0 : 1;
}
