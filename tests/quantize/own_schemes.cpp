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
    nibble_test::check_pack<double_nf4>("NF4, double quantization");
    nibble_test::check_pack<spans>("int4, spans of 96");
}
