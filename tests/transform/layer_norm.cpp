// layer_norm.cpp: the norm against double precision, far from 0 too, with strides, an addend, a residual and in place;
// the same bits on every ISA.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/transform/layer_norm.hpp>
#include <nibble/transform/rms_norm.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

TEST_CASE("layer_norm: y = w (x - mean) / sqrt(variance + epsilon) + bias + addend", "[transform]") {
    for (const std::size_t cols : {1u, 7u, 8u, 19u, 64u, 515u, 4096u})
        for (const float shift : {0.0f, 1000.0f}) {
            const std::size_t rows = 3, stride = cols + 3;
            std::vector<float> x = nibble_test::normal_values(rows * stride, cols);
            for (float& v : x) v += shift;
            const std::vector<float> w = nibble_test::normal_values(cols, cols + 1);
            const std::vector<float> b = nibble_test::normal_values(cols, cols + 2);
            const std::vector<float> addend = nibble_test::normal_values(rows * cols, cols + 3);
            for (const int given : {0, 1, 2, 3, 7}) {
                nb::layer_norm_options options{.epsilon = 0.01};
                if ((given & 4) != 0) options.addend = {addend.data(), rows, cols};
                const nb::matrix_view<const float> from(x.data(), rows, cols, stride);
                const nb::array_view<const float> weight(w.data(), (given & 1) != 0 ? cols : 0);
                const nb::array_view<const float> bias(b.data(), (given & 2) != 0 ? cols : 0);
                std::vector<float> y(rows * cols);
                nb::layer_norm(from, weight, bias, {y.data(), rows, cols}, options);
                for (std::size_t m = 0; m < rows; ++m) {
                    const double n = static_cast<double>(cols);
                    double mean = 0, variance = 0;
                    for (std::size_t k = 0; k < cols; ++k) mean += double{from(m, k)} / n;
                    for (std::size_t k = 0; k < cols; ++k) variance += std::pow(double{from(m, k)} - mean, 2) / n;
                    for (std::size_t k = 0; k < cols; ++k) {
                        const double scale = (weight.empty() ? 1.0 : double{w[k]}) / std::sqrt(variance + 0.01);
                        const double normed = (double{from(m, k)} - mean) * scale;
                        const double exact = normed + (bias.empty() ? 0.0 : double{b[k]}) +
                                             (options.addend.empty() ? 0.0 : double{addend[m * cols + k]});
                        // One rounding of x - center, which is about as large as x - mean or its deviation.
                        const double bound = 1e-6 * (std::fabs(normed) + std::fabs(exact)) + 2e-7 * std::fabs(scale);
                        REQUIRE(std::fabs(double{y[m * cols + k]} - exact) <= bound);
                    }
                }
                nb::for_each_isa([&]<class Isa>() {
                    std::vector<float> other(x); // in place
                    const nb::matrix_view<float> in_place(other.data(), rows, cols, stride);
                    nb::layer_norm<Isa>(in_place, weight, bias, in_place, options);
                    for (std::size_t m = 0; m < rows; ++m)
                        REQUIRE(std::memcmp(in_place.row(m), y.data() + m * cols, cols * sizeof(float)) == 0);
                });
            }
        }
}

TEST_CASE("norms with a residual: it is updated, and the sum is what is normalised", "[transform]") {
    const std::size_t rows = 4, cols = 77;
    const std::vector<float> x = nibble_test::normal_values(rows * cols, 1);
    const std::vector<float> r = nibble_test::normal_values(rows * cols, 2);
    std::vector<float> sum(r);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += x[i];
    const auto check = [&](const auto& norm) {
        std::vector<float> want(rows * cols), got(rows * cols), residual(r);
        norm(nb::matrix_view<const float>(sum.data(), rows, cols), nb::matrix_view<float>(want.data(), rows, cols),
             nb::norm_options{});
        norm(nb::matrix_view<const float>(x.data(), rows, cols), nb::matrix_view<float>(got.data(), rows, cols),
             nb::norm_options{.residual = {residual.data(), rows, cols}});
        CHECK(got == want);
        CHECK(residual == sum);
    };
    check([](auto from, auto to, const nb::norm_options& o) { nb::rms_norm(from, {}, to, o); });
    check([](auto from, auto to, const nb::norm_options& o) { nb::layer_norm(from, {}, {}, to, o); });
}

TEST_CASE("layer_norm: equal numbers, NaN, infinities, overflow, and what does not fit", "[transform]") {
    const std::vector<float> bias{1, 2, 3, 4, 5, 6, 7, 8};
    std::vector<float> x(8, 3.25f), y(8);
    const auto norm = [&] { nb::layer_norm({x.data(), 1, 8}, {}, bias, {y.data(), 1, 8}); };
    norm();
    CHECK(y == bias);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        x[5] = bad;
        norm();
        for (const float v : y) CHECK(std::isnan(v));
    }
    x[5] = 1e30f;
    norm();
    CHECK(y == bias);
    CHECK(broken_by([&] {
              nb::layer_norm({x.data(), 1, 8}, {}, {x.data(), 7}, {y.data(), 1, 8});
          }) == "norm: one bias per column, or none");
    CHECK(broken_by([&] {
              nb::layer_norm({x.data(), 1, 8}, {}, {}, {y.data(), 1, 8}, {.residual = {x.data(), 2, 4}});
          }) == "norm: the residual must have the shape of x");
}
