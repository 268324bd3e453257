// gemm_integer.cpp: products in integers: exact against sums in 64 bits, dyadic scales against their definition.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"

#include <nibble/gemm_integer.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;
using nibble_test::test_executor;

namespace {

// The integers of a quantized matrix, zero points taken off (weights) or half the range of unsigned codes
// (activations).
template <class S> std::vector<std::int64_t> integers(const nb::quantized<S>& q, bool activations) {
    std::vector<std::int64_t> v;
    const plain_weights p = plain_of(q);
    const int half = activations && nb::lowest<typename S::element_type> >= 0.0f ? 1 << (S::element_type::bits - 1) : 0;
    for (std::size_t i = 0; i < p.rows * p.cols; ++i) {
        const std::size_t slot = i / p.cols * p.groups + i % p.cols / p.run;
        const double zero = activations ? half : static_cast<double>(p.zeros[slot]);
        v.push_back(static_cast<std::int64_t>(std::ldexp(static_cast<double>(p.elements[i]), -p.exponent) - zero));
    }
    return v;
}
std::vector<std::int64_t> exact_product(const std::vector<std::int64_t>& x, const std::vector<std::int64_t>& w,
                                        std::size_t m, std::size_t n, std::size_t k) {
    std::vector<std::int64_t> y(m * n, 0);
    for (std::size_t t = 0; t < m; ++t)
        for (std::size_t o = 0; o < n; ++o)
            for (std::size_t i = 0; i < k; ++i) y[t * n + o] += x[t * k + i] * w[o * k + i];
    return y;
}
template <class S> nb::quantized<S> bell(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    const std::vector<float> v = bell_values(rows * cols, seed);
    return nb::quantize<S>(nb::matrix_view<const float>(v.data(), rows, cols));
}

template <class S, class A> void check_exact(const nb::quantized<A>& x, const nb::quantized<S>& w, const char* what) {
    const std::size_t m = x.rows();
    const std::size_t n = w.rows();
    const std::vector<std::int64_t> want = exact_product(integers(x, true), integers(w, false), m, n, w.cols());
    const nb::packed<S> packed = nb::pack(w);
    nibble_test::for_each_tested_isa([&]<class I>() {
        INFO(I::name << ", " << what << ", M N K = " << m << " " << n << " " << w.cols());
        std::vector<std::int32_t> y(m * n + 2, -7);
        nb::gemm_integer<I>(nb::prepare<S>(x), packed, nb::matrix_view<std::int32_t>(y.data() + 1, m, n), {},
                            test_executor{3});
        CHECK(std::equal(want.begin(), want.end(), y.begin() + 1));
        CHECK((y.front() == -7 && y.back() == -7));
    });
}

} // namespace

TEST_CASE("sums in int32 are exact") {
    for (const std::size_t m : {std::size_t{1}, std::size_t{3}, std::size_t{21}})
        for (const std::size_t k : {std::size_t{0}, std::size_t{1}, std::size_t{77}, std::size_t{1100}}) {
            const auto x = bell<nb::int8_channel>(m, k, m + k);
            check_exact(x, bell<nb::int8_channel>(37, k, 1), "int8");
            check_exact(x, bell<nb::int4_channel_asym>(37, k, 3), "uint4 with zero points");
        }
    // Unsigned codes, and groups that are as long as the rows.
    check_exact(bell<nb::int4_channel_asym>(5, 128, 6), bell<nb::int8_channel>(19, 128, 7), "uint4 x int8");
    check_exact(bell<nb::int8_channel>(5, 32, 8), bell<nb::mxfp4>(19, 32, 9), "int8 x E2M1");
}

TEST_CASE("the largest sums are exact") {
    // 65536 columns of -128 x 127 and of 127 x 127, alternating signs among them.
    const std::size_t k = 65536;
    nb::quantized<nb::int8_channel> w(17, k);
    nb::quantized<nb::int8_channel> x(2, k);
    for (std::size_t n = 0; n < 17; ++n)
        for (std::size_t i = 0; i < k; ++i)
            w.row_codes(n)[i] = static_cast<std::uint8_t>(n % 3 == 0   ? -128
                                                          : n % 3 == 1 ? 127
                                                          : i % 2 == 0 ? 127
                                                                       : -128);
    for (std::size_t i = 0; i < k; ++i) {
        x.row_codes(0)[i] = 127;
        x.row_codes(1)[i] = static_cast<std::uint8_t>(i % 2 == 0 ? 127 : -127);
    }
    check_exact(x, w, "extremes");
}

TEST_CASE("a dyadic ratio is the ratio rounded to 31 bits, and rounds half up") {
    for (const double ratio :
         {1.0, 0.5, 0.75, 1.0 / 3.0, 0.0003, 1e-9, 12345.678, 0x1.fffffffffp-3, 0x1p-32, 0x1.ffffp29}) {
        const nb::dyadic d = nb::dyadic::of(ratio);
        CHECK(d.multiplier >= 1 << 30);
        CHECK((d.shift >= 1 && d.shift <= 62));
        CHECK(std::abs(std::ldexp(static_cast<double>(d.multiplier), -d.shift) - ratio) <= ratio * 0x1p-31);
    }
    // formats.md, section 9: frexp, floor(f 2^31 + 1/2).
    STATIC_REQUIRE(nb::dyadic::of(0.0123456789).multiplier == 1696777188);
    STATIC_REQUIRE(nb::dyadic::of(0.0123456789).shift == 37);
    STATIC_REQUIRE(nb::dyadic::of(0x1.fffffffffp-3).multiplier == 1 << 30);
    STATIC_REQUIRE(nb::dyadic::of(0x1.fffffffffp-3).shift == 32);
    STATIC_REQUIRE(nb::dyadic::of(0.5)(3) == 2);
    STATIC_REQUIRE(nb::dyadic::of(0.5)(-3) == -1);
    STATIC_REQUIRE(nb::dyadic::of(0.5)(1) == 1);
    STATIC_REQUIRE(nb::dyadic::of(0.0)(2147483647) == 0);
    STATIC_REQUIRE(nb::dyadic::of(1e-300)(2147483647) == 0);
    STATIC_REQUIRE(nb::dyadic::of(1.0)(-2147483647 - 1) == -2147483648LL);
    for (const double wrong :
         {-1.0, 0x1p30, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
        CHECK(broken_by([&] { (void)nb::dyadic::of(wrong); }) ==
              "dyadic: the ratio must be at least 0 and less than 2^30");
}

namespace {

std::int64_t by_formula(std::int64_t sum, const nb::integer_output& how, std::size_t n, std::int32_t residual,
                        std::int64_t least, std::int64_t most) {
    const auto scaled = [](std::int64_t v, const nb::dyadic& d) {
        // Exact: 32 bits x 31 bits, and a floor by arithmetic on remainders.
        const std::int64_t power = std::int64_t{1} << d.shift;
        const std::int64_t p = v * d.multiplier + power / 2;
        return p >= 0 ? p / power : -((-p + power - 1) / power);
    };
    if (!how.bias.empty()) sum += how.bias[n];
    sum = std::clamp<std::int64_t>(sum, std::numeric_limits<std::int32_t>::min(),
                                   std::numeric_limits<std::int32_t>::max());
    std::int64_t v = scaled(sum, how.ratios[how.ratios.size() == 1 ? 0 : n]) + how.zero;
    if (how.residual.rows() != 0) v += scaled(residual - how.residual_zero, how.residual_ratio);
    return std::clamp<std::int64_t>(v, std::max<std::int64_t>(least, how.low), std::min<std::int64_t>(most, how.high));
}

template <class Y> void check_output(std::int64_t least, std::int64_t most) {
    using S = nb::int8_channel;
    const std::size_t m = 9;
    const std::size_t n = 37;
    const std::size_t k = 200;
    const auto x = bell<nb::int8_channel>(m, k, 71);
    const auto w = bell<S>(n, k, 72);
    const std::vector<std::int64_t> sums = exact_product(integers(x, true), integers(w, false), m, n, k);
    const nb::packed<S> packed = nb::pack(w);
    const nb::prepared_activations prepared = nb::prepare<S>(x);
    std::vector<nb::dyadic> ratios;
    std::vector<std::int32_t> bias;
    number_source from(73);
    for (std::size_t i = 0; i < n; ++i) {
        ratios.push_back(nb::dyadic::of(static_cast<double>(from.uniform(0.0001f, 0.004f))));
        bias.push_back(static_cast<std::int32_t>(from.bits() >> (i % 5 == 0 ? 32 : 48)));
    }
    std::vector<std::int8_t> residual(m * n);
    for (std::int8_t& r : residual) r = static_cast<std::int8_t>(from.bits());
    nb::integer_output plain{.ratios = std::span<const nb::dyadic>(ratios).first(1)};
    nb::integer_output all{.ratios = ratios,
                           .bias = bias,
                           .zero = static_cast<std::int32_t>(least + (most - least) / 3),
                           .residual = {residual.data(), m, n},
                           .residual_zero = 5,
                           .residual_ratio = nb::dyadic::of(0.07)};
    nb::integer_output relu = all;
    relu.low = relu.zero;
    for (const nb::integer_output& how : {plain, all, relu})
        nibble_test::for_each_tested_isa([&]<class I>() {
            nb::quantized<Y> y(m, n);
            nb::gemm_integer<I>(prepared, packed, y, how, {}, test_executor{3});
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < m * n; ++i) {
                const auto got = static_cast<std::int64_t>(Y::element_type::decode(y.code_at(i / n, i % n)));
                wrong += got != by_formula(sums[i], how, i % n, residual[i], least, most) ? 1u : 0u;
            }
            INFO(I::name);
            CHECK(wrong == 0);
        });
}

} // namespace

TEST_CASE("8-bit results by integers alone") {
    check_output<nb::int8_channel>(-128, 127);
    check_output<nb::int8_channel_asym>(0, 255);
    check_output<nb::int4_g32>(-8, 7);
}

TEST_CASE("a million results differ from requantization in double by at most one code, and hardly ever") {
    // A ratio per output, from 2^-18 to 2^-6: some outputs saturate and some are all zero.
    using S = nb::int8_channel;
    const std::size_t m = 1000, n = 1000, k = 96;
    const auto x = bell<S>(m, k, 81);
    const auto w = bell<S>(n, k, 82);
    const std::vector<std::int64_t> sums = exact_product(integers(x, true), integers(w, false), m, n, k);
    number_source from(83);
    std::vector<double> exact(n);
    std::vector<nb::dyadic> ratios(n);
    for (std::size_t i = 0; i < n; ++i) {
        const double fraction = 0.5 + static_cast<double>(from.bits() >> 11) * 0x1p-54;
        exact[i] = std::ldexp(fraction, -5 - static_cast<int>(i % 13));
        ratios[i] = nb::dyadic::of(exact[i]);
    }
    nb::quantized<S> y(m, n);
    nb::gemm_integer(nb::prepare<S>(x), nb::pack(w), y, {.ratios = ratios});
    std::size_t others = 0, further = 0, inner = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const double want = std::clamp(std::nearbyint(static_cast<double>(sums[i]) * exact[i % n]), -128.0, 127.0);
        const double off = std::abs(static_cast<double>(static_cast<std::int8_t>(y.code_at(i / n, i % n))) - want);
        others += off != 0.0 ? 1u : 0u;
        further += off > 1.0 ? 1u : 0u;
        inner += std::abs(want) > 0.0 && std::abs(want) < 127.0 ? 1u : 0u;
    }
    INFO(others << " results of " << sums.size() << " are others, " << inner << " are neither zero nor at an end");
    CHECK(further == 0);
    CHECK(others * 10000 <= sums.size());
    CHECK(2 * inner > sums.size());
}

TEST_CASE("all pairs of 4-bit integers multiply exactly") {
    // Token i has the code i, output j the code j, as often as there are columns.
    using S = nb::int4_channel;
    using A = nb::int4_channel_asym;
    for (const std::size_t k : {std::size_t{1}, std::size_t{4}, std::size_t{37}, std::size_t{256}}) {
        nb::quantized<S> w(16, k), x(16, k);
        nb::quantized<A> unsigned_w(16, k);
        for (std::size_t code = 0; code < 16; ++code)
            for (std::size_t i = 0; i < k; ++i)
                for (std::uint8_t* row : {w.row_codes(code), x.row_codes(code), unsigned_w.row_codes(code)})
                    row[i / 2] = static_cast<std::uint8_t>(row[i / 2] | (code << (i % 2 * 4)));
        for (std::size_t code = 0; code < 16; ++code) {
            REQUIRE(integers(x, true)[code * k] == (code < 8 ? static_cast<int>(code) : static_cast<int>(code) - 16));
            REQUIRE(integers(unsigned_w, false)[code * k] == static_cast<int>(code));
        }
        check_exact(x, w, "int4 x int4");
        check_exact(x, unsigned_w, "int4 x uint4");
    }
}

TEST_CASE("unsigned activations meet integers through the bias") {
    using S = nb::int8_channel;
    const std::size_t m = 6;
    const std::size_t n = 21;
    const std::size_t k = 90;
    nb::quantized<nb::int8_channel_asym> x = bell<nb::int8_channel_asym>(m, k, 91);
    for (std::size_t t = 0; t < m; ++t) {
        x.zeros()[t] = 31; // one zero point for all tokens, from a calibration
        for (std::size_t i = 0; i < k; ++i) x.row_codes(t)[i] = std::max<std::uint8_t>(x.row_codes(t)[i], 1);
    }
    const auto w = bell<S>(n, k, 92);
    const nb::packed<S> packed = nb::pack(w);
    std::vector<std::int32_t> sums(n);
    nb::weight_sums(packed, std::span<std::int32_t>(sums));
    const std::vector<std::int64_t> wi = integers(w, false);
    std::vector<std::int32_t> bias(n);
    for (std::size_t o = 0; o < n; ++o) {
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < k; ++i) sum += wi[o * k + i];
        CHECK(sums[o] == sum);
        bias[o] = -(31 - 128) * sums[o];
    }
    const nb::dyadic d = nb::dyadic::of(0.0009);
    nb::quantized<S> y(m, n);
    nb::gemm_integer(nb::prepare<S>(x), packed, y, {.ratios = {&d, 1}, .bias = bias});
    for (std::size_t t = 0; t < m; ++t)
        for (std::size_t o = 0; o < n; ++o) {
            std::int64_t sum = 0;
            for (std::size_t i = 0; i < k; ++i) sum += (std::int64_t{x.code_at(t, i)} - 31) * wi[o * k + i];
            const std::int64_t want = std::clamp<std::int64_t>(d(static_cast<std::int32_t>(sum)), -128, 127);
            if (static_cast<std::int8_t>(y.code_at(t, o)) != want) FAIL_CHECK("token " << t << ", output " << o);
        }
    CHECK(broken_by([&] {
              nb::gemm_integer(nb::prepare<S>(x), packed, y, {.ratios = {&d, 1}});
          }).find("need a bias that takes the offset off") != std::string::npos);
}

TEST_CASE("integer products refuse what they cannot do, before they write") {
    using S = nb::int8_channel;
    const auto w = nb::pack(bell<S>(9, 40, 1));
    const auto x = nb::prepare<S>(bell<S>(3, 40, 2));
    const nb::dyadic d = nb::dyadic::of(0.001);
    nb::quantized<S> y(3, 9);
    const auto refuses = [&](const nb::integer_output& how, const char* message) {
        CHECK(broken_by([&] { nb::gemm_integer(x, w, y, how); }) == message);
    };
    const std::vector<nb::dyadic> eight(8, d);
    const std::vector<std::int32_t> ten(10);
    const std::vector<std::int8_t> bytes(100);
    const nb::dyadic broken{1 << 30, 63};
    refuses({}, "gemm_integer: one ratio of scales is needed, or one per output");
    refuses({.ratios = eight}, "gemm_integer: one ratio of scales is needed, or one per output");
    refuses({.ratios = {&broken, 1}}, "gemm_integer: a ratio is no result of dyadic::of");
    refuses({.ratios = {&d, 1}, .bias = ten}, "gemm_integer: the bias must have one number per output");
    refuses({.ratios = {&d, 1}, .residual = {bytes.data(), 3, 8}},
            "gemm_integer: the residual must have the shape of y");
    refuses({.ratios = {&d, 1}, .residual = {bytes.data(), 3, 9}, .residual_ratio = broken},
            "gemm_integer: the residual's ratio is no result of dyadic::of");
    refuses({.ratios = {&d, 1}, .residual = {bytes.data(), 3, 9}, .residual_zero = 256},
            "gemm_integer: the residual's zero point is no byte");
    refuses({.ratios = {&d, 1}, .low = 5, .high = 4}, "gemm_integer: y's element has no integer between low and high");
    refuses({.ratios = {&d, 1}, .low = 200}, "gemm_integer: y's element has no integer between low and high");
    nb::quantized<S> few(2, 9);
    CHECK(broken_by([&] {
              nb::gemm_integer(x, w, few, {.ratios = {&d, 1}});
          }) == "gemm_integer: y must have as many rows as x");
    const auto grouped = nb::pack(bell<nb::int4_g32>(9, 40, 1));
    std::vector<std::int32_t> sums(27, 5);
    CHECK(broken_by([&] {
              nb::gemm_integer(nb::prepare<nb::int4_g32>(bell<S>(3, 40, 2)), grouped,
                               nb::matrix_view<std::int32_t>(sums.data(), 3, 9));
          }).find("the weights must have one scale per row") != std::string::npos);
    CHECK(std::all_of(sums.begin(), sums.end(), [](std::int32_t s) { return s == 5; }));
    CHECK(y.row_codes(0)[0] == 0);
    // Nothing to do is fine.
    nb::quantized<S> none(0, 9);
    nb::gemm_integer(nb::prepare<S>(nb::quantized<S>(0, 40)), w, none, {.ratios = {&d, 1}});
}
