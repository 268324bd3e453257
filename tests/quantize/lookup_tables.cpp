// lookup_tables.cpp: tables made at run time: k-means against exhaustive search, encoding, layout, weights, planes.
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/random.hpp"

#include <nibble/core/check.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/kernel/k_means.hpp>
#include <nibble/kernel/sort_by_key.hpp>
#include <nibble/quantize/lookup.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace {

using namespace nibble;

// The least weighted squared error of `clusters` intervals of sorted numbers, by trying every way to cut them.
double least_of_all_cuts(const std::vector<double>& x, const std::vector<double>& mass, std::size_t from,
                         std::size_t clusters) {
    if (from == x.size()) return 0.0;
    if (clusters == 0) return std::numeric_limits<double>::infinity();
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t to = from + 1; to <= x.size(); ++to) {
        double total = 0.0;
        double mean = 0.0;
        for (std::size_t i = from; i < to; ++i) {
            total += mass[i];
            mean += mass[i] * x[i];
        }
        mean = total > 0.0 ? mean / total : 0.0;
        double cost = 0.0;
        for (std::size_t i = from; i < to; ++i) cost += mass[i] * (x[i] - mean) * (x[i] - mean);
        least = std::min(least, cost + least_of_all_cuts(x, mass, to, clusters - 1));
    }
    return least;
}

double nearest_error(const std::vector<float>& x, const std::vector<float>* mass, const double* centers,
                     std::size_t k) {
    double sum = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t c = 0; c < k; ++c) {
            const double d = static_cast<double>(x[i]) - centers[c];
            least = std::min(least, d * d);
        }
        sum += least * (mass != nullptr ? static_cast<double>((*mass)[i]) : 1.0);
    }
    return sum;
}

template <class Quantized>
double weighted_error(const std::vector<float>& x, const std::vector<float>& mass, const Quantized& q) {
    double sum = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double d = static_cast<double>(x[i]) - static_cast<double>(q.value_at(i / q.cols(), i % q.cols()));
        sum += d * d * static_cast<double>(mass[i]);
    }
    return sum;
}

// Codes by the documented rule: nearest in double, the lower value at the middle rounded to fp32, the lowest code of
// equals.
template <class Quantized> std::size_t wrong_codes(const std::vector<float>& x, const Quantized& q) {
    std::size_t wrong = 0;
    std::vector<float> table(Quantized::entries);
    for (std::size_t row = 0; row < q.rows(); ++row)
        for (std::size_t col = 0; col < q.cols(); ++col) {
            q.load_table(Quantized::granularity_type::index(row, col, q.cols()), table.data());
            std::vector<std::size_t> order(table.size());
            std::iota(order.begin(), order.end(), std::size_t{0});
            std::stable_sort(order.begin(), order.end(),
                             [&](std::size_t a, std::size_t b) { return table[a] < table[b]; });
            const float v = x[row * q.cols() + col];
            const float value = std::isnan(v) ? 0.0f : v;
            std::size_t at = 0;
            while (at + 1 < order.size() &&
                   value > static_cast<float>(
                               (static_cast<double>(table[order[at]]) + static_cast<double>(table[order[at + 1]])) / 2))
                ++at;
            while (at > 0 && table[order[at - 1]] == table[order[at]]) --at;
            wrong += q.code_at(row, col) != order[at] ? 1u : 0u;
            wrong += q.value_at(row, col) != table[order[at]] ? 1u : 0u;
        }
    return wrong;
}

template <class Quantized> std::vector<float> dequantized(const Quantized& q) {
    std::vector<float> y(q.rows() * q.cols());
    dequantize(q, matrix_view<float>(y.data(), q.rows(), q.cols()));
    return y;
}

} // namespace

TEST_CASE("sort_by_key: ascending and stable", "[kernel][sort]") {
    for (const std::size_t n : {0u, 1u, 2u, 47u, 48u, 49u, 300u, 5000u}) {
        dynamic_array<kernel::keyed<std::uint32_t>> items, spare;
        dynamic_array<kernel::keyed<std::uint64_t>> wide, wide_spare;
        std::vector<float> x(n);
        for (std::size_t i = 0; i < n; ++i) {
            x[i] = std::round(nibble_test::random_normal(8, i) * 20.0f) / 4.0f;
            items.push_back({kernel::ordered_key(x[i]), static_cast<std::uint32_t>(i)});
            wide.push_back({kernel::ordered_key(static_cast<double>(x[i])), static_cast<std::uint32_t>(i)});
        }
        std::vector<std::uint32_t> order(n);
        std::iota(order.begin(), order.end(), 0u);
        std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
            return x[a] < x[b] || (x[a] == x[b] && std::signbit(x[a]) && !std::signbit(x[b]));
        });
        kernel::sort_by_key(items, spare);
        kernel::sort_by_key(wide, wide_spare);
        for (std::size_t i = 0; i < n; ++i) {
            CAPTURE(n, i);
            REQUIRE(items[i].position == order[i]);
            REQUIRE(wide[i].position == order[i]);
        }
    }
}

TEST_CASE("k-means: dynamic programming finds the least error of all cuts", "[kernel][k_means]") {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        const std::size_t n = 1 + nibble_test::random64(90, seed) % 12;
        const std::size_t k = 1 + nibble_test::random64(91, seed) % 5;
        const bool weighted = seed % 2 == 1;
        std::vector<float> x(n), mass(n);
        for (std::size_t i = 0; i < n; ++i) {
            x[i] = seed % 3 == 0 ? std::round(2.0f * nibble_test::random_normal(seed, i))
                                 : nibble_test::random_normal(seed, i);
            if (seed % 5 == 4) x[i] += 1000.0f;
            mass[i] = weighted ? static_cast<float>(nibble_test::random_uniform(seed + 500, i)) : 1.0f;
        }
        std::vector<std::size_t> order(n);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
        std::vector<double> sorted, masses;
        for (const std::size_t i : order) {
            sorted.push_back(static_cast<double>(x[i]));
            masses.push_back(static_cast<double>(mass[i]));
        }
        const double wanted = least_of_all_cuts(sorted, masses, 0, k);
        kernel::line_clusters clusters;
        double centers[5];
        clusters.load(x.data(), weighted ? mass.data() : nullptr, n);
        clusters.solve(k, n, centers);
        CAPTURE(seed, n, k);
        // Centers are rounded to double: the error moves by no more than 2^-52 of the numbers' squares.
        const double scale = seed % 5 == 4 ? 1e6 : 10.0;
        CHECK(std::abs(nearest_error(x, weighted ? &mass : nullptr, centers, k) - wanted) <=
              1e-13 * scale * static_cast<double>(n));
        CHECK(std::is_sorted(centers, centers + k));
        double lloyd[5];
        clusters.solve(k, 1, lloyd);
        CHECK(nearest_error(x, weighted ? &mass : nullptr, lloyd, k) >=
              wanted - 1e-13 * scale * static_cast<double>(n));
        CHECK(std::is_sorted(lloyd, lloyd + k));
    }
}

TEST_CASE("k-means: the exact table is never worse than Lloyd's", "[quantize][lookup]") {
    const std::vector<float> x = nibble_test::normal_values(16 * 512, 3);
    const matrix_view<const float> w(x.data(), 16, 512);
    const std::vector<float> ones(x.size(), 1.0f);
    const double exact = weighted_error(x, ones, quantize_k_means<3, per_group<128>>(w));
    const double coarse = weighted_error(x, ones, quantize_k_means<3, per_group<128>>(w, {.places = 16}));
    const double lloyd = weighted_error(x, ones, quantize_k_means<3, per_group<128>>(w, {.places = 0}));
    CHECK(exact < coarse);
    CHECK(exact < lloyd);
}

TEST_CASE("k-means: importance moves the error to where it costs least", "[quantize][lookup]") {
    // 100 times the weight on one in a hundred.
    const std::vector<float> x = nibble_test::normal_values(8 * 1000, 4);
    std::vector<float> mass(x.size(), 1.0f);
    for (std::size_t i = 0; i < mass.size(); i += 100) mass[i] = 100.0f;
    const matrix_view<const float> w(x.data(), 8, 1000);
    const matrix_view<const float> importance(mass.data(), 8, 1000);
    for (const std::size_t places : {std::size_t{0}, std::size_t{512}, std::size_t{1000}}) {
        CAPTURE(places);
        const auto plain = quantize_k_means<3, per_channel>(w, {.places = places});
        const auto weighted = quantize_k_means<3, per_channel>(w, {.importance = importance, .places = places});
        CHECK(weighted_error(x, mass, weighted) < weighted_error(x, mass, plain));
    }
    // No mass at all is no importance, and what is no mass counts as none.
    std::vector<float> none(x.size(), 0.0f);
    none[0] = -1.0f;
    none[1] = std::numeric_limits<float>::quiet_NaN();
    const auto without = quantize_k_means<3, per_channel>(w);
    const auto with_none =
        quantize_k_means<3, per_channel>(w, {.importance = matrix_view<const float>(none.data(), 8, 1000)});
    CHECK(dequantized(without) == dequantized(with_none));
}

TEST_CASE("lookup_quantized: codes, layout and size for every width", "[quantize][lookup]") {
    const auto check = [&]<int Bits, class G, class Format>(std::size_t rows, std::size_t cols) {
        CAPTURE(Bits, rows, cols);
        std::vector<float> x = nibble_test::normal_values(rows * cols, 7 + cols);
        const matrix_view<const float> w(x.data(), rows, cols);
        const auto q = quantize_k_means<Bits, G, Format>(w);
        CHECK(wrong_codes(x, q) == 0);
        const std::vector<float> y = dequantized(q);
        for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(y[i] == q.value_at(i / cols, i % cols));
        CHECK(q.row_bytes() == (cols * Bits + 7) / 8);
        const double slots = static_cast<double>(G::count(rows, cols));
        CHECK(bits_per_weight(q) ==
              Bits + slots * std::pow(2.0, Bits) * Format::bits / static_cast<double>(rows * cols));
        // Code j of a row lies in bits j x Bits and up of its bytes.
        for (std::size_t col = 0; col < cols; ++col) {
            unsigned code = 0;
            for (std::size_t b = 0; b < static_cast<std::size_t>(Bits); ++b) {
                const std::size_t at = col * static_cast<std::size_t>(Bits) + b;
                code |= (q.row_codes(rows - 1)[at / 8] >> (at % 8) & 1u) << b;
            }
            REQUIRE(code == q.code_at(rows - 1, col));
        }
        const nibble_test::test_executor threads{.workers = 3};
        CHECK(dequantized(quantize_k_means<Bits, G, Format>(w, {}, threads)) == y);
    };
    for (const std::size_t cols : {1u, 7u, 64u, 200u}) {
        check.operator()<1, per_tensor, f32>(3, cols);
        check.operator()<2, per_channel, f16>(3, cols);
        check.operator()<3, per_group<64>, f32>(2, cols);
        check.operator()<4, per_group<64>, f16>(2, cols);
        check.operator()<5, per_channel, f32>(2, cols);
        check.operator()<8, per_tensor, f32>(3, cols);
    }
}

TEST_CASE("encode_with_tables: tables in any order, with equal values, ties, NaN and infinity", "[quantize][lookup]") {
    lookup_quantized<2, per_channel> q(2, 12);
    const float first[4] = {2.0f, -1.0f, 0.5f, 0.5f};
    const float second[4] = {3.0f, 1.0f, -3.0f, -1.0f};
    for (std::size_t c = 0; c < 4; ++c) {
        q.numbers(0)[c] = f32::encode(first[c]);
        q.numbers(1)[c] = f32::encode(second[c]);
    }
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> x{0.5f, 1.25f, 1.2500001f, -0.25f, -0.24f, nan, infinity, -infinity, 0.0f, -0.0f, 9.0f, -9.0f,
                         0.0f, 0.1f,  -0.1f,      2.0f,   -2.0f,  nan, infinity, -infinity, 2.1f, -2.1f, 1.0f, -1.0f};
    encode_with_tables(matrix_view<const float>(x.data(), 2, 12), q);
    CHECK(wrong_codes(x, q) == 0);
    CHECK(q.nonfinite());
    const std::vector<unsigned> wanted{2, 2, 0, 1, 2, 2, 0, 1, 2, 2, 0, 1, 3, 1, 3, 1, 2, 3, 0, 2, 0, 2, 1, 3};
    for (std::size_t i = 0; i < x.size(); ++i) {
        CAPTURE(i, x[i]);
        CHECK(q.code_at(i / 12, i % 12) == wanted[i]);
    }
    x.assign(24, 1.0f);
    encode_with_tables(matrix_view<const float>(x.data(), 2, 12), q);
    CHECK(!q.nonfinite());
}

TEST_CASE("k-means: degenerate slots and values that are not finite", "[quantize][lookup]") {
    std::vector<float> x(4 * 8, 2.5f); // one distinct value
    for (std::size_t i = 0; i < 8; ++i) x[8 + i] = 0.0f;
    for (std::size_t i = 0; i < 8; ++i) x[16 + i] = i % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : 3.0f;
    for (std::size_t i = 0; i < 8; ++i) x[24 + i] = std::numeric_limits<float>::infinity();
    x[31] = -3.0e38f;
    x[30] = 3.0e38f;
    const auto q = quantize_k_means<4, per_channel>(matrix_view<const float>(x.data(), 4, 8));
    CHECK(q.nonfinite());
    for (std::size_t col = 0; col < 8; ++col) {
        CHECK(q.value_at(0, col) == 2.5f);
        CHECK(q.value_at(1, col) == 0.0f);
        CHECK(q.value_at(2, col) == 3.0f); // the only value of that table
        CHECK(q.value_at(3, col) == (col == 7 ? -3.0e38f : 3.0e38f));
    }
    const lookup_quantized<4, per_channel> nothing = quantize_k_means<4, per_channel>(matrix_view<const float>());
    CHECK(nothing.group_count() == 0);
    CHECK(bits_per_weight(nothing) == 0.0);
}

TEST_CASE("binary planes: value is the sum of the planes' numbers", "[quantize][lookup][fdb]") {
    const std::vector<float> x = nibble_test::normal_values(4 * 200, 12);
    const matrix_view<const float> w(x.data(), 4, 200);
    const std::vector<float> ones(x.size(), 1.0f);
    const auto start = quantize_planes<per_group<64>>(w, {.refine = false});
    const auto refined = quantize_planes<per_group<64>>(w);
    CHECK(wrong_codes(x, start) == 0);
    CHECK(wrong_codes(x, refined) == 0);
    CHECK(bits_per_weight(refined) == 2.0 + 16.0 * 2.0 / 50.0); // 4 groups of at most 64 for 200 weights
    for (std::size_t slot = 0; slot < start.group_count(); ++slot) {
        const float a1 = f16::decode(start.numbers(slot)[0]);
        const float a2 = f16::decode(start.numbers(slot)[1]);
        CHECK(a1 == -2.0f * a2);
        float table[4];
        start.load_table(slot, table);
        CHECK(table[0] == 0.0f);
        CHECK(table[1] == a1);
        CHECK(table[2] == a2);
        CHECK(table[3] == a1 + a2);
    }
    CHECK(weighted_error(x, ones, refined) < weighted_error(x, ones, start));
    const std::vector<float> zeros(64, 0.0f);
    for (const float v : dequantized(quantize_planes<per_group<64>>(matrix_view<const float>(zeros.data(), 1, 64))))
        CHECK(v == 0.0f);
}
