// linear_blocks.cpp: blocks of 32.
#include "linear_unit.hpp"

#include <nibble/scheme/ggml_formats.hpp>

weight_unit block_weights() {
    using formats = nb::format_list<nb::named_format<"q4_0", nb::q4_0>, nb::named_format<"q5_0", nb::q5_0>,
                                    nb::named_format<"q8_0", nb::q8_0>, nb::named_format<"int4_g32", nb::int4_g32>,
                                    nb::named_format<"mxfp4", nb::mxfp4>>;
    return weight_unit_of<formats>();
}
