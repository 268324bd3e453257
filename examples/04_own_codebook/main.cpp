// A codebook of your own: any levels, here eight that suit bell-shaped weights better than 3-bit integers do.
#include <nibble/nibble.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace nb = nibble;

// Code 0 means the first level, and so on. The largest magnitude is what the largest weight of a group is scaled to.
struct bell_levels {
    static constexpr float levels[] = {-1.0f, -0.6f, -0.34f, -0.11f, 0.11f, 0.34f, 0.6f, 1.0f};
};
using bell3 = nb::codebook<bell_levels>;
using bell3_g64 = nb::scheme<bell3, nb::per_group<64>, nb::scale<nb::f16>>;

// Eight levels make 3 bits; a value goes to the nearest one.
static_assert(bell3::bits == 3 && bell3::decode(bell3::encode(0.4f)) == 0.34f);

template <nb::any_scheme Scheme> double error_of(nb::matrix_view<const float> w) {
    std::vector<float> read_back(w.rows() * w.cols());
    nb::dequantize(nb::quantize<Scheme>(w), {read_back.data(), w.rows(), w.cols()});
    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < read_back.size(); ++i) {
        const double exact = w.data()[i], error = read_back[i] - exact;
        noise += error * error;
        signal += exact * exact;
    }
    return std::sqrt(noise / signal);
}

int main() {
    const std::size_t rows = 128, cols = 1024;
    std::vector<float> values(rows * cols);
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random);
    const nb::matrix_view<const float> w(values.data(), rows, cols);

    const double integers = error_of<nb::int3_g64>(w), own = error_of<bell3_g64>(w);
    std::printf("error of weights in %.2f bits: int3_g64 %.1f %%, bell3_g64 %.1f %%\n",
                nb::bits_per_weight<bell3_g64>(rows, cols), 100 * integers, 100 * own);
    return own < integers ? 0 : 1;
}
