// golden_blocks.cpp: the blocks of formats.md, sections 3 to 5, and what quantize does with single awkward values.
#include "support/catch.hpp"

#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace nibble;

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// x of formats.md, section 3.
std::vector<float> golden_x() {
    std::vector<float> x;
    for (int i = 0; i < 32; ++i) x.push_back(static_cast<float>(((37 * i) % 64 - 32) / 10.0));
    return x;
}

template <class Scheme>
quantized<Scheme> quantize_row(const std::vector<float>& x, const quantize_options& options = {}) {
    return quantize<Scheme>(matrix_view<const float>(x.data(), 1, x.size()), options);
}

template <class Scheme> double relative_error(const quantized<Scheme>& q, const std::vector<float>& x) {
    double error = 0.0;
    double power = 0.0;
    for (std::size_t j = 0; j < x.size(); ++j) {
        const double d = static_cast<double>(x[j]) - static_cast<double>(q.value_at(0, j));
        error += d * d;
        power += static_cast<double>(x[j]) * static_cast<double>(x[j]);
    }
    return error / power;
}

template <class Scheme> void check_block(unsigned scale, const std::vector<unsigned>& codes, double error) {
    const std::vector<float> x = golden_x();
    const auto q = quantize_row<Scheme>(x);
    CHECK(unsigned{q.scales()[0]} == scale);
    for (std::size_t j = 0; j < 32; ++j) {
        CAPTURE(j);
        CHECK(unsigned{q.code_at(0, j)} == codes[j]);
    }
    CHECK(relative_error(q, x) == Approx(error).epsilon(6e-4)); // four digits are given
}

std::vector<unsigned> bytes_of(const std::vector<int>& integers) {
    std::vector<unsigned> codes;
    for (const int i : integers) codes.push_back(static_cast<unsigned>(i) & 0xffu);
    return codes;
}

} // namespace

TEST_CASE("MX: golden blocks", "[quantize][golden]") {
    check_block<mxfp4>(0x7E, {0xF, 2, 0xE, 5, 0xC, 6,   9, 0xF, 3, 0xE, 6,   0xC, 7,   0, 0xF, 4,
                              0xD, 6, 0xA, 7, 2,   0xE, 5, 0xD, 6, 9,   0xF, 3,   0xE, 5, 0xC, 7},
                       1.005e-2);
    check_block<mxfp6_e2m3>(0x7E, {0x3D, 0x08, 0x39, 0x14, 0x32, 0x1A, 0x23, 0x3C, 0x0D, 0x37, 0x16,
                                   0x2E, 0x1B, 0x02, 0x3A, 0x11, 0x35, 0x18, 0x2A, 0x1C, 0x06, 0x39,
                                   0x13, 0x32, 0x1A, 0x25, 0x3C, 0x0B, 0x38, 0x16, 0x30, 0x1B},
                            6.829e-4);
    check_block<mxfp6_e3m2>(0x7C, {0x3E, 0x14, 0x3C, 0x1A, 0x39, 0x1D, 0x2E, 0x3E, 0x16, 0x3C, 0x1B,
                                   0x37, 0x1E, 0x0A, 0x3D, 0x18, 0x3A, 0x1C, 0x35, 0x1E, 0x12, 0x3D,
                                   0x1A, 0x39, 0x1D, 0x31, 0x3E, 0x16, 0x3C, 0x1B, 0x38, 0x1D},
                            2.686e-3);
    check_block<mxfp8_e4m3>(0x78, {0xFD, 0x68, 0xF9, 0x74, 0xF2, 0x7A, 0xDD, 0xFC, 0x6D, 0xF7, 0x76,
                                   0xEE, 0x7B, 0x55, 0xFA, 0x71, 0xF5, 0x78, 0xEA, 0x7C, 0x65, 0xF9,
                                   0x73, 0xF2, 0x7A, 0xE2, 0xFC, 0x6B, 0xF8, 0x76, 0xF0, 0x7B},
                            6.711e-4);
    check_block<mxfp8_e5m2>(0x71, {0xFA, 0x70, 0xF8, 0x76, 0xF5, 0x79, 0xEA, 0xFA, 0x72, 0xF8, 0x77,
                                   0xF3, 0x7A, 0x66, 0xF9, 0x74, 0xF6, 0x78, 0xF1, 0x7A, 0x6E, 0xF9,
                                   0x76, 0xF5, 0x79, 0xED, 0xFA, 0x72, 0xF8, 0x77, 0xF4, 0x79},
                            2.686e-3);
    check_block<mxint8>(0x80, bytes_of({-102, 16, -70, 48, -38, 80,  -6, -93, 26, -61, 58,  -29, 90,  3,  -83, 35,
                                        -51,  67, -19, 99, 13,  -74, 45, -42, 77, -10, -96, 22,  -64, 54, -32, 86}),
                        2.219e-5);
}

TEST_CASE("NVFP4: golden tensor scale, block scales and bytes", "[quantize][golden]") {
    const auto q = quantize_row<nvfp4>(golden_x());
    CHECK(q.outer_count() == 1);
    CHECK(q.outer_scales()[0] == 0x3A9C09C1u);
    CHECK(q.scale_count() == 2);
    CHECK(unsigned{q.scales()[0]} == 0x7E);
    CHECK(unsigned{q.scales()[1]} == 0x7E);
    // Byte 10 is E1 in formats.md, which divides in double: 0.4 / 0.53333335 is 0.74999998 there, and 0.75, a tie, in
    // fp32, in which a scale is one number and x / scale is rounded.
    const unsigned bytes[16] = {0x2F, 0x5E, 0x6C, 0xF9, 0xE3, 0xB5, 0x07, 0x4E,
                                0x6D, 0x7A, 0xE2, 0xC5, 0x96, 0x3F, 0x5E, 0x7C};
    for (std::size_t b = 0; b < 16; ++b) {
        CAPTURE(b);
        CHECK(unsigned{q.row_codes(0)[b]} == bytes[b]);
    }
}

TEST_CASE("block floating point: golden blocks", "[quantize][golden]") {
    const std::vector<float> x{3.2f, -1.0f, 0.3f, 0.05f};
    const auto q4 = quantize_row<bfp12_g16>(x);
    const float step = 0.5f;
    CHECK(q4.scale_at(0, 0) == step);
    const float four[4] = {6, -2, 1, 0};
    const float eight[4] = {102, -32, 10, 2};
    const auto q8 = quantize_row<bfp16_g16>(x);
    CHECK(q8.scale_at(0, 0) == 0x1p-5f);
    for (std::size_t j = 0; j < 4; ++j) {
        CHECK(q4.value_at(0, j) == four[j] * step);
        CHECK(q8.value_at(0, j) == eight[j] * 0x1p-5f);
    }
}

TEST_CASE("MX: a block with a NaN or an infinity is NaN, others are not", "[quantize]") {
    for (const float bad : {nan_value, infinity, -infinity}) {
        std::vector<float> x(96, 1.0f);
        x[40] = bad;
        const auto q = quantize_row<mxfp4>(x);
        CHECK(q.nonfinite());
        CHECK(unsigned{q.scales()[1]} == 0xFF);
        for (std::size_t j = 0; j < 96; ++j) {
            if (j / 32 == 1) {
                CHECK(q.code_at(0, j) == 0);
                CHECK(std::isnan(q.value_at(0, j)));
            } else {
                CHECK(q.value_at(0, j) == 1.0f);
            }
        }
    }
    const auto zeros = quantize_row<mxfp4>(std::vector<float>(32, 0.0f));
    CHECK(unsigned{zeros.scales()[0]} == 0x00);
    CHECK_FALSE(zeros.nonfinite());
    CHECK(zeros.value_at(0, 3) == 0.0f);
}

TEST_CASE("quantize: NaN and infinity in integers and in FP8", "[quantize]") {
    const std::vector<float> x{1.0f, nan_value, -2.0f, infinity, -infinity, 0.5f, 0.0f, 2.0f};
    const auto integers = quantize_row<int8_channel>(x);
    CHECK(integers.nonfinite());
    CHECK(integers.scale_at(0, 0) == 2.0f / 127.0f); // of the finite values
    CHECK(integers.value_at(0, 1) == 0.0f);
    CHECK(integers.code_at(0, 3) == 127);
    CHECK(integers.code_at(0, 4) == 129); // -127
    const auto unsigned_codes = quantize_row<int8_channel_asym>(x);
    CHECK(unsigned_codes.value_at(0, 1) == 0.0f);
    CHECK(unsigned_codes.code_at(0, 3) == 255);
    CHECK(unsigned_codes.code_at(0, 4) == 0);
    const auto eight = quantize_row<fp8_e4m3_channel>(x);
    CHECK(std::isnan(eight.value_at(0, 1)));
    CHECK(eight.code_at(0, 3) == 0x7E);
    CHECK(eight.code_at(0, 4) == 0xFE);
    // A NaN among zeros is still a NaN.
    const auto alone = quantize_row<fp8_e4m3_channel>({0.0f, nan_value, 0.0f});
    CHECK(alone.scale_at(0, 0) == 0.0f);
    CHECK(alone.value_at(0, 0) == 0.0f);
    CHECK(std::isnan(alone.value_at(0, 1)));
    const auto half = quantize_row<f16_plain>({1e6f, nan_value, -infinity, 65504.0f});
    CHECK(half.value_at(0, 0) == infinity);
    CHECK(std::isnan(half.value_at(0, 1)));
    CHECK(half.value_at(0, 2) == -infinity);
    CHECK(half.value_at(0, 3) == 65504.0f);
}

TEST_CASE("quantize: the width of a range may exceed fp32", "[quantize]") {
    const auto q = quantize_row<int8_channel_asym>({-3.0e38f, 3.0e38f, 0.0f, 1.0e38f});
    CHECK(std::isfinite(q.scale_at(0, 0)));
    CHECK(q.value_at(0, 2) == 0.0f);
    CHECK(static_cast<double>(q.value_at(0, 0)) == Approx(-3.0e38).epsilon(0.005));
    CHECK(static_cast<double>(q.value_at(0, 1)) == Approx(3.0e38).epsilon(0.005));
}

TEST_CASE("quantize: a constant group is reproduced under a minimum, and zero is exact under a zero point",
          "[quantize]") {
    const std::vector<float> five(40, 5.0f);
    const auto minimum_of = quantize_row<int4_g32_min>(five);
    for (std::size_t j = 0; j < five.size(); ++j) CHECK(minimum_of.value_at(0, j) == 5.0f);
    std::vector<float> mixed(40, 5.0f);
    mixed[7] = 0.0f;
    mixed[33] = -1.0f;
    mixed[34] = 0.0f;
    const auto zero_point = quantize_row<int4_g32_asym>(mixed);
    CHECK(zero_point.value_at(0, 7) == 0.0f);
    CHECK(zero_point.value_at(0, 34) == 0.0f);
}

namespace {

// A rule of one's own: twice the mean.
struct by_twice_the_mean {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        return static_cast<float>(2.0 * g.sum_magnitude / static_cast<double>(g.count));
    }
};

} // namespace

TEST_CASE("quantize: a rule of one's own sees every statistic", "[quantize]") {
    const auto q = quantize_row<scheme<ternary, per_channel, scale<f32, by_twice_the_mean>>>({1.0f, -2.0f, 3.0f, 0.0f});
    CHECK(q.scale_at(0, 0) == 3.0f);
}

TEST_CASE("quantize: least squares counts errors beyond fp32's range", "[quantize]") {
    // Under 0.4 of the range every large value would be off by more than half of it.
    const auto q = quantize_row<scheme<int4, per_channel, scale<f32>>>({-3.0e38f, 3.0e38f, 3.0e38f, -3.0e38f},
                                                                       {.range = range::least_squares});
    for (std::size_t j = 0; j < 4; ++j)
        CHECK(std::abs(static_cast<double>(q.value_at(0, j))) == Approx(3.0e38).epsilon(0.01));
}

TEST_CASE("quantize: groups of any multiple of 4, ragged, with a scale shared by rows", "[quantize]") {
    // Slots of 36 columns end inside a byte of 3-bit codes and between blocks of 512.
    std::vector<float> x(3 * 1033);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<float>(static_cast<int>(i % 7) - 3) * (i / 36 % 2 == 0 ? 1.0f : 4.0f);
    const auto q = quantize<scheme<int3, per_group<36>, scale<f32>>>(matrix_view<const float>(x.data(), 3, 1033));
    bool small_error = true;
    for (std::size_t i = 0; i < 3; ++i)
        for (std::size_t j = 0; j < 1033; ++j)
            small_error =
                small_error && std::abs(x[i * 1033 + j] - q.value_at(i, j)) <= 0.5f * q.scale_at(i, j) * 1.0001f;
    CHECK(small_error);
    const auto tensor = quantize<scheme<int8, per_tensor, scale<f32>>>(matrix_view<const float>(x.data(), 3, 1033));
    CHECK(tensor.scale_count() == 1);
    CHECK(tensor.scale_at(2, 1000) == 12.0f / 127.0f);
    const auto searched = quantize<scheme<int3, per_tensor, scale<f32>>>(matrix_view<const float>(x.data(), 3, 1033),
                                                                         {.range = range::least_squares});
    CHECK(searched.scale_count() == 1);
}

TEST_CASE("quantize: stochastic rounding has the mean of the value", "[quantize]") {
    // 0.3 of a step in 20000 places: standard deviation of the mean 0.0032 steps.
    std::vector<float> x(20000, 0.3f);
    x[0] = 127.0f;
    const auto q = quantize_row<int8_channel>(x, {.rounding = rounding::stochastic, .seed = 9});
    double sum = 0.0;
    for (std::size_t j = 1; j < x.size(); ++j) sum += static_cast<double>(q.value_at(0, j));
    CHECK(sum / static_cast<double>(x.size() - 1) == Approx(0.3).margin(0.017));
}
