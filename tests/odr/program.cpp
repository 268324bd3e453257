// program.cpp: prints what kernels.cpp computes on the baseline and, where the machine has it, on x86-64-v3, and what
// each of them makes of weights that the other has packed.
#include <cstdint>
#include <cstdio>

extern "C" std::uint32_t run_baseline();
extern "C" std::uint32_t run_v3();
namespace nibble {
struct untyped_packed;
}
extern "C" const nibble::untyped_packed* run_baseline_weights();
extern "C" const nibble::untyped_packed* run_v3_weights();
extern "C" std::uint32_t run_baseline_product(const nibble::untyped_packed*);
extern "C" std::uint32_t run_v3_product(const nibble::untyped_packed*);

int main() {
    const std::uint32_t baseline = run_baseline();
    std::printf("baseline  %08x\n", static_cast<unsigned>(baseline));
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 0;
    const std::uint32_t v3 = run_v3();
    std::printf("x86-64-v3 %08x\n", static_cast<unsigned>(v3));
    const std::uint32_t own = run_baseline_product(run_baseline_weights());
    const std::uint32_t of_v3 = run_baseline_product(run_v3_weights());
    const std::uint32_t by_v3 = run_v3_product(run_baseline_weights());
    std::printf("exchanged %08x %08x %08x\n", static_cast<unsigned>(own), static_cast<unsigned>(of_v3),
                static_cast<unsigned>(by_v3));
    return v3 == baseline && of_v3 == own && by_v3 == own ? 0 : 1;
}
