// attend_exact.cpp: attention against its definition in double, with every option, within bounds that follow from the
// arithmetic (support/attention_reference.hpp).
#include "support/attention_check.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

} // namespace

TEST_CASE("attention is that over what the cache stores, for every pair and any number of tokens") {
    for (const auto& pair : kv_pairs()) {
        const nb::kv_cache_options o = options_for(*pair, 1, 64, 600);
        const auto s = pair->make(o);
        const tokens t(o, 600, 1);
        const matrix q = matrix::normal(5, 2 * 64, 2);
        for (const std::size_t size : {1u, 2u, 15u, 16u, 17u, 255u, 256u, 257u, 600u}) {
            t.append_to(*s, s->size(), size - s->size());
            matrix some = q;
            some.rows = std::min<std::size_t>(5, size);
            const double error = check(*pair, *s, some, {}, std::to_string(size) + " tokens");
            INFO(pair->name() << " with " << size << " tokens");
            // Beside the bound that was derived. With a zero point what is summed is larger than the values, and that
            // bound is all.
            CHECK((pair->has_offsets() || error < 1e-5));
        }
    }
    SUCCEED();
}

// FlashAttention-2 (Dao, 2023): softmax in blocks, rescaled as it goes, is that over all tokens.
TEST_CASE("attention over numbers in fp32 is naive attention in double within 1e-6, whatever the blocks") {
    for (const auto& pair : kv_pairs()) {
        if (pair->name().rfind("f32 ", 0) != 0) continue;
        for (const std::size_t size : {1u, 255u, 257u, 700u, 1543u})
            for (const bool causal : {true, false})
                for (const std::size_t page : {32u, 256u}) {
                    nb::kv_cache_options o = options_for(*pair, 1, 64, 2048);
                    o.page_tokens = page;
                    const auto s = pair->make(o);
                    tokens(o, size, 41).append_to(*s);
                    const matrix q = matrix::normal(std::min<std::size_t>(size, 9), 2 * 64, 42);
                    nb::attend_options options;
                    options.causal = causal;
                    options.precision = nb::attention_precision::fp32;
                    matrix out(q.rows, 2 * 64);
                    s->attend(q, out, options);
                    const reference_attention want = attend_by_definition(*pair, *s, q, options);
                    INFO(pair->name() << ", " << size << " tokens, causal " << causal << ", pages of " << page);
                    CHECK(relative_error(want, out, 64) <= 1e-6);
                }
    }
}

// KIVI (Liu et al., 2024): codes with a minimum, or with a zero point, and a scale per channel or per token.
TEST_CASE("under zero points and minimums attention is off by 1e-5 of the largest value at most") {
    std::size_t pairs = 0;
    for (const auto& pair : kv_pairs()) {
        if (!pair->has_offsets()) continue;
        ++pairs;
        const nb::kv_cache_options o = options_for(*pair, 1, 64, 700);
        const auto s = pair->make(o);
        tokens(o, 700, 43).append_to(*s);
        const matrix q = matrix::normal(9, 2 * 64, 44);
        nb::attend_options options;
        options.precision = nb::attention_precision::fp32;
        matrix out(q.rows, 2 * 64);
        s->attend(q, out, options);
        const reference_attention want = attend_by_definition(*pair, *s, q, options);
        matrix values(700, 64);
        s->read_values(0, 0, values);
        double largest = 0.0, off = 0.0;
        for (const float v : values.at) largest = std::max(largest, std::abs(static_cast<double>(v)));
        for (std::size_t i = 0; i < out.at.size(); ++i)
            off = std::max(off, std::abs(static_cast<double>(out.at[i]) - want.exact[i]));
        INFO(pair->name() << ": " << off << " beside " << largest);
        CHECK(off <= 1e-5 * largest);
    }
    CHECK(pairs != 0);
}

TEST_CASE("spans of tokens are joined") {
    for (const kv_pair* pair : some_pairs()) {
        nb::kv_cache_options o = options_for(*pair, 2, 32, 4200);
        o.value_size = 48;
        const auto s = pair->make(o);
        const tokens t(o, 4200, 3);
        const matrix q = matrix::normal(3, 2 * 32, 4);
        for (const std::size_t size : nibble_test::some_of<std::size_t>({511, 512, 513, 2500, 4200})) {
            t.append_to(*s, s->size(), size - s->size());
            const double error = check(*pair, *s, q, {}, std::to_string(size) + " tokens");
            INFO(pair->name() << " with " << size << " tokens");
            CHECK((pair->has_offsets() || error < 1e-5));
        }
    }
}

TEST_CASE("heads of any size, of values too, and any number of query heads and queries", "[slow]") {
    for (const kv_pair* pair : some_pairs()) {
        std::vector<std::size_t> sizes{1, 7, 576};
        for (std::size_t d = 32; d <= 256; d += 8) sizes.push_back(d);
        for (const std::size_t d : sizes) {
            nb::kv_cache_options o = options_for(*pair, 1, d, 70);
            o.value_size = d == 576 ? 512 : d % 3 == 0 ? d / 2 + 1 : d;
            const auto s = pair->make(o);
            tokens(o, 70, d).append_to(*s);
            check(*pair, *s, matrix::normal(2, d, 5), {}, "head size " + std::to_string(d));
        }
        for (const auto& [heads, group] : {std::pair{3, 1}, {2, 4}, {1, 7}, {1, 40}}) {
            const nb::kv_cache_options o = options_for(*pair, static_cast<std::size_t>(heads), 48, 300);
            const auto s = pair->make(o);
            tokens(o, 300, 6).append_to(*s);
            for (std::size_t n = 1; n <= 40; n += n < 10 ? 1 : 6)
                check(*pair, *s, matrix::normal(n, static_cast<std::size_t>(heads * group) * 48, n), {},
                      std::to_string(heads) + " x " + std::to_string(group) + " heads, " + std::to_string(n) +
                          " queries");
        }
    }
    SUCCEED();
}

TEST_CASE("windows, sinks, biases, caps and masks do what they say, with numbers waiting in fp32 and pages evicted") {
    for (const kv_pair* pair : some_pairs())
        for (const bool waiting : {false, true})
            for (const std::size_t evicted : {0u, 290u}) {
                if (nibble_test::kinds_only && waiting != (evicted == 0)) continue;
                nb::kv_cache_options o = options_for(*pair, 2, 40, 700);
                o.value_size = 56;
                o.sinks = waiting ? 20 : evicted != 0 ? 4 : 0;
                if (waiting) {
                    o.key_window = 30;
                    o.value_window = 75;
                    o.key_flush = std::max<std::size_t>(1, pair->tokens_per_group()) * 3;
                }
                const std::size_t size = 613;
                const auto s = pair->make(o);
                tokens(o, size, 8).append_rest(*s, 100);
                if (evicted != 0) s->evict_before(evicted);
                const std::size_t n = 6;
                const matrix q = matrix::normal(n, 4 * 40, 9);
                const std::vector<float> slopes{0.5f, 0.0f, 0.01f, 2.0f};
                const std::vector<float> sink_scores{1.0f, -infinite, 30.0f, -3.0f};
                matrix mask = matrix::normal(n, size + 3, 10);
                for (std::size_t t = 0; t < size; ++t) {
                    if (t % 3 == 1) mask.row(1)[t] = -infinite;
                    mask.row(2)[t] = -infinite;
                    if (t > 5) mask.row(3)[t] = -infinite;
                    if (t < 612) mask.row(5)[t] = -infinite;
                }
                const std::vector<std::function<void(nb::attend_options&)>> changes{
                    [](nb::attend_options&) {},
                    [](nb::attend_options& a) { a.causal = false; },
                    [](nb::attend_options& a) { a.window = 1; },
                    [](nb::attend_options& a) { a.window = 100; },
                    [](nb::attend_options& a) {
                        a.window = 256;
                        a.causal = false;
                    },
                    [](nb::attend_options& a) { a.scale = 0.7f; },
                    [](nb::attend_options& a) { a.soft_cap = 2.0f; },
                    [&](nb::attend_options& a) { a.slopes = slopes; },
                    [&](nb::attend_options& a) { a.mask = mask; },
                    [&](nb::attend_options& a) { a.sink_scores = sink_scores; },
                    [&](nb::attend_options& a) {
                        a.mask = mask;
                        a.sink_scores = sink_scores;
                    },
                    [&](nb::attend_options& a) {
                        a.mask = mask;
                        a.window = 333;
                        a.soft_cap = 5.0f;
                        a.slopes = slopes;
                        a.sink_scores = sink_scores;
                        a.scale = 0.4f;
                    },
                };
                for (std::size_t i = 0; i < changes.size(); ++i) {
                    nb::attend_options options;
                    changes[i](options);
                    check(*pair, *s, q, options,
                          "options " + std::to_string(i) + (waiting ? " waiting" : "") + " evicted " +
                              std::to_string(evicted));
                }
            }
    SUCCEED();
}

TEST_CASE("a query that sees no token gets zeros and a log-sum of -infinity") {
    for (const kv_pair* pair : some_pairs())
        for (const auto precision : precisions) {
            const nb::kv_cache_options o = options_for(*pair, 1, 32, 300);
            const auto s = pair->make(o);
            tokens(o, 300, 11).append_to(*s);
            const matrix q = matrix::normal(2, 64, 12);
            matrix mask(2, 300);
            std::fill_n(mask.row(1), 300, -infinite);
            matrix out(2, 64, 5.0f), sums(2, 2, 5.0f);
            nb::attend_options options;
            options.precision = precision;
            options.mask = mask;
            options.log_sums = sums;
            s->attend(q, out, options);
            CHECK(std::all_of(out.row(1), out.row(1) + 64, [](float x) { return x == 0.0f; }));
            CHECK(std::all_of(sums.row(1), sums.row(1) + 2, [](float x) { return x == -infinite; }));
            CHECK(out.row(0)[0] != 0.0f);
        }
}

TEST_CASE("what is not finite makes NaN of the queries and heads that see it, and of no others") {
    for (const auto& pair : kv_pairs())
        for (const bool waiting : {false, true}) {
            nb::kv_cache_options o = options_for(*pair, 2, 32, 400);
            if (waiting) {
                o.key_window = 40;
                o.value_window = 90;
                o.sinks = 10;
            }
            const std::size_t size = 350;
            const std::size_t n = nibble_test::kinds_only ? 25 : 100;
            const tokens clean(o, size, 13);
            const matrix good = matrix::normal(n, 4 * 32, 14);
            // Tokens: a sink, an old one, where keys are stored and values wait, the newest.
            for (const std::size_t at : nibble_test::some_of<std::size_t>({3, 200, 290, 330, 349}))
                for (const bool key : {true, false})
                    for (const auto precision : precisions) {
                        tokens t = clean;
                        (key ? t.k : t.v).row(at)[32 + 9] = at % 2 == 0 ? not_a_number : infinite; // head 1
                        const auto s = pair->make(o);
                        t.append_to(*s);
                        matrix out(n, 4 * 32);
                        nb::attend_options options;
                        options.precision = precision;
                        s->attend(good, out, options);
                        bool right = true;
                        for (std::size_t i = 0; i < n; ++i)
                            for (std::size_t j = 0; j < 4 * 32; ++j)
                                right = right && std::isnan(out.row(i)[j]) == (j >= 64 && size - n + i >= at);
                        if (!right)
                            FAIL_CHECK(pair->name() << (key ? " key " : " value ") << at << (waiting ? " waiting" : "")
                                                    << " precision " << static_cast<int>(precision));
                    }
            const auto s = pair->make(o);
            clean.append_to(*s);
            for (const auto precision : precisions) {
                matrix q = good;
                q.row(7)[3 * 32 + 30] = not_a_number;
                q.row(8)[0] = -infinite;
                matrix out(n, 4 * 32);
                nb::attend_options options;
                options.precision = precision;
                s->attend(q, out, options);
                bool right = true;
                for (std::size_t i = 0; i < n; ++i)
                    for (std::size_t j = 0; j < 4 * 32; ++j)
                        right =
                            right && std::isnan(out.row(i)[j]) == ((i == 7 && j / 32 == 3) || (i == 8 && j / 32 == 0));
                if (!right) FAIL_CHECK(pair->name() << " query, precision " << static_cast<int>(precision));
            }
            // What a mask hides is not seen.
            tokens t = clean;
            for (const std::size_t at : {3u, 200u, 330u}) t.k.row(at)[5] = t.v.row(at)[40] = not_a_number;
            matrix mask(n, size);
            for (std::size_t i = 0; i < n; ++i)
                for (const std::size_t at : {3u, 200u, 330u}) mask.row(i)[at] = -infinite;
            const auto hidden = pair->make(o);
            t.append_to(*hidden);
            for (const auto precision : precisions) {
                matrix out(n, 4 * 32);
                nb::attend_options options;
                options.precision = precision;
                options.mask = mask;
                hidden->attend(good, out, options);
                if (!std::all_of(out.at.begin(), out.at.end(), [](float x) { return std::isfinite(x); }))
                    FAIL_CHECK(pair->name() << " hidden, precision " << static_cast<int>(precision));
            }
        }
    SUCCEED();
}

TEST_CASE("huge and tiny numbers stay numbers") {
    for (const auto& pair : kv_pairs())
        for (const float size : {1e-42f, 1e-30f, 1e15f}) {
            const nb::kv_cache_options o = options_for(*pair, 1, 32, 300);
            tokens t(o, 300, 15);
            for (float& x : t.v.at) x *= size;
            const auto s = pair->make(o);
            t.append_to(*s);
            check(*pair, *s, matrix::normal(3, 32, 16), {}, "values of " + std::to_string(size));
            tokens keys(o, 300, 17);
            for (float& x : keys.k.at) x *= size;
            matrix q = matrix::normal(3, 32, 18);
            for (float& x : q.at) x /= std::max(size, 1e-30f);
            const auto other = pair->make(o);
            keys.append_to(*other);
            check(*pair, *other, q, {}, "keys of " + std::to_string(size));
        }
    SUCCEED();
}

TEST_CASE("two halves joined are the whole, and an empty part changes nothing") {
    for (const kv_pair* pair : some_pairs())
        for (const auto precision : precisions) {
            nb::kv_cache_options o = options_for(*pair, 2, 64, 512);
            const tokens t(o, 512, 19);
            const matrix q = matrix::normal(4, 4 * 64, 20);
            nb::attend_options options;
            options.precision = precision;
            options.causal = false;
            const auto part = [&](std::size_t first, std::size_t count, matrix& out, matrix& sums) {
                const auto s = pair->make(o);
                t.append_to(*s, first, count);
                out = matrix(4, 4 * 64);
                sums = matrix(4, 4);
                options.log_sums = sums;
                s->attend(q, out, options);
            };
            matrix all, all_sums, a, a_sums, b, b_sums, c, c_sums;
            part(0, 512, all, all_sums);
            part(0, 256, a, a_sums);
            part(256, 128, b, b_sums);
            part(384, 128, c, c_sums);
            const auto close = [&](const matrix& x, const matrix& y, double within) {
                double top = 0.0, off = 0.0;
                for (std::size_t i = 0; i < x.at.size(); ++i) {
                    top = std::max(top, std::abs(static_cast<double>(y.at[i])));
                    off = std::max(off, std::abs(static_cast<double>(x.at[i]) - static_cast<double>(y.at[i])));
                }
                UNSCOPED_INFO(pair->name() << " precision " << static_cast<int>(precision) << ": " << off / top);
                return off <= within * top;
            };
            matrix left = a, left_sums = a_sums;
            nb::merge_attention(left, left_sums, b, b_sums);
            nb::merge_attention(left, left_sums, c, c_sums);
            matrix right = b, right_sums = b_sums;
            nb::merge_attention(right, right_sums, c, c_sums);
            nb::merge_attention(right, right_sums, a, a_sums);
            CHECK(close(left, right, 1e-6));
            CHECK(close(left_sums, right_sums, 1e-6));
            // With weights in 8 bits each block of 256 tokens has its own step.
            if (precision != nb::attention_precision::integer) {
                // Both are sums of 512 terms, each rounded once, and of the few that joining adds; with a zero point
                // the terms are up to three times the values.
                const double largest = static_cast<double>(*std::max_element(t.v.at.begin(), t.v.at.end()));
                double off = 0.0;
                for (std::size_t i = 0; i < all.at.size(); ++i)
                    off = std::max(off, std::abs(static_cast<double>(left.at[i]) - static_cast<double>(all.at[i])));
                CHECK(off < 2.0 * 528.0 * 0x1p-24 * 3.0 * largest);
                if (pair->name().rfind("f32 ", 0) == 0) CHECK(off < 1e-6);
                CHECK(close(left_sums, all_sums, 1e-6));
            }
            const matrix before = left, before_sums = left_sums;
            const matrix zeros(4, 4 * 64), none(4, 4, -infinite);
            nb::merge_attention(left, left_sums, zeros, none);
            CHECK(left.at == before.at);
            CHECK(left_sums.at == before_sums.at);
            matrix empty = zeros, empty_sums = none;
            nb::merge_attention(empty, empty_sums, left, left_sums);
            CHECK(empty.at == before.at);
            CHECK(empty_sums.at == before_sums.at);
            matrix nothing = zeros, nothing_sums = none;
            nb::merge_attention(nothing, nothing_sums, zeros, none);
            CHECK(nothing.at == zeros.at);
            CHECK(nothing_sums.at == none.at);
        }
}

TEST_CASE("attend refuses what does not fit") {
    for (const kv_pair* pair : some_pairs()) {
        nb::kv_cache_options o = options_for(*pair, 2, 32, 640);
        o.page_tokens = std::max<std::size_t>(16, pair->tokens_per_group());
        const auto s = pair->make(o);
        tokens(o, 640, 21).append_to(*s);
        const matrix q = matrix::normal(3, 128, 22);
        matrix out(3, 128);
        const auto refused = [&](auto&& change) {
            nb::attend_options options;
            change(options);
            return broken_by([&] { s->attend(q, out, options); });
        };
        CHECK(refused([](auto&) {}).empty());
        CHECK(broken_by([&] {
                  s->attend(q, {out.at.data(), 2, 128}, {});
              }).find("row for each query") != std::string::npos);
        CHECK(broken_by([&] { s->attend(q, {out.at.data(), 3, 127}, {}); }).find("row of out") != std::string::npos);
        CHECK(broken_by([&] {
                  s->attend({q.at.data(), 3, 96}, out, {});
              }).find("multiple of the cache") != std::string::npos);
        CHECK(broken_by([&] { s->attend({q.at.data(), 3, 70}, out, {}); }).find("row of q") != std::string::npos);
        const std::vector<float> three(3);
        matrix few(3, 3);
        CHECK(refused([&](auto& a) { a.slopes = three; }).find("slope") != std::string::npos);
        CHECK(refused([&](auto& a) { a.sink_scores = three; }).find("sink score") != std::string::npos);
        CHECK(refused([&](auto& a) { a.log_sums = few; }).find("log_sums") != std::string::npos);
        CHECK(refused([&](auto& a) { a.mask = few; }).find("mask") != std::string::npos);
        CHECK(refused([&](auto& a) { a.precision = static_cast<nb::attention_precision>(9); }).find("precision") !=
              std::string::npos);
        const auto empty = s->beside();
        CHECK(broken_by([&] { empty->attend(q, out, {}); }).find("more queries than tokens") != std::string::npos);
        pair->attend(q, {}, out, {}, {});
        // Pages that no query sees may be away.
        matrix want(3, 128), got(3, 128);
        nb::attend_options options;
        options.window = 100;
        s->attend(q, want, options);
        CHECK(refused([](auto&) {}).empty());
        for (std::size_t i = 0; (i + 1) * o.page_tokens + 103 <= 640; ++i) s->drop_page(i);
        CHECK(refused([](auto&) {}).find("dropped") != std::string::npos);
        s->attend(q, got, options);
        CHECK(got.at == want.at);
    }
}
