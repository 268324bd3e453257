// epilogues.cpp: every step against its formula in double within the error its header states, alone and in chains; what
// NaN and infinity become; the same bits on every ISA.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"
#include "support/seams.hpp"

#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr nb::position anywhere{0, 0, 8};

// The distance between fp32 numbers around x.
double unit_of(double x) {
    int exponent = 0;
    std::frexp(x, &exponent);
    return std::ldexp(1.0, x == 0.0 ? -149 : std::max(exponent - 24, -149));
}

// Largest errors over all fp32 numbers in [low, high] that are `step` patterns apart, of either sign.
struct errors {
    double units = 0.0; // in units in the last place of the result
    double absolute = 0.0;
    double relative = 0.0; // of results that are normal numbers
    double by_x = 0.0;     // absolute error over |x|, for |x| above 1e-30
    std::size_t count = 0;
    bool finite = true;
};
template <class I, class Function, class Formula>
errors measure(const Function& f, const Formula& formula, double low, double high, std::uint64_t step = 1009) {
    errors e;
    float x[8];
    float y[8];
    std::size_t pending = 0;
    const auto flush = [&] {
        for (std::size_t i = pending; i < 8; ++i) x[i] = 0.0f;
        I::store(y, nb::lanes<I>(f(nb::lanes<I>(I::load(x)))).value);
        for (std::size_t i = 0; i < pending; ++i) {
            const double exact = formula(static_cast<double>(x[i]));
            const double error = std::fabs(static_cast<double>(y[i]) - exact);
            e.finite = e.finite && std::isfinite(y[i]);
            e.units = std::max(e.units, error / unit_of(exact));
            e.absolute = std::max(e.absolute, error);
            if (std::fabs(exact) >= 0x1p-126) e.relative = std::max(e.relative, error / std::fabs(exact));
            if (std::fabs(x[i]) > 1e-30f) e.by_x = std::max(e.by_x, error / std::fabs(static_cast<double>(x[i])));
            ++e.count;
        }
        pending = 0;
    };
    for (std::uint64_t word = 0; word < (std::uint64_t{1} << 32); word += step) {
        const float value = std::bit_cast<float>(static_cast<std::uint32_t>(word));
        if (!(value >= static_cast<float>(low) && value <= static_cast<float>(high))) continue;
        x[pending++] = value;
        if (pending == 8) flush();
    }
    flush();
    return e;
}

double sigmoid_of(double x) {
    return 1.0 / (1.0 + std::exp(-x));
}
double gelu_of(double x) {
    // x/2 (1 + tanh z) = x / (1 + e^-2z), which cancels nothing.
    return x / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
double gelu_erf_of(double x) {
    return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

constexpr double far = 3e38;

template <class I, class Function> float at(const Function& f, float x) {
    float y[8];
    I::store(y, nb::lanes<I>(f(nb::lanes<I>(x))).value);
    return y[0];
}

} // namespace

TEST_CASE("exp, sigmoid and tanh keep the errors that isa/lanes.hpp states") {
    nibble_test::for_each_tested_isa([]<class I>() {
        INFO(I::name);
        const auto e = [](const nb::lanes<I>& x) { return exp(x); };
        const auto s = [](const nb::lanes<I>& x) { return sigmoid(x); };
        const auto t = [](const nb::lanes<I>& x) { return tanh(x); };
        const errors of_exp = measure<I>(
            e, [](double x) { return std::exp(x); }, -103.97, 88.722);
        CHECK(of_exp.count > 100000);
        CHECK(of_exp.finite);
        CHECK(of_exp.units < 2.0);
        CHECK(measure<I>(
                  e, [](double) { return 0.0; }, -far, -103.98)
                  .absolute == 0.0);
        CHECK(at<I>(e, 88.73f) == infinity);
        CHECK(at<I>(e, 0.0f) == 1.0f);
        CHECK(at<I>(e, infinity) == infinity);
        CHECK(same_bits(at<I>(e, -infinity), 0.0f));
        CHECK(std::isnan(at<I>(e, not_a_number)));

        const errors of_sigmoid = measure<I>(s, sigmoid_of, -88.7, far);
        CHECK(of_sigmoid.units < 4.0);
        CHECK(measure<I>(s, sigmoid_of, -far, -88.7).absolute < 3.1e-39);
        CHECK(same_bits(at<I>(s, -infinity), 0.0f));
        CHECK(at<I>(s, infinity) == 1.0f);
        CHECK(std::isnan(at<I>(s, not_a_number)));

        const errors of_tanh = measure<I>(
            t, [](double x) { return std::tanh(x); }, -far, far);
        CHECK(of_tanh.absolute < 1.2e-7);
        CHECK(at<I>(t, infinity) == 1.0f);
        CHECK(at<I>(t, -infinity) == -1.0f);
        CHECK(same_bits(at<I>(t, -0.0f), -0.0f));
        CHECK(std::isnan(at<I>(t, not_a_number)));
    });
}

TEST_CASE("silu and the gelus keep the errors that epilogue/activation.hpp states") {
    nibble_test::for_each_tested_isa([]<class I>() {
        INFO(I::name);
        const auto silu = [](const nb::lanes<I>& x) { return nb::silu(x, anywhere); };
        const auto gelu = [](const nb::lanes<I>& x) { return nb::gelu(x, anywhere); };
        const auto gelu_erf = [](const nb::lanes<I>& x) { return nb::gelu_erf(x, anywhere); };

        const auto silu_of = [](double x) { return x * sigmoid_of(x); };
        const errors of_silu = measure<I>(silu, silu_of, -88.7, far);
        CHECK(of_silu.relative < 5e-7);
        CHECK(of_silu.units < 4.0);
        CHECK(measure<I>(silu, silu_of, -far, -88.7).absolute < 3e-37);

        const errors of_gelu = measure<I>(gelu, gelu_of, -far, far);
        CHECK(of_gelu.by_x < 2e-7);
        CHECK(measure<I>(gelu, gelu_of, -1.0, far).relative < 5e-7);
        CHECK(measure<I>(gelu, gelu_of, -10.0, -1.0).relative < 3e-5);
        CHECK(measure<I>(gelu, gelu_of, -far, -10.0).absolute < 1e-22);

        const errors of_erf = measure<I>(gelu_erf, gelu_erf_of, -far, far);
        CHECK(of_erf.by_x < 3.5e-7);

        for (const float x : {not_a_number, -not_a_number}) {
            CHECK(std::isnan(at<I>(silu, x)));
            CHECK(std::isnan(at<I>(gelu, x)));
            CHECK(std::isnan(at<I>(gelu_erf, x)));
        }
        CHECK(at<I>(silu, infinity) == infinity);
        CHECK(at<I>(gelu, infinity) == infinity);
        // Documented: infinity x 0.
        CHECK(std::isnan(at<I>(silu, -infinity)));
        CHECK(std::isnan(at<I>(gelu, -infinity)));
        CHECK(std::isnan(at<I>(gelu_erf, infinity)));
        CHECK(std::isnan(at<I>(gelu_erf, -infinity)));
        for (const float x : {3e38f, 1e20f, 100.0f}) {
            CHECK(at<I>(silu, x) == x);
            CHECK(at<I>(gelu, x) == x);
            CHECK(at<I>(gelu_erf, x) == x);
            CHECK(at<I>(silu, -x) == 0.0f);
            CHECK(at<I>(gelu, -x) == 0.0f);
            CHECK(at<I>(gelu_erf, -x) == 0.0f);
        }
    });
}

TEST_CASE("the exact steps are exact, NaN included") {
    nibble_test::for_each_tested_isa([]<class I>() {
        INFO(I::name);
        const nb::clamp limits{-1.5f, 2.25f};
        const nb::scale_by third{1.0f / 3.0f};
        bool exact = true;
        for (std::uint64_t word = 0; word < (std::uint64_t{1} << 32); word += 40009) {
            const float x = std::bit_cast<float>(static_cast<std::uint32_t>(word));
            const float rectified = at<I>([](const nb::lanes<I>& v) { return nb::relu(v, anywhere); }, x);
            const float clamped = at<I>([&](const nb::lanes<I>& v) { return limits(v, anywhere); }, x);
            const float scaled = at<I>([&](const nb::lanes<I>& v) { return third(v, anywhere); }, x);
            exact = exact && same_bits(rectified, x < 0.0f ? 0.0f : x);
            exact = exact && same_bits(clamped, x < -1.5f ? -1.5f : x > 2.25f ? 2.25f : x);
            exact = exact && same_bits(scaled, x * (1.0f / 3.0f));
        }
        CHECK(exact);
        CHECK(std::isnan(at<I>([](const nb::lanes<I>& v) { return nb::relu(v, anywhere); }, not_a_number)));
        CHECK(std::isnan(at<I>([&](const nb::lanes<I>& v) { return limits(v, anywhere); }, not_a_number)));
    });
}

TEST_CASE("activations have the same bits on every ISA") {
    const auto bits_of = []<class I>(float x, float(&to)[6]) {
        const nb::lanes<I> v(x);
        const nb::lanes<I> results[6] = {
            exp(v), sigmoid(v), tanh(v), nb::silu(v, anywhere), nb::gelu(v, anywhere), nb::gelu_erf(v, anywhere)};
        for (int i = 0; i < 6; ++i) {
            float y[8];
            I::store(y, results[i].value);
            to[i] = y[7];
        }
    };
    nibble_test::for_each_tested_isa([&]<class I>() {
        std::size_t different = 0;
        for (std::uint64_t word = 0; word < (std::uint64_t{1} << 32); word += 8209) {
            const float x = std::bit_cast<float>(static_cast<std::uint32_t>(word));
            float want[6];
            float got[6];
            bits_of.template operator()<nb::generic>(x, want);
            bits_of.template operator()<I>(x, got);
            for (int i = 0; i < 6; ++i) different += same_bits(got[i], want[i]) ? 0u : 1u;
        }
        INFO(I::name);
        CHECK(different == 0);
    });
}

namespace {

// y, then the step on each result by itself, by generic lanes: what a chain is to give.
template <class Step> std::vector<float> then(std::vector<float> y, std::size_t outputs, const Step& step) {
    for (std::size_t i = 0; i < y.size(); ++i) {
        const nb::lanes<nb::generic> r = step(nb::lanes<nb::generic>(y[i]), nb::position{i / outputs, i % outputs, 1});
        float all[8];
        nb::generic::store(all, r.value);
        y[i] = all[0];
    }
    return y;
}

template <class S, class I> void check_chains() {
    for (const std::size_t m : sizes{1, 5})
        for (const std::size_t n : sizes{1, 8, 19, 33}) {
            const std::size_t k = 50;
            const std::vector<float> w = bell_values(n * k, 71);
            const std::vector<float> x = bell_values(m * k, 72);
            const std::vector<float> bias = bell_values(n, 73);
            fenced_matrix addend(m, n, 6);
            addend.fill(bell_values(m * n, 74).data());
            const auto weights = nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), n, k)));
            const auto run = [&](const auto& finish) {
                fenced_matrix y(m, n, 3);
                nb::gemm<I>(nb::matrix_view<const float>(x.data(), m, k), weights, y.view(), finish);
                CHECK(y.intact());
                std::vector<float> flat;
                for (std::size_t i = 0; i < m; ++i) flat.insert(flat.end(), y.view().row(i), y.view().row(i) + n);
                return flat;
            };
            const std::vector<float> plain = run(nb::identity{});
            const nb::add_bias biased{std::span<const float>(bias)};
            const nb::add_residual added{addend.view()};
            const nb::scale_by scaled{0.37f};
            const nb::clamp clamped{-0.125f, 4.0f};
            const auto own = [](const auto& v, const nb::position&) { return fma(v, v, v); };
            INFO(I::name << ", M N = " << m << " " << n);
            // Each step reads its own place.
            std::vector<float> by_hand = plain;
            for (std::size_t i = 0; i < by_hand.size(); ++i)
                by_hand[i] = (by_hand[i] + bias[i % n]) + addend.view()(i / n, i % n);
            CHECK(run(biased | added) == by_hand);
            std::vector<float> want = then(plain, n, scaled);
            want = then(want, n, biased);
            want = then(want, n, nb::gelu);
            want = then(want, n, added);
            want = then(want, n, nb::silu);
            want = then(want, n, clamped);
            want = then(want, n, own);
            CHECK(run(scaled | biased | nb::gelu | added | nb::silu | clamped | own) == want);
            // A chain of chains is the same chain.
            CHECK(run((scaled | biased) | (nb::gelu | (added | nb::silu)) | (clamped | own)) == want);
            CHECK(run(nb::identity{} | nb::relu | nb::identity{}) == then(plain, n, nb::relu));
        }
}

} // namespace

TEST_CASE("chains apply their steps from left to right, each rounded by itself") {
    nibble_test::for_each_tested_isa([]<class I>() {
        check_chains<nb::int4_g32, I>();
        check_chains<nb::f32_plain, I>();
    });
}

TEST_CASE("what gemm makes NaN stays NaN through every step") {
    nibble_test::for_each_tested_isa([]<class I>() {
        const std::vector<float> w = bell_values(9 * 40, 75);
        std::vector<float> x = bell_values(2 * 40, 76);
        x[40] = not_a_number;
        const auto weights = nb::pack(nb::quantize<nb::int8_channel>(nb::matrix_view<const float>(w.data(), 9, 40)));
        std::vector<float> y(2 * 9);
        const auto spoils_one_row = [&](const auto& finish) {
            nb::gemm<I>({x.data(), 2, 40}, weights, nb::matrix_view<float>(y.data(), 2, 9), finish);
            for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i >= 9));
        };
        spoils_one_row(nb::relu);
        spoils_one_row(nb::clamp{-1.0f, 1.0f});
        spoils_one_row(nb::silu | nb::gelu | nb::gelu_erf | nb::relu | nb::clamp{0.0f, 1.0f});
    });
}
