// gemm_allocations.cpp: a gemm with a warm workspace allocates nothing.
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/gemm_format.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;
using nibble_test::allocations;

TEST_CASE("gemm allocates nothing once its workspace is warm") {
    for (const auto& format : gemm_formats()) {
        const std::size_t n = 70;
        const std::size_t k = 300;
        const std::vector<float> w = bell_values(n * k, 51);
        const std::vector<float> x = bell_values(100 * k, 52);
        std::vector<float> y(100 * n);
        const auto weights = format->quantize({w.data(), n, k});
        const any_executor one_thread;
        for (std::size_t isa = 0; isa < weights->isas(); ++isa) {
            nb::workspace scratch;
            nb::gemm_options options;
            options.workspace = &scratch;
            const auto run = [&](std::size_t m) {
                weights->gemm(isa, {x.data(), m, k}, {y.data(), m, n}, options, one_thread);
            };
            const std::size_t cold = allocations.load();
            run(100);
            const std::size_t after_first = allocations.load();
            const std::size_t held = scratch.size();
            for (const auto activations : {nb::activation_scale::per_token, nb::activation_scale::automatic}) {
                options.activations.scale = activations;
                run(100);
            }
            const std::size_t warm = allocations.load();
            for (const std::size_t m : sizes{100, 7, 1, 2, 33, 100}) run(m);
            const std::size_t last = allocations.load();
            INFO(format->name() << " on ISA " << isa);
            CHECK(after_first - cold == 1);
            CHECK(held <= weights->workspace_bytes(100, 1, options));
            CHECK(last - warm == 0);
            // What is promised is enough for any smaller number too, even where that makes larger chunks.
            nb::workspace enough(weights->workspace_bytes(100, 1, options));
            options.workspace = &enough;
            const std::size_t before = allocations.load();
            for (const std::size_t m : sizes{100, 96, 95, 49, 8, 1}) run(m);
            CHECK(allocations.load() == before);
        }
    }
}

TEST_CASE("activations prepared again allocate only what was never held, and their products nothing") {
    const std::size_t n = 40;
    const std::size_t k = 300;
    const std::vector<float> x = bell_values(33 * k, 57);
    std::vector<float> y(33 * n);
    const std::vector<float> w = bell_values(n * k, 56);
    const auto check = [&]<class S>() {
        const auto weights = nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), n, k)));
        const auto coded = nb::quantize<nb::int4_channel>(nb::matrix_view<const float>(x.data(), 33, k));
        nb::workspace scratch(nb::gemm_workspace_bytes(weights, 33, 1));
        nb::gemm_options options;
        options.workspace = &scratch;
        nb::prepared_activations a;
        const std::size_t cold = allocations.load();
        nb::prepare<S>(coded, a);
        const std::size_t first = allocations.load();
        const std::size_t held = a.bytes();
        // Integers of 4 bits may take less than those of 8 need (the words that plain AVX2 multiplies).
        nb::prepare<S>(nb::matrix_view<const float>(x.data(), 33, k), a);
        const std::size_t warm = allocations.load();
        for (const std::size_t m : sizes{33, 1, 5, 33}) {
            nb::prepare<S>(nb::matrix_view<const float>(x.data(), m, k), a);
            nb::gemm(a, weights, nb::matrix_view<float>(y.data(), m, n), options);
        }
        const std::size_t last = allocations.load();
        CHECK(first - cold == 1);
        CHECK(warm - first == (a.bytes() > held ? 1u : 0u));
        CHECK(last - warm == 0);
    };
    check.operator()<nb::int4_g32>();
    check.operator()<nb::int8_channel>();
    check.operator()<nb::nf4_g64>();
}

TEST_CASE("an epilogue allocates nothing either, and without a workspace there is one allocation") {
    const std::size_t n = 40;
    const std::size_t k = 64;
    const std::vector<float> w = bell_values(n * k, 53);
    const std::vector<float> x = bell_values(4 * k, 54);
    const std::vector<float> bias = bell_values(n, 55);
    std::vector<float> y(4 * n);
    const auto weights = nb::pack(nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w.data(), n, k)));
    nb::workspace scratch(nb::gemm_workspace_bytes(weights, 4, 1));
    nb::gemm_options options;
    options.workspace = &scratch;
    const nb::matrix_view<const float> from(x.data(), 4, k);
    const std::size_t before = allocations.load();
    nb::gemm(from, weights, nb::matrix_view<float>(y.data(), 4, n), nb::add_bias(bias) | nb::gelu, options);
    const std::size_t after = allocations.load();
    nb::gemm(from, weights, nb::matrix_view<float>(y.data(), 4, n), nb::add_bias(bias) | nb::gelu);
    const std::size_t without = allocations.load();
    CHECK(after - before == 0);
    CHECK(without - after == 1);
}
