// avx_vnni.hpp: AVX2 with four byte products summed in int32 by one instruction.
// Compiler flags: -mavxvnni (with -mavx2 -mfma -mf16c)
//
// instruction           what for                       per cycle, Intel
// vpdpbusd              4 products onto an int32       2
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_AVX_VNNI

#include <nibble/isa/avx2.hpp>
#include <nibble/isa/int32_dots.hpp>
#include <nibble/isa/isa.hpp>

#include <immintrin.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

struct avx_vnni_quads : avx2 {
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        return {_mm256_dpbusd_avx_epi32(total.v, codes.v, activations.v)};
    }
};

} // namespace detail

struct avx_vnni : int32_dots<detail::avx_vnni_quads> {
    static constexpr const char* name = "avx_vnni";
    static constexpr isa_facts facts{.dots_in_int32 = true,
                                     .integer_tiles = {.longest = 4, .shorter = 4},
                                     .float_tiles = {.longest = 6, .shorter = 6},
                                     .vector_registers = 16,
                                     .prefetches_second_level = NIBBLE_TUNED_FOR_ZEN != 0};
};

static_assert(whole_isa<avx_vnni>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_AVX_VNNI
