// codec_check.cpp: the comparisons of codec_check.hpp.
#include "support/codec_check.hpp"

#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/core/bits.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <sstream>

namespace nibble_test {

namespace {

// Counts disagreements and keeps the first few, so that a loop of millions is one assertion.
class disagreements {
public:
    explicit disagreements(std::string what) : what_(std::move(what)) {}
    template <class Describe> void expect(bool ok, Describe&& describe) {
        if (ok) return;
        ++count_;
        if (count_ <= 5) {
            std::ostringstream line;
            line << std::hexfloat;
            describe(line);
            first_ += "\n  " + line.str();
        }
    }
    void report() const {
        INFO(what_ << ": " << count_ << " disagreements" << first_);
        CHECK(count_ == 0);
    }

private:
    std::string what_;
    std::string first_;
    std::size_t count_ = 0;
};

[[nodiscard]] bool same(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

[[nodiscard]] std::vector<float> interesting_values(const reference_codec& reference) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> x;
    const auto around = [&](double v) {
        const float f = static_cast<float>(v);
        if (!std::isfinite(f)) return;
        for (const float g : {f, std::nextafter(f, infinity), std::nextafter(f, -infinity)}) {
            x.push_back(g);
            x.push_back(-g);
        }
    };
    const std::vector<double>& p = reference.producible;
    for (std::size_t i = 0; i < p.size(); ++i) {
        around(p[i]);
        if (i > 0) {
            around((p[i - 1] + p[i]) / 2);
            if (p.size() < 4096) around(p[i - 1] * 0.75 + p[i] * 0.25);
        }
    }
    around(reference.next_above);
    around(reference.next_below);
    around((p.back() + reference.next_above) / 2);
    around((p.front() + reference.next_below) / 2);
    for (const std::uint32_t magnitude :
         {0x00000000u, 0x00000001u, 0x007fffffu, 0x00800000u, 0x3f7fffffu, 0x4effffffu, 0x4f000000u, 0x5f000000u,
          0x7f000000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu}) {
        x.push_back(std::bit_cast<float>(magnitude));
        x.push_back(std::bit_cast<float>(magnitude | 0x80000000u));
    }
    return x;
}

// Half of them any bit pattern, half spread over the binades in which the element has values.
[[nodiscard]] float random_pattern(const reference_codec& reference, std::uint64_t index) {
    const std::uint64_t r = random64(77, index);
    if (index % 2 == 0) return std::bit_cast<float>(static_cast<std::uint32_t>(r));
    const auto exponent_of = [](double v) { return std::ilogb(v) + 127; };
    double least = reference.next_above;
    for (const std::size_t at : {std::size_t{0}, reference.producible.size() / 2, reference.producible.size() - 1})
        if (reference.producible[at] != 0.0) least = std::min(least, std::abs(reference.producible[at]));
    const auto after_zero = std::upper_bound(reference.producible.begin(), reference.producible.end(), 0.0);
    if (after_zero != reference.producible.end()) least = std::min(least, *after_zero);
    const int low = std::clamp(exponent_of(least) - 3, 0, 254);
    const int high = std::clamp(exponent_of(std::max(reference.producible.back(), least)) + 2, low, 254);
    const int field = low + static_cast<int>((r >> 40) % static_cast<std::uint64_t>(high - low + 1));
    return std::bit_cast<float>((static_cast<std::uint32_t>(r) & 0x807fffffu) | static_cast<std::uint32_t>(field)
                                                                                    << 23);
}

void check_values(const codec& tested, const reference_codec& reference) {
    disagreements decodes(tested.name + " decode");
    disagreements returns(tested.name + " encode(decode(code))");
    const std::uint64_t codes = std::uint64_t{1} << tested.bits;
    const std::uint64_t step = tested.bits > 16 ? 65521 : 1;
    for (std::uint64_t at = 0; at < codes; at += step) {
        const code_number code = static_cast<code_number>(at);
        const float value = tested.decode(code);
        const float wanted = static_cast<float>(reference.decode(code));
        decodes.expect(same(value, wanted),
                       [&](std::ostream& out) { out << code << ": " << value << ", not " << wanted; });
        // Values that no encoder produces (-8 of int4, 2 of ternary) are left out.
        if (!std::isfinite(wanted) || static_cast<double>(wanted) < reference.producible.front() ||
            static_cast<double>(wanted) > reference.producible.back())
            continue;
        for (std::size_t mode = 0; mode < rounding_count; ++mode)
            for (std::size_t policy = 0; policy < 2; ++policy)
                for (const std::uint32_t random : {0u, 0xffffffffu}) {
                    const code_number back = tested.encode[mode][policy](value, random);
                    returns.expect(tested.decode(back) == value, [&](std::ostream& out) {
                        out << "code " << code << " rounding " << mode << " random " << random << ": " << back;
                    });
                }
    }
    decodes.report();
    returns.report();
    CHECK(tested.largest == reference.largest());
    CHECK(static_cast<double>(tested.lowest) == reference.producible.front());
    if (tested.bits <= 8) {
        bool nan = false;
        bool infinity = false;
        for (code_number c = 0; c < codes; ++c) {
            nan = nan || std::isnan(reference.decode(c));
            infinity = infinity || std::isinf(reference.decode(c));
        }
        CHECK(tested.has_nan == nan);
        CHECK(tested.has_infinity == infinity);
    }
}

void check_encode(const codec& tested, const reference_codec& reference, std::size_t samples) {
    disagreements wrong(tested.name + " encode");
    const auto one = [&](float x) {
        const rounded_codes wanted = reference.encode_all(x);
        const auto expect = [&](std::size_t mode, std::uint32_t random, std::size_t policy, code_number expected) {
            const code_number code = tested.encode[mode][policy](x, random);
            wrong.expect(code == expected, [&](std::ostream& out) {
                out << x << " rounding " << mode << " overflow " << policy << ": code " << std::hex << code << ", not "
                    << expected;
            });
        };
        constexpr std::size_t learned = static_cast<std::size_t>(nibble::rounding::learned);
        constexpr std::size_t up = static_cast<std::size_t>(nibble::rounding::ceiling);
        constexpr std::size_t down = static_cast<std::size_t>(nibble::rounding::floor);
        for (std::size_t policy = 0; policy < 2; ++policy) {
            for (const nibble::rounding rounding : determined_roundings) {
                const std::size_t mode = static_cast<std::size_t>(rounding);
                expect(mode, 0x9e3779b9u, policy, wanted[mode][policy]);
            }
            // Only the lowest bit counts.
            expect(learned, 0xfffffffeu, policy, wanted[down][policy]);
            expect(learned, 0x00000001u, policy, wanted[up][policy]);
        }
    };
    for (const float x : interesting_values(reference)) one(x);
    for (std::size_t i = 0; i < samples; ++i) one(random_pattern(reference, i));
    wrong.report();
}

void check_monotonic(const codec& tested, const reference_codec& reference) {
    disagreements falling(tested.name + " falls");
    std::vector<float> x = interesting_values(reference);
    for (std::size_t i = 0; i < 2000; ++i) x.push_back(random_pattern(reference, 1000000 + i));
    x.erase(std::remove_if(x.begin(), x.end(), [](float v) { return std::isnan(v); }), x.end());
    std::sort(x.begin(), x.end());
    for (std::size_t mode = 0; mode < rounding_count; ++mode) {
        float before = -std::numeric_limits<float>::infinity();
        for (const float v : x) {
            // Equal random bits: a larger value cannot round to a smaller one. (Not so for stochastic minifloats, which
            // use as many bits as the binade needs.)
            if (mode == static_cast<std::size_t>(nibble::rounding::stochastic)) continue;
            const float now = tested.decode(tested.encode[mode][0](v, 0));
            falling.expect(now >= before, [&](std::ostream& out) { out << v << " rounding " << mode; });
            before = now;
        }
    }
    falling.report();
}

// Between two neighbours at distance d, the result is the upper one with probability f = (x - below) / d; of n draws
// the count is binomial, so it stays within 5.5 standard deviations of n f (and 8 of a count so small that it is
// Poisson's).
void check_stochastic(const codec& tested, const reference_codec& reference) {
    disagreements outside(tested.name + " stochastic: not a neighbour");
    disagreements biased(tested.name + " stochastic: biased");
    const std::vector<double>& p = reference.producible;
    if (p.size() < 2 || tested.bits > 16) return;
    constexpr std::size_t draws = 4000;
    std::vector<std::size_t> intervals{0, p.size() - 2, (p.size() - 1) / 2, (p.size() - 1) / 3};
    const std::size_t above_zero = static_cast<std::size_t>(std::upper_bound(p.begin(), p.end(), 0.0) - p.begin());
    if (above_zero > 0 && above_zero < p.size()) intervals.push_back(above_zero - 1);
    if (above_zero > 1) intervals.push_back(above_zero - 2);
    std::uint64_t stream = 0;
    for (const std::size_t at : intervals) {
        if (at + 1 >= p.size()) continue;
        for (const double fraction : {0x1p-40, 0x1p-20, 0x1p-9, 0x1p-7, 0.03, 0.25, 0.5, 0.8, 1.0 - 0x1p-9}) {
            const float x = static_cast<float>(p[at] + (p[at + 1] - p[at]) * fraction);
            const double f = (static_cast<double>(x) - p[at]) / (p[at + 1] - p[at]);
            if (!(f >= 0.0 && f <= 1.0)) continue;
            std::size_t ups = 0;
            ++stream;
            for (std::size_t i = 0; i < draws; ++i) {
                const code_number code = tested.encode[3][i % 2](x, nibble::detail::random_bits(stream, i));
                const double value = static_cast<double>(tested.decode(code));
                ups += value == p[at + 1] ? 1u : 0u;
                outside.expect(value == p[at + 1] || value == p[at],
                               [&](std::ostream& out) { out << x << ": " << value; });
            }
            const double expected = static_cast<double>(draws) * f;
            const double bound = 5.5 * std::sqrt(expected * (1.0 - f)) + 8.0;
            biased.expect(std::abs(static_cast<double>(ups) - expected) <= bound, [&](std::ostream& out) {
                out << x << " between " << p[at] << " and " << p[at + 1] << ": up " << std::defaultfloat << ups
                    << " times, expected " << expected << " +- " << bound;
            });
        }
    }
    // Beyond the range nothing is left to chance, and NaN neither.
    for (const float x :
         {std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::max(),
          -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
        for (std::size_t policy = 0; policy < 2; ++policy)
            for (const std::uint32_t random : {0u, 1u, 0x7fffffffu, 0xffffffffu}) {
                // Without a zero, NaN is a tie.
                if (std::isnan(x) && !tested.has_nan && !std::binary_search(p.begin(), p.end(), 0.0)) continue;
                // bf16 has values up to fp32's largest: that one rounds by chance.
                if (static_cast<double>(std::abs(x)) < reference.next_above && std::isfinite(x)) continue;
                if (static_cast<double>(x) < 0.0 && static_cast<double>(x) > reference.next_below) continue;
                outside.expect(tested.encode[3][policy](x, random) == reference.encode_all(x)[0][policy],
                               [&](std::ostream& out) { out << x << ", random " << random; });
            }
    outside.report();
    biased.report();
}

} // namespace

void check_codec(const codec& tested, const reference_codec& reference, std::size_t samples) {
    INFO(tested.name);
    REQUIRE(tested.bits == reference.bits);
    check_values(tested, reference);
    check_encode(tested, reference, samples / sample_divisor);
    check_monotonic(tested, reference);
    check_stochastic(tested, reference);
}

void check_facts(const derived_facts& f) {
    using nibble::detail::real_decode;
    const std::size_t codes = std::size_t{1} << f.bits;

    disagreements tables(f.name + " tables");
    for (std::size_t c = 0; c < codes; ++c)
        tables.expect(same(f.decode_table[c], f.values[c]), [&](std::ostream& out) { out << c; });
    std::vector<float> distinct;
    for (const float v : f.values)
        if (std::isfinite(v)) distinct.push_back(v + 0.0f);
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    tables.expect(f.sorted_values.size() == distinct.size(), [&](std::ostream& out) { out << "sorted_grid's size"; });
    for (std::size_t i = 0; i < std::min(f.sorted_values.size(), distinct.size()); ++i) {
        tables.expect(f.sorted_values[i] == distinct[i] && f.values[f.sorted_codes[i]] == distinct[i],
                      [&](std::ostream& out) { out << "sorted_grid[" << i << "]"; });
        for (std::size_t c = 0; c < f.sorted_codes[i]; ++c)
            tables.expect(f.values[c] != distinct[i], [&](std::ostream& out) { out << "not the lowest code: " << i; });
    }
    tables.report();

    // The integer grid exists exactly if some power of two makes every value an integer that fits in one byte, signed,
    // or unsigned where codes are plain binary; the largest such power is the exponent.
    disagreements grid(f.name + " integer grid");
    bool finite = true;
    for (const float v : f.values) finite = finite && std::isfinite(v);
    bool any = false;
    int exponent = 0;
    bool plain = true; // value = code times a power of two
    for (int e = 127; finite && e >= -149 && !any; --e) {
        bool integers = true;
        bool nonzero = false;
        for (const float v : f.values) {
            const double scaled = std::ldexp(static_cast<double>(v), -e);
            integers = integers && scaled == std::trunc(scaled);
            nonzero = nonzero || v != 0.0f;
        }
        any = integers && nonzero;
        exponent = e;
    }
    double low = 0.0;
    double high = 0.0;
    for (std::size_t c = 0; any && c < codes; ++c) {
        const double integer = std::ldexp(static_cast<double>(f.values[c]), -exponent);
        low = c == 0 ? integer : std::min(low, integer);
        high = c == 0 ? integer : std::max(high, integer);
        plain = plain && integer == static_cast<double>(c);
    }
    const bool fits = any && low >= -128.0 && (high <= 127.0 || plain);
    grid.expect(f.grid.exists == fits, [&](std::ostream& out) {
        out << std::defaultfloat << "exists " << f.grid.exists << ", integers " << low << " to " << high;
    });
    if (fits && f.grid.exists) {
        grid.expect(f.grid.exponent == exponent && f.grid.low == static_cast<int>(low) &&
                        f.grid.high == static_cast<int>(high),
                    [&](std::ostream& out) { out << "exponent " << f.grid.exponent; });
        for (std::size_t c = 0; c < codes; ++c) {
            const int integer = static_cast<int>(std::ldexp(static_cast<double>(f.values[c]), -exponent));
            if (f.grid.linear)
                grid.expect((static_cast<int>(c) ^ f.grid.flip) == integer - f.grid.low,
                            [&](std::ostream& out) { out << "linear: code " << c; });
        }
    }
    grid.report();

    disagreements lanes(f.name + " lanes");
    lanes.expect(f.grid.exists || !f.fits_int16_sums, [&](std::ostream& out) { out << "sums without integers"; });
    if (f.grid.exists) {
        int magnitude = 0;
        for (std::size_t c = 0; c < codes; ++c) {
            const int lane = static_cast<int>(f.lanes[c]);
            const int centred = lane - f.lane_center;
            magnitude = std::max(magnitude, std::abs(centred));
            const double value = std::ldexp(static_cast<double>(centred + f.lane_offset), f.grid.exponent);
            lanes.expect(value == static_cast<double>(f.values[c]),
                         [&](std::ostream& out) { out << "code " << c << ": lane " << std::dec << lane; });
            if (f.fits_int16_sums)
                lanes.expect(lane <= 129, [&](std::ostream& out) { out << "lane of code " << c << ": " << lane; });
        }
        // 4 products per quad in two int16 sums: 2 x magnitude x 127 each.
        lanes.expect(static_cast<int>(f.phase_quads) * 2 * magnitude * 127 <= 32767,
                     [&](std::ostream& out) { out << "phase " << f.phase_quads << ", magnitude " << magnitude; });
    }
    lanes.report();

    disagreements real(f.name + " fp32 lanes");
    for (std::size_t c = 0; c < codes; ++c) {
        float lane = f.values[c];
        switch (f.real.kind) {
        case real_decode::table16:
            real.expect(f.bits <= 4, [](std::ostream& out) { out << "more than 16 values"; });
            break;
        case real_decode::power_of_two:
            lane = c == 255 ? std::nanf("") : std::ldexp(1.0f, static_cast<int>(c) - 127);
            break;
        case real_decode::shift: {
            const std::uint32_t magnitude = static_cast<std::uint32_t>(c) & ((1u << f.real.magnitude_bits) - 1u);
            std::uint32_t word = magnitude << f.real.shift;
            if (f.real.infinite_from != 0 && magnitude >= static_cast<std::uint32_t>(f.real.infinite_from))
                word |= 0x7f800000u;
            if (f.real.has_sign && c >> (f.bits - 1) != 0) word |= 0x80000000u;
            lane = std::bit_cast<float>(word) * f.real.factor;
            break;
        }
        default:
            break;
        }
        const bool left_to_pack = std::isnan(f.values[c]) && f.marks_nan;
        real.expect(left_to_pack || same(lane, f.values[c]),
                    [&](std::ostream& out) { out << "code " << c << ": " << lane << ", not " << f.values[c]; });
    }
    real.report();
}

} // namespace nibble_test
