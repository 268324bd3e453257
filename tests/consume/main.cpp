// main.cpp: a user's first program: quantize weights, pack them, multiply, and compare with a plain loop.
#include <nibble/version.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

#if __has_include(<nibble/gemm.hpp>)
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

namespace nb = nibble;

int main() {
    constexpr std::size_t m = 3, n = 48, k = 256;
    std::vector<float> w(n * k), x(m * k), y(m * n);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::sin(0.7f * static_cast<float>(i));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::cos(0.3f * static_cast<float>(i));

    const auto weights = nb::pack(nb::quantize<nb::int4_g128>(nb::matrix_view<const float>(w.data(), n, k)));
    nb::gemm(nb::matrix_view<const float>(x.data(), m, k), weights, nb::matrix_view<float>(y.data(), m, n));

    double difference = 0, size = 0;
    for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
            double exact = 0;
            for (std::size_t l = 0; l < k; ++l) exact += double{x[i * k + l]} * double{w[j * k + l]};
            difference += (double{y[i * n + j]} - exact) * (double{y[i * n + j]} - exact);
            size += exact * exact;
        }
    }
    const double relative = std::sqrt(difference / size);
    std::printf("nibble %d.%d.%d: 4-bit product within %.3f of the exact one\n", NIBBLE_VERSION_MAJOR,
                NIBBLE_VERSION_MINOR, NIBBLE_VERSION_PATCH, relative);
    return relative < 0.2 ? 0 : 1;
}
#else
#include <nibble/core/view.hpp>

int main() {
    std::vector<float> values(6, 1.0f);
    const nibble::matrix_view<const float> view(values.data(), 2, 3);
    return view(1, 2) == 1.0f ? 0 : 1;
}
#endif
