// one_engine.cpp: what an engine keeps once: a pool, a workspace for gemm and attend, pages for all layers. No bit
// depends on it.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/attend.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/gemm.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace nb = nibble;

namespace {

using weights = nb::int8_channel;
using cache = nb::kv_cache<nb::int8_channel, nb::int8_channel>;

constexpr std::size_t width = 64; // two heads of 32
constexpr std::size_t layers = 2;
constexpr std::size_t steps = 40;

nb::kv_cache_options options(std::size_t pages) {
    return {.heads = 2, .head_size = 32, .capacity = 48, .pages = pages, .page_tokens = 16};
}

// A token goes through both layers, step by step: what comes out of the last one.
std::vector<float> decode(const std::vector<nb::packed<weights>>& w, std::vector<cache>& caches, nb::workspace* scratch,
                          const nb::thread_pool& pool) {
    std::vector<float> x = nibble_test::normal_values(width, 7), y(width), all;
    for (std::size_t step = 0; step < steps; ++step) {
        for (std::size_t layer = 0; layer < layers; ++layer) {
            const nb::matrix_view<float> row(x.data(), 1, width), made(y.data(), 1, width);
            nb::gemm(row, w[layer], made, nb::gemm_options{.workspace = scratch}, pool);
            caches[layer].append(made, made, pool);
            nb::attend(made, caches[layer], row, nb::attend_options{.workspace = scratch}, pool);
        }
        all.insert(all.end(), x.begin(), x.end());
        x[step % width] += 1.0f;
    }
    return all;
}

} // namespace

TEST_CASE("one pool, one workspace and one set of pages serve gemm and attend of all layers") {
    std::vector<nb::packed<weights>> w;
    for (std::size_t layer = 0; layer < layers; ++layer) {
        std::vector<float> values = nibble_test::normal_values(width * width, layer);
        for (float& v : values) v *= 0.125f; // so that numbers stay as large as they are
        w.push_back(nb::pack(nb::quantize<weights>(nb::matrix_view<const float>(values.data(), width, width))));
    }
    const nb::thread_pool alone(1), pool(2);
    std::vector<cache> apart;
    for (std::size_t layer = 0; layer < layers; ++layer) apart.emplace_back(options(3));
    const std::vector<float> want = decode(w, apart, nullptr, alone);

    REQUIRE(std::all_of(want.begin(), want.end(), [](float v) { return std::isfinite(v); }));

    auto pages = nb::make_shared<cache::pages_type>(options(3 * layers));
    std::vector<cache> together;
    for (std::size_t layer = 0; layer < layers; ++layer) together.emplace_back(pages);
    const std::size_t bytes = std::max(nb::gemm_workspace_bytes(w[0], 1, pool.concurrency()),
                                       nb::attend_workspace_bytes(together[0], 1, 2, pool.concurrency()));
    nb::workspace scratch(bytes);
    CHECK(decode(w, together, &scratch, pool) == want);
    CHECK(scratch.size() == bytes);
    CHECK(pages->available() == 0); // three pages for each layer

    // Layers take pages in turns, and give them back to whoever comes next.
    CHECK(together[0].page(1) != together[0].page(0) + 1);
    together[1].truncate(0);
    CHECK(pages->available() == 3);
    cache other(pages);
    const std::vector<float> k = nibble_test::normal_values(steps * width, 9);
    const nb::matrix_view<const float> rows(k.data(), steps, width);
    other.append(rows, rows);
    CHECK(pages->available() == 0);
    // What the first layer holds is as it was.
    std::vector<float> a(width), b(width);
    nb::attend({k.data(), 1, width}, together[0], {a.data(), 1, width});
    nb::attend({k.data(), 1, width}, apart[0], {b.data(), 1, width});
    CHECK(a == b);
}
