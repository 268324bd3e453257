// halves.cpp: choose_scales and encode by themselves: scales of the caller's own, columns one by one, what is refused.
// (That both together are quantize is checked of every format: support/quantize_reference.cpp.)
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

using namespace nibble;
using gemm_test::broken_by;

namespace {

using grouped = int4_g32;
using groups = per_group<32>;
constexpr std::size_t rows = 6;
constexpr std::size_t cols = 101; // the last group is short, and no byte ends with it

[[nodiscard]] std::vector<float> make_weights() {
    return nibble_test::normal_values(rows * cols, 77);
}
[[nodiscard]] std::vector<unsigned> codes_of(const quantized<grouped>& q) {
    std::vector<unsigned> codes;
    for (std::size_t i = 0; i < q.rows(); ++i)
        for (std::size_t j = 0; j < q.cols(); ++j) codes.push_back(q.code_at(i, j));
    return codes;
}

} // namespace

TEST_CASE("choose_scales: the scales of quantize, in the shape of the matrix", "[quantize][halves]") {
    const std::vector<float> x = make_weights();
    const matrix_view<const float> w(x.data(), rows, cols);
    scale_groups<grouped> scales = choose_scales<grouped>(w);
    CHECK((scales.rows() == rows && scales.cols() == cols));
    REQUIRE(scales.scale_count() == groups::count(rows, cols));
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; j += 32) {
            float largest_magnitude = 0.0f;
            for (std::size_t k = j; k < std::min(cols, j + 32); ++k)
                largest_magnitude = std::max(largest_magnitude, std::abs(x[i * cols + k]));
            CHECK(scales.scale_at(i, j) == f16::decode(encode<f16>(largest_magnitude / 7.0f)));
        }
    const scale_groups<grouped> copy = scales;
    const scale_groups<grouped> moved = std::move(scales);
    CHECK((scales.rows() == 0 && scales.scale_count() == 0)); // NOLINT(bugprone-use-after-move)
    CHECK(std::equal(copy.scales(), copy.scales() + copy.scale_count(), moved.scales()));
    CHECK(choose_scales<f16_plain>(w).bytes() == 0);
}

TEST_CASE("encode: round to nearest under scales of the caller's own", "[quantize][halves]") {
    const std::vector<float> x = make_weights();
    const matrix_view<const float> w(x.data(), rows, cols);
    scale_groups<grouped> clipped = choose_scales<grouped>(w);
    for (std::size_t i = 0; i < clipped.scale_count(); ++i)
        clipped.scales()[i] = encode<f16>(0.75f * f16::decode(clipped.scales()[i]));
    const quantized<grouped> q = encode(w, clipped);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            const float scale = clipped.scale_at(i, j);
            const float level = std::clamp(std::nearbyint(x[i * cols + j] / scale), -7.0f, 7.0f);
            if (q.value_at(i, j) != scale * level) ++wrong;
        }
    CHECK(wrong == 0);
}

TEST_CASE("encode_block: an error that is fed back, column by column, leaves rows less wrong", "[quantize][halves]") {
    // The sum of a row's errors: each is added to the next weight before that is rounded.
    std::vector<float> x = make_weights();
    const quantized<grouped> nearest = quantize<grouped>(matrix_view<const float>(x.data(), rows, cols));
    const std::vector<float> given = x;
    const matrix_view<const float> w(x.data(), rows, cols);
    quantized<grouped> q(choose_scales<grouped>(w));
    for (std::size_t j = 0; j < cols; ++j) {
        encode_block(matrix_view<const float>(x.data() + j, rows, 1, cols), 0, j, q);
        for (std::size_t i = 0; j + 1 < cols && i < rows; ++i)
            x[i * cols + j + 1] += x[i * cols + j] - q.value_at(i, j);
    }
    const auto error_of_row = [&](const quantized<grouped>& of, std::size_t i) {
        double error = 0.0;
        for (std::size_t j = 0; j < cols; ++j)
            error += static_cast<double>(given[i * cols + j]) - static_cast<double>(of.value_at(i, j));
        return std::abs(error);
    };
    double fed_back = 0.0, rounded = 0.0;
    for (std::size_t i = 0; i < rows; ++i) {
        fed_back += error_of_row(q, i);
        rounded += error_of_row(nearest, i);
    }
    CHECK(fed_back < rounded);
}

TEST_CASE("encode_block: what lies around a block stays, scales too", "[quantize][halves]") {
    const std::vector<float> x = make_weights();
    quantized<grouped> q = quantize<grouped>(matrix_view<const float>(x.data(), rows, cols));
    const std::vector<unsigned> before = codes_of(q);
    const quantized<grouped> same = q;
    const std::vector<float> zeros(3 * 5, 0.0f);
    encode_block(matrix_view<const float>(zeros.data(), 3, 5), 2, 96, q);
    const std::vector<unsigned> after = codes_of(q);
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            const bool inside = i >= 2 && i < 5 && j >= 96;
            CAPTURE(i, j);
            CHECK(after[i * cols + j] == (inside ? unsigned{encode<int4>(0.0f)} : before[i * cols + j]));
        }
    CHECK(std::equal(q.scales(), q.scales() + q.scale_count(), same.scales()));
    // Learned and stochastic rounding count weights in the whole matrix: checked of every format by blocks.
}

TEST_CASE("choose_scales, encode: values that are not finite", "[quantize][halves][nonfinite]") {
    std::vector<float> x = make_weights();
    const matrix_view<const float> w(x.data(), rows, cols);
    quantized<grouped> q(choose_scales<grouped>(w));
    CHECK_FALSE(q.nonfinite());
    const std::vector<unsigned> before = codes_of(q);
    x[3 * cols + 7] = std::numeric_limits<float>::quiet_NaN();
    CHECK(choose_scales<grouped>(w).nonfinite());
    const quantize_options refuses{.nonfinite = nonfinite_policy::refuse};
    CHECK(broken_by([&] { (void)choose_scales<grouped>(w, refuses); }).find("refuse") != std::string::npos);
    CHECK(broken_by([&] { encode_block(w, 0, 0, q, refuses); }).find("refuse") != std::string::npos);
    CHECK(codes_of(q) == before); // nothing was written
    CHECK_FALSE(q.nonfinite());
    encode_block(w, 0, 0, q);
    CHECK(q.nonfinite());
    CHECK(q.value_at(3, 7) == 0.0f);
    encode_block(matrix_view<const float>(x.data(), 1, cols), 0, 0, q);
    CHECK(q.nonfinite());
}

TEST_CASE("encode: what does not fit is refused, and the message says what", "[quantize][halves]") {
    const std::vector<float> x = make_weights();
    const matrix_view<const float> w(x.data(), rows, cols);
    const scale_groups<grouped> of_another = choose_scales<grouped>(matrix_view<const float>(x.data(), cols, rows));
    CHECK(broken_by([&] { (void)encode(w, of_another); }).find("another shape") != std::string::npos);
    quantized<grouped> q(choose_scales<grouped>(w));
    const auto block_at = [&](std::size_t row, std::size_t col) {
        return broken_by([&] { encode_block(matrix_view<const float>(x.data(), 2, 3), row, col, q); });
    };
    CHECK(block_at(rows - 2, cols - 3).empty());
    for (const auto& [row, col] : {std::pair<std::size_t, std::size_t>{rows - 1, 0}, {0, cols - 2}, {SIZE_MAX, 0}})
        CHECK(block_at(row, col).find("inside of the matrix") != std::string::npos);
    const quantize_options learned{.rounding = rounding::learned};
    CHECK(broken_by([&] { (void)encode(w, choose_scales<grouped>(w), learned); }).find("round_up") !=
          std::string::npos);
    // Nothing to encode is no error.
    encode_block(matrix_view<const float>(), rows, cols, q);
}
