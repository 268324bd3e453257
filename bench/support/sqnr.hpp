// sqnr.hpp: signal-to-quantization-noise ratio, gathered in parts and joined in a fixed order.
#pragma once

#include <cmath>
#include <cstddef>

namespace bench {

// What is exact, or so near that double cannot tell, reads as this many decibels, so that reports hold numbers only.
inline constexpr double exact_db = 200.0;

// Energies add over rows and tensors; so the ratio of a model is the one of its tensors weighted by their energy.
struct error_energy {
    double signal = 0;
    double noise = 0;

    error_energy& operator+=(const error_energy& other) noexcept {
        signal += other.signal;
        noise += other.noise;
        return *this;
    }

    // 10 log10(signal / noise), within [-exact_db, exact_db]; not a number where an input was not.
    [[nodiscard]] double db() const noexcept {
        if (std::isnan(signal) || std::isnan(noise)) return std::nan("");
        if (noise == 0) return exact_db;
        if (signal == 0 || std::isinf(noise)) return -exact_db;
        const double ratio = 10.0 * std::log10(signal / noise);
        return ratio > exact_db ? exact_db : ratio < -exact_db ? -exact_db : ratio;
    }
};

template <class Exact, class Approximate>
[[nodiscard]] error_energy compare(const Exact* exact, const Approximate* approximate, std::size_t count) noexcept {
    error_energy sum;
    for (std::size_t i = 0; i < count; ++i) {
        const double value = static_cast<double>(exact[i]);
        const double error = static_cast<double>(approximate[i]) - value;
        sum.signal += value * value;
        sum.noise += error * error;
    }
    return sum;
}

} // namespace bench
