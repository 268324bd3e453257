// gemm_grouped.cpp: products of many experts in one call: the bits of one gemm for each, whatever the groups'
// group_rows.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"
#include "support/gemm_reference.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/gate.hpp>
#include <nibble/gemm.hpp>
#include <nibble/gemm_grouped.hpp>
#include <nibble/kernel/gemm_grouped.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/transform/scatter_add_rows.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;
using nibble_test::test_executor;

namespace {

constexpr std::size_t outputs = 53;
constexpr std::size_t cols = 150;
constexpr std::size_t group_rows[] = {0, 1, 1, 7, 140, 0, 30, 1};
constexpr std::size_t count = std::size(group_rows);
constexpr std::size_t gap = 2; // rows that belong to no group, before the fourth
constexpr std::size_t tokens = 180 + gap;

std::size_t first_of(std::size_t group) {
    std::size_t first = 0;
    for (std::size_t i = 0; i < group; ++i) first += group_rows[i];
    return first + (group >= 3 ? gap : 0);
}
nb::matrix_view<const float> inputs() {
    static const std::vector<float> x = bell_values(tokens * cols, 5);
    return {x.data(), tokens, cols};
}
template <class S> std::vector<nb::packed<S>> experts(std::uint64_t seed) {
    std::vector<nb::packed<S>> all;
    for (std::size_t e = 0; e < count; ++e) {
        const std::vector<float> w = bell_values(outputs * cols, seed + e);
        all.push_back(nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), outputs, cols))));
    }
    return all;
}
template <class S> std::vector<nb::gemm_group<S>> groups_of(const std::vector<nb::packed<S>>& weights) {
    std::vector<nb::gemm_group<S>> groups;
    for (std::size_t e = 0; e < count; ++e) groups.push_back({weights[e], first_of(e), group_rows[e]});
    return groups;
}
nb::matrix_view<const float> rows_of(nb::matrix_view<const float> x, std::size_t e) {
    return {x.row(first_of(e)), group_rows[e], x.cols(), x.stride()};
}
template <class T> nb::array_view<const T> part_of(const std::vector<T>& list, std::size_t e) {
    return {list.data() + first_of(e), group_rows[e]};
}

// One gemm after the other, with an epilogue of numbers per token.
template <class S, class I> void check_plain(const nb::gemm_options& given) {
    const std::vector<nb::packed<S>> weights = experts<S>(20);
    const std::vector<nb::gemm_group<S>> groups = groups_of(weights);
    const std::vector<float> shares = bell_values(tokens, 3);
    std::vector<float> sums(count * outputs), scales;
    std::vector<std::uint8_t> zeros;
    nb::gemm_options options = given;
    const bool asymmetric = given.activations.quantization.asymmetric;
    const bool lists = given.activations.quantization.scales.size() > 1;
    if (asymmetric)
        for (std::size_t e = 0; e < count; ++e)
            nb::weight_sums<I>(weights[e], std::span<float>(sums).subspan(e * outputs, outputs));
    std::vector<float> want(tokens * outputs, -7.0f);
    for (std::size_t e = 0; e < count; ++e) {
        if (group_rows[e] == 0) continue;
        nb::gemm_options own = given;
        own.weight_sums = std::span<const float>(sums).subspan(e * outputs, outputs);
        if (lists) {
            own.activations.quantization.scales = {given.activations.quantization.scales.data() + first_of(e),
                                                   group_rows[e]};
            if (asymmetric)
                own.activations.quantization.zeros = {given.activations.quantization.zeros.data() + first_of(e),
                                                      group_rows[e]};
        }
        nb::gemm<I>(rows_of(inputs(), e), weights[e],
                    nb::matrix_view<float>(want.data() + first_of(e) * outputs, group_rows[e], outputs),
                    nb::scale_tokens(part_of(shares, e)), own);
    }
    options.weight_sums = sums;
    nb::workspace scratch;
    options.workspace = &scratch;
    for (const std::size_t workers : {std::size_t{1}, std::size_t{3}}) {
        INFO(I::name << ", workers " << workers);
        fenced_matrix y(tokens, outputs, 3);
        y.fill(std::vector<float>(tokens * outputs, -7.0f).data());
        nb::gemm_grouped<I>(inputs(), groups, y.view(), nb::scale_tokens(shares), options, test_executor{workers});
        CHECK(y.intact());
        CHECK(first_difference(y.view(), {want.data(), tokens, outputs}).empty());
        CHECK(scratch.size() == nb::gemm_grouped_workspace_bytes<I>(groups, workers, options));
    }
}

} // namespace

TEST_CASE("grouped products have the bits of one gemm for each group") {
    std::vector<float> scales(tokens);
    std::vector<std::uint8_t> zeros(tokens);
    for (std::size_t t = 0; t < tokens; ++t) {
        scales[t] = 0.02f + 1e-4f * static_cast<float>(t);
        zeros[t] = static_cast<std::uint8_t>(100 + t % 50);
    }
    check_plain<nb::int4_g32, nb::best_isa>({});
    check_plain<nb::int8_channel, nb::best_isa>({.activations = {.quantization = {.scales = scales}}});
    check_plain<nb::int8_channel, nb::best_isa>({.activations = {.quantization = {.asymmetric = true}}});
    check_plain<nb::int8_channel, nb::best_isa>(
        {.activations = {.quantization = {.asymmetric = true, .scales = scales, .zeros = zeros}}});
    check_plain<nb::fp8_e4m3_channel, nb::best_isa>({});
}

TEST_CASE("grouped products of gathered tokens, gated, and back to their rows by scatter_add_rows") {
    using S = nb::int4_g32;
    const std::vector<nb::packed<S>> gate = experts<S>(40), up = experts<S>(60);
    std::vector<nb::gemm_gated_group<S>> groups;
    for (std::size_t e = 0; e < count; ++e) groups.push_back({gate[e], up[e], first_of(e), group_rows[e]});
    // Ascending within a group, as scatter_add wants them, and the same rows in several groups.
    const std::size_t rows = 160;
    std::vector<std::uint32_t> ids(tokens);
    for (std::size_t e = 0; e < count; ++e)
        for (std::size_t i = 0; i < group_rows[e]; ++i) ids[first_of(e) + i] = static_cast<std::uint32_t>(i + 3 * e);
    const nb::matrix_view<const float> x(inputs().data(), rows, cols);
    const std::vector<float> shares = bell_values(tokens, 3);
    const std::vector<float> before = bell_values(rows * outputs, 4);

    std::vector<float> want(before), want_hidden(tokens * outputs);
    for (std::size_t e = 0; e < count; ++e) {
        const nb::matrix_view<float> hidden(want_hidden.data() + first_of(e) * outputs, group_rows[e], outputs);
        if (group_rows[e] == 0) continue;
        nb::gemm_gated(x, gate[e], up[e], hidden, nb::silu, nb::identity{}, {.activations = {.rows = part_of(ids, e)}});
        const nb::scatter_add to(nb::matrix_view<float>(want.data(), rows, outputs), part_of(ids, e));
        for (std::size_t i = 0; i < group_rows[e]; ++i) // by hand: what gemm with scale_tokens and scatter_add does
            for (std::size_t n = 0; n < outputs; n += 8) {
                using L = nb::lanes<nb::generic>;
                const std::size_t some = std::min<std::size_t>(8, outputs - n);
                const nb::position at{i, n, some};
                to.put((L::load(hidden.row(i) + n, some) * L(part_of(shares, e)[i])).kept(), at);
            }
    }
    for (const std::size_t workers : {std::size_t{1}, std::size_t{3}}) {
        const test_executor threads{workers};
        std::vector<float> hidden(tokens * outputs);
        nb::gemm_gated_grouped(x, groups, nb::matrix_view<float>(hidden.data(), tokens, outputs), nb::silu,
                               {.activations = {.rows = ids}}, threads);
        CHECK(std::memcmp(hidden.data(), want_hidden.data(), hidden.size() * sizeof(float)) == 0);
        // Rows of the gap have no results: they are 0 in both.
        nb::for_each_isa([&]<class I>() {
            std::vector<float> y(before);
            nb::scatter_add_rows<I>({hidden.data(), tokens, outputs}, ids, shares,
                                    nb::matrix_view<float>(y.data(), rows, outputs), threads);
            CHECK(std::memcmp(y.data(), want.data(), y.size() * sizeof(float)) == 0);
        });
    }
    // Halves in and out.
    std::vector<nb::bfloat16_t> half(rows * cols), small(tokens * outputs), expected(tokens * outputs);
    for (std::size_t i = 0; i < half.size(); ++i) half[i] = nb::bfloat16_t(x.data()[i]);
    const nb::matrix_view<const nb::bfloat16_t> from(half.data(), rows, cols);
    for (std::size_t e = 0; e < count; ++e)
        if (group_rows[e] != 0)
            nb::gemm_gated(
                from, gate[e], up[e],
                nb::matrix_view<nb::bfloat16_t>(expected.data() + first_of(e) * outputs, group_rows[e], outputs),
                nb::silu, {.activations = {.rows = part_of(ids, e)}});
    nb::gemm_gated_grouped(from, groups, nb::matrix_view<nb::bfloat16_t>(small.data(), tokens, outputs), nb::silu,
                           {.activations = {.rows = ids}});
    CHECK(std::memcmp(small.data(), expected.data(), small.size() * sizeof(nb::bfloat16_t)) == 0);
}

TEST_CASE("grouped products: no groups, none with rows, and what does not fit") {
    using S = nb::int4_g32;
    const std::vector<nb::packed<S>> weights = experts<S>(20);
    const std::vector<nb::gemm_group<S>> groups = groups_of(weights);
    fenced_matrix y(tokens, outputs, 3);
    nb::gemm_grouped(inputs(), std::vector<nb::gemm_group<S>>{}, y.view());
    nb::gemm_grouped(inputs(), std::vector<nb::gemm_group<S>>{{weights[0], 0, 0}, {weights[1], 7, 0}}, y.view());
    CHECK(y.untouched());
    const auto broken = [&](const std::vector<nb::gemm_group<S>>& wrong) {
        return broken_by([&] { nb::gemm_grouped(inputs(), wrong, y.view()); });
    };
    const char* ascend = "gemm_grouped: the groups' rows must ascend, none twice, and be rows of x";
    CHECK(broken({{weights[0], 0, 2}, {weights[1], 1, 2}}) == ascend);
    CHECK(broken({{weights[0], 5, 2}, {weights[1], 1, 2}}) == ascend);
    CHECK(broken({{weights[0], tokens, 1}}) == ascend);
    CHECK(broken({{weights[0], 1, static_cast<std::size_t>(-1)}}) == ascend);
    const std::vector<float> w = bell_values(outputs * cols, 1);
    const nb::packed<S> narrow = nb::pack(nb::quantize<S>({w.data(), outputs, cols - 1}));
    CHECK(broken({{weights[0], 0, 1}, {narrow, 1, 1}}).find("all weights must have the columns of x") !=
          std::string::npos);
    CHECK(broken_by([&] { nb::gemm_grouped(inputs(), groups, nb::matrix_view<float>(y.view().data(), 1, outputs)); }) ==
          "gemm_grouped: y must have as many rows as x has tokens");
    CHECK(broken_by([&] {
              nb::gemm_grouped(inputs(), groups, y.view(), {.activations = {.quantization = {.asymmetric = true}}});
          }).find("the sums of all weights") != std::string::npos);
    CHECK(broken_by([&] {
              nb::scatter_add_rows(inputs(), std::vector<std::uint32_t>(tokens, 9), {},
                                   nb::matrix_view<float>(y.view().data(), 9, cols));
          }) == "scatter_add_rows: a row number is not that of a row of y");
    CHECK(y.untouched());
}

TEST_CASE("grouped products: workers begin where equal shares of the work do") {
    using part = nb::kernel::grouped_part<nb::int4_g32, nb::best_isa>;
    alignas(64) std::byte memory[count * sizeof(part)];
    nb::kernel::grouped_parts<nb::int4_g32, nb::best_isa> parts;
    for (const std::size_t m : group_rows)
        if (m != 0)
            parts.add(memory + parts.count * sizeof(part), {nb::packed_shape<nb::int4_g32>(1000, cols), m, true, 127},
                      0, 0, {});
    const auto cost_before = [&](std::size_t item) {
        double sum = 0;
        for (std::size_t i = 0; i < parts.count; ++i) {
            const part& p = parts.data[i];
            const std::size_t n = std::min(p.items(), item - std::min(item, p.first_item));
            sum += p.cost() * static_cast<double>(n) / static_cast<double>(p.items());
        }
        return sum;
    };
    double longest = 0;
    for (std::size_t i = 0; i < parts.count; ++i)
        longest = std::max(longest, parts.data[i].cost() / static_cast<double>(parts.data[i].items()));
    for (const std::size_t n : {1u, 2u, 7u, 64u})
        for (std::size_t i = 0, last = 0; i < n; ++i) {
            const std::size_t begin = parts.begin_of(i, n);
            CHECK(begin >= last);
            CHECK(begin <= parts.items);
            CHECK((i != 0 || begin == 0));
            const double exact = parts.cost * static_cast<double>(i) / static_cast<double>(n);
            CHECK(std::fabs(cost_before(begin) - exact) <= longest * 1.000001);
            last = begin;
        }
}
