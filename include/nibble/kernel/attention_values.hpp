// kernel/attention_values.hpp: the values of a block of tokens summed, each times its probability: channels are the
// rows of panels, the probabilities of the tokens the activations, with the tokens' scales in them.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/attention_side.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Tokens [first, first + count) of a block, whole steps of them, as they lie in one page.
struct value_piece {
    const std::byte* codes = nullptr;  // of the first channels' panel, at the first token
    const std::byte* scales = nullptr; // of the first group of channels, at the first token
    const std::byte* zeros = nullptr;
    std::size_t first = 0; // multiples of 16
    std::size_t count = 0;
    std::ptrdiff_t paired_prefetch_offset = 0; // as of keys
};
inline constexpr std::size_t most_pieces = attention_panels + 2;

// Values is detail::value_layout, or prefix_layout, whose codes are transposed as they are unpacked.
template <isa Isa, class Values, bool Integers> class value_product {
    static constexpr bool transposed = Values::transposed;
    using side = attention_side<Isa, typename Values::scheme_type, Integers>;

public:
    value_product(const detail::plain_value_layout& values, std::size_t rows, float fixed, arena& memory) noexcept
        : values_(values), rows_(rows), fixed_(fixed), layout_(side::layout(depth(), phases(values.tokens), rows)),
          together_(layout_.blocks.count == 1 ? detail::min_of(rows_together, values.groups) : 1),
          memory_(activation_memory::take(layout_, rows * together_, false, memory)) {
        scales_ = memory.take<float>(together_ * attention_block);
        minimums_ = side::has_minimum ? memory.take<float>(together_ * attention_block) : nullptr;
        row_ = memory.take<std::int8_t>(rows_together * attention_block);
        offsets_ = memory.take<float>(rows * together_);
        totals_ = memory.take<std::byte>(values.panels() * rows * panel_layout::rows * 4);
        lanes_ = memory.take<std::byte>(side::few_panels * attention_block / side::unit_columns * side::lane_bytes);
    }

    // As of keys.
    [[nodiscard]] bool prefetches() const noexcept { return !transposed && !side::unpacks(layout_.blocks); }

    // out[panel][row][16 channels] += the sum of probability x value over the tokens [begin, end) of a block, all of
    // which the pieces have; probabilities[16 tokens][row][16], finite ones for the others too.
    NIBBLE_NOINLINE void accumulate(const value_piece* pieces, std::size_t count, std::size_t begin, std::size_t end,
                                    const float* probabilities, float* out, const std::byte* next,
                                    prefetch_cursor& soon) noexcept {
        for (std::size_t group = 0; group < values_.groups; group += together_) {
            const std::size_t groups = detail::min_of(together_, values_.groups - group);
            for (std::size_t g = 0; g < groups; ++g)
                scales_of(pieces, count, group + g, begin, end, g * attention_block);
            scale_probabilities(probabilities, pieces[0].first, pieces[count - 1].first + pieces[count - 1].count,
                                groups, soon);
            // Page by page, all of it as it lies in memory; the sums of all channels wait meanwhile.
            const auto codes_of = [&](std::size_t i, std::size_t g) {
                return pieces[i].codes + g * values_.panels_per_group * values_.panel_bytes;
            };
            for (std::size_t i = 0; i < count; ++i) {
                const bool last = i + 1 == count;
                const std::byte* const after = transposed ? nullptr // keys of this block, in cache
                                               : !last    ? codes_of(i + 1, group)
                                               : group + groups < values_.groups ? codes_of(0, group + groups)
                                                                                 : next;
                products(pieces[i], i != 0, last, group, groups, after, out);
            }
        }
    }

private:
    [[nodiscard]] static detail::depth_plan depth() noexcept {
        return detail::depth_plan::make(attention_block, attention_block,
                                        detail::step_quads<typename side::element> * panel_layout::quad);
    }
    // Phases that every page is a whole number of, or that are a whole number of it: pieces begin on them.
    [[nodiscard]] static phase_plan phases(std::size_t page_tokens) noexcept {
        std::size_t quads = panel_layout::quad;
        const std::size_t page_quads = page_tokens / panel_layout::quad;
        while (2 * quads <= detail::min_of(side::longest_phase, page_quads)) quads *= 2;
        return {.per_part = attention_block / panel_layout::quad / quads, .quads = quads};
    }
    // Scales and minimums of the tokens of the pieces in a group of channels, from `to` on; zeros outside [begin, end).
    void scales_of(const value_piece* pieces, std::size_t count, std::size_t g, std::size_t begin, std::size_t end,
                   std::size_t to) noexcept {
        for (std::size_t i = 0; i < count; ++i) {
            const value_piece& piece = pieces[i];
            const auto* scales = reinterpret_cast<const typename side::scale_code*>(piece.scales);
            const auto* zeros = reinterpret_cast<const typename side::zero_code*>(piece.zeros);
            const std::size_t together = transposed ? panel_layout::rows : piece.count; // scales side by side
            for (std::size_t t = 0; t < piece.count; t += together) {
                const std::size_t slot = values_.slot(g, t);
                const std::size_t at = to + piece.first + t;
                side::decode_scales(scales + slot, zeros + slot, together, fixed_, scales_ + at,
                                    side::has_minimum ? minimums_ + at : nullptr);
            }
            const std::size_t last = piece.first + piece.count;
            clear(to + piece.first, to + detail::min_of(begin, last));
            clear(to + detail::max_of(end, piece.first), to + last);
        }
    }
    void clear(std::size_t from, std::size_t to) noexcept {
        for (; from < to; ++from) {
            scales_[from] = 0.0f;
            if constexpr (side::has_minimum) minimums_[from] = 0.0f;
        }
    }
    // The rows as the tiles read them: probability x scale, and their sums of probability x minimum. What must be known
    // of a row's probabilities before they are integers takes as long for one as for four: four rows at once, or four
    // groups of channels of a single one.
    void scale_probabilities(const float* probabilities, std::size_t first, std::size_t last, std::size_t groups,
                             prefetch_cursor& soon) noexcept {
        if (rows_ == 1 && groups == rows_together)
            return scale_rows<rows_together, true>(probabilities, 0, first, last, 0, 0, 1, soon);
        for (std::size_t g = 0; g < groups; ++g)
            for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
                const std::size_t block_first = layout_.blocks.first(block);
                const std::size_t n = layout_.blocks.first(block + 1) - block_first;
                for_each_rows(n, [&]<std::size_t Rows>(std::size_t t) {
                    scale_rows<Rows, false>(probabilities + (block_first + t) * panel_layout::rows, g, first, last,
                                            g * rows_ + block_first, t, n, soon);
                });
            }
    }
    // Rows t, t + 1, ... of a tile of n with the scales of group g, into the memory of that tile; or, EachGroup, a
    // single row with those of groups g, g + 1, ..., into the memories from there on.
    template <std::size_t Many, bool EachGroup>
    NIBBLE_NOINLINE void scale_rows(const float* of_row, std::size_t g, std::size_t first, std::size_t last,
                                    std::size_t place, std::size_t t, std::size_t n, prefetch_cursor& soon) noexcept {
        using L = token_lanes<Isa>;
        constexpr std::size_t halves = lane_halves<Isa>;
        constexpr std::size_t apart = EachGroup ? 0 : panel_layout::rows;
        constexpr std::size_t scales_apart = EachGroup ? attention_block : 0;
        const float* const scales = scales_ + g * attention_block;
        L top[Many][halves];
        L offset[Many][halves];
        for (std::size_t r = 0; r < Many; ++r)
            for (std::size_t h = 0; h < halves; ++h) top[r][h] = offset[r][h] = L(0.0f);
        for (std::size_t at = first; at < last; at += panel_layout::rows) {
            soon.prefetch<Isa>(Many);
            for (std::size_t h = 0; h < halves; ++h) {
                const std::size_t token = at + h * L::width;
                detail::fixed_vector<float, L::width> scaled[4] = {};
                for (std::size_t r = 0; r < Many; ++r) {
                    const L w = L::load(of_row + at * rows_ + r * apart + h * L::width, L::width);
                    const L scale = L::load(scales + r * scales_apart + token, L::width);
                    if constexpr (side::has_minimum) {
                        const float* const minimums = minimums_ + g * attention_block + r * scales_apart;
                        offset[r][h] = fma(w, L::load(minimums + token, L::width), offset[r][h]);
                    }
                    if constexpr (side::integer)
                        top[r][h] = larger(absolute(w * scale), top[r][h]);
                    else
                        detail::to_vector(w * scale, scaled[r]);
                }
                if constexpr (!side::integer) {
                    float* const to = memory_.floats() + place * layout_.depth.padded + token * n + t;
                    if (EachGroup || (Many == 1 && n == 1))
                        for (std::size_t r = 0; r < Many; ++r)
                            __builtin_memcpy(to + r * layout_.depth.padded, &scaled[r], sizeof scaled[r]);
                    else
                        detail::store_transposed<L::width, Many>(scaled, to, n);
                }
            }
        }
        if constexpr (side::has_minimum) {
            const detail::four_floats sums = sums_of(offset);
            for (std::size_t r = 0; r < Many; ++r) offsets_[place + t + r] = sums[r];
        }
        if constexpr (side::integer)
            round_rows<Many, EachGroup>(of_row, scales, largest_of(top), first, last, place, t, n);
    }
    // Then their integers: scale_rows knows the largest magnitude of each row.
    template <std::size_t Many, bool EachGroup>
    NIBBLE_INLINE void round_rows(const float* of_row, const float* scales, const detail::four_floats& largest,
                                  std::size_t first, std::size_t last, std::size_t place, std::size_t t,
                                  std::size_t n) noexcept {
        using L = token_lanes<Isa>;
        constexpr std::size_t apart = EachGroup ? 0 : panel_layout::rows;
        constexpr std::size_t scales_apart = EachGroup ? attention_block : 0;
        for (std::size_t r = 0; r < Many; ++r) {
            const activation_memory x = memory_.block(layout_, EachGroup ? place + r : place);
            group_statistics statistics{};
            statistics.largest = largest[r];
            const row_scale grid = row_scale_of(activation_quantization{}, statistics, 0);
            x.scales[EachGroup ? 0 : t + r] = grid.scale;
            const L inverse(grid.inverse);
            for (std::size_t at = first; at < last; at += L::width) {
                const std::size_t in_panel = at % panel_layout::rows;
                const L w = L::load(of_row + (at - in_panel) * rows_ + r * apart + in_panel, L::width);
                const L scale = L::load(scales + r * scales_apart + at, L::width);
                detail::panel_isa_of<Isa>::store_rounded(row_ + r * attention_block + at,
                                                         ((w * scale) * inverse).value);
            }
            if constexpr (EachGroup) put_row<1>(row_ + r * attention_block, first, last, 0, 1, x);
        }
        if constexpr (!EachGroup) put_row<Many>(row_, first, last, t, n, memory_.block(layout_, place));
    }
    // row[first, last) of rows t, t + 1, ... of n as the tiles read them.
    template <std::size_t Rows>
    void put_row(const std::int8_t* row, std::size_t first, std::size_t last, std::size_t t, std::size_t n,
                 const activation_memory& x) noexcept {
        constexpr std::size_t quad = panel_layout::quad;
        constexpr std::size_t bytes = quad * (side::wide ? 2 : 1);
        std::byte* to = x.values + (first / quad * n + t) * bytes;
        if (!side::wide && Rows == 1 && n == 1) {
            __builtin_memcpy(to, row + first, last - first);
        } else if constexpr (!side::wide && Rows > 1) {
            for (std::size_t at = first; at < last;
                 at += panel_layout::rows, to += panel_layout::rows / quad * n * bytes) {
                detail::four_floats rows[4] = {}; // of four bytes each
                for (std::size_t r = 0; r < Rows; ++r)
                    __builtin_memcpy(&rows[r], row + r * attention_block + at, sizeof rows[r]);
                detail::four_floats quads[4];
                detail::transpose<4>(rows, quads);
                for (std::size_t q = 0; q < 4; ++q) __builtin_memcpy(to + q * n * bytes, &quads[q], Rows * bytes);
            }
        } else {
            for (std::size_t at = first; at < last; at += quad, to += n * bytes)
                for (std::size_t r = 0; r < Rows; ++r) {
                    const std::int8_t* const from = row + r * attention_block + at;
                    if constexpr (side::wide) {
                        const std::int16_t words[4] = {from[0], from[2], from[1], from[3]};
                        __builtin_memcpy(to + r * bytes, words, sizeof words);
                    } else {
                        __builtin_memcpy(to + r * bytes, from, quad);
                    }
                }
        }
        if constexpr (detail::lane_center<typename side::element> != 0 || Isa::facts.starts_from_sums) {
            const std::size_t phase = layout_.phases.quads * quad;
            for (std::size_t r = 0; r < Rows; ++r)
                for (std::size_t at = first / phase * phase; at < last; at += phase)
                    x.pair_sums[at / phase * n + t + r] =
                        pairs(row + r * attention_block, detail::max_of(at, first), detail::min_of(at + phase, last));
        }
    }
    // The sums over columns 0, 1 and over columns 2, 3 of the quads of row[begin, end), as int16.
    [[nodiscard]] static std::int32_t pairs(const std::int8_t* row, std::size_t begin, std::size_t end) noexcept {
        using words = detail::fixed_vector<std::int16_t, 8>;
        words sums{};
        for (; begin < end; begin += 16) {
            words v;
            __builtin_memcpy(&v, row + begin, 16);
            sums += (v >> 8) + static_cast<words>(v << 8 >> 8);
        }
        return static_cast<std::int32_t>(static_cast<std::uint16_t>(sums[0] + sums[2] + sums[4] + sums[6])) |
               static_cast<std::int32_t>(
                   static_cast<std::uint32_t>(static_cast<std::uint16_t>(sums[1] + sums[3] + sums[5] + sums[7])) << 16);
    }
    // The tiles of a piece for some groups of channels, each as few long streams; `next` is what will be read after
    // them.
    void products(const value_piece& piece, bool resume, bool ends_part, std::size_t group, std::size_t groups,
                  const std::byte* next, float* out) noexcept {
        for (std::size_t g = 0; g < groups; ++g) {
            const std::size_t first_panel = (group + g) * values_.panels_per_group;
            const std::size_t panels =
                detail::min_of(values_.panels(), first_panel + values_.panels_per_group) - first_panel;
            const bool last_group = g + 1 == groups;
            for_each_stream(
                panels, [&](std::size_t left) { return panels_at_once(left); },
                [&](std::size_t p, std::size_t together, std::size_t apart, bool ends) {
                    panel(piece, resume, ends_part, g * rows_, first_panel + p, together, apart,
                          ends && last_group ? next : nullptr, out);
                });
        }
    }
    // Some panels of a piece; `next`, if they are the last: what will be read after them.
    void panel(const value_piece& piece, bool resume, bool ends_part, std::size_t place, std::size_t p,
               std::size_t together, std::size_t apart, const std::byte* next, float* out) noexcept {
        constexpr std::size_t rows16 = panel_layout::rows;
        const bool unpacked = transposed || side::unpacks(layout_.blocks);
        const std::byte* codes = transposed ? piece.codes : piece.codes + p * values_.panel_bytes;
        tile_arguments a = side::arguments_of(layout_);
        a.scales = ones(); // the tokens' scales are in the probabilities
        a.minimums = side::has_minimum ? ones() : nullptr;
        a.scales_stride = rows16;
        a.results_stride = apart * rows_ * rows16;
        a.ahead = unpacked                            ? 0
                  : piece.paired_prefetch_offset != 0 ? piece.paired_prefetch_offset
                  : next != nullptr                   ? prefetch_offset(codes, next)
                                                      : stream_ahead;
        tile_range r{};
        r.parts = 1;
        r.part_units = r.last_units = piece.count / side::unit_columns;
        r.resume = resume;
        r.ends_part = ends_part;
        if constexpr (transposed)
            for (std::size_t j = 0; j < together; ++j)
                transpose_keys(codes, p + j * apart, piece.count, lanes_ + j * r.last_units * side::lane_bytes);
        else if (unpacked)
            for (std::size_t j = 0; j < together; ++j)
                side::unpack(codes + j * apart * values_.panel_bytes, r.last_units,
                             lanes_ + j * r.last_units * side::lane_bytes);
        const std::size_t stride = unpacked ? r.last_units * side::lane_bytes : apart * values_.panel_bytes;
        for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
            const std::size_t first = layout_.blocks.first(block);
            const std::size_t n = layout_.blocks.first(block + 1) - first;
            const activation_memory x = memory_.block(layout_, first + place);
            const std::size_t at = (p * rows_ + first) * rows16;
            side::point(a, unpacked ? lanes_ : codes, stride, layout_, x, piece.first, n);
            if constexpr (side::integer) a.part_scales = x.scales;
            a.totals = totals_ + at * sizeof(float);
            if constexpr (side::has_minimum) a.part_sums = offsets_ + first + place;
            a.results = out + at;
            side::tile(unpacked, together, n, a, r);
        }
    }
    // Lanes of a panel of channels from panels of keys of 16 tokens each.
    NIBBLE_NOINLINE void transpose_keys(const std::byte* codes, std::size_t p, std::size_t tokens,
                                        std::byte* to) const noexcept {
        using element = typename side::element;
        constexpr std::size_t quads = panel_layout::rows / panel_layout::quad; // of a panel's channels
        constexpr std::size_t steps = quads / detail::step_quads<element>;
        const std::size_t first = p * steps;
        const std::size_t there = detail::min_of(steps, values_.panel_bytes / detail::step_bytes<element> - first);
        codes += first * detail::step_bytes<element>;
        for (std::size_t t = 0; t < tokens; t += panel_layout::rows, codes += values_.panel_bytes) {
            const std::size_t units = there * detail::step_quads<element> * panel_layout::quad / side::unit_columns;
            if constexpr (side::integer) {
                alignas(64) std::uint8_t lanes[quads * 64] = {};
                unpack_integer<Isa, element>(reinterpret_cast<const std::uint8_t*>(codes), units, lanes);
                alignas(64) std::uint8_t transposed_lanes[quads * 64];
                transpose_quads(lanes, side::wide ? transposed_lanes : reinterpret_cast<std::uint8_t*>(to));
                if constexpr (side::wide)
                    widen_lanes<Isa>(transposed_lanes, quads, reinterpret_cast<std::int16_t*>(to));
                to += quads * side::lane_bytes;
            } else {
                alignas(64) float lanes[panel_layout::rows * panel_layout::rows] = {};
                const float* from = lanes;
                if constexpr (element::bits == 32) {
                    if (there == steps)
                        from = reinterpret_cast<const float*>(codes);
                    else
                        __builtin_memcpy(lanes, codes, units * panel_layout::rows * sizeof(float));
                } else {
                    side::unpack(codes, units, reinterpret_cast<std::byte*>(lanes));
                }
                auto* out = reinterpret_cast<float*>(to);
                constexpr std::size_t width = token_lanes<Isa>::width;
                for (std::size_t c = 0; c < panel_layout::rows; c += 4)
                    for (std::size_t i = 0; i < panel_layout::rows; i += width) {
                        detail::fixed_vector<float, width> rows[4];
                        for (std::size_t j = 0; j < 4; ++j)
                            __builtin_memcpy(&rows[j], from + (c + j) * panel_layout::rows + i, sizeof rows[j]);
                        detail::store_transposed<width, 4>(rows, out + i * panel_layout::rows + c, panel_layout::rows);
                    }
                to += panel_layout::rows * side::lane_bytes;
            }
        }
    }
    // [quad of channels][16 tokens][4 channels] to [quad of tokens][16 channels][4 tokens].
    static void transpose_quads(const std::uint8_t* from, std::uint8_t* to) noexcept {
        using bytes = detail::fixed_vector<std::uint8_t, 16>;
        for (std::size_t c = 0; c < 4; ++c)
            for (std::size_t t = 0; t < 4; ++t) {
                bytes v;
                __builtin_memcpy(&v, from + 64 * c + 16 * t, 16);
                v = __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                __builtin_memcpy(to + 64 * t + 16 * c, &v, 16);
            }
    }
    [[nodiscard]] std::size_t panels_at_once(std::size_t left) const noexcept {
        if constexpr (transposed) return rows_ != 1 && left >= side::few_panels ? side::few_panels : 1;
        return side::panels_at_once(layout_.blocks, left);
    }
    [[nodiscard]] static const float* ones() noexcept {
        struct table {
            alignas(64) float at[side::most_panels * panel_layout::rows];
        };
        static constexpr table all = [] {
            table t{};
            for (float& v : t.at) v = 1.0f;
            return t;
        }();
        return all.at;
    }

    const detail::plain_value_layout& values_;
    std::size_t rows_;
    float fixed_;
    activation_layout layout_;
    std::size_t together_; // groups of channels whose probabilities are there at once
    activation_memory memory_;
    float* scales_ = nullptr;
    float* minimums_ = nullptr;
    std::int8_t* row_ = nullptr; // some rows as integers
    float* offsets_ = nullptr;
    std::byte* totals_ = nullptr;
    std::byte* lanes_ = nullptr;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
