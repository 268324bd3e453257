// pareto.hpp: marks the rows that no other row beats in both size and error.
#pragma once

#include "row.hpp"

#include <span>

namespace bench {

// a beats b: no larger and no less exact, and better in one of the two.
[[nodiscard]] inline bool dominates(const row& a, const row& b) noexcept {
    return a.bits_per_weight <= b.bits_per_weight && a.gemm_sqnr_db >= b.gemm_sqnr_db &&
           (a.bits_per_weight < b.bits_per_weight || a.gemm_sqnr_db > b.gemm_sqnr_db);
}

// Equal rows do not beat each other: both are marked, or neither.
inline void mark_pareto(std::span<row> rows) noexcept {
    for (row& candidate : rows) {
        candidate.pareto = true;
        for (const row& other : rows)
            if (dominates(other, candidate)) candidate.pareto = false;
    }
}

} // namespace bench
