// fixed.hpp: the instruction set of this translation unit, from its compiler flags; the default of every verb.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/avx2.hpp>
#include <nibble/isa/avx512.hpp>
#include <nibble/isa/avx512_amx.hpp>
#include <nibble/isa/avx512_vnni.hpp>
#include <nibble/isa/avx_vnni.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/neon.hpp>
#include <nibble/isa/neon_dotprod.hpp>
#include <nibble/isa/neon_i8mm.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

template <isa... Isas> struct isa_list {};

// The best ISA that this unit's flags allow.
#if NIBBLE_HAS_AMX
using best_isa = avx512_amx;
#elif NIBBLE_HAS_AVX512
using best_isa = avx512_vnni;
#elif NIBBLE_HAS_AVX512VL
using best_isa = avx512;
#elif NIBBLE_HAS_VNNI
using best_isa = avx_vnni;
#elif NIBBLE_HAS_AVX2
using best_isa = avx2;
#elif NIBBLE_HAS_NEON_I8MM
using best_isa = neon_i8mm;
#elif NIBBLE_HAS_NEON_DOTPROD
using best_isa = neon_dotprod;
#elif NIBBLE_HAS_NEON
using best_isa = neon;
#else
using best_isa = generic;
#endif

// The ISAs that verbs are tested and timed on, best first: that one, and the definition of what it gives. Activations
// prepared on one serve the other.
#if NIBBLE_HAS_AVX2 || NIBBLE_HAS_NEON
using available_isas = isa_list<best_isa, generic>;
#else
using available_isas = isa_list<generic>;
#endif
static_assert(best_isa::facts.prepares_alike(generic::facts));

// Every ISA whose instructions the flags allow: those that others are made of too.
#if NIBBLE_HAS_AMX && NIBBLE_HAS_AVX_VNNI
using compiled_isas = isa_list<avx512_amx, avx512_vnni, avx512, avx_vnni, avx2, generic>;
#elif NIBBLE_HAS_AMX
using compiled_isas = isa_list<avx512_amx, avx512_vnni, avx512, avx2, generic>;
#elif NIBBLE_HAS_AVX512 && NIBBLE_HAS_AVX_VNNI
using compiled_isas = isa_list<avx512_vnni, avx512, avx_vnni, avx2, generic>;
#elif NIBBLE_HAS_AVX512
using compiled_isas = isa_list<avx512_vnni, avx512, avx2, generic>;
#elif NIBBLE_HAS_AVX512VL && NIBBLE_HAS_AVX_VNNI
using compiled_isas = isa_list<avx512, avx_vnni, avx2, generic>;
#elif NIBBLE_HAS_AVX512VL
using compiled_isas = isa_list<avx512, avx2, generic>;
#elif NIBBLE_HAS_AVX_VNNI
using compiled_isas = isa_list<avx_vnni, avx2, generic>;
#elif NIBBLE_HAS_NEON_I8MM
using compiled_isas = isa_list<neon_i8mm, neon_dotprod, neon, generic>;
#elif NIBBLE_HAS_NEON_DOTPROD
using compiled_isas = isa_list<neon_dotprod, neon, generic>;
#else
using compiled_isas = available_isas;
#endif

template <class Visit, class... Isas> constexpr void for_each_isa(isa_list<Isas...>, Visit&& visit) {
    (visit.template operator()<Isas>(), ...);
}
template <class Visit> constexpr void for_each_isa(Visit&& visit) {
    for_each_isa(available_isas{}, visit);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
