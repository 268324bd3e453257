// random.hpp: numbers for tests that depend on a seed and an index only; not the library's own generator.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble_test {

// Philox 2x32 with ten rounds (Salmon et al., 2011).
[[nodiscard]] inline std::uint64_t random64(std::uint64_t seed, std::uint64_t index) noexcept {
    std::uint32_t left = static_cast<std::uint32_t>(index);
    std::uint32_t right = static_cast<std::uint32_t>(index >> 32) ^ static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t key = static_cast<std::uint32_t>(seed);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product = std::uint64_t{0xd256d193u} * left;
        left = static_cast<std::uint32_t>(product >> 32) ^ key ^ right;
        right = static_cast<std::uint32_t>(product);
        key += 0x9e3779b9u;
    }
    return std::uint64_t{left} << 32 | right;
}

[[nodiscard]] inline double random_uniform(std::uint64_t seed, std::uint64_t index) noexcept {
    return static_cast<double>(random64(seed, index) >> 11) * 0x1p-53;
}

// N(0, 1) by Box and Muller.
[[nodiscard]] inline float random_normal(std::uint64_t seed, std::uint64_t index) noexcept {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random_uniform(seed, 2 * index)));
    return static_cast<float>(radius * std::cos(6.283185307179586 * random_uniform(seed, 2 * index + 1)));
}

[[nodiscard]] inline std::vector<float> normal_values(std::size_t count, std::uint64_t seed) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) x[i] = random_normal(seed, i);
    return x;
}

// 1 where the program was built to be fast; elsewhere (no optimisation, sanitizers) loops over samples are shorter.
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
inline constexpr std::size_t sample_divisor = 1;
#else
inline constexpr std::size_t sample_divisor = 10;
#endif

} // namespace nibble_test
