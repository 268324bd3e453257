// program.cpp: prints what kernels.cpp computes on the baseline and, where the machine has it, on AVX2.
#include <cstdint>
#include <cstdio>

extern "C" std::uint32_t run_baseline();
extern "C" std::uint32_t run_avx2();

int main() {
    const std::uint32_t baseline = run_baseline();
    std::printf("baseline %08x\n", static_cast<unsigned>(baseline));
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    const std::uint32_t avx2 = run_avx2();
    std::printf("avx2     %08x\n", static_cast<unsigned>(avx2));
    return avx2 == baseline ? 0 : 1;
}
