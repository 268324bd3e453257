// own_schemes.cpp: schemes that no named format has: MX scale rules, offsets, spans that end inside of rows.
#include "pack/every_format.hpp"
#include "quantize/every_format.hpp"
#include "support/catch.hpp"

#include <nibble/scheme/formats.hpp>

using namespace nibble;

TEST_CASE("quantize: scale rules of MX, mean offsets and spans keep the documented rules", "[quantize][scheme]") {
    using nibble_test::check_format;
    using nibble_test::verbs_of;
    using rounded = scheme<e2m1, per_group<32>, scale<e8m0, by_exponent_rounded>>;
    using no_clip = scheme<e4m3, per_group<32>, scale<e8m0, by_exponent_no_clip>>;
    using double_nf4 =
        scheme<nf4, two_level<per_group<64>, per_span<16384>>, two_level_scale<int8, f32, by_largest, mean_offset>>;
    using spans = scheme<int4, per_span<96>, scale<f32>>;
    check_format(verbs_of<rounded>("MXFP4, rounded"));
    check_format(verbs_of<no_clip>("MXFP8, no clipping"));
    check_format(verbs_of<double_nf4>("NF4, double quantization"));
    check_format(verbs_of<spans>("int4, spans of 96"));
    check_format(verbs_of<msfp12>("MSFP-12"));
    nibble_test::check_pack<double_nf4>("NF4, double quantization");
    nibble_test::check_pack<spans>("int4, spans of 96");
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
