// group_size_formats.hpp: the schemes of groups of 16, 256 and 512, beside the sizes of formats.hpp, and the list of
// them.
#pragma once

#include <nibble/element/integer.hpp>
#include <nibble/scheme/formats.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The other sizes that tools make. All of them are the same templates, and so is any multiple of 4 of yours:
// group_scheme<int4, 96>. Not in all_formats, which would add their compile time to everything that walks it.
using int8_g16 = group_scheme<int8, 16>;
using int8_g256 = group_scheme<int8, 256>;
using int8_g512 = group_scheme<int8, 512>;
using int4_g16 = group_scheme<int4, 16>;
using int4_g256 = group_scheme<int4, 256>;
using int4_g512 = group_scheme<int4, 512>;
using int3_g256 = group_scheme<int3, 256>;
using int2_g16 = group_scheme<int2, 16>;
using int2_g256 = group_scheme<int2, 256>;
using int4_g16_asym = asymmetric_scheme<uint4, 16>;
using int4_g256_asym = asymmetric_scheme<uint4, 256>;
using int2_g16_asym = asymmetric_scheme<uint2, 16>;

// Groups of 16, 256 and 512, which all_formats leaves out.
using group_size_formats =
    format_list<named_format<"int8_g16", int8_g16>, named_format<"int8_g256", int8_g256>,
                named_format<"int8_g512", int8_g512>, named_format<"int4_g16", int4_g16>,
                named_format<"int4_g256", int4_g256>, named_format<"int4_g512", int4_g512>,
                named_format<"int3_g256", int3_g256>, named_format<"int2_g16", int2_g16>,
                named_format<"int2_g256", int2_g256>, named_format<"int4_g16_asym", int4_g16_asym>,
                named_format<"int4_g256_asym", int4_g256_asym>, named_format<"int2_g16_asym", int2_g16_asym>>;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
