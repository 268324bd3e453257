// rms_norm.hpp: root mean square normalisation of rows, as transformers have it before their matrix products.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct rms_norm_options {
    double epsilon = 1e-5;             // added to the mean square
    matrix_view<const float> addend{}; // of y's shape, added to the result: a residual; may be y
};

namespace detail {

// The sum of squares in fp32 per lane for 512 numbers at a time, those in double.
template <isa Isa> [[nodiscard]] NIBBLE_INLINE double sum_of_squares(const float* x, std::size_t count) noexcept {
    using L = lanes<Isa>;
    constexpr std::size_t block = 512;
    double sum = 0.0;
    for (std::size_t first = 0; first < count; first += block) {
        const std::size_t end = min_of(count, first + block);
        L even(0.0f), odd(0.0f);
        std::size_t i = first;
        for (; i + 16 <= end; i += 16) {
            const L a = L::load(x + i, 8), b = L::load(x + i + 8, 8);
            even = fma(a, a, even);
            odd = fma(b, b, odd);
        }
        for (; i < end; i += 8) {
            const L a = L::load(x + i, min_of<std::size_t>(8, end - i));
            even = fma(a, a, even);
        }
        float v[8];
        (even + odd).store(v, 8);
        sum += static_cast<double>(((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])));
    }
    return sum;
}

template <isa Isa>
NIBBLE_NOINLINE void rms_norm_row(const float* x, const float* weight, double epsilon, const float* addend, float* y,
                                  std::size_t count) noexcept {
    using L = lanes<Isa>;
    const double mean = sum_of_squares<Isa>(x, count) / static_cast<double>(count);
    const L scale(static_cast<float>(1.0 / __builtin_sqrt(mean + epsilon)));
    for (std::size_t i = 0; i < count; i += 8) {
        const std::size_t n = min_of<std::size_t>(8, count - i);
        L result = L::load(x + i, n) * scale;
        const L w = weight != nullptr ? L::load(weight + i, n) : L(1.0f);
        result = addend != nullptr ? fma(result.kept(), w, L::load(addend + i, n)) : result.kept() * w;
        result.store(y + i, n);
    }
}

} // namespace detail

// y(m, k) = weight(k) x(m, k) / sqrt(mean over k of x(m, k)^2 + epsilon) [+ addend(m, k)], row by row, in fp32 with the
// mean in double (Zhang and Sennrich, 2019). An empty weight is one of ones. x, y and the addend have one shape and any
// strides; y may be x. To normalise heads by themselves give a view whose rows are heads. A row with a NaN, or whose
// squares overflow, has NaN or 0 in all places (and the addend); a row of zeros gives zeros (and the addend), or NaN
// where epsilon is 0. The same bits for any executor, any other rows and every ISA. Allocates nothing.
template <isa Isa = best_isa, executor Executor = serial>
void rms_norm(matrix_view<const float> x, array_view<const float> weight, matrix_view<float> y,
              const rms_norm_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "rms_norm: y must have the shape of x");
    NIBBLE_CHECK(weight.empty() || weight.size() == x.cols(), "rms_norm: one weight per column, or none");
    const matrix_view<const float>& addend = options.addend;
    const bool adds = !addend.empty();
    NIBBLE_CHECK(!adds || (addend.rows() == x.rows() && addend.cols() == x.cols()),
                 "rms_norm: the addend must have the shape of x");
    NIBBLE_CHECK(options.epsilon >= 0.0, "rms_norm: epsilon must not be negative");
    if (x.empty()) return;
    // Handing out less than this takes longer than doing it.
    const std::size_t rows_per_task = detail::max_of<std::size_t>(1, 8192 / x.cols());
    detail::for_each_task(detail::ceil_div(x.rows(), rows_per_task), threads, [&](std::size_t task, std::size_t) {
        const std::size_t end = detail::min_of(x.rows(), (task + 1) * rows_per_task);
        for (std::size_t m = task * rows_per_task; m < end; ++m)
            detail::rms_norm_row<Isa>(x.row(m), weight.empty() ? nullptr : weight.data(), options.epsilon,
                                      adds ? addend.row(m) : nullptr, y.row(m), x.cols());
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
