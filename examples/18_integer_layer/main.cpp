// A feed-forward block without floating point (W8A8, static scales): codes of 8 bits in, codes of 8 bits out, and the
// ratios of their scales as integers. Scales come from a calibration, which is all that the float layer is run for.
#include <nibble/nibble.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace nb = nibble;

using weights_format = nb::int8_channel;                                       // a scale per output
using codes_format = nb::scheme<nb::int8, nb::per_tensor, nb::scale<nb::f32>>; // of activations: one for all

// What a layer knows of its results when it was calibrated.
struct integer_linear {
    nb::packed<weights_format> weights;
    std::vector<nb::dyadic> ratios; // scale of w x scale of x / scale of y, per output: 31 bits and a shift
    std::vector<std::int32_t> bias; // in units of scale of w x scale of x
    float input_scale = 0, output_scale = 0;

    integer_linear(const std::vector<float>& w, const std::vector<float>& b, float scale_of_x, float scale_of_y)
        : input_scale(scale_of_x), output_scale(scale_of_y) {
        const auto q = nb::quantize<weights_format>({w.data(), b.size(), w.size() / b.size()},
                                                    {.range = nb::range::least_squares});
        weights = nb::pack(q);
        for (std::size_t n = 0; n < b.size(); ++n) {
            const double unit = double{q.scale_at(n, 0)} * double{scale_of_x};
            ratios.push_back(nb::dyadic::of(unit / double{scale_of_y}));
            bias.push_back(static_cast<std::int32_t>(std::lround(double{b[n]} / unit)));
        }
    }
    // Integers from x to the result; a relu is the lowest code that there may be.
    [[nodiscard]] nb::quantized<codes_format> forward(const nb::quantized<codes_format>& x, bool relu) const {
        nb::quantized<codes_format> y(x.rows(), weights.rows());
        y.scales()[0] = nb::f32::encode(output_scale);
        nb::gemm_integer(nb::prepare<weights_format>(x), weights, y,
                         {.ratios = ratios, .bias = bias, .low = relu ? 0 : INT32_MIN});
        return y;
    }
    // The same with fp32 between the sums and the codes: any epilogue may stand there.
    [[nodiscard]] nb::quantized<codes_format> forward_float(const nb::quantized<codes_format>& x, bool relu,
                                                            const std::vector<float>& b) const {
        nb::quantized<codes_format> y(x.rows(), weights.rows());
        y.scales()[0] = nb::f32::encode(output_scale);
        const auto p = nb::prepare<weights_format>(x);
        if (relu)
            nb::gemm(p, weights, nb::requantize(y), nb::add_bias(b) | nb::relu);
        else
            nb::gemm(p, weights, nb::requantize(y), nb::add_bias(b));
        return y;
    }
};

struct float_linear {
    std::vector<float> w, b;
    [[nodiscard]] std::vector<float> forward(const std::vector<float>& x, bool relu) const {
        const std::size_t inputs = w.size() / b.size(), tokens = x.size() / inputs;
        std::vector<float> y;
        for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t n = 0; n < b.size(); ++n) {
                double sum = double{b[n]};
                for (std::size_t k = 0; k < inputs; ++k) sum += double{x[t * inputs + k]} * double{w[n * inputs + k]};
                y.push_back(static_cast<float>(relu ? std::max(0.0, sum) : sum));
            }
        return y;
    }
};

// The scale under which the largest of these numbers is the code 127.
float scale_of(const std::vector<float>& values) {
    float largest = 0;
    for (const float v : values) largest = std::max(largest, std::fabs(v));
    return largest / 127;
}

int main() {
    const std::size_t width = 256, inner = 512, tokens = 16;
    std::mt19937 random;
    const auto normal = [&](std::size_t count, float deviation) {
        std::vector<float> v(count);
        for (float& x : v) x = std::normal_distribution<float>(0, deviation)(random);
        return v;
    };
    const float_linear up{normal(inner * width, 0.06f), normal(inner, 0.1f)};
    const float_linear down{normal(width * inner, 0.06f), normal(width, 0.1f)};

    // Calibration: a few typical tokens through the float layers.
    const std::vector<float> typical = normal(64 * width, 1), hidden = up.forward(typical, true);
    const float of_x = scale_of(typical), of_h = scale_of(hidden), of_y = scale_of(down.forward(hidden, false));
    const integer_linear first(up.w, up.b, of_x, of_h), second(down.w, down.b, of_h, of_y);

    // Where codes begin. Whatever is larger than what was seen in the calibration saturates.
    const std::vector<float> x = normal(tokens * width, 1);
    nb::quantized<codes_format> codes(tokens, width);
    codes.scales()[0] = nb::f32::encode(of_x);
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t k = 0; k < width; ++k)
            codes.row_codes(t)[k] =
                nb::int8::encode(std::clamp(std::nearbyint(x[t * width + k] / of_x), -127.0f, 127.0f));

    const nb::quantized<codes_format> y = second.forward(first.forward(codes, true), false);
    const nb::quantized<codes_format> other =
        second.forward_float(first.forward_float(codes, true, up.b), false, down.b);
    const std::vector<float> exact = down.forward(up.forward(x, true), false);

    double noise = 0, signal = 0;
    int different = 0, furthest = 0;
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t n = 0; n < width; ++n) {
            const double of_exact = double{exact[t * width + n]};
            noise += std::pow(double{y.value_at(t, n)} - of_exact, 2);
            signal += of_exact * of_exact;
            const int apart = std::abs(int{static_cast<std::int8_t>(y.code_at(t, n))} -
                                       int{static_cast<std::int8_t>(other.code_at(t, n))});
            different += apart != 0 ? 1 : 0;
            furthest = std::max(furthest, apart);
        }
    const double error = std::sqrt(noise / signal);
    std::printf("two layers in integers: error %.2f %% of the float layers'\n", 100 * error);
    std::printf("with fp32 between sums and codes %d of %zu codes are others, by at most %d\n", different,
                tokens * width, furthest);
    return error < 0.03 && furthest <= 1 ? 0 : 1;
}
