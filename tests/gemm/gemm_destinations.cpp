// gemm_destinations.cpp: gated products, results in chosen rows, results as codes: the bits of what they are short for.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"
#include "support/seams.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/gate.hpp>
#include <nibble/epilogue/low_rank.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/gemm.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/requantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;
using nibble_test::test_executor;

namespace {

constexpr std::size_t outputs = 37;
constexpr std::size_t cols = 150;
constexpr std::size_t token_counts[] = {1, 5, 21};

nb::matrix_view<const float> inputs(std::size_t tokens) {
    static const std::vector<float> x = bell_values(21 * cols, 5);
    return {x.data(), tokens, cols};
}
template <class S> nb::packed<S> weights_of(std::uint64_t seed, std::size_t rows = outputs) {
    const std::vector<float> w = bell_values(rows * cols, seed);
    return nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), rows, cols)));
}
std::string differs(const fenced_matrix& got, const std::vector<float>& want, std::size_t tokens) {
    if (!got.intact()) return "written outside";
    return first_difference(got.view(), {want.data(), tokens, outputs});
}

// Two products and a multiplication by hand.
template <class S, class I, class Activation>
void check_gated(const Activation& activation, const nb::gemm_options& given) {
    const nb::packed<S> gate = weights_of<S>(1);
    const nb::packed<S> up = weights_of<S>(2);
    std::vector<float> sums(2 * outputs);
    nb::gemm_options options = given;
    if (options.activations.quantization.asymmetric) {
        nb::weight_sums<I>(gate, std::span<float>(sums).first(outputs));
        nb::weight_sums<I>(up, std::span<float>(sums).last(outputs));
    }
    const std::vector<float> bias = bell_values(outputs, 3);
    for (const std::size_t m : token_counts)
        for (const std::size_t workers : {std::size_t{1}, std::size_t{3}}) {
            INFO(I::name << ", tokens " << m << ", workers " << workers);
            std::vector<float> a(m * outputs);
            std::vector<float> b(m * outputs);
            options.weight_sums = std::span<const float>(sums).first(outputs);
            nb::gemm<I>(inputs(m), gate, nb::matrix_view<float>(a.data(), m, outputs), activation, options);
            options.weight_sums = std::span<const float>(sums).last(outputs);
            nb::gemm<I>(inputs(m), up, nb::matrix_view<float>(b.data(), m, outputs), options);
            options.weight_sums = sums;
            std::vector<float> product(m * outputs);
            std::vector<float> want(m * outputs);
            for (std::size_t i = 0; i < want.size(); ++i) {
                product[i] = a[i] * b[i];
                want[i] = product[i] + bias[i % outputs];
            }
            fenced_matrix y(m, outputs, 3);
            nb::gemm_gated<I>(inputs(m), gate, up, y.view(), activation, nb::add_bias(bias), options,
                              test_executor{workers});
            CHECK(differs(y, want, m).empty());
            // Activations prepared before, and 16-bit results.
            const nb::prepared_activations x = nb::prepare<S, I>(inputs(m), options.activations);
            std::vector<nb::bfloat16_t> stored(m * outputs);
            nb::gemm_gated<I>(x, gate, up, nb::matrix_view<nb::bfloat16_t>(stored.data(), m, outputs), activation,
                              nb::identity{}, options, test_executor{workers});
            bool same = true;
            for (std::size_t i = 0; i < stored.size(); ++i)
                same = same && stored[i].bits == nb::bfloat16_t(product[i]).bits;
            CHECK(same);
        }
}

} // namespace

TEST_CASE("a gated product is two products and a multiplication") {
    nibble_test::for_each_tested_isa([]<class I>() {
        check_gated<nb::int4_g32, I>(nb::silu, {});
        check_gated<nb::int8_channel_asym, I>(nb::gelu, {});
        check_gated<nb::int8_channel_asym, I>(nb::relu, {.activations = {.quantization = {.asymmetric = true}}});
        check_gated<nb::fp8_e4m3_channel, I>(nb::gelu_erf, {});
    });
}

TEST_CASE("a gated product refuses what does not fit, before it writes, and allocates nothing of its own") {
    const auto gate = weights_of<nb::int4_g32>(1);
    const auto up = weights_of<nb::int4_g32>(2);
    const auto short_up = weights_of<nb::int4_g32>(2, outputs - 1);
    fenced_matrix y(5, outputs, 3);
    CHECK(broken_by([&] { nb::gemm_gated(inputs(5), gate, short_up, y.view(), nb::silu); }) ==
          "gemm_gated: gate and up must have the same shape");
    CHECK(broken_by([&] { nb::gemm_gated(inputs(4), gate, up, y.view(), nb::silu); }) ==
          "gemm: y must have as many rows as x");
    const std::vector<float> few(outputs - 1);
    CHECK(broken_by([&] { nb::gemm_gated(inputs(5), gate, up, y.view(), nb::silu | nb::add_bias(few)); }) ==
          "add_bias: one value per output is needed");
    const std::vector<float> sums(outputs);
    CHECK(broken_by([&] {
              nb::gemm_gated(inputs(5), gate, up, y.view(), nb::silu, nb::identity{},
                             {.activations = {.quantization = {.asymmetric = true}}, .weight_sums = sums});
          }).find("those of gate, then those of up") != std::string::npos);
    CHECK(y.untouched());
    // Twice what gemm_workspace_bytes says is enough.
    nb::workspace memory;
    const std::size_t promised = 2 * nb::gemm_workspace_bytes(gate, 5, 1);
    nb::gemm_options options;
    options.workspace = &memory;
    nb::gemm_gated(inputs(5), gate, up, y.view(), nb::silu, nb::identity{}, options);
    CHECK(memory.size() <= promised);
}

namespace {

template <class T> std::vector<T> stored(const std::vector<float>& v) {
    std::vector<T> s;
    for (const float x : v) s.push_back(T(x));
    return s;
}

template <class S, class I, class T> void check_scatter() {
    const nb::packed<S> w = weights_of<S>(11);
    const std::vector<std::uint32_t> rows{0, 2, 3, 7, 8};
    const std::size_t m = rows.size();
    std::vector<float> y(m * outputs);
    const std::vector<float> share = bell_values(m, 12);
    nb::gemm<I>(inputs(m), w, nb::matrix_view<float>(y.data(), m, outputs), nb::scale_tokens(share));
    const std::vector<T> before = stored<T>(bell_values(9 * outputs, 13));
    for (const bool add : {false, true})
        for (const bool prepared : {false, true}) {
            std::vector<T> got = before;
            const nb::matrix_view<T> to(got.data(), 9, outputs);
            const auto run = [&](const auto& destination) {
                if (prepared)
                    nb::gemm<I>(nb::prepare<S, I>(inputs(m)), w, destination, nb::scale_tokens(share), {},
                                test_executor{3});
                else
                    nb::gemm<I>(inputs(m), w, destination, nb::scale_tokens(share), {}, test_executor{3});
            };
            if (add)
                run(nb::scatter_add(to, rows));
            else
                run(nb::scatter_rows(to, rows));
            std::vector<T> want = before;
            for (std::size_t t = 0; t < m; ++t)
                for (std::size_t n = 0; n < outputs; ++n) {
                    T& place = want[rows[t] * outputs + n];
                    place = T(add ? static_cast<float>(place) + y[t * outputs + n] : y[t * outputs + n]);
                }
            CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0);
        }
}

} // namespace

TEST_CASE("results go to the rows that are named, or onto what is there") {
    nibble_test::for_each_tested_isa([]<class I>() {
        check_scatter<nb::int4_g32, I, float>();
        check_scatter<nb::int4_g32, I, nb::float16_t>();
        check_scatter<nb::int4_g32, I, nb::bfloat16_t>();
    });
    // Two experts, one after the other, as a mixture of experts has them: gathered, multiplied, added where they came
    // from.
    const auto one = weights_of<nb::int4_g32>(21);
    const auto two = weights_of<nb::int4_g32>(22);
    const std::vector<std::uint32_t> first{1, 4, 6};
    const std::vector<std::uint32_t> second{0, 1, 6};
    std::vector<float> y(8 * outputs, 0.0f);
    const nb::matrix_view<float> to(y.data(), 8, outputs);
    nb::gemm(inputs(8), one, nb::scatter_add(to, first), nb::identity{}, {.activations = {.rows = first}});
    nb::gemm(inputs(8), two, nb::scatter_add(to, second), nb::identity{}, {.activations = {.rows = second}});
    std::vector<float> a(8 * outputs);
    std::vector<float> b(8 * outputs);
    nb::gemm(inputs(8), one, nb::matrix_view<float>(a.data(), 8, outputs));
    nb::gemm(inputs(8), two, nb::matrix_view<float>(b.data(), 8, outputs));
    std::vector<float> want(8 * outputs, 0.0f);
    for (const std::uint32_t t : first)
        for (std::size_t n = 0; n < outputs; ++n) want[t * outputs + n] += a[t * outputs + n];
    for (const std::uint32_t t : second)
        for (std::size_t n = 0; n < outputs; ++n) want[t * outputs + n] += b[t * outputs + n];
    CHECK(first_difference({y.data(), 8, outputs}, {want.data(), 8, outputs}).empty());
}

TEST_CASE("row numbers that cannot be are refused before anything is written") {
    const auto w = weights_of<nb::int4_g32>(11);
    fenced_matrix y(6, outputs, 3);
    const auto refuses = [&](const std::vector<std::uint32_t>& rows, const char* message) {
        CHECK(broken_by([&] { nb::gemm(inputs(3), w, nb::scatter_rows(y.view(), rows)); }) == message);
        CHECK(broken_by([&] { nb::gemm(inputs(3), w, nb::scatter_add(y.view(), rows)); }) == message);
        CHECK(y.untouched());
    };
    refuses({0, 1, 6}, "scatter: a row number is not that of a row of y");
    refuses({0xffffffffu, 1, 2}, "scatter: a row number is not that of a row of y");
    refuses({0, 2, 2}, "scatter: row numbers must ascend, each at most once");
    refuses({3, 2, 4}, "scatter: row numbers must ascend, each at most once");
    refuses({0, 1}, "gemm: y must have as many rows as x");
    refuses({}, "gemm: y must have as many rows as x");
}

namespace {

// The code of one result, by the words of requantize.hpp and the element's own encode.
template <class Y> unsigned code_of(float r, float scale, float zero) {
    using element = typename Y::element_type;
    float units = r;
    if constexpr (Y::has_integer_zero || Y::has_minimum)
        if (std::isnan(units)) units = 0.0f;
    if constexpr (Y::has_minimum) units -= zero;
    if constexpr (Y::scaled) units /= scale;
    if constexpr (Y::has_integer_zero) units += zero;
    return nb::encode < element, nb::rounding::nearest_even,
           Y::scaled ? nb::overflow::saturate : nb::overflow::special > (units);
}

// Every vector of r put by itself, the last of a row first.
template <class Y> std::string put_wrongly() {
    constexpr std::size_t tokens = 5;
    // Scales as a calibration would give them: those of other results, a little small, so that some saturate.
    const std::vector<float> other = bell_values(tokens * outputs, 77);
    nb::quantized<Y> y = nb::quantize<Y>(nb::matrix_view<const float>(other.data(), tokens, outputs));
    const nb::quantized<Y> before = y;
    std::vector<float> r = bell_values(tokens * outputs, 78);
    for (float& v : r) v *= 1.5f;
    r[outputs + 3] = std::numeric_limits<float>::quiet_NaN();
    r[outputs + 9] = std::numeric_limits<float>::infinity();
    const nb::requantize<Y> to(y);
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t n = (outputs - 1) / 8 * 8 + 8; n != 0;) {
            n -= 8;
            const std::size_t count = std::min<std::size_t>(8, outputs - n);
            const float* from = r.data() + t * outputs + n;
            to.put(nb::lanes<nb::best_isa>::load(from, count), {t, n, count});
        }
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t n = 0; n < outputs; ++n) {
            const unsigned want = code_of<Y>(r[t * outputs + n], y.scale_at(t, n), y.zero_at(t, n));
            if (y.code_at(t, n) != want)
                return "token " + std::to_string(t) + ", output " + std::to_string(n) + ": " +
                       std::to_string(y.code_at(t, n)) + ", expected " + std::to_string(want);
        }
    if (std::memcmp(y.scales(), before.scales(), y.scale_count() * sizeof(*y.scales())) != 0) return "a scale changed";
    // The last byte of a row is filled with zeros, as quantize leaves it.
    const std::size_t bits = outputs * static_cast<std::size_t>(Y::element_type::bits);
    if (bits % 8 != 0 && y.row_codes(tokens - 1)[y.row_bytes() - 1] >> (bits % 8) != 0) return "the last byte";
    return {};
}

} // namespace

TEST_CASE("results are stored as codes, with a format of each kind") {
    nibble_test::for_each_kind([]<class Format>() {
        const std::string found = put_wrongly<typename Format::scheme>();
        if (!found.empty()) FAIL_CHECK(Format::name << ": " << found);
    });
}

TEST_CASE("a product whose results are activations of the next") {
    const auto first = weights_of<nb::int8_channel>(41);
    const std::vector<float> second_values = bell_values(19 * outputs, 42);
    const auto second =
        nb::pack(nb::quantize<nb::int8_channel>(nb::matrix_view<const float>(second_values.data(), 19, outputs)));
    std::vector<float> r(5 * outputs);
    nb::gemm(inputs(5), first, nb::matrix_view<float>(r.data(), 5, outputs), nb::relu);
    nb::quantized<nb::int8_channel> y =
        nb::quantize<nb::int8_channel>(nb::matrix_view<const float>(r.data(), 5, outputs));
    const nb::quantized<nb::int8_channel> want = y;
    for (std::size_t i = 0; i < 5; ++i) std::memset(y.row_codes(i), 0x55, y.row_bytes());
    nb::gemm(inputs(5), first, nb::requantize(y), nb::relu, {}, test_executor{3});
    CHECK(std::memcmp(y.row_codes(0), want.row_codes(0), 5 * y.row_bytes()) == 0);
    fenced_matrix a(5, 19, 2);
    fenced_matrix b(5, 19, 2);
    nb::gemm(nb::prepare<nb::int8_channel>(y), second, a.view());
    nb::gemm(nb::prepare<nb::int8_channel>(want), second, b.view());
    CHECK(first_difference(a.view(), b.view()).empty());
    // A scale of zero or NaN: the code of zero; one below zero: as any other.
    for (const float scale : {0.0f, std::numeric_limits<float>::quiet_NaN()}) {
        for (std::size_t i = 0; i < 5; ++i) {
            y.scales()[i] = nb::encode<nb::f32>(scale);
            std::memset(y.row_codes(i), 0x55, y.row_bytes());
        }
        nb::gemm(inputs(5), first, nb::requantize(y), nb::relu);
        CHECK(std::all_of(y.row_codes(0), y.row_codes(0) + 5 * y.row_bytes(), [](std::uint8_t c) { return c == 0; }));
    }
    for (std::size_t i = 0; i < 5; ++i) y.scales()[i] = nb::encode<nb::f32>(-want.scale_at(i, 0));
    nb::gemm(inputs(5), first, nb::requantize(y), nb::relu);
    for (std::size_t i = 0; i < 5; ++i)
        for (std::size_t j = 0; j < outputs; ++j)
            if (y.value_at(i, j) != want.value_at(i, j)) FAIL_CHECK("under a negative scale " << i << " " << j);
    nb::quantized<nb::int8_channel> wrong(4, outputs);
    CHECK(broken_by([&] { nb::gemm(inputs(5), first, nb::requantize(wrong)); }) ==
          "gemm: y must have as many rows as x");
}

TEST_CASE("a low-rank product is added, and gates are multiplied, in the order of the chain") {
    nibble_test::for_each_tested_isa([]<class I>() {
        const auto w = weights_of<nb::int4_g32>(51);
        for (const std::size_t rank : {std::size_t{0}, std::size_t{1}, std::size_t{16}}) {
            const std::size_t m = 5;
            const std::vector<float> left = bell_values(m * rank, 52);
            const std::vector<float> right = bell_values(rank * outputs, 53);
            const std::vector<float> gates = bell_values(m * outputs, 54);
            const std::vector<float> shares = bell_values(m, 55);
            std::vector<float> want(m * outputs);
            nb::gemm<I>(inputs(m), w, nb::matrix_view<float>(want.data(), m, outputs));
            for (std::size_t t = 0; t < m; ++t)
                for (std::size_t n = 0; n < outputs; ++n) {
                    float& r = want[t * outputs + n];
                    for (std::size_t i = 0; i < rank; ++i) r = std::fma(left[t * rank + i], right[i * outputs + n], r);
                    r *= gates[t * outputs + n];
                    r *= shares[t];
                }
            fenced_matrix y(m, outputs, 3);
            nb::gemm<I>(inputs(m), w, y.view(),
                        nb::add_low_rank({left.data(), m, rank}, {right.data(), rank, outputs}) |
                            nb::multiply_by({gates.data(), m, outputs}) | nb::scale_tokens(shares));
            CHECK(differs(y, want, m).empty());
        }
    });
    const auto w = weights_of<nb::int4_g32>(51);
    const std::vector<float> v(1000, 1.0f);
    fenced_matrix y(5, outputs, 3);
    const auto refuses = [&](const auto& finish, const char* message) {
        CHECK(broken_by([&] { nb::gemm(inputs(5), w, y.view(), finish); }) == message);
        CHECK(y.untouched());
    };
    refuses(nb::add_low_rank({v.data(), 4, 3}, {v.data(), 3, outputs}),
            "add_low_rank: the left factor must have a row per token");
    refuses(nb::add_low_rank({v.data(), 5, 3}, {v.data(), 4, outputs}), "add_low_rank: the factors' ranks differ");
    refuses(nb::add_low_rank({v.data(), 5, 3}, {v.data(), 3, outputs - 1}),
            "add_low_rank: the right factor must have a column per output");
    refuses(nb::multiply_by({v.data(), 5, outputs - 1}), "multiply_by: the factors must have the shape of y");
    refuses(nb::scale_tokens(std::span<const float>(v.data(), 4)), "scale_tokens: one number per token is needed");
}
