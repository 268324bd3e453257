// attend_allocations.cpp: a cache allocates nothing once it is made, nor does attend once its workspace is warm.
#include "support/allocations.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"

#include <nibble/core/workspace.hpp>

#include <cstddef>

namespace nb = nibble;
using namespace attend_test;
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
            for (const auto precision :
                 {nb::attention_precision::fp32, nb::attention_precision::integer_scores, nb::attention_precision::integer}) {
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
