// attend_allocations.cpp: a cache allocates nothing once it is made, nor does attend once its workspace is warm.
#include "support/allocations.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;
using nibble_test::allocations;

TEST_CASE("append, truncate, evict and attend allocate nothing") {
    for (const auto& pair : kv_pairs())
        for (const char* through : {"", "all", "rotary and mean"}) { // those with numbers waiting in fp32
            const bool waiting = *through != '\0';
            INFO(pair->name() << " " << through);
            nb::kv_cache_options o;
            o.heads = 2;
            o.head_size = 64;
            o.capacity = 700;
            o.prompt_tokens = 300;
            if (waiting) {
                o.key_window = 20;
                o.value_window = 90;
                o.sinks = 7;
            }
            const auto s = pair->make(o);
            const tokens t(o, 700, 1);
            for (const transforms& each : all_transforms(s->options(), t))
                if (each.name == through) each.set(*s);
            const std::size_t made = allocations.load();
            t.append_to(*s, 0, 300);
            for (std::size_t i = 300; i < 400; ++i) t.append_to(*s, i, 1);
            s->truncate(399);
            t.append_to(*s, 399, 200);
            const std::size_t appended = allocations.load();
            CHECK(appended == made);
            const matrix q = matrix::normal(9, 4 * 64, 2);
            matrix out(9, 4 * 64);
            nb::workspace scratch;
            nb::attend_options options;
            for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                         nb::attention_precision::integer}) {
                options.precision = precision;
                options.workspace = &scratch;
                s->attend(q, out, options);
                const std::size_t warm = allocations.load();
                for (const std::size_t n : {9u, 1u, 4u}) s->attend(q.part(0, n), {out.at.data(), n, out.cols}, options);
                const std::size_t after = allocations.load();
                options.workspace = nullptr;
                s->attend(q, out, options);
                const std::size_t without = allocations.load();
                CHECK(after == warm);
                CHECK(without == after + 1);
            }
            const std::size_t before = allocations.load();
            s->evict_before(400);
            t.append_to(*s, 599, 101);
            s->truncate(0);
            const std::size_t cleared = allocations.load();
            CHECK(cleared == before);
        }
}

TEST_CASE("attend_workspace_bytes is what attend takes, however many tokens there are") {
    for (const auto& pair : kv_pairs()) {
        nb::kv_cache_options o;
        o.heads = 2;
        o.head_size = 64;
        o.capacity = 1300; // three spans
        const auto s = pair->make(o);
        const tokens t(o, 1300, 1);
        const matrix q = matrix::normal(70, 4 * 64, 2);
        matrix out(70, 4 * 64);
        std::vector<std::size_t> asked;
        for (const bool empty : {true, false}) {
            if (!empty) t.append_to(*s, 0, 1300);
            std::size_t at = 0;
            for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                         nb::attention_precision::integer})
                for (const std::size_t threads : nibble_test::some_of<std::size_t>({1, 2, 7}))
                    for (const std::size_t n : nibble_test::some_of<std::size_t>({1, 6, 70})) {
                        nb::attend_options options;
                        options.precision = precision;
                        const std::size_t bytes = s->workspace_bytes(0, n, 4, threads, options);
                        if (empty) {
                            asked.push_back(bytes);
                            continue;
                        }
                        INFO(pair->name() << ", precision " << static_cast<int>(precision) << ", " << threads
                                          << " threads, " << n << " queries");
                        CHECK(bytes == asked[at++]);
                        nb::workspace scratch;
                        options.workspace = &scratch;
                        s->attend(0, q.part(0, n), {out.at.data(), n, out.cols}, options,
                                  nibble_test::test_executor{threads});
                        CHECK(scratch.size() == bytes);
                    }
        }
    }
}

TEST_CASE("attend_workspace_bytes says what it cannot answer") {
    const nb::kv_cache<nb::int8_channel, nb::int8_channel> cache({.heads = 2, .head_size = 64, .capacity = 16});
    using sequence = nb::attended_sequence<nb::int8_channel, nb::int8_channel>;
    const sequence none{};
    const auto asked = [&](std::size_t heads, std::size_t threads) {
        return broken_by([&] { (void)nb::attend_workspace_bytes(cache, 1, heads, threads); });
    };
    CHECK(asked(4, 1).empty());
    CHECK(asked(3, 1).find("multiple") != std::string::npos);
    CHECK(asked(0, 1).find("multiple") != std::string::npos);
    CHECK(asked(4, 0).find("thread") != std::string::npos);
    CHECK(broken_by([&] {
              (void)nb::attend_workspace_bytes(std::span<const sequence>(&none, 1), 4, 1);
          }).find("cache") != std::string::npos);
    const nb::kv_cache<nb::int8_channel, nb::int8_channel> other({.heads = 4, .head_size = 64, .capacity = 16});
    const sequence both[] = {{&cache, 0, 1}, {&other, 1, 1}};
    CHECK(broken_by([&] {
              (void)nb::attend_workspace_bytes(std::span<const sequence>(both), 4, 1);
          }).find("as many query heads") != std::string::npos);
    CHECK(nb::attend_workspace_bytes(std::span<const sequence>{}, 4, 1) == 0);
}
