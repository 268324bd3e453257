// open_set.cpp: the set of formats and machines is open: elements, granularities, an ISA, a family of products and
// epilogues that nibble has never seen, defined in this file alone, run through quantize, pack and gemm and give the
// documented bits.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"
#include "support/kinds.hpp"

#include <nibble/element/lanes.hpp>
#include <nibble/gemm.hpp>
#include <nibble/kernel/family/family.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace mine {

namespace nb = nibble;

// ---- elements: bits, code, decode, and nothing else
// ----------------------------------------------------------------------

// 5 bits, integers that are not evenly spaced: a sign and 0 1 3 6 10 15, then 16 to 25.
struct triangular5 {
    static constexpr int bits = 5;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        const int i = c & 15;
        const int magnitude = i < 6 ? i * (i + 1) / 2 : 10 + i;
        return static_cast<float>((c & 16) != 0 ? -magnitude : magnitude);
    }
};

// 3 bits of real numbers, among them 0 and a third.
struct thirds3 {
    static constexpr int bits = 3;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        constexpr float values[8] = {-1.0f, -0.55f, -1.0f / 3.0f, -0.1f, 0.0f, 0.2f, 0.61f, 1.3f};
        return values[c & 7];
    }
};

// 7 bits of real numbers on no grid: a parabola on either side. (No sum of products: a decode must mean the same at run
// time as at compile time, and GCC would fuse one.)
struct curve7 {
    static constexpr int bits = 7;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        const float t = (static_cast<float>(c & 127) - 64.0f) / 64.0f;
        return t * (t < 0.0f ? -t : t) * 0.9f;
    }
};

// 7 bits of integers too large for sums in int16: -64 ... 63 times 2^-3, codes ascending.
struct wide7 {
    static constexpr int bits = 7;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept { return (static_cast<float>(c & 127) - 64.0f) * 0.125f; }
};

// 1 bit: 0 or 3, so that even binary elements need not be symmetric.
struct gate1 {
    static constexpr int bits = 1;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept { return (c & 1) != 0 ? 3.0f : 0.0f; }
};

// 6 bits with a NaN in the middle of its codes.
struct holed6 {
    static constexpr int bits = 6;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        const int i = (c & 63) - 32;
        return i == 5 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(i);
    }
};

// 8 bits, integers -128 ... 127 in an order of no pattern (a bijection by an odd multiplier).
struct shuffled8 {
    static constexpr int bits = 8;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept {
        return static_cast<float>(static_cast<int>((c * 77u + 13u) & 255u) - 128);
    }
};

// ---- a granularity: two neighbouring rows share a scale, over runs of 20 columns
// -------------------------------------------

struct pairs_by_20 {
    static constexpr bool row_local = false;
    static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return (rows + 1) / 2 * ((cols + 19) / 20);
    }
    static constexpr std::size_t group_size(std::size_t) noexcept { return 20; }
    static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return row / 2 * ((cols + 19) / 20) + col / 20;
    }
};

// Two levels of them: 20 columns under 60, so that outer scales differ along a row.
struct rows_by_60 {
    static constexpr bool row_local = true;
    static constexpr std::size_t count(std::size_t rows, std::size_t cols) noexcept {
        return rows * ((cols + 59) / 60);
    }
    static constexpr std::size_t group_size(std::size_t) noexcept { return 60; }
    static constexpr std::size_t index(std::size_t row, std::size_t col, std::size_t cols) noexcept {
        return row * ((cols + 59) / 60) + col / 60;
    }
};

// ---- an ISA: generic, but it counts the work of two primitives
// ---------------------------------------------------------------

struct counting : nb::generic {
    static constexpr const char* name = "counting";
    static inline std::size_t fmas = 0;
    static inline std::size_t dots = 0;
    static f32 fma(const f32& a, const f32& b, const f32& c) noexcept {
        ++fmas;
        return nb::generic::fma(a, b, c);
    }
    static sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        ++dots;
        return nb::generic::dot(s, codes, activations);
    }
};
static_assert(nb::isa<counting>);

// ---- a family of products: sums looked up in tables made of the activations
// ---------------------------------------------------------------------------------------------

// Of elements of one bit. Of every four activations of a token the sums of all 16 subsets; a row's four codes say
// which.
template <nb::isa Isa, nb::element E> struct subset_sums {
    static_assert(E::bits == 1);
    using isa_type = Isa;
    using element_type = E;

    static inline std::size_t tables = 0;
    // [quad][token][16] int16.
    static void place(const std::int8_t* row, std::size_t padded, std::size_t token, std::size_t tokens,
                      std::byte* values) noexcept {
        auto* to = reinterpret_cast<std::int16_t*>(values) + 16 * token;
        for (std::size_t column = 0; column < padded; column += 4, to += 16 * tokens, ++tables)
            for (unsigned subset = 0; subset < 16; ++subset) {
                to[subset] = 0;
                for (unsigned i = 0; i < 4; ++i)
                    if ((subset >> i & 1u) != 0) to[subset] = static_cast<std::int16_t>(to[subset] + row[column + i]);
            }
    }
    static constexpr nb::kernel::activation_order order{.value_bytes = 16 * sizeof(std::int16_t) / 4, .place = place};
    static constexpr nb::token_tiles tiles{.longest = 3, .shorter = 3};
    static constexpr std::size_t unit_columns = 4;
    static constexpr std::size_t phase_units = 128;

    static constexpr float unit = nb::detail::exp2i(nb::detail::integer_mapping_of<E>.exponent);
    static constexpr int lane_offset = 0;
    static constexpr std::size_t lane_bytes = 1;
    static constexpr bool lanes_are_codes = true;
    static constexpr bool always_packed = true;
    static void unpack(const std::byte*, std::size_t, std::byte*) noexcept {}

    static constexpr bool reads_packed(std::size_t, std::size_t) noexcept { return true; }
    static constexpr std::size_t most_panels = 1;
    static constexpr bool in_pairs(bool) noexcept { return false; }
    static constexpr std::size_t panels_in_cache(std::size_t) noexcept { return 2; }
    static constexpr std::size_t cached_units(std::size_t, std::size_t) noexcept { return 32; }
    static constexpr std::size_t streamed_quads = 64;
    static constexpr std::size_t most_tokens = 96;
    static constexpr bool requests(std::size_t, bool, bool) noexcept { return false; }

    template <bool Zeros>
    static void multiply(bool, std::size_t, std::size_t tokens, const nb::kernel::tile_arguments& a,
                         const nb::kernel::tile_range& r) noexcept {
        static_assert(!Zeros);
        constexpr nb::detail::integer_mapping grid = nb::detail::integer_mapping_of<E>;
        const auto* codes = reinterpret_cast<const std::uint8_t*>(a.weights);
        const auto* sums = reinterpret_cast<const std::int16_t*>(a.values);
        auto* totals = reinterpret_cast<std::int32_t*>(a.totals);
        for (std::size_t part = 0; part < r.parts; ++part) {
            const bool last = part + 1 == r.parts;
            const std::size_t quads = last ? r.last_units : r.part_units;
            for (std::size_t row = 0; row < 16; ++row)
                for (std::size_t t = 0; t < tokens; ++t) {
                    std::int32_t dot = r.resume && part == 0 ? totals[16 * t + row] : 0;
                    for (std::size_t q = 0; q < quads; ++q) {
                        unsigned subset =
                            0; // a step is four quads; bit 2q + half of byte 4 (row % 8) + i, see tensor/layout.hpp
                        for (std::size_t i = 0; i < 4; ++i)
                            subset |= (codes[q / 4 * 32 + 4 * (row % 8) + i] >> (2 * (q % 4) + row / 8) & 1u) << i;
                        const std::int16_t* table = sums + 16 * (q * tokens + t);
                        dot += grid.low * table[15] + (grid.high - grid.low) * table[subset];
                    }
                    if (last && !r.ends_part) {
                        totals[16 * t + row] = dot;
                        continue;
                    }
                    float scale = a.scales[16 * part + row];
                    if (a.part_scales != nullptr) scale *= a.part_scales[part * tokens + t];
                    a.results[16 * t + row] = std::fma(static_cast<float>(dot), scale, a.results[16 * t + row]);
                }
            codes += quads / 4 * 32;
            sums += 16 * quads * tokens;
        }
    }
};

// 1 bit that names it: -1 or 3, times 2^-2.
struct lamps1 {
    static constexpr int bits = 1;
    using code = std::uint8_t;
    static constexpr float decode(code c) noexcept { return (c & 1) != 0 ? 0.75f : -0.25f; }
    template <nb::isa Isa> using product_family = subset_sums<Isa, lamps1>;
};
static_assert(nb::kernel::product_family<subset_sums<nb::generic, lamps1>>);

// ---- an epilogue: a column's own threshold, soft
// ------------------------------------------------------------------------------

struct soft_threshold {
    std::span<const float> thresholds;
    template <class Lanes> Lanes operator()(const Lanes& x, const nb::position& at) const noexcept {
        const Lanes limit = Lanes::load(thresholds.data() + at.output, at.count);
        return copy_sign(larger(Lanes(0.0f), absolute(x) - limit), x);
    }
    void check(std::size_t, std::size_t outputs) const {
        NIBBLE_CHECK(thresholds.size() == outputs, "soft_threshold: one value per output is needed");
    }
};
static_assert(nb::epilogue<soft_threshold>);

} // namespace mine

namespace {

namespace nb = nibble;
using namespace gemm_test;

// quantize -> pack -> unpack -> gemm of one scheme, against the formula, on the best ISA and, Counted, on `counting`,
// which is generic but for what it counts.
template <class S, bool Counted = !nibble_test::kinds_only> void run_scheme(const char* what) {
    for (const std::size_t n : sizes{1, 2, 17, 37})
        for (const std::size_t k : sizes{1, 4, 19, 20, 21, 64, 119, 333}) {
            const std::vector<float> w = bell_values(n * k, n + k);
            const nb::quantized<S> q = nb::quantize<S>(nb::matrix_view<const float>(w.data(), n, k));
            const nb::packed<S> packed = nb::pack(q);
            const nb::quantized<S> back = nb::unpack(packed);
            INFO(what << ", N K = " << n << " " << k);
            CHECK(back.bytes() == q.bytes());
            CHECK(std::memcmp(back.row_codes(0), q.row_codes(0), q.bytes()) == 0);
            const plain_weights plain = plain_of(q);
            const std::vector<float> x = bell_values(7 * k, k);
            std::vector<float> thresholds = bell_values(n, 3);
            for (std::size_t i = 0; i < n; ++i) thresholds[i] = i % 2 == 0 ? 0.0f : std::fabs(thresholds[i]);
            for (const bool per_group : scalings_of(plain))
                for (const std::size_t m : sizes{1, 4, 7}) {
                    const nb::matrix_view<const float> from(x.data(), m, k);
                    const std::vector<float> want = reference_gemm(from, plain, per_group);
                    const fp64_result exact = reference_fp64(from, plain, per_group);
                    std::vector<float> shrunk = want; // every other output as it is
                    for (std::size_t i = 0; i < shrunk.size(); ++i) {
                        const float size = std::fabs(want[i]) - thresholds[i % n];
                        shrunk[i] = std::copysign(0.0f > size ? 0.0f : size, want[i]);
                    }
                    nb::gemm_options options;
                    options.activations = scaled_by(per_group);
                    for (std::size_t i = 0; i < want.size(); ++i)
                        CHECK(std::fabs(static_cast<double>(want[i]) - exact.y[i]) <= exact.bound[i]);
                    const auto on = [&]<class I>() {
                        INFO(I::name << ", M = " << m << (per_group ? ", per group" : ", per token"));
                        std::vector<float> y(m * n, -9.0f);
                        nb::gemm<I>(from, packed, nb::matrix_view<float>(y.data(), m, n),
                                    mine::soft_threshold{thresholds}, options);
                        CHECK(first_difference({y.data(), m, n}, {shrunk.data(), m, n}) == "");
                    };
                    on.template operator()<nb::best_isa>();
                    if constexpr (Counted) on.template operator()<mine::counting>();
                }
        }
}

} // namespace

TEST_CASE("elements, granularities, an ISA and an epilogue of one's own run through every verb") {
    using nb::detail::fits_int16_sums;
    using nb::detail::integer_mapping_of;
    using nb::detail::needs_int32_sums;
    STATIC_REQUIRE(fits_int16_sums<mine::triangular5>);
    STATIC_REQUIRE(fits_int16_sums<mine::gate1>);
    STATIC_REQUIRE(needs_int32_sums<mine::wide7>);
    STATIC_REQUIRE(needs_int32_sums<mine::shuffled8>);
    STATIC_REQUIRE(!integer_mapping_of<mine::thirds3>.exists);
    STATIC_REQUIRE(!integer_mapping_of<mine::curve7>.exists);
    STATIC_REQUIRE(!integer_mapping_of<mine::holed6>.exists);

    mine::counting::fmas = 0;
    mine::counting::dots = 0;
    run_scheme<nb::scheme<mine::triangular5, mine::pairs_by_20, nb::scale<nb::f16>>, true>(
        "5-bit integers, pairs of rows");
    CHECK(mine::counting::dots > 0);
    CHECK(mine::counting::fmas > 0);
    mine::counting::fmas = 0;
    mine::counting::dots = 0;
    run_scheme<nb::scheme<mine::thirds3, mine::pairs_by_20, nb::scale<nb::f32>>, true>("3-bit reals, pairs of rows");
    CHECK(mine::counting::dots == 0);
    CHECK(mine::counting::fmas > 0);
    run_scheme<nb::scheme<mine::curve7, nb::per_channel, nb::scale<nb::bf16>>>("7-bit reals, bf16 scale per row");
    run_scheme<nb::scheme<mine::wide7, mine::pairs_by_20, nb::scale<nb::e4m3>>>("7-bit integers, E4M3 scales");
    run_scheme<nb::scheme<mine::gate1, nb::per_group<12>, nb::scale<nb::f32>>>("1-bit, groups of 12");
    run_scheme<nb::scheme<mine::holed6, nb::per_tensor, nb::scale<nb::f32>>>("6 bits with a NaN");
    run_scheme<nb::scheme<mine::shuffled8, nb::per_group<44>, nb::scale<nb::e8m0>>>("8-bit integers in disorder");
    run_scheme<nb::scheme<nb::uint6, nb::per_group<20>, nb::scale<nb::f16>, nb::minimum<nb::bf16>>>(
        "6 bits and a minimum");
    run_scheme<nb::scheme<nb::uint7, nb::per_group<20>, nb::scale<nb::f16>, nb::integer_zero>>(
        "7 bits and a zero point");
    run_scheme<nb::scheme<mine::triangular5, nb::two_level<nb::per_group<20>, mine::rows_by_60>,
                          nb::two_level_scale<nb::uint4, nb::f16>>>("two levels along a row");
}

TEST_CASE("a family of products of one's own prepares tables and multiplies by them") {
    using family = mine::subset_sums<nb::best_isa, mine::lamps1>;
    STATIC_REQUIRE(std::is_same_v<nb::kernel::family_of<nb::best_isa, mine::lamps1>, family>);
    using S = nb::scheme<mine::lamps1, nb::per_group<20>, nb::scale<nb::f16>>;
    family::tables = 0;
    run_scheme<S, true>("1 bit by tables, groups of 20");
    CHECK(family::tables > 0);
    run_scheme<nb::scheme<mine::lamps1, nb::per_channel, nb::scale<nb::f32>>, true>("1 bit by tables, a scale per row");

    // Prepared ones serve weights of that family, and no others.
    const std::vector<float> values = bell_values(21 * 100, 8);
    const nb::matrix_view<const float> plain(values.data(), 21, 100);
    const nb::packed<S> w = nb::pack(nb::quantize<S>(plain));
    const std::vector<float> x = bell_values(5 * 100, 9);
    const nb::matrix_view<const float> from(x.data(), 5, 100);
    const nb::prepared_activations prepared = nb::prepare<S>(from);
    std::vector<float> want(5 * 21), y(5 * 21);
    nb::gemm(from, w, nb::matrix_view<float>(want.data(), 5, 21));
    nb::gemm(prepared, w, nb::matrix_view<float>(y.data(), 5, 21));
    CHECK(first_difference({y.data(), 5, 21}, {want.data(), 5, 21}) == "");
    struct refused {};
    const auto before = nb::set_failure_handler([](const char*, const char*, int) { throw refused{}; });
    using bytes = nb::scheme<nb::int2, nb::per_group<20>, nb::scale<nb::f16>>;
    const nb::packed<bytes> others = nb::pack(nb::quantize<bytes>(plain));
    CHECK_THROWS_AS(nb::gemm(prepared, others, nb::matrix_view<float>(y.data(), 5, 21)), refused);
    CHECK_THROWS_AS(nb::gemm(nb::prepare<bytes>(from), w, nb::matrix_view<float>(y.data(), 5, 21)), refused);
    nb::set_failure_handler(before);
}

TEST_CASE("a NaN code of an element of one's own spoils its row") {
    using S = nb::scheme<mine::holed6, nb::per_tensor, nb::scale<nb::f32>>;
    nb::quantized<S> q(18, 40);
    q.scales()[0] = nb::encode<nb::f32>(1.0f);
    // Code 37 means NaN; the other codes are 0, that is -32.
    q.row_codes(17)[0] = 37;
    const nb::packed<S> w = nb::pack(q);
    const std::vector<float> x = bell_values(3 * 40, 5);
    nibble_test::for_each_tested_isa([&]<class I>() {
        std::vector<float> y(3 * 18);
        nb::gemm<I>({x.data(), 3, 40}, w, nb::matrix_view<float>(y.data(), 3, 18));
        for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i % 18 == 17));
    });
}

TEST_CASE("an epilogue of one's own is checked before anything is written") {
    struct broken {};
    const auto before = nb::set_failure_handler([](const char*, const char*, int) { throw broken{}; });
    const std::vector<float> w = bell_values(9 * 40, 6);
    const auto weights = nb::pack(nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w.data(), 9, 40)));
    const std::vector<float> x = bell_values(2 * 40, 7);
    const std::vector<float> thresholds(8);
    fenced_matrix y(2, 9, 3);
    CHECK_THROWS_AS(nb::gemm({x.data(), 2, 40}, weights, y.view(), mine::soft_threshold{thresholds}), broken);
    nb::set_failure_handler(before);
    CHECK(y.untouched());
}
