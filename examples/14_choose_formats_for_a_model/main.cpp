// Chooses a format for every matrix of a model so that all of them fit into a number of bits per weight: those that
// suffer most get more.
//   choose_formats_for_a_model [FILE.gguf | FILE.safetensors [BITS]]
// Without a file it makes a small model for itself. (nibble_compare has all formats and their times,
// nibble_perplexity says what they cost a language model.)
#include <nibble/core/view.hpp>
#include <nibble/io/model_file.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;

// Any named scheme may stand here, one of your own too; the first is what every matrix gets at least.
using candidates =
    nb::format_list<nb::named_format<"int3_g32", nb::int3_g32>, nb::named_format<"int4_g32", nb::int4_g32>,
                    nb::named_format<"nvfp4", nb::nvfp4>, nb::named_format<"int6_g32", nb::int6_g32>,
                    nb::named_format<"int8_g32", nb::int8_g32>>;

struct choice {
    std::string format;
    double bits = 0;  // per weight
    double error = 0; // squared, of the weights that were tried, over their squares
};

struct matrix {
    std::string name;
    double weights = 0;
    std::vector<choice> choices;
    std::size_t taken = 0;
};

// Tries every candidate on up to 128 rows, spread over the matrix.
nb::status try_formats(const nb::tensor_info& tensor, matrix& out) {
    const std::size_t cols = tensor.cols(), rows = std::min<std::size_t>(tensor.rows(), 128);
    std::vector<float> values(rows * cols), back(rows * cols);
    for (std::size_t i = 0; i < rows; ++i) {
        nb::status read = nb::read_rows(tensor, i * tensor.rows() / rows, {values.data() + i * cols, 1, cols});
        if (!read) return read;
    }
    out.name = tensor.name;
    out.weights = static_cast<double>(tensor.rows()) * static_cast<double>(cols);
    nb::for_each_format(candidates{}, [&]<class Format>() {
        using scheme = typename Format::scheme;
        nb::dequantize(nb::quantize<scheme>({values.data(), rows, cols}, {.range = nb::range::least_squares}),
                       {back.data(), rows, cols});
        double noise = 0, signal = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            noise += std::pow(double{back[i]} - double{values[i]}, 2);
            signal += std::pow(double{values[i]}, 2);
        }
        out.choices.push_back({std::string(Format::name), nb::bits_per_weight<scheme>(tensor.rows(), cols),
                               signal > 0 ? noise / signal : 0});
    });
    return {};
}

double bits_of(const std::vector<matrix>& model) {
    double bits = 0, weights = 0;
    for (const matrix& m : model) {
        bits += m.choices[m.taken].bits * m.weights;
        weights += m.weights;
    }
    return bits / weights;
}
// Each matrix's result is off by its share of the square, whatever its size: what a model suffers is about their sum.
// An estimate to begin with: the model's own loss decides.
double error_of(const std::vector<matrix>& model) {
    double error = 0;
    for (const matrix& m : model) error += m.choices[m.taken].error;
    return error;
}

// Step by step the change that saves most error for the bits that it costs, as long as one fits.
void choose(std::vector<matrix>& model, double budget) {
    double all = 0;
    for (const matrix& m : model) all += m.weights;
    for (;;) {
        const double left = (budget - bits_of(model)) * all;
        matrix* best = nullptr;
        std::size_t to = 0;
        double most = 0;
        for (matrix& m : model)
            for (std::size_t i = 0; i < m.choices.size(); ++i) {
                const double cost = (m.choices[i].bits - m.choices[m.taken].bits) * m.weights;
                const double saves = m.choices[m.taken].error - m.choices[i].error;
                if (saves <= 0 || cost > left) continue;
                const double worth = saves / std::max(cost, 1e-9); // no bits at all: at once
                if (worth <= most) continue;
                most = worth;
                best = &m;
                to = i;
            }
        if (best == nullptr) return;
        best->taken = to;
    }
}

// A safetensors file with matrices that are unlike: bell-shaped ones, some with inputs of larger weights, heavy tails.
std::vector<std::byte> small_model() {
    nb::safetensors_writer file;
    std::mt19937 random;
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::student_t_distribution<float> tailed(3.0f);
    const std::size_t rows = 128, cols = 512, shape[] = {rows, cols};
    for (const char* name : {"q_proj", "v_proj", "up_proj", "down_proj", "lm_head"}) {
        std::vector<float> values(rows * cols);
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = std::strcmp(name, "down_proj") == 0 ? 0.01f * tailed(random) : normal(random);
            if (std::strcmp(name, "q_proj") == 0 && i % cols % 50 == 0) values[i] *= 8;
        }
        std::vector<std::byte> bytes(values.size() * sizeof(float));
        std::memcpy(bytes.data(), values.data(), bytes.size());
        if (!file.add(name, "F32", shape, std::move(bytes))) return {};
    }
    return file.bytes();
}

int fail(const std::string& why) {
    std::fprintf(stderr, "choose_formats_for_a_model: %s\n", why.c_str());
    return 2;
}

int main(int argc, char** argv) {
    const double budget = argc > 2 ? std::atof(argv[2]) : 5;
    const std::vector<std::byte> made = argc > 1 ? std::vector<std::byte>() : small_model();
    nb::model_file file;
    const nb::status opened = argc > 1 ? nb::model_file::open(argv[1], file) : nb::model_file::parse(made, file);
    if (!opened) return fail(opened.message());

    std::vector<matrix> model;
    for (const nb::tensor_info& tensor : file.tensors()) {
        if (tensor.shape.size() < 2 || tensor.type == nb::tensor_type::other || tensor.is_empty()) continue;
        const nb::status tried = try_formats(tensor, model.emplace_back());
        if (!tried) return fail(tried.message());
    }
    if (model.empty()) return fail("no matrix that can be read");

    // What one format for all would give, of those that fit.
    double uniform = HUGE_VAL;
    std::string name;
    for (std::size_t i = 0; i < candidates::size; ++i) {
        for (matrix& m : model) m.taken = i;
        if (bits_of(model) > budget || error_of(model) >= uniform) continue;
        uniform = error_of(model);
        name = model[0].choices[i].format;
    }
    for (matrix& m : model) m.taken = 0;
    if (name.empty()) return fail("no candidate has so few bits: the smallest takes " + std::to_string(bits_of(model)));
    choose(model, budget);

    std::printf("%-28s", "error of the weights, %");
    for (const choice& c : model[0].choices) std::printf(" %9s", c.format.c_str());
    std::printf("  take\n");
    for (const matrix& m : model) {
        std::printf("%-28s", m.name.c_str());
        for (const choice& c : m.choices) std::printf(" %9.2f", 100 * std::sqrt(c.error));
        std::printf("  %s\n", m.choices[m.taken].format.c_str());
    }
    const double gain = 100 * (1 - error_of(model) / uniform);
    std::printf("%.2f of %.2f bits per weight; squared errors %.0f %% below those of %s for all\n", bits_of(model),
                budget, gain, name.c_str());
    return bits_of(model) <= budget && error_of(model) <= uniform ? 0 : 1;
}
