// prepare_norm.cpp: norms straight into prepared activations: the products of the norm, then prepare, bit for bit.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/gemm.hpp>
#include <nibble/prepare.hpp>
#include <nibble/prepare_norm.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/transform/layer_norm.hpp>
#include <nibble/transform/rms_norm.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;
using nibble_test::test_executor;

namespace {

constexpr std::size_t tokens = 13;
constexpr std::size_t cols = 150;

// All that gemm reads of prepared activations.
std::vector<std::byte> bytes_of(const nb::prepared_activations& x) {
    const nb::kernel::activation_layout& layout = nb::detail::prepared_access::layout(x);
    const nb::kernel::activation_memory m = nb::detail::prepared_access::memory(x);
    std::vector<std::byte> all;
    const auto add = [&](const void* from, std::size_t count) {
        const std::byte* at = static_cast<const std::byte*>(from);
        all.insert(all.end(), at, at + count);
    };
    const std::size_t parts = x.tokens() * layout.depth.count;
    add(m.values, x.tokens() * layout.depth.padded * layout.order.value_bytes);
    add(m.part_sums, parts * 4);
    if (layout.order.quantized()) {
        add(m.pair_sums, parts * layout.phases.per_part * 4);
        add(m.scales, (layout.per_part ? parts : x.tokens()) * 4);
        if (m.corrections != nullptr) add(m.corrections, x.tokens() * 4);
    }
    return all;
}

template <class S> void check(const nb::activation_options& activations) {
    std::vector<float> x = bell_values(tokens * cols, 1);
    x[3 * cols + 5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> w = bell_values(cols, 2), b = bell_values(cols, 3), r = bell_values(tokens * cols, 4);
    const nb::matrix_view<const float> from(x.data(), tokens, cols);
    for (const bool layer : {false, true})
        for (const bool adds : {false, true}) {
            if (adds && !activations.rows.empty()) continue;
            std::vector<float> y(tokens * cols), residual(r), fused_residual(r);
            nb::norm_options norm{.epsilon = 1e-3};
            if (adds) norm.residual = {residual.data(), tokens, cols};
            if (layer)
                nb::layer_norm(from, w, b, {y.data(), tokens, cols}, norm);
            else
                nb::rms_norm(from, w, {y.data(), tokens, cols}, norm);
            nb::prepared_activations want, got;
            nb::prepare<S>(nb::matrix_view<const float>(y.data(), tokens, cols), want, activations);
            if (adds) norm.residual = {fused_residual.data(), tokens, cols};
            const test_executor threads{adds ? std::size_t{3} : std::size_t{1}};
            if (layer)
                nb::prepare_layer_norm<S>(from, w, b, got, norm, activations, threads);
            else
                nb::prepare_rms_norm<S>(from, w, got, norm, activations, threads);
            CHECK(nb::fits<S>(got));
            CHECK(got.asymmetric() == want.asymmetric());
            CHECK(bytes_of(got) == bytes_of(want));
            CHECK(std::memcmp(residual.data(), fused_residual.data(), residual.size() * sizeof(float)) == 0);
        }
}

} // namespace

TEST_CASE("prepare_rms_norm and prepare_layer_norm: the bits of the norm, then prepare") {
    const std::vector<std::uint32_t> rows{4, 0, 12, 4};
    nibble_test::for_each_family([&]<class Format>() {
        using S = typename Format::scheme;
        INFO(Format::name);
        check<S>({});
        check<S>({.scale = nb::activation_scale::per_token});
    });
    check<nb::int8_channel>({.quantization = {.qmax = 7}});
    check<nb::int8_channel>({.quantization = {.asymmetric = true}});
    check<nb::int4_g32>({.rows = rows});
    check<nb::f16_plain>({.rows = rows});
}

TEST_CASE("prepare_rms_norm refuses what does not fit") {
    std::vector<float> x(2 * cols), r(2 * cols);
    const std::vector<std::uint32_t> rows{1, 1};
    nb::prepared_activations into;
    CHECK(broken_by([&] {
              nb::prepare_rms_norm<nb::int4_g32>({x.data(), 2, cols}, {}, into, {.residual = {r.data(), 2, cols}},
                                                 {.rows = rows});
          }) == "prepare_norm: of tokens by number, which may come twice, no residual can be updated");
    CHECK(broken_by([&] {
              nb::prepare_rms_norm<nb::int4_g32>({x.data(), 2, cols}, nb::array_view<const float>(x.data(), 3), into);
          }) == "norm: one weight per column, or none");
}
