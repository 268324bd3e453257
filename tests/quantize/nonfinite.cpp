// nonfinite.cpp: what each policy makes of NaN, infinities and fp32 subnormals.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

using namespace nibble;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

// 3 x 64 normal values with a NaN and both infinities, and the same with zeros in their places.
struct weights {
    std::vector<float> given;
    std::vector<float> zeroed;
};
[[nodiscard]] weights make() {
    weights w;
    for (std::size_t i = 0; i < 192; ++i) w.given.push_back(nibble_test::random_normal(9, i));
    w.zeroed = w.given;
    for (const std::size_t at : {5u, 70u, 150u}) w.zeroed[at] = 0.0f;
    w.given[5] = not_a_number;
    w.given[70] = infinite;
    w.given[150] = -infinite;
    return w;
}

using kinds = format_list<
    named_format<"int4_g32", int4_g32>, named_format<"int4_g32_asym", int4_g32_asym>,
    named_format<"int4_g32_min", int4_g32_min>, named_format<"mxfp4", mxfp4>, named_format<"mxfp8_e4m3", mxfp8_e4m3>,
    named_format<"nvfp4", nvfp4>, named_format<"fp8_e5m2_channel", fp8_e5m2_channel>, named_format<"nf4_g64", nf4_g64>,
    named_format<"q4_k", q4_k>, named_format<"fp8_e4m3_tile128", fp8_e4m3_tile128>, named_format<"f16", f16_plain>>;

} // namespace

TEST_CASE("quantize: under nonfinite_policy::zero NaN is 0, infinities saturate, and nothing else changes",
          "[quantize][nonfinite]") {
    const weights w = make();
    for_each_format(kinds{}, [&]<class Format>() {
        using S = typename Format::scheme;
        CAPTURE(std::string(Format::name));
        const matrix_view<const float> given(w.given.data(), 3, 64);
        const auto q = quantize<S>(given, {.nonfinite = nonfinite_policy::zero});
        const auto wanted = quantize<S>(matrix_view<const float>(w.zeroed.data(), 3, 64));
        CHECK(q.nonfinite());
        CHECK_FALSE(wanted.nonfinite());
        bool same = true;
        bool finite = true;
        for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t j = 0; j < 64; ++j) {
                const std::size_t at = i * 64 + j;
                finite = finite && std::isfinite(q.value_at(i, j));
                if (at != 70 && at != 150) same = same && q.value_at(i, j) == wanted.value_at(i, j);
                if (S::scaled) same = same && q.scale_at(i, j) == wanted.scale_at(i, j);
            }
        CHECK(same);
        CHECK(finite);
        // The ends of the slots' ranges.
        float top = 0.0f;
        float bottom = 0.0f;
        for (unsigned c = 0; c < (1u << (S::element_type::bits <= 8 ? S::element_type::bits : 16)); ++c) {
            const float v = S::element_type::decode(static_cast<typename S::element_type::code>(c));
            if (!std::isfinite(v)) continue;
            top = std::max(top, v);
            bottom = std::min(bottom, v);
        }
        // Symmetric integers leave their lowest code out.
        if (bottom < -top) bottom = -top;
        const auto value = [&](float unit, std::size_t i, std::size_t j) {
            if constexpr (S::has_integer_zero)
                return q.scale_at(i, j) * (unit - q.zero_at(i, j));
            else
                return std::fma(q.scale_at(i, j), unit, q.zero_at(i, j));
        };
        CHECK(q.value_at(1, 6) == value(top, 1, 6));
        CHECK(q.value_at(2, 22) == value(bottom, 2, 22));
    });
}

TEST_CASE("quantize: under nonfinite_policy::zero the search for a range takes no NaN scale", "[quantize][nonfinite]") {
    const weights w = make();
    for_each_format(kinds{}, [&]<class Format>() {
        using S = typename Format::scheme;
        CAPTURE(std::string(Format::name));
        const auto q = quantize<S>(matrix_view<const float>(w.given.data(), 3, 64),
                                   {.range = range::least_squares, .nonfinite = nonfinite_policy::zero});
        bool finite = true;
        for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t j = 0; j < 64; ++j) finite = finite && std::isfinite(q.value_at(i, j));
        CHECK(finite);
    });
}

TEST_CASE("quantize: nonfinite_policy::refuse is an error where there is something to refuse",
          "[quantize][nonfinite]") {
    const weights w = make();
    const failure_handler before =
        set_failure_handler([](const char* message, const char*, int) { throw std::runtime_error(message); });
    for_each_format(kinds{}, [&]<class Format>() {
        using S = typename Format::scheme;
        CAPTURE(std::string(Format::name));
        const quantize_options refuse{.nonfinite = nonfinite_policy::refuse};
        CHECK_THROWS_AS(quantize<S>(matrix_view<const float>(w.given.data(), 3, 64), refuse), std::runtime_error);
        CHECK_NOTHROW(quantize<S>(matrix_view<const float>(w.zeroed.data(), 3, 64), refuse));
    });
    set_failure_handler(before);
}

TEST_CASE("quantize: flushed subnormals are zeros", "[quantize][nonfinite]") {
    std::vector<float> x(64, 1e-39f);
    for (std::size_t j = 32; j < 64; ++j) x[j] = j % 2 == 0 ? -1e-40f : 3e-38f;
    using S = scheme<int8, per_group<32>, scale<f32>>;
    const auto kept = quantize<S>(matrix_view<const float>(x.data(), 1, 64));
    const auto flushed = quantize<S>(matrix_view<const float>(x.data(), 1, 64), {.flush_subnormals = true});
    CHECK(kept.value_at(0, 0) == Approx(1e-39f).epsilon(0.01));
    CHECK(flushed.scale_at(0, 0) == 0.0f);
    for (std::size_t j = 0; j < 64; ++j) {
        if (j >= 32 && j % 2 == 1)
            CHECK(flushed.value_at(0, j) == Approx(3e-38f).epsilon(0.01));
        else
            CHECK(flushed.value_at(0, j) == 0.0f);
    }
}
