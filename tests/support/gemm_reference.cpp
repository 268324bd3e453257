// gemm_reference.cpp: the formula of gemm and its error bound; compiled once and optimised, since most of the time of
// the tests of gemm is spent here.
#include "gemm_reference.hpp"

#include <nibble/core/view.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace gemm_test {

std::optional<int> integer_exponent(const std::vector<float>& values) {
    for (int exponent = 8; exponent >= -40; --exponent) {
        bool all = true;
        double low = 0.0;
        double high = 0.0;
        const double unit = std::ldexp(1.0, -exponent);
        for (std::size_t i = 0; i < values.size() && all; ++i) {
            if (!std::isfinite(values[i])) return std::nullopt;
            const double v = static_cast<double>(values[i]) * unit;
            all = v == std::floor(v);
            low = i == 0 || v < low ? v : low;
            high = i == 0 || v > high ? v : high;
        }
        if (!all) continue;
        if (low < -128.0 || high > 255.0 || high - low > 255.0) return std::nullopt;
        return exponent;
    }
    return std::nullopt;
}

int8_row quantize_activations(const float* x, std::size_t cols, const std::vector<column_part>& parts, bool per_group) {
    int8_row row;
    row.values.assign(cols, 0);
    std::vector<column_part> spans = parts;
    if (!per_group) spans.assign(1, column_part{0, cols, 0});
    for (const column_part& span : spans) {
        float largest = 0.0f;
        bool finite = true;
        for (std::size_t k = span.begin; k < span.end; ++k) {
            finite = finite && std::isfinite(x[k]);
            if (std::fabs(x[k]) > largest) largest = std::fabs(x[k]);
        }
        const float inverse = 127.0f / largest;
        if (!finite) {
            row.scales.push_back(std::numeric_limits<float>::quiet_NaN());
        } else if (!std::isfinite(inverse)) {
            row.scales.push_back(0.0f);
        } else {
            for (std::size_t k = span.begin; k < span.end; ++k) {
                const float v = std::nearbyint(x[k] * inverse);
                row.values[k] = static_cast<std::int32_t>(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v);
            }
            row.scales.push_back(largest / 127.0f);
        }
    }
    return row;
}

std::vector<std::int32_t> integers_of(const plain_weights& w) {
    std::vector<std::int32_t> integers;
    integers.reserve(w.elements.size());
    const double unit = std::ldexp(1.0, -w.exponent);
    for (std::size_t i = 0; i < w.rows; ++i)
        for (std::size_t k = 0; k < w.cols; ++k) {
            const double v = static_cast<double>(w.elements[i * w.cols + k]) * unit;
            const float zero = w.has_minimum ? 0.0f : w.zeros[i * w.groups + k / w.run];
            integers.push_back(static_cast<std::int32_t>(v) - static_cast<std::int32_t>(zero));
        }
    return integers;
}

std::vector<float> reference_weight_sums(const plain_weights& w) {
    const std::vector<std::int32_t> integers = integers_of(w);
    std::vector<float> sums;
    for (std::size_t n = 0; n < w.rows; ++n) {
        float acc = 0.0f;
        for (const column_part& part : parts_of(w)) {
            std::int64_t exact = 0;
            for (std::size_t k = part.begin; k < part.end; ++k) exact += integers[n * w.cols + k];
            const float scale = w.scales[n * w.groups + part.group] * std::ldexp(1.0f, w.exponent);
            acc = std::fma(static_cast<float>(exact), scale, acc);
        }
        sums.push_back(acc * w.factors[n]);
    }
    return sums;
}

void reference_row(const int8_row& a, bool per_group, bool asymmetric, const plain_weights& w,
                   const std::vector<std::int32_t>& integers, const std::vector<float>& sums, float* y) {
    const std::vector<column_part> parts = parts_of(w);
    const float unit = std::ldexp(1.0f, w.exponent);
    for (std::size_t n = 0; n < w.rows; ++n) {
        float acc = 0.0f;
        for (std::size_t p = 0; p < parts.size(); ++p) {
            const column_part& part = parts[p];
            std::int64_t exact = 0;
            std::int64_t total = 0;
            for (std::size_t k = part.begin; k < part.end; ++k) {
                exact += std::int64_t{integers[n * w.cols + k]} * a.values[k];
                total += a.values[k] - a.offset;
            }
            float scale = w.scales[n * w.groups + part.group] * unit;
            float sum = static_cast<float>(total);
            if (per_group) {
                scale = scale * a.scales[p];
                sum = sum * a.scales[p];
            }
            acc = std::fma(static_cast<float>(exact), scale, acc);
            if (w.has_minimum) acc = std::fma(sum, w.zeros[n * w.groups + part.group], acc);
        }
        acc = acc * w.factors[n];
        if (!per_group && w.cols != 0) acc = acc * a.scales[0];
        if (asymmetric) acc = std::fma(static_cast<float>(-a.offset) * a.scales[0], sums[n], acc);
        y[n] = acc;
    }
}

std::vector<float> reference_gemm(nibble::matrix_view<const float> x, const plain_weights& w, bool per_group) {
    const std::vector<column_part> parts = parts_of(w);
    std::vector<float> y(x.rows() * w.rows);
    const std::vector<std::int32_t> integers = w.integer ? integers_of(w) : std::vector<std::int32_t>{};
    for (std::size_t m = 0; m < x.rows(); ++m) {
        const float* row = x.row(m);
        if (w.integer) {
            const int8_row a = quantize_activations(row, w.cols, parts, per_group);
            reference_row(a, per_group, false, w, integers, {}, y.data() + m * w.rows);
            continue;
        }
        for (std::size_t n = 0; n < w.rows; ++n) {
            float acc = 0.0f;
            for (const column_part& part : parts) {
                float dot = 0.0f;
                float sum = 0.0f;
                for (std::size_t k = part.begin; k < part.end; ++k) {
                    dot = std::fma(row[k], w.elements[n * w.cols + k], dot);
                    sum += row[k];
                }
                acc = std::fma(dot, w.scales[n * w.groups + part.group], acc);
                if (w.has_minimum) acc = std::fma(sum, w.zeros[n * w.groups + part.group], acc);
            }
            y[m * w.rows + n] = acc * w.factors[n];
        }
    }
    return y;
}

fp64_result reference_fp64(nibble::matrix_view<const float> x, const plain_weights& w, bool per_group) {
    constexpr double u = 0x1p-24;
    const std::vector<column_part> parts = parts_of(w);
    fp64_result r;
    std::size_t longest = 0;
    for (const column_part& p : parts) longest = p.end - p.begin > longest ? p.end - p.begin : longest;
    const double roundings =
        2.0 * static_cast<double>(parts.size()) + 7.0 + (w.integer ? 0.0 : static_cast<double>(longest));
    const double gamma = roundings * u / (1.0 - roundings * u);
    r.y.resize(x.rows() * w.rows);
    r.bound.resize(r.y.size());
    std::vector<double> steps(x.rows() * w.cols); // of the integers that stand for x; 0 where x stays as it is
    for (std::size_t m = 0; m < x.rows() && w.integer; ++m)
        for (const column_part& part : per_group ? parts : std::vector<column_part>{{0, w.cols, 0}}) {
            float largest = 0.0f;
            for (std::size_t k = part.begin; k < part.end; ++k) {
                const float magnitude = std::fabs(x(m, k));
                largest = magnitude > largest ? magnitude : largest;
            }
            const bool vanishes = !std::isfinite(127.0f / largest);
            const double e = vanishes ? static_cast<double>(largest)
                                      : static_cast<double>(largest) / 127.0 * (1.0 + u) * (0.5 + 508.0 * u);
            for (std::size_t k = part.begin; k < part.end; ++k) steps[m * w.cols + k] = e;
        }
    struct weight {
        double value, terms; // the number, and the sum of the magnitudes that it is made of
    };
    std::vector<weight> row(w.cols);
    for (std::size_t n = 0; n < w.rows; ++n) {
        for (std::size_t k = 0; k < w.cols; ++k) {
            const std::size_t slot = n * w.groups + k / w.run;
            const double zero = static_cast<double>(w.zeros[slot]);
            const double scale = static_cast<double>(w.scales[slot]) * static_cast<double>(w.factors[n]);
            const double grid = static_cast<double>(w.elements[n * w.cols + k]) - (w.has_minimum ? 0.0 : zero);
            const double minimum = w.has_minimum ? zero * static_cast<double>(w.factors[n]) : 0.0;
            row[k] = {grid * scale + minimum, std::fabs(grid * scale) + std::fabs(minimum)};
        }
        for (std::size_t m = 0; m < x.rows(); ++m) {
            const double* step = steps.data() + m * w.cols;
            double sum = 0.0;
            double magnitude = 0.0;
            double quantization = 0.0;
            for (std::size_t k = 0; k < w.cols; ++k) {
                const double a = static_cast<double>(x(m, k));
                sum += a * row[k].value;
                magnitude += (std::fabs(a) + step[k]) * row[k].terms;
                quantization += step[k] * std::fabs(row[k].value);
            }
            r.y[m * w.rows + n] = sum;
            r.bound[m * w.rows + n] = quantization + gamma * magnitude;
        }
    }
    return r;
}

} // namespace gemm_test
