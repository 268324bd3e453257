// quantize_reference.cpp: the rules of quantize.hpp's comments, and the comparisons with them.
#include "support/quantize_reference.hpp"

#include "support/catch.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <sstream>

namespace nibble_test {

namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

struct statistics {
    float largest = 0.0f;
    float low = infinity;
    float high = -infinity;
    double sum = 0.0;
    double count = 0.0;
    bool nonfinite = false;
};

[[nodiscard]] float decoded(const reference_codec& codec, code_number code) {
    return static_cast<float>(codec.decode(code));
}

[[nodiscard]] float wanted_scale(const scheme_facts& scheme, const statistics& s) {
    const float top = scheme.element->largest();
    if (scheme.integer_zero || scheme.minimum) {
        const bool below = scheme.integer_zero || scheme.outer_zero != nullptr;
        const double low = static_cast<double>(below ? std::min(s.low, 0.0f) : s.low);
        const double high = static_cast<double>(scheme.integer_zero ? std::max(s.high, 0.0f) : s.high);
        return static_cast<float>((high - low) / static_cast<double>(top));
    }
    switch (scheme.rule) {
    case scale_rule::by_largest:
        return s.largest / top;
    case scale_rule::by_exponent:
        if (s.largest == 0.0f) return 0.0f;
        return std::ldexp(1.0f, std::clamp(std::ilogb(s.largest) - std::ilogb(top), -127, 127));
    case scale_rule::by_exponent_no_clip: {
        if (s.largest == 0.0f) return 0.0f;
        int e = -127;
        while (e < 127 && std::ldexp(static_cast<double>(top), e) < static_cast<double>(s.largest)) ++e;
        return std::ldexp(1.0f, e);
    }
    case scale_rule::by_exponent_rounded: {
        if (s.largest == 0.0f) return 0.0f;
        // The grid goes on above the largest value in the same steps, as far as the next power of two.
        const int exponent = std::ilogb(s.largest) - std::ilogb(top);
        const double scaled = std::ldexp(static_cast<double>(s.largest), -exponent);
        double below = 0.0;
        for (code_number c = 0; c < (code_number{1} << scheme.element->bits); ++c) {
            const double v = scheme.element->decode(c);
            if (std::isfinite(v) && v < static_cast<double>(top)) below = std::max(below, v);
        }
        const double next = std::ldexp(1.0, std::ilogb(top) + 1);
        const bool up = scaled >= next - (static_cast<double>(top) - below) / 2.0;
        return std::ldexp(1.0f, std::clamp(exponent + (up ? 1 : 0), -127, 127));
    }
    case scale_rule::by_mean:
        return static_cast<float>(s.sum / s.count);
    }
    return 0.0f;
}

} // namespace

plain_quantized reference_quantize(const scheme_facts& scheme, const float* x, std::size_t rows, std::size_t cols,
                                   std::size_t stride, nibble::rounding rounding) {
    plain_quantized q;
    q.rows = rows;
    q.cols = cols;
    const auto at = [&](std::size_t i, std::size_t j) { return x[i * stride + j]; };
    const std::size_t slots = scheme.scaled ? scheme.slots(rows, cols) : 0;
    std::vector<statistics> slot(slots);
    std::vector<float> outer_of(slots, 1.0f);
    std::vector<float> outer_minimum_of(slots, 1.0f);
    std::vector<float> outer_lowest(scheme.two_level ? scheme.outer_slots(rows, cols) : 0, 0.0f);
    std::vector<float> outer_largest(scheme.two_level ? scheme.outer_slots(rows, cols) : 0, 0.0f);
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            const bool finite = std::isfinite(at(i, j));
            q.nonfinite = q.nonfinite || !finite;
            if (!scheme.scaled) continue;
            // Values that are not finite count as zeros.
            const float v = (finite ? at(i, j) : 0.0f) + 0.0f; // zeros have no sign here
            statistics& s = slot[scheme.slot(i, j, cols)];
            s.largest = std::max(s.largest, std::abs(v));
            s.low = std::min(s.low, v);
            s.high = std::max(s.high, v);
            s.sum += std::abs(static_cast<double>(v));
            s.count += 1.0;
            s.nonfinite = s.nonfinite || !finite;
            if (scheme.two_level) {
                float& top = outer_largest[scheme.outer_slot(i, j, cols)];
                top = std::max(top, std::abs(v));
            }
        }
    if (scheme.offset && rows * cols != 0) {
        double sum = 0.0;
        for (const statistics& s : slot) sum += static_cast<double>(wanted_scale(scheme, s));
        q.offset = static_cast<float>(sum / static_cast<double>(slots));
    }
    if (scheme.minimum || scheme.offset || scheme.rule != scale_rule::by_largest) {
        // Not the largest magnitude but the largest scale that a slot asks for, over the inner format's largest.
        for (float& top : outer_largest) top = 0.0f;
        for (std::size_t i = 0; i < rows && scheme.two_level; ++i)
            for (std::size_t j = 0; j < cols; ++j) {
                const statistics& s = slot[scheme.slot(i, j, cols)];
                const std::size_t o = scheme.outer_slot(i, j, cols);
                outer_largest[o] = std::max(outer_largest[o], std::abs(wanted_scale(scheme, s) - q.offset));
                outer_lowest[o] = std::min(outer_lowest[o], s.low);
            }
        for (const float top : outer_largest) q.outer.push_back(scheme.outer->encode(top / scheme.scale->largest()));
        for (const float low : outer_lowest)
            if (scheme.outer_zero != nullptr)
                q.outer_zeros.push_back(scheme.outer_zero->encode((0.0f - low) / scheme.zero->largest()));
    } else {
        for (const float top : outer_largest) {
            const float inner = scheme.scale->largest();
            q.outer.push_back(scheme.outer->encode(top / (inner * scheme.element->largest())));
            while (std::isinf(decoded(*scheme.outer, q.outer.back()) * inner * scheme.element->largest()))
                --q.outer.back();
        }
    }
    for (std::size_t i = 0; i < rows && scheme.two_level; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            const std::size_t o = scheme.outer_slot(i, j, cols);
            outer_of[scheme.slot(i, j, cols)] = decoded(*scheme.outer, q.outer[o]);
            if (scheme.outer_zero != nullptr)
                outer_minimum_of[scheme.slot(i, j, cols)] = decoded(*scheme.outer_zero, q.outer_zeros[o]);
        }

    std::vector<float> scale(slots, 1.0f);
    std::vector<float> zero(slots, 0.0f);
    for (std::size_t s = 0; s < slots && rows * cols != 0; ++s) {
        float wanted = wanted_scale(scheme, slot[s]);
        wanted -= q.offset;
        if (scheme.two_level) wanted = outer_of[s] > 0.0f ? wanted / outer_of[s] : 0.0f;
        const bool can_say_nan = scheme.scale->bits == 8 && std::isnan(scheme.scale->decode(255));
        if (can_say_nan && !scheme.two_level && slot[s].nonfinite) wanted = nan_value;
        q.scales.push_back(scheme.scale->encode(wanted));
        scale[s] = decoded(*scheme.scale, q.scales.back());
        if (scheme.two_level) {
            volatile float product = scale[s] * outer_of[s]; // rounded before anything is added
            scale[s] = product;
        }
        if (scheme.offset) {
            // The nearest in the format, unless it is less than half as large as wanted and one beside it is not.
            scale[s] += q.offset;
            const float half = 0.5f * wanted_scale(scheme, slot[s]);
            if (std::abs(scale[s]) < half) {
                const float from = decoded(*scheme.scale, q.scales.back());
                code_number beside[2] = {q.scales.back(), q.scales.back()};
                for (code_number c = 0; c < (code_number{1} << scheme.scale->bits); ++c) {
                    const float v = decoded(*scheme.scale, c);
                    if (v < from && (beside[0] == q.scales.back() || v > decoded(*scheme.scale, beside[0])))
                        beside[0] = c;
                    if (v > from && (beside[1] == q.scales.back() || v < decoded(*scheme.scale, beside[1])))
                        beside[1] = c;
                }
                float best = infinity;
                for (const code_number c : {beside[1], beside[0]}) {
                    volatile float product = decoded(*scheme.scale, c) * outer_of[s];
                    const float other = product + q.offset;
                    if (std::abs(other) < half || std::abs(other) >= std::abs(best)) continue;
                    best = other;
                    q.scales.back() = c;
                }
                if (std::isfinite(best)) scale[s] = best;
            }
        }
        if (scheme.outer_zero != nullptr) {
            const float low = std::min(slot[s].low, 0.0f);
            q.zeros.push_back(scheme.zero->encode(outer_minimum_of[s] > 0.0f ? -low / outer_minimum_of[s] : 0.0f));
            zero[s] = -(decoded(*scheme.zero, q.zeros.back()) * outer_minimum_of[s]);
        } else if (scheme.minimum) {
            q.zeros.push_back(scheme.zero->encode(slot[s].low));
            zero[s] = decoded(*scheme.zero, q.zeros.back());
        }
        const auto set_integer_zero = [&] {
            const float low = std::min(slot[s].low, 0.0f);
            q.zeros.back() = scheme.element->encode(scale[s] > 0.0f ? -low / scale[s] : 0.0f);
            zero[s] = decoded(*scheme.element, q.zeros.back());
        };
        if (scheme.integer_zero) {
            q.zeros.push_back(0);
            set_integer_zero();
        }
        // No code's value is infinite: the scale is at most the quotient, then the next below until it holds.
        const float top = scheme.element->largest();
        const auto reach = [&] { return scheme.integer_zero ? std::max(zero[s], top - zero[s]) : top; };
        const auto overflows = [&] {
            return std::isinf(scheme.minimum ? std::fma(scale[s], top, zero[s]) : scale[s] * reach());
        };
        if (!std::isnan(scale[s]) && overflows()) {
            const double room = static_cast<double>(std::numeric_limits<float>::max()) -
                                (scheme.minimum ? static_cast<double>(zero[s]) : 0.0);
            const float limit = static_cast<float>(room / static_cast<double>(reach()));
            if (!scheme.two_level && scale[s] >= limit) q.scales.back() = scheme.scale->encode(limit);
            for (;; --q.scales.back()) {
                scale[s] = decoded(*scheme.scale, q.scales.back());
                if (scheme.two_level) {
                    volatile float product = scale[s] * outer_of[s];
                    scale[s] = product + q.offset;
                }
                if (scheme.integer_zero) set_integer_zero();
                if (!overflows()) break;
            }
        }
    }
    if (rows * cols == 0) {
        q.scales.assign(slots, 0);
        if (scheme.integer_zero || scheme.minimum) q.zeros.assign(slots, 0);
        q.outer.assign(outer_largest.size(), 0);
        q.outer_zeros.assign(scheme.outer_zero != nullptr ? outer_largest.size() : 0, 0);
    }

    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
            const float v = at(i, j);
            if (!scheme.scaled) {
                q.codes.push_back(scheme.element->encode(v, rounding, nibble::overflow::special));
                q.values.push_back(decoded(*scheme.element, q.codes.back()));
                continue;
            }
            const std::size_t s = scheme.slot(i, j, cols);
            float from = 0.0f;
            if (std::isnan(scale[s]))
                from = 0.0f; // the scale says it all
            else if (scale[s] == 0.0f)
                from = scheme.integer_zero ? zero[s] : scheme.minimum ? 0.0f : std::isnan(v) ? v : 0.0f;
            else if (scheme.integer_zero)
                from = std::isnan(v) ? zero[s] : v / scale[s] + zero[s];
            else if (scheme.minimum)
                from = ((std::isnan(v) ? 0.0f : v) - zero[s]) / scale[s];
            else
                from = v / scale[s];
            q.codes.push_back(scheme.element->encode(from, rounding));
            const float unit = decoded(*scheme.element, q.codes.back());
            q.values.push_back(scheme.integer_zero ? scale[s] * (unit - zero[s])
                               : scheme.minimum    ? std::fma(scale[s], unit, zero[s])
                                                   : scale[s] * unit);
        }
    return q;
}

std::vector<float> weights_of(weights_kind kind, std::size_t rows, std::size_t cols, std::uint64_t seed) {
    std::vector<float> x(rows * cols);
    for (std::size_t n = 0; n < x.size(); ++n) {
        const std::size_t i = n / cols;
        const std::size_t j = n % cols;
        const std::uint64_t r = random64(seed + 1, n);
        float v = random_normal(seed, n);
        switch (kind) {
        case weights_kind::normal:
            v *= 0.02f * (r % 64 == 0 ? 20.0f : 1.0f) * (i % 3 == 1 ? 50.0f : 1.0f);
            break;
        case weights_kind::zeros: // rows, and groups of 16, of zeros of either sign; one lone value
            if (i % 2 == 1 || (j / 16) % 2 == 1) v = r % 2 == 0 ? 0.0f : -0.0f;
            break;
        case weights_kind::tiny:
            v *= i % 3 == 0 ? 1e-40f : i % 3 == 1 ? 1e-30f : 1e-8f;
            break;
        case weights_kind::huge:
            v = (v < 0 ? -1.0f : 1.0f) * (r % 3 == 0 ? 3e38f : 1e37f * std::min(std::abs(v), 3.0f));
            break;
        case weights_kind::nonfinite:
            if (r % 29 == 0) v = nan_value;
            if (r % 31 == 0) v = infinity;
            if (r % 37 == 0) v = -infinity;
            if (i % 4 == 2 && std::isfinite(v)) v = 0.0f;
            if (i % 4 == 3) v = r % 2 == 0 ? nan_value : -infinity;
            if (i % 4 == 0 && j < 32) v = 3.0f; // a block of finite ones
            break;
        case weights_kind::constant:
            v = i % 3 == 0 ? 0.7f : i % 3 == 1 ? -0.3f : 5.0f + 0.01f * v;
            break;
        case weights_kind::ties:
            v = static_cast<float>(static_cast<int>(r % 61) - 30) * 0.25f;
            break;
        case weights_kind::last:
            break;
        }
        x[n] = v;
    }
    return x;
}

std::string difference(const plain_quantized& got, const plain_quantized& wanted, int element_bits) {
    std::ostringstream out;
    out << std::hexfloat;
    const auto compare = [&](const char* what, const auto& a, const auto& b) {
        if (!out.str().empty()) return;
        if (a.size() != b.size()) {
            out << what << ": " << a.size() << " of them, not " << b.size();
            return;
        }
        for (std::size_t i = 0; i < a.size(); ++i) {
            bool same = a[i] == b[i];
            if constexpr (std::is_same_v<std::decay_t<decltype(a[i])>, float>)
                same = (std::isnan(a[i]) && std::isnan(b[i])) ||
                       std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i]);
            if (!same) {
                out << what << "[" << i << "]: " << a[i] << ", not " << b[i];
                return;
            }
        }
    };
    compare("outer scale", got.outer, wanted.outer);
    compare("scale", got.scales, wanted.scales);
    compare("zero", got.zeros, wanted.zeros);
    compare("outer zero", got.outer_zeros, wanted.outer_zeros);
    compare("offset", std::array<float, 1>{got.offset}, std::array<float, 1>{wanted.offset});
    compare("code", got.codes, wanted.codes);
    compare("value", got.values, wanted.values);
    if (out.str().empty() && got.nonfinite != wanted.nonfinite) out << "nonfinite";
    // The rows' streams, from the codes, bit by bit.
    const std::size_t bits = static_cast<std::size_t>(element_bits);
    for (std::size_t i = 0; i < got.rows && out.str().empty(); ++i) {
        std::vector<unsigned char> stream((got.cols * bits + 7) / 8, 0);
        for (std::size_t j = 0; j < got.cols; ++j)
            for (std::size_t b = 0; b < bits; ++b)
                if ((wanted.codes[i * got.cols + j] >> b & 1u) != 0)
                    stream[(j * bits + b) / 8] =
                        static_cast<unsigned char>(stream[(j * bits + b) / 8] | 1u << ((j * bits + b) % 8));
        if (stream != got.streams[i]) out << "bytes of row " << i;
    }
    return out.str();
}

std::vector<double> errors_of_slots(const scheme_facts& scheme, const plain_quantized& q, const float* x) {
    // A search chooses the numbers of a super-block together.
    const bool together = scheme.two_level && scheme.outer_slots(1, 1024) > 1;
    std::vector<double> errors(together ? scheme.outer_slots(q.rows, q.cols) : scheme.slots(q.rows, q.cols), 0.0);
    for (std::size_t n = 0; n < q.values.size(); ++n) {
        const double d = static_cast<double>(x[n]) - static_cast<double>(q.values[n]);
        errors[together ? scheme.outer_slot(n / q.cols, n % q.cols, q.cols)
                        : scheme.slot(n / q.cols, n % q.cols, q.cols)] += d * d;
    }
    return errors;
}

namespace {

constexpr std::size_t shapes[][2] = {{0, 0},  {0, 7},  {5, 0},  {1, 1},   {1, 7},   {7, 1},   {3, 31},
                                     {5, 33}, {4, 64}, {3, 67}, {7, 129}, {2, 257}, {5, 511}, {2, 1031}};

void check_rules(const format_verbs& format) {
    std::string first;
    std::size_t wrong = 0;
    for (const auto& [rows, cols] : shapes)
        for (int kind = 0; kind < static_cast<int>(weights_kind::last); ++kind)
            for (const nibble::rounding rounding :
                 {nibble::rounding::nearest_even, nibble::rounding::toward_zero, nibble::rounding::half_away}) {
                if (rounding != nibble::rounding::nearest_even && (cols != 129 && cols != 33)) continue;
                const std::uint64_t seed = 1000 * cols + rows;
                const std::vector<float> x = weights_of(static_cast<weights_kind>(kind), rows, cols, seed);
                const plain_quantized wanted = reference_quantize(format.facts, x.data(), rows, cols, cols, rounding);
                const plain_quantized got = format.quantize(x.data(), rows, cols, cols, {.rounding = rounding}, 1);
                const std::string what = difference(got, wanted, format.facts.element->bits);
                if (what.empty()) continue;
                ++wrong;
                if (wrong <= 5) {
                    std::ostringstream line;
                    line << "\n  " << rows << " x " << cols << " weights of kind " << kind << ", rounding "
                         << static_cast<int>(rounding) << ": " << what;
                    first += line.str();
                }
            }
    INFO(format.facts.name << ": " << wrong << " cases against the rules" << first);
    CHECK(wrong == 0);
}

void check_dequantize(const format_verbs& format) {
    for (const auto& [rows, cols] : shapes)
        for (const weights_kind kind : {weights_kind::normal, weights_kind::nonfinite}) {
            const std::vector<float> x = weights_of(kind, rows, cols, 5);
            const plain_quantized q = format.quantize(x.data(), rows, cols, cols, {}, 1);
            const std::size_t stride = cols + 5;
            const std::vector<float> out = format.round_trip(x.data(), rows, cols, stride, cols % 2 == 0 ? 1 : 3);
            bool same = true;
            for (std::size_t i = 0; i < rows; ++i)
                for (std::size_t j = 0; j < stride; ++j) {
                    const float got = out[i * stride + j];
                    if (j >= cols)
                        same = same && got == 123.0f; // what lies between the rows is left alone
                    else
                        same = same && ((std::isnan(got) && std::isnan(q.values[i * cols + j])) ||
                                        std::bit_cast<std::uint32_t>(got) ==
                                            std::bit_cast<std::uint32_t>(q.values[i * cols + j]));
                }
            CAPTURE(format.facts.name, rows, cols);
            CHECK(same);
        }
}

void check_strides_and_executors(const format_verbs& format) {
    // 8 rows per task: several tasks.
    constexpr std::size_t rows = 41;
    constexpr std::size_t cols = 2049;
    constexpr std::size_t stride = cols + 7;
    const std::vector<float> x = weights_of(weights_kind::normal, rows, cols, 11);
    std::vector<float> apart(rows * stride, nan_value);
    for (std::size_t i = 0; i < rows; ++i)
        std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(i * cols), cols,
                    apart.begin() + static_cast<std::ptrdiff_t>(i * stride));
    const int bits = format.facts.element->bits;
    CAPTURE(format.facts.name);
    for (const nibble::rounding rounding : {nibble::rounding::nearest_even, nibble::rounding::stochastic}) {
        const nibble::quantize_options options{.rounding = rounding, .seed = 42};
        const plain_quantized serial = format.quantize(x.data(), rows, cols, cols, options, 1);
        CHECK(difference(format.quantize(apart.data(), rows, cols, stride, options, 1), serial, bits) == "");
        CHECK(difference(format.quantize(x.data(), rows, cols, cols, options, 3), serial, bits) == "");
        if (rounding == nibble::rounding::stochastic && bits <= 16) {
            const plain_quantized other =
                format.quantize(x.data(), rows, cols, cols, {.rounding = rounding, .seed = 43}, 1);
            CHECK(other.codes != serial.codes);
            CHECK(other.scales == serial.scales);
        }
    }
}

// quantize is its halves, for every option.
void check_halves(const format_verbs& format) {
    constexpr std::size_t shapes_of_halves[][2] = {{0, 7}, {1, 1}, {3, 67}, {9, 129}, {5, 515}, {2, 1031}};
    for (const auto& [rows, cols] : shapes_of_halves)
        for (const weights_kind kind : {weights_kind::normal, weights_kind::huge, weights_kind::nonfinite}) {
            const std::vector<float> x = weights_of(kind, rows, cols, 13);
            std::vector<unsigned char> up(rows * cols + 1);
            for (std::size_t i = 0; i < up.size(); ++i) up[i] = static_cast<unsigned char>(i * 7 % 5);
            const nibble::quantize_options all[] = {
                {},
                {.range = nibble::range::least_squares},
                {.rounding = nibble::rounding::stochastic, .seed = 3},
                {.rounding = nibble::rounding::learned, .round_up = up.data()},
                {.nonfinite = nibble::nonfinite_policy::zero},
                {.flush_subnormals = true},
            };
            for (const nibble::quantize_options& options : all) {
                if (options.range == nibble::range::least_squares && cols > 129) continue;
                CAPTURE(format.facts.name, rows, cols, static_cast<int>(kind), &options - all);
                const int bits = format.facts.element->bits;
                const plain_quantized wanted = format.quantize(x.data(), rows, cols, cols, options, 1);
                for (const bool by_blocks : {false, true})
                    CHECK(difference(
                              format.quantize_by_halves(x.data(), rows, cols, options, by_blocks, by_blocks ? 1 : 3),
                              wanted, bits) == "");
            }
        }
}

void check_least_squares(const format_verbs& format) {
    if (!format.facts.scaled) return;
    const nibble::quantize_options options{.range = nibble::range::least_squares};
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{5, 131}, {20, 2049}})
        for (const weights_kind kind :
             {weights_kind::normal, weights_kind::zeros, weights_kind::ties, weights_kind::huge}) {
            if (rows == 20 && kind != weights_kind::normal) continue;
            CAPTURE(format.facts.name, rows, cols, static_cast<int>(kind));
            const std::vector<float> x = weights_of(kind, rows, cols, 3);
            const plain_quantized plain_range = format.quantize(x.data(), rows, cols, cols, {}, 1);
            const plain_quantized searched = format.quantize(x.data(), rows, cols, cols, options, 1);
            const std::vector<double> before = errors_of_slots(format.facts, plain_range, x.data());
            const std::vector<double> after = errors_of_slots(format.facts, searched, x.data());
            bool worse = false;
            // Sums in another order: 1e-12 of them.
            for (std::size_t s = 0; s < before.size(); ++s) worse = worse || after[s] > before[s] * (1.0 + 1e-12);
            CHECK_FALSE(worse);
            if (rows == 20)
                CHECK(difference(format.quantize(x.data(), rows, cols, cols, options, 3), searched,
                                 format.facts.element->bits) == "");
        }
}

} // namespace

void check_format(const format_verbs& format) {
    check_rules(format);
    check_dequantize(format);
    check_strides_and_executors(format);
    check_halves(format);
    check_least_squares(format);
}

void for_each_block(std::size_t rows, std::size_t cols,
                    const std::function<void(std::size_t, std::size_t, std::size_t, std::size_t)>& visit) {
    std::size_t end = cols;
    for (std::size_t most = 1; end != 0; ++most) {
        const std::size_t width = std::min(most, end);
        const std::size_t above = most % 2 == 0 ? rows / 2 : rows;
        end -= width;
        visit(0, end, above, width);
        visit(above, end, rows - above, width);
    }
}

} // namespace nibble_test
