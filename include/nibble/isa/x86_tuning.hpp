// x86_tuning.hpp: the distances of the x86 processors that were measured, by who made the one that runs this.
// Compiler flags: none.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Far enough to cover the memory latency at full speed, for each stream at once. Measured on Emerald Rapids, cold
// weights: one panel and 4 or 8 tokens at 256, 512, 1024, 2048 bytes: 1, 1.2, 1.5, 1.7; four panels and one token at
// 512, 1024, 1536, 2048, 3072 bytes: f16 1, 1.13, 1.23, 1.23, 1.22, int8 1, .94, 1.08, 1.06, int4 g32
// 1, 1.06, 1.07, 1.05. Zen 4 lost with more than 512 bytes in four streams. Zen 5, of which a core reads 38 GB/s, four
// panels and one token at 512, 1024, 2048, 4096 bytes: int4_g32 1, 1.16, 1.26, 1.19, q6_k 1, 1.21, 1.33, 1.37, f16
// 1, 1.1, 1.2, 1.08, with two threads 1.02 to 1.1 from 1024 to 2048.
inline constexpr isa_tuning tuning_of_intel{.one_stream = 2048, .several_streams = 1536};
inline constexpr isa_tuning tuning_of_zen{.one_stream = 2048, .several_streams = 512};
inline constexpr isa_tuning tuning_of_zen5{.one_stream = 2048, .several_streams = 1536};

// Two loads: the compiler's runtime has asked the processor before main.
[[nodiscard]] inline isa_tuning x86_tuning() noexcept {
#if defined(__x86_64__)
    if (__builtin_cpu_is("amd") == 0) return tuning_of_intel;
    // By what it has and a Zen 4 has not: compilers know the processor's name since GCC 14 and Clang 19.
    return __builtin_cpu_supports("avx512vp2intersect") != 0 ? tuning_of_zen5 : tuning_of_zen;
#else
    return tuning_of_intel;
#endif
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
