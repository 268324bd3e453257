// cache.cpp: what a kv_cache stores is what quantize makes of the same rows, however the tokens came; pages are shared,
// copied, taken back, given away and restored without a bit of difference.
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kv_pair.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
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

nb::kv_cache_options small_options(const kv_pair& pair) {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 40;
    o.value_size = 72;
    o.capacity = 400;
    o.page_tokens = std::max<std::size_t>(32, pair.tokens_per_group());
    return o;
}
// Windows, a flush and sinks, all at once.
nb::kv_cache_options full_options(const kv_pair& pair) {
    nb::kv_cache_options o = small_options(pair);
    o.key_window = 5;
    o.value_window = 20;
    o.key_flush = pair.tokens_per_group() == 0 ? 3 : 0;
    o.sinks = 6;
    return o;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Everything a sequence says it holds.
struct contents {
    std::size_t size = 0, begin = 0, pages = 0;
    std::vector<std::vector<std::byte>> bytes;
    std::vector<float> numbers;
    friend bool operator==(const contents& a, const contents& b) {
        return a.size == b.size && a.begin == b.begin && a.pages == b.pages && a.bytes == b.bytes &&
               same_bits(a.numbers, b.numbers);
    }
};
contents contents_of(const sequence& s) {
    contents c;
    c.size = s.size();
    c.begin = s.begin();
    c.pages = s.page_count();
    for (std::size_t i = 0; i < s.page_count(); ++i)
        c.bytes.push_back(s.has_page(i) ? s.save_page(i) : std::vector<std::byte>{});
    const nb::kv_cache_options& o = s.options();
    const std::size_t sinks = std::min(o.sinks, s.size());
    const std::size_t rest = std::max(sinks, s.begin());
    for (std::size_t h = 0; h < o.heads; ++h)
        for (const auto& [first, count] :
             {std::pair{std::size_t{0}, sinks}, std::pair{rest, s.size() - std::min(rest, s.size())}}) {
            if (count == 0) continue;
            matrix k(count, o.head_size), v(count, o.value_size);
            s.read_keys(h, first, k);
            s.read_values(h, first, v);
            c.numbers.insert(c.numbers.end(), k.at.begin(), k.at.end());
            c.numbers.insert(c.numbers.end(), v.at.begin(), v.at.end());
        }
    return c;
}

// One head's columns.
matrix head_of(const matrix& all, std::size_t head, std::size_t channels) {
    matrix one(all.rows, channels);
    for (std::size_t t = 0; t < all.rows; ++t) std::copy_n(all.row(t) + head * channels, channels, one.row(t));
    return one;
}

} // namespace

TEST_CASE("a cache stores the numbers that quantize makes of the same rows") {
    for (const auto& pair : kv_pairs())
        for (const std::size_t head_size : {1u, 7u, 40u, 96u, 128u}) {
            INFO(pair->name() << " with heads of " << head_size);
            nb::kv_cache_options o = small_options(*pair);
            o.head_size = head_size;
            o.value_size = head_size == 40 ? 72 : head_size;
            const std::size_t count = 137;
            tokens t(o, count, 1);
            for (std::size_t i = 0; i < t.k.cols; ++i) t.k.row(5)[i] = t.v.row(6)[i] = 0.0f;
            t.k.row(9)[0] *= 100.0f;
            // Scales of everything differ between heads: each head has a cache of its own.
            for (std::size_t h = 0; h < o.heads; ++h) {
                const matrix k = head_of(t.k, h, o.head_size);
                const matrix v = head_of(t.v, h, o.value_size);
                nb::kv_cache_options one = o;
                one.heads = 1;
                const std::vector<float> keys = pair->quantized_keys(k, one.key_scale);
                const std::vector<float> values = pair->quantized_values(v, one.value_scale);
                const auto s = pair->make(one);
                s->append(k, v);
                s->flush();
                const std::size_t whole = s->stored_keys();
                CHECK(whole == (pair->tokens_per_group() == 0
                                    ? count
                                    : count / pair->tokens_per_group() * pair->tokens_per_group()));
                matrix got(whole, o.head_size), got_values(count, o.value_size);
                s->read_keys(0, 0, got);
                s->read_values(0, 0, got_values);
                CHECK(
                    same_bits(got.at, {keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(whole * o.head_size)}));
                CHECK(same_bits(got_values.at, values));
                // What waits is as it came.
                matrix waiting(count - whole, o.head_size);
                s->read_keys(0, whole, waiting);
                CHECK(same_bits(waiting.at,
                                {k.at.begin() + static_cast<std::ptrdiff_t>(whole * o.head_size), k.at.end()}));
            }
        }
}

TEST_CASE("what is stored does not depend on how many tokens come at once, nor on the threads") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            const tokens t(o, 300, 2);
            const auto all = pair->make(o);
            t.append_to(*all);
            const contents want = contents_of(*all);
            for (const std::size_t chunk : {1u, 3u, 16u, 100u}) {
                INFO(pair->name() << " in chunks of " << chunk);
                const auto s = pair->make(o);
                while (s->size() < 300) {
                    const std::size_t n = std::min(chunk, 300 - s->size());
                    const std::size_t before = s->available();
                    const std::size_t needed = s->pages_needed(n);
                    s->append(t.k.part(s->size(), n), t.v.part(s->size(), n), test_executor{1 + chunk % 3});
                    CHECK(before - s->available() == needed);
                }
                const std::size_t available = s->available();
                s->flush(test_executor{1 + chunk % 3});
                CHECK(s->available() == available);
                CHECK(contents_of(*s) == want);
            }
        }
}

TEST_CASE("a fork shares its pages until one of the two writes to them") {
    for (const auto& pair : kv_pairs())
        for (auto o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            o.pages = 40;
            const std::size_t common = 150;
            const tokens a(o, 250, 3);
            tokens b(o, 250, 4);
            std::copy_n(a.k.at.begin(), common * a.k.cols, b.k.at.begin());
            std::copy_n(a.v.at.begin(), common * a.v.cols, b.v.at.begin());
            const auto parent = pair->make(o);
            a.append_to(*parent, 0, common);
            const contents before = contents_of(*parent);
            const std::size_t available = parent->available();
            auto child = parent->fork();
            CHECK(parent->available() == available);
            for (std::size_t i = 0; i < parent->page_count(); ++i) CHECK(parent->owners(i) == 2);
            CHECK(contents_of(*child) == before);
            b.append_rest(*child, 7);
            CHECK(contents_of(*parent) == before);
            CHECK(parent->owners(0) == 2);
            a.append_rest(*parent, 100);
            // Each is as if it were alone.
            const auto alone_a = pair->make(o);
            a.append_to(*alone_a);
            const auto alone_b = pair->make(o);
            b.append_to(*alone_b);
            CHECK(contents_of(*parent) == contents_of(*alone_a));
            CHECK(contents_of(*child) == contents_of(*alone_b));
            const std::size_t held = child->available();
            child.reset();
            CHECK(parent->available() > held);
            CHECK(parent->owners(0) == 1);
            CHECK(contents_of(*parent) == contents_of(*alone_a));
        }
}

TEST_CASE("tokens that were taken back leave no trace") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            const tokens t(o, 260, 5);
            tokens other(o, 260, 6);
            other.k.row(200)[3] = not_a_number;
            other.v.row(201)[3] = not_a_number;
            for (const std::size_t kept : {0u, 3u, 130u, 191u, 192u, 193u, 200u}) {
                const auto want = pair->make(o);
                t.append_to(*want, 0, kept);
                const contents short_one = contents_of(*want);
                t.append_rest(*want, 50);
                for (const std::size_t back : {1u, 2u, 10u, 16u}) {
                    INFO(pair->name() << " back " << back << " to " << kept);
                    const auto s = pair->make(o);
                    t.append_to(*s, 0, kept);
                    other.append_to(*s, kept, back);
                    REQUIRE(s->can_truncate(kept));
                    s->truncate(kept);
                    CHECK(contents_of(*s) == short_one);
                    t.append_rest(*s, 50);
                    CHECK(contents_of(*s) == contents_of(*want));
                }
            }
        }
}

TEST_CASE("tokens cannot be taken back once their fp32 numbers are gone, also not in several steps") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        nb::kv_cache_options o = full_options(*pair);
        o.rollback = 11;
        const tokens t(o, 300, 7);
        for (std::size_t back = 1; back <= 60; ++back) {
            const auto s = pair->make(o);
            t.append_to(*s, 0, 299);
            const contents before = contents_of(*s);
            if (back <= o.rollback) REQUIRE(s->can_truncate(299 - back));
            if (!s->can_truncate(299 - back)) {
                CHECK(broken_by([&] { s->truncate(299 - back); }).find("rollback") != std::string::npos);
                CHECK(contents_of(*s) == before);
            }
        }
        // Whatever can_truncate allows gives the same as never having gone further.
        const auto s = pair->make(o);
        t.append_to(*s);
        std::size_t steps = 0;
        for (std::size_t count = 299; count > 200; --count) {
            if (!s->can_truncate(count)) break;
            s->truncate(count);
            ++steps;
            const auto want = pair->make(o);
            t.append_to(*want, 0, count);
            if (!(contents_of(*s) == contents_of(*want))) {
                FAIL_CHECK("after " << steps << " steps back");
                break;
            }
        }
        CHECK(steps >= o.rollback);
        CHECK(broken_by([&] { s->truncate(s->size() + 1); }).find("truncate") != std::string::npos);
        s->truncate(0);
        t.append_to(*s);
        const auto again = pair->make(o);
        t.append_to(*again);
        CHECK(contents_of(*s) == contents_of(*again));
    }
}

TEST_CASE("a shared page that was shortened holds nothing of what was taken back") {
    for (const auto& pair : kv_pairs())
        for (auto o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            o.pages = 40;
            const tokens t(o, 260, 8);
            tokens bad = t;
            for (std::size_t row = 130; row < 140; ++row) bad.k.row(row)[1] = bad.v.row(row)[1] = not_a_number;
            const std::size_t kept = 129;
            const std::size_t end = 140;
            auto parent = pair->make(o);
            bad.append_to(*parent, 0, end);
            const auto child = parent->fork();
            child->truncate(kept);
            parent.reset(); // its pages are the child's alone now
            t.append_rest(*child, 40);
            const auto want = pair->make(o);
            t.append_to(*want);
            CHECK(contents_of(*child) == contents_of(*want));
        }
}

TEST_CASE("pages before a position are given back, and the rest stays as it was") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            const tokens t(o, 300, 9);
            const auto s = pair->make(o);
            t.append_to(*s);
            const auto whole = pair->make(o);
            t.append_to(*whole);
            const std::size_t available = s->available();
            s->evict_before(170);
            const std::size_t stored = std::min({s->stored_keys(), s->stored_values(), std::size_t{170}});
            const std::size_t pages = stored / o.page_tokens;
            CHECK(s->begin() == pages * o.page_tokens);
            CHECK(s->available() == available + pages);
            for (std::size_t i = 0; i < s->page_count(); ++i) {
                CHECK(s->has_page(i) == (i >= pages));
                if (i >= pages) CHECK(s->save_page(i) == whole->save_page(i));
            }
            matrix one(1, o.head_size), other(1, o.head_size);
            if (o.sinks != 0) {
                s->read_keys(1, 0, one);
                CHECK(same_bits(one.at, {t.k.row(0) + o.head_size, t.k.row(0) + 2 * o.head_size}));
            }
            if (s->begin() > o.sinks)
                CHECK(broken_by([&] { s->read_keys(0, s->begin() - 1, one); }).find("evicted") != std::string::npos);
            s->read_keys(1, s->begin(), one);
            whole->read_keys(1, s->begin(), other);
            CHECK(same_bits(one.at, other.at));
            CHECK(broken_by([&] { s->evict_before(301); }).find("evict_before") != std::string::npos);
        }
}

TEST_CASE("a dropped page comes back bit for bit, and nothing takes its place meanwhile") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            tokens t(o, 330, 10);
            t.k.row(3)[0] = infinite;
            const auto s = pair->make(o);
            t.append_to(*s, 0, 300);
            const contents before = contents_of(*s);
            const std::size_t last = s->page_count() - 1;
            for (const std::size_t i : {std::size_t{0}, last}) {
                const auto bytes = s->save_page(i);
                const std::size_t available = s->available();
                s->drop_page(i);
                CHECK(s->available() == available + 1);
                CHECK_FALSE(s->has_page(i));
                CHECK(broken_by([&] { s->drop_page(i); }).find("drop_page") != std::string::npos);
                CHECK(broken_by([&] { (void)s->save_page(i); }).find("save_page") != std::string::npos);
                matrix k(1, o.head_size), v(1, o.value_size);
                const std::size_t at = std::max(i * o.page_tokens, i == 0 ? o.sinks : 0);
                if (at < s->stored_keys())
                    CHECK(broken_by([&] { s->read_keys(0, at, k); }).find("dropped") != std::string::npos);
                if (at < s->stored_values())
                    CHECK(broken_by([&] { s->read_values(0, at, v); }).find("dropped") != std::string::npos);
                if (i == last && s->pages_needed(30) != 0)
                    CHECK(broken_by([&] { t.append_to(*s, 300, 30); }).find("dropped") != std::string::npos);
                CHECK(broken_by([&] { s->restore_page(i, std::vector<std::byte>(3)); }).find("bytes") !=
                      std::string::npos);
                s->restore_page(i, bytes);
                CHECK(contents_of(*s) == before);
                CHECK(broken_by([&] { s->restore_page(i, bytes); }).find("restore_page") != std::string::npos);
            }
        }
}

TEST_CASE("a page that is restored after tokens were taken back holds nothing of them") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            const tokens t(o, 330, 14);
            tokens bad = t;
            bad.k.row(300)[0] = bad.v.row(300)[0] = not_a_number;
            const auto s = pair->make(o);
            bad.append_to(*s, 0, 310);
            const std::size_t last = s->page_count() - 1;
            const auto bytes = s->save_page(last);
            s->drop_page(last);
            s->truncate(299);
            if (s->page_count() <= last) continue;
            s->restore_page(last, bytes);
            t.append_rest(*s, 10);
            const auto want = pair->make(o);
            t.append_to(*want);
            CHECK(contents_of(*s) == contents_of(*want));
        }
}

TEST_CASE("numbers that are not finite are marked, and leave those of other tokens alone") {
    for (const auto& pair : kv_pairs())
        for (const auto& o : {small_options(*pair), full_options(*pair)}) {
            INFO(pair->name());
            const tokens t(o, 300, 11);
            tokens bad = t;
            const std::vector<std::size_t> keys{0, 2, 100, 290, 299};
            const std::vector<std::size_t> values{1, 2, 101, 270, 298};
            for (const std::size_t i : keys) bad.k.row(i)[o.head_size + 5] = i % 2 == 0 ? not_a_number : -infinite;
            for (const std::size_t i : values) bad.v.row(i)[o.value_size + 7] = i % 2 == 0 ? not_a_number : infinite;
            // As if those numbers had been zeros.
            tokens zeros = t;
            for (const std::size_t i : keys) zeros.k.row(i)[o.head_size + 5] = 0.0f;
            for (const std::size_t i : values) zeros.v.row(i)[o.value_size + 7] = 0.0f;
            const auto s = pair->make(o);
            bad.append_rest(*s, 17);
            const auto clean = pair->make(o);
            zeros.append_to(*clean);
            for (std::size_t h = 0; h < o.heads; ++h)
                for (std::size_t i = 0; i < 300; ++i) {
                    matrix k(1, o.head_size), v(1, o.value_size), clean_k(1, o.head_size), clean_v(1, o.value_size);
                    s->read_keys(h, i, k);
                    s->read_values(h, i, v);
                    clean->read_keys(h, i, clean_k);
                    clean->read_values(h, i, clean_v);
                    const bool bad_key = h == 1 && std::count(keys.begin(), keys.end(), i) != 0;
                    const bool bad_value = h == 1 && std::count(values.begin(), values.end(), i) != 0;
                    const auto all_nan = [](const matrix& x) {
                        return std::all_of(x.at.begin(), x.at.end(), [](float y) { return std::isnan(y); });
                    };
                    if (bad_key ? !all_nan(k) : !same_bits(k.at, clean_k.at)) FAIL_CHECK("key " << i);
                    if (bad_value ? !all_nan(v) : !same_bits(v.at, clean_v.at)) FAIL_CHECK("value " << i);
                }
        }
}

TEST_CASE("of T tokens, T mod R keys and the newest R values are in fp32, as KIVI has it") {
    for (const auto& pair : kv_pairs()) {
        if (pair->tokens_per_group() == 0) continue;
        for (const std::size_t residual :
             {pair->tokens_per_group(), 2 * pair->tokens_per_group(), 3 * pair->tokens_per_group()}) {
            INFO(pair->name() << " R = " << residual);
            nb::kv_cache_options o = small_options(*pair);
            o.heads = 1;
            o.head_size = 8;
            o.value_size = 16;
            o.page_tokens = pair->tokens_per_group() * (pair->tokens_per_group() == 128 ? 1 : 2);
            o.key_flush = residual;
            o.value_window = residual;
            const tokens t(o, 400, 12);
            const auto s = pair->make(o);
            for (std::size_t n = 1; n <= 400; ++n) {
                s->append(t.k.part(n - 1, 1), t.v.part(n - 1, 1));
                // Its own query meets the token in fp32, and all that were there in fp32 before it.
                const std::size_t before = (n - 1) % residual + 1;
                if (s->size() - s->stored_keys() != before ||
                    s->size() - s->stored_values() != std::min(n, residual + 1)) {
                    FAIL_CHECK("T = " << n << " before it is stored");
                    break;
                }
                s->flush();
                const std::size_t keys = n % residual;
                const std::size_t values = std::min(n, residual);
                if (s->size() - s->stored_keys() != keys || s->size() - s->stored_values() != values) {
                    FAIL_CHECK("T = " << n);
                    break;
                }
                if (n % 37 != 0 && n != residual) continue;
                matrix k(keys, o.head_size), v(values, o.value_size);
                s->read_keys(0, n - keys, k);
                s->read_values(0, n - values, v);
                CHECK(std::equal(k.at.begin(), k.at.end(), t.k.row(n - keys)));
                CHECK(std::equal(v.at.begin(), v.at.end(), t.v.row(n - values)));
            }
        }
    }
}

TEST_CASE("what does not fit is refused, and the cache stays as it was") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        nb::kv_cache_options o = full_options(*pair);
        o.capacity = 200;
        const tokens t(o, 260, 13);
        const auto s = pair->make(o);
        t.append_to(*s, 0, 150);
        const contents before = contents_of(*s);
        CHECK(broken_by([&] { t.append_to(*s, 150, 51); }).find("capacity") != std::string::npos);
        CHECK(broken_by([&] { s->append(t.k.part(0, 3), t.v.part(0, 2)); }).find("as many") != std::string::npos);
        CHECK(broken_by([&] {
                  s->append({t.k.at.data(), 2, o.head_size}, t.v.part(0, 2));
              }).find("all heads") != std::string::npos);
        CHECK(broken_by([&] {
                  s->append(t.k.part(0, 2), {t.v.at.data(), 2, 1});
              }).find("all heads") != std::string::npos);
        CHECK(contents_of(*s) == before);
        s->append({}, {});
        CHECK(contents_of(*s) == before);
        // Another sequence of the same pages takes what is left.
        const auto other = s->beside();
        std::size_t n = 0;
        while (other->size() < 200 && other->pages_needed(1) <= other->available()) t.append_to(*other, n++, 1);
        const contents filled = contents_of(*other);
        if (other->size() < 200) {
            CHECK(broken_by([&] { t.append_to(*other, n, 1); }).find("no page left") != std::string::npos);
            CHECK(contents_of(*other) == filled);
        }
        CHECK(contents_of(*s) == before);
    }
}

TEST_CASE("options that make no sense are refused with what to do") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        const auto refused = [&](auto&& change) {
            nb::kv_cache_options o = small_options(*pair);
            change(o);
            return broken_by([&] { (void)pair->make(o); });
        };
        CHECK(refused([](auto&) {}).empty());
        CHECK(refused([](auto& o) { o.heads = 0; }).find("heads") != std::string::npos);
        CHECK(refused([](auto& o) { o.heads = 65537; }).find("heads") != std::string::npos);
        CHECK(refused([](auto& o) { o.head_size = 0; }).find("channels") != std::string::npos);
        CHECK(refused([](auto& o) { o.head_size = 1025; }).find("channels") != std::string::npos);
        CHECK(refused([](auto& o) { o.value_size = 1025; }).find("channels") != std::string::npos);
        for (const std::size_t size : {0u, 8u, 48u, 512u})
            CHECK(refused([&](auto& o) { o.page_tokens = size; }).find("page") != std::string::npos);
        CHECK(refused([](auto& o) { o.key_window = o.capacity + 1; }).find("capacity") != std::string::npos);
        CHECK(refused([](auto& o) { o.value_window = o.capacity + 1; }).find("capacity") != std::string::npos);
        CHECK(refused([](auto& o) { o.sinks = o.capacity + 1; }).find("capacity") != std::string::npos);
        CHECK(refused([](auto& o) { o.key_flush = std::size_t{1} << 30; }).find("capacity") != std::string::npos);
        CHECK(refused([](auto& o) { o.rollback = o.capacity + 1; }).find("capacity") != std::string::npos);
        CHECK(refused([](auto& o) { o.capacity = std::size_t{1} << 40; }).find("2^31") != std::string::npos);
        CHECK(refused([](auto& o) { o.pages = std::size_t{1} << 60; }).find("address space") != std::string::npos);
        for (const float scale : {0.0f, -1.0f, not_a_number, infinite}) {
            CHECK(refused([&](auto& o) { o.key_scale = scale; }).find("key_scale") != std::string::npos);
            CHECK(refused([&](auto& o) { o.value_scale = scale; }).find("value_scale") != std::string::npos);
        }
        if (pair->tokens_per_group() > 16)
            CHECK(refused([&](auto& o) { o.page_tokens = 16; }).find("multiple of the group") != std::string::npos);
        if (pair->tokens_per_group() != 0)
            CHECK(refused([&](auto& o) { o.key_flush = 17; }).find("multiple of the group") != std::string::npos);
    }
}
