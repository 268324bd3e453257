// neon_dotprod.hpp: Advanced SIMD with four products of signed bytes summed in int32 by one instruction.
// Compiler flags: -march=armv8.2-a+dotprod
//
// instruction           what for                       per cycle, Neoverse N1 / V1
// sdot                  4 products onto an int32       2 / 4
// eor                   codes become signed            2 / 4, once for all tokens of a tile
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_NEON_DOTPROD

#include <nibble/isa/isa.hpp>
#include <nibble/isa/neon.hpp>

#include <arm_neon.h>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct neon_dotprod : neon {
    static constexpr const char* name = "neon_dotprod";
    static constexpr isa_facts facts{.dots_in_int32 = true,
                                     .integer_tiles = {.longest = 4, .shorter = 4},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .exact_byte_products = true,
                                     .starts_from_sums = true,
                                     .vector_registers = 32,
                                     .unrolled_quads = 1};
    using sums = i32;

    // Both operands are signed: a code less 128 is, and its sums are those of a centre that is less by as much.
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        return pairs_start(pair, center - 128);
    }
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        const int8x16_t a = vreinterpretq_s8_u8(activations.low);
        const uint8x16_t sign = vdupq_n_u8(0x80);
        return {vdotq_s32(s.low, vreinterpretq_s8_u8(veorq_u8(codes.low, sign)), a),
                vdotq_s32(s.high, vreinterpretq_s8_u8(veorq_u8(codes.high, sign)), a)};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept { return s; }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept {
        return add(total, s);
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        const int8x16_t a = vreinterpretq_s8_u8(activations.low);
        const int32x4_t offset = vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), a, vdupq_n_s8(1)), 7);
        return dot(add(total, {offset, offset}), codes, activations);
    }
};

static_assert(whole_isa<neon_dotprod>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_NEON_DOTPROD
