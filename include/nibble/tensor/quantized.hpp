// quantized.hpp: codes and scales in plain order, documented byte by byte; made by quantize, read by pack and
// dequantize.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/scale_groups.hpp>

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
//   scales  one code of the scale format per scale group, in their order (absent for no_scale)
//   outer   one code of the outer scale format per outer group (two_level schemes only)
//   zeros   one byte (integer_zero) or one code of the minimum's format per group
//   outer zeros  one code of the outer format of a two_level_minimum per outer group
//   offset  one fp32 (mean_offset only)
// value(i, j) = scale(group) x decode(code)                    no_zero
//             = scale(group) x (decode(code) - zero(group))     integer_zero
//             = fma(scale(group), decode(code), minimum(group)) minimum
// where scale(group) is fp32: the stored scale, for two_level the fp32 product inner x outer, with a mean_offset that
// product + offset; and minimum(group) the stored one, for two_level_minimum the fp32 product -(inner x outer).
template <any_scheme Scheme> class quantized : public detail::scale_sections<quantized<Scheme>, Scheme> {
    using base = detail::scale_sections<quantized<Scheme>, Scheme>;

public:
    using traits = detail::scheme_traits<Scheme>;
    using code = typename traits::code;

    quantized() noexcept = default;
    // An all-zero-code matrix, to be filled through the pointers below and those of scale_groups.hpp (a reader of
    // foreign files does that).
    quantized(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}
    // The same under given scales, which are copied: what encode_block fills part by part.
    explicit quantized(const scale_groups<Scheme>& scales, allocator from = {})
        : quantized(scales.rows(), scales.cols(), from) {
        nonfinite_ = scales.nonfinite();
        if (scales.bytes() != 0) std::memcpy(scale_memory(), scales.data(), scales.bytes());
    }

    // Total size in bytes; fails the contract if it does not fit in size_t.
    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "quantized: rows x cols does not fit in the address space");
        return code_bytes(rows, cols) + base::section_bytes(rows, cols);
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

    // The value of one weight by the formula above.
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const noexcept {
        const float plain = traits::element::decode(code_at(row, col));
        if constexpr (!Scheme::scaled)
            return plain;
        else if constexpr (Scheme::has_integer_zero)
            return this->scale_at(row, col) * (plain - this->zero_at(row, col));
        else if constexpr (Scheme::has_minimum)
            return detail::fused_multiply_add(this->scale_at(row, col), plain, this->zero_at(row, col));
        else
            return this->scale_at(row, col) * plain;
    }

private:
    friend base;
    [[nodiscard]] static constexpr std::size_t code_bytes(std::size_t rows, std::size_t cols) noexcept {
        return detail::round_up(rows * traits::row_bytes(cols), 64);
    }
    [[nodiscard]] std::byte* scale_memory() noexcept {
        return memory_.size() == 0 ? nullptr : memory_.data() + code_bytes(rows_, cols_);
    }
    [[nodiscard]] const std::byte* scale_memory() const noexcept {
        return memory_.size() == 0 ? nullptr : memory_.data() + code_bytes(rows_, cols_);
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
