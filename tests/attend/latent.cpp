// latent.cpp: attention whose values are a prefix of the keys, against caches that store those values once more.
#include "support/attended.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"

#include <nibble/attend.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <array>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;
using result = attended_result;

namespace {

constexpr std::array precisions{nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                nb::attention_precision::integer};

// How keys are unpacked and turned depends on the bits of a code, and on whether lanes are integers or fp32.
template <class A, class B>
inline constexpr bool turned_alike =
    (A::scheme::element_type::bits == B::scheme::element_type::bits || nibble_test::kinds_only) &&
    nb::detail::integer_mapping_of<typename A::scheme::element_type>.exists ==
        nb::detail::integer_mapping_of<typename B::scheme::element_type>.exists;

// The first format of the list of each such layout.
template <class Visit> void for_each_layout(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nb::format_list<Formats...>, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (nb::value_scheme<typename Format::scheme>) {
                constexpr bool first = [] {
                    std::size_t at = 0;
                    bool found = false;
                    ((found = found || (at++ < At && nb::value_scheme<typename Formats::scheme> &&
                                        turned_alike<Format, Formats>)),
                     ...);
                    return !found;
                }();
                if constexpr (first) visit.template operator()<Format>();
            }
        };
        (one.template operator()<Formats, Index>(), ...);
    }(nb::all_formats{}, std::make_index_sequence<nb::all_formats::size>{});
    visit.template operator()<nb::named_format<"int4_g32", nb::int4_g32>>(); // groups of channels too
}

// The first `count` channels of each head.
matrix prefix_of(const matrix& x, std::size_t channels, std::size_t count) {
    matrix m(x.rows, x.cols / channels * count);
    for (std::size_t i = 0; i < x.rows; ++i)
        for (std::size_t j = 0; j < m.cols; ++j) m.row(i)[j] = x.row(i)[j / count * channels + j % count];
    return m;
}

} // namespace

TEST_CASE("values that are a prefix of the keys give the bits of values stored beside them") {
    std::size_t formats = 0;
    for_each_layout([&]<class Format>() {
        using S = typename Format::scheme;
        ++formats;
        for (const std::size_t head_size : {72u, 96u})
            for (const bool waiting : {false, true}) {
                nb::kv_cache_options o;
                o.heads = 2;
                o.head_size = head_size;
                o.capacity = 1400;
                o.page_tokens = waiting ? 16 : 64;
                if (waiting) {
                    o.key_window = o.value_window = 37;
                    o.sinks = 5;
                }
                const std::size_t size = waiting ? 560 : 1300;
                const matrix k = matrix::normal(size, 2 * head_size, 1);
                nb::kv_cache<S, S> stored(o);
                stored.append(static_cast<const_view>(k), static_cast<const_view>(k));
                stored.flush();
                o.value_window = 0;
                nb::kv_cache<S, nb::prefix_of_keys> whole(o);
                whole.append(static_cast<const_view>(k));
                whole.flush();
                CHECK(whole.pages()->page_bytes() < stored.pages()->page_bytes());
                for (const std::size_t group : {1u, 3u, 20u})
                    for (const auto precision : precisions) {
                        INFO(Format::name << ", " << head_size << " channels, " << group << " query heads, precision "
                                          << static_cast<int>(precision) << (waiting ? ", waiting" : ""));
                        nb::attend_options options;
                        options.precision = precision;
                        options.window = waiting ? 300 : 0;
                        const matrix q = matrix::normal(2, 2 * group * head_size, 2);
                        const result want = attended(stored, q, options);
                        const result got = attended(whole, q, options);
                        CHECK(same_bits(got.out, want.out));
                        CHECK(same_bits(got.sums, want.sums));
                        CHECK(same_bits(attended(whole, q, options, 3).out, want.out));
                        for (const std::size_t value_size : {std::size_t{1}, std::size_t{64}, head_size - 7}) {
                            o.value_size = value_size;
                            nb::kv_cache<S, nb::prefix_of_keys> part(o);
                            part.append(static_cast<const_view>(k));
                            part.flush();
                            CHECK(
                                same_bits(attended(part, q, options).out, prefix_of(want.out, head_size, value_size)));
                            o.value_size = 0;
                        }
                    }
            }
    });
    CHECK(formats >= (nibble_test::kinds_only ? 2u : 8u));
}

TEST_CASE("a latent cache forks, goes back, saves and reads as any other") {
    using cache_type = nb::kv_cache<nb::int8_channel, nb::prefix_of_keys>;
    nb::kv_cache_options o;
    o.head_size = 80;
    o.value_size = 64;
    o.capacity = 400;
    o.pages = 24;
    o.page_tokens = 64;
    o.sinks = 3;
    o.key_window = 20;
    const matrix k = matrix::normal(300, 80, 3);
    const auto rows = [&](std::size_t first, std::size_t count) { return k.part(first, count); };
    cache_type s(o);
    s.append(rows(0, 300));
    s.flush();
    const matrix q = matrix::normal(3, 4 * 80, 4);
    const result want = attended(s, q, {});
    // In pieces, and after tokens that were taken back.
    cache_type other(s.pages());
    other.append(rows(0, 170));
    for (std::size_t i = 170; i < 290; ++i) other.append(rows(i, 1));
    other.append(rows(0, 7));
    other.truncate(290);
    other.append(rows(290, 10));
    other.flush();
    CHECK(same_bits(attended(other, q, {}).out, want.out));
    cache_type copy = s.fork();
    copy.append(rows(0, 60));
    copy.truncate(350);
    CHECK(same_bits(attended(s, q, {}).out, want.out));
    std::vector<std::byte> bytes(s.pages()->page_bytes());
    s.save_page(1, bytes);
    s.drop_page(1);
    CHECK(broken_by([&] { (void)attended(s, q, {}); }).find("dropped") != std::string::npos);
    s.restore_page(1, bytes);
    CHECK(same_bits(attended(s, q, {}).out, want.out));
    matrix keys(300, 80), values(300, 64);
    s.read_keys(0, 0, keys);
    s.read_values(0, 0, values);
    CHECK(same_bits(values, prefix_of(keys, 80, 64)));
    // What is not finite is so for keys and values at once.
    matrix bad = matrix::normal(1, 80, 5);
    bad.row(0)[79] = std::numeric_limits<float>::infinity();
    s.append(static_cast<const_view>(bad));
    const result spoilt = attended(s, q, {});
    CHECK(spoilt.out.row(2)[0] != spoilt.out.row(2)[0]);
    CHECK(spoilt.out.row(1)[0] == spoilt.out.row(1)[0]);
}

TEST_CASE("latents that are centred answer as values that are") {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 96;
    o.capacity = 300;
    matrix k = matrix::normal(300, 192, 7);
    for (std::size_t t = 0; t < k.rows; ++t)
        for (std::size_t c = 0; c < k.cols; ++c) k.row(t)[c] += c % 9 == 4 ? 6.0f : 0.25f;
    const auto centred =
        std::make_shared<const nb::kv_transform>(nb::kv_transform{.mean = nb::column_means(k.part(0, 40))});
    nb::kv_cache<nb::int8_channel, nb::int8_channel> stored(o);
    stored.set_key_transform(centred);
    stored.set_value_transform(centred);
    stored.append(static_cast<const_view>(k), static_cast<const_view>(k));
    o.value_size = 80;
    nb::kv_cache<nb::int8_channel, nb::prefix_of_keys> latent(o);
    latent.set_key_transform(centred);
    latent.append(static_cast<const_view>(k));
    const matrix q = matrix::normal(3, 4 * 96, 8);
    const std::vector<float> sinks{1.0f, 0.0f, -2.0f, 3.0f};
    nb::attend_options options;
    options.sink_scores = sinks;
    const result want = attended(stored, q, options);
    const result got = attended(latent, q, options);
    CHECK(same_bits(got.out, prefix_of(want.out, 96, 80)));
    CHECK(same_bits(got.sums, want.sums));
    matrix keys(300, 96), values(300, 80);
    latent.read_keys(1, 0, keys);
    latent.read_values(1, 0, values);
    CHECK(same_bits(values, prefix_of(keys, 96, 80)));
    nb::kv_cache<nb::int8_channel, nb::prefix_of_keys> turned(o);
    const auto turn = std::make_shared<const nb::kv_transform>(nb::kv_transform{.hadamard = true});
    CHECK(broken_by([&] { turned.set_key_transform(turn); }).find("no prefix") != std::string::npos);
}

TEST_CASE("a latent cache refuses options that it has no meaning for") {
    nb::kv_cache_options o;
    o.head_size = 64;
    o.value_size = 65;
    const auto made = [&] { return broken_by([&] { const nb::kv_cache<nb::int8_channel, nb::prefix_of_keys> c(o); }); };
    CHECK(made().find("prefix of the keys") != std::string::npos);
    o.value_size = 64;
    o.value_window = 5;
    CHECK(made().find("prefix of the keys") != std::string::npos);
    o.value_window = 0;
    CHECK(made().empty());
    nb::kv_cache<nb::int8_channel, nb::prefix_of_keys> c(o);
    const matrix k = matrix::normal(1, 63, 6);
    CHECK(broken_by([&] { c.append(static_cast<const_view>(k)); }).find("heads x head_size") != std::string::npos);
    CHECK(c.size() == 0);
}
