// extremes.cpp: finite weights at both ends of fp32 have finite values in every format, and scales below 0 are scales.
#include "support/catch.hpp"
#include "support/kinds.hpp"
#include "support/quantize_reference.hpp"
#include "support/random.hpp"

#include <nibble/io/ggml_quantize.hpp>
#include <nibble/quantize.hpp>
#include <nibble/quantize/complex.hpp>
#include <nibble/quantize/cross.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace nibble;

namespace {

constexpr float end = std::numeric_limits<float>::max();
constexpr std::size_t cols = 256;

// Two rows each.
[[nodiscard]] std::vector<std::vector<float>> extreme_weights() {
    std::vector<std::vector<float>> all;
    for (const float top : {1e-45f, 1e-40f, 0x1p-126f, 1e38f, 2.84e38f, 3.0e38f, 3.2e38f, 3.35e38f, end}) {
        const auto each = [&](auto&& value) {
            std::vector<float> x(2 * cols);
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = value(i);
            all.push_back(x);
        };
        each([&](std::size_t i) { return i == 7 ? top : 1.0f; });
        each([&](std::size_t i) { return i == 7 ? -top : 1.0f; });
        each([&](std::size_t) { return top; });
        each([&](std::size_t i) { return i % 2 == 0 ? top : -top; });
        each([&](std::size_t i) { return i % 100 == 3 ? top : i % 100 == 4 ? -top : 0.0f; });
        each([&](std::size_t i) { return top * (static_cast<float>(i * 37 % 256) / 128.0f - 1.0f); });
        each([&](std::size_t i) { return top * (0.5f + static_cast<float>(i * 37 % 256) / 512.0f); });
    }
    return all;
}

// All of extreme_weights() as `restored` gives them back.
template <class Restored> void check_restored(const std::string& what, const Restored& restored) {
    static const std::vector<std::vector<float>> all = extreme_weights();
    std::size_t infinite = 0;
    for (const std::vector<float>& x : all)
        for (const float v : restored(matrix_view<const float>(x.data(), 2, cols)))
            infinite += std::isfinite(v) ? 0u : 1u;
    CAPTURE(what);
    CHECK(infinite == 0);
}
template <class Quantize> void check_finite(const std::string& what, const Quantize& quantize_it) {
    check_restored(what, [&](matrix_view<const float> w) {
        const auto q = quantize_it(w);
        std::vector<float> y(2 * cols);
        dequantize(q, matrix_view<float>(y.data(), 2, cols));
        return y;
    });
}
// restored(w, options) in every range and rounding.
template <class Restored> void check_options(const std::string& name, const Restored& restored) {
    std::vector<std::uint8_t> up(2 * cols);
    for (std::size_t i = 0; i < up.size(); ++i) up[i] = i % 3 == 0 ? 1 : 0;
    for (const range how : {range::absmax, range::least_squares})
        for (int mode = 0; mode <= static_cast<int>(rounding::learned); ++mode) {
            if (how == range::least_squares && mode != 0) continue; // the search is the same
            const quantize_options options{
                .range = how, .rounding = static_cast<rounding>(mode), .seed = 3, .round_up = up.data()};
            check_restored(name + ", rounding " + std::to_string(mode),
                           [&](matrix_view<const float> w) { return restored(w, options); });
        }
}

using wide_minimum = scheme<uint4, per_group<64>, scale<f32>, minimum<f32>>;
using wide_tensor = scheme<uint8, per_tensor, scale<f32>, integer_zero>;

} // namespace

TEST_CASE("quantize: finite weights stay finite in every format, range and rounding", "[quantize][extremes]") {
    // value_at is what dequantize writes (every_format_<n>.cpp).
    CHECK(nibble_test::format_of_name().size() == nibble_test::tested_formats);
    for (const auto& [name, verbs] : nibble_test::format_of_name()) {
        const nibble_test::format_verbs format = verbs();
        // Infinity is what f16 and bf16 have for what is beyond them.
        if (!format.facts.scaled && format.facts.element->bits == 16) continue;
        check_options(name, [&](matrix_view<const float> w, const quantize_options& options) {
            return format.quantize(w.data(), 2, cols, cols, options, 1).values;
        });
    }
    const auto check = [&]<class S>(const std::string& name) {
        check_options(name, [&](matrix_view<const float> w, const quantize_options& options) {
            const auto q = quantize<S>(w, options);
            std::vector<float> y(2 * cols);
            dequantize(q, matrix_view<float>(y.data(), 2, cols));
            return y;
        });
    };
    check.template operator()<wide_minimum>("uint4 with an fp32 minimum");
    check.template operator()<wide_tensor>("uint8, per tensor");
    check.template operator()<scheme<int4, per_group<64>, scale<bf16>>>("int4 under bf16");
    check.template operator()<scheme<e2m1, per_group<64>, scale<e8m0, by_exponent_no_clip>>>("E2M1, no clipping");
    check.template operator()<scheme<uint4, two_level<per_group<32>, per_group<256>>, two_level_scale<uint6, f32>,
                                     two_level_minimum<uint6, f32>>>("minimums in two levels of fp32");
}

TEST_CASE("quantize: finite weights stay finite in every container", "[quantize][extremes]") {
    for (const float alpha : {0.0f, 0.15f, 1.0f}) {
        check_finite("cross, int8", [&](auto w) { return quantize_cross<int8_channel>(w, alpha); });
        check_finite("cross, mxfp4", [&](auto w) { return quantize_cross<mxfp4>(w, alpha); });
    }
    check_finite("k-means", [](auto w) { return quantize_k_means<4, per_group<64>>(w); });
    check_finite("planes", [](auto w) { return quantize_planes<per_group<64>, f32>(w); });
    check_finite("outlier-victim rows", [](auto w) { return quantize_outlier_victim<per_channel>(w); });
    check_finite("outlier-victim groups",
                 [](auto w) { return quantize_outlier_victim<per_group<64>>(w, {.search = false}); });
    check_finite("complex", [](auto w) { return quantize_complex(w); });
    check_finite("mixed", [](auto w) { return quantize_by_error<bitmod_fp4<>>(w); });
    check_finite("rows", [](auto w) { return quantize_rows<int8_channel, int4_channel>(w, 0.5); });
    for_each_ggml_type([]<class Type>() {
        check_finite(std::string(ggml_block_of<Type>.name), [](auto w) { return quantize_ggml<Type>(w); });
    });
}

TEST_CASE("quantize: the largest scale is that under which the largest code is finite", "[quantize][extremes]") {
    std::vector<float> x(64, 1.0f);
    x[5] = end;
    x[6] = -end;
    const matrix_view<const float> w(x.data(), 1, 64);
    const auto close = [&](const auto& q, double share) {
        CHECK_FALSE(q.nonfinite());
        CHECK(std::abs(static_cast<double>(q.value_at(0, 5)) / static_cast<double>(end) - 1.0) <= share);
        CHECK(std::abs(static_cast<double>(q.value_at(0, 6)) / static_cast<double>(end) + 1.0) <= share);
        CHECK(std::abs(q.value_at(0, 0)) <= q.scale_at(0, 0) * 0.5f);
    };
    close(quantize<int8_channel>(w), 1e-6);
    close(quantize<int4_channel>(w), 1e-6);
    close(quantize<fp8_e4m3_channel>(w), 1e-6);
    // Both ends are beyond 15 codes about a zero: one step of an eighth.
    close(quantize<int4_channel_asym>(w), 0.1251);
    close(quantize<mxfp4_rounded>(w), 0.2501);
    // Differences with a minimum exceed fp32.
    std::vector<float> ramp(64);
    for (std::size_t i = 0; i < 64; ++i) ramp[i] = end * (static_cast<float>(i) / 31.5f - 1.0f);
    const auto q = quantize<wide_minimum>(matrix_view<const float>(ramp.data(), 1, 64));
    for (std::size_t i = 0; i < 64; ++i)
        CHECK(std::abs(static_cast<double>(q.value_at(0, i)) - static_cast<double>(ramp[i])) <=
              static_cast<double>(q.scale_at(0, 0)) * 0.5001);
}

TEST_CASE("quantize: groups whose stored scale is negative keep their weights", "[quantize][extremes]") {
    // Forty groups of 64; the scales' mean is far above the small ones, whose stored scales fall on both sides of 0.
    std::vector<float> x(2560);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = (static_cast<float>(nibble_test::random_uniform(5, i)) * 2.0f - 1.0f) * (i < 14 * 64 ? 1.0f : 0.001f);
    const matrix_view<const float> w(x.data(), 1, x.size());
    const auto check = [&]<class S>() {
        std::size_t negative = 0;
        for (const range how : {range::absmax, range::least_squares}) {
            const auto q = quantize<S>(w, {.range = how});
            for (std::size_t group = 0; group < 40; ++group) {
                const float scale = q.scale_at(0, 64 * group);
                negative += scale < 0.0f ? 1u : 0u;
                double error = 0.0;
                double square = 0.0;
                std::size_t wrong = 0;
                for (std::size_t i = 64 * group; i < 64 * group + 64; ++i) {
                    wrong += q.code_at(0, i) != encode<typename S::element_type>(x[i] / scale) ? 1u : 0u;
                    const double d = static_cast<double>(x[i]) - static_cast<double>(q.value_at(0, i));
                    error += d * d;
                    square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
                }
                CAPTURE(group, scale);
                CHECK(wrong == 0);
                CHECK(error < 0.8 * square); // zeros would lose all; FP4 has nothing between 0.005 and 0.17
            }
        }
        CHECK(negative > 0);
    };
    check.template operator()<nf4_span64_double>();
    check.template operator()<fp4_span64_double>();
}
