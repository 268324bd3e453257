// complex_quantized.hpp: a complex matrix in fourth roots of unity with two scales, in plain order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/element/complex_roots.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A rows x cols matrix of complex numbers, owning its memory:
//   codes   rows x row_bytes(): row i is the little-endian bit stream of its cols codes of 2 bits (code 0 in the lowest
//   bits of
//           byte 0; the last byte is filled with zeros)
// and two fp32 scales for all of it: value = (+-scale_re, 0) for even codes, (0, +-scale_im) for odd ones
// (complex_roots.hpp). Written out: the codes, then scale_re, then scale_im.
class complex_quantized {
public:
    complex_quantized() noexcept = default;
    complex_quantized(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}

    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "complex_quantized: rows x cols does not fit in the address space");
        return rows * detail::ceil_div(cols, 4);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; } // complex numbers per row
    [[nodiscard]] std::size_t row_bytes() const noexcept { return detail::ceil_div(cols_, 4); }
    [[nodiscard]] float scale_re() const noexcept { return scale_re_; }
    [[nodiscard]] float scale_im() const noexcept { return scale_im_; }
    void set_scales(float re, float im) noexcept {
        scale_re_ = re;
        scale_im_ = im;
    }
    // True if the matrix that was quantized held a NaN or an infinity.
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

    [[nodiscard]] std::uint8_t* row_codes(std::size_t row) noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] const std::uint8_t* row_codes(std::size_t row) const noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] std::uint8_t code_at(std::size_t row, std::size_t col) const noexcept {
        return static_cast<std::uint8_t>((row_codes(row)[col / 4] >> (col % 4 * 2)) & 3u);
    }
    [[nodiscard]] complex_value value_at(std::size_t row, std::size_t col) const noexcept {
        return complex_roots::decode(code_at(row, col), scale_re_, scale_im_);
    }

private:
    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<float> scale_re_;
    detail::reset_on_move<float> scale_im_;
    detail::reset_on_move<bool> nonfinite_;
    buffer memory_{};
};

// All bits of codes and scales, per complex weight; half of it per real number.
[[nodiscard]] inline double bits_per_weight(const complex_quantized& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    return complex_roots::bits + 64.0 / (static_cast<double>(q.rows()) * static_cast<double>(q.cols()));
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
