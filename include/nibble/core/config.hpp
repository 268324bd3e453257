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

// Under AddressSanitizer and ThreadSanitizer every access is checked: what is inlined a hundred times into one tile
// would then take compilers minutes.
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
// An integer or pointer whose value the optimiser knows nothing of: in a loop it then keeps one pointer for several
// streams, where GCC would keep a pointer for each and, out of registers, move them through vector registers.
#define NIBBLE_OPAQUE(x) __asm__("" : "+r"(x))
#define NIBBLE_LIKELY(x) __builtin_expect(!!(x), 1)
#define NIBBLE_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#error "nibble supports GCC 12 or newer and Clang 16 or newer"
#endif

// In a loop that waits for another thread: lets the processor rest for some tens of cycles.
#if defined(__x86_64__)
#define NIBBLE_SPIN_HINT() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define NIBBLE_SPIN_HINT() __asm__ volatile("isb" ::: "memory")
#else
#define NIBBLE_SPIN_HINT() __asm__ volatile("" ::: "memory")
#endif

// What follows, up to the ABI namespace, is for isa/ and dispatch/ alone: everything else asks an ISA.

// Was this unit compiled for a Zen (-march=znver3, or native on one)? It decides which instructions ask for memory.
#if defined(__znver1__) || defined(__znver2__) || defined(__znver3__) || defined(__znver4__) || defined(__znver5__) || \
    defined(__tune_znver1__) || defined(__tune_znver2__) || defined(__tune_znver3__) || defined(__tune_znver4__) ||    \
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

// isa/avx512_amx.hpp: tiles of 16 x 64 bytes.
#if NIBBLE_HAS_AVX512 && defined(__AMX_TILE__) && defined(__AMX_INT8__)
#define NIBBLE_HAS_AMX 1
#else
#define NIBBLE_HAS_AMX 0
#endif

// isa/avx_vnni.hpp: four products of unsigned and signed bytes summed in int32 in one instruction, of 256 bits.
#if NIBBLE_HAS_AVX2 && defined(__AVXVNNI__)
#define NIBBLE_HAS_AVX_VNNI 1
#else
#define NIBBLE_HAS_AVX_VNNI 0
#endif

// isa/neon.hpp: vectors of 128 bits, which every AArch64 has; in memory the lowest lane and byte come first.
#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__ARM_FP) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NIBBLE_HAS_NEON 1
#else
#define NIBBLE_HAS_NEON 0
#endif

// isa/neon_dotprod.hpp: four products of signed bytes summed in int32.
#if NIBBLE_HAS_NEON && defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_HAS_NEON_DOTPROD 1
#else
#define NIBBLE_HAS_NEON_DOTPROD 0
#endif

// isa/neon_i8mm.hpp: of unsigned and signed bytes.
#if NIBBLE_HAS_NEON_DOTPROD && defined(__ARM_FEATURE_MATMUL_INT8)
#define NIBBLE_HAS_NEON_I8MM 1
#else
#define NIBBLE_HAS_NEON_I8MM 0
#endif

// Has the best ISA of this unit an instruction that sums four byte products in int32? Which kernels there are and the
// order of weights and activations depend on it: NIBBLE_ABI must tell apart whatever these macros do.
#if NIBBLE_HAS_AVX512 || (NIBBLE_HAS_AVX_VNNI && !defined(__AVX512F__))
#define NIBBLE_HAS_VNNI 1
#else
#define NIBBLE_HAS_VNNI 0
#endif
#if NIBBLE_HAS_VNNI || NIBBLE_HAS_NEON_DOTPROD
#define NIBBLE_HAS_INT32_DOTS 1
#else
#define NIBBLE_HAS_INT32_DOTS 0
#endif

// Everything in nibble lives in an inline namespace that names the version, the kind of kernels, and in its last word
// every instruction set that the flags allow, what they say of arithmetic, and the kind of processor. Compilers use
// whatever they may in any function, so what kernels ask for does not do. Two units compiled with different flags then
// share no symbol, and the linker can never keep an AVX2 copy of a function for a program part that must run without
// it; passing a nibble type between such units is a link error. What a compiler has no macro for cannot be told apart:
// of GCC 12 +rcpc, +flagm and +mops on aarch64, of Clang -fno-signed-zeros, -fassociative-math and -freciprocal-math.
#if NIBBLE_HAS_AMX
#define NIBBLE_ISA_TAG avx512_amx
#elif NIBBLE_HAS_AVX512
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
#elif NIBBLE_HAS_NEON_I8MM
#define NIBBLE_ISA_TAG neon_i8mm
#elif NIBBLE_HAS_NEON_DOTPROD
#define NIBBLE_ISA_TAG neon_dotprod
#elif NIBBLE_HAS_NEON
#define NIBBLE_ISA_TAG neon
#else
#define NIBBLE_ISA_TAG portable
#endif

// Five macros as a digit, 0 to v: a bit each, 1 if it is defined as 1. (What is 1 makes NIBBLE_DETAIL_BIT_1, whose
// comma puts that 1 in the second place.)
#define NIBBLE_DETAIL_BIT_1 0,
#define NIBBLE_DETAIL_SECOND(a, b, ...) b
#define NIBBLE_DETAIL_DIGIT_JOIN(a, b, c, d, e) NIBBLE_DETAIL_DIGIT_##a##b##c##d##e
#define NIBBLE_DETAIL_DIGIT_FROM(a, b, c, d, e) NIBBLE_DETAIL_DIGIT_JOIN(a, b, c, d, e)
#define NIBBLE_DETAIL_DIGIT_CHOOSE(a, b, c, d, e)                                                                      \
    NIBBLE_DETAIL_DIGIT_FROM(NIBBLE_DETAIL_SECOND(a 1, 0, 0), NIBBLE_DETAIL_SECOND(b 1, 0, 0),                         \
                             NIBBLE_DETAIL_SECOND(c 1, 0, 0), NIBBLE_DETAIL_SECOND(d 1, 0, 0),                         \
                             NIBBLE_DETAIL_SECOND(e 1, 0, 0))
#define NIBBLE_DETAIL_DIGIT_OF(a, b, c, d, e)                                                                          \
    NIBBLE_DETAIL_DIGIT_CHOOSE(NIBBLE_DETAIL_BIT_##a, NIBBLE_DETAIL_BIT_##b, NIBBLE_DETAIL_BIT_##c,                    \
                               NIBBLE_DETAIL_BIT_##d, NIBBLE_DETAIL_BIT_##e)
#define NIBBLE_DETAIL_DIGIT(a, b, c, d, e) NIBBLE_DETAIL_DIGIT_OF(a, b, c, d, e)
#define NIBBLE_DETAIL_DIGIT_00000 0
#define NIBBLE_DETAIL_DIGIT_00001 1
#define NIBBLE_DETAIL_DIGIT_00010 2
#define NIBBLE_DETAIL_DIGIT_00011 3
#define NIBBLE_DETAIL_DIGIT_00100 4
#define NIBBLE_DETAIL_DIGIT_00101 5
#define NIBBLE_DETAIL_DIGIT_00110 6
#define NIBBLE_DETAIL_DIGIT_00111 7
#define NIBBLE_DETAIL_DIGIT_01000 8
#define NIBBLE_DETAIL_DIGIT_01001 9
#define NIBBLE_DETAIL_DIGIT_01010 a
#define NIBBLE_DETAIL_DIGIT_01011 b
#define NIBBLE_DETAIL_DIGIT_01100 c
#define NIBBLE_DETAIL_DIGIT_01101 d
#define NIBBLE_DETAIL_DIGIT_01110 e
#define NIBBLE_DETAIL_DIGIT_01111 f
#define NIBBLE_DETAIL_DIGIT_10000 g
#define NIBBLE_DETAIL_DIGIT_10001 h
#define NIBBLE_DETAIL_DIGIT_10010 i
#define NIBBLE_DETAIL_DIGIT_10011 j
#define NIBBLE_DETAIL_DIGIT_10100 k
#define NIBBLE_DETAIL_DIGIT_10101 l
#define NIBBLE_DETAIL_DIGIT_10110 m
#define NIBBLE_DETAIL_DIGIT_10111 n
#define NIBBLE_DETAIL_DIGIT_11000 o
#define NIBBLE_DETAIL_DIGIT_11001 p
#define NIBBLE_DETAIL_DIGIT_11010 q
#define NIBBLE_DETAIL_DIGIT_11011 r
#define NIBBLE_DETAIL_DIGIT_11100 s
#define NIBBLE_DETAIL_DIGIT_11101 t
#define NIBBLE_DETAIL_DIGIT_11110 u
#define NIBBLE_DETAIL_DIGIT_11111 v
#define NIBBLE_DETAIL_WORD_JOIN(a, b, c, d, e, f, g, h, i, j, k, l) a##b##c##d##e##f##g##h##i##j##k##l
#define NIBBLE_DETAIL_WORD(a, b, c, d, e, f, g, h, i, j, k, l)                                                         \
    NIBBLE_DETAIL_WORD_JOIN(a, b, c, d, e, f, g, h, i, j, k, l)

// Every macro of an instruction set that GCC or Clang has; tests/odr/tags.sh finds one that is missing.
// clang-format off
#if defined(__aarch64__)
#define NIBBLE_DETAIL_SETS_1                                                                                                  \
    NIBBLE_DETAIL_WORD(                                                                                                       \
        NIBBLE_DETAIL_DIGIT(__ARM_NEON, __ARM_FEATURE_FMA, __ARM_FEATURE_ATOMICS, __ARM_FEATURE_CRC32, __ARM_FEATURE_QRDMX),  \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_DOTPROD, __ARM_FEATURE_MATMUL_INT8, __ARM_FEATURE_FP16_SCALAR_ARITHMETIC,           \
                            __ARM_FEATURE_FP16_VECTOR_ARITHMETIC, __ARM_FEATURE_FP16_FML),                                    \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_BF16, __ARM_FEATURE_BF16_SCALAR_ARITHMETIC, __ARM_FEATURE_BF16_VECTOR_ARITHMETIC,   \
                            __ARM_FEATURE_FRINT, __ARM_FEATURE_JCVT),                                                         \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_SVE, __ARM_FEATURE_SVE2, __ARM_FEATURE_SVE2p1,                                      \
                            __ARM_FEATURE_SVE_BF16, __ARM_FEATURE_SVE_MATMUL_INT8),                                           \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_SVE_MATMUL_FP32, __ARM_FEATURE_SVE_MATMUL_FP64, __ARM_FEATURE_SVE2_BITPERM,         \
                            __ARM_FEATURE_SVE2_AES, __ARM_FEATURE_SVE2_SHA3),                                                 \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_SVE2_SM4, __ARM_FEATURE_SME, __ARM_FEATURE_SME2,                                    \
                            __ARM_FEATURE_COMPLEX, __ARM_FEATURE_CRYPTO),                                                     \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_AES, __ARM_FEATURE_SHA2, __ARM_FEATURE_SHA3,                                        \
                            __ARM_FEATURE_SHA512, __ARM_FEATURE_SM3),                                                         \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_SM4, __ARM_FEATURE_RCPC, __ARM_FEATURE_MOPS,                                        \
                            __ARM_FEATURE_LS64, __ARM_FEATURE_CSSC),                                                          \
        NIBBLE_DETAIL_DIGIT(__ARM_FEATURE_LSE128, __ARM_FEATURE_MEMORY_TAGGING, __ARM_FEATURE_RNG,                            \
                            __ARM_FEATURE_TME, __ARM_FEATURE_PAUTH),                                                          \
        _, __ARM_ARCH, )
#if defined(__ARM_FEATURE_SVE_BITS)
#define NIBBLE_DETAIL_SVE_BITS __ARM_FEATURE_SVE_BITS
#else
#define NIBBLE_DETAIL_SVE_BITS 0
#endif
#define NIBBLE_DETAIL_SETS_2 NIBBLE_DETAIL_WORD(_, NIBBLE_DETAIL_SVE_BITS, _, , , , , , , , , )
#else
#define NIBBLE_DETAIL_SETS_1                                                                                          \
    NIBBLE_DETAIL_WORD(                                                                                               \
        NIBBLE_DETAIL_DIGIT(__SSE3__, __SSSE3__, __SSE4_1__, __SSE4_2__, __SSE4A__),                                  \
        NIBBLE_DETAIL_DIGIT(__AVX__, __AVX2__, __F16C__, __FMA__, __FMA4__),                                          \
        NIBBLE_DETAIL_DIGIT(__XOP__, __TBM__, __BMI__, __BMI2__, __LZCNT__),                                          \
        NIBBLE_DETAIL_DIGIT(__POPCNT__, __MOVBE__, __LAHF_SAHF__, __CRC32__, __ADX__),                                \
        NIBBLE_DETAIL_DIGIT(__AVX512F__, __AVX512CD__, __AVX512BW__, __AVX512DQ__, __AVX512VL__),                     \
        NIBBLE_DETAIL_DIGIT(__AVX512IFMA__, __AVX512VBMI__, __AVX512VBMI2__, __AVX512VNNI__, __AVX512BITALG__),       \
        NIBBLE_DETAIL_DIGIT(__AVX512VPOPCNTDQ__, __AVX512BF16__, __AVX512FP16__, __AVX512VP2INTERSECT__, __EVEX512__),\
        NIBBLE_DETAIL_DIGIT(__AVX512ER__, __AVX512PF__, __AVX5124FMAPS__, __AVX5124VNNIW__, __APX_F__),               \
        NIBBLE_DETAIL_DIGIT(__AVXVNNI__, __AVXVNNIINT8__, __AVXVNNIINT16__, __AVXIFMA__, __AVXNECONVERT__),           \
        NIBBLE_DETAIL_DIGIT(__AVX10_1__, __AVX10_1_256__, __AVX10_1_512__, __AVX10_2__, __MOVRS__),                   \
        NIBBLE_DETAIL_DIGIT(__AES__, __VAES__, __PCLMUL__, __VPCLMULQDQ__, __GFNI__), )
#define NIBBLE_DETAIL_SETS_2                                                                                          \
    NIBBLE_DETAIL_WORD(                                                                                               \
        NIBBLE_DETAIL_DIGIT(__SHA__, __SHA512__, __SM3__, __SM4__, __3dNOW__),                                        \
        NIBBLE_DETAIL_DIGIT(__3dNOW_A__, __PRFCHW__, __PREFETCHWT1__, __PREFETCHI__, __CLDEMOTE__),                   \
        NIBBLE_DETAIL_DIGIT(__AMX_TILE__, __AMX_INT8__, __AMX_BF16__, __AMX_FP16__, __AMX_COMPLEX__),                 \
        NIBBLE_DETAIL_DIGIT(__AMX_FP8__, __AMX_TF32__, __AMX_AVX512__, __AMX_MOVRS__, __AMX_TRANSPOSE__),             \
        NIBBLE_DETAIL_DIGIT(__CMPCCXADD__, __RAOINT__, __MOVDIRI__, __MOVDIR64B__, __ENQCMD__),                       \
        NIBBLE_DETAIL_DIGIT(__CLFLUSHOPT__, __CLWB__, __CLZERO__, __WBNOINVD__, __SERIALIZE__),                       \
        NIBBLE_DETAIL_DIGIT(__WAITPKG__, __MWAITX__, __FXSR__, __XSAVE__, __XSAVEC__),                                \
        NIBBLE_DETAIL_DIGIT(__XSAVEOPT__, __XSAVES__, __FSGSBASE__, __RDPID__, __RDPRU__),                            \
        NIBBLE_DETAIL_DIGIT(__RDRND__, __RDSEED__, __RTM__, __TSXLDTRK__, __HRESET__),                                \
        NIBBLE_DETAIL_DIGIT(__UINTR__, __PTWRITE__, __PCONFIG__, __PKU__, __SGX__),                                   \
        NIBBLE_DETAIL_DIGIT(__LWP__, __KL__, __WIDEKL__, __SHSTK__, __USER_MSR__),                                    \
        NIBBLE_DETAIL_DIGIT(__INVPCID__, __ABM__, __MMX__, __EVEX256__, __AVX10_2_512__))
#endif
#define NIBBLE_DETAIL_MATH_1 \
    NIBBLE_DETAIL_DIGIT(__FAST_MATH__, __FINITE_MATH_ONLY__, __NO_SIGNED_ZEROS__, __ASSOCIATIVE_MATH__, __RECIPROCAL_MATH__)
#define NIBBLE_DETAIL_MATH_2 \
    NIBBLE_DETAIL_DIGIT(__NO_TRAPPING_MATH__, __ROUNDING_MATH__, __SUPPORT_SNAN__, __SSE_MATH__, __SSE2_MATH__)
// clang-format on

#define NIBBLE_DETAIL_JOIN(a, b, c, d, e, f, g, h, i) a##b##_##c##_##d##_##e##f##g##h##i
#define NIBBLE_DETAIL_EXPAND(a, b, c, d, e, f, g, h, i) NIBBLE_DETAIL_JOIN(a, b, c, d, e, f, g, h, i)
#define NIBBLE_ABI                                                                                                     \
    NIBBLE_DETAIL_EXPAND(v, NIBBLE_VERSION_MAJOR, NIBBLE_VERSION_MINOR, NIBBLE_ISA_TAG, NIBBLE_DETAIL_SETS_1,          \
                         NIBBLE_DETAIL_SETS_2, NIBBLE_DETAIL_MATH_1, NIBBLE_DETAIL_MATH_2, NIBBLE_TUNE_TAG)

// Fused multiply-add in hardware: the reproducibility promise needs it for speed; without it std::fma is called.
#if defined(__FMA__) || defined(__ARM_NEON) || defined(__ARM_FEATURE_FMA)
#define NIBBLE_HAS_FMA 1
#else
#define NIBBLE_HAS_FMA 0
#endif

// Around what each header declares: warnings that a program may ask for and that are no fault here. Kernels and codecs
// compare floats exactly and on purpose, read bytes of packed memory as wider numbers where they are known to be
// aligned, convert to types that are sometimes what they were, and have branches that are the same for some template
// arguments; and lambdas of templates, which GCC sees where a program instantiates them, have parameters of any name
// that the program's own variables may have too. nibble's own tests are compiled with everything else. (The assertion
// takes the semicolon that formatters look for.)
#if defined(__clang__)
#define NIBBLE_HEADER_BEGIN                                                                                            \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wunknown-warning-option\"")                      \
        _Pragma("GCC diagnostic ignored \"-Wfloat-equal\"") _Pragma("GCC diagnostic ignored \"-Wcast-align\"")         \
            _Pragma("GCC diagnostic ignored \"-Wctad-maybe-unsupported\"")                                             \
                _Pragma("GCC diagnostic ignored \"-Wunsafe-buffer-usage\"") static_assert(true)
#else
#define NIBBLE_HEADER_BEGIN                                                                                            \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wfloat-equal\"")                                 \
        _Pragma("GCC diagnostic ignored \"-Wcast-align\"") _Pragma("GCC diagnostic ignored \"-Wuseless-cast\"")        \
            _Pragma("GCC diagnostic ignored \"-Wduplicated-branches\"")                                                \
                _Pragma("GCC diagnostic ignored \"-Wswitch-default\"")                                                 \
                    _Pragma("GCC diagnostic ignored \"-Wshadow\"") static_assert(true)
#endif
#define NIBBLE_HEADER_END _Pragma("GCC diagnostic pop") static_assert(true)

// Around functions of 512 bits: GCC 12 warns of the undefined registers in its own headers, wherever those are inlined,
// and, not optimising, of the masks in its own macros.
#if defined(__GNUC__) && !defined(__clang__)
#define NIBBLE_GCC_UNDEFINED_BEGIN                                                                                     \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")                         \
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
