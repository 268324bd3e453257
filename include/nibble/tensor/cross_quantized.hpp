// cross_quantized.hpp: quantized weights with a scale per row or group and another per column; in plain order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/config.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {
// value x column, rounded to fp32; of finite numbers the largest finite one of its sign where that is beyond fp32.
[[nodiscard]] NIBBLE_INLINE float cross_value(float value, float column) noexcept {
    constexpr float end = 3.4028234e38f;
    const float product = value * column;
    const float limited = product > end ? end : product < -end ? -end : product;
    return is_finite(value) ? limited : product;
}
} // namespace detail

// value(i, j) = weights().value(i, j) x columns()[j], rounded to fp32, at most the largest finite number: the scheme's
// own scales and `cols` fp32 numbers.
template <any_scheme Scheme> class cross_quantized {
public:
    cross_quantized() noexcept = default;
    cross_quantized(quantized<Scheme> weights, buffer columns)
        : weights_(std::move(weights)), columns_(std::move(columns)) {
        NIBBLE_CHECK(columns_.size() == weights_.cols() * sizeof(float),
                     "cross_quantized: one fp32 per column is needed");
    }

    [[nodiscard]] std::size_t rows() const noexcept { return weights_.rows(); }
    [[nodiscard]] std::size_t cols() const noexcept { return weights_.cols(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return weights_.bytes() + columns_.size(); }
    // What is packed for gemm; the activations are multiplied by columns() before it (scale_columns).
    [[nodiscard]] const quantized<Scheme>& weights() const noexcept { return weights_; }
    [[nodiscard]] const float* columns() const noexcept { return columns_.template as<float>(); }
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const noexcept {
        return detail::cross_value(weights_.value_at(row, col), columns()[col]);
    }

private:
    quantized<Scheme> weights_;
    buffer columns_;
};

template <any_scheme Scheme> [[nodiscard]] double bits_per_weight(const cross_quantized<Scheme>& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    return bits_per_weight(q.weights()) + 32.0 / static_cast<double>(q.rows());
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
