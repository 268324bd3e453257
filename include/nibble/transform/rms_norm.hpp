// rms_norm.hpp: root mean square normalisation of rows, as transformers have it before their matrix products.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/transform/norm.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

using rms_norm_options = norm_options; // epsilon is added to the mean square

namespace detail {

template <isa Isa>
NIBBLE_NOINLINE void rms_norm_row(const float* x, const float* weight, double epsilon, const float* addend, float* y,
                                  std::size_t count) noexcept {
    using L = lanes<Isa>;
    const auto add_square = [](L& sum, const L& a, std::size_t) NIBBLE_INLINE_LAMBDA { sum = fma(a, a, sum); };
    const double mean = sum_of_row<Isa>(x, count, add_square) / static_cast<double>(count);
    const L scale(static_cast<float>(1.0 / __builtin_sqrt(mean + epsilon)));
    for (std::size_t i = 0; i < count; i += 8) {
        const std::size_t n = min_of<std::size_t>(8, count - i);
        L result = L::load(x + i, n) * scale;
        const L w = weight != nullptr ? L::load(weight + i, n) : L(1.0f);
        result = addend != nullptr ? fma(result.kept(), w, L::load(addend + i, n)) : result.kept() * w;
        result.store(y + i, n);
    }
}

template <isa Isa> struct rms_norm_of {
    void operator()(const float* x, const float* weight, const float*, double epsilon, const float* addend, float* y,
                    std::size_t count) const noexcept {
        rms_norm_row<Isa>(x, weight, epsilon, addend, y, count);
    }
};

} // namespace detail

// y(m, k) = weight(k) x(m, k) / sqrt(mean over k of x(m, k)^2 + epsilon) [+ addend(m, k)], row by row, in fp32 with the
// mean in double (Zhang and Sennrich, 2019). An empty weight is one of ones. With options.residual the x that is
// normalised is residual(m, k) + x(m, k), in fp32, which replaces the residual. x, y, the addend and the residual have
// one shape and any strides; y may be x. To normalise heads by themselves give a view whose rows are heads. A row with
// a NaN, or whose squares overflow, has NaN or 0 in all places (and the addend); a row of zeros gives zeros (and the
// addend), or NaN where epsilon is 0. The same bits for any executor, any other rows and every ISA. Allocates nothing.
template <isa Isa = best_isa, executor Executor = serial>
void rms_norm(matrix_view<const float> x, array_view<const float> weight, matrix_view<float> y,
              const rms_norm_options& options = {}, const Executor& threads = {}) {
    detail::norm_rows<Isa>(x, weight, {}, y, options, threads, detail::rms_norm_of<Isa>{});
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
