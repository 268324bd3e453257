// table_contracts.cpp: what the quantizers of tables, mixed groups, pairs and complex matrices refuse, and that they
// say so.
#include "support/catch.hpp"

#include <nibble/core/check.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_tile.hpp>
#include <nibble/quantize/complex.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace nibble;

// The message of the contract that `call` breaks, or "".
template <class Call> std::string broken_by(const Call& call) {
    const failure_handler before =
        set_failure_handler([](const char* message, const char*, int) { throw std::runtime_error(message); });
    std::string message;
    try {
        call();
    } catch (const std::runtime_error& what) {
        message = what.what();
    }
    set_failure_handler(before);
    return message;
}

} // namespace

TEST_CASE("tables, pairs and mixed groups refuse what they cannot do", "[quantize][contract]") {
    std::vector<float> x(64, 1.0f);
    const matrix_view<const float> w(x.data(), 4, 16);
    const matrix_view<const float> other(x.data(), 2, 16);
    const matrix_view<float> out(x.data(), 2, 16);
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();

    CHECK(broken_by([&] { (void)quantize_k_means<2, per_channel>(w, {.importance = other}); }) ==
          "quantize_k_means: the importance must have the shape of the weights");
    lookup_quantized<2, per_channel> q(4, 16);
    CHECK(broken_by([&] { encode_with_tables(other, q); }) ==
          "encode_with_tables: q must have the shape of the weights");
    CHECK(broken_by([&] { encode_with_tables(w, q); }).empty());
    q.numbers(3)[1] = f32::encode(nan);
    CHECK(broken_by([&] { encode_with_tables(w, q); }) == "encode_with_tables: every value of a table must be finite");
    CHECK(broken_by([&] { dequantize(q, out); }) == "dequantize: out must have the shape of the weights");

    for (const double fraction : {-0.1, 1.5, static_cast<double>(nan)})
        CHECK(broken_by([&] { (void)quantize_by_quota<mixed_integers<2, 4>>(w, fraction); }) ==
              "quantize_by_quota: wide_fraction must be in [0, 1]");
    const std::uint8_t selectors[4] = {0, 1, 3, 2};
    using three = mixed_groups<16, f16, int2, int3, int4>;
    CHECK(broken_by([&] { const mixed_quantized<three> m(4, 16, selectors); }) ==
          "mixed_quantized: a selector names no element");
    CHECK(broken_by([&] { const mixed_quantized<three> m(2, 16, selectors); }).empty());

    const float alphas[4] = {1.0f, 0.0f, 2.0f, nan};
    CHECK(broken_by([&] { (void)quantize_outlier_victim<per_channel>(w, {.alpha = alphas}); }) ==
          "quantize_outlier_victim: every alpha must be finite and at least 0");
    CHECK(broken_by([&] {
              (void)quantize_outlier_victim<per_channel>(matrix_view<const float>(x.data(), 3, 16), {.alpha = alphas});
          }).empty());
    CHECK(broken_by([&] { (void)quantize_outlier_victim<per_tile<2, 8>>(w); }) ==
          "quantize_outlier_victim: groups that span rows must span whole rows");

    CHECK(broken_by([&] { (void)quantize_complex(matrix_view<const float>(x.data(), 4, 15)); }) ==
          "quantize_complex: rows hold pairs of a real and an imaginary part");
    CHECK(broken_by([&] { dequantize(quantize_complex(w), out); }) ==
          "dequantize: out must have a real and an imaginary column per complex weight");
}
