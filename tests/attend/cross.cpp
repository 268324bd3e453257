// cross.cpp: cross-attention: queries that belong to none of the tokens, as many as there are, over any number of
// those.
#include "support/attended.hpp"
#include "support/attention_check.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

// Queries and tokens.
const std::vector<std::pair<std::size_t, std::size_t>> shapes{{6, 5}, {2, 1}, {19, 18}, {73, 40}, {300, 7}, {40, 290}};

nb::kv_cache_options options_of(const kv_pair& pair, bool waiting) {
    nb::kv_cache_options o = options_for(pair, 2, 40, 300);
    o.value_size = 56;
    if (waiting) {
        o.sinks = 3;
        o.key_window = 4;
        o.value_window = 30;
    }
    return o;
}

} // namespace

TEST_CASE("more queries than tokens are cross-attention where nothing asks for positions, for every pair") {
    for (const auto& pair : kv_pairs())
        for (const bool waiting : {false, true})
            for (const auto& [queries, size] : shapes) {
                const nb::kv_cache_options o = options_of(*pair, waiting);
                const auto s = pair->make(o);
                const tokens t(o, size, 1);
                t.append_to(*s, 0, size / 2);
                s->append(t.k.part(size / 2, size - size / 2), t.v.part(size / 2, size - size / 2));
                const matrix q = matrix::normal(queries, 4 * o.head_size, 2);
                const std::string about = std::to_string(queries) + " queries over " + std::to_string(size) +
                                          (waiting ? " tokens, some in fp32" : " tokens");
                nb::attend_options options;
                options.causal = false;
                check(*pair, *s, q, options, about);
                const std::vector<float> sink_scores{1.0f, -infinite, 3.0f, -3.0f};
                options.sink_scores = sink_scores;
                options.soft_cap = 2.0f;
                check(*pair, *s, q, options, about + ", a cap and sink scores");
                matrix mask(queries, size + 2);
                for (std::size_t i = 0; i < mask.at.size(); i += 3) mask.at[i] = i % 2 == 0 ? -infinite : 0.5f;
                std::fill_n(mask.row(1), size, -infinite);
                options.mask = mask;
                check(*pair, *s, q, options, about + ", a mask");
            }
    SUCCEED();
}

TEST_CASE("a row of cross-attention does not depend on the other queries, the threads or the workspace") {
    for (const auto& pair : kv_pairs())
        for (const auto& [queries, size] : shapes) {
            const nb::kv_cache_options o = options_of(*pair, true);
            const auto s = pair->make(o);
            tokens(o, size, 3).append_to(*s);
            const matrix q = matrix::normal(queries, 4 * o.head_size, 4);
            for (const auto precision : precisions) {
                INFO(pair->name() << ": " << queries << " queries over " << size << " tokens, precision "
                                  << static_cast<int>(precision));
                nb::attend_options options;
                options.causal = false;
                options.precision = precision;
                matrix want(queries, 4 * o.value_size);
                s->attend(q, want, options);
                bool same = true;
                for (std::size_t i = 0; i < queries; i += 5) {
                    matrix one(1, want.cols);
                    s->attend(q.part(i, 1), one, options);
                    same = same && std::memcmp(one.at.data(), want.row(i), want.cols * sizeof(float)) == 0;
                }
                CHECK(same);
                for (const std::size_t workers : {2u, 7u}) {
                    nb::workspace scratch;
                    options.workspace = &scratch;
                    matrix got(queries, want.cols);
                    s->attend(0, q, got, options, test_executor{workers});
                    CHECK(same_bits(got, want));
                    CHECK(scratch.size() == s->workspace_bytes(0, queries, 4, workers, options));
                    options.workspace = nullptr;
                }
            }
        }
}

TEST_CASE("over no tokens cross-attention gives zeros, and the sinks' scores for log-sums") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        const nb::kv_cache_options o = options_of(*pair, false);
        const auto s = pair->make(o);
        const matrix q = matrix::normal(9, 4 * o.head_size, 5);
        const std::vector<float> scores{1.0f, -infinite, 3.0f, -3.0f};
        for (const auto precision : precisions)
            for (const bool sinks : {false, true})
                for (const std::size_t workers : {1u, 3u}) {
                    nb::attend_options options;
                    options.causal = false;
                    options.precision = precision;
                    if (sinks) options.sink_scores = scores;
                    matrix out(9, 4 * o.value_size, 5.0f), sums(9, 4, 5.0f);
                    options.log_sums = sums;
                    s->attend(0, q, out, options, test_executor{workers});
                    CHECK(std::all_of(out.at.begin(), out.at.end(), [](float x) { return x == 0.0f; }));
                    bool right = true;
                    for (std::size_t i = 0; i < sums.at.size(); ++i)
                        right = right && sums.at[i] == (sinks ? scores[i % 4] : -infinite);
                    CHECK(right);
                }
    }
}

TEST_CASE("sequences of one call may have more queries than tokens, and fewer") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        const nb::kv_cache_options o = options_of(*pair, true);
        std::vector<std::unique_ptr<sequence>> all;
        std::vector<part_of_call> parts;
        std::size_t rows = 0;
        for (const auto& [queries, size] :
             {std::pair<std::size_t, std::size_t>{6, 5}, {3, 200}, {9, 0}, {0, 4}, {80, 20}}) {
            all.push_back(pair->make(o));
            tokens(o, size, 6 + size).append_to(*all.back());
            parts.push_back({all.back().get(), rows, queries});
            rows += queries;
        }
        const matrix q = matrix::normal(rows, 4 * o.head_size, 7);
        for (const auto precision : precisions)
            for (const std::size_t workers : {1u, 3u}) {
                nb::attend_options options;
                options.causal = false;
                options.precision = precision;
                matrix out(rows, 4 * o.value_size);
                pair->attend(q, parts, out, options, test_executor{workers});
                for (const part_of_call& p : parts) {
                    matrix alone(p.count, out.cols);
                    p.cache->attend(q.part(p.first, p.count), alone, options);
                    CHECK(std::equal(alone.at.begin(), alone.at.end(), out.row(p.first)));
                }
                options.causal = true;
                CHECK(broken_by([&] { pair->attend(q, parts, out, options, {}); }).find("more queries than tokens") !=
                      std::string::npos);
            }
    }
}

TEST_CASE("positions are asked for by causal attention, windows, slopes and keys that attend turns alone") {
    nb::kv_cache_options o{.heads = 2, .head_size = 32, .capacity = 64};
    const tokens t(o, 5, 8);
    const std::vector<float> slopes(4, 0.5f);
    const matrix q = matrix::normal(6, 4 * 32, 9);
    for (const bool turns : {false, true}) {
        nb::kv_cache<nb::int8_channel, nb::int8_channel> cache(o);
        nb::kv_transform rotary;
        rotary.rotary.dims = 32;
        if (turns) cache.set_key_transform(std::make_shared<const nb::kv_transform>(rotary));
        cache.append(t.k, t.v);
        const auto refused = [&](auto&& change, std::size_t queries = 6) {
            nb::attend_options options;
            options.causal = false;
            change(options);
            return broken_by([&] { (void)attended(cache, matrix::normal(queries, q.cols, 9), options); });
        };
        const std::string what = "more queries than tokens";
        CHECK((refused([](auto&) {}).find(what) != std::string::npos) == turns);
        CHECK(refused([](auto& a) { a.causal = true; }).find(what) != std::string::npos);
        CHECK(refused([](auto& a) { a.window = 3; }).find(what) != std::string::npos);
        CHECK(refused([&](auto& a) { a.slopes = slopes; }).find(what) != std::string::npos);
        CHECK(refused([](auto& a) { a.causal = true, a.exclude_recent = 1; }).find(what) != std::string::npos);
        CHECK(refused([](auto& a) { a.window = 3; }, 5).empty());
        CHECK(refused([&](auto& a) { a.slopes = slopes; }, 5).empty());
        const matrix sums(6, 4);
        matrix mass(2, 5);
        CHECK(broken_by([&] { nb::attention_mass(static_cast<const_view>(q), cache, sums, mass); }).find(what) !=
              std::string::npos);
    }
}

TEST_CASE("the mass of cross-attention is the sum of the weights") {
    const auto held = [](auto format, std::size_t queries, std::size_t size, nb::attention_precision precision) {
        using S = typename decltype(format)::type;
        nb::kv_cache_options o{.heads = 2, .head_size = 32, .value_size = 64, .capacity = 64};
        tokens t(o, size, 10);
        // Values that name their token: what comes out are the weights.
        for (std::size_t i = 0; i < size; ++i)
            for (std::size_t c = 0; c < t.v.cols; ++c) t.v.row(i)[c] = c % 64 == i ? 1.0f : 0.0f;
        nb::kv_cache<S, nb::f32_plain> cache(o);
        cache.append(t.k, t.v);
        const matrix q = matrix::normal(queries, 6 * 32, 11);
        nb::attend_options options;
        options.causal = false;
        options.precision = precision;
        const attended_result r = attended(cache, q, options);
        matrix mass(2, size, -1.0f), other(2, size, -1.0f);
        nb::attention_mass(static_cast<const_view>(q), cache, r.sums, mass, options);
        nb::attention_mass(static_cast<const_view>(q), cache, r.sums, other, options, test_executor{3});
        CHECK(same_bits(mass, other));
        for (std::size_t h = 0; h < 2; ++h)
            for (std::size_t i = 0; i < size; ++i) {
                double want = 0.0;
                for (std::size_t n = 0; n < queries; ++n)
                    for (std::size_t g = 3 * h; g < 3 * h + 3; ++g)
                        want += static_cast<double>(r.out.row(n)[g * 64 + i]);
                // Weights of at most `size` tokens over log-sums whose sums round as often, and as many additions of
                // weights.
                const double within = want * 0x1p-24 * static_cast<double>(2 * size + 6 * queries + 64);
                if (!(std::abs(static_cast<double>(mass.row(h)[i]) - want) <= within))
                    FAIL_CHECK(queries << " over " << size << ", token " << i << ": " << mass.row(h)[i]
                                       << " instead of " << want);
            }
    };
    for (const auto& [queries, size] : {std::pair<std::size_t, std::size_t>{6, 5}, {73, 40}, {9, 0}})
        for (const auto precision : precisions) {
            held(std::type_identity<nb::f32_plain>{}, queries, size, precision);
            held(std::type_identity<nb::int8_channel>{}, queries, size, precision);
            held(std::type_identity<nb::int4_g32_asym>{}, queries, size, precision);
            held(std::type_identity<nb::along_tokens<nb::int4_g32_min>>{}, queries, size, precision);
        }
    SUCCEED();
}
