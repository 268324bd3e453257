// gemm_exact.cpp: gemm against the scalar formula, bit for bit, and against double within a derived bound; every
// format, every ISA, both ways of scaling activations, tails of every kind.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/gemm_format.hpp"

#include "support/kinds.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

constexpr std::size_t most_tokens = 7;

// Activations of 7 tokens: bell-shaped, with one outlier, all zero, one value alone, large, small and constant.
std::vector<float> activations(std::size_t cols, std::uint64_t seed) {
    std::vector<float> x = bell_values(most_tokens * cols, seed);
    if (cols == 0) return x;
    const auto row = [&](std::size_t m) { return x.data() + m * cols; };
    row(1)[seed % cols] = 300.0f;
    std::fill_n(row(2), cols, 0.0f);
    std::fill_n(row(3), cols, 0.0f);
    row(3)[cols - 1] = -2.5f;
    for (std::size_t k = 0; k < cols; ++k) {
        row(4)[k] *= 1e6f;
        row(5)[k] *= 1e-6f;
        row(6)[k] = -0.75f;
    }
    return x;
}

std::string label(const gemm_format& format, std::size_t isa, std::size_t m, std::size_t n, std::size_t k,
                  bool per_group) {
    return std::string(format.name()) + " on " + std::string(isa_names()[isa]) + ", M N K = " + std::to_string(m) +
           " " + std::to_string(n) + " " + std::to_string(k) + (per_group ? ", per group" : ", per token");
}

struct tally {
    std::size_t results = 0;
    std::size_t failures = 0;
    double closest = 0.0; // largest error in units of its bound
    std::size_t isas = 0;
    std::size_t scalings = 0;
};

// One weight matrix: all M of a list, both options where the weights allow them, all ISAs, from strided x to strided y.
void compare(const gemm_format& format, std::size_t n, std::size_t k, const std::vector<std::size_t>& tokens,
             tally& seen) {
    const std::vector<float> w = bell_values(n * k, 1000 * n + k);
    const auto weights = format.quantize({w.data(), n, k});
    const std::size_t most = *std::max_element(tokens.begin(), tokens.end());
    std::vector<float> x = activations(k, n + 7 * k);
    if (most > most_tokens) {
        const std::vector<float> more = bell_values((most - most_tokens) * k, k);
        x.insert(x.end(), more.begin(), more.end());
    }
    seen.isas = weights->isas();
    seen.scalings = scalings_of(weights->plain()).size();
    nb::workspace scratch;
    for (const bool per_group : scalings_of(weights->plain())) {
        const nb::matrix_view<const float> whole(x.data(), most, k);
        const std::vector<float> want = reference_gemm(whole, weights->plain(), per_group);
        const fp64_result exact = reference_fp64(whole, weights->plain(), per_group);
        for (std::size_t i = 0; i < want.size(); ++i) {
            const double error = std::fabs(static_cast<double>(want[i]) - exact.y[i]);
            if (!(error <= exact.bound[i])) {
                ++seen.failures;
                FAIL_CHECK(label(format, 0, most, n, k, per_group)
                           << ": result " << i << " is " << want[i] << ", in double " << exact.y[i] << " +- "
                           << exact.bound[i]);
                return;
            }
            if (exact.bound[i] > 0.0) seen.closest = std::max(seen.closest, error / exact.bound[i]);
        }
        for (const std::size_t m : tokens) {
            fenced_matrix from(m, k, 3);
            from.fill(x.data());
            fenced_matrix to(m, n, 5);
            for (std::size_t isa = 0; isa < weights->isas(); ++isa) {
                to.clear();
                nb::gemm_options options;
                options.workspace = &scratch;
                options.activations = scaled_by(per_group);
                weights->gemm(isa, from.view(), to.view(), options, any_executor{});
                const nb::matrix_view<const float> expected(want.data(), m, n);
                const std::string difference = first_difference(to.view(), expected);
                seen.results += m * n;
                if (!difference.empty()) {
                    ++seen.failures;
                    FAIL_CHECK(label(format, isa, m, n, k, per_group) << ": " << difference);
                }
                if (!to.intact()) {
                    ++seen.failures;
                    FAIL_CHECK(label(format, isa, m, n, k, per_group) << ": wrote outside of y");
                }
                if (seen.failures > 8) return;
            }
        }
    }
}

// What gemm makes of x where nothing is said about its scales.
void compare_defaults(const gemm_format& format) {
    const std::size_t m = 3;
    const std::size_t n = 17;
    const std::size_t k = 300;
    const std::vector<float> w = bell_values(n * k, 61);
    const std::vector<float> x = bell_values(m * k, 62);
    const auto weights = format.quantize({w.data(), n, k});
    const plain_weights& plain = weights->plain();
    const std::vector<float> want = reference_gemm({x.data(), m, k}, plain, plain.has_groups);
    INFO(format.name());
    const auto run = [&](nb::matrix_view<float> y, const nb::gemm_options& options) {
        weights->gemm(0, {x.data(), m, k}, y, options, any_executor{});
    };
    fenced_matrix y(m, n, 2);
    run(y.view(), {});
    CHECK(first_difference(y.view(), {want.data(), m, n}).empty());
    y.clear();
    nb::gemm_options groups;
    groups.activations = scaled_by(true);
    const std::string broken = broken_by([&] { run(y.view(), groups); });
    if (plain.integer && !plain.has_groups) {
        CHECK(broken.find("per_group has no meaning for a scheme without groups") != std::string::npos);
        CHECK(y.untouched());
    } else {
        CHECK(broken.empty());
        CHECK(first_difference(y.view(), {want.data(), m, n}).empty());
    }
}

} // namespace

TEST_CASE(
    "by default activations are scaled per group where the weights have groups; elsewhere that cannot be asked for") {
    std::size_t grouped = 0;
    std::size_t plain = 0;
    for (const auto& format : gemm_formats()) {
        compare_defaults(*format);
        const std::vector<float> one(8, 1.0f);
        ++(format->quantize({one.data(), 1, 8})->plain().has_groups ? grouped : plain);
    }
    CHECK(grouped != 0);
    CHECK(plain != 0);
}

TEST_CASE("gemm equals its documented formula bit for bit in every format") {
    const std::vector<std::size_t> outputs = nibble_test::some_of<std::size_t>({1, 15, 16, 17, 33, 65});
    const std::vector<std::size_t> depths =
        nibble_test::some_of<std::size_t>({1, 2, 3, 4, 5, 31, 32, 33, 100, 127, 128, 129, 257, 1000});
    const std::size_t all_outputs = std::accumulate(outputs.begin(), outputs.end(), std::size_t{0});
    for (const auto& format : gemm_formats()) {
        tally seen;
        for (const std::size_t n : outputs)
            for (const std::size_t k : depths)
                if (seen.failures == 0) compare(*format, n, k, {1, 2, 3, 4, 5, 7}, seen);
        INFO(format->name() << ": largest error over its bound " << seen.closest);
        CHECK(seen.failures == 0);
        CHECK(seen.results == all_outputs * 22 * depths.size() * seen.scalings * seen.isas); // the sum of M is 22
        CHECK(seen.closest > 0.0);
    }
}

TEST_CASE("gemm equals its documented formula for more tokens than a tile or a task has") {
    for (const auto& format : gemm_formats()) {
        tally seen;
        compare(*format, 17, 129, {64, 96, 97, 103}, seen);
        compare(*format, 65, 260, {64}, seen);
        CHECK(seen.failures == 0);
    }
}

TEST_CASE("gemm equals its documented formula over columns that fill several blocks") {
    // 16 KiB of unpacked codes or 1024 packed quads make a block: 4096 columns and more span several, and four panels
    // at once have shorter ones.
    for (const auto& format : gemm_formats()) {
        tally seen;
        for (const std::size_t k : nibble_test::some_of<std::size_t>({1023, 1025, 4095, 4100, 9001}))
            if (seen.failures == 0) compare(*format, k == 4100 ? 81 : 17, k, {1, 2}, seen);
        CHECK(seen.failures == 0);
    }
}

TEST_CASE("the tests of gemm see every ISA that this build has") {
    const std::vector<std::string_view> names = isa_names();
    CHECK(names.back() == "generic");
    CHECK(names.front() == std::string_view(nb::best_isa::name));
    CHECK(gemm_formats().size() == nibble_test::tested_formats);
}
