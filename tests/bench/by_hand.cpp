// by_hand.cpp: the loops that nibble's templates are timed against compute the same bits.
#include "../../bench/support/by_hand.hpp"

#include <support/catch.hpp>
#include <support/random.hpp>

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstring>
#include <vector>

TEST_CASE("products written by hand are nibble's, bit for bit") {
    if (*bench::by_hand_isa() == '\0') NIBBLE_SKIP("the compiler flags have neither AVX2 nor AVX-512 with VNNI");
    const std::size_t block = bench::by_hand_tokens();
    for (const std::size_t outputs : {std::size_t{64}, std::size_t{192}})
        for (const std::size_t columns : {std::size_t{128}, std::size_t{1408}})
            for (const std::size_t tokens : {std::size_t{1}, block, 3 * block}) {
                CAPTURE(outputs, columns, tokens);
                std::vector<float> w = nibble_test::normal_values(outputs * columns, 1);
                std::vector<float> x = nibble_test::normal_values(tokens * columns, 2);
                // Sums as large as they get: codes and activations at their ends.
                for (std::size_t k = 0; k < columns; ++k) {
                    w[k] = -8.0f;
                    x[k] = k % 256 < 128 ? 1.0f : -1.0f;
                }
                const auto packed = nibble::pack(
                    nibble::quantize<nibble::int4_g128>(nibble::matrix_view<const float>(w.data(), outputs, columns)));
                const nibble::matrix_view<const float> in(x.data(), tokens, columns);
                std::vector<float> y(tokens * outputs), by_hand(tokens * outputs);
                nibble::gemm_options options;
                options.activations.scale = nibble::activation_scale::per_token;
                nibble::gemm(in, packed, nibble::matrix_view<float>(y.data(), tokens, outputs), nibble::identity{},
                             options);
                bench::multiply_by_hand(bench::by_hand_activations::of(in), packed,
                                        nibble::matrix_view<float>(by_hand.data(), tokens, outputs));
                CHECK(std::memcmp(y.data(), by_hand.data(), y.size() * sizeof(float)) == 0);
            }
}
