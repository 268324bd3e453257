// outlier_victim.cpp: OliVe's pairs: all 256 bytes by the definition, and encoding against a search over them.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/element/outlier_victim.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace {

using nibble::outlier_victim;
using nibble::outlier_victim_values;

float normal_value(unsigned code) {
    return 4.0f * static_cast<float>(code < 8 ? static_cast<int>(code) : static_cast<int>(code) - 16);
}
float outlier_value(unsigned code) {
    const float table[8] = {0, 48, 64, 96, 128, 192, 256, 384};
    return (code & 8) != 0 ? -table[code & 7] : table[code & 7];
}

} // namespace

TEST_CASE("outlier-victim pairs: what each byte means", "[element][outlier_victim][golden]") {
    for (unsigned pair = 0; pair < 256; ++pair) {
        CAPTURE(pair);
        const unsigned even = pair & 15;
        const unsigned odd = pair >> 4;
        const outlier_victim_values v = outlier_victim::decode_pair(static_cast<std::uint8_t>(pair));
        if (even == 8) {
            CHECK(v.even == 0.0f);
            CHECK(v.odd == outlier_value(odd));
        } else if (odd == 8) {
            CHECK(v.even == outlier_value(even));
            CHECK(v.odd == 0.0f);
        } else {
            CHECK(v.even == normal_value(even));
            CHECK(v.odd == normal_value(odd));
        }
        // In units of 4, all of it fits in a byte.
        CHECK(std::fmod(v.even, 4.0f) == 0.0f);
        CHECK(std::abs(v.odd / 4.0f) <= 96.0f);
    }
}

TEST_CASE("outlier-victim pairs: the nearest value, one outlier, the even one first", "[element][outlier_victim]") {
    std::vector<float> all;
    for (int q = -7; q <= 7; ++q) all.push_back(static_cast<float>(4 * q));
    for (const float v : {48.0f, 64.0f, 96.0f, 128.0f, 192.0f, 256.0f, 384.0f}) {
        all.push_back(v);
        all.push_back(-v);
    }
    const auto nearest = [&](float x) {
        float best = 0.0f;
        double least = std::numeric_limits<double>::infinity();
        for (const float v : all) {
            const double d = std::abs(static_cast<double>(x) - static_cast<double>(v));
            if (d < least || (d == least && v < best)) {
                least = d;
                best = v;
            }
        }
        return best;
    };
    std::size_t outliers = 0;
    std::size_t wrong = 0;
    for (std::uint64_t i = 0; i < 40000; ++i) {
        // Half of them on the grid of ties.
        float x[2];
        for (std::uint64_t j = 0; j < 2; ++j) {
            const float wide = 24.0f * nibble_test::random_normal(5, 2 * i + j) *
                               (nibble_test::random64(6, 2 * i + j) % 5 == 0 ? 6.0f : 1.0f);
            x[j] = i % 2 == 0 ? wide : 2.0f * std::round(wide / 2.0f);
        }
        const float even = nearest(x[0]);
        const float odd = nearest(x[1]);
        const bool even_out = std::abs(even) > 32.0f;
        const bool odd_out = std::abs(odd) > 32.0f && !even_out;
        const std::uint8_t pair = outlier_victim::encode_pair(x[0], x[1]);
        const outlier_victim_values v = outlier_victim::decode_pair(pair);
        outliers += even_out || odd_out ? 1 : 0;
        wrong += v.even != (odd_out ? 0.0f : even) || v.odd != (even_out ? 0.0f : odd) ? 1 : 0;
        // The identifier never stands beside itself or beside a code without a magnitude.
        const bool victim_even = (pair & 15) == 8;
        const bool victim_odd = (pair >> 4) == 8;
        wrong += victim_even && victim_odd ? 1 : 0;
        wrong += (victim_even && (pair >> 4) % 8 == 0) || (victim_odd && (pair & 15) % 8 == 0) ? 1 : 0;
        wrong += (even_out || odd_out) != (victim_even || victim_odd) ? 1 : 0;
    }
    CHECK(wrong == 0);
    CHECK(outliers > 4000);
}

TEST_CASE("outlier-victim pairs: NaN is 0, infinity the largest outlier", "[element][outlier_victim]") {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    CHECK(outlier_victim::encode_pair(nan, 4.0f) == 0x10);
    CHECK(outlier_victim::decode_pair(outlier_victim::encode_pair(nan, -infinity)).odd == -384.0f);
    CHECK(outlier_victim::decode_pair(outlier_victim::encode_pair(infinity, infinity)).even == 384.0f);
}
