// any_format.cpp: weights of a format known at run time do what they do in it.
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/random.hpp"

#include <nibble/any.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace nibble;

namespace {

// A scheme under two names counts under the first.
using three = format_list<named_format<"four", int4_g32>, named_format<"eight", int8_channel>,
                          named_format<"nf", nf4_g64>, named_format<"four again", int4_g32>>;

[[nodiscard]] std::vector<float> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    std::vector<float> x(rows * cols);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = nibble_test::random_normal(seed, i);
    return x;
}

} // namespace

TEST_CASE("any_format: every verb gives what it gives for the format that is held", "[tensor][any]") {
    constexpr std::size_t n = 37;
    constexpr std::size_t k = 131;
    constexpr std::size_t m = 3;
    const std::vector<float> w = random_matrix(n, k, 1);
    const std::vector<float> x = random_matrix(m, k, 2);
    const std::vector<float> bias = random_matrix(1, n, 3);
    const matrix_view<const float> weights(w.data(), n, k);
    const matrix_view<const float> tokens(x.data(), m, k);
    for_each_format(three{}, [&]<class Format>() {
        using S = typename Format::scheme;
        const quantized<S> q = quantize<S>(weights);
        const any_quantized<three> any = q;
        CAPTURE(std::string(Format::name));
        CHECK_FALSE(any.empty());
        CHECK(any.name() == (Format::name == "four again" ? "four" : Format::name));
        CHECK(any.rows() == n);
        CHECK(any.cols() == k);
        CHECK(any.bytes() == q.bytes());
        CHECK(any.bits_per_weight() == bits_per_weight(q));
        REQUIRE(any.get_if<S>() != nullptr);
        CHECK(std::memcmp(any.get_if<S>()->row_codes(0), q.row_codes(0), q.bytes()) == 0);
        CHECK((any.get_if<int8_channel>() != nullptr) == std::is_same_v<S, int8_channel>);

        std::vector<float> values(n * k);
        std::vector<float> same(n * k);
        dequantize(q, matrix_view<float>(values.data(), n, k));
        dequantize(any, matrix_view<float>(same.data(), n, k), nibble_test::test_executor{3});
        CHECK(std::memcmp(values.data(), same.data(), values.size() * sizeof(float)) == 0);

        const any_packed<three> packed_any = pack(any);
        const packed<S> packed_one = pack(q);
        CHECK(packed_any.name() == any.name());
        CHECK(packed_any.bytes() == packed_one.bytes());
        CHECK(gemm_workspace_bytes(packed_any, m, 2) == gemm_workspace_bytes(packed_one, m, 2));
        std::vector<float> y(m * n);
        std::vector<float> z(m * n);
        gemm(tokens, packed_one, matrix_view<float>(y.data(), m, n), add_bias(bias));
        gemm(tokens, packed_any, matrix_view<float>(z.data(), m, n), add_bias(bias), {}, nibble_test::test_executor{2});
        CHECK(std::memcmp(y.data(), z.data(), y.size() * sizeof(float)) == 0);
        // All that gemm takes: options without an epilogue, braces, prepared activations, other types, destinations.
        workspace memory;
        gemm(tokens, packed_one, matrix_view<float>(y.data(), m, n));
        const auto again = [&](const auto& run) {
            std::fill(z.begin(), z.end(), -1.0f);
            run(matrix_view<float>(z.data(), m, n));
            CHECK(std::memcmp(y.data(), z.data(), y.size() * sizeof(float)) == 0);
        };
        const prepared_activations prepared = prepare<S>(tokens);
        CHECK(fits(prepared, packed_any));
        CHECK_FALSE(fits(prepared_activations(), packed_any));
        again([&](auto to) { gemm(tokens, packed_any, to, {.workspace = &memory}); });
        again([&](auto to) { gemm({x.data(), m, k}, packed_any, {to.data(), m, n}); });
        again([&](auto to) { gemm(prepared, packed_any, {to.data(), m, n}); });
        again([&](auto to) { gemm(prepared, packed_any, to, gemm_options{.workspace = &memory}); });
        again([&](auto to) { gemm(prepared, packed_one, {to.data(), m, n}); });
        again([&](auto to) { gemm(prepared, packed_one, {to.data(), m, n}, gemm_options{.workspace = &memory}); });
        const std::vector<std::uint32_t> rows = {0, 1, 2};
        again([&](auto to) {
            gemm(tokens, packed_any, scatter_rows(to, std::span(rows)), gemm_options{.workspace = &memory});
        });
        again([&](auto to) { gemm(prepared, packed_any, scatter_rows(to, std::span(rows))); });
        std::vector<float16_t> narrow(m * n);
        gemm(tokens, packed_any, matrix_view<float16_t>(narrow.data(), m, n), gemm_options{});
        for (std::size_t i = 0; i < narrow.size(); ++i) CHECK(narrow[i].bits == float16_t(y[i]).bits);
        gemm_gated(tokens, packed_one, packed_one, matrix_view<float>(y.data(), m, n), silu);
        again([&](auto to) { gemm_gated(tokens, packed_any, packed_any, to, silu); });
        again([&](auto to) {
            gemm_gated({x.data(), m, k}, packed_any, packed_any, {to.data(), m, n}, silu, identity{});
        });
        again([&](auto to) {
            gemm_gated(prepared, packed_any, packed_any, to, silu, gemm_options{.workspace = &memory});
        });
        again([&](auto to) { gemm_gated({x.data(), m, k}, packed_one, packed_one, {to.data(), m, n}, silu); });
        again(
            [&](auto to) { gemm_gated(tokens, packed_one, packed_one, to, silu, gemm_options{.workspace = &memory}); });
        const any_quantized<three> back = unpack(packed_any);
        REQUIRE(back.get_if<S>() != nullptr);
        CHECK(std::memcmp(back.get_if<S>()->row_codes(0), q.row_codes(0), q.bytes()) == 0);
    });
}

TEST_CASE("any_format: quantize, its halves, recode and rows take their format by name or from what is held",
          "[tensor][any]") {
    constexpr std::size_t n = 37;
    constexpr std::size_t k = 131;
    std::vector<float> w = random_matrix(n, k, 5);
    w[7] = std::numeric_limits<float>::infinity();
    const matrix_view<const float> weights(w.data(), n, k);
    const quantize_options searched{.range = range::least_squares};
    for_each_format(three{}, [&]<class Format>() {
        using S = typename Format::scheme;
        CAPTURE(std::string(Format::name));
        const quantized<S> q = quantize<S>(weights, searched);
        const auto same = [&](const any_quantized<three>& a) {
            return a.get_if<S>() != nullptr && a.get_if<S>()->nonfinite() &&
                   std::memcmp(a.get_if<S>()->row_codes(0), q.row_codes(0), q.bytes()) == 0;
        };
        any_quantized<three> any;
        REQUIRE(quantize(weights, Format::name, any, searched, nibble_test::test_executor{2}).ok());
        CHECK(same(any));
        CHECK(any.nonfinite());
        any_scale_groups<three> scales;
        REQUIRE(choose_scales(weights, Format::name, scales, searched).ok());
        CHECK(scales.name() == any.name());
        CHECK(same(encode(weights, scales, searched)));

        // Rows by number, and a range of them, of stored and of packed weights.
        std::vector<float> values(n * k);
        dequantize(q, matrix_view<float>(values.data(), n, k));
        const std::vector<std::uint32_t> rows{36, 0, 17, 17};
        const any_packed<three> w_any = pack(any);
        const auto has = [&](std::size_t i, const float* row) {
            return std::memcmp(row, values.data() + i * k, k * sizeof(float)) == 0;
        };
        const auto check_rows = [&](const auto& of) {
            std::vector<float> out(rows.size() * k, -1.0f);
            dequantize_rows(of, rows, matrix_view<float>(out.data(), rows.size(), k), nibble_test::test_executor{2});
            for (std::size_t i = 0; i < rows.size(); ++i) CHECK(has(rows[i], out.data() + i * k));
            dequantize_rows(of, 13, matrix_view<float>(out.data(), 3, k));
            for (std::size_t i = 0; i < 3; ++i) CHECK(has(13 + i, out.data() + i * k));
            dequantize_rows(of, n, matrix_view<float>(out.data(), 0, k)); // none, behind the last
        };
        check_rows(any);
        check_rows(w_any);
        check_rows(q);
        check_rows(pack(q));
        CHECK(value_at(any, 36, 130) == values[n * k - 1]);
    });

    any_quantized<three> any;
    const status unknown = quantize(weights, "nine", any);
    CHECK(unknown.code() == status_code::not_found);
    CHECK(unknown.message() == "quantize: no format 'nine'; there are four, eight, nf, four again");
    CHECK(any.empty());
    any_scale_groups<three> scales;
    CHECK(choose_scales(weights, "", scales).code() == status_code::not_found);

    // From one list to another: int4 to int8 under the same scales, nothing lost; not to what has other groups.
    using wider = format_list<named_format<"int8_g32", int8_g32>, named_format<"int8_channel", int8_channel>>;
    w[7] = 0.0f;
    REQUIRE(quantize(weights, "four", any).ok());
    any_quantized<wider> eight;
    REQUIRE(recode(any, "int8_g32", eight).ok());
    const quantized<int8_g32> want = recode<int8_g32>(*any.get_if<int4_g32>());
    REQUIRE(eight.get_if<int8_g32>() != nullptr);
    CHECK(std::memcmp(eight.get_if<int8_g32>()->row_codes(0), want.row_codes(0), want.bytes()) == 0);
    CHECK(value_at(eight, 3, 100) == value_at(any, 3, 100));
    const status other_groups = recode(any, "int8_channel", eight);
    CHECK(other_groups.code() == status_code::unsupported);
    CHECK(eight.name() == "int8_g32");
    CHECK(recode(any, "four", eight).code() == status_code::not_found);
}

TEST_CASE("any_format: copies are deep, a moved-from one is empty, and empty ones are refused", "[tensor][any]") {
    const std::vector<float> w = random_matrix(5, 64, 4);
    any_quantized<three> a = quantize<int4_g32>(matrix_view<const float>(w.data(), 5, 64));
    any_quantized<three> b = a;
    b.get_if<int4_g32>()->row_codes(0)[0] ^= 1;
    CHECK(a.get_if<int4_g32>()->row_codes(0)[0] != b.get_if<int4_g32>()->row_codes(0)[0]);
    const any_quantized<three> c = std::move(a);
    CHECK(a.empty()); // NOLINT: that is the question
    CHECK(a.name().empty());
    CHECK(a.rows() == 0);
    CHECK(c.name() == "four");
    b = quantize<int8_channel>(matrix_view<const float>(w.data(), 5, 64));
    CHECK(b.name() == "eight");
    CHECK(b.get_if<int4_g32>() == nullptr);

    const failure_handler before =
        set_failure_handler([](const char* message, const char*, int) { throw std::runtime_error(message); });
    CHECK_THROWS_AS(pack(a), std::runtime_error);
    float out = 0.0f;
    CHECK_THROWS_AS(dequantize(a, matrix_view<float>(&out, 1, 1)), std::runtime_error);
    const any_packed<three> none;
    CHECK_THROWS_AS(gemm(matrix_view<const float>(), none, matrix_view<float>()), std::runtime_error);
    CHECK_FALSE(fits(prepared_activations(), none));
    const any_packed<three> four = pack(c);
    const any_packed<three> eight = pack(b);
    CHECK_THROWS_AS(gemm_gated(matrix_view<const float>(), four, none, matrix_view<float>(), silu), std::runtime_error);
    std::vector<float> y(5);
    std::string said;
    try {
        gemm_gated(matrix_view<const float>(w.data(), 1, 64), four, eight, matrix_view<float>(y.data(), 1, 5), silu);
    } catch (const std::runtime_error& what) {
        said = what.what();
    }
    CHECK(said.find("gate and up are in two formats") != std::string::npos);
    CHECK_THROWS_AS(unpack(none), std::runtime_error);
    CHECK_THROWS_AS(dequantize_rows(none, 0, matrix_view<float>(&out, 1, 1)), std::runtime_error);
    CHECK_THROWS_AS(dequantize_rows(four, 4, matrix_view<float>(y.data(), 2, 64)), std::runtime_error);
    CHECK_THROWS_AS(value_at(c, 5, 0), std::runtime_error);
    any_quantized<three> nothing;
    CHECK_THROWS_AS((void)recode(a, "four", nothing), std::runtime_error);
    CHECK_THROWS_AS((void)encode(matrix_view<const float>(), any_scale_groups<three>()), std::runtime_error);
    set_failure_handler(before);
}
