// fixed.hpp: the instruction set of this translation unit, from its compiler flags; the default of every verb.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/avx2.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/isa.hpp>

namespace nibble::inline NIBBLE_ABI {

template <isa... Isas>
struct isa_list {};

// Every ISA this unit's flags allow, best first; and the best.
#if NIBBLE_HAS_AVX2
using available_isas = isa_list<avx2, generic>;
using best_isa = avx2;
#else
using available_isas = isa_list<generic>;
using best_isa = generic;
#endif

template <class Visit, class... Isas>
constexpr void for_each_isa(isa_list<Isas...>, Visit&& visit) {
    (visit.template operator()<Isas>(), ...);
}
template <class Visit>
constexpr void for_each_isa(Visit&& visit) {
    for_each_isa(available_isas{}, visit);
}

} // namespace nibble::inline NIBBLE_ABI
