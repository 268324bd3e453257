// gemm_contracts.cpp: broken contracts reach the failure handler before anything is written; empty shapes are fine.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"
#include "support/seams.hpp"

#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

template <class S> nb::packed<S> weights_of(std::size_t n, std::size_t k) {
    const std::vector<float> w = bell_values(n * k, 41);
    return nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), n, k)));
}

template <class S, class I> void check_shapes() {
    const nb::packed<S> w = weights_of<S>(9, 40);
    const std::vector<float> memory = bell_values(5 * 50, 42);
    const auto x = [&](std::size_t m, std::size_t k) { return nb::matrix_view<const float>(memory.data(), m, k); };
    struct shape {
        std::size_t m, k, rows, cols;
        const char* message;
    };
    const shape wrong[] = {
        {3, 39, 3, 9, "gemm: x must have as many columns as the weights"},
        {3, 41, 3, 9, "gemm: x must have as many columns as the weights"},
        {3, 0, 3, 9, "gemm: x must have as many columns as the weights"},
        {3, 40, 2, 9, "gemm: y must have as many rows as x"},
        {3, 40, 4, 9, "gemm: y must have as many rows as x"},
        {3, 40, 3, 8, "gemm: y must have as many columns as the weights have rows"},
        {3, 40, 3, 16, "gemm: y must have as many columns as the weights have rows"},
        {0, 40, 3, 9, "gemm: y must have as many rows as x"},
    };
    for (const shape& s : wrong) {
        fenced_matrix y(s.rows, s.cols, 4);
        CHECK(broken_by([&] { nb::gemm<I>(x(s.m, s.k), w, y.view()); }) == s.message);
        CHECK(y.untouched());
    }
}

} // namespace

TEST_CASE("gemm refuses shapes that do not fit, before it writes") {
    nibble_test::for_each_tested_isa([]<class I>() {
        check_shapes<nb::int4_g32, I>();
        check_shapes<nb::f32_plain, I>();
    });
}

TEST_CASE("epilogues refuse operands that do not fit, before anything is written") {
    const auto w = weights_of<nb::int8_channel>(9, 40);
    const std::vector<float> x = bell_values(3 * 40, 43);
    const std::vector<float> values(100, 1.0f);
    const nb::matrix_view<const float> from(x.data(), 3, 40);
    const auto refuses = [&](const auto& finish, const char* message) {
        fenced_matrix y(3, 9, 4);
        CHECK(broken_by([&] { nb::gemm(from, w, y.view(), finish); }) == message);
        CHECK(y.untouched());
    };
    const auto bias = [&](std::size_t n) { return nb::add_bias(std::span<const float>(values.data(), n)); };
    const auto residual = [&](std::size_t m, std::size_t n) {
        return nb::add_residual(nb::matrix_view<const float>(values.data(), m, n));
    };
    const char* wrong_bias = "add_bias: one value per output is needed";
    const char* wrong_residual = "add_residual: the addend must have the shape of y";
    for (const std::size_t n : sizes{0, 1, 8, 10, 27}) {
        refuses(bias(n), wrong_bias);
        refuses(nb::relu | bias(n), wrong_bias);
        refuses(bias(9) | nb::gelu | bias(n) | nb::scale_by{2.0f}, wrong_bias);
    }
    refuses(residual(3, 8), wrong_residual);
    refuses(residual(2, 9), wrong_residual);
    refuses(residual(9, 3), wrong_residual);
    refuses(residual(0, 0), wrong_residual);
    refuses(bias(9) | nb::silu | residual(4, 9), wrong_residual);
    // Checked even if there is nothing to write.
    CHECK(broken_by([&] { nb::gemm({nullptr, 0, 40}, w, {nullptr, 0, 9}, bias(3)); }) == wrong_bias);
    // And what fits is accepted.
    fenced_matrix y(3, 9, 4);
    CHECK(broken_by([&] { nb::gemm(from, w, y.view(), bias(9) | residual(3, 9)); }).empty());
    CHECK(y.intact());
    CHECK(!y.untouched());
}

TEST_CASE("an empty result is no work") {
    nibble_test::for_each_tested_isa([]<class I>() {
        const auto w = weights_of<nb::int4_g32>(9, 40);
        const auto none = weights_of<nb::int4_g32>(0, 40);
        const std::vector<float> x = bell_values(3 * 40, 44);
        fenced_matrix y(3, 9, 4);
        // No tokens, with and without memory behind the views.
        nb::gemm<I>({x.data(), 0, 40}, w, {y.view().data(), 0, 9});
        nb::gemm<I>({nullptr, 0, 40}, w, {nullptr, 0, 9});
        // No outputs.
        nb::gemm<I>({x.data(), 3, 40}, none, {y.view().data(), 3, 0});
        nb::gemm<I>({x.data(), 3, 40}, none, {nullptr, 3, 0});
        CHECK(y.untouched());
    });
}

namespace {

template <class S, class I> void check_no_columns() {
    const nb::packed<S> w = weights_of<S>(21, 0);
    std::vector<float> bias = bell_values(21, 45);
    for (const std::size_t m : sizes{1, 2, 5})
        for (const auto activations : {nb::activation_scale::automatic, nb::activation_scale::per_token}) {
            nb::gemm_options options;
            options.activations.scale = activations;
            fenced_matrix y(m, 21, 4);
            nb::gemm<I>({nullptr, m, 0}, w, y.view(), nb::add_bias(bias), options);
            CHECK(y.intact());
            bool all = true;
            for (std::size_t i = 0; i < m; ++i)
                for (std::size_t j = 0; j < 21; ++j) all = all && same_bits(y.view()(i, j), 0.0f + bias[j]);
            CHECK(all);
        }
}

} // namespace

TEST_CASE("a sum over no columns is zero, and the epilogue still runs") {
    nibble_test::for_each_tested_isa([]<class I>() {
        check_no_columns<nb::int4_g32, I>();
        check_no_columns<nb::int8_channel_asym, I>();
        check_no_columns<nb::int5_g32_min, I>();
        check_no_columns<nb::nvfp4, I>();
        check_no_columns<nb::f32_plain, I>();
    });
}

TEST_CASE("y may be the residual itself") {
    nibble_test::for_each_tested_isa([]<class I>() {
        const auto w = weights_of<nb::int4_g32>(35, 64);
        const std::vector<float> x = bell_values(6 * 64, 46);
        const std::vector<float> before = bell_values(6 * 35, 47);
        std::vector<float> apart(6 * 35);
        std::vector<float> in_place = before;
        const nb::matrix_view<const float> from(x.data(), 6, 64);
        nb::gemm<I>(from, w, nb::matrix_view<float>(apart.data(), 6, 35),
                    nb::add_residual(nb::matrix_view<const float>(before.data(), 6, 35)));
        nb::gemm<I>(from, w, nb::matrix_view<float>(in_place.data(), 6, 35),
                    nb::add_residual(nb::matrix_view<const float>(in_place.data(), 6, 35)));
        CHECK(apart == in_place);
    });
}
