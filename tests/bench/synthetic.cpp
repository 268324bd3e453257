// synthetic.cpp: the default weights and activations of the comparison are the same bits everywhere.
#include "../../bench/support/synthetic.hpp"

#include <support/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

using draw = void (*)(std::size_t, float*, std::size_t, std::uint64_t);

std::vector<float> matrix(draw row, std::size_t rows, std::size_t cols, std::uint64_t seed = 1) {
    std::vector<float> values(rows * cols);
    for (std::size_t r = 0; r < rows; ++r) row(r, values.data() + r * cols, cols, seed);
    return values;
}

// FNV-1a over the bits: any changed bit, contraction included, changes it.
std::uint64_t fingerprint(const std::vector<float>& values) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const float value : values) hash = (hash ^ std::bit_cast<std::uint32_t>(value)) * 0x100000001b3u;
    return hash;
}

double root_mean_square(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
    return std::sqrt(sum / static_cast<double>(values.size()));
}

double kurtosis(const std::vector<float>& values) {
    double second = 0;
    double fourth = 0;
    for (const float value : values) {
        const double square = static_cast<double>(value) * static_cast<double>(value);
        second += square;
        fourth += square * square;
    }
    return fourth * static_cast<double>(values.size()) / (second * second);
}

} // namespace

TEST_CASE("the random bits are those of the first release") {
    CHECK(bench::random_bits(0, 0) == 0xc1f23760f875b3cu);
    CHECK(bench::random_bits(8, 12345) == 0x5a8381e73c1e5032u);
}

TEST_CASE("synthetic weights and activations keep their bits") {
    CHECK(fingerprint(matrix(bench::synthetic_weight_row, 64, 512)) == 0xe39ddd4d762f0da0u);
    CHECK(fingerprint(matrix(bench::synthetic_activation_row, 64, 512)) == 0x9ec34d95510be8c3u);
}

TEST_CASE("a row does not depend on how many columns or rows are drawn") {
    const auto wide = matrix(bench::synthetic_weight_row, 3, 300);
    const auto narrow = matrix(bench::synthetic_weight_row, 2, 100);
    for (std::size_t row = 0; row < 2; ++row)
        CHECK(std::equal(narrow.begin() + static_cast<std::ptrdiff_t>(row * 100),
                         narrow.begin() + static_cast<std::ptrdiff_t>(row * 100 + 100),
                         wide.begin() + static_cast<std::ptrdiff_t>(row * 300)));
}

TEST_CASE("another seed draws other values") {
    CHECK(matrix(bench::synthetic_weight_row, 1, 64, 1) != matrix(bench::synthetic_weight_row, 1, 64, 2));
}

TEST_CASE("synthetic weights look like a trained layer: centred, small, heavier tails than a Gaussian") {
    const auto values = matrix(bench::synthetic_weight_row, 256, 1024);
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value);
    CHECK(std::abs(sum / static_cast<double>(values.size())) < 2e-4);
    const double rms = root_mean_square(values);
    CHECK(rms > 0.018);
    CHECK(rms < 0.032);
    CHECK(kurtosis(values) > 3.2);
    CHECK(kurtosis(values) < 8);
}

TEST_CASE("synthetic activations have outlier channels that last over tokens") {
    constexpr std::size_t tokens = 64;
    constexpr std::size_t cols = 4096;
    const auto values = matrix(bench::synthetic_activation_row, tokens, cols);
    std::vector<double> channel(cols, 0);
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t k = 0; k < cols; ++k) {
            const double value = static_cast<double>(values[t * cols + k]);
            channel[k] += value * value;
        }
    for (double& energy : channel) energy = std::sqrt(energy / tokens);
    std::vector<double> sorted = channel;
    std::sort(sorted.begin(), sorted.end());
    const double middle = sorted[cols / 2];
    const auto outliers = std::count_if(channel.begin(), channel.end(), [&](double one) { return one > 3 * middle; });
    CHECK(outliers >= 6);
    CHECK(outliers <= 32);
    CHECK(sorted.back() > 8 * middle);
}
