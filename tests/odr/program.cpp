// program.cpp: prints what kernels.cpp computes on the baseline and, where the machine has it, on x86-64-v3.
#include <cstdint>
#include <cstdio>

extern "C" std::uint32_t run_baseline();
extern "C" std::uint32_t run_v3();

int main() {
    const std::uint32_t baseline = run_baseline();
    std::printf("baseline  %08x\n", static_cast<unsigned>(baseline));
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 0;
    const std::uint32_t v3 = run_v3();
    std::printf("x86-64-v3 %08x\n", static_cast<unsigned>(v3));
    return v3 == baseline ? 0 : 1;
}
