// config.hpp: compiler facts and the ABI namespace; the only file with #if on compilers and instruction sets.
#pragma once

#include <nibble/version.hpp>

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "nibble needs C++20: compile with -std=c++20 or newer"
#endif

#if defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ < 16
#error "nibble needs Clang 16 or newer"
#elif defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "nibble needs GCC 12 or newer"
#endif

// Under AddressSanitizer and ThreadSanitizer every access is checked: what is inlined a hundred times into one tile would then
// take compilers minutes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NIBBLE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define NIBBLE_SANITIZED 1
#endif
#endif
#if !defined(NIBBLE_SANITIZED)
#define NIBBLE_SANITIZED 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#if NIBBLE_SANITIZED
#define NIBBLE_INLINE inline
#define NIBBLE_INLINE_LAMBDA
#else
#define NIBBLE_INLINE inline __attribute__((always_inline))
// For lambdas, between the parameters and the body: in a large unit compilers stop inlining what is called twice.
#define NIBBLE_INLINE_LAMBDA __attribute__((always_inline))
#endif
#define NIBBLE_NOINLINE __attribute__((noinline))
#define NIBBLE_RESTRICT __restrict__
// An integer or pointer whose value the optimiser knows nothing of: in a loop it then keeps one pointer for several streams,
// where GCC would keep a pointer for each and, out of registers, move them through vector registers.
#define NIBBLE_OPAQUE(x) __asm__("" : "+r"(x))
#define NIBBLE_LIKELY(x) __builtin_expect(!!(x), 1)
#define NIBBLE_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#error "nibble supports GCC 12 or newer and Clang 16 or newer"
#endif

// What follows, up to the ABI namespace, is for isa/ and dispatch/ alone: everything else asks an ISA.

// Was this unit compiled for a Zen (-march=znver3, or native on one)? It decides which instructions ask for memory.
#if defined(__znver1__) || defined(__znver2__) || defined(__znver3__) || defined(__znver4__) || defined(__znver5__) ||                   \
    defined(__tune_znver1__) || defined(__tune_znver2__) || defined(__tune_znver3__) || defined(__tune_znver4__) ||                      \
    defined(__tune_znver5__)
#define NIBBLE_TUNED_FOR_ZEN 1
#define NIBBLE_TUNE_TAG _zen
#else
#define NIBBLE_TUNED_FOR_ZEN 0
#define NIBBLE_TUNE_TAG
#endif

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define NIBBLE_HAS_AVX2 1
#else
#define NIBBLE_HAS_AVX2 0
#endif

// isa/avx512.hpp: forms of 256 bits, and a table of 16 fp32 values in one shuffle.
#if NIBBLE_HAS_AVX2 && defined(__AVX512VL__) && defined(__AVX512F__)
#define NIBBLE_HAS_AVX512VL 1
#else
#define NIBBLE_HAS_AVX512VL 0
#endif

// isa/avx512_vnni.hpp: tiles of products in 512 bits.
#if NIBBLE_HAS_AVX512VL && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define NIBBLE_HAS_AVX512 1
#else
#define NIBBLE_HAS_AVX512 0
#endif

// isa/avx_vnni.hpp: four products of unsigned and signed bytes summed in int32 in one instruction, of 256 bits.
#if NIBBLE_HAS_AVX2 && defined(__AVXVNNI__)
#define NIBBLE_HAS_AVX_VNNI 1
#else
#define NIBBLE_HAS_AVX_VNNI 0
#endif

// Does the best ISA of this unit have that instruction? Which kernels there are and the order of weights and
// activations depend on it: NIBBLE_ISA_TAG must tell apart whatever these macros do.
#if NIBBLE_HAS_AVX512 || (NIBBLE_HAS_AVX_VNNI && !defined(__AVX512F__))
#define NIBBLE_HAS_VNNI 1
#else
#define NIBBLE_HAS_VNNI 0
#endif

// Everything in nibble lives in an inline namespace that names the version, and the instruction set and kind of processor of the
// translation unit. Two units compiled with different flags then share no weak symbol, so the linker can never keep an AVX2 copy of
// a function for a program part that must run without it; passing a nibble type between such units is a link error.
#if NIBBLE_HAS_AVX512
#define NIBBLE_ISA_TAG avx512_vnni
#elif NIBBLE_HAS_AVX512VL && NIBBLE_HAS_VNNI
#define NIBBLE_ISA_TAG avx512vl_avx_vnni
#elif NIBBLE_HAS_AVX512VL
#define NIBBLE_ISA_TAG avx512vl
#elif NIBBLE_HAS_AVX2 && defined(__AVX512F__)
#define NIBBLE_ISA_TAG avx512f
#elif defined(__AVX512F__) && defined(__FMA__)
#define NIBBLE_ISA_TAG avx512f_without_f16c
#elif defined(__AVX512F__)
#define NIBBLE_ISA_TAG avx512f_without_fma
#elif NIBBLE_HAS_VNNI
#define NIBBLE_ISA_TAG avx_vnni
#elif NIBBLE_HAS_AVX2
#define NIBBLE_ISA_TAG avx2
#elif defined(__AVX__) && defined(__FMA__)
#define NIBBLE_ISA_TAG avx_fma
#elif defined(__AVX__)
#define NIBBLE_ISA_TAG avx
#elif defined(__SSE4_1__)
#define NIBBLE_ISA_TAG sse4_1
#elif defined(__x86_64__)
#define NIBBLE_ISA_TAG x86_64
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define NIBBLE_ISA_TAG neon_i8mm
#elif defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_ISA_TAG neon_dotprod
#elif defined(__ARM_NEON)
#define NIBBLE_ISA_TAG neon
#else
#define NIBBLE_ISA_TAG portable
#endif

#if defined(__FAST_MATH__)
#define NIBBLE_MATH_TAG _fast_math
#else
#define NIBBLE_MATH_TAG
#endif

#define NIBBLE_DETAIL_JOIN(a, b, c, d, e, f) a##b##_##c##_##d##e##f
#define NIBBLE_DETAIL_EXPAND(a, b, c, d, e, f) NIBBLE_DETAIL_JOIN(a, b, c, d, e, f)
#define NIBBLE_ABI                                                                                                    \
    NIBBLE_DETAIL_EXPAND(v, NIBBLE_VERSION_MAJOR, NIBBLE_VERSION_MINOR, NIBBLE_ISA_TAG, NIBBLE_TUNE_TAG, NIBBLE_MATH_TAG)

// Fused multiply-add in hardware: the reproducibility promise needs it for speed; without it std::fma is called.
#if defined(__FMA__) || defined(__ARM_NEON) || defined(__ARM_FEATURE_FMA)
#define NIBBLE_HAS_FMA 1
#else
#define NIBBLE_HAS_FMA 0
#endif

// Around functions of 512 bits: GCC 12 warns of the undefined registers in its own headers, wherever those are inlined, and, not
// optimising, of the masks in its own macros.
#if defined(__GNUC__) && !defined(__clang__)
#define NIBBLE_GCC_UNDEFINED_BEGIN                                                                                    \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")                        \
        _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") _Pragma("GCC diagnostic ignored \"-Wsign-conversion\"")
#define NIBBLE_GCC_UNDEFINED_END _Pragma("GCC diagnostic pop")
#else
#define NIBBLE_GCC_UNDEFINED_BEGIN
#define NIBBLE_GCC_UNDEFINED_END
#endif

// Vector registers there are to plan for.
#if NIBBLE_HAS_AVX512VL || defined(__aarch64__)
#define NIBBLE_VECTOR_REGISTERS 32
#else
#define NIBBLE_VECTOR_REGISTERS 16
#endif
