// digest.hpp: 64 bits that stand for many bytes, and numbers made by integer arithmetic alone, so that both are the
// same on every machine and with every compiler.
#pragma once

#include "random.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace nibble_test {

// FNV-1a of 64 bits.
class digest {
public:
    void add_bytes(const void* from, std::size_t count) noexcept {
        const auto* bytes = static_cast<const unsigned char*>(from);
        for (std::size_t i = 0; i < count; ++i) add_byte(bytes[i]);
    }
    // Little-endian, whatever the machine is.
    void add(std::span<const float> values) noexcept {
        for (const float value : values) {
            const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
            for (int shift = 0; shift < 32; shift += 8) add_byte(static_cast<unsigned char>(word >> shift));
        }
    }
    void add_byte(unsigned char byte) noexcept { hash_ = (hash_ ^ byte) * 0x100000001b3u; }
    [[nodiscard]] std::uint64_t value() const noexcept { return hash_; }

private:
    std::uint64_t hash_ = 0xcbf29ce484222325u;
};

[[nodiscard]] inline std::string hexadecimal(std::uint64_t value) {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
    return text;
}

// About bell-shaped, multiples of 2^-14 within (-4, 4), one in 61 of them eight times as large and one in 67 zero: sums
// of integers, so that no bit depends on a library. Many lie half-way between two codes.
[[nodiscard]] inline std::vector<float> exact_values(std::size_t count, std::uint64_t seed) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t bits = random64(seed, i);
        std::int32_t sum = -2 * 0xffff;
        for (int shift = 0; shift < 64; shift += 16) sum += static_cast<std::int32_t>((bits >> shift) & 0xffffu);
        const float value = static_cast<float>(sum / 2) * 0x1p-14f;
        x[i] = bits % 67 == 0 ? 0.0f : bits % 61 == 0 ? 8.0f * value : value;
    }
    return x;
}

} // namespace nibble_test
