// own_schemes.cpp: schemes that no named format has: MX scale rules, offsets, spans that end inside of rows.
#include "pack/every_format.hpp"
#include "quantize/every_format.hpp"
#include "support/catch.hpp"

#include <nibble/kernel/quantize.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

using namespace nibble;

TEST_CASE("quantize: scale rules of MX, mean offsets and spans keep the documented rules", "[quantize][scheme]") {
    using nibble_test::check_format;
    using nibble_test::verbs_of;
    using rounded = scheme<e2m1, per_group<32>, scale<e8m0, by_exponent_rounded>>;
    using no_clip = scheme<e4m3, per_group<32>, scale<e8m0, by_exponent_no_clip>>;
    using double_nf4 = scheme<nf4, two_level<per_group<64>, per_flat_block<16384>>,
                              two_level_scale<int8, f32, by_largest, mean_offset>>;
    using spans = scheme<int4, per_flat_block<96>, scale<f32>>;
    check_format(verbs_of<rounded>("MXFP4, rounded"));
    check_format(verbs_of<no_clip>("MXFP8, no clipping"));
    check_format(verbs_of<double_nf4>("NF4, double quantization"));
    check_format(verbs_of<spans>("int4, spans of 96"));
    check_format(verbs_of<msfp12>("MSFP-12"));
    nibble_test::check_pack<double_nf4>("NF4, double quantization");
    nibble_test::check_pack<spans>("int4, spans of 96");
}

TEST_CASE("quantize: spans that divide the rows are groups", "[quantize][scheme]") {
    // Two super-blocks of 512 columns and a part of one; some values not finite, some groups of zeros and of
    // subnormals.
    std::vector<float> x = nibble_test::normal_values(5 * 1088, 22);
    for (std::size_t i = 192; i < 320; ++i) x[i] = i < 256 ? 0.0f : 1e-40f;
    x[700] = std::numeric_limits<float>::quiet_NaN();
    x[2000] = -std::numeric_limits<float>::infinity();
    const matrix_view<const float> view(x.data(), 5, 1088);
    const auto compare = [&]<class Span, class Group>() {
        for (const range how : {range::absmax, range::least_squares})
            for (const nonfinite_policy policy : {nonfinite_policy::mark, nonfinite_policy::zero})
                for (const bool flush : {false, true}) {
                    const quantize_options options{.range = how, .nonfinite = policy, .flush_subnormals = flush};
                    const auto s = quantize<Span>(view, options);
                    const auto g = quantize<Group>(view, options);
                    REQUIRE(s.scale_count() == g.scale_count());
                    CHECK(std::equal(s.row_codes(0), s.row_codes(0) + 5 * s.row_bytes(), g.row_codes(0)));
                    CHECK(std::equal(s.scales(), s.scales() + s.scale_count(), g.scales()));
                    CHECK(std::equal(s.zeros(), s.zeros() + s.zero_count(), g.zeros()));
                    CHECK((s.nonfinite() && g.nonfinite()));
                }
    };
    compare.template operator()<scheme<nf4, per_flat_block<64>, scale<f32>>, scheme<nf4, per_group<64>, scale<f32>>>();
    compare.template operator()<scheme<e2m1, per_flat_block<32>, scale<e8m0>>, mxfp4>();
    compare.template operator()<scheme<uint4, per_flat_block<32>, scale<f16>, integer_zero>, int4_g32_asym>();
    compare.template operator()<scheme<uint2, per_flat_block<16>, scale<f16>, minimum<f16>>, int2_g16_min>();
}

TEST_CASE("quantize: runs are measured together as one by one", "[quantize][scheme]") {
    for (const std::size_t run : {16u, 32u, 64u, 128u, 512u})
        for (std::size_t runs = 1; run * runs <= kernel::quantize_block; runs = runs * 2 + 1) {
            std::vector<float> x = nibble_test::normal_values(run * runs, run + runs);
            for (std::size_t i = 0; i < run; ++i) x[i] = i % 3 == 0 ? -0.0f : runs % 2 == 0 ? -1e-41f : 0.0f;
            x[x.size() - 1] = run % 32 == 0 ? -3.4e38f : 3.4e38f;
            std::vector<float> largest(runs), low(runs), high(runs);
            std::vector<unsigned char> nonfinite(runs, 1);
            const kernel::statistics_of_groups to{largest.data(), low.data(), high.data(), nullptr, nonfinite.data()};
            REQUIRE(kernel::measure_whole_groups<true>(x.data(), run, runs, to));
            for (std::size_t i = 0; i < runs; ++i) {
                const group_statistics g = kernel::measure<true>(x.data() + i * run, run, false);
                CHECK(std::bit_cast<std::uint32_t>(g.largest) == std::bit_cast<std::uint32_t>(largest[i]));
                CHECK(std::bit_cast<std::uint32_t>(g.low) == std::bit_cast<std::uint32_t>(low[i]));
                CHECK(std::bit_cast<std::uint32_t>(g.high) == std::bit_cast<std::uint32_t>(high[i]));
                CHECK(nonfinite[i] == 0);
            }
            std::vector<float> again(runs);
            const kernel::statistics_of_groups magnitudes{again.data(), nullptr, nullptr, nullptr, nonfinite.data()};
            REQUIRE(kernel::measure_whole_groups<false>(x.data(), run, runs, magnitudes));
            CHECK(again == largest);
            for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
                for (const std::size_t at : {std::size_t{0}, x.size() / 2, x.size() - 1}) {
                    std::vector<float> y = x;
                    y[at] = bad;
                    CHECK_FALSE(kernel::measure_whole_groups<true>(y.data(), run, runs, to));
                    CHECK_FALSE(kernel::measure_whole_groups<false>(y.data(), run, runs, magnitudes));
                }
        }
}

TEST_CASE("quantize: MSFP is block floating point with another code", "[quantize][scheme]") {
    const std::vector<float> x = nibble_test::normal_values(64 * 16, 21);
    const matrix_view<const float> view(x.data(), 16, 64);
    const auto compare = [&]<class Msfp, class Bfp>() {
        const auto m = quantize<Msfp>(view);
        const auto b = quantize<Bfp>(view);
        bool same = true;
        for (std::size_t i = 0; i < 16; ++i)
            for (std::size_t j = 0; j < 64; ++j) same = same && m.value_at(i, j) == b.value_at(i, j);
        CHECK(same);
        CHECK(bits_per_weight(m) == bits_per_weight(b));
    };
    compare.template operator()<msfp12, bfp12_g16>();
    compare.template operator()<msfp16, bfp16_g16>();
    // formats.md, section 5: {3.2, -1, 0.3, 0.05} in steps of 0.5 are 6, -2, 1, 0; a sign bit above the magnitude.
    std::vector<float> block(16, 0.0f);
    block[0] = 3.2f;
    block[1] = -1.0f;
    block[2] = 0.3f;
    block[3] = 0.05f;
    const auto q = quantize<msfp12>(matrix_view<const float>(block.data(), 1, 16));
    CHECK(q.code_at(0, 0) == 6);
    CHECK(q.code_at(0, 1) == 10);
    CHECK(q.code_at(0, 2) == 1);
    CHECK(q.code_at(0, 3) == 0);
    CHECK(q.scale_at(0, 0) == 0.5f);
}
