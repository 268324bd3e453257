// instantiate.hpp: seams: what a format costs to compile, compiled in one unit of a program, not in each that uses it.
#pragma once

#include <nibble/attend.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/gemm.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;

// Most of the time that a first gemm<S> or attend<Keys, Values> in a unit takes to compile goes into loops that do not
// depend on the epilogue, the destination, the executor, or the other of the two schemes. They are functions of their
// own either way, which these macros keep out of a unit, or put there. In a header that all units include
//   NIBBLE_EXTERN_GEMM(nibble::int4_g32);
// and in one source
//   NIBBLE_INSTANTIATE_GEMM(nibble::int4_g32);
// A few formats of one element to a source is best, as those share their tiles: int4_g32 with int4_g128, not with q4_k.
// Results and speed are those of a program without seams. All units must be compiled for the same instruction set (the
// names differ otherwise, and the linker says which is missing). At the outermost level, outside of any namespace; S
// may contain commas.
//   GEMM(S)        gemm, gemm_gated and what calls them, by weights of S, with any activations, results and executor
//   ACTIVATIONS()  fp32 activations as gemm and prepare quantize or copy them: once for a program
//   KEYS(K)        attend and attention_mass of caches whose keys are stored as K, a scheme or along_tokens of one
//   VALUES(V)      and whose values are stored as V
//   ATTENTION()    what they share: once for a program, not for each scheme
#define NIBBLE_EXTERN_GEMM(...) extern NIBBLE_DETAIL_GEMM(__VA_ARGS__)
#define NIBBLE_INSTANTIATE_GEMM(...) NIBBLE_DETAIL_GEMM(__VA_ARGS__)
#define NIBBLE_EXTERN_ACTIVATIONS() extern NIBBLE_DETAIL_ACTIVATIONS()
#define NIBBLE_INSTANTIATE_ACTIVATIONS() NIBBLE_DETAIL_ACTIVATIONS()
#define NIBBLE_EXTERN_KEYS(...) extern NIBBLE_DETAIL_KEYS(__VA_ARGS__)
#define NIBBLE_INSTANTIATE_KEYS(...) NIBBLE_DETAIL_KEYS(__VA_ARGS__)
#define NIBBLE_EXTERN_VALUES(...) extern NIBBLE_DETAIL_VALUES(__VA_ARGS__)
#define NIBBLE_INSTANTIATE_VALUES(...) NIBBLE_DETAIL_VALUES(__VA_ARGS__)
#define NIBBLE_EXTERN_ATTENTION()                                                                                      \
    extern NIBBLE_DETAIL_MEASURE();                                                                                    \
    extern NIBBLE_DETAIL_RUN()
#define NIBBLE_INSTANTIATE_ATTENTION()                                                                                 \
    NIBBLE_DETAIL_MEASURE();                                                                                           \
    NIBBLE_DETAIL_RUN()

#define NIBBLE_DETAIL_GEMM(...)                                                                                        \
    template void nibble::kernel::sum_group<nibble::best_isa, __VA_ARGS__, false>(                                     \
        const nibble::kernel::gemm_plan<__VA_ARGS__, nibble::best_isa>&, const nibble::packed_view<__VA_ARGS__>&,      \
        const nibble::kernel::activation_memory&,                                                                      \
        const nibble::kernel::gemm_plan<__VA_ARGS__, nibble::best_isa>::worker_memory&,                                \
        const nibble::kernel::panel_work&, const nibble::kernel::tokens_done&)
#define NIBBLE_DETAIL_ACTIVATIONS()                                                                                    \
    template void nibble::kernel::prepare_block<nibble::best_isa, float>(                                              \
        const nibble::kernel::activation_layout&, const nibble::kernel::token_rows<float>&,                            \
        const nibble::activation_grid&, std::size_t, const nibble::kernel::activation_memory&, std::int8_t*) noexcept
#define NIBBLE_DETAIL_KEYS(...)                                                                                        \
    template const nibble::detail::key_operations& nibble::detail::key_operations_of<nibble::best_isa, __VA_ARGS__>(   \
        bool) noexcept
#define NIBBLE_DETAIL_VALUES(...)                                                                                      \
    template const nibble::detail::value_operations&                                                                   \
    nibble::detail::value_operations_of<nibble::best_isa, nibble::detail::value_layout<__VA_ARGS__>>(bool) noexcept
#define NIBBLE_DETAIL_MEASURE()                                                                                        \
    template void nibble::detail::measure_task<nibble::best_isa, true>(                                                \
        const nibble::detail::attention_products&, const nibble::detail::kv_sequence&,                                 \
        const nibble::detail::attention_rows&, const nibble::attend_options&, nibble::kernel::arena&)
#define NIBBLE_DETAIL_RUN()                                                                                            \
    template void nibble::detail::run_task<nibble::best_isa, true>(                                                    \
        const nibble::detail::attention_products&, const nibble::detail::kv_sequence&,                                 \
        const nibble::detail::attention_rows&, const nibble::attend_options&, nibble::kernel::arena&,                  \
        nibble::matrix_view<const float>, std::size_t, std::size_t, const nibble::detail::attention_sums&,             \
        const nibble::detail::attention_sums*)

NIBBLE_HEADER_END;
