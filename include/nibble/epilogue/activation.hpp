// epilogue/activation.hpp: relu, clamp, silu and the two gelus.
#pragma once

#include <nibble/epilogue/epilogue.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// max(x, 0); NaN stays NaN.
struct relu_step {
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        return larger(Lanes(0.0f), x);
    }
};
inline constexpr relu_step relu{};

// x limited to [low, high]; NaN stays NaN.
struct clamp {
    float low = 0.0f;
    float high = 0.0f;
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        return smaller(Lanes(high), larger(Lanes(low), x));
    }
};

// x / (1 + e^-x), the swish of SwiGLU; relative error below 5e-7, and -0 below -88.72, where it is under 3e-37.
// -infinity gives NaN.
struct silu_step {
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        return x / (Lanes(1.0f) + exp(Lanes(0.0f) - x));
    }
};
inline constexpr silu_step silu{};

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's gelu, written x / (1 + e^(-2 sqrt(2/pi) (x + 0.044715 x^3))).
// Absolute error below 2e-7 x |x|; relative error below 5e-7 from x = -1 up. -infinity gives NaN.
struct gelu_step {
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        const Lanes inner = x * fma(x * x, Lanes(-0.0713548163f), Lanes(-1.59576912f));
        return x / (Lanes(1.0f) + exp(inner));
    }
};
inline constexpr gelu_step gelu{};

// x/2 (1 + erf(x / sqrt 2)), the exact gelu, by Abramowitz and Stegun 7.1.26: absolute error below 3.5e-7 x |x|. An
// infinity of either sign gives NaN.
struct gelu_erf_step {
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        const Lanes z = absolute(x) * Lanes(0.707106781f);
        const Lanes t = Lanes(1.0f) / fma(z, Lanes(0.3275911f), Lanes(1.0f));
        Lanes p = fma(t, Lanes(1.061405429f), Lanes(-1.453152027f));
        p = fma(p, t, Lanes(1.421413741f));
        p = fma(p, t, Lanes(-0.284496736f));
        p = fma(p, t, Lanes(0.254829592f));
        const Lanes tail = (p * t) * exp((z * z) * Lanes(-1.0f)); // erfc(z)
        // x < 0: x/2 erfc(z); else x - x/2 erfc(z), which keeps small results exact in relative terms.
        const Lanes half = x * Lanes(0.5f);
        return select_less(x, Lanes(0.0f), half * tail, fma(half, tail * Lanes(-1.0f), x));
    }
};
inline constexpr gelu_erf_step gelu_erf{};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
