// storing.cpp: when the tokens of an append are stored: where it is the next append that does it, they attend to each
// other exactly, as the prefill of KIVI (Liu et al., 2024) has it; what depends on how a prompt is cut then, and what
// does not.
#include "support/attention_check.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"
#include "support/random.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

constexpr std::size_t size = 330;

// Windows and sinks by `kind`: none, a window of values (KIVI's for keys along tokens), all of them.
nb::kv_cache_options options_of(const kv_pair& pair, int kind) {
    nb::kv_cache_options o = options_for(pair, 2, 40, size);
    o.value_size = 56;
    o.storing = nb::kv_storing::at_next_append;
    if (kind >= 1) o.value_window = 40;
    if (kind == 2) {
        o.key_window = 21;
        o.sinks = 6;
    }
    return o;
}
void append(sequence& s, const tokens& t, std::size_t first, std::size_t count, std::size_t workers = 1) {
    s.append(t.k.part(first, count), t.v.part(first, count), test_executor{workers});
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
result attended(const sequence& s, const_view q, nb::attend_options options = {}) {
    const std::size_t heads = q.cols() / s.options().head_size;
    result r{matrix(q.rows(), heads * s.options().value_size, 3.0f), matrix(q.rows(), heads, 3.0f)};
    options.log_sums = r.sums;
    s.attend(q, r.out, options);
    return r;
}
// Of numbers as they are. (Sinks are summed by themselves.)
std::unique_ptr<sequence> exact_cache(nb::kv_cache_options o) {
    o.key_window = o.value_window = o.key_flush = 0;
    o.storing = nb::kv_storing::at_append;
    return exact_pair().make(o);
}
// All that a sequence holds once it is stored.
struct contents {
    std::vector<std::vector<std::byte>> pages;
    std::vector<float> read;
    friend bool operator==(const contents& a, const contents& b) {
        return a.pages == b.pages && a.read.size() == b.read.size() &&
               (a.read.empty() || std::memcmp(a.read.data(), b.read.data(), a.read.size() * sizeof(float)) == 0);
    }
};
contents contents_of(const sequence& s) {
    contents c;
    for (std::size_t i = 0; i < s.page_count(); ++i) c.pages.push_back(s.save_page(i));
    for (std::size_t h = 0; h < s.options().heads; ++h) {
        matrix k(s.size(), s.options().head_size), v(s.size(), s.options().value_size);
        s.read_keys(h, 0, k);
        s.read_values(h, 0, v);
        c.read.insert(c.read.end(), k.at.begin(), k.at.end());
        c.read.insert(c.read.end(), v.at.begin(), v.at.end());
    }
    return c;
}

// Memory that counts itself.
struct counted {
    std::size_t bytes = 0;
    nb::allocator from() {
        return {[](std::size_t n, std::size_t alignment, void* context) {
                    static_cast<counted*>(context)->bytes += n;
                    return ::operator new(n, std::align_val_t{alignment});
                },
                [](void* memory, std::size_t n, std::size_t alignment, void* context) {
                    static_cast<counted*>(context)->bytes -= n;
                    ::operator delete(memory, std::align_val_t{alignment});
                },
                this};
    }
};

// Keys as models have them: channels c mod 16 = 3 about +15 and -15 by turns.
tokens with_outlier_channels(const nb::kv_cache_options& o, std::size_t count, std::uint64_t seed) {
    tokens t(o, count, seed);
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t c = 3; c < t.k.cols; c += 16)
            t.k.row(i)[c] = (c % 32 == 3 ? 15.0f : -15.0f) + 2.0f * t.k.row(i)[c];
    return t;
}
double squares(const matrix& a, const matrix& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.at.size(); ++i) {
        const double d = static_cast<double>(a.at[i]) - static_cast<double>(b.at[i]);
        sum += d * d;
    }
    return sum;
}

} // namespace

TEST_CASE("the next append stores where something passes through a window or groups of tokens, unless told otherwise") {
    for (const auto& pair : kv_pairs()) {
        INFO(pair->name());
        nb::kv_cache_options o = options_for(*pair, 1, 16, 300);
        const auto resolved = [&](auto&& change) {
            nb::kv_cache_options changed = o;
            change(changed);
            return pair->make(changed)->options().storing;
        };
        using enum nb::kv_storing;
        const std::size_t group = pair->tokens_per_group();
        CHECK(resolved([](auto&) {}) == (group != 0 ? at_next_append : at_append));
        CHECK(resolved([](auto& c) { c.key_window = 1; }) == at_next_append);
        CHECK(resolved([](auto& c) { c.value_window = 1; }) == at_next_append);
        CHECK(resolved([&](auto& c) { c.key_flush = std::max<std::size_t>(group, 2); }) == at_next_append);
        CHECK(resolved([](auto& c) { c.sinks = 5; }) == (group != 0 ? at_next_append : at_append));
        for (const auto storing : {at_append, at_next_append})
            CHECK(resolved([&](auto& c) {
                      c.storing = storing;
                      c.value_window = 1;
                  }) == storing);
    }
}

TEST_CASE("a prompt attends to itself exactly, then is stored") {
    for (const auto& pair : kv_pairs())
        for (const int kind : {0, 1, 2}) {
            const nb::kv_cache_options o = options_of(*pair, kind);
            const tokens t = with_outlier_channels(o, size, 1);
            const matrix q = matrix::normal(size, 4 * o.head_size, 2);
            const auto exact = exact_cache(o);
            t.append_to(*exact);
            const auto s = pair->make(o);
            append(*s, t, 0, size, 3);
            for (const auto precision : precisions) {
                INFO(pair->name() << ", windows " << kind << ", precision " << static_cast<int>(precision));
                nb::attend_options options;
                options.precision = precision;
                CHECK((attended(*s, q, options) == attended(*exact, q, options)));
            }
            // What is read is what was given.
            for (std::size_t h = 0; h < o.heads; ++h) {
                matrix k(size, o.head_size);
                s->read_keys(h, 0, k);
                for (std::size_t i = 0; i < size; ++i)
                    if (std::memcmp(k.row(i), t.k.row(i) + h * o.head_size, o.head_size * sizeof(float)) != 0)
                        FAIL("key " << i);
            }
            // Stored, it is what the same tokens are that were stored as they came.
            nb::kv_cache_options at_once = o;
            at_once.storing = nb::kv_storing::at_append;
            const auto want = pair->make(at_once);
            append(*want, t, 0, size);
            s->flush();
            CHECK((contents_of(*s) == contents_of(*want)));
            CHECK((attended(*s, q) == attended(*want, q)));
        }
}

TEST_CASE("a query sees the tokens of its own append as they came, those before it as stored but for the windows") {
    for (const auto& pair : kv_pairs())
        for (const int kind : {0, 1, 2}) {
            const nb::kv_cache_options o = options_of(*pair, kind);
            const tokens t = with_outlier_channels(o, size, 3);
            const matrix q = matrix::normal(size, 4 * o.head_size, 4);
            for (const std::size_t chunk : {1u, 50u, 128u}) {
                if (chunk == 1 && nibble_test::kinds_only && kind != 1) continue;
                const auto s = pair->make(o);
                const auto stored = pair->make(o); // all before the chunk, stored
                for (std::size_t first = 0; first < size; first += chunk) {
                    const std::size_t count = std::min(chunk, size - first);
                    append(*s, t, first, count, 1 + first % 2);
                    if (chunk != 1 || first % 37 == 0) {
                        CHECK(s->stored_keys() == stored->stored_keys());
                        CHECK(s->stored_values() == stored->stored_values());
                        // The same numbers in a cache of fp32.
                        matrix k = t.k, v = t.v;
                        for (std::size_t h = 0; h < o.heads && first != 0; ++h) {
                            matrix keys(first, o.head_size), values(first, o.value_size);
                            stored->read_keys(h, 0, keys);
                            stored->read_values(h, 0, values);
                            for (std::size_t i = 0; i < first; ++i) {
                                std::copy_n(keys.row(i), o.head_size, k.row(i) + h * o.head_size);
                                std::copy_n(values.row(i), o.value_size, v.row(i) + h * o.value_size);
                            }
                        }
                        const auto same = exact_cache(o);
                        same->append(k.part(0, first + count), v.part(0, first + count));
                        for (const auto precision : precisions) {
                            nb::attend_options options;
                            options.precision = precision;
                            const auto want = attend_by_definition(
                                *same, q.part(first, count), options,
                                precision != nb::attention_precision::fp32 && pair->integer_keys(),
                                precision == nb::attention_precision::integer && pair->integer_values(),
                                pair->tokens_per_group() != 0, 0);
                            const std::string wrong = outside(want, attended(*s, q.part(first, count), options).out);
                            if (!wrong.empty())
                                FAIL_CHECK(pair->name() << " windows " << kind << " chunk " << chunk << ": " << wrong);
                        }
                    }
                    t.append_to(*stored, first, count);
                }
            }
        }
    SUCCEED();
}

TEST_CASE("without windows and groups of tokens nothing depends on how a prompt is cut") {
    for (const auto& pair : kv_pairs()) {
        if (pair->tokens_per_group() != 0) continue;
        INFO(pair->name());
        nb::kv_cache_options o = options_of(*pair, 0);
        o.storing = nb::kv_storing::automatic;
        const tokens t(o, size, 5);
        const matrix q = matrix::normal(size, 4 * o.head_size, 6);
        const auto whole = pair->make(o);
        append(*whole, t, 0, size);
        const result want = attended(*whole, q);
        const auto s = pair->make(o);
        for (std::size_t first = 0; first < size; first += 47) {
            const std::size_t count = std::min<std::size_t>(47, size - first);
            append(*s, t, first, count);
            const result got = attended(*s, q.part(first, count));
            CHECK(std::memcmp(got.out.at.data(), want.out.row(first), got.out.at.size() * sizeof(float)) == 0);
        }
        CHECK((contents_of(*s) == contents_of(*whole)));
    }
}

TEST_CASE("2-bit keys and values spoil no prompt that comes at once, and less of one the fewer its pieces are") {
    using two_bits = nb::scheme<nb::unsigned_integer<2>, nb::per_group<32>, nb::scale<nb::f16>, nb::minimum<nb::f16>>;
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 64;
    o.capacity = 512;
    o.key_flush = o.value_window = 64;
    const tokens t = with_outlier_channels(o, 512, 7);
    const matrix q = matrix::normal(512, 4 * 64, 8);
    const auto whole = exact_cache(o);
    t.append_to(*whole);
    const matrix exact = attended(*whole, q).out;
    const auto error = [&](nb::kv_storing storing, std::size_t chunk) {
        nb::kv_cache_options cut = o;
        cut.storing = storing;
        nb::kv_cache<nb::along_tokens<two_bits>, two_bits> cache(cut);
        matrix out(512, 4 * 64);
        for (std::size_t first = 0; first < 512; first += chunk) {
            cache.append(t.k.part(first, chunk), t.v.part(first, chunk));
            nb::attend(q.part(first, chunk), cache, view(out.row(first), chunk, out.cols));
        }
        return squares(out, exact) / squares(exact, matrix(512, 4 * 64));
    };
    using enum nb::kv_storing;
    const std::array errors{error(automatic, 512), error(automatic, 256), error(automatic, 128), error(automatic, 1)};
    const double at_once = error(at_append, 512);
    INFO(errors[0] << ", " << errors[1] << ", " << errors[2] << ", token by token " << errors[3]
                   << "; stored before it is seen " << at_once);
    CHECK(errors[0] == 0.0);
    CHECK(errors[1] > 0.0);
    CHECK(errors[2] > errors[1]);
    CHECK(errors[3] > errors[2]);
    CHECK(at_once > errors[3]);
}

TEST_CASE("tokens that are not stored yet are forked, taken back, kept from eviction and transformed") {
    for (const auto& pair : kv_pairs())
        for (const int kind : {0, 1, 2}) {
            nb::kv_cache_options o = options_of(*pair, kind);
            o.pages = 60;
            o.rollback = 3;
            const tokens t(o, size, 9);
            const matrix q = matrix::normal(5, 4 * o.head_size, 10);
            for (const transforms& through : all_transforms(o, t)) {
                if (nibble_test::kinds_only && kind != 2 && through.name != "all") continue;
                INFO(pair->name() << ", windows " << kind << ", " << through.name);
                const auto make = [&] {
                    auto s = pair->make(o);
                    through.set(*s);
                    return s;
                };
                const auto s = make();
                append(*s, t, 0, 200);
                append(*s, t, 200, 100);
                const result before = attended(*s, q);
                const auto copy = s->fork();
                CHECK((attended(*copy, q) == before));
                // Storing them takes pages of one's own only where they are shared.
                const std::size_t available = s->available();
                const std::size_t needed = s->pages_needed(0);
                s->flush();
                CHECK(available - s->available() == needed);
                CHECK(copy->pages_needed(0) == 0);
                CHECK((attended(*copy, q) == before));
                copy->flush();
                CHECK((contents_of(*copy) == contents_of(*s)));
                // Of the last append any number goes back, whatever options.rollback says; what is left waits as it
                // did.
                for (const std::size_t left : {99u, 30u, 1u, 0u}) {
                    const auto long_one = make(), short_one = make();
                    append(*long_one, t, 0, 200);
                    append(*short_one, t, 0, 200);
                    append(*long_one, t, 200, 100);
                    append(*short_one, t, 200, left);
                    REQUIRE(long_one->can_truncate(200 + left));
                    long_one->truncate(200 + left);
                    if (left == 0) short_one->flush();
                    CHECK(long_one->stored_keys() == short_one->stored_keys());
                    CHECK((attended(*long_one, q) == attended(*short_one, q)));
                    append(*long_one, t, 200 + left, 100 - left);
                    append(*short_one, t, 200 + left, 100 - left);
                    CHECK((attended(*long_one, q) == attended(*short_one, q)));
                    long_one->flush();
                    CHECK((contents_of(*long_one) == contents_of(*s)));
                }
                // Pages that wait for their numbers stay.
                const auto evicted = make();
                append(*evicted, t, 0, 200);
                append(*evicted, t, 200, 100);
                evicted->evict_before(300);
                CHECK(evicted->begin() <= std::min(evicted->stored_keys(), evicted->stored_values()));
                evicted->flush();
                for (std::size_t i = 0; i < evicted->page_count(); ++i)
                    if (evicted->has_page(i)) CHECK((evicted->save_page(i) == s->save_page(i)));
                // A page that was given away meanwhile is wanted back before they are stored.
                const auto dropped = make();
                append(*dropped, t, 0, 300);
                if (dropped->page_count() == 0) continue;
                const result waiting = attended(*dropped, q);
                const auto bytes = dropped->save_page(0);
                dropped->drop_page(0);
                CHECK((attended(*dropped, q) == waiting));
                CHECK(broken_by([&] { dropped->flush(); }).find("dropped") != std::string::npos);
                CHECK(broken_by([&] { append(*dropped, t, 300, 1); }).find("dropped") != std::string::npos);
                dropped->restore_page(0, bytes);
                dropped->flush();
                CHECK((contents_of(*dropped) == contents_of(*s)));
            }
        }
}

TEST_CASE("numbers that are not finite stay marked when they are stored later") {
    const float not_a_number = std::numeric_limits<float>::quiet_NaN();
    for (const auto& pair : kv_pairs())
        for (const int kind : {0, 1, 2}) {
            INFO(pair->name() << ", windows " << kind);
            const nb::kv_cache_options o = options_of(*pair, kind);
            tokens t(o, size, 11);
            t.k.row(20)[5] = t.k.row(300)[o.head_size + 1] = not_a_number;
            t.v.row(100)[o.value_size + 3] = t.v.row(329)[0] = std::numeric_limits<float>::infinity();
            nb::kv_cache_options at_once = o;
            at_once.storing = nb::kv_storing::at_append;
            const auto want = pair->make(at_once);
            append(*want, t, 0, size);
            const auto s = pair->make(o);
            append(*s, t, 0, 150);
            append(*s, t, 150, size - 150);
            const matrix q = matrix::normal(3, 4 * o.head_size, 12);
            check(*pair, *s, q, {}, "waiting");
            s->flush();
            CHECK((contents_of(*s) == contents_of(*want)));
            check(*pair, *s, q, {}, "stored");
        }
}

TEST_CASE("a long append has memory of its own until the next one, or flush, gives it back") {
    for (const auto& pair : kv_pairs())
        for (const int kind : {0, 1, 2}) {
            INFO(pair->name() << ", windows " << kind);
            nb::kv_cache_options o = options_of(*pair, kind);
            o.prompt_tokens = 32;
            o.rollback = 0;
            const tokens t(o, size, 13);
            counted memory;
            const auto s = pair->make(o, memory.from());
            const std::size_t made = memory.bytes;
            append(*s, t, 0, 32);
            append(*s, t, 32, 1);
            CHECK(memory.bytes == made);
            append(*s, t, 33, 120);
            const std::size_t numbers = 120 * o.heads * (o.head_size + o.value_size) * sizeof(float);
            CHECK(memory.bytes >= made + numbers);
            append(*s, t, 153, 70);
            append(*s, t, 223, 1);
            CHECK(memory.bytes == made);
            append(*s, t, 224, size - 224);
            CHECK(memory.bytes > made);
            s->flush();
            CHECK(memory.bytes == made);
            const auto whole = pair->make(o);
            t.append_to(*whole);
            CHECK((contents_of(*s) == contents_of(*whole)));
            s->truncate(0);
            append(*s, t, 0, size);
            CHECK(memory.bytes > made);
            s->truncate(0);
            CHECK(memory.bytes == made);
        }
}
