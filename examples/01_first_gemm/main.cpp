#include <nibble/nibble.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

int main() {
    const std::size_t tokens = 4, outputs = 256, inputs = 1024;
    std::vector<float> w(outputs * inputs), x(tokens * inputs), bias(outputs), y(tokens * outputs);
    std::mt19937 random;
    for (auto* values : {&w, &x, &bias})
        for (float& value : *values) value = std::normal_distribution<float>()(random);

    // Once per model: 4-bit integers with an fp16 scale per group of 128, then in the order that the kernels read.
    const auto weights = nb::pack(nb::quantize<nb::int4_g128>({w.data(), outputs, inputs}));
    // For every batch of tokens: y = relu(x wᵀ + bias).
    nb::gemm({x.data(), tokens, inputs}, weights, {y.data(), tokens, outputs}, nb::add_bias(bias) | nb::relu);

    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        double exact = bias[i % outputs];
        for (std::size_t k = 0; k < inputs; ++k)
            exact += double{x[i / outputs * inputs + k]} * double{w[i % outputs * inputs + k]};
        noise += std::pow(y[i] - std::fmax(exact, 0), 2);
        signal += std::pow(std::fmax(exact, 0), 2);
    }
    std::printf("%.3f bits per weight, %.1f dB of signal over noise in y\n",
                nb::bits_per_weight<nb::int4_g128>(outputs, inputs), 10 * std::log10(signal / noise));
    return signal > 50 * noise ? 0 : 1;
}
