// complex_roots.cpp: sectors of the fourth roots of unity against angles, and their borders exactly.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/element/complex_roots.hpp>

#include <cmath>
#include <limits>

using nibble::complex_roots;

TEST_CASE("complex roots: the code is that of the angle", "[element][complex]") {
    const double pi = std::acos(-1.0);
    std::size_t wrong = 0;
    for (std::uint64_t i = 0; i < 100000; ++i) {
        const float re = nibble_test::random_normal(31, 2 * i);
        const float im = nibble_test::random_normal(31, 2 * i + 1);
        if (std::abs(re) == std::abs(im)) continue; // the borders: below, where no angle is rounded
        const double turns = std::floor(2.0 * std::atan2(static_cast<double>(im), static_cast<double>(re)) / pi + 0.5);
        const int wanted = ((static_cast<int>(turns) % 4) + 4) % 4;
        wrong += complex_roots::encode(re, im) != wanted ? 1u : 0u;
    }
    CHECK(wrong == 0);
}

TEST_CASE("complex roots: each diagonal opens its sector", "[element][complex][golden]") {
    for (const float r : {1.0f, 1e-45f, 1e30f, std::numeric_limits<float>::infinity()}) {
        CAPTURE(r);
        const float less = std::nextafter(r, 0.0f);
        CHECK(complex_roots::encode(r, r) == 1);
        CHECK(complex_roots::encode(r, less) == 0);
        CHECK(complex_roots::encode(-r, r) == 2);
        CHECK(complex_roots::encode(-less, r) == 1);
        CHECK(complex_roots::encode(-r, -r) == 3);
        CHECK(complex_roots::encode(-r, -less) == 2);
        CHECK(complex_roots::encode(r, -r) == 0);
        CHECK(complex_roots::encode(less, -r) == 3);
    }
    for (const float re : {0.0f, -0.0f})
        for (const float im : {0.0f, -0.0f}) CHECK(complex_roots::encode(re, im) == 0);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(complex_roots::encode(nan, -5.0f) == 0);
    CHECK(complex_roots::encode(-5.0f, nan) == 0);
}

TEST_CASE("complex roots: code k is i to the k", "[element][complex][golden]") {
    float re = 1.0f;
    float im = 0.0f;
    for (unsigned k = 0; k < 4; ++k) {
        CAPTURE(k);
        const nibble::complex_value v = complex_roots::decode(static_cast<std::uint8_t>(k), 3.0f, 5.0f);
        CHECK(v.re == 3.0f * re);
        CHECK(v.im == 5.0f * im);
        CHECK(complex_roots::encode(re, im) == k);
        const float turned = re; // times i
        re = -im;
        im = turned;
    }
}
