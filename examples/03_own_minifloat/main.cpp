// A floating-point format that nibble has never heard of: 5 bits, 2 of them exponent.
#include <nibble/nibble.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

using e2m2 = nb::minifloat<nb::float_format{.exponent = 2, .mantissa = 2}>;
using fp5_e2m2_g32 = nb::scheme<e2m2, nb::per_group<32>, nb::scale<nb::f16>>;

// Everything about it is known to the compiler.
static_assert(e2m2::bits == 5 && nb::largest<e2m2> == 7.0f && e2m2::decode(e2m2::encode(5.6f)) == 6.0f);

int main() {
    std::printf("e2m2:");
    for (unsigned code = 0; code < 16; ++code) std::printf(" %g", double{e2m2::decode(static_cast<e2m2::code>(code))});

    const std::size_t outputs = 64, inputs = 512;
    std::vector<float> w(outputs * inputs), x(inputs), y(outputs);
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (float& value : w) value = normal(random);
    for (float& value : x) value = normal(random);

    // Its values are integers times 1/4, so it runs in the integer kernels, though nobody said so.
    const auto weights = nb::pack(nb::quantize<fp5_e2m2_g32>({w.data(), outputs, inputs}));
    nb::gemm({x.data(), 1, inputs}, weights, {y.data(), 1, outputs});

    double noise = 0, signal = 0;
    for (std::size_t n = 0; n < outputs; ++n) {
        double exact = 0;
        for (std::size_t k = 0; k < inputs; ++k) exact += double{x[k]} * double{w[n * inputs + k]};
        noise += (y[n] - exact) * (y[n] - exact);
        signal += exact * exact;
    }
    const double error = std::sqrt(noise / signal);
    std::printf("\nGEMV in %.2f bits per weight: error %.1f %%\n", nb::bits_per_weight<fp5_e2m2_g32>(outputs, inputs),
                100 * error);
    return error < 0.07 ? 0 : 1;
}
