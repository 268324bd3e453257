// kernel/attention_keys.hpp: the scores of a block of tokens: tokens are the rows of panels, queries the activations.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
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

// Whole panels of the keys of one head.
struct key_piece {
    const std::byte* codes = nullptr;
    const std::byte* scales = nullptr; // of the first panel, or of the group of tokens it is in
    const std::byte* zeros = nullptr;
    std::size_t panels = 0;
    std::size_t begun = 0; // panels before the first in its group of tokens
    std::ptrdiff_t paired_prefetch_offset =
        0; // from codes to those that are prefetched meanwhile, or 0: within the streams, and `next`
};

template <isa Isa, class Keys, bool Integers> class score_product {
    using format = detail::key_format<Keys>;
    using S = typename format::scheme_type;
    using side = attention_side<Isa, S, Integers>;
    static constexpr std::size_t group_panels =
        format::tokens_per_group / panel_layout::rows; // 0: scales are the tokens'

public:
    // `queries`, [row][channel] fp32, must stay until the last scores: keys along tokens scale them anew for each
    // group.
    score_product(const detail::plain_key_layout& keys, std::size_t rows, const float* queries, float fixed,
                  arena& memory) noexcept
        : keys_(keys), queries_(queries), rows_(rows), fixed_(fixed),
          layout_(side::layout(keys.depth, phase_plan::make(keys.depth, side::longest_phase), rows)),
          memory_(activation_memory::take(layout_, rows, false, memory)) {
        const std::size_t slots =
            detail::max_of(keys.depth.count * panel_layout::rows, detail::round_up(keys.channels, 8));
        scales_ = memory.take<float>(side::most_panels * slots);
        minimums_ = side::has_minimum ? memory.take<float>(side::most_panels * slots) : nullptr;
        scaled_ = group_panels != 0 ? memory.take<float>(rows * keys.channels) : nullptr;
        row_ = memory.take<std::int8_t>(keys.depth.padded);
        offsets_ = memory.take<float>(rows);
        lanes_ = memory.take<std::byte>(side::few_panels * keys.depth.padded / side::unit_columns * side::lane_bytes);
    }
    // Once the queries are there.
    void prepare() noexcept {
        if constexpr (group_panels == 0) prepare(queries_);
    }

    // Whether its tiles prefetch what is read later: not where panels are unpacked first.
    [[nodiscard]] bool prefetches() const noexcept { return !side::unpacks(layout_.blocks); }

    // scores[panel][row][16] of a piece: the products of its tokens with every row. `next` is what will be read after
    // it.
    NIBBLE_NOINLINE void scores(const key_piece& piece, float* out, const std::byte* next) noexcept {
        if constexpr (group_panels == 0) {
            products(piece, out, next);
            return;
        } else {
            // Groups of tokens one by one: the channels' scales go into the queries, their minimums are a number per
            // query.
            for (std::size_t p = 0, group = 0, begun = piece.begun; p < piece.panels; ++group, begun = 0) {
                const auto* scales =
                    reinterpret_cast<const typename side::scale_code*>(piece.scales) + group * keys_.slots;
                const auto* zeros =
                    reinterpret_cast<const typename side::zero_code*>(piece.zeros) + group * keys_.slots;
                fold(scales, zeros);
                prepare(scaled_);
                key_piece part = piece;
                part.codes += p * keys_.panel_bytes;
                part.panels = detail::min_of(group_panels - begun, piece.panels - p);
                const std::byte* after = part.codes + part.panels * keys_.panel_bytes;
                products(part, out + p * rows_ * panel_layout::rows, p + part.panels < piece.panels ? after : next);
                p += part.panels;
            }
        }
    }

private:
    void prepare(const float* from) noexcept {
        const token_rows<float> rows{matrix_view<const float>(from, rows_, keys_.channels), {}};
        for (std::size_t block = 0; block < layout_.blocks.count; ++block)
            prepare_block<void>(layout_, rows, activation_quantization{}, block, memory_, row_);
    }
    // scaled_ = queries x the channels' scales, offsets_ = the sum of queries x minimums.
    void fold(const typename side::scale_code* scales, const typename side::zero_code* zeros) noexcept {
        using L = lanes<Isa>;
        side::decode_channel_scales(scales, zeros, keys_.channels, fixed_, scales_, minimums_);
        for (std::size_t r = 0; r < rows_; ++r) {
            const float* q = queries_ + r * keys_.channels;
            L sum[2] = {L(0.0f), L(0.0f)};
            for (std::size_t c = 0; c < keys_.channels; c += 8) {
                const std::size_t n = detail::min_of<std::size_t>(8, keys_.channels - c);
                const L x = L::load(q + c, n);
                L& part = sum[c / 8 % 2];
                (x * L::load(scales_ + c, 8)).store(scaled_ + r * keys_.channels + c, n);
                if constexpr (side::has_minimum) part = fma(x, L::load(minimums_ + c, 8), part);
            }
            offsets_[r] = sum_of(sum);
        }
    }
    void products(const key_piece& piece, float* out, const std::byte* next) noexcept {
        constexpr std::size_t rows16 = panel_layout::rows;
        const detail::depth_plan& depth = keys_.depth;
        const std::size_t units = depth.padded / side::unit_columns;
        __builtin_memset(out, 0, piece.panels * rows_ * rows16 * sizeof(float));
        const bool unpacked = side::unpacks(layout_.blocks);
        tile_range r{};
        r.parts = depth.count;
        r.part_units = detail::round_up(depth.part, depth.step) / side::unit_columns;
        r.last_units = detail::round_up(depth.columns(depth.count - 1), depth.step) / side::unit_columns;
        tile_arguments a = side::arguments_of(layout_);
        a.scales_stride = depth.count * rows16;
        a.scales = scales_;
        a.minimums = side::has_minimum && group_panels == 0 ? minimums_ : nullptr;
        if constexpr (group_panels != 0) // the channels' scales are in the queries
            for (std::size_t i = 0; i < side::most_panels * rows16; ++i) scales_[i] = 1.0f;
        const auto run = [&](std::size_t first_panel, std::size_t together, std::size_t apart, bool last) {
            const std::byte* codes = piece.codes + first_panel * keys_.panel_bytes;
            const std::size_t stride = apart * keys_.panel_bytes;
            if constexpr (group_panels == 0)
                for (std::size_t j = 0; j < together; ++j) {
                    const std::size_t slot = (first_panel + j * apart) * keys_.slots;
                    const auto* scales = reinterpret_cast<const typename side::scale_code*>(piece.scales) + slot;
                    const auto* zeros = reinterpret_cast<const typename side::zero_code*>(piece.zeros) + slot;
                    const std::size_t at = j * keys_.slots;
                    side::decode_scales(scales, zeros, keys_.slots, fixed_, scales_ + at,
                                        side::has_minimum ? minimums_ + at : nullptr);
                }
            if (unpacked)
                for (std::size_t j = 0; j < together; ++j)
                    side::unpack(codes + j * stride, units, lanes_ + j * units * side::lane_bytes);
            a.ahead = unpacked                            ? 0
                      : piece.paired_prefetch_offset != 0 ? piece.paired_prefetch_offset
                      : last                              ? prefetch_offset(codes, next)
                                                          : stream_ahead;
            a.results_stride = apart * rows_ * rows16;
            for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
                const std::size_t first = layout_.blocks.first(block);
                const std::size_t n = layout_.blocks.first(block + 1) - first;
                side::point(a, unpacked ? lanes_ : codes, unpacked ? units * side::lane_bytes : stride, layout_,
                            memory_.block(layout_, first), 0, n);
                a.results = out + (first_panel * rows_ + first) * rows16;
                side::tile(unpacked, together, n, a, r);
            }
        };
        for_each_stream(
            piece.panels, [&](std::size_t left) { return side::panels_at_once(layout_.blocks, left); }, run);
        apply_row_scales(out, piece.panels);
    }
    // The rows' own scales, and what the minimums of channels add.
    void apply_row_scales(float* out, std::size_t panels) noexcept {
        if constexpr (side::integer || (group_panels != 0 && side::has_minimum)) {
            using L = token_lanes<Isa>;
            for (std::size_t p = 0; p < panels; ++p)
                for (std::size_t r = 0; r < rows_; ++r) {
                    L scale(1.0f);
                    if constexpr (side::integer) scale = L(memory_.scales[r]);
                    const L offset(group_panels != 0 && side::has_minimum ? offsets_[r] : 0.0f);
                    float* at = out + (p * rows_ + r) * panel_layout::rows;
                    for (std::size_t i = 0; i < panel_layout::rows; i += L::width)
                        fma(L::load(at + i, L::width), scale, offset).store(at + i, L::width);
                }
        }
    }

    const detail::plain_key_layout& keys_;
    const float* queries_;
    std::size_t rows_;
    float fixed_;
    activation_layout layout_;
    activation_memory memory_;
    float* scales_ = nullptr;
    float* minimums_ = nullptr;
    float* scaled_ = nullptr;
    std::int8_t* row_ = nullptr;
    float* offsets_ = nullptr;
    std::byte* lanes_ = nullptr;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
