// A linear layer as an engine has it: read from a model file, quantized and packed once, run for every token.
//   linear_layer [FILE.gguf | FILE.safetensors [TENSOR]]
// Without a file it writes a small one for itself; without a tensor it takes the first matrix.
#include <nibble/adapt/thread_pool.hpp>
#include <nibble/io/model_file.hpp>
#include <nibble/nibble.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace nb = nibble;

class linear {
public:
    using format = nb::int4_g32;

    // The fp32 copy of the weights lives in here only.
    [[nodiscard]] static nb::status load(const nb::tensor_info& tensor, const nb::thread_pool& threads, linear& out) {
        std::vector<float> values(tensor.rows() * tensor.cols());
        const nb::matrix_view<float> w(values.data(), tensor.rows(), tensor.cols());
        nb::status read = nb::read_matrix(tensor, w);
        if (read) out.weights_ = nb::pack(nb::quantize<format>(w, {}, threads), threads);
        return read;
    }

    [[nodiscard]] std::size_t inputs() const noexcept { return weights_.cols(); }
    [[nodiscard]] std::size_t outputs() const noexcept { return weights_.rows(); }

    // y = x wᵀ. All layers may share one workspace: it grows to the largest need it has seen.
    void forward(nb::matrix_view<const float> x, nb::matrix_view<float> y, nb::workspace& scratch,
                 const nb::thread_pool& threads) const {
        nb::gemm(x, weights_, y, nb::identity{}, {.workspace = &scratch}, threads);
    }

private:
    nb::packed<format> weights_;
};

// A safetensors file: the length of its header, the header, the values.
void write_small_model(const std::filesystem::path& path) {
    const std::uint64_t outputs = 256, inputs = 384;
    std::vector<float> values(outputs * inputs);
    std::mt19937 random;
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (float& value : values) value = normal(random);
    const std::uint64_t bytes = values.size() * sizeof(float);
    const std::string header = R"({"linear.weight":{"dtype":"F32","shape":[)" + std::to_string(outputs) + "," +
                               std::to_string(inputs) + R"(],"data_offsets":[0,)" + std::to_string(bytes) + "]}}";
    const std::uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length); // little-endian, like the machines this runs on
    file << header;
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(bytes));
}

const nb::tensor_info* first_matrix(const nb::model_file& model) {
    for (const nb::tensor_info& tensor : model.tensors())
        if (tensor.shape.size() == 2 && tensor.type != nb::tensor_type::other) return &tensor;
    return nullptr;
}

// The error of y = x wᵀ, relative, against double precision over the weights in the file.
double error_of(nb::matrix_view<const float> y, nb::matrix_view<const float> x, const nb::tensor_info& tensor) {
    std::vector<float> w(tensor.cols());
    double noise = 0, signal = 0;
    for (std::size_t n = 0; n < tensor.rows(); ++n) {
        if (!nb::read_rows(tensor, n, {w.data(), 1, w.size()})) return 1;
        for (std::size_t t = 0; t < x.rows(); ++t) {
            double exact = 0;
            for (std::size_t k = 0; k < w.size(); ++k) exact += double{x(t, k)} * double{w[k]};
            noise += (y(t, n) - exact) * (y(t, n) - exact);
            signal += exact * exact;
        }
    }
    return std::sqrt(noise / signal);
}

int fail(const std::string& why) {
    std::fprintf(stderr, "linear_layer: %s\n", why.c_str());
    return 2;
}

int main(int argc, char** argv) {
    std::filesystem::path path;
    if (argc > 1) {
        path = argv[1];
    } else {
        path = std::filesystem::temp_directory_path();
        path /= "nibble_linear_" + std::to_string(::getpid()) + ".safetensors";
        write_small_model(path);
    }
    nb::model_file model;
    const nb::status opened = nb::model_file::open(path.c_str(), model);
    if (argc == 1) std::filesystem::remove(path); // the mapping keeps its contents
    if (!opened) return fail(opened.message());

    const nb::tensor_info* tensor = argc > 2 ? model.find(argv[2]) : first_matrix(model);
    if (tensor == nullptr) return fail(path.string() + ": no such matrix");

    const nb::thread_pool threads(std::max(1u, std::thread::hardware_concurrency()));
    linear layer;
    const nb::status loaded = linear::load(*tensor, threads, layer);
    if (!loaded) return fail(loaded.message());

    const std::size_t tokens = 4;
    std::vector<float> x(tokens * layer.inputs()), y(tokens * layer.outputs());
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    const nb::matrix_view<const float> x_view(x.data(), tokens, layer.inputs());
    const nb::matrix_view<float> y_view(y.data(), tokens, layer.outputs());

    nb::workspace scratch;
    layer.forward(x_view, y_view, scratch, threads); // a prompt of four tokens
    const std::vector<float> prompt = y;
    for (std::size_t t = 0; t < tokens; ++t) // the same tokens one by one
        layer.forward({x_view.row(t), 1, layer.inputs()}, {y_view.row(t), 1, layer.outputs()}, scratch, threads);
    const bool same = std::memcmp(y.data(), prompt.data(), y.size() * sizeof(float)) == 0;

    // Both sizes of a call have been seen: from here on nothing is allocated.
    const std::size_t scratch_bytes = scratch.size();
    layer.forward(x_view, y_view, scratch, threads);
    const bool allocated = scratch.size() != scratch_bytes;

    const double error = error_of(y_view, x_view, *tensor);
    std::printf("%.*s: %zu x %zu in %.2f bits per weight, error %.1f %%, token by token %s\n",
                static_cast<int>(tensor->name.size()), tensor->name.data(), layer.outputs(), layer.inputs(),
                nb::bits_per_weight<linear::format>(layer.outputs(), layer.inputs()), 100 * error,
                same ? "the same bits" : "DIFFERENT");
    return same && !allocated && error < 0.2 ? 0 : 1;
}
