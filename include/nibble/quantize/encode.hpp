// quantize/encode.hpp: the second half of quantize: codes under scales that are given. The first is choose_scales.hpp.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/quantize/any_row.hpp>
#include <nibble/quantize/options.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>
#include <nibble/tensor/scale_groups.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// What encodes rows of a matrix into `out`.
template <any_scheme S> class row_encoder {
public:
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    using code = typename traits::code;

    row_encoder(quantized<S>& out, const quantize_options& options)
        : out_(out), options_(options), group_size_(traits::group_size(out.cols())),
          rounded_{encode_units_of(options.rounding), options.seed, options.round_up} {}

    // The codes of row `row` of the matrix, whose values are from[0, out.cols()); choose(first column, columns,
    // scale[], zero[]) is asked once for the groups that begin in each block, in order: the scales of many before the
    // values of any.
    template <class ChooseGroups>
    void encode_row(std::size_t row, const float* from, const ChooseGroups& choose) const {
        constexpr std::size_t block = kernel::quantize_block;
        dynamic_array<float> clean;
        const float* x = cleaned(from, out_.cols(), clean);
        float scale[block + 1];
        float zero[block + 1];
        float units[block];
        code codes[block];
        std::size_t open = 0; // columns that are still to come of the last group, whose scale is the first in scale[]
        for (std::size_t start = 0; start < out_.cols(); start += block) {
            const std::size_t n = min_of(block, out_.cols() - start);
            const std::size_t first = min_of(open, n);
            const std::size_t carried = open != 0 ? 1 : 0;
            if constexpr (S::scaled)
                if (first < n) choose(start + first, n - first, scale + carried, zero + carried);
            kernel::encode_groups<S>(x + start, n, carried != 0 ? first : group_size_, group_size_, scale, zero,
                                     rounded_, std::uint64_t{row} * out_.cols() + start, units, codes);
            if constexpr (S::scaled) {
                if (first < n) {
                    const std::size_t last = carried + (n - first - 1) / group_size_;
                    scale[0] = scale[last];
                    if constexpr (traits::has_zero) zero[0] = zero[last];
                    open = nibble::detail::round_up(n - first, group_size_) - (n - first);
                } else {
                    open -= n;
                }
            }
            detail::store_codes<element>(codes, n, out_.row_codes(row), start);
        }
    }

    // The codes of columns [begin, end) of a row, whose values are from[0, end - begin), under the scales that are
    // stored; the codes beside them stay.
    void encode_columns(std::size_t row, const float* from, std::size_t begin, std::size_t end) const {
        constexpr std::size_t block = kernel::quantize_block;
        dynamic_array<float> clean;
        const float* x = cleaned(from, end - begin, clean);
        const scale_reader<S> stored = static_cast<const quantized<S>&>(out_).read_scales();
        float scale[block + 1];
        float zero[block + 1];
        float units[block];
        code codes[block + 16];
        std::size_t n = 0;
        for (std::size_t start = begin; start < end; start += n, x += n) {
            // Codes are stored by eights: what stands around is read, and written again.
            const std::size_t from_column = start / 8 * 8;
            n = min_of(block - (start - from_column), end - start);
            const std::size_t to_column = min_of(nibble::detail::round_up(start + n, 8), out_.cols());
            if (start != from_column || start + n != to_column)
                detail::load_codes<element>(out_.row_codes(row), from_column, to_column - from_column, codes);
            const std::size_t first = group_size_ - start % group_size_;
            if constexpr (S::scaled) {
                std::size_t i = 0;
                for (std::size_t at = start; at < start + n; at = start + first + i++ * group_size_) {
                    scale[i] = stored.scale(row, at);
                    zero[i] = stored.zero(row, at);
                }
            }
            kernel::encode_groups<S>(x, n, first, group_size_, scale, zero, rounded_,
                                     std::uint64_t{row} * out_.cols() + start, units, codes + (start - from_column));
            detail::store_codes<element>(codes, to_column - from_column, out_.row_codes(row), from_column);
        }
    }

private:
    using encode_function = decltype(kernel::unit_encoder<element>::encode);
    template <rounding Rounding>
    static constexpr encode_function encode_units = &kernel::encode_units<element, Rounding, kernel::overflow_of<S>>;
    [[nodiscard]] static encode_function encode_units_of(rounding mode) {
        switch (mode) {
        case rounding::nearest_even:
            return encode_units<rounding::nearest_even>;
        case rounding::toward_zero:
            return encode_units<rounding::toward_zero>;
        case rounding::half_away:
            return encode_units<rounding::half_away>;
        case rounding::stochastic:
            return encode_units<rounding::stochastic>;
        case rounding::half_up:
            return encode_units<rounding::half_up>;
        case rounding::half_toward_zero:
            return encode_units<rounding::half_toward_zero>;
        case rounding::floor:
            return encode_units<rounding::floor>;
        case rounding::ceiling:
            return encode_units<rounding::ceiling>;
        case rounding::learned:
            return encode_units<rounding::learned>;
        }
        NIBBLE_CHECK(false, "quantize: no rounding of that number");
        return nullptr;
    }

    // from[0, count) as the options have it; a copy, in `copy`, where that is not as it stands.
    [[nodiscard]] const float* cleaned(const float* from, std::size_t count, dynamic_array<float>& copy) const {
        if (!options_.flush_subnormals && options_.nonfinite != nonfinite_policy::zero) return from;
        copy.assign(from, from + count);
        constexpr float top = S::scaled ? 3.4028234e38f : largest<element>;
        for (float& v : copy) {
            if (options_.flush_subnormals) v = flush_subnormal_input(v);
            if (options_.nonfinite == nonfinite_policy::zero && !is_finite(v))
                v = is_nan(v) ? 0.0f : v < 0.0f ? -top : top;
        }
        return copy.data();
    }

    quantized<S>& out_;
    quantize_options options_;
    std::size_t group_size_;
    kernel::unit_encoder<element> rounded_;
};

// Has each learned rounding what it reads?
inline void check_round_up(const quantize_options& options) {
    NIBBLE_CHECK(options.rounding != rounding::learned || options.round_up != nullptr,
                 "quantize: learned rounding needs quantize_options::round_up, one byte per weight");
}

} // namespace detail

// The codes of w, a block of columns and rows, into those of `to` from (first_row, first_col) on, under the scales that
// `to` holds; its other codes and all of its scales stay. So a quantizer that feeds errors back writes one column, or
// one group of columns, after the other:
//     quantized<S> q(choose_scales<S>(w));                       // scales, and no codes yet
//     for (std::size_t j = 0; j < w.cols(); ++j) {
//         encode_block(column(w, j), 0, j, q);                   // a view of N x 1 with the stride of w
//         // w(i, j) - q.value_at(i, j) is the error of row i: add its share to w(i, j + 1), w(i, j + 2), ...
//     }
// codes are encode(x / scale), encode(x / scale + zero) or encode((x - minimum) / scale) with the numbers that their
// group stores, whoever chose these; beyond the last code they saturate. Under a scale of 0 or NaN they are the codes
// of 0. Cut into blocks or not, a matrix gets the same bits: stochastic and learned rounding count weights in the whole
// matrix (options.round_up has a byte for every weight of `to`). NaN and infinities are treated as quantize says, but
// that no scale says NaN which does not already; if there are any, to.nonfinite() becomes true, and never false. The
// block must lie inside of `to` (NIBBLE_CHECK). Blocks of 128 columns take little more time than the whole matrix,
// single columns about 0.1 us for each weight. It allocates a byte per 32768 weights, and a row of the block where the
// options change its values.
template <any_scheme S, executor Executor = serial>
void encode_block(matrix_view<const float> w, std::size_t first_row, std::size_t first_col, quantized<S>& to,
                  const quantize_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(first_row <= to.rows() && w.rows() <= to.rows() - first_row && first_col <= to.cols() &&
                     w.cols() <= to.cols() - first_col,
                 "encode_block: the block does not lie inside of the matrix that it is encoded into; first_row + "
                 "w.rows() and first_col + w.cols() must be at most its rows and columns");
    if (w.empty()) return;
    detail::check_round_up(options);
    const auto nonfinite = [&](std::size_t row) {
        return kernel::measure<false>(w.row(row), w.cols(), false).nonfinite;
    };
    // Before a code is written.
    if (options.nonfinite == nonfinite_policy::refuse)
        NIBBLE_CHECK(!detail::any_row(w.rows(), w.cols(), threads, nonfinite),
                     "encode_block: the weights hold a NaN or an infinity, and the options refuse them");
    const detail::row_encoder<S> encoder(to, options);
    const bool seen = detail::any_row(w.rows(), w.cols(), threads, [&](std::size_t row) {
        encoder.encode_columns(first_row + row, w.row(row), first_col, first_col + w.cols());
        return nonfinite(row);
    });
    if (seen) to.set_nonfinite(true);
}

// w (N x K) under given scales of a matrix of that shape (another is an error, NIBBLE_CHECK): encode_block of all of
// it. quantize(w, options) is encode(w, choose_scales<S>(w, options), options), bit for bit. Round to nearest under
// scales of one's own, such as clipped ones:
//     scale_groups<int4_g128> scales = choose_scales<int4_g128>(w);
//     for (std::size_t i = 0; i < scales.scale_count(); ++i)
//         scales.scales()[i] = encode<f16>(0.9f * f16::decode(scales.scales()[i]));
//     const quantized<int4_g128> q = encode(w, scales);
// Allocates the result besides.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] quantized<S> encode(matrix_view<const float> w, const scale_groups<S>& scales,
                                  const quantize_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(w.rows() == scales.rows() && w.cols() == scales.cols(),
                 "encode: the scales are of a matrix of another shape than the weights; choose them for a matrix of "
                 "the same rows and columns, or encode a part of one by encode_block");
    quantized<S> out(scales);
    encode_block(w, 0, 0, out, options, threads);
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
