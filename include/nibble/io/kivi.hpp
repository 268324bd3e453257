// kivi.hpp: the packed key and value cache of KIVI: int32 words of codes with an fp16 scale and minimum per group.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/io/file_error.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// KIVI (Liu et al., 2024) of one head: keys are quantized along the tokens of each channel, values along the channels
// of each token. Both are matrices whose rows are cut into groups and packed: keys have channels for rows, tokens for
// columns.
//   words  int32 [rows][cols x b / 32]   code of column 32 / b w + p in bits b p ... of word w
//   scale  fp16 [rows][cols / G], mn fp16 [rows][cols / G]
// value = q x scale + mn; here by one fma, unrounded in between.
template <int Bits, std::size_t Group>
using kivi_scheme = scheme<unsigned_integer<Bits>, per_group<Group>, scale<f16>, minimum<f16>>;

namespace detail {

[[nodiscard]] inline status check_kivi(int bits, std::size_t group, std::size_t rows, std::size_t cols,
                                       std::size_t words, std::size_t scales, std::size_t minimums) {
    const std::string what = "kivi: " + shape_text(rows, cols) + " codes of " + std::to_string(bits) + " bits";
    if (cols % (32 / static_cast<std::size_t>(bits)) != 0 || cols % group != 0)
        return {status_code::unsupported, what + " do not fill words and groups of " + std::to_string(group)};
    const std::size_t word_count = rows * (cols * static_cast<std::size_t>(bits) / 32);
    const std::size_t scale_count = rows * (cols / group);
    const auto wrong = [&](const char* field, std::size_t found, std::size_t expected) {
        return status(status_code::mismatch,
                      what + ": " + std::to_string(found) + " " + field + ", expected " + std::to_string(expected));
    };
    if (words != word_count) return wrong("words", words, word_count);
    if (scales != scale_count) return wrong("scales", scales, scale_count);
    if (minimums != scale_count) return wrong("minimums", minimums, scale_count);
    return {};
}

} // namespace detail

// Copies a packed matrix, bit for bit. mismatch: words, scale or mn have not the length that rows and cols (whose
// product must fit in the address space) need; unsupported: cols fills no whole words and groups. `out` then stays as
// it was.
template <int Bits, std::size_t Group>
[[nodiscard]] status read_kivi(std::span<const std::uint32_t> words, std::span<const std::uint16_t> scale,
                               std::span<const std::uint16_t> mn, std::size_t rows, std::size_t cols,
                               quantized<kivi_scheme<Bits, Group>>& out) {
    static_assert(Bits == 2 || Bits == 4 || Bits == 8, "kivi: codes of 2, 4 or 8 bits");
    static_assert(std::endian::native == std::endian::little, "kivi: words are copied on little-endian machines only");
    std::size_t bits = 0;
    if (!detail::multiply(rows, cols, bits) || !detail::multiply(bits, 64, bits))
        return {status_code::mismatch, "kivi: the product of rows and cols overflows"};
    status s = detail::check_kivi(Bits, Group, rows, cols, words.size(), scale.size(), mn.size());
    if (!s.ok()) return s;
    quantized<kivi_scheme<Bits, Group>> q(rows, cols);
    if (!words.empty()) {
        std::memcpy(q.row_codes(0), words.data(), words.size_bytes());
        std::memcpy(q.scales(), scale.data(), scale.size_bytes());
        std::memcpy(q.zeros(), mn.data(), mn.size_bytes());
    }
    out = std::move(q);
    return {};
}

// The inverse, into memory of just those lengths; errors likewise, and nothing is written then.
template <int Bits, std::size_t Group>
[[nodiscard]] status write_kivi(const quantized<kivi_scheme<Bits, Group>>& q, std::span<std::uint32_t> words,
                                std::span<std::uint16_t> scale, std::span<std::uint16_t> mn) {
    static_assert(Bits == 2 || Bits == 4 || Bits == 8, "kivi: codes of 2, 4 or 8 bits");
    static_assert(std::endian::native == std::endian::little, "kivi: words are copied on little-endian machines only");
    status s = detail::check_kivi(Bits, Group, q.rows(), q.cols(), words.size(), scale.size(), mn.size());
    if (!s.ok() || words.empty()) return s;
    std::memcpy(words.data(), q.row_codes(0), words.size_bytes());
    std::memcpy(scale.data(), q.scales(), scale.size_bytes());
    std::memcpy(mn.data(), q.zeros(), mn.size_bytes());
    return {};
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
