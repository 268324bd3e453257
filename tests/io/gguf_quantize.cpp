// gguf_quantize.cpp: floats to GGUF's tensor types: published bytes, published errors, and values that are hard to
// quantize.
#include <support/catch.hpp>
#include <support/executors.hpp>
#include <support/random.hpp>

#include <nibble/io/ggml_quantize.hpp>
#include <nibble/quantize.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace nb = nibble;

namespace {

template <nb::ggml_type Type> std::string hex_of(const nb::quantized<typename Type::scheme>& q) {
    std::vector<std::uint8_t> row(nb::detail::ggml_row_bytes<Type>(q.cols()));
    REQUIRE(nb::detail::write_ggml_row<Type>(q, 0, reinterpret_cast<std::byte*>(row.data())));
    std::string text;
    for (const std::uint8_t byte : row) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

template <nb::ggml_type Type> std::string reference_hex(const std::vector<float>& x) {
    return hex_of<Type>(nb::quantize_ggml<Type, nb::ggml_encoding::reference>({x.data(), 1, x.size()}));
}

// Squared error over squares.
template <nb::any_scheme S> double relative_error(const nb::quantized<S>& q, const std::vector<float>& x) {
    std::vector<float> y(x.size());
    nb::dequantize(q, {y.data(), q.rows(), q.cols()});
    double error = 0.0;
    double square = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double difference = static_cast<double>(y[i]) - static_cast<double>(x[i]);
        error += difference * difference;
        square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return error / square;
}

std::vector<float> laplace_values(std::size_t count, std::uint64_t seed) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) {
        const double u = nibble_test::random_uniform(seed, i) - 0.5;
        x[i] = static_cast<float>((u < 0.0 ? 1.0 : -1.0) * std::log1p(-2.0 * std::fabs(u) + 1e-12));
    }
    return x;
}
// One channel in 64 is twenty times as large.
std::vector<float> outlier_values(std::size_t count, std::uint64_t seed) {
    std::vector<float> x = nibble_test::normal_values(count, seed);
    for (std::size_t i = 5; i < count; i += 64) x[i] *= 20.0f;
    return x;
}

} // namespace

// formats.md 7.5: x[i] = ((37 i mod 64) - 32) / 10.
TEST_CASE("the reference encoders give the published bytes", "[io]") {
    std::vector<float> x(32);
    for (std::size_t i = 0; i < 32; ++i) x[i] = (static_cast<float>(37 * i % 64) - 32.0f) / 10.0f;
    CHECK(reference_hex<nb::ggml_q4_0>(x) == "663640d973fc952ec851ea731da63fc862fb");
    CHECK(reference_hex<nb::ggml_q4_1>(x) == "b83666c240d962fb952eb751da730c953ec851ea");
    CHECK(reference_hex<nb::ggml_q5_0>(x) == "66322ab55aa980b3d5f82a5d7fa2c4f7194c6e91b3e6");
    CHECK(reference_hex<nb::ggml_q5_1>(x) == "813266c22ab55aa980a2d5f72a4c7f91c4e6193b6e80b3d5");
    CHECK(reference_hex<nb::ggml_q8_0>(x) == "73268114a93cd063f88d20b547dc6f04992cc053e87b10a538cc5ff4891cb143d86b");
    CHECK(reference_hex<nb::ggml_mxfp4>(x) == "7edf62ae752ce659df639ef63ce750cf74");
    // Q8_1 has the codes of Q8_0, and their sum times d.
    const auto q8 = nb::quantize_ggml<nb::ggml_q8_0, nb::ggml_encoding::reference>({x.data(), 1, x.size()});
    CHECK(hex_of<nb::ggml_q8_1>(q8).substr(0, 8) == "732673be");
}

namespace {

// bf16 weights of a model: their quotients often are ties, which one rounding more or less decides.
std::vector<float> bf16_weights(std::size_t count, std::uint64_t seed) {
    std::vector<float> x = nibble_test::normal_values(count, seed);
    for (float& v : x) v = nb::bf16::decode(nb::bf16::encode(v * 0.02f));
    return x;
}

// ggml's rule for a block of 32, each operation rounded to fp32 because it goes through memory: a quotient times 1 / d
// plus half a step, truncated. `fused` counts the codes that a single rounding of product and sum would change.
template <int Bits> std::vector<std::uint8_t> ruled_codes(const float* x, bool affine, std::size_t& fused) {
    const float levels = static_cast<float>((1 << Bits) - 1);
    const float half = static_cast<float>(1 << (Bits - 1));
    float low = x[0], high = x[0], top = 0.0f;
    for (std::size_t i = 0; i < 32; ++i) {
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
        if (std::fabs(x[i]) > std::fabs(top)) top = x[i];
    }
    const volatile float d = affine ? (high - low) / levels : top / -half;
    const volatile float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    const float offset = affine ? 0.5f : half + 0.5f;
    std::vector<std::uint8_t> codes;
    for (std::size_t i = 0; i < 32; ++i) {
        const volatile float from = affine ? x[i] - low : x[i];
        const volatile float product = from * inverse;
        const volatile float sum = product + offset;
        const auto code = static_cast<std::uint8_t>(std::min(sum + 0.0f, levels));
        fused += static_cast<std::uint8_t>(std::min(std::fma(from + 0.0f, inverse + 0.0f, offset), levels)) != code
                     ? 1u
                     : 0u;
        codes.push_back(code);
    }
    return codes;
}

} // namespace

// Of the 2^18 codes a few are other ones if product and sum are rounded once.
TEST_CASE("the reference encoders round product and sum, whatever the compiler fuses", "[io]") {
    constexpr std::size_t cols = 1024;
    constexpr std::size_t rows = 256;
    const std::vector<float> x = bf16_weights(rows * cols, 6);
    const auto check = [&]<class Type, int Bits>(std::type_identity<Type>, std::integral_constant<int, Bits>,
                                                 bool affine) {
        INFO(nb::ggml_block_of<Type>.name);
        const auto q = nb::quantize_ggml<Type, nb::ggml_encoding::reference>({x.data(), rows, cols});
        std::size_t fused = 0;
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < x.size(); i += 32) {
            const std::vector<std::uint8_t> codes = ruled_codes<Bits>(x.data() + i, affine, fused);
            for (std::size_t j = 0; j < 32; ++j) {
                // A symmetric code is stored as the number it stands for.
                const unsigned flip = affine ? 0u : 1u << (Bits - 1);
                wrong += q.code_at((i + j) / cols, (i + j) % cols) != (codes[j] ^ flip) ? 1u : 0u;
            }
        }
        CHECK(wrong == 0);
        if (!affine) CHECK(fused > 0);
    };
    check(std::type_identity<nb::ggml_q4_0>{}, std::integral_constant<int, 4>{}, false);
    check(std::type_identity<nb::ggml_q5_0>{}, std::integral_constant<int, 5>{}, false);
    check(std::type_identity<nb::ggml_q4_1>{}, std::integral_constant<int, 4>{}, true);
    check(std::type_identity<nb::ggml_q5_1>{}, std::integral_constant<int, 5>{}, true);
}

TEST_CASE("Q8_0 rounds halves away from zero, as the package does", "[io]") {
    std::vector<float> x(32, 0.0f);
    x[0] = 127.0f;
    x[1] = 2.5f;
    x[2] = -2.5f;
    x[3] = 3.5f;
    const std::string hex = reference_hex<nb::ggml_q8_0>(x);
    CHECK(hex.substr(0, 12) == "003c7f03fd04");
}

// formats.md section 10: N(0, 1), within 3 % of figures rounded to the digits given.
TEST_CASE("the reference encoders have the published errors, the search smaller ones", "[io]") {
    constexpr std::size_t count = 131072 / nibble_test::sample_divisor / 4096 * 4096;
    const std::vector<float> x = nibble_test::normal_values(count, 2026);
    const nb::matrix_view<const float> w(x.data(), count / 4096, 4096);
    const auto check = [&]<class Type>(double published, double digit, std::type_identity<Type>) {
        INFO(nb::ggml_block_of<Type>.name);
        const double error = relative_error(nb::quantize_ggml<Type, nb::ggml_encoding::reference>(w), x);
        CHECK(error > 0.97 * (published - 0.5 * digit));
        CHECK(error < 1.03 * (published + 0.5 * digit));
        CHECK(relative_error(nb::quantize_ggml<Type>(w), x) < error);
    };
    check(0.00734, 1e-5, std::type_identity<nb::ggml_q4_0>{});
    check(0.00607, 1e-5, std::type_identity<nb::ggml_q4_1>{});
    check(0.00180, 1e-5, std::type_identity<nb::ggml_q5_0>{});
    check(0.00142, 1e-5, std::type_identity<nb::ggml_q5_1>{});
    check(0.000028, 1e-6, std::type_identity<nb::ggml_q8_0>{});
    check(0.01322, 1e-5, std::type_identity<nb::ggml_mxfp4>{});
}

// What ggml d99724f2 (quantize_row_*_ref) left of 128 K values of N(0, 1), in rows of 4096; the search stays below by
// more than what another seed changes, about 1 %.
TEST_CASE("the search errs less than ggml's own encoders on normal values", "[io][slow]") {
    constexpr std::size_t count = 131072 / nibble_test::sample_divisor / 4096 * 4096;
    const std::vector<float> x = nibble_test::normal_values(count, 7);
    const nb::matrix_view<const float> w(x.data(), count / 4096, 4096);
    const auto ggml_error = [](std::string_view name) {
        if (name == "Q2_K") return 0.0883129;
        if (name == "Q3_K") return 0.0228318;
        if (name == "Q4_K") return 0.00510246;
        if (name == "Q5_K") return 0.00130948;
        if (name == "Q6_K") return 0.000315871;
        if (name == "Q8_K") return 0.0000495021;
        if (name == "IQ4_NL") return 0.00623564;
        if (name == "IQ4_XS") return 0.00591166;
        if (name == "NVFP4") return 0.00907673;
        if (name == "TQ1_0" || name == "TQ2_0") return 0.657938;
        if (name == "Q2_0") return 0.517807;
        return 0.0;
    };
    std::size_t compared = 0;
    nb::for_each_ggml_type([&]<class Type>() {
        const double other = ggml_error(nb::ggml_block_of<Type>.name);
        if (other == 0.0) return;
        ++compared;
        INFO(nb::ggml_block_of<Type>.name);
        CHECK(relative_error(nb::quantize_ggml<Type>(w), x) < other);
    });
    CHECK(compared == 12);
}

// A scale from the largest magnitude is what the verb quantize gives the same scheme.
TEST_CASE("the search errs less than a scale from the largest magnitude, on any kind of values", "[io]") {
    constexpr std::size_t cols = 1024;
    constexpr std::size_t rows = 4;
    const std::vector<float> kinds[] = {nibble_test::normal_values(rows * cols, 3), laplace_values(rows * cols, 4),
                                        outlier_values(rows * cols, 5)};
    nb::for_each_ggml_type([&]<class Type>() {
        for (const std::vector<float>& x : kinds) {
            INFO(nb::ggml_block_of<Type>.name << ", kind " << &x - kinds);
            const nb::matrix_view<const float> w(x.data(), rows, cols);
            const double plain = relative_error(nb::quantize<typename Type::scheme>(w), x);
            // Under fp16 scales both round the same best scale of binary codes.
            CHECK(relative_error(nb::quantize_ggml<Type>(w), x) <= plain * (1.0 + 1e-6));
        }
    });
}

TEST_CASE("codes are the nearest ones under the scales as stored", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(1024, 11);
    nb::for_each_ggml_type([&]<class Type>() {
        using scheme = typename Type::scheme;
        using element = typename scheme::element_type;
        const auto q = nb::quantize_ggml<Type>({x.data(), 2, 512});
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < 2; ++i)
            for (std::size_t j = 0; j < 512; ++j) {
                const double value = static_cast<double>(x[512 * i + j]);
                const double error = std::fabs(static_cast<double>(q.value_at(i, j)) - value);
                for (unsigned code = 0; code < 1u << element::bits; ++code) {
                    const double plain = static_cast<double>(element::decode(static_cast<std::uint8_t>(code)));
                    if (std::is_same_v<element, nb::ternary> && plain > 1.0) continue; // no encoder gives it
                    double other = static_cast<double>(q.scale_at(i, j)) * plain;
                    if (scheme::has_minimum) other += static_cast<double>(q.zero_at(i, j));
                    // A tie, or a quotient that rounds onto one, may go either way.
                    if (std::fabs(other - value) < error - 1e-6) ++wrong;
                }
            }
        INFO(nb::ggml_block_of<Type>.name);
        CHECK(wrong == 0);
    });
}

TEST_CASE("values that are hard to quantize give numbers", "[io]") {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float huge = std::numeric_limits<float>::max();
    constexpr float tiny = std::numeric_limits<float>::denorm_min();
    const std::vector<float> patterns[] = {
        {0.0f},
        {-0.0f},
        {tiny},
        {-tiny, tiny},
        {huge},
        {-huge, huge},
        {1e-40f, -3e-40f},
        {1e-30f, 2e-30f},
        {65504.0f},
        {1e6f, -1e5f, 3.0f},
        {1.0f},
        {-1.0f},
        {nan},
        {infinity},
        {-infinity, 1.0f},
        {nan, 1.0f, -2.0f},
        {infinity, nan},
        {infinity, -infinity, 0.5f},
        {1.0f, 1.0000001f},
        {huge, tiny},
    };
    nb::for_each_ggml_type([&]<class Type>() {
        for (const std::vector<float>& pattern : patterns) {
            std::vector<float> x(512);
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = pattern[i % pattern.size()];
            INFO(nb::ggml_block_of<Type>.name << ", pattern " << &pattern - patterns);
            const nb::matrix_view<const float> w(x.data(), 2, 256);
            const auto q = nb::quantize_ggml<Type>(w);
            const bool finite = std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
            CHECK(q.nonfinite() == !finite);
            float top = 0.0f;
            for (const float v : x)
                if (std::isfinite(v)) top = std::max(top, std::fabs(v));
            std::vector<float> y(512);
            nb::dequantize(q, {y.data(), 2, 256});
            bool good = true;
            for (std::size_t i = 0; i < y.size(); ++i) {
                good = good && std::isfinite(y[i]);
                // No farther away than the values are apart.
                good = good && std::fabs(y[i]) <= 2.5f * std::max(top, 0x1p-20f);
                if (x[i] == 0.0f && top == 0.0f) good = good && y[i] == 0.0f;
            }
            CHECK(good);
            if constexpr (nb::has_ggml_reference<Type>) {
                const auto plain = nb::quantize_ggml<Type, nb::ggml_encoding::reference>(w);
                CHECK(plain.nonfinite() == !finite);
            }
        }
    });
}

TEST_CASE("constant blocks keep their value to the precision of the scale", "[io]") {
    nb::for_each_ggml_type([&]<class Type>() {
        for (const float constant : {0.7f, -0.7f, 1000.0f}) {
            const std::vector<float> x(256, constant);
            const auto q = nb::quantize_ggml<Type>({x.data(), 1, 256});
            INFO(nb::ggml_block_of<Type>.name << " " << constant);
            // Half a step of fp16, or of a scale of three mantissa bits or none; two roundings where there are two
            // levels.
            using traits = nb::detail::scheme_traits<typename Type::scheme>;
            const double limit = std::is_same_v<typename traits::scale_element, nb::e8m0> ? 0.2
                                 : traits::scale_element::bits == 7                       ? 0.05
                                                                                          : 0.01;
            CHECK(std::sqrt(relative_error(q, x)) < limit);
        }
    });
}

TEST_CASE("quantize_ggml does not depend on the executor", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(7 * 512, 5);
    nb::for_each_ggml_type([&]<class Type>() {
        const nb::matrix_view<const float> w(x.data(), 7, 512);
        const auto one = nb::quantize_ggml<Type, nb::ggml_encoding::best>(w, nibble_test::test_executor{1});
        const auto many = nb::quantize_ggml<Type, nb::ggml_encoding::best>(w, nibble_test::test_executor{3});
        REQUIRE(one.bytes() == many.bytes());
        CHECK(std::memcmp(one.row_codes(0), many.row_codes(0), one.bytes()) == 0);
    });
}
