// rms_norm.cpp: the norm against double precision, with strides, an addend and in place; the same bits on every ISA and
// for any threads.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/transform/rms_norm.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

TEST_CASE("rms_norm: y = w x / sqrt(mean of x^2 + epsilon) + addend", "[transform]") {
    for (const std::size_t cols : {1u, 7u, 8u, 16u, 64u, 515u, 4096u}) {
        const std::size_t rows = 5, stride = cols + 3;
        const std::vector<float> x = nibble_test::normal_values(rows * stride, cols);
        const std::vector<float> w = nibble_test::normal_values(cols, cols + 1);
        const std::vector<float> addend = nibble_test::normal_values(rows * cols, cols + 2);
        for (const bool weighted : {false, true})
            for (const bool adds : {false, true}) {
                nb::rms_norm_options options{.epsilon = 0.01};
                if (adds) options.addend = {addend.data(), rows, cols};
                const nb::matrix_view<const float> from(x.data(), rows, cols, stride);
                const nb::array_view<const float> weight(w.data(), weighted ? cols : 0);
                std::vector<float> y(rows * cols);
                nb::rms_norm(from, weight, {y.data(), rows, cols}, options);
                for (std::size_t m = 0; m < rows; ++m) {
                    double squares = 0;
                    for (std::size_t k = 0; k < cols; ++k) squares += double{from(m, k)} * double{from(m, k)};
                    const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + 0.01);
                    for (std::size_t k = 0; k < cols; ++k) {
                        const double normed = double{from(m, k)} * scale * (weighted ? double{w[k]} : 1.0);
                        const double exact = normed + (adds ? double{addend[m * cols + k]} : 0.0);
                        REQUIRE(std::fabs(double{y[m * cols + k]} - exact) <=
                                1e-6 * std::fabs(normed) + 1e-7 * std::fabs(exact));
                    }
                }
                nb::for_each_isa([&]<class Isa>() {
                    std::vector<float> other(x); // in place
                    const nb::matrix_view<float> in_place(other.data(), rows, cols, stride);
                    nb::rms_norm<Isa>(in_place, weight, in_place, options);
                    for (std::size_t m = 0; m < rows; ++m)
                        REQUIRE(std::memcmp(in_place.row(m), y.data() + m * cols, cols * sizeof(float)) == 0);
                });
            }
    }
}

TEST_CASE("rms_norm: zeros, NaN, overflow, and what does not fit", "[transform]") {
    std::vector<float> x(16), y(16);
    nb::rms_norm({x.data(), 2, 8}, {}, {y.data(), 2, 8});
    CHECK(y == std::vector<float>(16));
    x[3] = std::numeric_limits<float>::quiet_NaN();
    x[12] = 1e30f;
    nb::rms_norm({x.data(), 2, 8}, {}, {y.data(), 2, 8});
    CHECK(std::isnan(y[0]));
    CHECK(y[12] == 0.0f);
    CHECK(broken_by([&] {
              nb::rms_norm({x.data(), 2, 8}, {}, {y.data(), 1, 8});
          }) == "norm: y must have the shape of x");
    CHECK(broken_by([&] {
              nb::rms_norm({x.data(), 2, 8}, y, {y.data(), 2, 8});
          }) == "norm: one weight per column, or none");
}
