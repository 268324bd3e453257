// attend_reproducible.cpp: the bits of a query's result depend on the query and the cache alone.
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/guarded_memory.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"

#include <nibble/core/workspace.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace nb = nibble;
using namespace attend_test;

namespace {

constexpr std::array precisions{nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                nb::attention_precision::integer};

nb::kv_cache_options options_of(const kv_pair& pair, bool waiting) {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 40;
    o.value_size = 56;
    o.capacity = 3300;
    o.page_tokens = std::max<std::size_t>(32, pair.tokens_per_group());
    if (waiting) {
        o.key_window = 19;
        o.value_window = 70;
        o.sinks = 5;
    }
    return o;
}
bool same_bits(const matrix& a, const matrix& b) {
    return a.at.size() == b.at.size() && std::memcmp(a.at.data(), b.at.data(), a.at.size() * sizeof(float)) == 0;
}
struct result {
    matrix out, sums;
    friend bool operator==(const result& a, const result& b) {
        return same_bits(a.out, b.out) && same_bits(a.sums, b.sums);
    }
};
result attended(const sequence& s, const_view q, nb::attend_options options, std::size_t isa = 0,
                std::size_t workers = 1) {
    const std::size_t heads = q.cols() / s.options().head_size;
    result r{matrix(q.rows(), heads * s.options().value_size, 3.0f), matrix(q.rows(), heads, 3.0f)};
    options.log_sums = r.sums;
    s.attend(isa, q, r.out, options, test_executor{workers});
    return r;
}

// Visits each pair with a cache of `size` tokens, queries of four heads for the newest and each precision.
constexpr std::size_t newest = nibble_test::kinds_only ? 21 : 37;
template <class Visit> void for_each_case(std::size_t size, const Visit& visit) {
    for (const auto& pair : kv_pairs())
        for (const bool waiting : {false, true}) {
            const nb::kv_cache_options o = options_of(*pair, waiting);
            const tokens t(o, size, 31);
            const auto s = pair->make(o);
            t.append_to(*s);
            const matrix q = matrix::normal(newest, 4 * o.head_size, 32);
            for (const auto precision : precisions) {
                INFO(pair->name() << (waiting ? " waiting" : "") << ", precision " << static_cast<int>(precision));
                nb::attend_options options;
                options.precision = precision;
                options.window = waiting ? 200 : 0;
                visit(*pair, *s, t, q, options);
            }
        }
}

} // namespace

TEST_CASE("neither threads nor the instruction set change a bit") {
    for_each_case(530, [](const kv_pair& pair, const sequence& s, const tokens&, const matrix& q,
                          const nb::attend_options& options) {
        const result want = attended(s, q, options);
        for (const std::size_t workers : {2u, 3u, 7u}) CHECK(attended(s, q, options, 0, workers) == want);
        for (std::size_t isa = 1; isa < pair.isas(); ++isa) CHECK(attended(s, q, options, isa) == want);
    });
    std::size_t with_generic = 0;
    for (const auto& pair : kv_pairs()) with_generic += pair->isas() - 1;
    INFO("pairs on two instruction sets: " << with_generic);
    CHECK((std::is_same_v<nb::best_isa, nb::generic> || nibble_test::kinds_only || with_generic >= 4));
}

TEST_CASE("spans of few tasks change no bit when threads share them") {
    for_each_case(3300,
                  [](const kv_pair&, const sequence& s, const tokens&, const matrix& q, nb::attend_options options) {
                      if (nibble_test::kinds_only && options.precision == nb::attention_precision::integer_scores)
                          return;
                      for (const std::size_t window : {std::size_t{0}, std::size_t{1500}}) {
                          const std::size_t n = window == 0 ? 1 : 2;
                          options.window = window;
                          const const_view rows = q.part(q.rows - n, n);
                          const result want = attended(s, rows, options);
                          for (const std::size_t workers : {2u, 3u, 7u})
                              CHECK(attended(s, rows, options, 0, workers) == want);
                      }
                  });
    // Sequences of several lengths, whose tasks have none, one and several.
    for (const auto& pair : kv_pairs()) {
        nb::kv_cache_options o = options_of(*pair, true);
        o.heads = 1;
        std::vector<std::unique_ptr<sequence>> all;
        std::vector<part_of_call> parts;
        for (const std::size_t size : {30u, 2300u, 1100u}) {
            all.push_back(pair->make(o));
            tokens(o, size, size).append_to(*all.back());
            parts.push_back({all.back().get(), parts.size(), 1});
        }
        const matrix q = matrix::normal(parts.size(), 4 * o.head_size, 36);
        for (const std::size_t workers : {1u, 2u, 5u}) {
            matrix out(q.rows, 4 * o.value_size);
            pair->attend(q, parts, out, {}, test_executor{workers});
            for (const part_of_call& p : parts) {
                const result want = attended(*p.cache, q.part(p.first, 1), {});
                INFO(pair->name());
                CHECK(std::memcmp(out.row(p.first), want.out.at.data(), want.out.at.size() * sizeof(float)) == 0);
            }
        }
    }
}

TEST_CASE("the size of a page changes no bit") {
    for_each_case(530, [](const kv_pair& pair, const sequence& s, const tokens& t, const matrix& q,
                          const nb::attend_options& options) {
        const result want = attended(s, q, options);
        for (const std::size_t size : nibble_test::some_of<std::size_t>({16, 32, 64, 128, 256})) {
            if (pair.tokens_per_group() > size) continue;
            nb::kv_cache_options o = s.options();
            o.page_tokens = size;
            o.pages = 0;
            const auto other = pair.make(o);
            t.append_to(*other);
            INFO("pages of " << size);
            CHECK(attended(*other, q, options) == want);
        }
    });
}

TEST_CASE("a query's result does not depend on those beside it") {
    for_each_case(530, [](const kv_pair&, const sequence& s, const tokens&, const matrix& q,
                          const nb::attend_options& options) {
        const result want = attended(s, q, options);
        for (const std::size_t n : nibble_test::some_of<std::size_t>({1, 2, 3, 5, 8, 20})) {
            // The last n alone.
            const result got = attended(s, q.part(q.rows - n, n), options);
            bool same = true;
            for (std::size_t i = 0; i < n; ++i) {
                same = same &&
                       std::memcmp(got.out.row(i), want.out.row(q.rows - n + i), got.out.cols * sizeof(float)) == 0;
                same = same &&
                       std::memcmp(got.sums.row(i), want.sums.row(q.rows - n + i), got.sums.cols * sizeof(float)) == 0;
            }
            INFO(n << " queries");
            CHECK(same);
        }
    });
}

TEST_CASE("token by token is all at once where nothing waits in fp32") {
    for (const auto& pair : kv_pairs()) {
        if (pair->tokens_per_group() != 0) continue;
        const nb::kv_cache_options o = options_of(*pair, false);
        const std::size_t size = nibble_test::kinds_only ? 100 : 290;
        const tokens t(o, size, 33);
        const auto all = pair->make(o);
        t.append_to(*all);
        const matrix q = matrix::normal(size, 4 * o.head_size, 34);
        for (const auto precision : precisions) {
            INFO(pair->name() << ", precision " << static_cast<int>(precision));
            nb::attend_options options;
            options.precision = precision;
            const result want = attended(*all, q, options);
            const auto s = pair->make(o);
            bool same = true;
            for (std::size_t i = 0; i < size; ++i) {
                t.append_to(*s, i, 1);
                const result got = attended(*s, q.part(i, 1), options);
                same = same && std::memcmp(got.out.row(0), want.out.row(i), got.out.cols * sizeof(float)) == 0;
            }
            CHECK(same);
        }
    }
}

TEST_CASE("several sequences in one call are each as alone") {
    for (const auto& pair : kv_pairs()) {
        nb::kv_cache_options o = options_of(*pair, true);
        std::vector<std::unique_ptr<sequence>> all;
        std::vector<part_of_call> parts;
        const std::vector<std::size_t> sizes{300, 1, 257, 40};
        const std::vector<std::size_t> counts{3, 1, 40, 0};
        std::size_t rows = 0;
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            all.push_back(pair->make(o));
            tokens(o, sizes[i], 40 + i).append_to(*all.back());
            parts.push_back({all.back().get(), rows, counts[i]});
            rows += counts[i];
        }
        const matrix q = matrix::normal(rows, 4 * o.head_size, 35);
        for (const auto precision : precisions)
            for (const std::size_t workers : {1u, 3u}) {
                nb::attend_options options;
                options.precision = precision;
                matrix out(rows, 4 * o.value_size);
                pair->attend(q, parts, out, options, test_executor{workers});
                for (const part_of_call& p : parts) {
                    if (p.count == 0) continue;
                    const result want = attended(*p.cache, q.part(p.first, p.count), options);
                    INFO(pair->name());
                    CHECK(std::memcmp(out.row(p.first), want.out.at.data(), want.out.at.size() * sizeof(float)) == 0);
                }
            }
    }
}

TEST_CASE("forks, evicted pages and restored ones give the same bits") {
    for_each_case(2200, [](const kv_pair&, sequence& s, const tokens&, const matrix& q, nb::attend_options options) {
        options.window = 200;
        const result want = attended(s, q, options);
        const auto copy = s.fork();
        CHECK(attended(*copy, q, options) == want);
        if (s.options().sinks == 0) {
            copy->evict_before(2200 - newest - 200);
            CHECK(attended(*copy, q, options) == want);
        }
        const std::size_t last = s.page_count() - 1;
        const auto bytes = copy->save_page(last);
        copy->drop_page(last);
        copy->restore_page(last, bytes);
        CHECK(attended(*copy, q, options) == want);
    });
}

TEST_CASE("a workspace changes no bit, and nothing beyond any buffer is touched") {
    for_each_case(
        300, [](const kv_pair& pair, const sequence& s, const tokens& t, const matrix& q, nb::attend_options options) {
            // Room of its own, queries and results before forbidden pages.
            const auto guarded = pair.make(s.options(), gemm_test::guarded_allocator());
            t.append_to(*guarded);
            nb::workspace scratch(0, gemm_test::guarded_allocator());
            for (const std::size_t n : nibble_test::some_of<std::size_t>({newest, 1, 5})) {
                options.workspace = nullptr;
                const result want = attended(s, q.part(0, n), options);
                const std::size_t cols = want.out.cols;
                const gemm_test::guarded_memory from(n * q.cols * sizeof(float));
                const gemm_test::guarded_memory to(((n - 1) * (cols + 3) + cols) * sizeof(float));
                std::memcpy(from.data(), q.at.data(), n * q.cols * sizeof(float));
                std::memset(to.data(), 0x5a, ((n - 1) * (cols + 3) + cols) * sizeof(float));
                options.workspace = &scratch;
                guarded->attend({from.as<float>(), n, q.cols}, {to.as<float>(), n, cols, cols + 3}, options);
                bool same = true;
                for (std::size_t i = 0; i < n; ++i) {
                    const float* row = to.as<float>() + i * (cols + 3);
                    same = same && std::memcmp(row, want.out.row(i), cols * sizeof(float)) == 0;
                    for (std::size_t j = cols; j < cols + 3 && i + 1 < n; ++j) {
                        std::uint32_t word = 0;
                        std::memcpy(&word, row + j, 4);
                        same = same && word == 0x5a5a5a5au;
                    }
                }
                CHECK(same);
            }
        });
}
