// isa/lanes.hpp: 8 fp32 values of any ISA (16 of one that serves tiles of 512 bits) with ordinary operators and the few
// functions that epilogues and attention need; the same bits everywhere.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// In an epilogue write a x b + c as fma(a, b, c): GCC fuses the operators' instructions by itself, and then results
// would depend on the compiler.
template <isa Isa> struct lanes {
    using isa_type = Isa;
    static constexpr std::size_t width = Isa::width;
    typename Isa::f32 value;

    lanes() = default;
    NIBBLE_INLINE lanes(typename Isa::f32 v) noexcept : value(v) {}
    NIBBLE_INLINE lanes(float x) noexcept : value(Isa::broadcast(x)) {}

    // The first `count` floats at `from`, zeros above; reads nothing beyond them.
    [[nodiscard]] static NIBBLE_INLINE lanes load(const float* from, std::size_t count) noexcept {
        return count == width ? lanes(Isa::load(from)) : lanes(Isa::load_some(from, count));
    }
    NIBBLE_INLINE void store(float* to, std::size_t count) const noexcept {
        if (count == width)
            Isa::store(to, value);
        else
            Isa::store_some(to, value, count);
    }

    // The same value, opaque to the optimiser: keeps a multiplication on one side from fusing with an addition on the
    // other.
    [[nodiscard]] NIBBLE_INLINE lanes kept() const noexcept {
        lanes copy = *this;
        Isa::keep(copy.value);
        return copy;
    }

    friend NIBBLE_INLINE lanes operator+(const lanes& a, const lanes& b) noexcept { return Isa::add(a.value, b.value); }
    friend NIBBLE_INLINE lanes operator-(const lanes& a, const lanes& b) noexcept {
        return Isa::subtract(a.value, b.value);
    }
    friend NIBBLE_INLINE lanes operator*(const lanes& a, const lanes& b) noexcept {
        return Isa::multiply(a.value, b.value);
    }
    friend NIBBLE_INLINE lanes operator/(const lanes& a, const lanes& b) noexcept {
        return Isa::divide(a.value, b.value);
    }
    // a x b + c, rounded once.
    friend NIBBLE_INLINE lanes fma(const lanes& a, const lanes& b, const lanes& c) noexcept {
        return Isa::fma(a.value, b.value, c.value);
    }
    // (a < b) ? a : b and (a > b) ? a : b: b if either is NaN.
    friend NIBBLE_INLINE lanes smaller(const lanes& a, const lanes& b) noexcept {
        return Isa::smaller(a.value, b.value);
    }
    friend NIBBLE_INLINE lanes larger(const lanes& a, const lanes& b) noexcept { return Isa::larger(a.value, b.value); }
    // (a < b) ? x : y
    friend NIBBLE_INLINE lanes select_less(const lanes& a, const lanes& b, const lanes& x, const lanes& y) noexcept {
        return Isa::select_less(a.value, b.value, x.value, y.value);
    }
    friend NIBBLE_INLINE lanes absolute(const lanes& a) noexcept { return Isa::absolute(a.value); }
    friend NIBBLE_INLINE lanes copy_sign(const lanes& a, const lanes& b) noexcept {
        return Isa::copy_sign(a.value, b.value);
    }
    // Lanes 0 0 2 2 4 4 6 6, and 1 1 3 3 5 5 7 7.
    friend NIBBLE_INLINE lanes duplicate_even(const lanes& a) noexcept { return Isa::duplicate_even(a.value); }
    friend NIBBLE_INLINE lanes duplicate_odd(const lanes& a) noexcept { return Isa::duplicate_odd(a.value); }
    // See generic.hpp.
    friend NIBBLE_INLINE lanes power_below(const lanes& a) noexcept { return Isa::power_below(a.value); }
    friend NIBBLE_INLINE lanes value_between(const detail::table<float, 16>& values,
                                             const detail::table<float, 16>& thresholds, const lanes& a) noexcept {
        return Isa::value_between(values, thresholds, a.value);
    }
    friend NIBBLE_INLINE lanes round_even(const lanes& a) noexcept { return Isa::round(a.value); }

    // e^x within 2 units in the last place; 0 below -103.97, infinity above 88.72, NaN for NaN. Results below 2^-126
    // are rounded to fp32's subnormals.
    friend NIBBLE_INLINE lanes exp(const lanes& x) noexcept {
        lanes n;
        const lanes p = reduced_exp(larger(lanes(-104.0f), smaller(lanes(88.8f), x)), n);
        const lanes half = round_even(n * lanes(0.5f)); // 2^n in two factors
        return (p * lanes(Isa::exp2i(half.value))) * lanes(Isa::exp2i((n - half).value));
    }
    // e^x of x at most 0 within 2 units in the last place; 0 below -87.33, where it is under 2^-126; NaN for NaN.
    friend NIBBLE_INLINE lanes exp_of_negative(const lanes& x) noexcept {
        lanes n;
        const lanes p = reduced_exp(larger(lanes(-87.33f), x), n);
        return select_less(x, lanes(-87.33f), lanes(0.0f), p * lanes(Isa::exp2i(n.value)));
    }
    // 1 / (1 + e^-x), within 4 units in the last place; 0 below -88.72, where it is under 3e-39.
    friend NIBBLE_INLINE lanes sigmoid(const lanes& x) noexcept {
        return lanes(1.0f) / (lanes(1.0f) + exp(lanes(0.0f) - x));
    }
    // tanh x within an absolute 1.2e-7 (2 units in the last place below 1): (1 - e^-2|x|) / (1 + e^-2|x|) with x's
    // sign.
    friend NIBBLE_INLINE lanes tanh(const lanes& x) noexcept {
        const lanes e = exp(absolute(x) * lanes(-2.0f));
        return copy_sign((lanes(1.0f) - e) / (lanes(1.0f) + e), x);
    }

private:
    // n = round(x / ln 2), and e^(x - n ln 2): ln 2 in two parts (Cody and Waite), a polynomial of degree 6.
    [[nodiscard]] static NIBBLE_INLINE lanes reduced_exp(const lanes& x, lanes& n) noexcept {
        n = round_even(x * lanes(1.44269504f));
        lanes r = fma(n, lanes(-0.693145752f), x);
        r = fma(n, lanes(-1.42860677e-6f), r);
        lanes p = fma(lanes(1.39258726e-3f), r, lanes(8.36595707e-3f));
        p = fma(p, r, lanes(4.16664705e-2f));
        p = fma(p, r, lanes(1.66665673e-1f));
        p = fma(p, r, lanes(0.5f));
        p = fma(p, r, lanes(1.0f));
        return fma(p, r, lanes(1.0f));
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
