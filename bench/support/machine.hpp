// machine.hpp: which machine, compiler and flags a comparison was made with.
#pragma once

#include <cstddef>
#include <string>

namespace bench {

struct machine_facts {
    std::string machine; // one line: processor, logical processors, last-level cache, memory, system
    std::string date;    // ISO 8601, UTC
    std::string compiler;
    std::string flags; // as the build system gave them (NIBBLE_BENCH_FLAGS), else what the macros betray
    std::size_t last_level_cache_bytes = 0; // 0: unknown
    std::size_t memory_bytes = 0;           // 0: unknown
};

[[nodiscard]] machine_facts describe_machine();

} // namespace bench
