// pages.cpp: where the pages of a sequence lie: side by side, head by head, in nobody else's memory.
#include "support/catch.hpp"

#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace nb = nibble;

namespace {

template <class Keys, class Values> struct fixture {
    using pages_type = nb::kv_pages<Keys, Values>;
    nb::kv_cache_options options{
        .heads = 3, .head_size = 40, .value_size = 24, .capacity = 160, .pages = 7, .page_tokens = 32};
    std::shared_ptr<pages_type> pages = std::make_shared<pages_type>(options);

    [[nodiscard]] nb::kv_cache<Keys, Values> sequence(std::size_t tokens) const {
        nb::kv_cache<Keys, Values> s(pages);
        std::vector<float> k(tokens * options.heads * options.head_size),
            v(tokens * options.heads * options.value_size);
        for (std::size_t i = 0; i < k.size(); ++i) k[i] = static_cast<float>(i % 251) - 125.0f;
        for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 241) - 120.0f;
        s.append(nb::matrix_view<const float>(k.data(), tokens, options.heads * options.head_size),
                 nb::matrix_view<const float>(v.data(), tokens, options.heads * options.value_size));
        return s;
    }
};
template <class Cache> std::vector<std::uint32_t> numbers_of(const Cache& s) {
    std::vector<std::uint32_t> n;
    for (std::size_t i = 0; i < s.page_count(); ++i) n.push_back(s.page(i));
    return n;
}
using numbers = std::vector<std::uint32_t>;

template <class Keys, class Values> void check_places() {
    const fixture<Keys, Values> f;
    struct part {
        const std::byte* begin;
        std::size_t bytes;
    };
    std::vector<part> parts;
    for (std::uint32_t page = 0; page < f.options.pages; ++page)
        for (std::size_t h = 0; h < f.options.heads; ++h) {
            parts.push_back({f.pages->keys_of(page, h), f.pages->keys().bytes});
            if constexpr (fixture<Keys, Values>::pages_type::stores_values)
                parts.push_back({f.pages->values_of(page, h), f.pages->values().bytes});
            else
                CHECK(f.pages->values_of(page, h) == f.pages->keys_of(page, h));
            parts.push_back({reinterpret_cast<const std::byte*>(f.pages->nonfinite(page, h)), f.options.page_tokens});
            if (page == 0) continue;
            CHECK(f.pages->keys_of(page, h) == f.pages->keys_of(page - 1, h) + f.pages->keys().bytes);
            if constexpr (fixture<Keys, Values>::pages_type::stores_values)
                CHECK(f.pages->values_of(page, h) == f.pages->values_of(page - 1, h) + f.pages->values().bytes);
        }
    std::sort(parts.begin(), parts.end(), [](const part& a, const part& b) { return a.begin < b.begin; });
    for (std::size_t i = 0; i < parts.size(); ++i) {
        CHECK(reinterpret_cast<std::uintptr_t>(parts[i].begin) % 64 == 0);
        if (i != 0) CHECK(parts[i - 1].begin + parts[i - 1].bytes <= parts[i].begin);
    }
    CHECK(parts.back().begin + parts.back().bytes <= parts.front().begin + f.options.pages * f.pages->page_bytes());
}

} // namespace

TEST_CASE("a head's parts of all pages lie side by side, and no two share memory") {
    check_places<nb::int8_channel, nb::int4_g32>();
    check_places<nb::f16_plain, nb::mxfp4>();
    check_places<nb::int4_g32_asym, nb::prefix_of_keys>();
}

TEST_CASE("a sequence takes neighbours in order, also those that another has given back") {
    const fixture<nb::int8_channel, nb::int8_channel> f;
    {
        const auto first = f.sequence(96);
        CHECK(numbers_of(first) == numbers{0, 1, 2});
        auto second = f.sequence(128);
        CHECK(numbers_of(second) == numbers{3, 4, 5, 6});
        second.truncate(33);
        CHECK(numbers_of(f.sequence(64)) == numbers{5, 6});
    }
    CHECK(f.pages->available() == f.options.pages);
    numbers all = numbers_of(f.sequence(160));
    CHECK(std::is_sorted(all.begin(), all.end()));
}

TEST_CASE("a saved page is, head by head, its keys, values and nonfinite flags") {
    const fixture<nb::int8_channel, nb::int4_g32> f;
    const auto s = f.sequence(64);
    std::vector<std::byte> saved(f.pages->page_bytes());
    s.save_page(1, saved);
    const std::byte* at = saved.data();
    for (std::size_t h = 0; h < f.options.heads; ++h) {
        CHECK(std::memcmp(at, f.pages->keys_of(s.page(1), h), f.pages->keys().bytes) == 0);
        at += f.pages->keys().bytes;
        CHECK(std::memcmp(at, f.pages->values_of(s.page(1), h), f.pages->values().bytes) == 0);
        at += f.pages->values().bytes;
        CHECK(std::memcmp(at, f.pages->nonfinite(s.page(1), h), f.options.page_tokens) == 0);
        at += 64;
    }
    CHECK(at == saved.data() + saved.size());
}
