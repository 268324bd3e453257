// transforms.cpp: keys and values that go through a transform before they are stored: attention in the channels of the
// caller, every bit as often as before, and what papers claim for it.
#include "support/attention_check.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"

#include <nibble/cache/transform.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

nb::kv_cache_options waiting_options(const kv_pair& pair, std::size_t capacity) {
    nb::kv_cache_options o = options_for(pair, 2, 40, capacity);
    o.value_size = 56;
    o.sinks = 5;
    o.key_window = 19;
    o.value_window = 70;
    return o;
}
bool same_bits(const matrix& a, const matrix& b) {
    return a.at.size() == b.at.size() && std::memcmp(a.at.data(), b.at.data(), a.at.size() * sizeof(float)) == 0;
}
// Everything a sequence holds: its pages, and what it reads back.
struct contents {
    std::vector<std::vector<std::byte>> pages;
    std::vector<matrix> read;
    explicit contents(const sequence& s) {
        for (std::size_t i = 0; i < s.page_count(); ++i) pages.push_back(s.save_page(i));
        for (std::size_t h = 0; h < s.options().heads; ++h) {
            matrix k(s.size(), s.options().head_size), v(s.size(), s.options().value_size);
            s.read_keys(h, 0, k);
            s.read_values(h, 0, v);
            read.push_back(std::move(k));
            read.push_back(std::move(v));
        }
    }
    friend bool operator==(const contents& a, const contents& b) {
        bool same = a.pages == b.pages && a.read.size() == b.read.size();
        for (std::size_t i = 0; same && i < a.read.size(); ++i) same = same_bits(a.read[i], b.read[i]);
        return same;
    }
};
matrix attended(const sequence& s, const matrix& q, const nb::attend_options& options = {}, std::size_t isa = 0,
                std::size_t workers = 1) {
    matrix out(q.rows, q.cols / s.options().head_size * s.options().value_size, 3.0f);
    s.attend(isa, q, out, options, test_executor{workers});
    return out;
}
double furthest(const matrix& a, const matrix& b) {
    double off = 0.0;
    for (std::size_t i = 0; i < a.at.size(); ++i) {
        const double d = std::abs(static_cast<double>(a.at[i]) - static_cast<double>(b.at[i]));
        if (!(d <= off)) off = d;
    }
    return off;
}

} // namespace

TEST_CASE("attention over transformed keys and values is that over what the cache reads back, for every pair") {
    std::size_t number = 0;
    for (const auto& pair : kv_pairs())
        for (const bool waiting : {false, true}) {
            if (nibble_test::kinds_only && number++ % 3 != 0) continue;
            nb::kv_cache_options o = waiting_options(*pair, 600);
            if (!waiting) o.sinks = o.key_window = o.value_window = 0;
            const std::size_t size = 531;
            const tokens t = uneven_tokens(o, size, 41);
            const matrix q = matrix::normal(5, 4 * o.head_size, 42);
            for (const transforms& through : all_transforms(o, t)) {
                const auto s = pair->make(o);
                through.set(*s);
                t.append_rest(*s, 90);
                check(*pair, *s, q, {}, through.name + (waiting ? " waiting" : ""));
            }
        }
    SUCCEED();
}

TEST_CASE("every option meets transformed keys and values as it meets plain ones") {
    for (const kv_pair* pair : some_pairs()) {
        const nb::kv_cache_options o = waiting_options(*pair, 700);
        const std::size_t size = 613; // two spans
        const tokens t = uneven_tokens(o, size, 43);
        const matrix q = matrix::normal(4, 4 * o.head_size, 44);
        const std::vector<float> slopes{0.5f, 0.0f, 0.01f, 2.0f};
        const std::vector<float> sink_scores{1.0f, -infinite, 30.0f, -3.0f};
        matrix mask = matrix::normal(4, size, 45);
        for (std::size_t i = 0; i < size; ++i) {
            if (i % 3 == 1) mask.row(1)[i] = -infinite;
            mask.row(2)[i] = -infinite;
            if (i != 5) mask.row(3)[i] = -infinite;
        }
        const std::vector<std::function<void(nb::attend_options&)>> changes{
            [](nb::attend_options& a) { a.window = 100; },
            [](nb::attend_options& a) {
                a.causal = false;
                a.scale = 0.3f;
            },
            [](nb::attend_options& a) { a.soft_cap = 2.0f; },
            [&](nb::attend_options& a) { a.sink_scores = sink_scores; },
            [&](nb::attend_options& a) {
                a.sink_scores = sink_scores;
                a.soft_cap = 30.0f;
                a.slopes = slopes;
            },
            [&](nb::attend_options& a) {
                a.mask = mask;
                a.sink_scores = sink_scores;
            },
            [&](nb::attend_options& a) { a.mask = mask; },
        };
        for (const transforms& through : all_transforms(o, t)) {
            const auto s = pair->make(o);
            through.set(*s);
            t.append_to(*s);
            for (std::size_t i = 0; i < changes.size(); ++i) {
                nb::attend_options options;
                changes[i](options);
                check(*pair, *s, q, options, through.name + ", options " + std::to_string(i));
            }
        }
    }
    SUCCEED();
}

TEST_CASE("what is stored is transformed, and read back in the caller's channels") {
    const kv_pair& pair = *kv_pairs().front();
    REQUIRE(pair.name().rfind("f32 ", 0) == 0);
    nb::kv_cache_options o = waiting_options(pair, 200);
    o.key_window = o.value_window = 0;
    const tokens t = uneven_tokens(o, 200, 46);
    const auto plain = pair.make(o);
    t.append_to(*plain);
    for (const transforms& through : all_transforms(o, t)) {
        if (through.name == "rotary") continue; // nothing before it is stored
        INFO(through.name);
        const auto s = pair.make(o);
        through.set(*s);
        t.append_to(*s);
        CHECK(contents(*s).pages != contents(*plain).pages);
        for (std::size_t h = 0; h < o.heads; ++h) {
            matrix k(200, o.head_size), v(200, o.value_size), want_k = k, want_v = v;
            s->read_keys(h, 0, k);
            plain->read_keys(h, 0, want_k);
            CHECK(furthest(k, want_k) < 1e-5);
            s->read_values(h, 0, v);
            for (std::size_t i = 0; i < 200; ++i)
                std::copy_n(t.v.row(i) + h * o.value_size, o.value_size, want_v.row(i));
            // Values of this pair are in few bits, but for sinks.
            for (matrix* m : {&v, &want_v}) m->at.resize(o.sinks * m->cols);
            CHECK(furthest(v, want_v) < 1e-5);
        }
    }
}

TEST_CASE("however tokens come, go and come back, the same bits are stored and attended to") {
    for (const kv_pair* pair : some_pairs()) {
        nb::kv_cache_options o = waiting_options(*pair, 400);
        o.pages = 40;
        const tokens t = uneven_tokens(o, 330, 47);
        const tokens other = uneven_tokens(o, 330, 48);
        const matrix q = matrix::normal(3, 4 * o.head_size, 49);
        for (const transforms& through : all_transforms(o, t)) {
            const auto whole = pair->make(o);
            through.set(*whole);
            t.append_to(*whole);
            const contents want(*whole);
            const matrix out = attended(*whole, q);
            INFO(pair->name() << ", " << through.name);
            for (const std::size_t chunk : {1u, 7u, 100u}) {
                const auto s = pair->make(o);
                through.set(*s);
                t.append_rest(*s, chunk);
                CHECK(contents(*s) == want);
                CHECK(same_bits(attended(*s, q), out));
            }
            // A fork goes through what its origin did.
            const auto origin = pair->make(o);
            through.set(*origin);
            t.append_to(*origin, 0, 200);
            const auto fork = origin->fork();
            other.append_to(*origin, 200, 20);
            t.append_rest(*fork, 50);
            CHECK(contents(*fork) == want);
            CHECK(same_bits(attended(*fork, q), out));
            // Tokens taken back leave nothing.
            const auto s = pair->make(o);
            through.set(*s);
            t.append_to(*s, 0, 200);
            other.append_to(*s, 200, 10);
            s->truncate(200);
            t.append_rest(*s, 64);
            CHECK(contents(*s) == want);
            const std::vector<std::byte> page = s->save_page(1);
            s->drop_page(1);
            s->restore_page(1, page);
            CHECK(contents(*s) == want);
            CHECK(same_bits(attended(*s, q), out));
            // An empty one may take another, and then holds what that makes.
            other.append_to(*origin, 220, 20);
            origin->truncate(0);
            through.set(*origin);
            t.append_to(*origin);
            CHECK(contents(*origin) == want);
        }
    }
}

TEST_CASE(
    "neither threads, nor the instruction set, nor other queries change a bit of attention to transformed tokens") {
    for (const auto& pair : kv_pairs()) {
        const nb::kv_cache_options o = waiting_options(*pair, 600);
        const tokens t = uneven_tokens(o, 530, 50);
        const matrix q = matrix::normal(37, 4 * o.head_size, 51);
        for (const transforms& through : all_transforms(o, t)) {
            if (!pair->isas() || (pair->isas() == 1 && through.name != "all")) continue;
            const auto s = pair->make(o);
            through.set(*s);
            t.append_to(*s);
            for (const auto precision : precisions) {
                INFO(pair->name() << ", " << through.name << ", precision " << static_cast<int>(precision));
                nb::attend_options options;
                options.precision = precision;
                const matrix want = attended(*s, q, options);
                CHECK(same_bits(attended(*s, q, options, 0, 3), want));
                for (std::size_t isa = 1; isa < pair->isas(); ++isa)
                    CHECK(same_bits(attended(*s, q, options, isa), want));
                for (const std::size_t n : {1u, 2u, 5u, 20u}) {
                    matrix some = q;
                    some.rows = n;
                    some.at.assign(q.row(37 - n), q.row(37 - n) + n * q.cols);
                    const matrix got = attended(*s, some, options);
                    CHECK(std::memcmp(got.at.data(), want.row(37 - n), got.at.size() * sizeof(float)) == 0);
                }
            }
        }
    }
}

TEST_CASE("what is not finite makes NaN of what sees it, through a transform too") {
    for (const kv_pair* pair : some_pairs()) {
        nb::kv_cache_options o = waiting_options(*pair, 400);
        o.head_size = o.value_size = 32;
        const std::size_t size = 350, n = nibble_test::kinds_only ? 25 : 100;
        const tokens clean = uneven_tokens(o, size, 52);
        const matrix good = matrix::normal(n, 4 * 32, 53);
        for (const transforms& through : all_transforms(o, clean)) {
            for (const std::size_t at : nibble_test::some_of<std::size_t>({3, 200, 290, 330, 349}))
                for (const bool key : {true, false}) {
                    tokens t = clean;
                    (key ? t.k : t.v).row(at)[32 + 9] = at % 2 == 0 ? not_a_number : infinite; // head 1
                    const auto s = pair->make(o);
                    through.set(*s);
                    t.append_to(*s);
                    const matrix out = attended(*s, good);
                    bool right = true;
                    for (std::size_t i = 0; i < n; ++i)
                        for (std::size_t j = 0; j < out.cols; ++j)
                            right = right && std::isnan(out.row(i)[j]) == (j >= 64 && size - n + i >= at);
                    if (!right) FAIL_CHECK(pair->name() << ", " << through.name << (key ? ", key " : ", value ") << at);
                }
            const auto s = pair->make(o);
            through.set(*s);
            clean.append_to(*s);
            matrix q = good;
            q.row(7)[3 * 32 + 30] = not_a_number;
            q.row(8)[0] = -infinite;
            for (const auto precision : precisions)
                for (const float cap : {0.0f, 20.0f}) {
                    if (cap != 0.0f) q.row(8)[0] = 0.0f; // a cap makes a number of an infinite score
                    nb::attend_options options;
                    options.precision = precision;
                    options.soft_cap = cap;
                    const matrix out = attended(*s, q, options);
                    bool right = true;
                    for (std::size_t i = 0; i < n; ++i)
                        for (std::size_t j = 0; j < out.cols; ++j)
                            right = right && std::isnan(out.row(i)[j]) ==
                                                 ((i == 7 && j / 32 == 3) || (i == 8 && j / 32 == 0 && cap == 0.0f));
                    if (!right)
                        FAIL_CHECK(pair->name()
                                   << ", " << through.name << ", precision " << static_cast<int>(precision));
                    q.row(8)[0] = -infinite;
                }
        }
        // Sums of a transform that no float holds.
        nb::kv_transform rotated;
        rotated.hadamard = true;
        const auto s = pair->make(o);
        s->set_key_transform(std::make_shared<const nb::kv_transform>(rotated));
        tokens huge = clean;
        std::fill_n(huge.k.row(349) + 32, 32, 3e38f);
        huge.append_to(*s);
        const matrix out = attended(*s, good);
        CHECK(std::isnan(out.row(n - 1)[64]));
        CHECK(std::isfinite(out.row(n - 1)[63]));
        CHECK(std::isfinite(out.row(n - 2)[64]));
    }
}

TEST_CASE("a query that sees no token has no share of the mean of the values") {
    for (const kv_pair* pair : some_pairs()) {
        const nb::kv_cache_options o = waiting_options(*pair, 300);
        const tokens t = uneven_tokens(o, 300, 54);
        const matrix q = matrix::normal(2, 4 * o.head_size, 55);
        matrix mask(2, 300);
        std::fill_n(mask.row(1), 300, -infinite);
        for (const transforms& through : all_transforms(o, t)) {
            INFO(pair->name() << ", " << through.name);
            const auto s = pair->make(o);
            through.set(*s);
            t.append_to(*s);
            for (const bool sink : {false, true}) {
                const std::vector<float> scores(4, 2.0f);
                matrix out(2, 4 * o.value_size, 5.0f), sums(2, 4, 5.0f);
                nb::attend_options options;
                options.mask = mask;
                options.log_sums = sums;
                if (sink) options.sink_scores = scores;
                s->attend(q, out, options);
                CHECK(std::all_of(out.row(1), out.row(1) + out.cols, [](float x) { return x == 0.0f; }));
                CHECK(
                    std::all_of(sums.row(1), sums.row(1) + 4, [&](float x) { return x == (sink ? 2.0f : -infinite); }));
                CHECK(out.row(0)[0] != 0.0f);
            }
        }
    }
}

TEST_CASE("parts with means of their own are joined to the whole") {
    for (const kv_pair* pair : some_pairs()) {
        nb::kv_cache_options o = options_for(*pair, 2, 64, 512);
        const tokens t = uneven_tokens(o, 512, 56);
        const tokens shifted = uneven_tokens(o, 512, 57);
        const matrix q = matrix::normal(4, 4 * 64, 58);
        nb::attend_options options;
        options.precision = nb::attention_precision::fp32;
        options.causal = false;
        // Each part's own mean; then the same mean for both, by definition of a merge in double.
        std::vector<std::unique_ptr<sequence>> parts;
        std::vector<matrix> outs, sums;
        std::vector<reference_attention> exact;
        for (const std::size_t part : {0u, 1u}) {
            parts.push_back(pair->make(o));
            all_transforms(o, part == 0 ? t : shifted).back().set(*parts.back());
            t.append_to(*parts.back(), part * 256, 256);
            outs.emplace_back(4, 4 * 64);
            sums.emplace_back(4, 4);
            options.log_sums = sums.back();
            parts.back()->attend(q, outs.back(), options);
            exact.push_back(attend_by_definition(*pair, *parts.back(), q, options));
        }
        nb::merge_attention(outs[0], sums[0], outs[1], sums[1]);
        double off = 0.0, off_sums = 0.0, largest = 0.0;
        for (std::size_t i = 0; i < 4; ++i)
            for (std::size_t h = 0; h < 4; ++h) {
                const double a = exact[0].exact_log[i * 4 + h], b = exact[1].exact_log[i * 4 + h];
                const double sum = std::log(std::exp(a - b) + 1.0) + b;
                off_sums =
                    std::max(off_sums, std::abs(sum - static_cast<double>(sums[0].row(i)[h])) / (1.0 + std::abs(sum)));
                for (std::size_t c = 0; c < 64; ++c) {
                    const std::size_t at = (i * 4 + h) * 64 + c;
                    const double want = exact[0].exact[at] * std::exp(a - sum) + exact[1].exact[at] * std::exp(b - sum);
                    largest = std::max(largest, std::abs(want));
                    off = std::max(off, std::abs(want - static_cast<double>(outs[0].at[at])));
                }
            }
        INFO(pair->name() << ": " << off / largest << ", log-sums " << off_sums);
        CHECK(off < 1e-5 * largest);
        CHECK(off_sums < 1e-6);
    }
}

TEST_CASE("a cache refuses transforms that do not fit, and keeps what it had") {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 8;
    o.value_size = 4;
    o.capacity = 64;
    using cache_type = nb::kv_cache<nb::f32_plain, nb::f32_plain>;
    cache_type cache(o);
    const auto refused = [&](const nb::kv_transform& t, bool key) {
        const auto before = key ? cache.key_transform() : cache.value_transform();
        const std::string message = broken_by([&] {
            if (key)
                cache.set_key_transform(std::make_shared<const nb::kv_transform>(t));
            else
                cache.set_value_transform(std::make_shared<const nb::kv_transform>(t));
        });
        CHECK((key ? cache.key_transform() : cache.value_transform()) == before);
        return message;
    };
    for (const bool key : {true, false}) {
        const std::size_t size = key ? 8 : 4;
        nb::kv_transform t;
        t.mean.resize(2 * size - 1);
        CHECK(refused(t, key).find("mean must have heads x size") != std::string::npos);
        t.mean.assign(2 * size, 0.0f);
        for (const float bad : {not_a_number, infinite, -infinite}) {
            t.mean[size] = bad;
            CHECK(refused(t, key).find("mean must be finite") != std::string::npos);
        }
        t = {};
        t.order.resize(size);
        CHECK(refused(t, key).find("order must have heads x size") != std::string::npos);
        t.order.resize(2 * size);
        for (std::size_t i = 0; i < 2 * size; ++i) t.order[i] = static_cast<std::uint32_t>(i % size);
        t.order[size] = 1;
        CHECK(refused(t, key).find("each of its channels once") != std::string::npos);
        t.order[size] = static_cast<std::uint32_t>(size);
        CHECK(refused(t, key).find("each of its channels once") != std::string::npos);
        t.order[size] = 0;
        t.hadamard = true;
        const auto good = std::make_shared<const nb::kv_transform>(t);
        if (key)
            cache.set_key_transform(good);
        else
            cache.set_value_transform(good);
        CHECK((key ? cache.key_transform() : cache.value_transform()) == good);
    }
    const matrix k = matrix::normal(3, 16, 59), v = matrix::normal(3, 8, 60);
    cache.append(k, v);
    CHECK(refused({}, true).find("set_key_transform") != std::string::npos);
    CHECK(refused({}, false).find("set_value_transform") != std::string::npos);
    matrix read(3, 8);
    cache.read_keys(1, 0, read);
    for (std::size_t i = 0; i < 3; ++i)
        for (std::size_t c = 0; c < 8; ++c)
            CHECK(std::abs(static_cast<double>(read.row(i)[c]) - static_cast<double>(k.row(i)[8 + c])) < 1e-6);
    cache_type moved(o);
    moved = std::move(cache);
    CHECK(moved.key_transform() != nullptr);
    CHECK(moved.fork().value_transform() == moved.value_transform());
    moved.clear();
    moved.set_key_transform(nullptr);
    CHECK(moved.key_transform() == nullptr);
}

TEST_CASE("means and orders of columns") {
    const std::vector<float> x{1, 5, -9, 2, 3, 5, 9, -2};
    const nb::matrix_view<const float> m(x.data(), 2, 4);
    CHECK(nb::column_means(m) == std::vector<float>{2, 5, 0, 0});
    CHECK(nb::order_by_norm(m, 1) == std::vector<std::uint32_t>{2, 1, 0, 3});
    CHECK(nb::order_by_norm(m, 2) == std::vector<std::uint32_t>{1, 0, 0, 1});
    CHECK(nb::order_by_norm(m, 1, nb::column_means(m)) == std::vector<std::uint32_t>{2, 3, 0, 1});
    const std::vector<float> equal(6, 1.0f);
    CHECK(nb::order_by_norm({equal.data(), 2, 3}, 1) == std::vector<std::uint32_t>{0, 1, 2});
    const std::vector<float> bad{1, not_a_number, 3};
    CHECK(nb::order_by_norm({bad.data(), 1, 3}, 1) == std::vector<std::uint32_t>{1, 2, 0});
    CHECK(std::isnan(nb::column_means({bad.data(), 1, 3})[1]));
    CHECK(broken_by([&] { (void)nb::order_by_norm(m, 3); }).find("every head") != std::string::npos);
    CHECK(broken_by([&] { (void)nb::order_by_norm(m, 2, std::vector<float>(3)); }).find("mean") != std::string::npos);
    CHECK(broken_by([&] { (void)nb::column_means({x.data(), 0, 4}); }).find("row") != std::string::npos);
}
