// gemm_extremes.cpp: the largest sums a format can make, codes and scales that no quantizer writes, and activations
// that are no ordinary numbers; all compared with the documented formula bit for bit.
#include "support/catch.hpp"
#include "support/gemm_format.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// Compares every ISA with the formula; returns the results.
std::vector<float> compare(const gemm_format& format, const gemm_weights& weights, const std::vector<float>& x,
                           bool per_group, const char* what) {
    const plain_weights& w = weights.plain();
    const std::size_t m = x.size() / w.cols;
    const nb::matrix_view<const float> from(x.data(), m, w.cols);
    const std::vector<float> want = reference_gemm(from, w, per_group);
    nb::gemm_options options;
    options.activations = scaled_by(per_group);
    for (std::size_t isa = 0; isa < weights.isas(); ++isa) {
        std::vector<float> y(m * w.rows, 12345.0f);
        weights.gemm(isa, from, {y.data(), m, w.rows}, options, any_executor{});
        const std::string found = first_difference({y.data(), m, w.rows}, {want.data(), m, w.rows});
        if (!found.empty())
            FAIL_CHECK(format.name() << " on " << isa_names()[isa] << (per_group ? ", per group, " : ", per token, ")
                                     << what << ", K = " << w.cols << ": " << found);
    }
    return want;
}

// Six tokens that become +-127 in every place: constant, negative, alternating by 1, 2 and 4 columns, random.
std::vector<float> full_range_activations(std::size_t cols) {
    std::vector<float> x(6 * cols);
    number_source from(3);
    for (std::size_t k = 0; k < cols; ++k) {
        x[0 * cols + k] = 1.0f;
        x[1 * cols + k] = -1.0f;
        x[2 * cols + k] = k % 2 == 0 ? 1.0f : -1.0f;
        x[3 * cols + k] = k / 2 % 2 == 0 ? 1.0f : -1.0f;
        x[4 * cols + k] = k / 4 % 2 == 0 ? -1.0f : 1.0f;
        x[5 * cols + k] = from.below(2) == 0 ? 1.0f : -1.0f;
    }
    return x;
}

// Row r's code: constant extremes, the extremes alternating like the activations above, random extremes, random codes.
code_pattern::function extreme_codes(const gemm_format& format) {
    const auto [low, high] = format.extremes();
    return [low, high, bits = format.bits()](std::size_t row, std::size_t k) -> std::uint32_t {
        number_source from(row * 1000003 + k);
        switch (row % 9) {
        case 0:
            return low;
        case 1:
            return high;
        case 2:
            return k % 2 == 0 ? low : high;
        case 3:
            return k / 2 % 2 == 0 ? low : high;
        case 4:
            return k / 4 % 2 == 0 ? high : low;
        case 5:
            return k % 4 == 3 ? high : low;
        case 6:
            return from.below(2) == 0 ? low : high;
        case 7:
            return bits == 32 ? low : static_cast<std::uint32_t>(from.bits() & ((1u << bits) - 1u));
        default:
            return bits == 32 ? high : static_cast<std::uint32_t>(k & ((1u << bits) - 1u));
        }
    };
}

std::vector<std::uint32_t> interesting(int bits) {
    std::vector<std::uint32_t> codes;
    if (bits <= 8) {
        for (std::uint32_t c = 0; c < (1u << bits); ++c) codes.push_back(c);
    } else if (bits == 16) {
        // Zeros, subnormals, the smallest and largest normal numbers, ones, infinities, NaN; of fp16 and of bf16.
        codes = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x83ff, 0x3c00, 0xbc00, 0x3f80, 0xbf80,
                 0x7bff, 0xfbff, 0x7f7f, 0x7c00, 0xfc00, 0x7f80, 0x7e00, 0xfe00, 0x007f, 0x0080};
    } else {
        codes = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x000fffff, 0x00400000, 0x007fffff,
                 0x00800000, 0x00ffffff, 0x3f800000, 0xbf800000, 0x3eaaaaab, 0x7f7fffff, 0xff7fffff,
                 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7e800000, 0x01000001};
    }
    return codes;
}

} // namespace

TEST_CASE("sums of the largest codes and activations are exact") {
    for (const auto& format : gemm_formats())
        for (const std::size_t k : sizes{4160, 263}) {
            code_pattern pattern;
            pattern.code = extreme_codes(*format);
            const std::uint32_t top = (1u << (format->bits() <= 8 ? format->bits() : 0)) - 1u;
            // Zero points at both ends and in the middle.
            if (format->has_integer_zero())
                pattern.zero = [top](std::size_t row, std::size_t g) {
                    const std::uint32_t zeros[4] = {0, top, top / 2 + 1, 1};
                    return zeros[(row / 9 + g) % 4];
                };
            if (format->has_minimum())
                pattern.zero = [](std::size_t row, std::size_t) { return row % 2 == 0 ? 0xbc00u : 0x4900u; };
            const auto weights = format->fill(format->has_integer_zero() ? 36 : 18, k, pattern);
            for (const bool per_group : scalings_of(weights->plain()))
                compare(*format, *weights, full_range_activations(k), per_group, "extreme codes");
        }
}

TEST_CASE("sums over very long rows stay exact") {
    // 2^16 columns of one scale are the most whose integer sum fits in 32 bits whatever the codes; longer groups are
    // cut.
    for (const auto& format : gemm_formats())
        for (const std::size_t k : sizes{65535, 65536, 65537, 140001}) {
            code_pattern pattern;
            pattern.code = extreme_codes(*format);
            const auto probe = format->fill(1, 300, pattern);
            if (probe->plain().run != 300) continue; // groups: nothing is long
            for (const std::uint32_t zero : {0u, 255u}) {
                if (zero != 0 && !format->has_integer_zero()) continue;
                const std::uint32_t mask = format->bits() < 8 ? (1u << format->bits()) - 1u : 255u;
                pattern.zero = [&](std::size_t, std::size_t) { return zero & mask; };
                const auto weights = format->fill(4, k, pattern);
                const std::vector<float> all = full_range_activations(k);
                const std::vector<float> x(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(3 * k));
                for (const bool per_group : scalings_of(weights->plain()))
                    compare(*format, *weights, x, per_group, "long rows");
                // M = 1 takes four panels at once.
                compare(*format, *weights, std::vector<float>(k, 1.0f), false, "long rows, one token");
            }
        }
}

TEST_CASE("every code of an element multiplies as its decoded value") {
    for (const auto& format : gemm_formats()) {
        if (format->bits() > 16) continue;
        // One code per row, so that a NaN or an infinity is alone; every code of 8 bits, every 5th of 16.
        const std::uint32_t count = 1u << format->bits();
        const std::uint32_t step = format->bits() == 16 ? 5 : 1;
        const std::size_t rows = (count + step - 1) / step;
        code_pattern pattern;
        pattern.code = [&](std::size_t row, std::size_t) { return static_cast<std::uint32_t>(row) * step; };
        const std::size_t k = 7;
        const auto weights = format->fill(rows, k, pattern);
        std::vector<float> x = bell_values(2 * k, 9);
        for (std::size_t i = k; i < 2 * k; ++i) x[i] = 0.0f; // 0 x infinity is NaN, 0 x NaN is NaN
        const std::vector<float> y = compare(*format, *weights, x, false, "all codes");
        for (std::size_t row = 0; row < rows; ++row) {
            const float value = format->decode(static_cast<std::uint32_t>(row) * step);
            const bool expected = std::isnan(value)   ? std::isnan(y[row]) && std::isnan(y[rows + row])
                                  : std::isinf(value) ? !std::isfinite(y[row]) && std::isnan(y[rows + row])
                                                      : y[rows + row] == 0.0f && !std::isnan(y[row]);
            if (!expected)
                FAIL_CHECK(format->name() << ", code " << row * step << ": " << y[row] << ", " << y[rows + row]);
        }
    }
}

TEST_CASE("a code that is no finite number spoils the outputs of its row and no other") {
    for (const auto& format : gemm_formats()) {
        std::vector<std::uint32_t> specials;
        for (const std::uint32_t c : interesting(format->bits()))
            if (!std::isfinite(format->decode(c))) specials.push_back(c);
        for (const std::uint32_t special : specials)
            for (const std::size_t bad_row : sizes{0, 15, 20}) {
                const std::size_t k = 70;
                const std::size_t rows = 21;
                // Ones elsewhere, so that no other row overflows by itself.
                std::uint32_t one = 0;
                for (const std::uint32_t c : interesting(format->bits()))
                    if (std::fabs(format->decode(c)) == 1.0f) one = c;
                code_pattern pattern;
                pattern.code = [&](std::size_t row, std::size_t col) {
                    return row == bad_row && col == 69 ? special : one;
                };
                const auto weights = format->fill(rows, k, pattern);
                const std::vector<float> x = bell_values(5 * k, 21);
                const std::vector<float> y = compare(*format, *weights, x, false, "special codes");
                bool alone = true;
                for (std::size_t i = 0; i < y.size(); ++i)
                    alone = alone && std::isfinite(y[i]) == (i % rows != bad_row);
                INFO(format->name() << ", code " << special << " in row " << bad_row);
                CHECK(alone);
            }
    }
}

TEST_CASE("scales of every kind: zero, subnormal, huge, infinite, NaN") {
    for (const auto& format : gemm_formats()) {
        if (!format->scaled()) continue;
        const std::vector<std::uint32_t> scales = interesting(format->scale_bits());
        const std::size_t k = 37;
        const std::size_t rows = scales.size();
        code_pattern pattern;
        const std::uint32_t mask = format->bits() == 32 ? 0xffffffffu : (1u << format->bits()) - 1u;
        pattern.code = [&](std::size_t row, std::size_t col) {
            for (number_source from(row * 100 + col);;) {
                const std::uint32_t c = static_cast<std::uint32_t>(from.bits()) & mask;
                if (std::isfinite(format->decode(c))) return c;
            }
        };
        pattern.scale = [&](std::size_t row, std::size_t) { return scales[row]; };
        const auto weights = format->fill(rows, k, pattern);
        const std::vector<float> x = bell_values(5 * k, 22);
        for (const bool per_group : scalings_of(weights->plain()))
            compare(*format, *weights, x, per_group, "odd scales");
        if (format->has_minimum()) {
            const std::vector<std::uint32_t> minimums = interesting(16);
            pattern.scale = nullptr;
            pattern.zero = [&](std::size_t row, std::size_t) { return minimums[row % minimums.size()]; };
            const auto offset = format->fill(minimums.size(), k, pattern);
            for (const bool per_group : scalings_of(offset->plain()))
                compare(*format, *offset, x, per_group, "odd minimums");
            pattern.zero = nullptr;
        }
        if (format->two_level()) {
            for (const std::uint32_t outer : interesting(format->outer_bits())) {
                pattern.outer = [&](std::size_t, std::size_t) { return outer; };
                const auto nested = format->fill(rows, k, pattern);
                for (const bool per_group : scalings_of(nested->plain()))
                    compare(*format, *nested, x, per_group, "odd outer scales");
            }
        }
    }
}

namespace {

// visit(format, weights) with the same random 19 x 133 weights in every format.
template <class Visit> void with_weights(const Visit& visit) {
    const std::vector<float> w = bell_values(19 * 133, 31);
    for (const auto& format : gemm_formats()) visit(*format, *format->quantize({w.data(), 19, 133}));
}
constexpr std::size_t outputs = 19;
constexpr std::size_t columns = 133;

} // namespace

TEST_CASE("a NaN or an infinity among the activations of a token") {
    with_weights([](const gemm_format& format, const gemm_weights& weights) {
        const bool integer = weights.plain().integer;
        for (const float bad : {not_a_number, infinity, -infinity})
            for (const bool per_group : scalings_of(weights.plain())) {
                std::vector<float> x = bell_values(6 * columns, 32);
                x[2 * columns + columns - 1] = bad;
                x[4 * columns] = bad;
                const std::vector<float> y = compare(format, weights, x, per_group, "a special activation");
                bool as_documented = true;
                for (std::size_t m = 0; m < 6; ++m)
                    for (std::size_t j = 0; j < outputs; ++j) {
                        const float result = y[m * outputs + j];
                        if (m != 2 && m != 4)
                            as_documented = as_documented && std::isfinite(result);
                        else
                            as_documented = as_documented &&
                                            (integer || std::isnan(bad) ? std::isnan(result) : !std::isfinite(result));
                    }
                INFO(format.name() << ", " << bad << (per_group ? ", per group" : ", per token"));
                CHECK(as_documented);
            }
    });
}

TEST_CASE("activations of zero and very small ones") {
    with_weights([](const gemm_format& format, const gemm_weights& weights) {
        for (const bool per_group : scalings_of(weights.plain())) {
            // 127 / 3.7e-37 overflows, 127 / 3.8e-37 does not.
            const float sizes[] = {0.0f, -0.0f, 1e-45f, 1e-38f, 3.7e-37f, 3.8e-37f, 1e-36f};
            std::vector<float> x;
            for (const float size : sizes)
                for (std::size_t i = 0; i < columns; ++i)
                    x.push_back(i % 3 == 0 ? -size : i % 3 == 1 ? size : 0.5f * size);
            const std::vector<float> y = compare(format, weights, x, per_group, "small activations");
            bool zero = true;
            for (std::size_t i = 0; i < (weights.plain().integer ? 5 : 2) * outputs; ++i) zero = zero && y[i] == 0.0f;
            INFO(format.name());
            CHECK(zero);
        }
    });
}

TEST_CASE("the largest activations") {
    with_weights([](const gemm_format& format, const gemm_weights& weights) {
        std::vector<float> x = bell_values(3 * columns, 33);
        for (std::size_t i = 0; i < columns; ++i) {
            x[i] = i % 2 == 0 ? 3.4028234e38f : -3.4028234e38f;
            x[columns + i] = i == 5 ? -3.4028234e38f : 1.0f;
        }
        for (const bool per_group : scalings_of(weights.plain()))
            compare(format, weights, x, per_group, "huge activations");
    });
    SUCCEED();
}

TEST_CASE("activations halfway between two of int8") {
    with_weights([](const gemm_format& format, const gemm_weights& weights) {
        // 127 in the first column of each 16: the others are then their own values in units of 1.
        std::vector<float> x(2 * columns);
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] = i % columns % 16 == 0 ? 127.0f : static_cast<float>(i % columns) - 66.5f;
        for (const bool per_group : scalings_of(weights.plain())) compare(format, weights, x, per_group, "ties");
    });
    SUCCEED();
}
