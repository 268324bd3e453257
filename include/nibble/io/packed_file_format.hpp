// packed_file_format.hpp: the bytes of a file of packed weights, what a matrix in it says of its scheme, and its
// checksums; shared by the reader and the writer.
#pragma once

#include <nibble/io/file_error.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/scheme/scheme.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// A file of packed weights, version 1. All numbers are little-endian and unsigned unless said otherwise; offsets count
// from the file's first byte. One header, one directory, the panels:
//   header, 64 bytes
//      0   8  "NIBBLEPK"
//      8   4  0x01020304: bytes 04 03 02 01, as panels are little-endian too
//     12   4  1, the version of all that stands here
//     16   8  bytes of the file
//     24   8  number of matrices
//     32   8  bytes of the directory, a multiple of 64
//     40   8  checksum of the directory
//     48  16  zeros
//   directory, from byte 64 on: an entry of 96 bytes for each matrix, their names one after the other in the same
//   order, zeros up to a multiple of 64. An entry:
//      0   8  scheme_digest (scheme/scheme_digest.hpp)
//      8   4  packed_layout_version (tensor/packed_layout.hpp): the order of numbers in panels
//     12   4  rows of a panel: 8, 16 or 32
//     16   8  rows, at most 2^40
//     24   8  columns, at most 2^40
//     32   8  offset of its panels: where those of the matrix before it end, of the first where the directory ends
//     40   8  bytes of its panels, a multiple of 64
//     48   8  checksum of its panels
//     56   4  the offset of a mean_offset, fp32; else 0
//     60   4  bytes of its name, which no other matrix has; "" is a name
//     64  24  stored_scheme, which only messages are made of
//     88   8  zeros
//   panels: of every matrix packed_shape (tensor/packed_view.hpp) says what stands where in them. The file ends with
//   the last ones.
// Panels thus start on a 64-byte boundary of the file, and of memory if the file does, as mapped files do.
inline constexpr std::string_view packed_magic = "NIBBLEPK";
inline constexpr std::uint32_t packed_byte_order = 0x01020304;
inline constexpr std::uint32_t packed_file_version = 1;
inline constexpr std::size_t packed_header_bytes = 64;
inline constexpr std::size_t packed_entry_bytes = 96;
inline constexpr std::uint64_t packed_longest_side = std::uint64_t{1} << 40;

// The checksum of a number of bytes that is a multiple of 32, as little-endian words of 8 bytes: four sums, word i in
// sum i % 4, sum = rotate_left((sum ^ word) x 0x9e3779b97f4a7c15, 31) from sum = 1 + i % 4 on; then the number of bytes
// and the four sums one after the other into one more such sum that starts at 0. A word that changes changes it.
[[nodiscard]] inline std::uint64_t packed_checksum(std::span<const std::byte> bytes) noexcept {
    const auto add = [](std::uint64_t& sum, std::uint64_t word) {
        sum = std::rotl((sum ^ word) * 0x9e3779b97f4a7c15u, 31);
    };
    std::uint64_t sums[4] = {1, 2, 3, 4};
    for (std::size_t at = 0; at + 32 <= bytes.size(); at += 32)
        for (std::size_t i = 0; i < 4; ++i) add(sums[i], load_little<std::uint64_t>(bytes.data() + at + 8 * i));
    std::uint64_t all = 0;
    add(all, bytes.size());
    for (const std::uint64_t sum : sums) add(all, sum);
    return all;
}

// What a scheme looks like from outside, for the sentence that says why another one was asked for in vain: bits of its
// codes, scales, outer scales, zero points or minimums (byte 5: 1 zero points, 2 minimums), outer minimums, two zeros;
// then the columns of a scale and of an outer scale, 0: a whole row.
struct stored_scheme {
    std::uint8_t code_bits = 0;
    std::uint8_t scale_bits = 0;
    std::uint8_t outer_bits = 0;
    std::uint8_t zero_bits = 0;
    std::uint8_t outer_zero_bits = 0;
    std::uint8_t zero_kind = 0;
    std::uint64_t run = 0;
    std::uint64_t outer_size = 0;

    template <any_scheme S> [[nodiscard]] static constexpr stored_scheme of() noexcept {
        using traits = scheme_traits<S>;
        constexpr std::size_t long_row = std::size_t{1} << 30;
        const auto columns = [](std::size_t of_a_group) {
            return of_a_group < long_row ? std::uint64_t{of_a_group} : 0;
        };
        stored_scheme s{};
        s.code_bits = static_cast<std::uint8_t>(traits::element::bits);
        if constexpr (S::scaled) {
            s.scale_bits = static_cast<std::uint8_t>(traits::scale_element::bits);
            s.run = columns(traits::granularity::group_size(long_row));
        }
        if constexpr (S::two_level) {
            s.outer_bits = static_cast<std::uint8_t>(traits::outer_element::bits);
            s.outer_size = columns(traits::outer_granularity::group_size(long_row));
        }
        if constexpr (S::has_integer_zero) s.zero_bits = 8;
        if constexpr (S::has_minimum) s.zero_bits = static_cast<std::uint8_t>(traits::zero_element::bits);
        if constexpr (S::has_two_level_minimum)
            s.outer_zero_bits = static_cast<std::uint8_t>(traits::outer_zero_element::bits);
        s.zero_kind = S::has_integer_zero ? 1 : S::has_minimum ? 2 : 0;
        return s;
    }
    [[nodiscard]] static stored_scheme read(const std::byte* from) noexcept {
        const auto byte = [&](std::size_t i) { return std::to_integer<std::uint8_t>(from[i]); };
        return {byte(0),
                byte(1),
                byte(2),
                byte(3),
                byte(4),
                byte(5),
                load_little<std::uint64_t>(from + 8),
                load_little<std::uint64_t>(from + 16)};
    }
    void write(std::byte* to) const noexcept {
        const std::uint8_t bytes[] = {code_bits, scale_bits, outer_bits, zero_bits, outer_zero_bits, zero_kind};
        for (std::size_t i = 0; i < sizeof bytes; ++i) to[i] = std::byte{bytes[i]};
        store_little(to + 8, run);
        store_little(to + 16, outer_size);
    }
    // "4-bit codes, 16-bit scales per 128 columns, 8-bit zero points"
    [[nodiscard]] std::string text() const {
        const auto per = [](std::uint64_t columns) {
            return columns == 0 ? std::string(" per row") : " per " + std::to_string(columns) + " columns";
        };
        std::string s = std::to_string(code_bits) + "-bit codes";
        if (scale_bits != 0) s += ", " + std::to_string(scale_bits) + "-bit scales" + per(run);
        if (outer_bits != 0) s += " under " + std::to_string(outer_bits) + "-bit ones" + per(outer_size);
        if (zero_bits != 0)
            s += ", " + std::to_string(zero_bits) + (zero_kind == 1 ? "-bit zero points" : "-bit minimums");
        if (outer_zero_bits != 0) s += " under " + std::to_string(outer_zero_bits) + "-bit ones";
        return s;
    }
    [[nodiscard]] friend bool operator==(const stored_scheme&, const stored_scheme&) noexcept = default;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
