// epilogue/scale.hpp: multiplies results by a constant.
#pragma once

#include <nibble/epilogue/epilogue.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y = factor x y
struct scale_by {
    float factor = 1.0f;
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        return x * Lanes(factor);
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
