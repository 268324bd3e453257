// gguf_quantized.hpp: tensors of a GGUF file as quantized weights, codes and scales as they are in the file;
// read_quantized.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/ggml_types.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/any_format.hpp>
#include <nibble/tensor/quantized.hpp>

#include <concepts>
#include <cstddef>
#include <cstring>
#include <string>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// The bytes of a row, if the tensor is what read_rows would read too.
[[nodiscard]] inline status check_quantized(const tensor_info& tensor, std::size_t& row) {
    const std::string name = "tensor " + in_quotes(tensor.name);
    if (tensor.type == tensor_type::other || (tensor.type == tensor_type::blocks && tensor.decoder == nullptr))
        return {status_code::unsupported, name + ": no scheme carries type " + std::string(tensor.type_name) +
                                              "; write the file with one of the types of ggml_types, F32, F16 or BF16"};
    if (tensor.type == tensor_type::blocks && tensor.cols() % tensor.decoder->elements != 0)
        return {status_code::mismatch, name + ": " + std::string(tensor.type_name) + " has blocks of " +
                                           std::to_string(tensor.decoder->elements) +
                                           " weights, which do not divide a row of " + std::to_string(tensor.cols())};
    // Rows of no weights would take time and memory in proportion to a number in the file.
    if (tensor.is_empty())
        return {status_code::mismatch,
                name + " is " + shape_text(tensor.rows(), tensor.cols()) + ": it has no weights"};
    if (!has_its_bytes(tensor, row))
        return {status_code::mismatch,
                name + " has " + std::to_string(tensor.bytes) + " bytes, which is not what its shape and type need"};
    return {};
}

// Calls visit.template operator()<Type>() with the type of blocks that the tensor is in.
template <class Visit> void visit_type_of(const tensor_info& tensor, const Visit& visit) {
    for_each_ggml_type([&]<class Type>() {
        if (tensor.type == tensor_type::blocks && tensor.decoder == &ggml_row_decoder<Type>)
            visit.template operator()<Type>();
    });
}
// ... and <Scheme>() with that of floats as they are.
template <class Visit> void visit_plain_scheme_of(const tensor_info& tensor, const Visit& visit) {
    if (tensor.type == tensor_type::float32) visit.template operator()<f32_plain>();
    if (tensor.type == tensor_type::float16) visit.template operator()<f16_plain>();
    if (tensor.type == tensor_type::bfloat16) visit.template operator()<bf16_plain>();
}

template <ggml_type Type>
[[nodiscard]] quantized<typename Type::scheme> load_blocks(const tensor_info& tensor, std::size_t row) {
    quantized<typename Type::scheme> out(tensor.rows(), tensor.cols());
    for (std::size_t i = 0; i < tensor.rows(); ++i) read_ggml_row<Type>(tensor.data + i * row, i, out);
    return out;
}
// Codes of 16 and 32 bits are little-endian in both.
template <any_scheme S> [[nodiscard]] quantized<S> load_plain(const tensor_info& tensor, std::size_t row) {
    quantized<S> out(tensor.rows(), tensor.cols());
    for (std::size_t i = 0; i < tensor.rows() && row != 0; ++i)
        std::memcpy(out.row_codes(i), tensor.data + i * row, row);
    return out;
}

} // namespace detail

// A tensor seen as a matrix (tensor_info::rows and cols) into the scheme that carries its type: codes, scales and zero
// points as they are in the file, nothing quantized again. What a type cannot keep through a scheme is said beside the
// type (ggml_plain_types.hpp ...). One pass over the data; allocates the result. `unsupported` if no scheme carries the
// type (IQ2_XXS, IQ3_S, IQ1_S, trellis types ...), `mismatch` if it is another scheme than S, the tensor is empty, or
// its size is not what its shape and type need; `out` is as it was then.
template <any_scheme S> [[nodiscard]] status read_quantized(const tensor_info& tensor, quantized<S>& out) {
    std::size_t row = 0;
    status s = detail::check_quantized(tensor, row);
    if (!s.ok()) return s;
    bool found = false;
    detail::visit_type_of(tensor, [&]<class Type>() {
        if constexpr (std::same_as<typename Type::scheme, S>) {
            out = detail::load_blocks<Type>(tensor, row);
            found = true;
        }
    });
    detail::visit_plain_scheme_of(tensor, [&]<class Plain>() {
        if constexpr (std::same_as<Plain, S>) {
            out = detail::load_plain<S>(tensor, row);
            found = true;
        }
    });
    if (found) return {};
    return {status_code::mismatch,
            "tensor " + detail::in_quotes(tensor.name) + ": type " + std::string(tensor.type_name) +
                " has another scheme than the one asked for; see ggml_formats.hpp, or read it into "
                "any_quantized<ggml_formats>"};
}

// The same into whichever scheme of the list it is, for example any_quantized<ggml_formats>; `unsupported` also if the
// list lacks the scheme.
template <class List> [[nodiscard]] status read_quantized(const tensor_info& tensor, any_quantized<List>& out) {
    std::size_t row = 0;
    status s = detail::check_quantized(tensor, row);
    if (!s.ok()) return s;
    bool found = false;
    detail::visit_type_of(tensor, [&]<class Type>() {
        if constexpr (any_quantized<List>::template lists<typename Type::scheme>) {
            out = detail::load_blocks<Type>(tensor, row);
            found = true;
        }
    });
    detail::visit_plain_scheme_of(tensor, [&]<class Plain>() {
        if constexpr (any_quantized<List>::template lists<Plain>) {
            out = detail::load_plain<Plain>(tensor, row);
            found = true;
        }
    });
    if (found) return {};
    return {status_code::unsupported, "tensor " + detail::in_quotes(tensor.name) +
                                          ": the list of formats lacks the scheme of " + std::string(tensor.type_name) +
                                          "; ggml_formats has it"};
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
