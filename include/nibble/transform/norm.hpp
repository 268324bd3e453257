// norm.hpp: what the norms of rows (rms_norm.hpp, layer_norm.hpp) share: their options, sums in one order, the loop
// over rows.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct norm_options {
    double epsilon = 1e-5;
    matrix_view<const float> addend{}; // of y's shape, added to the result; may be y
    // Of x's shape: residual += x first, in fp32, and the sum is what is normalised. What a transformer's block does
    // with the result of the one before. Must not overlap x or y.
    matrix_view<float> residual{};
};

namespace detail {

// The sum of what add(sum, eight numbers, how many of them there are) adds; numbers beyond the end are 0. In fp32 per
// lane for 512 numbers at a time, those in double.
template <isa Isa, class Add>
[[nodiscard]] NIBBLE_INLINE double sum_of_row(const float* x, std::size_t count, const Add& add) noexcept {
    using L = lanes<Isa>;
    constexpr std::size_t block = 512;
    double sum = 0.0;
    for (std::size_t first = 0; first < count; first += block) {
        const std::size_t end = min_of(count, first + block);
        L even(0.0f), odd(0.0f);
        std::size_t i = first;
        for (; i + 16 <= end; i += 16) {
            add(even, L::load(x + i, 8), std::size_t{8});
            add(odd, L::load(x + i + 8, 8), std::size_t{8});
        }
        for (; i < end; i += 8) {
            const std::size_t n = min_of<std::size_t>(8, end - i);
            add(even, L::load(x + i, n), n);
        }
        float v[8];
        (even + odd).store(v, 8);
        sum += static_cast<double>(((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])));
    }
    return sum;
}

template <isa Isa> NIBBLE_NOINLINE void add_row(const float* x, float* to, std::size_t count) noexcept {
    using L = lanes<Isa>;
    for (std::size_t i = 0; i < count; i += 8) {
        const std::size_t n = min_of<std::size_t>(8, count - i);
        (L::load(static_cast<const float*>(to + i), n) + L::load(x + i, n)).store(to + i, n);
    }
}

inline void check_norm(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
                       const norm_options& options) {
    NIBBLE_CHECK(weight.empty() || weight.size() == x.cols(), "norm: one weight per column, or none");
    NIBBLE_CHECK(bias.empty() || bias.size() == x.cols(), "norm: one bias per column, or none");
    NIBBLE_CHECK(options.addend.empty() || (options.addend.rows() == x.rows() && options.addend.cols() == x.cols()),
                 "norm: the addend must have the shape of x");
    NIBBLE_CHECK(options.residual.empty() ||
                     (options.residual.rows() == x.rows() && options.residual.cols() == x.cols()),
                 "norm: the residual must have the shape of x");
    NIBBLE_CHECK(options.epsilon >= 0.0, "norm: epsilon must not be negative");
}

// Row m to `to`: norm(from, weight or null, bias or null, epsilon, addend or null, to, columns).
template <isa Isa, class Norm>
NIBBLE_INLINE void norm_row(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
                            const norm_options& options, std::size_t m, float* to, const Norm& norm) {
    const float* from = x.row(m);
    if (!options.residual.empty()) {
        add_row<Isa>(from, options.residual.row(m), x.cols());
        from = options.residual.row(m);
    }
    norm(from, weight.empty() ? nullptr : weight.data(), bias.empty() ? nullptr : bias.data(), options.epsilon,
         options.addend.empty() ? nullptr : options.addend.row(m), to, x.cols());
}

template <isa Isa, executor Executor, class Norm>
void norm_rows(matrix_view<const float> x, array_view<const float> weight, array_view<const float> bias,
               matrix_view<float> y, const norm_options& options, const Executor& threads, const Norm& norm) {
    check_executor(threads);
    NIBBLE_CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "norm: y must have the shape of x");
    check_norm(x, weight, bias, options);
    if (x.empty()) return;
    // Handing out less than this takes longer than doing it.
    const std::size_t rows_per_task = max_of<std::size_t>(1, 8192 / x.cols());
    for_each_task(ceil_div(x.rows(), rows_per_task), threads, [&](std::size_t task, std::size_t) {
        const std::size_t end = min_of(x.rows(), (task + 1) * rows_per_task);
        for (std::size_t m = task * rows_per_task; m < end; ++m)
            norm_row<Isa>(x, weight, bias, options, m, y.row(m), norm);
    });
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
