// neon_i8mm.hpp: Advanced SIMD with four products of unsigned and signed bytes summed in int32 by one instruction.
// Compiler flags: -march=armv8.2-a+dotprod+i8mm
//
// instruction           what for                       per cycle, Neoverse V1
// usdot                 4 products onto an int32       4
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_NEON_I8MM

#include <nibble/isa/int32_dots.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/neon_dotprod.hpp>

#include <arm_neon.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

struct neon_i8mm_quads : neon_dotprod {
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        const int8x16_t a = vreinterpretq_s8_u8(activations.low);
        return {vusdotq_s32(total.low, codes.low, a), vusdotq_s32(total.high, codes.high, a)};
    }
};

} // namespace detail

struct neon_i8mm : int32_dots<detail::neon_i8mm_quads> {
    static constexpr const char* name = "neon_i8mm";
    static constexpr isa_facts facts{.dots_in_int32 = true,
                                     .integer_tiles = {.longest = 4, .shorter = 4},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .exact_byte_products = true,
                                     .vector_registers = 32,
                                     .unrolled_quads = 1};
};

static_assert(whole_isa<neon_i8mm>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_NEON_I8MM
