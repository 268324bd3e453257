// kernel/activations.hpp: activations in the order a tile reads them: int8 or int16 quads, or fp32 columns, token by
// token.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/stored_lanes.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/tensor/layout.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How fp32, fp16 or bf16 activations become integers for an integer kernel: value = scale x (integer - offset).
struct activation_quantization {
    // The largest magnitude of the integers: 127, or less, down to 1; 7: 4-bit activations. 64 or less, 7 bits, is
    // faster for 8-bit weights where the machine has no instruction that sums byte products in int32 (AVX2 without
    // VNNI): two products then fit in int16, so that weights and activations meet as bytes, not as int16, by three
    // instructions for 32 products instead of four. It costs one bit of the activations, and the results are exact sums
    // like all others. More exactly, of an element whose integers lie `range` apart, of 255 with 8 bits: 16384 / range
    // or less (68 for IQ4_NL's values); up to a range of 128 any qmax will do. Where VNNI is, it changes nothing but
    // the rounding of x.
    int qmax = 127;
    // With an offset, for activations of one sign mostly, as unsigned 8-bit codes with a zero point have it:
    // code = integer + 128, zero = offset + 128. Per token:
    //   scale = max(x, 0) / (2 qmax) - min(x, 0) / (2 qmax),  offset = -qmax - round(min(x, 0) / scale)
    //   integer = round(x / scale) + offset
    // (x / scale as x times the rounded reciprocal), clamped to +-qmax: of the codes of 8 bits 0 is never produced.
    bool asymmetric = false;
    // Static scales, from a calibration: one for all, or one per token; each positive, and its reciprocal finite.
    // Values beyond qmax x scale saturate. With asymmetric, `zeros` has the zero points, as many.
    array_view<const float> scales{};
    array_view<const std::uint8_t> zeros{};
};

} // namespace nibble::inline NIBBLE_ABI

namespace nibble::inline NIBBLE_ABI::kernel {

// How a row of activations is cut: parts as the weights have them, each part into phases of equal length over which
// sums are kept.
struct phase_plan {
    std::size_t per_part = 1; // phases of a full part
    std::size_t quads = 1;    // quads per phase; a part's last phase may be shorter
    // At most `longest` quads, which must be no less than a step: phases begin on steps, as tiles that read the packed
    // stream unpack a step at a time.
    [[nodiscard]] static constexpr phase_plan make(const detail::depth_plan& depth, std::size_t longest) noexcept {
        phase_plan p{};
        const std::size_t step_quads = depth.step / panel_layout::quad;
        const std::size_t part_steps = detail::max_of<std::size_t>(1, depth.padded_part / depth.step);
        p.per_part = detail::ceil_div(part_steps, longest / step_quads);
        p.quads = detail::ceil_div(part_steps, p.per_part) * step_quads;
        return p;
    }
    [[nodiscard]] friend constexpr bool operator==(const phase_plan&, const phase_plan&) noexcept = default;
};

// How tokens are cut into blocks, each of which one tile takes at once.
struct token_blocks {
    std::size_t tokens = 0;
    std::size_t count = 1; // no block is empty unless there are no tokens
    std::size_t whole = 0; // the first so many have `longest` tokens; the others share the rest as equally as they can
    std::size_t longest = 1;

    // Tiles exist for `longest` tokens and for 1 ... `shorter`. If they exist for all numbers up to the longest, the
    // last tokens are cut in two: 5 = 3 + 2, not 4 + 1.
    [[nodiscard]] static constexpr token_blocks make(std::size_t tokens, std::size_t longest,
                                                     std::size_t shorter) noexcept {
        token_blocks b{.tokens = tokens, .count = 1, .whole = tokens / longest, .longest = longest};
        if (tokens % longest != 0 && b.whole != 0 && shorter == longest) --b.whole;
        b.count = detail::max_of<std::size_t>(1, b.whole + detail::ceil_div(tokens - b.whole * longest, shorter));
        return b;
    }
    // The first token of a block; of block `count`, the number of tokens.
    [[nodiscard]] constexpr std::size_t first(std::size_t block) const noexcept {
        if (block <= whole) return block * longest;
        const std::size_t rest = tokens - whole * longest;
        const std::size_t blocks = count - whole;
        return whole * longest + (block - whole) * (rest / blocks) + detail::min_of(block - whole, rest % blocks);
    }
    [[nodiscard]] friend constexpr bool operator==(const token_blocks&, const token_blocks&) noexcept = default;
};

// What a family makes of activations. Numbers, or tables of their partial sums, or planes of their bits: what a block
// of `tokens` tokens has of some columns lies together, column after column, value_bytes x tokens for each.
struct activation_order {
    std::size_t value_bytes = 0; // of a padded column of a token
    // From one token's integers, int8 of all `padded` columns, to where the tiles of a block read them. None: tiles
    // read the numbers themselves, fp32, [padded column][token].
    void (*place)(const std::int8_t* row, std::size_t padded, std::size_t token, std::size_t tokens,
                  std::byte* values) noexcept = nullptr;
    [[nodiscard]] constexpr bool quantized() const noexcept { return place != nullptr; }
    [[nodiscard]] friend constexpr bool operator==(const activation_order&, const activation_order&) noexcept = default;
};
inline constexpr activation_order float_columns{.value_bytes = sizeof(float), .place = nullptr};
// [quad][token][4] int8.
inline constexpr activation_order byte_quads{.value_bytes = 1,
                                             .place = [](const std::int8_t* row, std::size_t padded, std::size_t token,
                                                         std::size_t tokens, std::byte* values) noexcept {
                                                 std::byte* to = values + 4 * token;
                                                 for (std::size_t column = 0; column < padded;
                                                      column += 4, to += 4 * tokens)
                                                     __builtin_memcpy(to, row + column, 4);
                                             }};
// [quad][token] four int16 in the order of columns 0 2 1 3.
inline constexpr activation_order word_quads{.value_bytes = 2,
                                             .place = [](const std::int8_t* row, std::size_t padded, std::size_t token,
                                                         std::size_t tokens, std::byte* values) noexcept {
                                                 auto* to = reinterpret_cast<std::int16_t*>(values) + 4 * token;
                                                 for (std::size_t column = 0; column < padded;
                                                      column += 4, to += 4 * tokens) {
                                                     to[0] = row[column];
                                                     to[1] = row[column + 2];
                                                     to[2] = row[column + 1];
                                                     to[3] = row[column + 3];
                                                 }
                                             }};

// All that activations in memory depend on, without the scheme's name: what two schemes must share so that one set of
// activations serves both.
struct activation_layout {
    detail::depth_plan depth{};
    phase_plan phases{};
    token_blocks blocks{};
    activation_order order{};
    bool per_part = false; // a scale per part, not one per token
    int qmax =
        detail::activation_qmax; // the largest magnitude, on which it depends whether weights of 8 bits want int16

    [[nodiscard]] friend constexpr bool operator==(const activation_layout&,
                                                   const activation_layout&) noexcept = default;

    // Integers: int8 values of a row with its padding, which a worker needs on the way.
    [[nodiscard]] std::size_t row_bytes() const noexcept { return order.quantized() ? depth.padded : 0; }
};

// Activations of all tokens, block after block, as one tile reads a block.
//   values      in the layout's order, zeros where columns are padded
//   pair_sums   [part x per_part + phase][token]: sums over columns 0, 1 and over columns 2, 3 of every quad, two int16
//   part_sums   [part][token]: the sum of the part's values (times its scale if scales are per part), as fp32
//   scales      [token], or [part][token]
//   corrections [token], of tokens with offsets: -offset x scale, by which the sums of the weights are to be added
struct activation_memory {
    std::byte* values = nullptr;
    std::int32_t* pair_sums = nullptr;
    float* part_sums = nullptr;
    float* scales = nullptr;
    float* corrections = nullptr;

    // For so many tokens, of integers `with_corrections` or without.
    [[nodiscard]] static activation_memory take(const activation_layout& layout, std::size_t tokens,
                                                bool with_corrections, arena& memory) noexcept {
        activation_memory m{};
        m.values = memory.take<std::byte>(tokens * layout.depth.padded * layout.order.value_bytes);
        if (layout.order.quantized()) {
            m.pair_sums = memory.take<std::int32_t>(tokens * layout.depth.count * layout.phases.per_part);
            m.scales = memory.take<float>(tokens * (layout.per_part ? layout.depth.count : 1));
        }
        m.part_sums = memory.take<float>(tokens * layout.depth.count);
        if (with_corrections && layout.order.quantized()) m.corrections = memory.take<float>(tokens);
        return m;
    }
    [[nodiscard]] float* floats() const noexcept { return reinterpret_cast<float*>(values); }
    [[nodiscard]] activation_memory block(const activation_layout& layout, std::size_t first) const noexcept {
        activation_memory m = *this;
        m.values += first * layout.depth.padded * layout.order.value_bytes;
        if (layout.order.quantized()) {
            m.pair_sums += first * layout.depth.count * layout.phases.per_part;
            m.scales += first * (layout.per_part ? layout.depth.count : 1);
            if (m.corrections != nullptr) m.corrections += first;
        }
        m.part_sums += first * layout.depth.count;
        return m;
    }
};

// A row of x as fp32: in place, or converted a piece at a time, so that 16-bit activations need no pass of their own.
template <class Isa, stored_float T> class row_reader {
public:
    static constexpr std::size_t longest = 512;
    explicit row_reader(const T* row) noexcept : row_(row) {}
    // Columns [first, first + count), count at most `longest`; valid until the next call.
    [[nodiscard]] const float* piece(std::size_t first, std::size_t count) noexcept {
        for (std::size_t i = 0; i < count; i += lanes<Isa>::width) {
            const std::size_t n = detail::min_of(lanes<Isa>::width, count - i);
            load_lanes<Isa>(row_ + first + i, n).store(piece_ + i, lanes<Isa>::width);
        }
        return piece_;
    }

private:
    const T* row_;
    float piece_[longest];
};
template <class Isa> class row_reader<Isa, float> {
public:
    static constexpr std::size_t longest = static_cast<std::size_t>(-1);
    explicit row_reader(const float* row) noexcept : row_(row) {}
    [[nodiscard]] const float* piece(std::size_t first, std::size_t) noexcept { return row_ + first; }

private:
    const float* row_;
};
// fp32 is read in the same way on every ISA: one copy of the loops below is enough.
template <class Isa, stored_float T>
using reader_of = row_reader<std::conditional_t<std::same_as<T, float>, void, Isa>, T>;

// Calls visit(pointer, first, count) for the pieces of columns [first, first + count) in order.
template <class Reader, class Visit>
NIBBLE_INLINE void for_each_piece(Reader& x, std::size_t first, std::size_t count, Visit&& visit) noexcept {
    if constexpr (Reader::longest > (SIZE_MAX >> 1)) {
        visit(x.piece(first, count), std::size_t{0}, count);
    } else {
        for (std::size_t at = 0; at < count; at += Reader::longest) {
            const std::size_t n = detail::min_of(Reader::longest, count - at);
            visit(x.piece(first + at, n), at, n);
        }
    }
}

template <bool WithRange, class Reader>
[[nodiscard]] inline group_statistics measure_columns(Reader& x, std::size_t first, std::size_t count) noexcept {
    group_statistics all{};
    for_each_piece(x, first, count, [&](const float* from, std::size_t, std::size_t n) {
        join(all, measure<WithRange>(from, n, false));
    });
    return all;
}

// What turns a row, or a part of one, into integers: round(x x inverse) + offset, clamped to +-qmax.
struct row_scale {
    float inverse = 0.0f; // 0: all integers are 0
    float scale = 0.0f;
    float offset = 0.0f; // an integer
    float qmax = static_cast<float>(detail::activation_qmax);
};

// scale = max|x| / qmax, inverse = qmax / max|x|; see activation_quantization for the others. A token (or part) with a
// NaN or an infinity gets the scale NaN, so that all its results are NaN; one of magnitudes so small that the inverse
// is not finite (below 3.8e-37 with a qmax of 127) becomes zero.
[[nodiscard]] inline row_scale row_scale_of(const activation_quantization& grid, const group_statistics& g,
                                            std::size_t token) noexcept {
    row_scale r{};
    r.qmax = static_cast<float>(grid.qmax);
    if (g.nonfinite) {
        r.scale = detail::quiet_nan;
        return r;
    }
    float scale = 0.0f;
    float inverse = 0.0f;
    if (!grid.scales.empty()) {
        scale = grid.scales[grid.scales.size() == 1 ? 0 : token];
        inverse = 1.0f / scale;
        if (grid.asymmetric) r.offset = static_cast<float>(grid.zeros[grid.zeros.size() == 1 ? 0 : token]) - 128.0f;
    } else if (grid.asymmetric) {
        const float steps = 2.0f * r.qmax;
        const float high = g.high > 0.0f ? g.high : 0.0f;
        const float low = g.low < 0.0f ? g.low : 0.0f;
        scale = high / steps - low / steps;
        inverse = 1.0f / scale;
    } else {
        scale = g.largest / r.qmax;
        inverse = r.qmax / g.largest;
    }
    if (!detail::is_finite(inverse)) return r;
    if (grid.asymmetric && grid.scales.empty()) {
        const float low = g.low < 0.0f ? g.low : 0.0f;
        const float offset = -r.qmax - detail::round_even(low * inverse);
        r.offset = offset < r.qmax ? offset : r.qmax;
    }
    r.scale = scale;
    r.inverse = inverse;
    return r;
}
inline void quantize_values(const float* x, std::size_t count, const row_scale& grid, std::int8_t* out) noexcept {
    if (grid.inverse == 0.0f) {
        for (std::size_t i = 0; i < count; ++i) out[i] = 0;
        return;
    }
    const float low = -grid.qmax - grid.offset;
    const float high = grid.qmax - grid.offset;
    for (std::size_t i = 0; i < count; ++i) {
        float v = detail::round_even(x[i] * grid.inverse);
        v = v > low ? v : low;
        v = v < high ? v : high;
        out[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(v + grid.offset));
    }
}

// Token t of a block of `tokens`: what `row` holds, int8 in padded order, to where tiles read it; `scale_of(part)` is
// the scale of a part, or of the token. The sums of parts are those of integer - offset.
template <class ScaleOf>
inline void place_token(const activation_layout& layout, const std::int8_t* row, std::size_t t, std::size_t tokens,
                        const activation_memory& out, std::int32_t offset, const ScaleOf& scale_of) noexcept {
    const detail::depth_plan& depth = layout.depth;
    const phase_plan& phases = layout.phases;
    for (std::size_t part = 0; part < depth.count; ++part) {
        const std::int8_t* values = row + depth.begin(part);
        const std::size_t quads = detail::round_up(depth.columns(part), depth.step) / panel_layout::quad;
        std::int32_t total = 0;
        for (std::size_t phase = 0, q = 0; q < quads; ++phase, q += phases.quads) {
            std::int32_t low = 0;
            std::int32_t high = 0;
            const std::int8_t* v = values + q * panel_layout::quad;
            const std::size_t m = detail::min_of(phases.quads, quads - q);
            for (std::size_t i = 0; i < m; ++i) {
                low += v[4 * i] + v[4 * i + 1];
                high += v[4 * i + 2] + v[4 * i + 3];
            }
            total += low + high;
            out.pair_sums[(part * phases.per_part + phase) * tokens + t] = static_cast<std::int32_t>(
                static_cast<std::uint16_t>(low) | (static_cast<std::uint32_t>(static_cast<std::uint16_t>(high)) << 16));
        }
        const float sum = static_cast<float>(total - offset * static_cast<std::int32_t>(depth.columns(part)));
        out.part_sums[part * tokens + t] = layout.per_part ? sum * scale_of(part) : sum;
        if (layout.per_part) out.scales[part * tokens + t] = scale_of(part);
    }
    if (!layout.per_part) out.scales[t] = scale_of(0);
    layout.order.place(row, depth.padded, t, tokens, out.values);
}

// fp32 values of a token, one part after the other, and the sum of each part's columns in order.
template <class Reader>
inline void copy_token(const activation_layout& layout, Reader& x, std::size_t t, std::size_t tokens,
                       const activation_memory& out) noexcept {
    const detail::depth_plan& depth = layout.depth;
    for (std::size_t part = 0; part < depth.count; ++part) {
        const std::size_t n = depth.columns(part);
        float* to = out.floats() + depth.begin(part) * tokens + t;
        float sum = 0.0f;
        for_each_piece(x, depth.column(part), n, [&](const float* columns, std::size_t at, std::size_t count) {
            for (std::size_t i = 0; i < count; ++i) {
                to[(at + i) * tokens] = columns[i];
                sum += columns[i];
            }
        });
        for (std::size_t i = n; i < detail::round_up(n, depth.step); ++i) to[i * tokens] = 0.0f;
        out.part_sums[part * tokens + t] = sum;
    }
}

// The magnitudes of a row's parts, one after the other. Whole ones are measured many at a time: alone, a short part
// costs more than its values.
class part_magnitudes {
public:
    template <class Reader>
    [[nodiscard]] group_statistics of(Reader& x, const detail::depth_plan& depth, std::size_t part) noexcept {
        if (part >= end_) {
            const std::size_t whole = depth.parts_per_group == 1 ? depth.cols / depth.group_size : 0;
            const std::size_t longest = detail::min_of(Reader::longest, quantize_block);
            const std::size_t count = part < whole ? detail::min_of(longest / depth.group_size, whole - part) : 0;
            begin_ = part;
            end_ = part + detail::max_of<std::size_t>(count, 1);
            together_ = count != 0 && measure_whole_groups<false>(x.piece(depth.column(part), count * depth.group_size),
                                                                  depth.group_size, count,
                                                                  {largest_, nullptr, nullptr, nullptr, nonfinite_});
        }
        if (!together_) return measure_columns<false>(x, depth.column(part), depth.columns(part));
        group_statistics g{};
        g.largest = largest_[part - begin_];
        return g;
    }

private:
    float largest_[quantize_block / 16];
    unsigned char nonfinite_[quantize_block / 16];
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    bool together_ = false;
};

// The tokens of one product: rows of x, all in order or those of a list.
template <stored_float T> struct token_rows {
    using value_type = T;
    matrix_view<const T> x;
    array_view<const std::uint32_t> list{};
    [[nodiscard]] std::size_t count() const noexcept { return list.empty() ? x.rows() : list.size(); }
    [[nodiscard]] const T* row(std::size_t token) const noexcept { return x.row(list.empty() ? token : list[token]); }
};

// Tokens of one block, quantized or copied; `row` is scratch for layout.row_bytes() bytes. x has the value_type and
// row() of token_rows; a row is asked for once, and read before the next is.
template <class Isa, class Rows>
NIBBLE_NOINLINE void prepare_block(const activation_layout& layout, const Rows& x, const activation_quantization& how,
                                   std::size_t block, const activation_memory& memory, std::int8_t* row) noexcept {
    const detail::depth_plan& depth = layout.depth;
    const std::size_t first = layout.blocks.first(block);
    const std::size_t tokens = layout.blocks.first(block + 1) - first;
    const activation_memory out = memory.block(layout, first);
    for (std::size_t t = 0; t < tokens; ++t) {
        reader_of<Isa, typename Rows::value_type> from(x.row(first + t));
        if (!layout.order.quantized()) {
            copy_token(layout, from, t, tokens, out);
            continue;
        }
        row_scale whole{};
        if (!layout.per_part)
            whole = how.asymmetric ? row_scale_of(how, measure_columns<true>(from, 0, depth.cols), first + t)
                                   : row_scale_of(how, measure_columns<false>(from, 0, depth.cols), first + t);
        part_magnitudes magnitudes;
        for (std::size_t part = 0; part < depth.count; ++part) {
            const std::size_t n = depth.columns(part);
            std::int8_t* to = row + depth.begin(part);
            row_scale grid = whole;
            if (layout.per_part) {
                grid = row_scale_of(how, magnitudes.of(from, depth, part), first + t);
                out.scales[part * tokens + t] = grid.scale;
            }
            for_each_piece(from, depth.column(part), n, [&](const float* columns, std::size_t at, std::size_t count) {
                quantize_values(columns, count, grid, to + at);
            });
            for (std::size_t i = n; i < detail::round_up(n, depth.step); ++i) to[i] = 0;
        }
        if (out.corrections != nullptr) out.corrections[t] = (0.0f - whole.offset) * whole.scale;
        place_token(layout, row, t, tokens, out, static_cast<std::int32_t>(whole.offset),
                    [&](std::size_t part) { return layout.per_part ? out.scales[part * tokens + t] : whole.scale; });
    }
}

// One token whose every value is the integer 1, under a scale of 1, and whose sums over parts are 0: its products are
// the sums of the weights' integers, scaled, without minimums.
inline void prepare_ones(const activation_layout& layout, const activation_memory& out, std::int8_t* row) noexcept {
    const detail::depth_plan& depth = layout.depth;
    for (std::size_t part = 0; part < depth.count; ++part) {
        const std::size_t n = depth.columns(part);
        for (std::size_t i = 0; i < detail::round_up(n, depth.step); ++i) {
            if (!layout.order.quantized())
                out.floats()[depth.begin(part) + i] = i < n ? 1.0f : 0.0f;
            else
                row[depth.begin(part) + i] = i < n ? 1 : 0;
        }
    }
    if (layout.order.quantized()) place_token(layout, row, 0, 1, out, 0, [](std::size_t) { return 1.0f; });
    for (std::size_t part = 0; part < depth.count; ++part) out.part_sums[part] = 0.0f;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
