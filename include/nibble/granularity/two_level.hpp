// two_level.hpp: small scales under larger ones: NVFP4's groups under a tensor, 4-bit scales under a channel.
#pragma once

#include <nibble/granularity/granularity.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The effective scale of a weight is inner x outer. As a granularity it is its inner one.
template <granularity Inner, granularity Outer> struct two_level : Inner {
    using inner = Inner;
    using outer = Outer;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
