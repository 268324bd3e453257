// roundings.cpp: quantize under every rounding, and learned rounding with its bits, against the rules weight by weight.
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/quantize_reference.hpp"
#include "support/random.hpp"

#include <nibble/core/check.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using nibble::rounding;
using nibble_test::plain_quantized;
using nibble_test::weights_kind;

constexpr std::size_t shapes[][2] = {{1, 1}, {3, 31}, {5, 129}, {2, 1031}};
constexpr weights_kind kinds[] = {weights_kind::normal, weights_kind::zeros, weights_kind::nonfinite,
                                  weights_kind::constant, weights_kind::ties};

template <class Scheme> void check_roundings(const std::string& name) {
    const nibble_test::scheme_facts facts = nibble_test::facts_of_scheme<Scheme>(name);
    for (const auto& [rows, cols] : shapes)
        for (const weights_kind kind : kinds) {
            CAPTURE(name, rows, cols, static_cast<int>(kind));
            const std::vector<float> x = nibble_test::weights_of(kind, rows, cols, 100 * cols + rows);
            const nibble::matrix_view<const float> w(x.data(), rows, cols);
            const int bits = facts.element->bits;
            for (const rounding mode : nibble_test::determined_roundings) {
                const plain_quantized wanted = nibble_test::reference_quantize(facts, x.data(), rows, cols, cols, mode);
                CAPTURE(static_cast<int>(mode));
                CHECK(difference(nibble_test::plain(nibble::quantize<Scheme>(w, {.rounding = mode})), wanted, bits) ==
                      "");
            }
            // Learned: each weight as floor or as ceiling has it. Only the lowest bit counts.
            std::vector<std::uint8_t> up(rows * cols);
            for (std::size_t i = 0; i < up.size(); ++i)
                up[i] = static_cast<std::uint8_t>(nibble_test::random64(cols + rows, i));
            plain_quantized wanted =
                nibble_test::reference_quantize(facts, x.data(), rows, cols, cols, rounding::floor);
            const plain_quantized above =
                nibble_test::reference_quantize(facts, x.data(), rows, cols, cols, rounding::ceiling);
            std::size_t moved = 0;
            for (std::size_t i = 0; i < up.size(); ++i) {
                if ((up[i] & 1) == 0) continue;
                moved += wanted.codes[i] != above.codes[i] ? 1u : 0u;
                wanted.codes[i] = above.codes[i];
                wanted.values[i] = above.values[i];
            }
            const nibble::quantize_options options{.rounding = rounding::learned, .round_up = up.data()};
            CHECK(difference(nibble_test::plain(nibble::quantize<Scheme>(w, options)), wanted, bits) == "");
            CHECK(difference(nibble_test::plain(nibble::quantize<Scheme>(w, options, nibble_test::test_executor{3})),
                             wanted, bits) == "");
            if (kind == weights_kind::normal && cols > 100 && bits < 32) CHECK(moved > cols / 8);
        }
}

} // namespace

TEST_CASE("quantize under every rounding follows the rules", "[quantize][rounding]") {
    check_roundings<nibble::int4_g32>("int4_g32");
    check_roundings<nibble::int3_g32_asym>("int3_g32_asym");
    check_roundings<nibble::int4_g32_min>("int4_g32_min");
    check_roundings<nibble::mxfp4>("mxfp4");
    check_roundings<nibble::nvfp4>("nvfp4");
    check_roundings<nibble::fp8_e4m3_channel>("fp8_e4m3_channel");
    check_roundings<nibble::nf4_g64>("nf4_g64");
    check_roundings<nibble::binary_g128>("binary_g128");
    check_roundings<nibble::f16_plain>("f16_plain");
}

TEST_CASE("learned rounding without its bits is refused", "[quantize][rounding]") {
    const float x[4] = {1, 2, 3, 4};
    const auto before =
        nibble::set_failure_handler([](const char* message, const char*, int) { throw std::runtime_error(message); });
    const nibble::matrix_view<const float> w(x, 1, 4);
    CHECK_THROWS_WITH(nibble::quantize<nibble::int4_g32>(w, {.rounding = rounding::learned}),
                      "quantize: learned rounding needs quantize_options::round_up, one byte per weight");
    nibble::set_failure_handler(before);
    // Of no weights no bits are needed.
    const nibble::matrix_view<const float> empty(nullptr, 0, 4);
    CHECK(nibble::quantize<nibble::int4_g32>(empty, {.rounding = rounding::learned}).rows() == 0);
}
