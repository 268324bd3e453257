// softmax.hpp: soft-max and its logarithm over rows of logits: probabilities to sample from, losses of language models.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/softmax.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

struct exponential_sum {
    float largest = -infinity;
    double sum = 0.0; // of e^(x - largest)
};

// The largest of the numbers that are not NaN, or -infinity. In four registers: one would wait for itself.
template <isa Isa> [[nodiscard]] NIBBLE_INLINE float largest_of(array_view<const float> x) noexcept {
    using L = lanes<Isa>;
    L most[4] = {L(-infinity), L(-infinity), L(-infinity), L(-infinity)};
    std::size_t i = 0;
    for (; i + 32 <= x.size(); i += 32)
        for (std::size_t j = 0; j < 4; ++j) most[j] = larger(L::load(x.data() + i + 8 * j, 8), most[j]);
    for (; i + 8 <= x.size(); i += 8) most[0] = larger(L::load(x.data() + i, 8), most[0]);
    float v[8];
    larger(larger(most[0], most[1]), larger(most[2], most[3])).store(v, 8);
    float largest = -infinity;
    for (const float value : v) largest = value > largest ? value : largest;
    for (; i < x.size(); ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

// e^(x - largest) goes to `out` unless that is nullptr.
template <isa Isa> NIBBLE_NOINLINE exponential_sum sum_exponentials(array_view<const float> x, float* out) noexcept {
    using L = lanes<Isa>;
    exponential_sum result;
    result.largest = largest_of<Isa>(x);
    // Only -infinity and NaN: NaN - 0 stays one.
    const L shift(result.largest == -infinity ? 0.0f : result.largest);
    constexpr std::size_t block = 512; // in fp32 per lane; those in double
    for (std::size_t first = 0; first < x.size(); first += block) {
        const std::size_t end = min_of(x.size(), first + block);
        L sum(0.0f);
        for (std::size_t i = first; i < end; i += 8) {
            const std::size_t n = min_of<std::size_t>(8, end - i);
            L value = L::load(x.data() + i, n) - shift;
            if (n < 8) { // what is beyond the end has no weight
                float v[8];
                value.store(v, 8);
                for (std::size_t j = n; j < 8; ++j) v[j] = -infinity;
                value = L::load(v, 8);
            }
            const L e = exp_of_negative(value);
            if (out != nullptr) e.store(out + i, n);
            sum = sum + e;
        }
        float v[8];
        sum.store(v, 8);
        result.sum += static_cast<double>(((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])));
    }
    return result;
}

} // namespace detail

// ln(sum of e^x(i)), within 1e-6 relative to max(1, |result|), whatever the magnitudes. A NaN or +infinity among them
// gives NaN; only -infinity, or no number at all, gives -infinity. -log_sum_exp(x) + x(i) is the logarithm of i's
// soft-max. The same bits on every ISA.
template <isa Isa = best_isa> [[nodiscard]] float log_sum_exp(array_view<const float> x) noexcept {
    const detail::exponential_sum s = detail::sum_exponentials<Isa>(x, nullptr);
    if (s.sum == 0.0) return -detail::infinity;
    return s.largest + detail::rounded_by_itself(kernel::natural_log(static_cast<float>(s.sum)));
}

// out(i) = e^x(i) / (sum of e^x), each within (16 + largest - x(i)) x 2^-24 of its own size; 0 where that is below
// e^-87 of the largest. out may be x. A NaN or +infinity in x makes all NaN, as do only -infinities.
template <isa Isa = best_isa> void softmax(array_view<const float> x, array_view<float> out) {
    NIBBLE_CHECK(x.size() == out.size(), "softmax: as many results as numbers");
    const detail::exponential_sum s = detail::sum_exponentials<Isa>(x, out.data());
    const float scale = static_cast<float>(1.0 / s.sum);
    for (float& value : out) value *= s.sum == 0.0 ? detail::quiet_nan : scale;
}

// out(i) = x(i) - log_sum_exp(x). out may be x.
template <isa Isa = best_isa> void log_softmax(array_view<const float> x, array_view<float> out) {
    NIBBLE_CHECK(x.size() == out.size(), "log_softmax: as many results as numbers");
    const float sum = log_sum_exp<Isa>(x);
    for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] - sum;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
