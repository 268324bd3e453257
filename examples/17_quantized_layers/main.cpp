// Layers of checkpoints that GPTQ, AWQ and compressed-tensors (MXFP4) quantized: their own codes, scales and zero
// points go into the kernels; nothing is rounded a second time. Here a small file is made first, as these tools do it.
#include <nibble/any.hpp>
#include <nibble/io/read_layer.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace nb = nibble;

// What this engine runs; a layer in any other is refused with a message that says what it is in.
using formats =
    nb::format_list<nb::named_format<"int4_g128_asym", nb::int4_g128_asym>, nb::named_format<"mxfp4", nb::mxfp4>>;

const std::size_t outputs = 64, inputs = 512, group = 128, groups = inputs / group;

// ---- an engine's linear layer --------------------------------------------------------------------------------------

class linear {
public:
    nb::status load(const nb::safetensors_file& file, const std::string& name) {
        nb::quantized_layer<formats> layer;
        // The size of the groups is not in the tensors; read_quantization_config takes it from config.json.
        nb::status read = nb::read_layer(file, name, layer, {.group_size = group});
        if (!read) return read;
        weights_ = nb::pack(layer.weights);
        columns_ = layer.columns;
        layout_ = layer.layout;
        return read;
    }
    void forward(nb::matrix_view<const float> x, nb::matrix_view<float> y) const {
        if (columns_.empty()) return nb::gemm(x, weights_, y);
        // Act-order: columns are sorted by group, and so are the activations. Once for layers of the same order.
        std::vector<float> sorted(x.rows() * x.cols());
        nb::gather_columns(x, columns_, {sorted.data(), x.rows(), x.cols()});
        nb::gemm({sorted.data(), x.rows(), x.cols()}, weights_, y);
    }
    [[nodiscard]] std::string text() const {
        return std::string(nb::layout_name(layout_)) + ", " + std::string(weights_.name()) +
               (columns_.empty() ? "" : ", act-order");
    }

private:
    nb::any_packed<formats> weights_;
    std::vector<std::uint32_t> columns_;
    nb::layer_layout layout_ = nb::layer_layout::none;
};

// ---- the file, by the layouts' definitions -------------------------------------------------------------------------

// A layer's integers, and the weights that they stand for.
struct stored {
    std::vector<std::uint32_t> codes, zeros;
    std::vector<float> weights;
};

template <class T> std::vector<std::byte> bytes_of(const std::vector<T>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

// Random codes; weight = (code - zero) x 2^-7, which is 0x2000 in fp16.
template <class GroupOf> stored random_integers(std::mt19937& random, const GroupOf& group_of) {
    stored s{std::vector<std::uint32_t>(outputs * inputs), std::vector<std::uint32_t>(groups * outputs), {}};
    for (std::uint32_t& code : s.codes) code = static_cast<std::uint32_t>(random() % 16);
    for (std::uint32_t& zero : s.zeros) zero = static_cast<std::uint32_t>(1 + random() % 15);
    for (std::size_t n = 0; n < outputs; ++n)
        for (std::size_t k = 0; k < inputs; ++k) {
            const int zero = static_cast<int>(s.zeros[group_of(k) * outputs + n]);
            s.weights.push_back(static_cast<float>(static_cast<int>(s.codes[n * inputs + k]) - zero) / 128);
        }
    return s;
}

// Words along the inputs, zero points less one; g_idx deals the inputs out to the groups.
nb::status add_gptq(nb::safetensors_writer& file, const std::string& name, const stored& s) {
    std::vector<std::uint32_t> qweight(inputs / 8 * outputs), qzeros(groups * outputs / 8), g_idx(inputs);
    for (std::size_t k = 0; k < inputs; ++k) {
        g_idx[k] = static_cast<std::uint32_t>(k % groups);
        for (std::size_t n = 0; n < outputs; ++n)
            qweight[k / 8 * outputs + n] |= s.codes[n * inputs + k] << (4 * (k % 8));
    }
    for (std::size_t i = 0; i < groups * outputs; ++i) qzeros[i / 8] |= (s.zeros[i] - 1) << (4 * (i % 8));
    const std::vector<std::uint16_t> scales(groups * outputs, 0x2000);
    const std::size_t weight_shape[] = {inputs / 8, outputs}, zero_shape[] = {groups, outputs / 8};
    const std::size_t scale_shape[] = {groups, outputs}, index_shape[] = {inputs};
    nb::status added = file.add(name + ".qweight", "I32", weight_shape, bytes_of(qweight));
    if (added) added = file.add(name + ".qzeros", "I32", zero_shape, bytes_of(qzeros));
    if (added) added = file.add(name + ".scales", "F16", scale_shape, bytes_of(scales));
    if (added) added = file.add(name + ".g_idx", "I32", index_shape, bytes_of(g_idx));
    return added;
}

// Words along the outputs, of which 0, 2, 4, 6, 1, 3, 5, 7 stand side by side.
nb::status add_awq(nb::safetensors_writer& file, const std::string& name, const stored& s) {
    const auto shift = [](std::size_t n) { return 4 * (n % 8 / 2 + n % 2 * 4); };
    std::vector<std::uint32_t> qweight(inputs * outputs / 8), qzeros(groups * outputs / 8);
    for (std::size_t n = 0; n < outputs; ++n) {
        for (std::size_t k = 0; k < inputs; ++k) qweight[(k * outputs + n) / 8] |= s.codes[n * inputs + k] << shift(n);
        for (std::size_t g = 0; g < groups; ++g) qzeros[(g * outputs + n) / 8] |= s.zeros[g * outputs + n] << shift(n);
    }
    const std::vector<std::uint16_t> scales(groups * outputs, 0x2000);
    const std::size_t weight_shape[] = {inputs, outputs / 8}, zero_shape[] = {groups, outputs / 8};
    const std::size_t scale_shape[] = {groups, outputs};
    nb::status added = file.add(name + ".qweight", "I32", weight_shape, bytes_of(qweight));
    if (added) added = file.add(name + ".qzeros", "I32", zero_shape, bytes_of(qzeros));
    if (added) added = file.add(name + ".scales", "F16", scale_shape, bytes_of(scales));
    return added;
}

// E2M1 codes, two in a byte, the first one low; an exponent per 32.
nb::status add_mxfp4(nb::safetensors_writer& file, const std::string& name, std::mt19937& random,
                     std::vector<float>& weights) {
    const float levels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    std::vector<std::uint8_t> packed(outputs * inputs / 2), scales(outputs * inputs / 32);
    for (std::uint8_t& scale : scales) scale = static_cast<std::uint8_t>(118 + random() % 6);
    for (std::size_t i = 0; i < outputs * inputs; ++i) {
        const auto code = static_cast<std::uint32_t>(random() % 16);
        packed[i / 2] = static_cast<std::uint8_t>(packed[i / 2] | code << (4 * (i % 2)));
        weights.push_back(std::ldexp(code < 8 ? levels[code] : -levels[code - 8], scales[i / 32] - 127));
    }
    const std::size_t weight_shape[] = {outputs, inputs / 2}, scale_shape[] = {outputs, inputs / 32};
    nb::status added = file.add(name + ".weight_packed", "U8", weight_shape, bytes_of(packed));
    if (added) added = file.add(name + ".weight_scale", "U8", scale_shape, bytes_of(scales));
    return added;
}

int main() {
    std::mt19937 random;
    const std::string names[] = {"layers.0.q_proj", "layers.0.k_proj", "layers.0.v_proj"};
    const stored gptq = random_integers(random, [](std::size_t k) { return k % groups; });
    const stored awq = random_integers(random, [](std::size_t k) { return k / group; });
    std::vector<float> mxfp4;
    nb::safetensors_writer writer;
    nb::status status = add_gptq(writer, names[0], gptq);
    if (status) status = add_awq(writer, names[1], awq);
    if (status) status = add_mxfp4(writer, names[2], random, mxfp4);
    const std::vector<std::byte> bytes = writer.bytes();
    nb::safetensors_file file;
    if (status) status = nb::safetensors_file::parse(bytes, file); // or open("model.safetensors", file)

    // Activations that 8 bits hold exactly: integers, 127 among them under every scale. So the products, too, must be
    // those of the weights that the tools meant, but for the rounding of fp32 sums.
    const std::size_t tokens = 3;
    std::vector<float> x(tokens * inputs), y(tokens * outputs);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = i % 32 < groups ? 127.0f : static_cast<float>(static_cast<int>(random() % 255) - 127);

    bool right = true;
    for (int i = 0; i < 3 && status; ++i) {
        linear layer;
        status = layer.load(file, names[i]);
        if (!status) break;
        layer.forward({x.data(), tokens, inputs}, {y.data(), tokens, outputs});
        const std::vector<float>& w = i == 0 ? gptq.weights : i == 1 ? awq.weights : mxfp4;
        double error = 0, largest = 0;
        for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t n = 0; n < outputs; ++n) {
                double exact = 0;
                for (std::size_t k = 0; k < inputs; ++k) exact += double{x[t * inputs + k]} * double{w[n * inputs + k]};
                error = std::fmax(error, std::fabs(double{y[t * outputs + n]} - exact));
                largest = std::fmax(largest, std::fabs(exact));
            }
        std::printf("%s: %s; largest error %.1e of %.0f\n", names[i].c_str(), layer.text().c_str(), error, largest);
        right = right && error <= 1e-6 * largest;
    }
    if (!status) std::fprintf(stderr, "%s\n", status.message().c_str());
    return status && right ? 0 : 1;
}
