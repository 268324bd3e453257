// gptq.hpp: layers of GPTQ checkpoints (AutoGPTQ, GPTQModel): 2 to 8 bits, act-order, both conventions of zeros.
#pragma once

#include <nibble/io/integer_formats.hpp>
#include <nibble/io/layer_format.hpp>
#include <nibble/io/layer_tensors.hpp>
#include <nibble/io/planar_codes.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/io/tensor_source.hpp>
#include <nibble/io/transpose.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// N outputs, K inputs, b bits, groups of G inputs:
//   qweight  I32 [K b / 32, N]        column n is the bit stream of output n's codes, lowest bits first
//   qzeros   I32 [ceil(K / G), N b / 32]  row g is the bit stream of group g's zero points; optional: they are 2^(b -
//   1) scales   F16, BF16 or F32 [ceil(K / G), N] g_idx    I32 or I64 [K], optional     the group of each input; not
//   ascending with act-order (desc_act). Empty, or 0 or
//                                         -1 everywhere: as if it were not there
// weight(n, k) = (code - zero) x scale, with zero = stored + 1 modulo 2^b in checkpoint_format gptq, stored in the
// others. Codes of 5, 6 and 7 bits, and in gptq_p of 3, are not one stream but planes: see planar_codes.hpp. They are
// gptq_p's whatever checkpoint_format says: there are no others.

// Named as in quantize_config.json. Nothing in the tensors tells the formats apart.
enum class gptq_checkpoint_format { gptq, gptq_v2, gptq_p };

struct gptq_options {
    gptq_checkpoint_format checkpoint_format = gptq_checkpoint_format::gptq;
    // 0: from the shapes of qzeros; without those from g_idx or the metadata gptq_bits (AutoGPTQ). Shapes must agree.
    int bits = 0;
    // 0: from g_idx, else the metadata gptq_group_size (AutoGPTQ), else the shapes, where one size fits; -1: one group
    int group_size = 0;
    // Write qzeros for signed codes too, which have none: most loaders cannot do without.
    bool write_qzeros = true;
};

// Every format that a layer with qzeros can have, of 2, 3, 4 and 8 bits: 48 of them. Those of 5, 6 and 7 bits are
// asymmetric_integer_formats<5> ..., those of a layer without qzeros symmetric_integer_formats<4> ...
using gptq_formats = join_formats<asymmetric_integer_formats<4>, asymmetric_integer_formats<3>,
                                  asymmetric_integer_formats<2>, asymmetric_integer_formats<8>>;

namespace detail {

[[nodiscard]] inline layer_scale scale_of_type(tensor_type type) noexcept {
    return type == tensor_type::float16    ? layer_scale::float16
           : type == tensor_type::bfloat16 ? layer_scale::bfloat16
           : type == tensor_type::float32  ? layer_scale::float32
                                           : layer_scale::other;
}
[[nodiscard]] inline std::string_view type_of_scale(layer_scale scale) noexcept {
    return scale == layer_scale::float16 ? "F16" : scale == layer_scale::bfloat16 ? "BF16" : "F32";
}

// Groups of `group` columns, or the whole row if there is one group.
inline void set_groups(layer_format& format, std::size_t group, std::size_t groups) noexcept {
    format.granularity = groups == 1 ? layer_granularity::channel : layer_granularity::group;
    format.size = groups == 1 ? 0 : group;
}

class gptq_tensors {
public:
    layer_format format;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<std::uint32_t> columns;

    [[nodiscard]] bool find(layer_tensors& layer, const gptq_options& options) {
        qweight_ = layer.require(".qweight");
        scales_ = qweight_ == nullptr ? nullptr : layer.require(".scales");
        if (scales_ == nullptr) return false;
        qzeros_ = layer.find(".qzeros");
        if (!layer.expect_type(*qweight_, {"I32"}) || (qzeros_ != nullptr && !layer.expect_type(*qzeros_, {"I32"})) ||
            !layer.expect_type(*scales_, {"F16", "BF16", "F32"}) || !layer.expect_matrix(*qweight_) ||
            (qzeros_ != nullptr && !layer.expect_matrix(*qzeros_)) || !layer.expect_matrix(*scales_))
            return false;
        rows = qweight_->shape[1];
        groups_ = scales_->shape[0];
        if (!layer.expect_shape(*scales_, {groups_, rows}, "as many columns as qweight")) return false;
        std::size_t bits = 0;
        if (!(qzeros_ != nullptr ? width_of_zeros(layer, bits) : width_without_zeros(layer, options, bits)))
            return false;
        if (options.bits != 0 && bits != static_cast<std::size_t>(options.bits))
            return layer.fail(status_code::mismatch, qzeros_ != nullptr ? *qzeros_ : *qweight_,
                              "has codes of " + std::to_string(bits) + " bits, expected " +
                                  std::to_string(options.bits));
        if (qzeros_ != nullptr && !layer.expect_shape(*qzeros_, {groups_, qzeros_->shape[1]}, "as many rows as scales"))
            return false;
        const bool planes = options.checkpoint_format == gptq_checkpoint_format::gptq_p;
        planar_ = bits == 5 || bits == 6 || bits == 7 || (bits == 3 && planes);
        if (qweight_->shape[0] * 32 % bits != 0 || (planar_ && qweight_->shape[0] % bits != 0))
            return layer.fail(status_code::mismatch, *qweight_,
                              "has " + std::to_string(qweight_->shape[0]) +
                                  " rows of words, no whole number of codes of " + std::to_string(bits) + " bits");
        cols = qweight_->shape[0] * 32 / bits;
        if (planar_ && qzeros_ != nullptr && rows % 32 != 0)
            return layer.fail(status_code::mismatch, *qzeros_,
                              "has " + std::to_string(rows) +
                                  " zero points in a row, no multiple of the 32 of a plane");
        format.code = qzeros_ != nullptr ? layer_code::unsigned_integer : layer_code::signed_integer;
        format.bits = static_cast<int>(bits);
        format.zero = qzeros_ != nullptr;
        format.scale = scale_of_type(scales_->type);
        std::size_t group = 0;
        const tensor_info* index = layer.find_index(".g_idx");
        if (index == nullptr || options.group_size != 0) {
            const int hint = layer.metadata_integer("gptq_group_size");
            if (!layer.group_size(*scales_, cols, groups_, "group_size", options.group_size, hint, group)) return false;
        } else if (groups_ > cols) {
            return layer.fail(status_code::mismatch, *scales_,
                              "has " + std::to_string(groups_) + " groups for " + std::to_string(cols) + " columns");
        }
        if (index != nullptr && !layer.column_order(*index, cols, groups_, group, columns)) return false;
        set_groups(format, group, groups_);
        plus_ = options.checkpoint_format == gptq_checkpoint_format::gptq && !planar_ ? 1 : 0;
        return true;
    }

    // Without qzeros, for a list that has no signed codes: the same weights.
    [[nodiscard]] layer_format unsigned_format() const noexcept {
        layer_format f = format;
        f.code = layer_code::unsigned_integer;
        f.zero = true;
        return f;
    }
    [[nodiscard]] bool has_zeros() const noexcept { return qzeros_ != nullptr; }

    void store(const layer_destination& to) const {
        store_codes(to);
        if (qzeros_ == nullptr) {
            flip_signs(format.bits, to.codes, rows, cols, to.row_bytes);
            return;
        }
        std::vector<std::byte> plain(groups_ * rows);
        std::vector<std::byte> stream(qzeros_->shape[1] * 4);
        with_bits(format.bits, [&]<int Bits>() {
            for (std::size_t g = 0; g < groups_; ++g) {
                std::memcpy(stream.data(), qzeros_->data + g * stream.size(), stream.size());
                if (planar_) stream_from_planes<Bits>(as_codes(stream.data()), rows / 32, as_codes(stream.data()));
                spread_codes<Bits>(as_codes(stream.data()), rows, as_codes(plain.data()) + g * rows);
            }
            constexpr unsigned mask = (1u << Bits) - 1u;
            for (std::byte& zero : plain) zero = static_cast<std::byte>((static_cast<unsigned>(zero) + plus_) & mask);
        });
        transpose<1>(plain.data(), groups_, rows, rows, to.zeros, groups_);
    }
    void store_unsigned(const layer_destination& to) const {
        store_codes(to);
        for (std::size_t i = 0; i < groups_ * rows; ++i) to.zeros[i] = static_cast<std::byte>(1u << (format.bits - 1));
    }

private:
    [[nodiscard]] bool width_of_zeros(layer_tensors& layer, std::size_t& bits) const {
        // 32 / 8 words per bit and eight outputs: no product that could overflow.
        const std::size_t words = qzeros_->shape[1];
        bits = words * 32 % rows == 0 ? words * 32 / rows : 0;
        return (bits >= 2 && bits <= 8) || layer.fail(status_code::unsupported, *qzeros_,
                                                      "has shape " + extents_text(qzeros_->shape) + ", which for " +
                                                          std::to_string(rows) + " outputs is no width of 2 to 8 bits");
    }
    [[nodiscard]] bool width_without_zeros(layer_tensors& layer, const gptq_options& options, std::size_t& bits) const {
        const std::size_t words = qweight_->shape[0];
        const tensor_info* index = layer.find(".g_idx"); // its length tells, whatever is in it
        if (options.bits > 0) {
            bits = static_cast<std::size_t>(options.bits);
        } else if (index != nullptr && index->shape.size() == 1 && !index->is_empty()) {
            bits = words * 32 % index->shape[0] == 0 ? words * 32 / index->shape[0] : 0;
        } else if (const int told = layer.metadata_integer("gptq_bits"); told > 0) {
            bits = static_cast<std::size_t>(told);
        } else {
            return layer.fail(
                status_code::mismatch, *qweight_,
                "has neither qzeros nor a g_idx beside it: say the bits of the checkpoint's configuration "
                "(read_quantization_config takes it from there)");
        }
        return (bits >= 2 && bits <= 8) ||
               layer.fail(status_code::unsupported, *qweight_,
                          "has " + std::to_string(words) + " rows of words, which are no codes of 2 to 8 bits");
    }
    void store_codes(const layer_destination& to) const {
        transpose<4>(qweight_->data, qweight_->shape[0], rows, rows * 4, to.codes, to.row_bytes);
        if (planar_)
            with_bits(format.bits, [&]<int Bits>() {
                stream_from_planes<Bits>(as_codes(to.codes), rows * (cols / 32), as_codes(to.codes));
            });
        if (!columns.empty()) gather_codes(format.bits, to.codes, rows, to.row_bytes, columns);
        transpose(to.scale_bytes, scales_->data, groups_, rows, rows * to.scale_bytes, to.scales,
                  groups_ * to.scale_bytes);
    }

    const tensor_info* qweight_ = nullptr;
    const tensor_info* qzeros_ = nullptr; // nullptr: all are 2^(bits - 1)
    const tensor_info* scales_ = nullptr;
    std::size_t groups_ = 0;
    unsigned plus_ = 0;
    bool planar_ = false;
};

// What both writers of integer layers with zero points ask of a scheme, and of the order of its columns.
[[nodiscard]] inline status check_integer_layer(std::string_view prefix, std::string_view layout,
                                                const layer_format& format, const layer_source& from,
                                                std::span<const std::uint32_t> columns) {
    const std::string what = "layer " + in_quotes(prefix) + ": " + std::string(layout);
    const bool integers = (format.code == layer_code::unsigned_integer && format.zero) ||
                          (format.code == layer_code::signed_integer && !format.zero);
    const bool widths = format.bits >= 2 && format.bits <= 8;
    const bool granularity_fits =
        format.granularity == layer_granularity::channel || format.granularity == layer_granularity::group;
    const bool scales = format.scale == layer_scale::float16 || format.scale == layer_scale::bfloat16 ||
                        format.scale == layer_scale::float32;
    if (!integers || !widths || !granularity_fits || !scales)
        return {status_code::unsupported,
                what + " cannot hold " + format_text(format) +
                    "; it holds integers of 2 to 8 bits in groups or rows, with fp16, bf16 or fp32 scales"};
    if (from.rows == 0 || from.cols == 0)
        return {status_code::unsupported, what + " cannot hold a matrix without weights"};
    if (!columns.empty() && (columns.size() != from.cols || !is_order(columns)))
        return {status_code::mismatch,
                what + ": the order of columns is no permutation of " + std::to_string(from.cols)};
    return {};
}

// The group of each input, as g_idx has it.
[[nodiscard]] inline std::vector<std::byte> group_index(std::size_t cols, std::size_t group,
                                                        std::span<const std::uint32_t> columns) {
    std::vector<std::byte> index(cols * 4);
    for (std::size_t k = 0; k < cols; ++k)
        store_little(index.data() + 4 * (columns.empty() ? k : columns[k]), static_cast<std::int32_t>(k / group));
    return index;
}

// Codes of a matrix with its columns back in the order of the inputs.
[[nodiscard]] inline std::vector<std::byte> codes_in_input_order(const layer_source& from, int bits,
                                                                 std::span<const std::uint32_t> columns) {
    std::vector<std::byte> codes(from.codes, from.codes + from.rows * from.row_bytes);
    if (!columns.empty()) gather_codes(bits, codes.data(), from.rows, from.row_bytes, inverse_order(columns));
    return codes;
}

// Codes fill whole words of 32 bits along inputs, and zero points along outputs; planes whole runs of 32 codes.
[[nodiscard]] inline status check_whole_words(const layer_source& from, std::size_t bits, bool planar, bool has_qzeros,
                                              const std::string& what) {
    const std::size_t codes = planar ? 32 : 1;
    if (from.cols * bits % 32 != 0 || from.cols % codes != 0 ||
        (has_qzeros && (from.rows * bits % 32 != 0 || from.rows % codes != 0)))
        return {status_code::unsupported, what + " packs whole words of 32 bits along inputs and outputs, which " +
                                              shape_text(from.rows, from.cols) + " codes of " + std::to_string(bits) +
                                              " bits do not fill"};
    return {};
}

// qzeros: the zero points less `minus`, those of 2^(b - 1) if there are none, a row of words for each group.
[[nodiscard]] inline std::vector<std::byte> gptq_zero_points(const layer_format& format, const layer_source& from,
                                                             std::size_t groups, unsigned minus, bool planar) {
    std::vector<std::byte> plain(groups * from.rows);
    if (format.zero)
        transpose<1>(from.zeros, from.rows, groups, groups, plain.data(), from.rows);
    else
        for (std::byte& zero : plain) zero = static_cast<std::byte>(1u << (format.bits - 1));
    const std::size_t stream = from.rows * static_cast<std::size_t>(format.bits) / 8;
    std::vector<std::byte> qzeros(groups * stream);
    with_bits(format.bits, [&]<int Bits>() {
        constexpr unsigned mask = (1u << Bits) - 1u;
        for (std::byte& zero : plain) zero = static_cast<std::byte>((static_cast<unsigned>(zero) - minus) & mask);
        for (std::size_t g = 0; g < groups; ++g) {
            std::uint8_t* to = as_codes(qzeros.data()) + g * stream;
            squeeze_codes<Bits>(as_codes(plain.data()) + g * from.rows, from.rows, to);
            if (planar) planes_from_stream<Bits>(to, from.rows / 32, to);
        }
    });
    return qzeros;
}

[[nodiscard]] inline status write_gptq(const layer_format& format, const layer_source& from,
                                       std::span<const std::uint32_t> columns, std::string_view prefix,
                                       const gptq_options& options, safetensors_writer& out) {
    status s = check_integer_layer(prefix, "gptq", format, from, columns);
    if (!s.ok()) return s;
    const std::string what = "layer " + in_quotes(prefix) + ": gptq";
    const auto bits = static_cast<std::size_t>(format.bits);
    const bool planar = bits == 5 || bits == 6 || bits == 7 ||
                        (bits == 3 && options.checkpoint_format == gptq_checkpoint_format::gptq_p);
    const bool has_qzeros = format.zero || options.write_qzeros;
    s = check_whole_words(from, bits, planar, has_qzeros, what);
    if (!s.ok()) return s;
    const std::size_t group = format.granularity == layer_granularity::channel ? from.cols : format.size;
    const std::size_t groups = ceil_div(from.cols, group);
    const unsigned minus = options.checkpoint_format == gptq_checkpoint_format::gptq && !planar ? 1 : 0;
    for (std::size_t i = 0; minus != 0 && format.zero && i < from.scale_count; ++i)
        if (from.zeros[i] == std::byte{0})
            return {status_code::unsupported, what + " cannot store the zero point 0 of output " +
                                                  std::to_string(i / groups) + ", group " + std::to_string(i % groups) +
                                                  ": readers of this format disagree about it; write gptq_v2"};

    const std::size_t words = from.row_bytes / 4;
    std::vector<std::byte> codes = codes_in_input_order(from, format.bits, columns);
    if (!format.zero) flip_signs(format.bits, codes.data(), from.rows, from.cols, from.row_bytes);
    if (planar)
        with_bits(format.bits, [&]<int Bits>() {
            planes_from_stream<Bits>(as_codes(codes.data()), from.rows * (from.cols / 32), as_codes(codes.data()));
        });
    std::vector<std::byte> qweight(words * from.rows * 4);
    transpose<4>(codes.data(), from.rows, words, from.row_bytes, qweight.data(), from.rows * 4);
    std::vector<std::byte> scales(groups * from.rows * from.scale_bytes);
    transpose(from.scale_bytes, from.scales, from.rows, groups, groups * from.scale_bytes, scales.data(),
              from.rows * from.scale_bytes);

    const std::string name(prefix);
    const std::size_t weight_shape[] = {words, from.rows};
    const std::size_t zero_shape[] = {groups, from.rows * bits / 32};
    const std::size_t scale_shape[] = {groups, from.rows};
    const std::size_t index_shape[] = {from.cols};
    s = out.add(name + ".qweight", "I32", weight_shape, std::move(qweight));
    if (s.ok() && has_qzeros)
        s = out.add(name + ".qzeros", "I32", zero_shape, gptq_zero_points(format, from, groups, minus, planar));
    if (s.ok()) s = out.add(name + ".scales", type_of_scale(format.scale), scale_shape, std::move(scales));
    if (s.ok()) s = out.add(name + ".g_idx", "I32", index_shape, group_index(from.cols, group, columns));
    return s;
}

} // namespace detail

// The GPTQ layer `prefix` of a file, codes, zero points and scales as stored; with act-order its columns sorted by
// group, so that groups are contiguous, and the order in out.columns. Without qzeros codes are read as signed ones, if
// List has those, else with zero points of 2^(b - 1): the weights are the same bit for bit. `out` stays as it was
// unless the result is ok:
//   not_found    a tensor is missing
//   mismatch     types, shapes or options contradict one another; or several widths or sizes of groups fit the
//                shapes, and neither the file nor the options tell which
//   malformed    g_idx is no regular grouping
//   unsupported  other widths, or List has no scheme of that width, group size and type of scales
// Reads every byte once; allocates the weights, one byte per zero point, and for act-order the order.
template <class List>
[[nodiscard]] status read_gptq(const tensor_source& file, std::string_view prefix, quantized_layer<List>& out,
                               const gptq_options& options = {}) {
    detail::layer_tensors layer(file, prefix);
    detail::gptq_tensors tensors;
    if (!tensors.find(layer, options)) return layer.error();
    quantized_layer<List> result;
    result.layout = layer_layout::gptq;
    bool made = detail::make_layer(tensors.format, tensors.rows, tensors.cols, result.weights,
                                   [&](const detail::layer_destination& to) { tensors.store(to); });
    if (!made && !tensors.has_zeros())
        made = detail::make_layer(tensors.unsigned_format(), tensors.rows, tensors.cols, result.weights,
                                  [&](const detail::layer_destination& to) { tensors.store_unsigned(to); });
    if (!made) {
        layer.fail(status_code::unsupported, "gptq", detail::no_format_text(tensors.format));
        return layer.error();
    }
    result.columns = std::move(tensors.columns);
    out = std::move(result);
    return {};
}

// Adds the tensors of a GPTQ layer to a file, g_idx included; signed codes as unsigned ones with zero points of
// 2^(b - 1). unsupported: a scheme of other codes, sizes that do not fill words of 32 bits (planes of 32 codes), a zero
// point of 0 in checkpoint_format gptq (the -1 would underflow there). `columns` as in quantized_layer. Of the options
// only checkpoint_format and write_qzeros are looked at.
template <any_scheme S>
[[nodiscard]] status write_gptq(const quantized<S>& weights, std::span<const std::uint32_t> columns,
                                std::string_view prefix, safetensors_writer& out, const gptq_options& options = {}) {
    return detail::write_gptq(detail::format_of<S>, detail::sections_of<const std::byte>(weights), columns, prefix,
                              options, out);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
