// outlier_victim_quantized.hpp: rows of OliVe pairs with their scales, in plain order; and the 8-bit integers they
// stand for.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/outlier_victim.hpp>
#include <nibble/granularity/granularity.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A rows x cols matrix, owning its memory: one block of two sections, each on a 64-byte boundary:
//   pairs   rows x ceil(cols / 2) bytes: byte p of a row is the pair of its columns 2 p and 2 p + 1
//   (outlier_victim.hpp); if
//           cols is odd, the last pair ends with a weight that is not there, encoded as 0
//   scales  one fp32 per group of the granularity, in group order
// value = scale x (value of the pair). Written out: the two sections without the padding between. Runs of the
// granularity are even, or the whole row, so that no pair has two scales.
template <granularity Granularity> class outlier_victim_quantized {
public:
    using granularity_type = Granularity;

    outlier_victim_quantized() noexcept = default;
    outlier_victim_quantized(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}

    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "outlier_victim_quantized: rows x cols does not fit in the address space");
        const std::size_t group_size = Granularity::group_size(cols);
        NIBBLE_CHECK(group_size % 2 == 0 || group_size >= cols,
                     "outlier_victim_quantized: runs of an odd length would part pairs");
        return scales_offset(rows, cols) + groups_of_shape(rows, cols) * sizeof(float);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t row_bytes() const noexcept { return detail::ceil_div(cols_, 2); }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    [[nodiscard]] std::size_t group_count() const noexcept { return groups_of_shape(rows_, cols_); }
    // True if the matrix that was quantized held a NaN or an infinity.
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

    [[nodiscard]] std::uint8_t* row_pairs(std::size_t row) noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] const std::uint8_t* row_pairs(std::size_t row) const noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] float* scales() noexcept { return memory_.template as<float>(scales_offset(rows_, cols_)); }
    [[nodiscard]] const float* scales() const noexcept {
        return memory_.template as<float>(scales_offset(rows_, cols_));
    }

    // One value, for tests and tools.
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const noexcept {
        const outlier_victim_values pair = outlier_victim::decode_pair(row_pairs(row)[col / 2]);
        return scales()[Granularity::index(row, col, cols_)] * (col % 2 == 0 ? pair.even : pair.odd);
    }

private:
    [[nodiscard]] static constexpr std::size_t groups_of_shape(std::size_t rows, std::size_t cols) noexcept {
        return rows == 0 || cols == 0 ? 0 : Granularity::count(rows, cols);
    }
    [[nodiscard]] static constexpr std::size_t scales_offset(std::size_t rows, std::size_t cols) noexcept {
        return detail::round_up(rows * detail::ceil_div(cols, 2), 64);
    }

    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<bool> nonfinite_;
    buffer memory_{};
};

// All bits of pairs and scales, per weight.
template <granularity Granularity>
[[nodiscard]] double bits_per_weight(const outlier_victim_quantized<Granularity>& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    const double weights = static_cast<double>(q.rows()) * static_cast<double>(q.cols());
    return (static_cast<double>(q.rows() * q.row_bytes()) * 8.0 + static_cast<double>(q.group_count()) * 32.0) /
           weights;
}

// q as 8-bit integers under four times the scale, for pack and gemm: every weight has the same value (unless 4 x scale
// overflows).
template <granularity Granularity>
[[nodiscard]] quantized<scheme<int8, Granularity, scale<f32>>>
to_carrier(const outlier_victim_quantized<Granularity>& q) {
    quantized<scheme<int8, Granularity, scale<f32>>> out(q.rows(), q.cols());
    out.set_nonfinite(q.nonfinite());
    if (q.rows() == 0 || q.cols() == 0) return out;
    for (std::size_t group = 0; group < q.group_count(); ++group)
        out.scales()[group] = f32::encode(q.scales()[group] * outlier_victim::unit);
    const auto code = [](float value) {
        return static_cast<std::uint8_t>(static_cast<unsigned>(static_cast<int>(value / outlier_victim::unit)) & 255u);
    };
    for (std::size_t row = 0; row < q.rows(); ++row)
        for (std::size_t col = 0; col < q.cols(); col += 2) {
            const outlier_victim_values pair = outlier_victim::decode_pair(q.row_pairs(row)[col / 2]);
            out.row_codes(row)[col] = code(pair.even);
            if (col + 1 < q.cols()) out.row_codes(row)[col + 1] = code(pair.odd);
        }
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
