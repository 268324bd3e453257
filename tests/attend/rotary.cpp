// rotary.cpp: rotary position embedding that attention applies to keys which are stored without it.
#include "support/attention_check.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"
#include "support/random.hpp"

#include <nibble/cache/transform.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/rotary.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

std::shared_ptr<const nb::kv_transform> rotary(nb::rotary_embedding r, std::vector<float> mean = {}) {
    nb::kv_transform t;
    t.rotary = std::move(r);
    t.mean = std::move(mean);
    return std::make_shared<const nb::kv_transform>(std::move(t));
}
// All heads of a row of queries or keys, turned outside.
matrix turned_rows(const nb::rotary_embedding& r, const matrix& x, std::size_t size, std::size_t first_position) {
    matrix y(x.rows, x.cols);
    for (std::size_t i = 0; i < x.rows; ++i)
        for (std::size_t h = 0; h < x.cols; h += size) {
            const std::vector<double> one = turned(r, x.row(i) + h, size, first_position + i);
            for (std::size_t c = 0; c < size; ++c) y.row(i)[h + c] = static_cast<float>(one[c]);
        }
    return y;
}

} // namespace

TEST_CASE("cosines and sines of turns are right up to the last position a cache has") {
    if constexpr (LDBL_MANT_DIG >= 64) {
        double off = 0.0;
        for (std::uint64_t i = 0; i < 200000; ++i) {
            const std::uint64_t random = nibble_test::random64(61, i);
            constexpr std::uint64_t most = std::uint64_t{1} << 31;
            const std::uint64_t position = i < 4096 ? i : i % 2 == 0 ? random % most : most - i % 99;
            // Of 33 bits, so that the product is exact in a long double.
            const double frequency = std::ldexp(static_cast<double>(nibble_test::random64(62, i) >> 31),
                                                -30 - static_cast<int>(random >> 61));
            const long double angle = static_cast<long double>(position) * static_cast<long double>(frequency);
            const nb::kernel::rotation got = nb::kernel::rotation_of(position, i % 3 == 0 ? -frequency : frequency);
            const double sine = i % 3 == 0 ? -got.sine : got.sine;
            off = std::max(off, static_cast<double>(std::abs(static_cast<long double>(got.cosine) - std::cos(angle))));
            off = std::max(off, static_cast<double>(std::abs(static_cast<long double>(sine) - std::sin(angle))));
        }
        INFO(off);
        CHECK(off < 0x1p-50);
    }
}

TEST_CASE("panels of keys are turned token by token, to the same bits on every ISA") {
    for (const std::size_t dims : {2u, 6u, 32u, 40u, 128u})
        for (const bool interleaved : {false, true}) {
            nb::rotary_embedding r{.dims = dims, .interleaved = interleaved, .base = 10000.0};
            const auto tables = nb::detail::tables_of(r);
            for (const std::size_t block :
                 {std::size_t{0}, std::size_t{256}, std::size_t{65280}, (std::size_t{1} << 31) - 256})
                for (const std::size_t panel : {0u, 1u, 15u}) {
                    const matrix x = matrix::normal(dims + 3, 16, block % 97 + panel);
                    std::vector<float> of_block(2 * tables->padded()), scratch(2 * tables->padded());
                    tables->rotations_at(block, of_block.data());
                    matrix want(dims + 3, 16);
                    double off = 0.0;
                    nb::for_each_isa([&]<class Isa>() {
                        matrix got = x;
                        tables->rotate_panel<Isa>(of_block.data(), panel, got.at.data(), scratch.data());
                        if (std::is_same_v<Isa, nb::best_isa>) want = got;
                        CHECK(std::memcmp(got.at.data(), want.at.data(), got.at.size() * sizeof(float)) == 0);
                    });
                    for (std::size_t t = 0; t < 16; ++t) {
                        std::vector<float> column(dims + 3);
                        for (std::size_t c = 0; c < column.size(); ++c) column[c] = x.row(c)[t];
                        std::vector<nb::kernel::rotation> turns(dims / 2);
                        tables->rotations_at(block + panel * 16 + t, turns.data());
                        tables->rotate_row(turns.data(), column.data());
                        for (std::size_t i = 0; i < dims / 2; ++i)
                            for (const std::size_t c : {tables->first(i), tables->second(i)}) {
                                const double length = std::hypot(static_cast<double>(x.row(tables->first(i))[t]),
                                                                 static_cast<double>(x.row(tables->second(i))[t]));
                                const double d = static_cast<double>(want.row(c)[t]) - static_cast<double>(column[c]);
                                off = std::max(off, std::abs(d) / length);
                            }
                        for (std::size_t c = dims; c < column.size(); ++c) CHECK(column[c] == want.row(c)[t]);
                    }
                    INFO(dims << " dims, block " << block << " panel " << panel << ": " << off);
                    CHECK(off < 0x1p-21);
                }
        }
}

TEST_CASE("attention over keys that it turns itself is that over what the cache reads back, turned, for every pair") {
    for (const auto& pair : kv_pairs())
        for (const bool waiting : {false, true}) {
            nb::kv_cache_options o = options_for(*pair, 2, 40, 600);
            if (waiting) {
                o.sinks = 5;
                o.key_window = 19;
                o.value_window = 70;
            }
            const std::size_t size = 531;
            const tokens t = uneven_tokens(o, size, 63);
            const matrix q = matrix::normal(5, 4 * o.head_size, 64);
            const std::vector<float> mean = nb::column_means(t.k);
            const std::vector<double> frequencies{1.5, -0.25, 0.0, 8.0};
            const std::vector<nb::rotary_embedding> tried{{.dims = 40},
                                                          {.dims = 40, .interleaved = true, .base = 500000.0},
                                                          {.dims = 10},
                                                          {.dims = 8, .interleaved = true, .frequencies = frequencies}};
            for (const nb::rotary_embedding& r : tried)
                for (const bool centred : {false, true}) {
                    if (!waiting && centred) continue;
                    const auto s = pair->make(o);
                    s->set_key_transform(rotary(r, centred ? mean : std::vector<float>{}));
                    t.append_rest(*s, 90);
                    check(*pair, *s, q, {},
                          std::to_string(r.dims) + " dims" + (waiting ? " waiting" : "") + (centred ? " centred" : ""));
                }
        }
    SUCCEED();
}

TEST_CASE("options, heads of any size and many queries meet turned keys") {
    for (const kv_pair* pair : some_pairs()) {
        for (const std::size_t size : {2u, 7u, 64u, 96u, 256u}) {
            nb::kv_cache_options o = options_for(*pair, 1, size, 300);
            o.value_size = 24;
            const auto s = pair->make(o);
            s->set_key_transform(rotary({.dims = size / 2 * 2}));
            tokens(o, 300, size).append_to(*s);
            for (const std::size_t n : {1u, 3u, 40u})
                check(*pair, *s, matrix::normal(n, 2 * size, n), {}, "head size " + std::to_string(size));
        }
        nb::kv_cache_options o = options_for(*pair, 2, 64, 2400);
        o.page_tokens = 256; // whole blocks of panels
        o.sinks = 3;
        const auto s = pair->make(o);
        s->set_key_transform(rotary({.dims = 64}));
        tokens(o, 2200, 65).append_rest(*s, 700);
        s->evict_before(200);
        const matrix q = matrix::normal(4, 4 * 64, 66);
        const std::vector<float> sink_scores{1.0f, -2.0f, 30.0f, 0.0f};
        nb::attend_options options;
        options.window = 1500;
        options.sink_scores = sink_scores;
        check(*pair, *s, q, options, "two spans");
        options.soft_cap = 3.0f;
        options.causal = false;
        check(*pair, *s, q, options, "capped");
    }
    SUCCEED();
}

TEST_CASE("keys turned before they are stored, or by attention, give the same") {
    const kv_pair& pair = *kv_pairs().front();
    REQUIRE(pair.name().rfind("f32 ", 0) == 0);
    const nb::kv_cache_options o = options_for(pair, 2, 48, 1000);
    const tokens t(o, 1000, 67);
    const matrix q = matrix::normal(6, 4 * 48, 68);
    for (const nb::rotary_embedding& r :
         {nb::rotary_embedding{.dims = 48}, nb::rotary_embedding{.dims = 32, .interleaved = true}}) {
        const auto by_attention = pair.make(o);
        by_attention->set_key_transform(rotary(r));
        t.append_to(*by_attention);
        tokens before = t;
        before.k = turned_rows(r, t.k, 48, 0);
        const auto plain = pair.make(o);
        before.append_to(*plain);
        nb::attend_options options;
        options.precision = nb::attention_precision::fp32;
        matrix got(6, 4 * 48), want(6, 4 * 48);
        by_attention->attend(q, got, options);
        plain->attend(turned_rows(r, q, 48, 1000 - 6), want, options);
        double off = 0.0;
        for (std::size_t i = 0; i < got.at.size(); ++i)
            off = std::max(off, std::abs(static_cast<double>(got.at[i]) - static_cast<double>(want.at[i])));
        INFO(off);
        CHECK(off < 3e-6);
        // It does something.
        const auto unturned = pair.make(o);
        t.append_to(*unturned);
        unturned->attend(q, want, options);
        CHECK(std::abs(static_cast<double>(got.at[0]) - static_cast<double>(want.at[0])) > 1e-3);
    }
}

TEST_CASE("a cache refuses rotary embeddings that make no sense") {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 8;
    nb::kv_cache<nb::f32_plain, nb::f32_plain> cache(o);
    const auto refused = [&](const nb::kv_transform& t) {
        const std::string message =
            broken_by([&] { cache.set_key_transform(std::make_shared<const nb::kv_transform>(t)); });
        if (!message.empty()) CHECK(cache.key_transform() == nullptr);
        return message;
    };
    nb::kv_transform t;
    t.rotary.dims = 7;
    CHECK(refused(t).find("even number of dims") != std::string::npos);
    t.rotary.dims = 10;
    CHECK(refused(t).find("even number of dims") != std::string::npos);
    t.rotary.dims = 8;
    for (const double base :
         {0.5, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        t.rotary.base = base;
        CHECK(refused(t).find("base") != std::string::npos);
    }
    t.rotary.base = 10000.0;
    t.rotary.frequencies = {1.0, 1.0, 1.0};
    CHECK(refused(t).find("frequency for each pair") != std::string::npos);
    for (const double f : {8.1, -9.0, std::numeric_limits<double>::quiet_NaN()}) {
        t.rotary.frequencies = {1.0, 1.0, f, 1.0};
        CHECK(refused(t).find("8 radians") != std::string::npos);
    }
    t.rotary.frequencies.clear();
    t.hadamard = true;
    CHECK(refused(t).find("does not go with") != std::string::npos);
    t.hadamard = false;
    for (std::uint32_t i = 0; i < 16; ++i) t.order.push_back(i % 8);
    CHECK(refused(t).find("does not go with") != std::string::npos);
    t.order.clear();
    CHECK(broken_by([&] { cache.set_value_transform(std::make_shared<const nb::kv_transform>(t)); }).find("for keys") !=
          std::string::npos);
    t.mean.resize(16);
    CHECK(refused(t).empty());
    CHECK(cache.fork().key_rotary() == cache.key_rotary());
    cache.set_key_transform(nullptr);
    CHECK(cache.key_rotary() == nullptr);
}
