// quantize/complex.hpp: a complex matrix into fourth roots of unity with two scales (iFairy), and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/complex_roots.hpp>
#include <nibble/tensor/complex_quantized.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// w, rows x 2 cols of interleaved real and imaginary parts, in roots of unity: codes by angle, then scale_re = mean
// |re| over the weights with even codes and scale_im = mean |im| over those with odd ones, each at least 1e-6 (also
// where there is no such weight); sums in double in index order. A weight with a NaN gets code 0, one with an infinity
// its angle's; neither counts in the scales, and nonfinite() tells.
[[nodiscard]] inline complex_quantized quantize_complex(matrix_view<const float> w) {
    NIBBLE_CHECK(w.cols() % 2 == 0, "quantize_complex: rows hold pairs of a real and an imaginary part");
    complex_quantized q(w.rows(), w.cols() / 2);
    if (w.empty()) return q;
    double sums[2] = {0.0, 0.0};
    std::size_t counts[2] = {0, 0};
    dynamic_array<std::uint8_t> codes(q.cols());
    for (std::size_t row = 0; row < q.rows(); ++row) {
        for (std::size_t col = 0; col < q.cols(); ++col) {
            const float re = w(row, 2 * col);
            const float im = w(row, 2 * col + 1);
            codes[col] = complex_roots::encode(re, im);
            if (!detail::is_finite(re) || !detail::is_finite(im)) {
                q.set_nonfinite(true);
                continue;
            }
            const std::size_t odd = codes[col] & 1u;
            sums[odd] += static_cast<double>(detail::abs_of(odd != 0 ? im : re));
            ++counts[odd];
        }
        detail::squeeze_codes<complex_roots::bits>(codes.data(), q.cols(), q.row_codes(row));
    }
    float scales[2];
    for (std::size_t i = 0; i < 2; ++i) {
        const double mean = counts[i] != 0 ? sums[i] / static_cast<double>(counts[i]) : 0.0;
        scales[i] = detail::max_of(static_cast<float>(mean), 1e-6f);
    }
    q.set_scales(scales[0], scales[1]);
    return q;
}

// The values of q into out, rows x 2 cols, interleaved; exact.
inline void dequantize(const complex_quantized& q, matrix_view<float> out) {
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == 2 * q.cols(),
                 "dequantize: out must have a real and an imaginary column per complex weight");
    dynamic_array<std::uint8_t> codes(q.cols());
    for (std::size_t row = 0; row < q.rows() && q.cols() != 0; ++row) {
        detail::spread_codes<complex_roots::bits>(q.row_codes(row), q.cols(), codes.data());
        for (std::size_t col = 0; col < q.cols(); ++col) {
            const complex_value v = complex_roots::decode(codes[col], q.scale_re(), q.scale_im());
            out(row, 2 * col) = v.re;
            out(row, 2 * col + 1) = v.im;
        }
    }
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
