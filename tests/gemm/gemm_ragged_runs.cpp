// gemm_ragged_runs.cpp: slots whose runs are no multiple of 4 columns, or end inside of rows, give the formula's bits.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

template <class Scheme> void check(const char* what) {
    for (const std::size_t k : {std::size_t{54}, std::size_t{66}, std::size_t{197}})
        for (const std::size_t m : {std::size_t{1}, std::size_t{5}}) {
            constexpr std::size_t n = 35;
            const std::vector<float> w = bell_values(n * k, k);
            const std::vector<float> x = bell_values(m * k, k + 1);
            const auto q = nb::quantize<Scheme>(nb::matrix_view<const float>(w.data(), n, k));
            const nb::matrix_view<const float> tokens(x.data(), m, k);
            for (const bool per_group : scalings_of(plain_of(q))) {
                const std::vector<float> wanted = reference_gemm(tokens, plain_of(q), per_group);
                nb::gemm_options options;
                options.activations = scaled_by(per_group);
                nibble_test::for_each_tested_isa([&]<class Isa>() {
                    std::vector<float> y(m * n);
                    nb::gemm<Isa>(tokens, nb::pack(q), nb::matrix_view<float>(y.data(), m, n), options);
                    CAPTURE(what, std::string(Isa::name), k, m, per_group);
                    CHECK(first_difference({y.data(), m, n}, {wanted.data(), m, n}) == "");
                });
            }
        }
}

} // namespace

TEST_CASE("gemm: runs of any length, in every kernel family", "[gemm]") {
    check<nb::scheme<nb::int4, nb::per_flat_block<96>, nb::scale<nb::f32>>>("int4, spans of 96");
    check<nb::scheme<nb::int8, nb::per_flat_block<96>, nb::scale<nb::f16>>>("int8, spans of 96");
    check<nb::scheme<nb::e4m3, nb::per_flat_block<96>, nb::scale<nb::f32>>>("E4M3, spans of 96");
    check<nb::scheme<nb::uint3, nb::per_flat_block<36>, nb::scale<nb::f16>, nb::integer_zero>>("uint3, spans of 36");
}
