// moved.cpp: what a cache, its pages and a workspace are once they were moved from.
#include "support/attended.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

constexpr std::size_t count = 70;

nb::kv_cache_options options(bool waiting) {
    nb::kv_cache_options o{.heads = 2, .head_size = 32, .capacity = 100, .page_tokens = 32};
    if (waiting) o.key_window = 5, o.value_window = 20, o.sinks = 3;
    return o;
}
template <class Keys, class Values> void append(nb::kv_cache<Keys, Values>& cache, const tokens& t) {
    if constexpr (nb::kv_cache<Keys, Values>::stores_values)
        cache.append(t.k, t.v);
    else
        cache.append(static_cast<const_view>(t.k));
}

template <class Keys, class Values> void check_moved(bool waiting) {
    using cache_type = nb::kv_cache<Keys, Values>;
    nb::kv_cache_options o = options(waiting);
    if (!cache_type::stores_values) o.value_window = 0;
    const tokens t(o, count, 1);
    const matrix q = matrix::normal(4, 4 * 32, 2);
    for (const bool assigned : {false, true}) {
        cache_type from(o);
        append(from, t);
        const auto pages = from.pages();
        const std::size_t available = pages->available();
        const matrix want = attended(from, q, {}).out;
        cache_type to(options(!waiting && cache_type::stores_values));
        if (assigned)
            to = std::move(from);
        else
            to = cache_type(std::move(from));
        CHECK(same_bits(attended(to, q, {}).out, want));
        CHECK(to.size() == count);

        // It is empty, and says so.
        CHECK(from.size() == 0);
        CHECK(from.begin() == 0);
        CHECK(from.stored_keys() == 0);
        CHECK(from.stored_values() == 0);
        CHECK(from.page_count() == 0);
        CHECK_FALSE(from.has_page(0));
        CHECK(from.page(0) == cache_type::none);
        CHECK(from.pages() == nullptr);
        CHECK(from.key_transform() == nullptr);
        CHECK(from.value_transform() == nullptr);
        CHECK_FALSE(from.can_truncate(0));
        CHECK_FALSE(from.can_truncate(count));
        matrix numbers(1, 32), out(4, 4 * 32), sums(4, 4), mass(2, 0);
        std::vector<std::byte> bytes(pages->page_bytes());
        const nb::attended_sequence<Keys, Values> one{&from, 0, 4};
        const auto says = [](const std::string& what) { return what.find("moved from") != std::string::npos; };
        CHECK(says(broken_by([&] { (void)from.options(); })));
        CHECK(says(broken_by([&] { (void)from.pages_needed(1); })));
        CHECK(says(broken_by([&] { append(from, t); })));
        CHECK(says(broken_by([&] { append(from, tokens()); })));
        CHECK(says(broken_by([&] { from.flush(); })));
        CHECK(says(broken_by([&] { from.truncate(0); })));
        CHECK(says(broken_by([&] { from.clear(); })));
        CHECK(says(broken_by([&] { (void)from.fork(); })));
        CHECK(says(broken_by([&] { from.evict_before(0); })));
        CHECK(says(broken_by([&] { from.save_page(0, bytes); })));
        CHECK(says(broken_by([&] { from.drop_page(0); })));
        CHECK(says(broken_by([&] { from.restore_page(0, bytes); })));
        CHECK(says(broken_by([&] { from.read_keys(0, 0, numbers); })));
        CHECK(says(broken_by([&] { from.read_values(0, 0, numbers); })));
        CHECK(says(broken_by([&] { from.set_key_transform(nullptr); })));
        if constexpr (cache_type::stores_values) CHECK(says(broken_by([&] { from.set_value_transform(nullptr); })));
        for (const bool causal : {true, false}) {
            const nb::attend_options how{.causal = causal};
            CHECK(says(broken_by([&] { nb::attend(static_cast<const_view>(q), from, static_cast<view>(out), how); })));
            CHECK(says(broken_by(
                [&] { nb::attend(static_cast<const_view>(q), std::span(&one, 1), static_cast<view>(out), how); })));
            CHECK(says(broken_by([&] {
                nb::attention_mass(static_cast<const_view>(q), from, static_cast<const_view>(sums),
                                   static_cast<view>(mass), how);
            })));
            CHECK(says(broken_by([&] { (void)nb::attend_workspace_bytes(from, 4, 4, 1, how); })));
        }

        // Moved on, it moves nothing; assigned to, it is a cache again. The pages have lost none.
        cache_type nothing(std::move(from));
        CHECK(nothing.size() == 0);
        CHECK(says(broken_by([&] { (void)nothing.options(); })));
        CHECK(pages->available() == available);
        from = to.fork();
        CHECK(same_bits(attended(from, q, {}).out, want));
        cache_type& itself = from;
        from = std::move(itself);
        CHECK(same_bits(attended(from, q, {}).out, want));
        to = std::move(nothing); // gives back what it had
        CHECK(to.size() == 0);
        from.clear();
        CHECK(pages->available() == pages->options().pages);
        append(from, t);
        CHECK(same_bits(attended(from, q, {}).out, want));
    }
}

} // namespace

TEST_CASE("a cache that was moved from is empty and says so, in every verb") {
    for (const bool waiting : {false, true}) {
        check_moved<nb::int8_channel, nb::int4_g32>(waiting);
        check_moved<nb::f16_plain, nb::mxfp4>(waiting);
        check_moved<nb::along_tokens<nb::int4_g32_min>, nb::int4_g32_min>(waiting);
        check_moved<nb::int8_channel, nb::prefix_of_keys>(waiting);
    }
}

TEST_CASE("pages are neither copied nor moved: sequences point to them") {
    using pages = nb::kv_pages<nb::int8_channel, nb::int8_channel>;
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<pages>);
    STATIC_REQUIRE_FALSE(std::is_move_constructible_v<pages>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<pages>);
    STATIC_REQUIRE_FALSE(std::is_move_assignable_v<pages>);
    CHECK(broken_by([] {
              nb::kv_cache<nb::int8_channel, nb::int8_channel> cache(std::shared_ptr<pages>{});
          }).find("needs pages") != std::string::npos);
}

TEST_CASE("a workspace that was moved from is an empty one") {
    nb::workspace from(1000);
    nb::workspace to(std::move(from));
    CHECK(to.size() == 1000);
    CHECK(from.size() == 0);
    CHECK(from.reserve(0) == nullptr);
    from.reserve(70)[69] = std::byte{1};
    CHECK(from.size() == 70);
    to = std::move(from);
    CHECK(to.size() == 70);
    CHECK(to.reserve(70)[69] == std::byte{1});
    CHECK(from.size() == 0);
    nb::kv_cache<nb::int8_channel, nb::int8_channel> cache(options(false));
    append(cache, tokens(options(false), 40, 3));
    const matrix q = matrix::normal(4, 4 * 32, 4);
    nb::attend_options with;
    with.workspace = &from;
    CHECK(same_bits(attended(cache, q, with).out, attended(cache, q, {}).out));
    CHECK(from.size() != 0);
}
