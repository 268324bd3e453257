// machine.cpp: reads /proc and /sys where there are any; says "unknown" elsewhere.
#include "machine.hpp"

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/utsname.h>
#include <unistd.h>
#endif

namespace bench {
namespace {

std::string trimmed(std::string text) {
    const auto first = text.find_first_not_of(" \t\n");
    if (first == std::string::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return trimmed(line);
}

std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    std::string line;
    while (std::getline(file, line)) {
        const auto colon = line.find(':');
        if (colon == std::string::npos) continue;
        const std::string key = trimmed(line.substr(0, colon));
        if (key == "model name" || key == "Model" || key == "cpu model" || key == "uarch")
            return trimmed(line.substr(colon + 1));
    }
    return "unknown processor";
}

// "512K", "32M" as Linux writes them.
std::size_t parse_size(const std::string& text) {
    char* end = nullptr;
    const unsigned long long number = std::strtoull(text.c_str(), &end, 10);
    const std::size_t unit = *end == 'K'   ? std::size_t{1} << 10
                             : *end == 'M' ? std::size_t{1} << 20
                             : *end == 'G' ? std::size_t{1} << 30
                                           : std::size_t{1};
    return static_cast<std::size_t>(number) * unit;
}

std::size_t last_level_cache() {
    std::size_t bytes = 0;
    long level = 0;
    for (int index = 0; index < 8; ++index) {
        const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
        const std::string type = first_line(folder + "type");
        if (type.empty()) break;
        if (type == "Instruction") continue;
        const long here = std::strtol(first_line(folder + "level").c_str(), nullptr, 10);
        if (here >= level) {
            level = here;
            bytes = parse_size(first_line(folder + "size"));
        }
    }
#if defined(_SC_LEVEL3_CACHE_SIZE)
    if (bytes == 0) {
        const long size = ::sysconf(_SC_LEVEL3_CACHE_SIZE); // cpuid, on x86
        if (size > 0) bytes = static_cast<std::size_t>(size);
    }
#endif
    return bytes;
}

std::size_t memory_size() {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page = ::sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page);
#endif
    return 0;
}

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
#if defined(_WIN32)
    gmtime_s(&parts, &now);
#else
    gmtime_r(&now, &parts);
#endif
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

std::string compiler_name() {
#if defined(__clang__)
    return std::string("Clang ") + __clang_version__;
#elif defined(__GNUC__)
    return std::string("GCC ") + __VERSION__;
#else
    return "unknown compiler";
#endif
}

std::string build_flags() {
#if defined(NIBBLE_BENCH_FLAGS)
    return NIBBLE_BENCH_FLAGS;
#else
    // The compiler does not tell a program its own command line; these macros say what matters for speed.
    std::string flags = "-std=c++" + std::to_string(__cplusplus / 100 % 100);
#if defined(__OPTIMIZE__)
    flags += " -O";
#else
    flags += " -O0";
#endif
#if defined(__SSE4_2__)
    flags += " -msse4.2";
#endif
#if defined(__AVX2__)
    flags += " -mavx2";
#endif
#if defined(__FMA__)
    flags += " -mfma";
#endif
#if defined(__F16C__)
    flags += " -mf16c";
#endif
#if defined(__AVXVNNI__)
    flags += " -mavxvnni";
#endif
#if defined(__AVX512F__)
    flags += " -mavx512f";
#endif
#if defined(__AVX512BW__)
    flags += " -mavx512bw";
#endif
#if defined(__AVX512VL__)
    flags += " -mavx512vl";
#endif
#if defined(__AVX512VNNI__)
    flags += " -mavx512vnni";
#endif
#if defined(__AVX512VBMI__)
    flags += " -mavx512vbmi";
#endif
#if defined(__AVX512BF16__)
    flags += " -mavx512bf16";
#endif
#if defined(__AMX_INT8__)
    flags += " -mamx-int8";
#endif
#if defined(__ARM_NEON)
    flags += " neon";
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    flags += "+dotprod";
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    flags += "+i8mm";
#endif
#if defined(__FAST_MATH__)
    flags += " -ffast-math";
#endif
#if defined(NDEBUG)
    flags += " -DNDEBUG";
#endif
    return flags;
#endif
}

} // namespace

machine_facts describe_machine() {
    machine_facts facts;
    facts.date = utc_now();
    facts.compiler = compiler_name();
    facts.flags = build_flags();
    facts.last_level_cache_bytes = last_level_cache();
    facts.memory_bytes = memory_size();

    facts.machine = processor_name();
    facts.machine += ", " + std::to_string(std::thread::hardware_concurrency()) + " CPUs";
    if (facts.last_level_cache_bytes != 0)
        facts.machine += ", last-level cache " + std::to_string(facts.last_level_cache_bytes >> 20) + " MiB";
    if (facts.memory_bytes != 0)
        facts.machine += ", " + std::to_string((facts.memory_bytes + (std::size_t{1} << 29)) >> 30) + " GiB";
#if defined(__unix__) || defined(__APPLE__)
    utsname system{};
    if (::uname(&system) == 0) facts.machine += std::string(", ") + system.sysname + " " + system.machine;
#endif
    return facts;
}

} // namespace bench
