// matrix_tiles.cpp: tiles of a machine that has them against their definition, and products by tiles, the definition's
// too, against those without.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/gemm.hpp>
#include <nibble/gemm_integer.hpp>
#include <nibble/isa/matrix_tiles.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace nb = nibble;
using nb::detail::tile_products;

namespace {

// Everything a call may write, and what it must leave alone.
struct results {
    std::vector<std::int32_t> out[2][2];
    [[nodiscard]] bool operator==(const results& other) const {
        for (std::size_t m = 0; m < 2; ++m)
            for (std::size_t n = 0; n < 2; ++n)
                if (out[m][n] != other.out[m][n]) return false;
        return true;
    }
};

template <class Tiles> results multiplied(tile_products p, const std::vector<std::int32_t>& sums, bool resume) {
    results r;
    for (std::size_t m = 0; m < 2; ++m)
        for (std::size_t n = 0; n < 2; ++n) {
            r.out[m][n] = sums;
            p.out[m][n] = r.out[m][n].data();
            p.start[m][n] = resume ? sums.data() + 16 * (m + n) : nullptr;
        }
    const typename Tiles::session session;
    const bool two_panels = p.lanes[1] != nullptr;
    if (p.tokens[1] != 0)
        two_panels ? Tiles::template multiply<2, 2>(p) : Tiles::template multiply<2, 1>(p);
    else
        two_panels ? Tiles::template multiply<1, 2>(p) : Tiles::template multiply<1, 1>(p);
    return r;
}

// The definition's tiles on every machine, as a program's own ISA.
struct tiles_by_definition : nb::generic {
    static constexpr const char* name = "tiles_by_definition";
    static constexpr nb::isa_facts facts = [] {
        nb::isa_facts f = nb::generic::facts;
        f.dots_in_int32 = true;
        f.matrix_tiles = true;
        return f;
    }();
    struct matrix_tiles : nb::detail::generic_matrix_tiles {
        [[nodiscard]] static bool usable() noexcept { return true; }
    };
};

template <class S> void check_products(const std::string& name, std::size_t rows, std::size_t cols) {
    const std::size_t tokens = 269;
    const std::vector<float> w = gemm_test::bell_values(rows * cols, 7 + cols);
    const std::vector<float> x = gemm_test::bell_values(tokens * cols, 8 + cols);
    const nb::packed<S> packed = nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), rows, cols)));
    for (const auto scale : {nb::activation_scale::automatic, nb::activation_scale::per_token}) {
        nb::gemm_options options;
        options.activations.scale = scale;
        std::vector<float> all(tokens * rows), few(tokens * rows);
        nb::gemm<tiles_by_definition>({x.data(), tokens, cols}, packed, {all.data(), tokens, rows}, options);
        for (std::size_t t = 0; t < tokens; ++t)
            nb::gemm<tiles_by_definition>({x.data() + t * cols, 1, cols}, packed, {few.data() + t * rows, 1, rows},
                                          options);
        INFO(name << ", " << rows << " x " << cols);
        CHECK(std::memcmp(all.data(), few.data(), all.size() * sizeof(float)) == 0);
    }
}

} // namespace

TEST_CASE("tiles of this machine multiply as their definition does") {
#if NIBBLE_HAS_AMX
    using machine = nb::avx512_amx::matrix_tiles;
    if (!machine::usable()) {
        WARN("skipped: the system does not let this process use tile registers");
        return;
    }
    std::mt19937 random(5);
    const auto number = [&](std::size_t from, std::size_t to) { return from + random() % (to - from + 1); };
    std::vector<std::int8_t> values(32 * 64 * 5 + 64), lanes(2 * 6 * 1024);
    std::vector<std::int32_t> sums(4096);
    for (int turn = 0; turn < 400; ++turn) {
        for (auto& v : values) v = static_cast<std::int8_t>(random());
        for (auto& v : lanes) v = static_cast<std::int8_t>(random());
        for (auto& v : sums) v = static_cast<std::int32_t>(random());
        tile_products p;
        const std::size_t tokens = number(1, 32);
        p.values = values.data();
        p.next_values = 64 * tokens;
        p.windows = number(1, 4);
        p.last_stride = 4 * number(1, 16);
        p.sums = p.windows == 1 ? number(1, 2) : 1;
        p.tokens[0] = tokens < 16 ? tokens : 16;
        p.tokens[1] = tokens - p.tokens[0];
        p.lanes[0] = lanes.data();
        p.lanes[1] = turn % 3 == 0 ? nullptr : lanes.data() + 6 * 1024;
        p.next_out = 1024;
        const bool resume = turn % 2 == 0;
        const results got = multiplied<machine>(p, sums, resume);
        const results want = multiplied<nb::detail::generic_matrix_tiles>(p, sums, resume);
        INFO("turn " << turn << ", " << tokens << " tokens, " << p.windows << " windows, " << p.sums << " sums");
        REQUIRE(got == want);
    }
#else
    WARN("skipped: compiled for a machine without tile registers");
#endif
}

TEST_CASE("many tokens by tiles have the bits that one token has without them") {
    // Parts of a window, of several, that begin within one, and cut at the end; zeros, minimums, two levels of scales.
    check_products<nb::int8_channel>("int8_channel", 21, 1100);
    check_products<nb::int4_g128>("int4_g128", 40, 700);
    check_products<nb::int4_g32_min>("int4_g32_min", 19, 420);
    check_products<nb::int4_g64_asym>("int4_g64_asym", 17, 330);
    check_products<nb::scheme<nb::int4, nb::per_group<96>, nb::scale<nb::f16>>>("int4 in groups of 96", 33, 1000);
}
