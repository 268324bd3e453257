// quantized.hpp: codes and scales in plain order, documented byte by byte; made by quantize, read by pack and
// dequantize.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A rows x cols matrix in a scheme, owning its memory (copies are deep; moved from, it is 0 x 0): one block of
// sections, each on a 64-byte boundary:
//   codes   rows x row_bytes(): row i is the little-endian bit stream of its cols codes (code 0 in the lowest bits of
//           byte 0, no padding between codes; the last byte is filled with zeros); 16- and 32-bit codes are
//           little-endian
//   scales  one code of the scale format per slot, in slot order (absent for no_scale)
//   outer   one code of the outer scale format per outer slot (two_level schemes only)
//   zeros   one byte (integer_zero) or one code of the minimum's format per slot
//   outer zeros  one code of the outer format of a two_level_minimum per outer slot
//   offset  one fp32 (mean_offset only)
// value(i, j) = scale(slot) x decode(code)                    no_zero
//             = scale(slot) x (decode(code) - zero(slot))     integer_zero
//             = fma(scale(slot), decode(code), minimum(slot)) minimum
// where scale(slot) is fp32: the stored scale, for two_level the fp32 product inner x outer, with a mean_offset that
// product + offset; and minimum(slot) the stored one, for two_level_minimum the fp32 product -(inner x outer).
template <any_scheme Scheme> class quantized {
public:
    using scheme_type = Scheme;
    using traits = detail::scheme_traits<Scheme>;
    using code = typename traits::code;
    using scale_code = typename traits::scale_code;
    using outer_code = typename traits::outer_code;
    using zero_code = typename traits::zero_code;
    using outer_zero_code = typename traits::outer_zero_code;

    quantized() noexcept = default;
    // An all-zero-code matrix, to be filled through the pointers below (a reader of foreign files does that).
    quantized(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}

    // Total size in bytes; fails the contract if it does not fit in size_t.
    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "quantized: rows x cols does not fit in the address space");
        return offset_offset(rows, cols) + (Scheme::has_offset ? 64 : 0);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t row_bytes() const noexcept { return traits::row_bytes(cols_); }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    // True if the matrix that was quantized held a NaN or an infinity (see quantize).
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

    [[nodiscard]] std::uint8_t* row_codes(std::size_t row) noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] const std::uint8_t* row_codes(std::size_t row) const noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] scale_code* scales() noexcept { return memory_.template as<scale_code>(scales_offset(rows_, cols_)); }
    [[nodiscard]] const scale_code* scales() const noexcept {
        return memory_.template as<scale_code>(scales_offset(rows_, cols_));
    }
    [[nodiscard]] outer_code* outer_scales() noexcept {
        return memory_.template as<outer_code>(outer_offset(rows_, cols_));
    }
    [[nodiscard]] const outer_code* outer_scales() const noexcept {
        return memory_.template as<outer_code>(outer_offset(rows_, cols_));
    }
    [[nodiscard]] zero_code* zeros() noexcept { return memory_.template as<zero_code>(zeros_offset(rows_, cols_)); }
    [[nodiscard]] const zero_code* zeros() const noexcept {
        return memory_.template as<zero_code>(zeros_offset(rows_, cols_));
    }
    [[nodiscard]] outer_zero_code* outer_zeros() noexcept {
        return memory_.template as<outer_zero_code>(outer_zeros_offset(rows_, cols_));
    }
    [[nodiscard]] const outer_zero_code* outer_zeros() const noexcept {
        return memory_.template as<outer_zero_code>(outer_zeros_offset(rows_, cols_));
    }
    // What a mean_offset adds to every scale; 0 for schemes without one and for an empty matrix.
    [[nodiscard]] float offset() const noexcept {
        if constexpr (Scheme::has_offset) {
            if (memory_.size() != 0) return *memory_.template as<float>(offset_offset(rows_, cols_));
        }
        return 0.0f;
    }
    void set_offset(float value) noexcept
        requires(Scheme::has_offset)
    {
        if (memory_.size() != 0) *memory_.template as<float>(offset_offset(rows_, cols_)) = value;
    }
    [[nodiscard]] std::size_t scale_count() const noexcept { return traits::scale_count(rows_, cols_); }
    [[nodiscard]] std::size_t outer_count() const noexcept { return traits::outer_count(rows_, cols_); }
    [[nodiscard]] std::size_t zero_count() const noexcept { return traits::zero_count(rows_, cols_); }
    [[nodiscard]] std::size_t outer_zero_count() const noexcept { return traits::outer_zero_count(rows_, cols_); }

    // One code, for tests and tools; kernels read whole rows.
    [[nodiscard]] code code_at(std::size_t row, std::size_t col) const noexcept {
        const std::uint8_t* from = row_codes(row);
        if constexpr (sizeof(code) > 1) {
            code c{};
            std::memcpy(&c, from + col * sizeof(code), sizeof(code));
            return c;
        } else {
            constexpr std::size_t bits = static_cast<std::size_t>(traits::element::bits);
            const std::size_t at = col * bits;
            unsigned word = from[at / 8];
            if (at % 8 + bits > 8) word |= static_cast<unsigned>(from[at / 8 + 1]) << 8;
            return static_cast<code>((word >> (at % 8)) & ((1u << bits) - 1u));
        }
    }
    // The slots' numbers behind plain pointers, for loops over many of them.
    struct slot_reader {
        const scale_code* scales;
        const outer_code* outer;
        const zero_code* zeros;
        const outer_zero_code* outer_zeros;
        float offset;
        std::size_t cols;

        [[nodiscard]] NIBBLE_INLINE float scale(std::size_t row, std::size_t col) const noexcept {
            if constexpr (!Scheme::scaled) {
                return 1.0f;
            } else {
                const float inner =
                    detail::decoded<typename traits::scale_element>(scales[traits::granularity::index(row, col, cols)]);
                if constexpr (Scheme::two_level)
                    return detail::two_level_product<Scheme>(
                        inner,
                        detail::decoded<typename traits::outer_element>(
                            outer[traits::outer_granularity::index(row, col, cols)]),
                        offset);
                else
                    return inner;
            }
        }
        [[nodiscard]] NIBBLE_INLINE float zero(std::size_t row, std::size_t col) const noexcept {
            if constexpr (Scheme::has_integer_zero)
                return static_cast<float>(zeros[traits::granularity::index(row, col, cols)]);
            else if constexpr (Scheme::has_two_level_minimum)
                return -(
                    detail::decoded<typename traits::zero_element>(zeros[traits::granularity::index(row, col, cols)]) *
                    detail::decoded<typename traits::outer_zero_element>(
                        outer_zeros[traits::outer_granularity::index(row, col, cols)]));
            else if constexpr (Scheme::has_minimum)
                return detail::decoded<typename traits::zero_element>(
                    zeros[traits::granularity::index(row, col, cols)]);
            else
                return 0.0f;
        }
    };
    [[nodiscard]] slot_reader slots() const noexcept {
        return {scales(), outer_scales(), zeros(), outer_zeros(), offset(), cols_};
    }

    // The fp32 scale of a weight: for two_level the rounded product, 1 for no_scale.
    [[nodiscard]] float scale_at(std::size_t row, std::size_t col) const noexcept { return slots().scale(row, col); }
    // The zero point or minimum of a weight; 0 for no_zero.
    [[nodiscard]] float zero_at(std::size_t row, std::size_t col) const noexcept { return slots().zero(row, col); }
    // The value of one weight by the formula above.
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const noexcept {
        const float plain = traits::element::decode(code_at(row, col));
        if constexpr (!Scheme::scaled)
            return plain;
        else if constexpr (Scheme::has_integer_zero)
            return scale_at(row, col) * (plain - zero_at(row, col));
        else if constexpr (Scheme::has_minimum)
            return detail::fused_multiply_add(scale_at(row, col), plain, zero_at(row, col));
        else
            return scale_at(row, col) * plain;
    }

private:
    [[nodiscard]] static constexpr std::size_t scales_offset(std::size_t rows, std::size_t cols) noexcept {
        return detail::round_up(rows * traits::row_bytes(cols), 64);
    }
    [[nodiscard]] static constexpr std::size_t outer_offset(std::size_t rows, std::size_t cols) noexcept {
        return scales_offset(rows, cols) + detail::round_up(traits::scale_count(rows, cols) * sizeof(scale_code), 64);
    }
    [[nodiscard]] static constexpr std::size_t zeros_offset(std::size_t rows, std::size_t cols) noexcept {
        return outer_offset(rows, cols) + detail::round_up(traits::outer_count(rows, cols) * sizeof(outer_code), 64);
    }

    [[nodiscard]] static constexpr std::size_t outer_zeros_offset(std::size_t rows, std::size_t cols) noexcept {
        return zeros_offset(rows, cols) + detail::round_up(traits::zero_count(rows, cols) * sizeof(zero_code), 64);
    }
    [[nodiscard]] static constexpr std::size_t offset_offset(std::size_t rows, std::size_t cols) noexcept {
        return outer_zeros_offset(rows, cols) +
               detail::round_up(traits::outer_zero_count(rows, cols) * sizeof(outer_zero_code), 64);
    }

    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<bool> nonfinite_;
    buffer memory_{};
};

template <any_scheme Scheme> [[nodiscard]] double bits_per_weight(const quantized<Scheme>& q) noexcept {
    return bits_per_weight<Scheme>(q.rows(), q.cols());
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
