// roof.hpp: the shortest time that a product can take on a machine of known limits.
#pragma once

#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>

#include <algorithm>
#include <span>
#include <string_view>

namespace bench {

// The unit that a kernel family computes in: what roofline measures as a peak.
enum class arithmetic { floats, words, bytes };

template <nibble::isa Isa, nibble::element E> [[nodiscard]] constexpr arithmetic arithmetic_of() noexcept {
    if (!nibble::detail::integer_mapping_of<E>.exists) return arithmetic::floats;
    return Isa::facts.dots_in_int32 || nibble::detail::fits_int16_sums<E> ? arithmetic::bytes : arithmetic::words;
}

// Whether a kernel of exact sums could use this instruction sequence: bytes_int32 widens each time and is never better
// than bytes_int16 where that is exact; signed 8-bit weights saturate both, but not vpdpbusd.
[[nodiscard]] inline bool serves(std::string_view peak, arithmetic unit) noexcept {
    switch (unit) {
    case arithmetic::floats:
        return peak.starts_with("fma") || peak.starts_with("multiply_add");
    case arithmetic::words:
        return peak.starts_with("words_int32") || peak.starts_with("dot_int32");
    case arithmetic::bytes:
        return peak.starts_with("bytes_int16") || peak.starts_with("dot_int32");
    }
    return false;
}

struct limit {
    double seconds = 0;        // no product of these weights and tokens is faster
    bool memory_bound = false; // by reading the weights; else by arithmetic
};

// `bytes` of weights read once and `operations` done, at the same time.
[[nodiscard]] inline limit limit_of(double bytes, double operations, double bytes_per_second,
                                    double operations_per_second) noexcept {
    const double reading = bytes / bytes_per_second;
    const double computing = operations / operations_per_second;
    return {(std::max)(reading, computing), reading >= computing};
}

} // namespace bench
