// seams.hpp: of the named formats' verbs what nibble_verbs and gemm/slices/ compile, kept out of the units that include
// this: sums of products on all ISAs, and quantize, pack and dequantize in one thread. Half of what those take to
// compile.
#pragma once

#include "support/kinds.hpp"

#include <nibble/core/executor.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <type_traits>

namespace nibble_test::seams {

template <std::size_t At, class First, class... Rest> auto nth(nibble::format_list<First, Rest...>) {
    if constexpr (At == 0)
        return First{};
    else
        return nth<At - 1>(nibble::format_list<Rest...>{});
}
template <class... Formats> constexpr std::size_t count_of(nibble::format_list<Formats...>) {
    return sizeof...(Formats);
}
// Format number At, or, where there is none or this build does not compile it, the first, which every build does:
// saying twice that a template is elsewhere is no fault.
template <std::size_t At> inline constexpr std::size_t known = At < count_of(nibble::all_formats{}) ? At : 0;
template <std::size_t At> using format = decltype(nth<known<At>>(nibble::all_formats{}));
template <std::size_t At>
using compiled = typename std::conditional_t<tested<known<At>, format<At>>, format<At>, format<0>>::scheme;
template <std::size_t At>
using generic_too = typename std::conditional_t<tested<known<At>, format<At>> && on_all_isas<known<At>, format<At>>,
                                                format<At>, format<0>>::scheme;
static_assert(tested<0, format<0>> && on_all_isas<0, format<0>>);
static_assert(count_of(nibble::all_formats{}) <= 96, "one more line of NIBBLE_TEST_EIGHT_SEAMS below");

} // namespace nibble_test::seams

#if defined(NIBBLE_TEST_SEAMS)
#define NIBBLE_TEST_SUMS(ISA, ...)                                                                                     \
    extern template void nibble::kernel::sum_group<ISA, __VA_ARGS__, false>(                                           \
        const nibble::kernel::gemm_plan<__VA_ARGS__, ISA>&, const nibble::packed_view<__VA_ARGS__>&,                   \
        const nibble::kernel::activation_memory&, const nibble::kernel::gemm_plan<__VA_ARGS__, ISA>::worker_memory&,   \
        const nibble::kernel::panel_work&, const nibble::kernel::tokens_done&);
#define NIBBLE_TEST_VERBS(...)                                                                                         \
    extern template nibble::quantized<__VA_ARGS__> nibble::quantize<__VA_ARGS__, nibble::serial>(                      \
        nibble::matrix_view<const float>, const nibble::quantize_options&, const nibble::serial&);                     \
    extern template nibble::packed<__VA_ARGS__> nibble::pack<__VA_ARGS__, nibble::serial>(                             \
        const nibble::quantized<__VA_ARGS__>&, const nibble::serial&);                                                 \
    extern template void nibble::dequantize<nibble::best_isa, __VA_ARGS__, nibble::serial>(                            \
        const nibble::quantized<__VA_ARGS__>&, nibble::matrix_view<float>, const nibble::serial&);
#define NIBBLE_TEST_SEAM(AT)                                                                                           \
    NIBBLE_TEST_SUMS(nibble::best_isa, nibble_test::seams::compiled<AT>)                                               \
    NIBBLE_TEST_SUMS(nibble::generic, nibble_test::seams::generic_too<AT>)                                             \
    NIBBLE_TEST_VERBS(nibble_test::seams::compiled<AT>)
#define NIBBLE_TEST_EIGHT_SEAMS(AT)                                                                                    \
    NIBBLE_TEST_SEAM(AT)                                                                                               \
    NIBBLE_TEST_SEAM(AT + 1)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 2)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 3)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 4)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 5)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 6)                                                                                           \
    NIBBLE_TEST_SEAM(AT + 7)
NIBBLE_TEST_EIGHT_SEAMS(0)
NIBBLE_TEST_EIGHT_SEAMS(8)
NIBBLE_TEST_EIGHT_SEAMS(16)
NIBBLE_TEST_EIGHT_SEAMS(24)
NIBBLE_TEST_EIGHT_SEAMS(32)
NIBBLE_TEST_EIGHT_SEAMS(40)
NIBBLE_TEST_EIGHT_SEAMS(48)
NIBBLE_TEST_EIGHT_SEAMS(56)
NIBBLE_TEST_EIGHT_SEAMS(64)
NIBBLE_TEST_EIGHT_SEAMS(72)
NIBBLE_TEST_EIGHT_SEAMS(80)
NIBBLE_TEST_EIGHT_SEAMS(88)
#undef NIBBLE_TEST_EIGHT_SEAMS
#undef NIBBLE_TEST_SEAM
#undef NIBBLE_TEST_VERBS
#undef NIBBLE_TEST_SUMS
#endif
