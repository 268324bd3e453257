// any_cache.cpp: caches whose formats are chosen by name, against kv_cache of the same formats, to the bit.
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"

#include <nibble/any_kv_cache.hpp>
#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;
using nibble_test::test_executor;

namespace {

template <class... Lists> struct joined;
template <class... A> struct joined<nb::format_list<A...>> {
    using type = nb::format_list<A...>;
};
template <class... A, class... B, class... Rest> struct joined<nb::format_list<A...>, nb::format_list<B...>, Rest...> {
    using type = typename joined<nb::format_list<A..., B...>, Rest...>::type;
};

// Products with these are of one kind: in fp32, of bytes or of words.
template <class A, class B>
inline constexpr bool multiply_alike = nb::detail::integer_mapping_of<typename A::scheme::element_type>.exists ==
                                           nb::detail::integer_mapping_of<typename B::scheme::element_type>.exists &&
                                       nb::detail::fits_int16_sums<typename A::scheme::element_type> ==
                                           nb::detail::fits_int16_sums<typename B::scheme::element_type>;

// The first format of each such kind that a cache can store.
template <class... Formats, std::size_t... Index>
[[nodiscard]] auto first_of_kinds(nb::format_list<Formats...>, std::index_sequence<Index...>) {
    constexpr auto first = []<class Format, std::size_t At>() {
        bool is = nb::value_scheme<typename Format::scheme>;
        ((is = is && !(Index < At && nb::value_scheme<typename Formats::scheme> && multiply_alike<Format, Formats>)),
         ...);
        return is;
    };
    return typename joined<std::conditional_t<first.template operator()<Formats, Index>(), nb::format_list<Formats>,
                                              nb::format_list<>>...>::type{};
}
using kinds = decltype(first_of_kinds(nb::all_formats{}, std::make_index_sequence<nb::all_formats::size>{}));
// And what differs in its scales and places.
using key_formats = typename joined<
    kinds,
    nb::format_list<nb::named_format<"int4_g32_min", nb::int4_g32_min>,
                    nb::named_cache_format<"int4_g32_min_along_tokens", nb::along_tokens<nb::int4_g32_min>>>>::type;
using value_formats =
    typename joined<kinds, nb::format_list<nb::named_format<"int4_g32_min", nb::int4_g32_min>,
                                           nb::named_cache_format<"prefix", nb::prefix_of_keys>>>::type;
using any_cache = nb::any_kv_cache<key_formats, value_formats>;

// Everything that a cache gives away, one number after the other.
struct record {
    std::vector<float> numbers;
    std::vector<std::byte> bytes;
    std::vector<std::size_t> counts;
    void add(const matrix& m) { numbers.insert(numbers.end(), m.at.begin(), m.at.end()); }
    [[nodiscard]] bool operator==(const record& other) const {
        return numbers.size() == other.numbers.size() &&
               std::memcmp(numbers.data(), other.numbers.data(), numbers.size() * sizeof(float)) == 0 &&
               bytes == other.bytes && counts == other.counts;
    }
};

// A life of two sequences that share pages: prompt, fork, decoding, tokens taken back, pages saved, dropped, restored.
template <class Cache> record live(Cache a, const nb::kv_transform& of_keys) {
    const nb::kv_cache_options& o = a.options();
    const bool values = a.memory().stores_values();
    const tokens t(o, 200, 11);
    record r;
    const test_executor threads{2};
    const auto append = [&](Cache& to, std::size_t first, std::size_t count) {
        if constexpr (requires { to.append(t.k.part(0, 0), t.v.part(0, 0), threads); })
            if (values) return to.append(t.k.part(first, count), t.v.part(first, count), threads);
        if constexpr (requires { to.append(t.k.part(0, 0), threads); })
            if (!values) return to.append(t.k.part(first, count), threads);
    };
    const auto attend = [&](const Cache& from, std::size_t queries) {
        const std::size_t heads = 2 * o.heads;
        const matrix q = matrix::normal(queries, heads * o.head_size, 5);
        for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                     nb::attention_precision::integer}) {
            matrix out(queries, heads * o.value_size), sums(queries, heads), mass(o.heads, from.size());
            nb::workspace scratch;
            nb::attend_options options{.log_sums = sums, .precision = precision, .workspace = &scratch};
            nb::attend(q, from, out, options, threads);
            nb::attention_mass(q, from, sums, mass, options, threads);
            r.add(out);
            r.add(sums);
            r.add(mass);
            r.counts.push_back(nb::attend_workspace_bytes(from, queries, heads, 2, options));
        }
    };
    const auto read = [&](const Cache& from) {
        matrix k(from.size(), o.head_size), v(from.size(), o.value_size);
        for (std::size_t h = 0; h < o.heads; ++h) {
            from.read_keys(h, 0, k);
            from.read_values(h, 0, v);
            r.add(k);
            r.add(v);
        }
    };
    a.set_key_transform(nb::make_shared<const nb::kv_transform>(of_keys));
    append(a, 0, 90);
    attend(a, 7);
    a.flush(threads);
    Cache b = a.fork();
    for (std::size_t i = 90; i < 100; ++i) append(b, i, 1);
    attend(b, 1);
    r.counts.push_back(b.can_truncate(95));
    b.truncate(95);
    append(b, 150, 20);
    append(a, 100, 30);
    attend(a, 3);
    attend(b, 20);
    b.flush();
    std::vector<std::byte> page(b.pages()->page_bytes());
    for (std::size_t i = 0; i < b.page_count(); ++i) {
        b.save_page(i, page);
        r.bytes.insert(r.bytes.end(), page.begin(), page.end());
        b.drop_page(i);
        b.restore_page(i, page);
    }
    read(a);
    read(b);
    r.counts.push_back(a.pages_needed(100));
    r.counts.push_back(a.pages()->available());
    b.clear();
    r.counts.push_back(a.pages()->available());
    return r;
}

nb::kv_cache_options small_options() {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 48;
    o.value_size = 32;
    o.capacity = 256;
    o.pages = 16;
    o.page_tokens = 32;
    o.sinks = 3;
    o.key_scale = o.value_scale = 0.02f;
    return o;
}

template <class Visit> void for_each_pair(Visit&& visit) {
    nb::for_each_format(key_formats{}, [&]<class Keys>() {
        nb::for_each_format(value_formats{}, [&]<class Values>() { visit.template operator()<Keys, Values>(); });
    });
}
// Of those one with each format, as keys and as values, which is all that is compiled by itself; and every prefix.
template <class Keys, class Values> [[nodiscard]] constexpr bool compared() {
    std::size_t at = 0, key = 0, value = 0;
    nb::for_each_format(key_formats{}, [&]<class F>() { std::is_same_v<F, Keys> ? key = at++ : at++; });
    at = 0;
    nb::for_each_format(value_formats{}, [&]<class F>() { std::is_same_v<F, Values> ? value = at++ : at++; });
    return value == (key + 1) % (value_formats::size - 1) || value + 1 == value_formats::size;
}

} // namespace

TEST_CASE("a cache of formats chosen by name does what kv_cache of these formats does, to the bit") {
    nb::kv_transform rotated;
    rotated.rotary.dims = 48;
    for_each_pair([&]<class Keys, class Values>() {
        using K = typename Keys::scheme;
        using V = typename Values::scheme;
        constexpr bool prefix = std::is_same_v<V, nb::prefix_of_keys>;
        any_cache any;
        const nb::status made = any_cache::make(Keys::name, Values::name, small_options(), any);
        if constexpr (!compared<Keys, Values>()) {
            CHECK(made.ok());
        } else if constexpr (!prefix || nb::detail::keys_with_prefix<K>) {
            REQUIRE(made.ok());
            CHECK(any.key_name() == Keys::name);
            CHECK(any.value_name() == Values::name);
            const record got = live(std::move(any), {});
            const record want = live(nb::kv_cache<K, V>(small_options()), {});
            INFO(Keys::name << " x " << Values::name);
            CHECK((got == want));
            if (std::is_same_v<V, nb::f32_plain> || prefix) {
                REQUIRE(any_cache::make(Keys::name, Values::name, small_options(), any).ok());
                CHECK((live(std::move(any), rotated) == live(nb::kv_cache<K, V>(small_options()), rotated)));
            }
        } else {
            CHECK(made.code() == nb::status_code::unsupported);
            CHECK(any.empty());
        }
    });
}

TEST_CASE("sequences in different formats are attended to in one call as in one each") {
    const nb::kv_cache_options o = small_options();
    std::vector<any_cache> caches;
    for_each_pair([&]<class Keys, class Values>() {
        if constexpr (!std::is_same_v<typename Values::scheme, nb::prefix_of_keys> ||
                      nb::detail::keys_with_prefix<typename Keys::scheme>) {
            any_cache& c = caches.emplace_back();
            REQUIRE(any_cache::make(Keys::name, Values::name, o, c).ok());
            const tokens t(o, 20 + 3 * caches.size() % 50, caches.size());
            if (c.memory().stores_values())
                c.append(t.k, t.v);
            else
                c.append(t.k);
        }
    });
    const std::size_t heads = 2 * o.heads;
    const matrix q = matrix::normal(2 * caches.size(), heads * o.head_size, 3);
    std::vector<nb::any_attended_sequence<key_formats, value_formats>> parts;
    for (std::size_t i = 0; i < caches.size(); ++i) parts.push_back({&caches[i], 2 * i, 2});
    for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer}) {
        nb::attend_options options{.precision = precision};
        matrix all(q.rows, heads * o.value_size), one(q.rows, heads * o.value_size);
        nb::workspace scratch(nb::attend_workspace_bytes(parts, heads, 2, options));
        options.workspace = &scratch;
        nb::attend(q, parts, all, options, test_executor{2});
        for (std::size_t i = 0; i < caches.size(); ++i)
            nb::attend(q.part(2 * i, 2), caches[i], view(one.row(2 * i), 2, one.cols), options);
        CHECK(std::memcmp(all.at.data(), one.at.data(), all.at.size() * sizeof(float)) == 0);
    }
}

TEST_CASE("names that a list lacks, and caches without pages, are refused with what to do") {
    any_cache cache;
    const nb::status keys = any_cache::make("int99", "f32", small_options(), cache);
    CHECK(keys.code() == nb::status_code::not_found);
    CHECK(keys.message().find("no format of keys 'int99'; there are f32, ") != std::string::npos);
    const nb::status values = any_cache::make("f32", "", small_options(), cache);
    CHECK(values.message().find("no format of values ''; there are ") != std::string::npos);
    CHECK(cache.empty());
    CHECK(cache.size() == 0);
    CHECK(cache.key_name().empty());
    CHECK(broken_by([&] { cache.append({nullptr, 0, 0}, {nullptr, 0, 0}); }).find("no pages") != std::string::npos);
    CHECK(broken_by([&] { (void)cache.fork(); }).find("no pages") != std::string::npos);
    float x[4] = {};
    CHECK(broken_by([&] { nb::attend({x, 1, 2}, cache, {x + 2, 1, 2}); }).find("needs its cache") != std::string::npos);

    REQUIRE(any_cache::make("f32", "f32", small_options(), cache).ok());
    const any_cache other = std::move(cache);
    CHECK(cache.empty());
    CHECK(other.value_name() == "f32");
    REQUIRE(any_cache::make("f32", "prefix", small_options(), cache).ok());
    const tokens t(small_options(), 2, 1);
    CHECK(broken_by([&] { cache.append(t.k, t.v); }).find("append keys alone") != std::string::npos);
    CHECK(broken_by([&] {
              cache.set_value_transform(nb::make_shared<const nb::kv_transform>());
          }).find("go through theirs") != std::string::npos);
    REQUIRE(any_cache::make("f32", "f32", small_options(), cache).ok());
    CHECK(broken_by([&] { cache.append(t.k); }).find("append them too") != std::string::npos);
}
