// gguf_types.hpp: the numbers that GGUF gives to value types and tensor types, and how many bytes each takes.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The type of a metadata value.
enum class gguf_type : std::uint32_t {
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    float32,
    boolean,
    string,
    array,
    u64,
    i64,
    float64,
};

// A number or a boolean, as GGUF's metadata has them.
template <class T>
concept gguf_number =
    (std::is_integral_v<T> && sizeof(T) <= 8) || std::is_same_v<T, float> || std::is_same_v<T, double>;

namespace detail {

// What a metadata value of a C++ type is in the file.
template <class T>
inline constexpr gguf_type gguf_type_of = [] {
    if constexpr (std::is_same_v<T, bool>)
        return gguf_type::boolean;
    else if constexpr (std::is_same_v<T, float>)
        return gguf_type::float32;
    else if constexpr (std::is_same_v<T, double>)
        return gguf_type::float64;
    else if constexpr (std::is_same_v<T, std::string_view>)
        return gguf_type::string;
    else if constexpr (sizeof(T) == 1)
        return std::is_signed_v<T> ? gguf_type::i8 : gguf_type::u8;
    else if constexpr (sizeof(T) == 2)
        return std::is_signed_v<T> ? gguf_type::i16 : gguf_type::u16;
    else if constexpr (sizeof(T) == 4)
        return std::is_signed_v<T> ? gguf_type::i32 : gguf_type::u32;
    else
        return std::is_signed_v<T> ? gguf_type::i64 : gguf_type::u64;
}();

// 0 for strings and arrays, whose length is their own.
[[nodiscard]] constexpr std::size_t gguf_type_bytes(gguf_type type) noexcept {
    switch (type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean:
        return 1;
    case gguf_type::u16:
    case gguf_type::i16:
        return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::float32:
        return 4;
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::float64:
        return 8;
    case gguf_type::string:
    case gguf_type::array:
        break;
    }
    return 0;
}

// A tensor type: a row is cut into blocks of `elements` elements in `bytes` bytes each, and has `row_bytes` bytes more.
struct gguf_block {
    std::uint32_t id;
    std::string_view name;
    std::uint32_t elements;
    std::uint32_t bytes;
    std::uint32_t row_bytes = 0;
    tensor_type type = tensor_type::other;
};

// Ids below 100 are ggml's, ids from 133 those of the ik_llama.cpp fork but for 142 and 143, which are PrismML's (ik's
// of those numbers only exist in memory). Left out, and so of unknown length: ids that ggml has withdrawn (4, 5, 31-33,
// 36-38; BitNet uses 36 for its I2_S), and the interleaved types that only exist in memory.
inline constexpr gguf_block gguf_blocks[] = {
    {.id = 0, .name = "F32", .elements = 1, .bytes = 4, .type = tensor_type::float32},
    {.id = 1, .name = "F16", .elements = 1, .bytes = 2, .type = tensor_type::float16},
    {.id = 2, .name = "Q4_0", .elements = 32, .bytes = 18},
    {.id = 3, .name = "Q4_1", .elements = 32, .bytes = 20},
    {.id = 6, .name = "Q5_0", .elements = 32, .bytes = 22},
    {.id = 7, .name = "Q5_1", .elements = 32, .bytes = 24},
    {.id = 8, .name = "Q8_0", .elements = 32, .bytes = 34},
    {.id = 9, .name = "Q8_1", .elements = 32, .bytes = 36},
    {.id = 10, .name = "Q2_K", .elements = 256, .bytes = 84},
    {.id = 11, .name = "Q3_K", .elements = 256, .bytes = 110},
    {.id = 12, .name = "Q4_K", .elements = 256, .bytes = 144},
    {.id = 13, .name = "Q5_K", .elements = 256, .bytes = 176},
    {.id = 14, .name = "Q6_K", .elements = 256, .bytes = 210},
    {.id = 15, .name = "Q8_K", .elements = 256, .bytes = 292},
    {.id = 16, .name = "IQ2_XXS", .elements = 256, .bytes = 66},
    {.id = 17, .name = "IQ2_XS", .elements = 256, .bytes = 74},
    {.id = 18, .name = "IQ3_XXS", .elements = 256, .bytes = 98},
    {.id = 19, .name = "IQ1_S", .elements = 256, .bytes = 50},
    {.id = 20, .name = "IQ4_NL", .elements = 32, .bytes = 18},
    {.id = 21, .name = "IQ3_S", .elements = 256, .bytes = 110},
    {.id = 22, .name = "IQ2_S", .elements = 256, .bytes = 82},
    {.id = 23, .name = "IQ4_XS", .elements = 256, .bytes = 136},
    {.id = 24, .name = "I8", .elements = 1, .bytes = 1},
    {.id = 25, .name = "I16", .elements = 1, .bytes = 2},
    {.id = 26, .name = "I32", .elements = 1, .bytes = 4},
    {.id = 27, .name = "I64", .elements = 1, .bytes = 8},
    {.id = 28, .name = "F64", .elements = 1, .bytes = 8},
    {.id = 29, .name = "IQ1_M", .elements = 256, .bytes = 56},
    {.id = 30, .name = "BF16", .elements = 1, .bytes = 2, .type = tensor_type::bfloat16},
    {.id = 34, .name = "TQ1_0", .elements = 256, .bytes = 54},
    {.id = 35, .name = "TQ2_0", .elements = 256, .bytes = 66},
    {.id = 39, .name = "MXFP4", .elements = 32, .bytes = 17},
    {.id = 40, .name = "NVFP4", .elements = 64, .bytes = 36},
    {.id = 41, .name = "Q1_0", .elements = 128, .bytes = 18},
    {.id = 42, .name = "Q2_0", .elements = 64, .bytes = 18},
    {.id = 133, .name = "Q6_0", .elements = 32, .bytes = 26},
    {.id = 134, .name = "IQ1_BN", .elements = 64, .bytes = 13, .row_bytes = 2},
    {.id = 135, .name = "IQ2_BN", .elements = 64, .bytes = 16, .row_bytes = 4},
    {.id = 137, .name = "IQ2_K", .elements = 256, .bytes = 76},
    {.id = 138, .name = "IQ3_K", .elements = 256, .bytes = 110},
    {.id = 139, .name = "IQ4_K", .elements = 256, .bytes = 144},
    {.id = 140, .name = "IQ5_K", .elements = 256, .bytes = 176},
    {.id = 141, .name = "IQ6_K", .elements = 256, .bytes = 212},
    {.id = 142, .name = "PQ2_0", .elements = 128, .bytes = 34},
    {.id = 143, .name = "PTQ1_0", .elements = 128, .bytes = 28},
    {.id = 144, .name = "IQ4_KS", .elements = 256, .bytes = 136, .row_bytes = 4},
    {.id = 145, .name = "IQ2_KS", .elements = 256, .bytes = 70, .row_bytes = 2},
    {.id = 146, .name = "IQ4_KSS", .elements = 256, .bytes = 128, .row_bytes = 4},
    {.id = 152, .name = "IQ5_KS", .elements = 256, .bytes = 168, .row_bytes = 4},
    {.id = 153, .name = "IQ2_KT", .elements = 256, .bytes = 68, .row_bytes = 4},
    {.id = 154, .name = "IQ3_KT", .elements = 256, .bytes = 100, .row_bytes = 4},
    {.id = 155, .name = "IQ4_KT", .elements = 256, .bytes = 128, .row_bytes = 4},
    {.id = 156, .name = "IQ3_KS", .elements = 256, .bytes = 102, .row_bytes = 2},
    {.id = 157, .name = "IQ2_KL", .elements = 256, .bytes = 86, .row_bytes = 2},
    {.id = 158, .name = "IQ1_KT", .elements = 256, .bytes = 56, .row_bytes = 4},
};

[[nodiscard]] constexpr const gguf_block* find_gguf_block(std::uint32_t id) noexcept {
    for (const gguf_block& block : gguf_blocks)
        if (block.id == id) return &block;
    return nullptr;
}

// The bytes of a tensor whose rows are whole blocks; none if it is empty, also where rows begin with bytes of their
// own. False if that does not fit.
[[nodiscard]] inline bool block_bytes(const tensor_info& tensor, const gguf_block& block, std::size_t& out) noexcept {
    std::size_t row = 0;
    return multiply(tensor.cols() / block.elements, block.bytes, row) &&
           !__builtin_add_overflow(row, block.row_bytes, &row) &&
           multiply(row, tensor.is_empty() ? 0 : tensor.rows(), out);
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
