// lookup_quantized.hpp: codes that index a table made at run time, one table per group, channel or tensor; in plain
// order.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/granularity/granularity.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How the 2^Bits values of a group follow from what is stored of it: `stored<Bits>` numbers, and value(numbers, code).

// Every value is stored (SqueezeLLM's tables).
struct free_table {
    template <int Bits> static constexpr std::size_t stored = std::size_t{1} << Bits;
    template <int Bits> [[nodiscard]] static constexpr float value(const float* numbers, std::size_t code) noexcept {
        return numbers[code];
    }
};

// One number per bit of the code, added where the bit is set, from bit 0 up: binary planes with a scale each (FDB of
// DB-LLM: two planes, {0, a1, a2, a1 + a2}).
struct plane_sums {
    template <int Bits> static constexpr std::size_t stored = static_cast<std::size_t>(Bits);
    template <int Bits> [[nodiscard]] static constexpr float value(const float* numbers, std::size_t code) noexcept {
        float sum = 0.0f;
        for (std::size_t bit = 0; bit < static_cast<std::size_t>(Bits); ++bit)
            sum += ((code >> bit) & 1u) != 0 ? numbers[bit] : 0.0f;
        return sum;
    }
};

// A rows x cols matrix, owning its memory: one block of two sections, each on a 64-byte boundary:
//   codes    rows x row_bytes(): row i is the little-endian bit stream of its cols codes (code 0 in the lowest bits of
//            byte 0, no padding between codes; the last byte is filled with zeros)
//   numbers  `stored` codes of Format per group of the granularity, in group order
// value(i, j) = Table::value(numbers of the group of (i, j), code(i, j)), nothing else: no scale and no zero point.
// Written out, these are the two sections one after the other without the padding between.
template <int Bits, granularity Granularity, element Format = f32, class Table = free_table> class lookup_quantized {
public:
    static_assert(Bits >= 1 && Bits <= 8, "lookup_quantized: 1 to 8 bits");
    static constexpr int bits = Bits;
    static constexpr std::size_t entries = std::size_t{1} << Bits;
    static constexpr std::size_t stored = Table::template stored<Bits>;
    using granularity_type = Granularity;
    using format = Format;
    using table_type = Table;
    using number_code = typename Format::code;

    lookup_quantized() noexcept = default;
    // All codes 0 and all numbers 0, to be filled through the pointers below.
    lookup_quantized(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}

    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 2048) / cols,
                     "lookup_quantized: rows x cols does not fit in the address space");
        return numbers_offset(rows, cols) + groups_of_shape(rows, cols) * stored * sizeof(number_code);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_of(cols_); }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    [[nodiscard]] std::size_t group_count() const noexcept { return groups_of_shape(rows_, cols_); }
    // True if the matrix that was quantized held a NaN or an infinity.
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

    [[nodiscard]] std::uint8_t* row_codes(std::size_t row) noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    [[nodiscard]] const std::uint8_t* row_codes(std::size_t row) const noexcept {
        return memory_.template as<std::uint8_t>() + row * row_bytes();
    }
    // The stored numbers of a group.
    [[nodiscard]] number_code* numbers(std::size_t group) noexcept {
        return memory_.template as<number_code>(numbers_offset(rows_, cols_)) + group * stored;
    }
    [[nodiscard]] const number_code* numbers(std::size_t group) const noexcept {
        return memory_.template as<number_code>(numbers_offset(rows_, cols_)) + group * stored;
    }
    // The 2^Bits values of a group in code order.
    void load_table(std::size_t group, float* values) const noexcept {
        float plain[stored];
        for (std::size_t i = 0; i < stored; ++i) plain[i] = Format::decode(numbers(group)[i]);
        for (std::size_t c = 0; c < entries; ++c) values[c] = Table::template value<Bits>(plain, c);
    }

    // One code and one value, for tests and tools.
    [[nodiscard]] std::uint8_t code_at(std::size_t row, std::size_t col) const noexcept {
        const std::uint8_t* from = row_codes(row);
        const std::size_t at = col * static_cast<std::size_t>(Bits);
        unsigned word = from[at / 8];
        if (at % 8 + static_cast<std::size_t>(Bits) > 8) word |= static_cast<unsigned>(from[at / 8 + 1]) << 8;
        return static_cast<std::uint8_t>((word >> (at % 8)) & ((1u << Bits) - 1u));
    }
    [[nodiscard]] float value_at(std::size_t row, std::size_t col) const noexcept {
        float plain[stored];
        const number_code* from = numbers(Granularity::index(row, col, cols_));
        for (std::size_t i = 0; i < stored; ++i) plain[i] = Format::decode(from[i]);
        return Table::template value<Bits>(plain, code_at(row, col));
    }

private:
    [[nodiscard]] static constexpr std::size_t row_bytes_of(std::size_t cols) noexcept {
        return detail::ceil_div(cols * static_cast<std::size_t>(Bits), 8);
    }
    [[nodiscard]] static constexpr std::size_t groups_of_shape(std::size_t rows, std::size_t cols) noexcept {
        return rows == 0 || cols == 0 ? 0 : Granularity::count(rows, cols);
    }
    [[nodiscard]] static constexpr std::size_t numbers_offset(std::size_t rows, std::size_t cols) noexcept {
        return detail::round_up(rows * row_bytes_of(cols), 64);
    }

    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<bool> nonfinite_;
    buffer memory_{};
};

// All bits of codes and tables, per weight.
template <int Bits, granularity Granularity, element Format, class Table>
[[nodiscard]] double bits_per_weight(const lookup_quantized<Bits, Granularity, Format, Table>& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    const double weights = static_cast<double>(q.rows()) * static_cast<double>(q.cols());
    return Bits + static_cast<double>(q.group_count() * q.stored) * Format::bits / weights;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
