// Tries a few formats on a matrix and takes the smallest one that is good enough. (nibble_compare does it for all of
// them, with the weights of a model and with times.)
#include <nibble/nibble.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace nb = nibble;

// Any scheme may stand here, one of your own too.
using candidates = nb::format_list<nb::int8_channel, nb::mxfp8_e4m3, nb::int6_g128, nb::mxfp6_e2m3, nb::int5_g64,
                                   nb::int4_g32, nb::nvfp4, nb::nf4_g64, nb::mxfp4, nb::int3_g32, nb::ternary_g128>;

// Signal over quantization noise in decibels: 6 dB are one bit of precision.
template <nb::any_scheme Scheme> double sqnr_db(nb::matrix_view<const float> w, const nb::quantized<Scheme>& q) {
    double noise = 0, signal = 0;
    for (std::size_t row = 0; row < w.rows(); ++row)
        for (std::size_t col = 0; col < w.cols(); ++col) {
            const double exact = w(row, col), error = q.value_at(row, col) - exact;
            noise += error * error;
            signal += exact * exact;
        }
    return 10 * std::log10(signal / noise);
}

int main() {
    // Your matrix: outputs x inputs. This one is bell-shaped, with a few inputs of larger weights.
    const std::size_t outputs = 128, inputs = 1024;
    std::vector<float> values(outputs * inputs);
    std::mt19937 random;
    std::normal_distribution<float> normal(0.0f, 0.02f);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = normal(random) * (i % inputs % 200 == 0 ? 6.0f : 1.0f);
    const nb::matrix_view<const float> w(values.data(), outputs, inputs);

    const double wanted_db = 20;
    std::string best;
    double best_bits = 32;
    std::printf("%-14s %8s %8s\n", "format", "bits", "dB");
    nb::for_each_format(candidates{}, [&]<class Scheme>() {
        const nb::quantized<Scheme> q = nb::quantize<Scheme>(w, {.range = nb::range::least_squares});
        const std::string name(nb::name_of<Scheme>());
        const double bits = nb::bits_per_weight(q), db = sqnr_db(w, q);
        std::printf("%-14s %8.3f %8.2f\n", name.c_str(), bits, db);
        if (db >= wanted_db && bits < best_bits) {
            best = name;
            best_bits = bits;
        }
    });
    std::printf("smallest with %.0f dB: %s\n", wanted_db, best.c_str());
    return best_bits < 8 ? 0 : 1;
}
