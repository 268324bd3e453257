// tensor_file.hpp: a tensor as it lies in a model file, and how it becomes a matrix of floats; shared by every reader.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/io/file_error.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What read_matrix understands: three element types, and blocks of codes and scales that come with a row_decoder;
// everything else (integers, FP8 ...) is `other`. Why not f32, f16, bf16: GCC 12 warns that these enumerators would
// shadow the element types of those names.
enum class tensor_type { float32, float16, bfloat16, blocks, other };

// How rows of blocks become floats: a row is `row_bytes` bytes, then `bytes` bytes for each `elements` weights.
struct row_decoder {
    std::size_t elements;
    std::size_t bytes;
    std::size_t row_bytes;
    void (*decode)(const std::byte* row, std::size_t cols, float* to) noexcept;
};

// One tensor of an open file. The names and the data belong to the file (or to the bytes handed to parse).
struct tensor_info {
    std::string_view name;
    std::string_view type_name; // as its format spells it: "BF16", "Q4_K", "F8_E4M3", "type 4711"
    tensor_type type = tensor_type::other;
    std::vector<std::size_t> shape;       // outermost first: {rows, cols} of a weight matrix, in every format
    const std::byte* data = nullptr;      // little-endian, dense, the last dimension contiguous, not aligned
    std::size_t bytes = 0;                // 0 also when the type is unknown, and with it the length
    const row_decoder* decoder = nullptr; // of tensor_type::blocks

    // Every tensor is also a matrix: its last dimension is a row. A scalar is 1 x 1, a vector 1 x n, a rank above 2 has
    // the product of the leading dimensions as its rows. The readers have checked that no product overflows.
    [[nodiscard]] std::size_t cols() const noexcept { return shape.empty() ? 1 : shape.back(); }
    [[nodiscard]] std::size_t rows() const noexcept {
        std::size_t product = 1;
        for (std::size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
        return product;
    }
    // Has an extent of 0, and so no data.
    [[nodiscard]] bool is_empty() const noexcept {
        for (const std::size_t extent : shape)
            if (extent == 0) return true;
        return false;
    }
};

namespace detail {

[[nodiscard]] constexpr std::size_t element_bytes(tensor_type type) noexcept {
    switch (type) {
    case tensor_type::float32:
        return 4;
    case tensor_type::float16:
    case tensor_type::bfloat16:
        return 2;
    case tensor_type::blocks:
    case tensor_type::other:
        break;
    }
    return 0;
}

// The fp32 bits of an fp16 and of a bf16 code, equal to f16::decode and bf16::decode for all 65,536 codes (a test
// compares them). Why not those: their branches keep GCC 12 from vectorizing, 0.8 instead of 5 (fp16) and 14 (bf16)
// billion elements a second with AVX2. A selection written as ?: is turned back into a branch, hence the masks.
[[nodiscard]] NIBBLE_INLINE std::uint32_t float_bits_of_f16(std::uint32_t code) noexcept {
    const std::uint32_t magnitude = code & 0x7fffu;
    const std::uint32_t subnormal = 0u - static_cast<std::uint32_t>(magnitude < 0x0400u);
    const std::uint32_t special = 0u - static_cast<std::uint32_t>(magnitude >= 0x7c00u);
    const std::uint32_t nan = 0u - static_cast<std::uint32_t>(magnitude > 0x7c00u);
    const float scaled_value = static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24f;
    const std::uint32_t scaled = detail::bit_cast<std::uint32_t>(scaled_value);
    std::uint32_t word = (scaled & subnormal) | (((magnitude << 13) + (112u << 23)) & ~subnormal);
    word = (word & ~special) | (0x7f800000u & special) | ((code & 0x8000u) << 16);
    return (word & ~nan) | (0x7fc00000u & nan);
}
[[nodiscard]] NIBBLE_INLINE std::uint32_t float_bits_of_bf16(std::uint32_t code) noexcept {
    const std::uint32_t nan = 0u - static_cast<std::uint32_t>((code & 0x7fffu) > 0x7f80u);
    return ((code << 16) & ~nan) | (0x7fc00000u & nan);
}

inline void decode_elements(tensor_type type, const std::byte* from, float* to, std::size_t count) noexcept {
    switch (type) {
    case tensor_type::float32:
        for (std::size_t i = 0; i < count; ++i) to[i] = load_little<float>(from + 4 * i);
        break;
    case tensor_type::float16:
        for (std::size_t i = 0; i < count; ++i)
            to[i] = detail::bit_cast<float>(float_bits_of_f16(load_little<std::uint16_t>(from + 2 * i)));
        break;
    case tensor_type::bfloat16:
        for (std::size_t i = 0; i < count; ++i)
            to[i] = detail::bit_cast<float>(float_bits_of_bf16(load_little<std::uint16_t>(from + 2 * i)));
        break;
    case tensor_type::blocks:
    case tensor_type::other:
        break;
    }
}

// The number of elements of a shape; false if that, or a product of leading dimensions on the way, does not fit.
[[nodiscard]] inline bool count_elements(const std::vector<std::size_t>& shape, std::size_t& out) noexcept {
    out = 1;
    for (const std::size_t extent : shape)
        if (!multiply(out, extent, out)) return false;
    return true;
}

// The bytes of one row; false if the row is not a whole number of blocks, or that does not fit.
[[nodiscard]] inline bool row_bytes(const tensor_info& tensor, std::size_t& out) noexcept {
    if (tensor.type != tensor_type::blocks) return multiply(tensor.cols(), element_bytes(tensor.type), out);
    return tensor.decoder != nullptr && tensor.cols() % tensor.decoder->elements == 0 &&
           multiply(tensor.cols() / tensor.decoder->elements, tensor.decoder->bytes, out) &&
           !__builtin_add_overflow(out, tensor.decoder->row_bytes, &out);
}

// Whether the tensor's bytes are what its shape and type need; `row` is the bytes of one row.
[[nodiscard]] inline bool has_its_bytes(const tensor_info& tensor, std::size_t& row) noexcept {
    std::size_t count = 0;
    std::size_t bytes = 0;
    return count_elements(tensor.shape, count) && row_bytes(tensor, row) &&
           multiply(count == 0 ? 0 : tensor.rows(), row, bytes) && bytes == tensor.bytes &&
           (tensor.data != nullptr || bytes == 0);
}

[[nodiscard]] inline std::string shape_text(std::size_t rows, std::size_t cols) {
    return std::to_string(rows) + " x " + std::to_string(cols);
}

} // namespace detail

// Rows first .. first + out.rows() - 1 of a tensor seen as a matrix (tensor_info::rows and cols), converted to fp32
// exactly (blocks: as dequantize would after read_quantized). One pass over those rows, no allocation unless it fails.
// `unsupported` for tensor_type::other, `mismatch` if the tensor does not have those rows and columns; nothing is
// written then.
[[nodiscard]] inline status read_rows(const tensor_info& tensor, std::size_t first, matrix_view<float> out) {
    if (tensor.type == tensor_type::other)
        return {status_code::unsupported, "tensor " + detail::in_quotes(tensor.name) + ": type " +
                                              std::string(tensor.type_name) +
                                              " cannot be read as floats, only F32, F16, BF16 and the block types "
                                              "of ggml_types can"};
    const std::size_t rows = tensor.rows();
    const std::size_t cols = tensor.cols();
    if (out.cols() != cols || first > rows || out.rows() > rows - first)
        return {status_code::mismatch,
                "tensor " + detail::in_quotes(tensor.name) + " is " + detail::shape_text(rows, cols) + ", asked for " +
                    detail::shape_text(out.rows(), out.cols()) + " from row " + std::to_string(first)};
    if (rows == 0 && tensor.bytes == 0) return {}; // of any number of columns, also one whose bytes are beyond counting
    std::size_t row_bytes = 0;
    if (!detail::has_its_bytes(tensor, row_bytes))
        return {status_code::mismatch, "tensor " + detail::in_quotes(tensor.name) + " has " +
                                           std::to_string(tensor.bytes) +
                                           " bytes, which is not what its shape and type need"};
    if (out.empty()) return {};
    for (std::size_t i = 0; i < out.rows(); ++i) {
        const std::byte* row = tensor.data + (first + i) * row_bytes;
        if (tensor.type == tensor_type::blocks)
            tensor.decoder->decode(row, cols, out.row(i));
        else
            detail::decode_elements(tensor.type, row, out.row(i), cols);
    }
    return {};
}

// The whole tensor; `out` must be exactly tensor.rows() x tensor.cols().
[[nodiscard]] inline status read_matrix(const tensor_info& tensor, matrix_view<float> out) {
    if (tensor.type != tensor_type::other && out.rows() != tensor.rows())
        return {status_code::mismatch, "tensor " + detail::in_quotes(tensor.name) + " is " +
                                           detail::shape_text(tensor.rows(), tensor.cols()) + ", asked for " +
                                           detail::shape_text(out.rows(), out.cols())};
    return read_rows(tensor, 0, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
