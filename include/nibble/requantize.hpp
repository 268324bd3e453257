// requantize.hpp: a destination of gemm: results as codes of a quantized matrix under scales known beforehand.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// gemm(x, w, requantize(y)) stores the codes of the results in y, tokens x outputs of any scheme: int8, int4, FP8, per
// tensor, per token, per channel or per group. Scales, zero points and minimums are those that y has, from a
// calibration, and stay as they are: y is to be made as quantized<S>(tokens, outputs) and its scales set before. Then
//   code = encode(r / scale), encode(r / scale + zero) with an integer zero, encode((r - minimum) / scale) with a
//   minimum
// in fp32, rounded to nearest even and saturated, as quantize does it, under a negative scale too; under one of 0 or
// NaN the code of zero. A NaN becomes the NaN of an element that has one, else the code of zero; y.nonfinite() is not
// set. y goes on into prepare, as the activations of the next product, without a pass in between.
template <any_scheme S> class requantize {
    using traits = detail::scheme_traits<S>;
    using element = typename traits::element;

public:
    explicit requantize(quantized<S>& to) noexcept
        : codes_(to.rows() != 0 ? to.row_codes(0) : nullptr), row_bytes_(to.row_bytes()), rows_(to.rows()),
          cols_(to.cols()), group_size_(detail::max_of<std::size_t>(1, traits::group_size(to.cols()))),
          one_group_(group_size_ % 8 == 0 || group_size_ >= cols_),
          scales_(static_cast<const quantized<S>&>(to).read_scales()) {}

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }

    template <class Lanes> void put(const Lanes& x, const position& at) const noexcept {
        float results[Lanes::width];
        float units[Lanes::width] = {};
        typename traits::code codes[Lanes::width];
        static_assert(Lanes::width == 8);
        if (at.count == Lanes::width && one_group_) {
            // All but rows' ends: constants and no loop over groups.
            x.store(results, Lanes::width);
            if constexpr (S::scaled)
                kernel::units_of_group<kernel::unit_rule_of<S>>(results, Lanes::width,
                                                                scales_.scale(at.token, at.output),
                                                                scales_.zero(at.token, at.output), units);
            else
                __builtin_memcpy(units, results, sizeof units);
            kernel::encode_eight_units<element, rounding::nearest_even, kernel::overflow_of<S>>(units, codes);
            detail::store_codes<element>(codes, Lanes::width, codes_ + at.token * row_bytes_, at.output);
            return;
        }
        x.store(results, at.count);
        if constexpr (S::scaled) {
            for (std::size_t i = 0; i < at.count;) {
                const std::size_t column = at.output + i;
                const std::size_t n = detail::min_of(at.count - i, group_size_ - column % group_size_);
                kernel::units_of_group<kernel::unit_rule_of<S>>(results + i, n, scales_.scale(at.token, column),
                                                                scales_.zero(at.token, column), units + i);
                i += n;
            }
        } else {
            __builtin_memcpy(units, results, at.count * sizeof(float));
        }
        kernel::encode_units<element, rounding::nearest_even, kernel::overflow_of<S>>(units, at.count, 0, 0, nullptr,
                                                                                      codes);
        detail::store_codes<element>(codes, at.count, codes_ + at.token * row_bytes_, at.output);
    }

private:
    std::uint8_t* codes_;
    std::size_t row_bytes_;
    std::size_t rows_;
    std::size_t cols_;
    std::size_t group_size_;
    bool one_group_; // eight columns from a multiple of 8 on share their group
    typename quantized<S>::scale_reader scales_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
