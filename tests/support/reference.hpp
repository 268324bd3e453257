// reference.hpp: what the codes of each element mean and which code a value has: slow, in double, from the definitions.
// Nothing here calls a codec of the library.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/element/bipolar.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/codebooks.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/element/rounded_levels.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace nibble_test {

using code_number = std::uint32_t;

// Every rounding; `learned` here is told to go down, which is floor; up is ceiling. Stochastic has no one answer.
inline constexpr std::array<nibble::rounding, 7> determined_roundings{
    nibble::rounding::nearest_even, nibble::rounding::toward_zero,      nibble::rounding::half_away,
    nibble::rounding::half_up,      nibble::rounding::half_toward_zero, nibble::rounding::floor,
    nibble::rounding::ceiling};
inline constexpr std::size_t rounding_count = 9;
static_assert(static_cast<std::size_t>(nibble::rounding::learned) == rounding_count - 1,
              "a new rounding needs a line here, in goes_up and in codec_check");

// The definition of every rounding in double: does x, below < x < above, go up? `tie_up` is what nearest_even says of a
// tie.
[[nodiscard]] inline bool goes_up(nibble::rounding mode, double x, double below, double above, bool tie_up) {
    using nibble::rounding;
    const bool equal = std::abs(above) == std::abs(below);
    const bool above_is_larger = std::abs(above) > std::abs(below);
    // Twice the distance from the middle, in long double: sums of two fp32 values less than 40 binades apart are exact.
    const long double from_middle =
        2.0L * static_cast<long double>(x) - (static_cast<long double>(below) + static_cast<long double>(above));
    switch (mode) {
    case rounding::toward_zero:
        return equal ? x >= 0.0 : !above_is_larger;
    case rounding::floor:
    case rounding::stochastic:
    case rounding::learned:
        return false;
    case rounding::ceiling:
        return true;
    case rounding::nearest_even:
        return from_middle > 0.0L || (from_middle == 0.0L && tie_up);
    case rounding::half_up:
        return from_middle >= 0.0L;
    case rounding::half_away:
        return from_middle > 0.0L || (from_middle == 0.0L && (above_is_larger || equal));
    case rounding::half_toward_zero:
        return from_middle > 0.0L || (from_middle == 0.0L && !above_is_larger);
    }
    return false;
}

// Codes of one value under [rounding][saturate, special].
using rounded_codes = std::array<std::array<code_number, 2>, rounding_count>;

// One code for every rounding, from code_of(rounding).
template <class CodeOf> [[nodiscard]] rounded_codes for_every_rounding(CodeOf&& code_of) {
    rounded_codes out{};
    for (std::size_t mode = 0; mode < rounding_count; ++mode)
        out[mode].fill(code_of(static_cast<nibble::rounding>(mode)));
    return out;
}

struct reference_codec {
    int bits = 0;

    reference_codec() = default;
    reference_codec(const reference_codec&) = delete;
    reference_codec& operator=(const reference_codec&) = delete;
    virtual ~reference_codec() = default;

    [[nodiscard]] virtual double decode(code_number code) const = 0;
    [[nodiscard]] virtual rounded_codes encode_all(float x) const = 0;
    // Values that encoding can give, ascending, and for tests of overflow where the next one would be.
    std::vector<double> producible;
    double next_above = 0.0;
    double next_below = 0.0;

    [[nodiscard]] code_number encode(float x, nibble::rounding rounding = nibble::rounding::nearest_even,
                                     nibble::overflow overflow = nibble::overflow::saturate) const {
        return encode_all(x)[static_cast<std::size_t>(rounding)][static_cast<std::size_t>(overflow)];
    }
    [[nodiscard]] float largest() const {
        return static_cast<float>(std::max(std::abs(producible.front()), std::abs(producible.back())));
    }
};

inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinite = std::numeric_limits<double>::infinity();

// ---- [sign][exponent][mantissa]
// -------------------------------------------------------------------------------------------

class reference_minifloat final : public reference_codec {
public:
    explicit reference_minifloat(nibble::float_format f) : f_(f) {
        bits = (f.has_sign ? 1 : 0) + f.exponent + f.mantissa;
        bias_ = f.bias;
        if (bias_ == nibble::float_format::default_bias) {
            bias_ = f.exponent < 2 ? 0 : (1 << (f.exponent - 1)) - 1;
            if (f.specials == nibble::specials::fnuz) bias_ += 1;
        }
        const code_number magnitudes = code_number{1} << (f.exponent + f.mantissa);
        for (code_number c = 0; c < magnitudes && std::isfinite(decode(c)); ++c) magnitude_.push_back(number(c));
        magnitude_.push_back(number(static_cast<code_number>(magnitude_.size()))); // as if the format went on
        if (f.has_sign)
            for (std::size_t c = magnitude_.size() - 1; c-- > 1;) producible.push_back(-magnitude_[c]);
        producible.insert(producible.end(), magnitude_.begin(), magnitude_.end() - 1);
        next_above = magnitude_.back();
        next_below = f.has_sign ? -next_above : 0.0;
    }

    [[nodiscard]] double decode(code_number code) const override {
        const code_number top = (code_number{1} << (f_.exponent + f_.mantissa)) - 1;
        const code_number magnitude = code & top;
        const bool negative = f_.has_sign && (code >> (bits - 1) & 1) != 0;
        const code_number e = magnitude >> f_.mantissa;
        const code_number m = magnitude & ((code_number{1} << f_.mantissa) - 1);
        switch (f_.specials) {
        case nibble::specials::none:
            break;
        case nibble::specials::ieee:
            if (e == (code_number{1} << f_.exponent) - 1)
                return m != 0 ? not_a_number : negative ? -infinite : infinite;
            break;
        case nibble::specials::fn:
            if (magnitude == top) return not_a_number;
            break;
        case nibble::specials::fnuz:
            if (negative && magnitude == 0) return not_a_number;
            break;
        }
        return negative ? -number(magnitude) : number(magnitude);
    }

    [[nodiscard]] rounded_codes encode_all(float x) const override {
        rounded_codes out{};
        const double a = std::abs(static_cast<double>(x));
        const code_number sign = std::signbit(x) ? code_number{1} << (bits - 1) : 0;
        const code_number max = static_cast<code_number>(magnitude_.size()) - 2;
        const code_number infinity = ((code_number{1} << f_.exponent) - 1) << f_.mantissa;
        code_number nan = 0; // a format without NaN
        bool has_nan = true;
        if (f_.specials == nibble::specials::fn)
            nan = (code_number{1} << (f_.exponent + f_.mantissa)) - 1;
        else if (f_.specials == nibble::specials::fnuz)
            nan = code_number{1} << (bits - 1);
        else if (f_.specials == nibble::specials::ieee && f_.mantissa > 0)
            nan = infinity | code_number{1} << (f_.mantissa - 1);
        else
            has_nan = false;
        if (std::isnan(x)) {
            for (auto& row : out) row = {nan, nan};
            return out;
        }
        // The neighbours: magnitude_[low] <= a < magnitude_[low + 1], and of x in the order of their values.
        const auto above = std::upper_bound(magnitude_.begin(), magnitude_.end(), a);
        const code_number low = static_cast<code_number>(above - magnitude_.begin()) - 1;
        const bool negative = std::signbit(x);
        const auto larger = [&](nibble::rounding rounding) {
            if (low > max || a == magnitude_[low]) return false;
            const bool low_is_odd = low % 2 == 1;
            if (!negative) return goes_up(rounding, a, magnitude_[low], magnitude_[low + 1], low_is_odd);
            return !goes_up(rounding, -a, -magnitude_[low + 1], -magnitude_[low], !low_is_odd);
        };
        for (std::size_t mode = 0; mode < rounding_count; ++mode)
            for (std::size_t policy = 0; policy < 2; ++policy) {
                const bool no_negative_zero = f_.specials == nibble::specials::fnuz ||
                                              static_cast<nibble::rounding>(mode) == nibble::rounding::half_toward_zero;
                code_number magnitude = low + (larger(static_cast<nibble::rounding>(mode)) ? 1 : 0);
                bool is_nan = false;
                if (magnitude > max) {
                    magnitude = max;
                    if (policy == 1 && f_.specials == nibble::specials::ieee) magnitude = infinity;
                    is_nan = policy == 1 && f_.specials != nibble::specials::ieee && has_nan;
                }
                code_number& code = out[mode][policy];
                if (!f_.has_sign && std::signbit(x)) {
                    code = 0;
                } else if (is_nan) {
                    code = nan | (f_.specials == nibble::specials::fn && f_.has_sign ? sign : 0);
                } else if (no_negative_zero && magnitude == 0) {
                    code = 0;
                } else {
                    code = magnitude | (f_.has_sign ? sign : 0);
                }
            }
        return out;
    }

private:
    // The number of a magnitude, all codes taken as numbers.
    [[nodiscard]] double number(code_number magnitude) const {
        const int e = static_cast<int>(magnitude >> f_.mantissa);
        const double m = static_cast<double>(magnitude & ((code_number{1} << f_.mantissa) - 1));
        if (f_.exponent == 0) return std::ldexp(static_cast<double>(magnitude), 1 - bias_ - f_.mantissa);
        if (e == 0) return std::ldexp(m, 1 - bias_ - f_.mantissa);
        return std::ldexp(1.0 + std::ldexp(m, -f_.mantissa), e - bias_);
    }

    nibble::float_format f_;
    int bias_ = 0;
    std::vector<double> magnitude_; // of codes 0 ... the largest finite one, and one more
};

// ---- integers with a factor
// -----------------------------------------------------------------------------------------------

class reference_integer final : public reference_codec {
public:
    // Encoding gives low ... high; code = (integer - at_zero) modulo 2^bits, where at_zero is the integer of code 0;
    // `wraps`: codes above the largest integer are negative (two's complement).
    reference_integer(int width, int low, int high, int at_zero, bool wraps, double factor)
        : low_(low), high_(high), at_zero_(at_zero), wraps_(wraps), factor_(factor) {
        bits = width;
        for (int i = low; i <= high; ++i) producible.push_back(i * factor);
        next_above = (high + 1) * factor;
        next_below = (low - 1) * factor;
    }
    [[nodiscard]] double decode(code_number code) const override {
        int integer = static_cast<int>(code) + at_zero_;
        if (wraps_ && integer > high_) integer -= 1 << bits;
        return integer * factor_;
    }
    [[nodiscard]] rounded_codes encode_all(float x) const override {
        const double scaled =
            std::clamp(std::isnan(x) ? 0.0 : static_cast<double>(x) / factor_, double(low_), double(high_));
        const double below = std::floor(scaled);
        const bool odd = static_cast<int>(below) % 2 != 0; // ties to even integers
        return for_every_rounding([&](nibble::rounding rounding) {
            const bool up = scaled != below && goes_up(rounding, scaled, below, below + 1.0, odd);
            const int integer = static_cast<int>(below) + (up ? 1 : 0);
            return static_cast<code_number>(integer - at_zero_) & ((code_number{1} << bits) - 1);
        });
    }

private:
    int low_, high_, at_zero_;
    bool wraps_;
    double factor_;
};

class reference_binary final : public reference_codec {
public:
    reference_binary() {
        bits = 1;
        producible = {-1.0, 1.0};
        next_above = 3.0;
        next_below = -3.0;
    }
    [[nodiscard]] double decode(code_number code) const override { return code != 0 ? 1.0 : -1.0; }
    [[nodiscard]] rounded_codes encode_all(float x) const override {
        const double v = std::isnan(x) ? 0.0 : static_cast<double>(x);
        // Its tie goes to +1, also under nearest_even.
        return for_every_rounding([&](nibble::rounding rounding) {
            return v >= 1.0 || (v > -1.0 && goes_up(rounding, v, -1.0, 1.0, true)) ? code_number{1} : code_number{0};
        });
    }
};

// ---- lists of values
// ------------------------------------------------------------------------------------------------------

enum class tie { down, even_code };

class reference_list final : public reference_codec {
public:
    // values[c] is the value of code c; codes from values.size() on mean the last value.
    // If thresholds are given, they stand between the magnitudes of neighbours, whichever sign, and one of them takes
    // the smaller magnitude.
    reference_list(int width, std::vector<double> values, tie ties, std::vector<double> thresholds = {})
        : values_(std::move(values)), ties_(ties), thresholds_(std::move(thresholds)) {
        bits = width;
        for (code_number c = 0; c < values_.size(); ++c)
            if (std::isfinite(values_[c])) order_.push_back(c);
        std::stable_sort(order_.begin(), order_.end(),
                         [&](code_number a, code_number b) { return values_[a] < values_[b]; });
        order_.erase(std::unique(order_.begin(), order_.end(),
                                 [&](code_number a, code_number b) { return values_[a] == values_[b]; }),
                     order_.end());
        for (const code_number c : order_) producible.push_back(values_[c]);
        next_above = producible.back() + 1.0;
        next_below = producible.front() - 1.0;
    }
    [[nodiscard]] double decode(code_number code) const override {
        return values_[std::min<std::size_t>(code, values_.size() - 1)];
    }
    [[nodiscard]] rounded_codes encode_all(float from) const override {
        const double x = std::isnan(from) ? 0.0 : static_cast<double>(from);
        if (x >= producible.back()) return for_every_rounding([&](nibble::rounding) { return order_.back(); });
        if (x <= producible.front()) return for_every_rounding([&](nibble::rounding) { return order_.front(); });
        const std::size_t low =
            static_cast<std::size_t>(std::upper_bound(producible.begin(), producible.end(), x) - producible.begin()) -
            1;
        const double below = producible[low];
        const double above = producible[low + 1];
        return for_every_rounding([&](nibble::rounding rounding) {
            bool up = x != below;
            if (up && rounding == nibble::rounding::nearest_even && !thresholds_.empty()) {
                const double inner = std::min(std::abs(below), std::abs(above));
                std::size_t rank = 0;
                for (const double v : producible) rank += v >= 0.0 && v < inner ? 1 : 0;
                const bool outwards = std::abs(x) > thresholds_[rank];
                up = outwards == (above > 0.0);
            } else if (up && rounding == nibble::rounding::nearest_even && ties_ == tie::down)
                up = x > static_cast<double>(static_cast<float>((below + above) / 2)); // as bitsandbytes has it
            else if (up)
                up = goes_up(rounding, x, below, above, order_[low] % 2 == 1 && order_[low + 1] % 2 == 0);
            return order_[up ? low + 1 : low];
        });
    }

private:
    std::vector<double> values_;
    std::vector<code_number> order_; // codes in ascending order of their values; of equal values the lowest code
    tie ties_;
    std::vector<double> thresholds_;
};

// ---- powers of two, and fp32 itself
// -----------------------------------------------------------------------------------------

class reference_power final : public reference_codec {
public:
    reference_power() {
        bits = 8;
        for (int c = 0; c < 255; ++c) producible.push_back(std::ldexp(1.0, c - 127));
        next_above = std::ldexp(1.0, 128);
        next_below = 0.0;
    }
    [[nodiscard]] double decode(code_number code) const override {
        return code == 255 ? not_a_number : std::ldexp(1.0, static_cast<int>(code) - 127);
    }
    [[nodiscard]] rounded_codes encode_all(float x) const override {
        const double v = static_cast<double>(x);
        if (std::isnan(x)) return for_every_rounding([](nibble::rounding) { return code_number{255}; });
        if (v >= producible.back()) return for_every_rounding([](nibble::rounding) { return code_number{254}; });
        if (v <= producible.front()) return for_every_rounding([](nibble::rounding) { return code_number{0}; });
        code_number low = 0;
        while (producible[low + 1] <= v) ++low;
        return for_every_rounding([&](nibble::rounding rounding) {
            const bool up =
                v != producible[low] && goes_up(rounding, v, producible[low], producible[low + 1], low % 2 == 1);
            return low + (up ? 1 : 0);
        });
    }
};

class reference_f32 final : public reference_codec {
public:
    reference_f32() {
        bits = 32;
        producible = {-static_cast<double>(std::numeric_limits<float>::max()), 0.0,
                      static_cast<double>(std::numeric_limits<float>::max())};
    }
    [[nodiscard]] double decode(code_number code) const override {
        return static_cast<double>(std::bit_cast<float>(code));
    }
    [[nodiscard]] rounded_codes encode_all(float x) const override {
        rounded_codes out{};
        for (auto& row : out) row.fill(std::bit_cast<code_number>(x));
        return out;
    }
};

// ---- which reference an element has
// -----------------------------------------------------------------------------------------

// An element of a new kind among the named formats needs a line here.
template <class Element> struct reference_of;

template <nibble::float_format Format> struct reference_of<nibble::minifloat<Format>> {
    static auto make() { return std::make_unique<reference_minifloat>(Format); }
};
template <int Bits, nibble::integer_range Range> struct reference_of<nibble::integer<Bits, Range>> {
    static auto make() {
        constexpr int half = 1 << (Bits - 1);
        if (Range == nibble::integer_range::unsigned_)
            return std::make_unique<reference_integer>(Bits, 0, 2 * half - 1, 0, false, 1.0);
        const int low = Range == nibble::integer_range::full ? -half : 1 - half;
        return std::make_unique<reference_integer>(Bits, low, half - 1, 0, true, 1.0);
    }
};
template <> struct reference_of<nibble::mx_int8> {
    static auto make() { return std::make_unique<reference_integer>(8, -127, 127, 0, true, 1.0 / 64); }
};
template <> struct reference_of<nibble::ternary> {
    static auto make() { return std::make_unique<reference_integer>(2, -1, 1, -1, false, 1.0); }
};
template <> struct reference_of<nibble::binary> {
    static auto make() { return std::make_unique<reference_binary>(); }
};
template <int Bits> struct reference_of<nibble::balanced<Bits>> {
    static auto make() { return std::make_unique<reference_integer>(Bits + 1, 0, 1 << Bits, 0, false, 1.0); }
};
template <int Bits> struct reference_of<nibble::bipolar<Bits>> {
    static auto make() {
        // Each bit is -1 or +1.
        std::vector<double> values;
        for (int c = 0; c < 1 << Bits; ++c) {
            double sum = 0.0;
            for (int b = 0; b < Bits; ++b) sum += (c >> b & 1) != 0 ? std::ldexp(1.0, b) : -std::ldexp(1.0, b);
            values.push_back(sum);
        }
        return std::make_unique<reference_list>(Bits, values, tie::even_code);
    }
};
template <class Levels> struct reference_of<nibble::codebook<Levels>> {
    static auto make() {
        std::vector<double> values;
        for (const float level : Levels::levels) values.push_back(static_cast<double>(level));
        int bits = 1;
        while ((std::size_t{1} << bits) < values.size()) ++bits;
        return std::make_unique<reference_list>(bits, values, tie::down);
    }
};
template <> struct reference_of<nibble::bnb_fp4> {
    static auto make() {
        // formats.md, section 6.
        std::vector<double> values;
        for (const double sign : {1.0, -1.0})
            for (const float v : {0.0f, .0052083333f, .66666667f, 1.0f, .33333333f, .5f, .16666667f, .25f})
                values.push_back(sign * static_cast<double>(v));
        std::vector<double> thresholds;
        for (const float t : {.00260417f, .0859375f, .20833333f, .29166667f, .4166667f, .583333f, .8333333f})
            thresholds.push_back(static_cast<double>(t));
        return std::make_unique<reference_list>(4, values, tie::even_code, thresholds);
    }
};
template <class Element, int Limit> struct reference_of<nibble::rounded_levels<Element, Limit>> {
    static auto make() {
        const auto rounded = reference_of<Element>::make();
        std::vector<double> values;
        for (code_number c = 0; c < 1u << rounded->bits; ++c) values.push_back(rounded->decode(c));
        double top = 0.0;
        for (const double v : values) top = std::max(top, std::abs(v));
        double factor = 0x1p20;
        while (std::nearbyint(top * factor) > Limit) factor /= 2.0;
        for (double& v : values) v = std::nearbyint(v * factor) / factor;
        return std::make_unique<reference_list>(rounded->bits, values, tie::even_code);
    }
};
template <> struct reference_of<nibble::e8m0> {
    static auto make() { return std::make_unique<reference_power>(); }
};
template <> struct reference_of<nibble::f32> {
    static auto make() { return std::make_unique<reference_f32>(); }
};

// One per element and program.
template <class Element> [[nodiscard]] const reference_codec& reference_for() {
    static const std::unique_ptr<reference_codec> one = reference_of<Element>::make();
    return *one;
}

} // namespace nibble_test
