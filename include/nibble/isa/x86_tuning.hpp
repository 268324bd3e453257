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
// 1, 1.06, 1.07, 1.05. Zen 4 lost with more than 512 bytes in four streams.
inline constexpr isa_tuning tuning_of_intel{.one_stream = 2048, .several_streams = 1536};
inline constexpr isa_tuning tuning_of_zen{.one_stream = 2048, .several_streams = 512};

// One load: the compiler's runtime has asked the processor before main.
[[nodiscard]] inline isa_tuning x86_tuning() noexcept {
#if defined(__x86_64__)
    return __builtin_cpu_is("amd") != 0 ? tuning_of_zen : tuning_of_intel;
#else
    return tuning_of_intel;
#endif
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
