// error_table_codebooks.cpp: the rows of formats.md, section 10, that belong to codebooks, tables and mixed groups, on
// N(0, 1).
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/element/codebooks.hpp>
#include <nibble/element/power_levels.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/quantize.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <vector>

namespace {

using namespace nibble;

constexpr std::size_t rows = 32;
constexpr std::size_t cols = 4096;

const std::vector<float>& samples() {
    static const std::vector<float> x = nibble_test::normal_values(rows * cols, 2026);
    return x;
}
matrix_view<const float> weights() {
    return {samples().data(), rows, cols};
}

template <class Quantized> double error_of(const Quantized& q) {
    std::vector<float> y(samples().size());
    dequantize(q, matrix_view<float>(y.data(), rows, cols));
    double error = 0.0;
    double power = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        const double x = static_cast<double>(samples()[i]);
        const double d = x - static_cast<double>(y[i]);
        error += d * d;
        power += x * x;
    }
    return error / power;
}

// What BitMoD's 3-bit grids have in common.
struct fp3_basic {
    static constexpr float levels[7] = {-4, -2, -1, 0, 1, 2, 4};
};

template <class E, std::size_t G> using groups_of = scheme<E, per_group<G>, scale<f16>>;

template <class E, std::size_t G> double plain_error() {
    return error_of(quantize<groups_of<E, G>>(weights()));
}
template <class E, std::size_t G> double best_error() {
    return error_of(quantize<groups_of<E, G>>(weights(), {.range = range::least_squares}));
}

// `digit`: half a unit of the last digit that the table gives.
void check_within(const char* what, double error, double wanted, double digit) {
    CAPTURE(what, error, wanted);
    CHECK(error >= wanted * 0.97 - digit);
    CHECK(error <= wanted * 1.03 + digit);
}

} // namespace

TEST_CASE("errors on Gaussian data: published codebooks", "[quantize][error]") {
    check_within("bnb FP4 b64", plain_error<bnb_fp4, 64>(), .01476, .000005);
    check_within("IQ4_NL absmax/127", plain_error<iq4_nl, 32>(), .00745, .000005);
    check_within("FP3 basic g128", plain_error<codebook<fp3_basic>, 128>(), .0569, .00005);
}

TEST_CASE("errors on Gaussian data: DenseShift", "[quantize][error]") {
    check_within("DenseShift 3b best s", best_error<dense_shift<3>, 128>(), .0392, .00005);
    check_within("DenseShift 4b best s", best_error<dense_shift<4>, 128>(), .0324, .00005);
}

TEST_CASE("errors on Gaussian data: powers of two and of its root, with zero", "[quantize][error]") {
    check_within("PoT 4b best s", best_error<signed_log2<4>, 128>(), .0324, .00005);
    check_within("POST 4b best s", best_error<signed_log_root_two<4>, 128>(), .0107, .00005);
}

TEST_CASE("errors on Gaussian data: PowerQuant", "[quantize][error]") {
    check_within("PowerQuant a=.5", plain_error<power_exponent<4, 1, 2>, 128>(), .0147, .00005);
    check_within("PowerQuant a=.6", plain_error<power_exponent<4, 3, 5>, 128>(), .0127, .00005);
    check_within("PowerQuant a=.7", plain_error<power_exponent<4, 7, 10>, 128>(), .0117, .00005);
    check_within("PowerQuant a=.8", plain_error<power_exponent<4, 4, 5>, 128>(), .0115, .00005);
    check_within("PowerQuant a=1", plain_error<power_exponent<4, 1, 1>, 128>(), .0136, .00005);
}

TEST_CASE("errors on Gaussian data: tables by k-means", "[quantize][error]") {
    check_within("k-means 2 bit", error_of(quantize_k_means<2, per_tensor>(weights())), .1167, .00005);
    check_within("k-means 3 bit", error_of(quantize_k_means<3, per_tensor>(weights())), .0341, .00005);
    check_within("k-means 4 bit", error_of(quantize_k_means<4, per_tensor>(weights())), .00947, .000005);
}

TEST_CASE("errors on Gaussian data: groups that choose", "[quantize][error]") {
    check_within("BitMoD FP4 g128", error_of(quantize_by_error<bitmod_fp4<>>(weights())), .00957, .000005);
    check_within("BitMoD FP3 g128", error_of(quantize_by_error<bitmod_fp3<>>(weights())), .0377, .00005);
}

TEST_CASE("errors on Gaussian data: two binary planes", "[quantize][error]") {
    const double start = error_of(quantize_planes<per_group<64>>(weights(), {.refine = false}));
    check_within("FDB lsq g64", start, .1223, .00005);
    const double refined = error_of(quantize_planes<per_group<64>>(weights()));
    CHECK(refined < start);
}
