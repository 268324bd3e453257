// kernel/attention.hpp: products with the keys and the values of one head: scores of a block of tokens, and their weighted sum.
// Both are the tiles of gemm. Keys: tokens are rows, queries the activations. Values: channels are rows, the weights of the
// tokens the activations. Each side knows one scheme, so that no pair of them is compiled together.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/gemm_sum.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::kernel {

// What a panel stores of an element, as an element of its own: for fp32 products with elements of the integer families.
template <element E>
struct panel_element {
    static constexpr int bits = E::bits;
    using code = typename E::code;
    [[nodiscard]] static constexpr float decode(code c) noexcept { return E::decode(static_cast<code>(c ^ panel_flip<E>)); }
};

// From what is read to what is to be read after it, for prefetches: those of the tiles have the same place there.
[[nodiscard]] inline std::ptrdiff_t ahead_of(const std::byte* from, const std::byte* next) noexcept {
    if (next == nullptr) return 0;
    return static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(next) - reinterpret_cast<std::uintptr_t>(from));
}

// How far ahead a tile asks within a stream, which the machine's own prefetcher follows too.
inline constexpr std::ptrdiff_t stream_ahead = 2048;

// Panels that lie one after the other, several at a time: as many streams, each of which goes on from panel to panel, as
// prefetchers of memory have it. run(first panel, how many, panels from one to the next, whether they are the last).
template <class AtOnce, class Run>
NIBBLE_INLINE void for_each_stream(std::size_t panels, const AtOnce& at_once, const Run& run) noexcept {
    for (std::size_t done = 0; done < panels;) {
        const std::size_t streams = at_once(panels - done);
        const std::size_t length = (panels - done) / streams;
        for (std::size_t i = 0; i < length; ++i) run(done + i, streams, length, i + 1 == length && done + streams * length == panels);
        done += streams * length;
    }
}

// How one side multiplies: the element's own way, or in fp32.
template <isa Isa, any_scheme S, bool Integers>
struct attention_side {
    using element = typename S::element_type;
    using traits = detail::scheme_traits<S>;
    static constexpr bool integer = Integers && detail::family_of<element> != detail::kernel_family::real;
    static constexpr bool wide = integer && gemm_plan<S>::has_words; // lanes and activations of 8 bits meet as int16
    static constexpr bool flipped = [] {
        if constexpr (element::bits <= 8)
            return panel_flip<element> != 0;
        else
            return false;
    }();
    struct own {
        using type = element;
    };
    struct stored {
        using type = panel_element<element>;
    };
    using real_element = typename std::conditional_t<flipped, stored, own>::type;
    // Lanes are what is stored: nothing to unpack.
    static constexpr bool plain = integer ? gemm_plan<S>::linear && element::bits == 8 && !wide : element::bits == 32;
    static constexpr std::size_t tile_tokens = integer ? integer_tile_tokens : real_tile_tokens;
    static constexpr std::size_t shorter = integer ? shorter_tile_tokens : shorter_real_tile_tokens;
    static constexpr std::size_t unit_columns = integer ? panel_layout::quad : 1;
    static constexpr std::size_t lane_bytes = wide ? 128 : 64; // of a unit
    // What the kernel's integers miss of the element's own.
    static constexpr int lane_offset = integer ? detail::lane_offset<element> : 0;
    static constexpr bool has_minimum = traits::has_zero || lane_offset != 0;
    static constexpr float unit = integer ? detail::exp2i(detail::integer_grid_of<element>.exponent) : 1.0f;

    // Tiles unpack in registers for one row, and for one tile of rows where gemm has such tiles; else panels are unpacked once.
    static constexpr bool few_direct = plain || (integer ? gemm_plan<S>::few_direct : element::bits > 8);
    [[nodiscard]] static bool unpacks(const token_blocks& rows) noexcept {
        return !plain && rows.tokens > 1 && (!few_direct || rows.count > 1);
    }
    // Panels that a single row goes through at once.
    static constexpr std::size_t most_panels = integer ? gemm_plan<S>::most_panels : 4;
    // And two to four rows, where a panel's rows are one vector: their sums alone would wait for one another.
    static constexpr std::size_t few_panels = detail::tile_isa_of<Isa>::width == panel_layout::rows && !wide ? 2 : 1;
    [[nodiscard]] static std::size_t panels_at_once(std::size_t rows, std::size_t left) noexcept {
        if (rows == 1 && left >= most_panels) return most_panels;
        return rows == 1 && left >= 2 ? 2 : rows <= 4 && left >= few_panels ? few_panels : 1;
    }

    // The scale and the minimum of eight slots: value = lane x scale + minimum.
    using scale_code = typename traits::scale_code;
    using zero_code = typename traits::zero_code;
    static NIBBLE_INLINE void widen(const scale_code* scales, const zero_code* zeros, float fixed, float* scale,
                                    float* minimum) noexcept {
        using format = detail::token_format<S>;
        using f32 = typename Isa::f32;
        f32 s = Isa::broadcast(S::scaled ? fixed : 1.0f);
        if constexpr (format::stores_scales) {
            s = Isa::template decode_stored<typename traits::scale_element>(scales);
            if constexpr (S::two_level) s = Isa::multiply(s, Isa::broadcast(fixed));
        }
        if constexpr (unit != 1.0f) s = Isa::multiply(s, Isa::broadcast(unit));
        if constexpr (has_minimum) {
            f32 m = Isa::broadcast(static_cast<float>(lane_offset));
            if constexpr (S::has_integer_zero) {
                float z[8];
                for (std::size_t i = 0; i < 8; ++i) z[i] = static_cast<float>(lane_offset - static_cast<int>(zeros[i]));
                m = Isa::multiply(s, Isa::load(z));
            } else if constexpr (S::has_minimum) {
                m = Isa::fma(s, m, Isa::template decode_stored<typename traits::zero_element>(zeros));
            } else {
                m = Isa::multiply(s, m);
            }
            Isa::store(minimum, m);
        }
        Isa::store(scale, s);
    }

    // One tile: `panels` panels whose codes are `stride` bytes apart, or one whose lanes lie unpacked.
    template <class Arguments>
    static NIBBLE_INLINE void tile(bool unpacked, std::size_t panels, std::size_t tokens, const Arguments& a,
                                   const tile_range& r) noexcept {
        if constexpr (integer) {
            using packed = typename source_of<Isa, S, true, wide>::type;
            using lanes = typename source_of<Isa, S, false, wide>::type;
            one_of<packed, lanes>(unpacked, panels, tokens, a, r);
        } else {
            one_of<real_packed_source<Isa, real_element>, real_source<detail::tile_isa_of<Isa>>>(unpacked, panels, tokens, a, r);
        }
    }
    template <class Packed, class Lanes, class Arguments>
    static NIBBLE_INLINE void one_of(bool unpacked, std::size_t panels, std::size_t tokens, const Arguments& a,
                                     const tile_range& r) noexcept {
        if (tokens == 1 && panels > 1) return several<Packed, most_panels, 1>(panels, a, r);
        if constexpr (few_panels > 1)
            if (panels > 1) {
                const auto pair = [&]<std::size_t Tokens>() NIBBLE_INLINE_LAMBDA {
                    if constexpr (few_direct && !plain)
                        if (!unpacked) return run<Packed, few_panels, Tokens>(a, r);
                    run<Lanes, few_panels, Tokens>(a, r);
                };
                if (tokens == 2) return pair.template operator()<2>();
                if (tokens == 3) return pair.template operator()<3>();
                return pair.template operator()<4>();
            }
        if (unpacked || plain)
            single<Lanes>(tokens, a, r);
        else if constexpr (few_direct)
            single<Packed>(tokens, a, r);
        else
            run<Packed, 1, 1>(a, r);
    }
    template <class Source, std::size_t Panels, std::size_t Tokens, class Arguments>
    static NIBBLE_INLINE void run(const Arguments& a, const tile_range& r) noexcept {
        if constexpr (integer)
            integer_tile<Source, Panels, Tokens, false>(a, r);
        else
            real_tile<Source, Panels, Tokens>(a, r);
    }
    template <class Source, class Arguments>
    static NIBBLE_INLINE void single(std::size_t tokens, const Arguments& a, const tile_range& r) noexcept {
        if constexpr (integer)
            integer_tile_of<Source, false, 1>(tokens, a, r);
        else
            real_tile_of<Source>(tokens, a, r);
    }
    template <class Source, std::size_t Most, std::size_t Tokens, class Arguments>
    static NIBBLE_INLINE void several(std::size_t panels, const Arguments& a, const tile_range& r) noexcept {
        if constexpr (Most > 2)
            if (panels == 2) return run<Source, 2, Tokens>(a, r);
        run<Source, Most, Tokens>(a, r);
    }
    // Codes of `units` quads, or columns, to lanes.
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        const auto* from = reinterpret_cast<const std::uint8_t*>(codes);
        if constexpr (wide)
            unpack_words<Isa, element>(from, units, reinterpret_cast<std::int16_t*>(lanes));
        else if constexpr (integer)
            unpack_integer<Isa, element>(from, units, reinterpret_cast<std::uint8_t*>(lanes));
        else
            unpack_real<Isa, real_element>(from, units, reinterpret_cast<float*>(lanes));
    }
    [[nodiscard]] static activation_layout layout(const detail::depth_plan& depth, const phase_plan& phases,
                                                  std::size_t rows) noexcept {
        return {.depth = depth,
                .phases = phases,
                .blocks = token_blocks::make(rows, tile_tokens, shorter),
                .real = !integer,
                .wide = wide,
                .per_part = false};
    }
    static constexpr std::size_t longest_phase = detail::phase_quads<element>;

    // Memory of the rows as the tiles read them.
    [[nodiscard]] static activation_memory take(arena& memory, const activation_layout& l) noexcept {
        activation_memory m{};
        const std::size_t rows = l.blocks.tokens;
        if constexpr (integer) {
            m.values = memory.take<std::int8_t>(rows * l.depth.padded * (wide ? 2 : 1));
            m.pair_sums = memory.take<std::int32_t>(rows * l.depth.count * l.phases.per_part);
            m.scales = memory.take<float>(rows);
        } else {
            m.real_values = memory.take<float>(rows * l.depth.padded);
        }
        m.part_sums = memory.take<float>(rows * l.depth.count);
        return m;
    }
};

// ---- scores --------------------------------------------------------------------------------------------------------------

// Whole panels of the keys of one head.
struct key_piece {
    const std::byte* codes = nullptr;
    const std::byte* scales = nullptr; // of the first panel, or of the group of tokens it is in
    const std::byte* zeros = nullptr;
    std::size_t panels = 0;
    std::size_t begun = 0; // panels before the first in its group of tokens
};

template <isa Isa, class Keys, bool Integers>
class key_side {
    using format = detail::key_format<Keys>;
    using S = typename format::scheme_type;
    using side = attention_side<Isa, S, Integers>;
    static constexpr std::size_t group_panels = format::tokens_per_group / panel_layout::rows; // 0: scales are the tokens'

public:
    // `queries`, [row][channel] fp32, must stay until the last scores: keys along tokens scale them anew for each group.
    key_side(const detail::key_layout<Keys>& keys, std::size_t rows, const float* queries, float fixed, arena& memory) noexcept
        : keys_(keys), queries_(queries), rows_(rows), fixed_(fixed),
          layout_(side::layout(keys.depth, phase_plan::make(keys.depth, side::longest_phase), rows)),
          memory_(side::take(memory, layout_)) {
        const std::size_t slots = detail::max_of(keys.depth.count * panel_layout::rows, detail::round_up(keys.channels, 8));
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

    // scores[panel][row][16] of a piece: the products of its tokens with every row. `next` is what will be read after it.
    NIBBLE_NOINLINE void scores(const key_piece& piece, float* out, const std::byte* next) noexcept {
        if constexpr (group_panels == 0) {
            products(piece, out, next);
            return;
        } else {
            // Groups of tokens one by one: the channels' scales go into the queries, their minimums are a number per query.
            for (std::size_t p = 0, group = 0, begun = piece.begun; p < piece.panels; ++group, begun = 0) {
                const auto* scales = reinterpret_cast<const typename side::scale_code*>(piece.scales) + group * keys_.slots;
                const auto* zeros = reinterpret_cast<const typename side::zero_code*>(piece.zeros) + group * keys_.slots;
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
            prepare_block<void>(layout_, rows, activation_grid{}, block, memory_, row_);
    }
    // scaled_ = queries x the channels' scales, offsets_ = the sum of queries x minimums.
    void fold(const typename side::scale_code* scales, const typename side::zero_code* zeros) noexcept {
        using L = lanes<Isa>;
        for (std::size_t c = 0; c < keys_.channels; c += 8) {
            typename side::scale_code some_scales[8] = {};
            typename side::zero_code some_zeros[8] = {};
            const std::size_t n = detail::min_of<std::size_t>(8, keys_.channels - c);
            if (n < 8) {
                __builtin_memcpy(some_scales, scales + c, n * sizeof *scales);
                if constexpr (format::stores_zeros) __builtin_memcpy(some_zeros, zeros + c, n * sizeof *zeros);
            }
            side::widen(n == 8 ? scales + c : some_scales, n == 8 ? zeros + c : some_zeros, fixed_, scales_ + c, minimums_ + c);
        }
        for (std::size_t r = 0; r < rows_; ++r) {
            const float* q = queries_ + r * keys_.channels;
            L sum[2] = {L(0.0f), L(0.0f)}; // one is enough: eight channels at a time
            for (std::size_t c = 0; c < keys_.channels; c += 8) {
                const std::size_t n = detail::min_of<std::size_t>(8, keys_.channels - c);
                const L x = L::load(q + c, n);
                (x * L::load(scales_ + c, 8)).store(scaled_ + r * keys_.channels + c, n);
                if constexpr (side::has_minimum) sum[0] = fma(x, L::load(minimums_ + c, 8), sum[0]);
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
        std::conditional_t<side::integer, integer_tile_arguments, real_tile_arguments> a{};
        a.widened_stride = depth.count * rows16;
        if constexpr (side::integer) {
            a.phases_per_part = layout_.phases.per_part;
            a.phase_quads = layout_.phases.quads;
            a.center = detail::lane_center<typename side::element>;
        }
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
                    for (std::size_t i = 0; i < keys_.slots; i += 8)
                        side::widen(scales + i, zeros + i, fixed_, scales_ + at + i, side::has_minimum ? minimums_ + at + i : nullptr);
                }
            if (unpacked)
                for (std::size_t j = 0; j < together; ++j) side::unpack(codes + j * stride, units, lanes_ + j * units * side::lane_bytes);
            a.ahead = last ? ahead_of(codes, next) : stream_ahead;
            a.results_stride = apart * rows_ * rows16;
            for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
                const std::size_t first = layout_.blocks.first(block);
                const std::size_t n = layout_.blocks.first(block + 1) - first;
                const activation_memory x = memory_.block(layout_, first);
                if constexpr (side::integer) {
                    a.codes = reinterpret_cast<const std::uint8_t*>(unpacked ? lanes_ : codes);
                    a.codes_stride = unpacked ? units * side::lane_bytes : stride;
                    a.values = x.values;
                    a.pair_sums = x.pair_sums;
                } else {
                    a.weights = unpacked ? lanes_ : codes;
                    a.weights_stride = unpacked ? units * side::lane_bytes : stride;
                    a.values = x.real_values;
                }
                a.part_sums = x.part_sums;
                a.scales = scales_;
                a.minimums = side::has_minimum && group_panels == 0 ? minimums_ : nullptr;
                a.results = out + (first_panel * rows_ + first) * rows16;
                side::tile(unpacked, together, n, a, r);
            }
        };
        for_each_stream(piece.panels, [&](std::size_t left) { return side::panels_at_once(rows_, left); }, run);
        finish(out, piece.panels);
    }
    // The rows' own scales, and what the minimums of channels add.
    void finish(float* out, std::size_t panels) noexcept {
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

    const detail::key_layout<Keys>& keys_;
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

// ---- values --------------------------------------------------------------------------------------------------------------

// Tokens [first, first + count) of a block, whole steps of them, as they lie in one page.
struct value_piece {
    const std::byte* codes = nullptr; // of the first channels' panel, at the first token
    const std::byte* scales = nullptr; // of the first group of channels, at the first token
    const std::byte* zeros = nullptr;
    std::size_t first = 0; // multiples of 16
    std::size_t count = 0;
};
inline constexpr std::size_t most_pieces = attention_panels + 2;

template <isa Isa, any_scheme Values, bool Integers>
class value_side {
    using format = detail::token_format<Values>;
    using side = attention_side<Isa, Values, Integers>;

public:
    value_side(const detail::value_layout<Values>& values, std::size_t rows, float fixed, arena& memory) noexcept
        : values_(values), rows_(rows), fixed_(fixed), layout_(side::layout(depth(), phases(values.tokens), rows)),
          memory_(side::take(memory, layout_)) {
        scales_ = memory.take<float>(attention_block);
        minimums_ = side::has_minimum ? memory.take<float>(attention_block) : nullptr;
        scaled_ = memory.take<float>(attention_block * (side::integer ? 1 : detail::min_of(rows, side::tile_tokens)));
        row_ = memory.take<std::int8_t>(attention_block);
        offsets_ = memory.take<float>(rows);
        totals_ = memory.take<std::byte>(values.panels() * rows * panel_layout::rows * 4);
        lanes_ = memory.take<std::byte>(side::few_panels * attention_block / side::unit_columns * side::lane_bytes);
    }

    // out[panel][row][16 channels] += the sum of weight x value over the tokens [begin, end) of a block, all of
    // which the pieces have; weights[16 tokens][row][16], finite ones for the others too.
    NIBBLE_NOINLINE void accumulate(const value_piece* pieces, std::size_t count, std::size_t begin, std::size_t end,
                                    const float* weights, float* out, const std::byte* next, asked_memory& soon) noexcept {
        const std::size_t per_group = values_.panels_per_group();
        for (std::size_t g = 0; g < values_.groups; ++g) {
            scales_of(pieces, count, g, begin, end);
            const std::size_t first = pieces[0].first;
            const std::size_t last = pieces[count - 1].first + pieces[count - 1].count;
            weigh_tokens(weights, first, last, soon);
            const std::size_t first_panel = g * per_group;
            const std::size_t panels = detail::min_of(values_.panels(), first_panel + per_group) - first_panel;
            // Page by page, each as few long streams; the sums of all channels wait meanwhile.
            for (std::size_t i = 0; i < count; ++i) {
                const bool last_piece = i + 1 == count;
                const std::byte* after = !last_piece              ? pieces[i + 1].codes + first_panel * values_.panel_bytes
                                         : g + 1 < values_.groups ? pieces[0].codes + (first_panel + panels) * values_.panel_bytes
                                                                  : next;
                for_each_stream(panels, [&](std::size_t left) { return side::panels_at_once(rows_, left); },
                                [&](std::size_t p, std::size_t together, std::size_t apart, bool ends) {
                                    panel(pieces[i], i != 0, last_piece, first_panel + p, together, apart, ends ? after : nullptr, out);
                                });
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
    // Scales and minimums of the tokens of the pieces in a group of channels.
    void scales_of(const value_piece* pieces, std::size_t count, std::size_t g, std::size_t begin, std::size_t end) noexcept {
        for (std::size_t i = 0; i < count; ++i) {
            const value_piece& piece = pieces[i];
            const auto* scales = reinterpret_cast<const typename side::scale_code*>(piece.scales) + g * values_.tokens;
            const auto* zeros = reinterpret_cast<const typename side::zero_code*>(piece.zeros) + g * values_.tokens;
            for (std::size_t t = 0; t < piece.count; t += 8) {
                const std::size_t at = piece.first + t;
                side::widen(scales + t, zeros + t, fixed_, scales_ + at, side::has_minimum ? minimums_ + at : nullptr);
                for (std::size_t j = 0; j < 8 && (at < begin || at + 8 > end); ++j) {
                    if (at + j >= begin && at + j < end) continue;
                    scales_[at + j] = 0.0f;
                    if constexpr (side::has_minimum) minimums_[at + j] = 0.0f;
                }
            }
        }
    }
    // The rows as the tiles read them: weight x scale, and their sums of weight x minimum.
    void weigh_tokens(const float* weights, std::size_t first, std::size_t last, asked_memory& soon) noexcept {
        using L = token_lanes<Isa>;
        constexpr std::size_t halves = lane_halves<Isa>;
        const std::size_t from = first / panel_layout::rows;
        const std::size_t to = last / panel_layout::rows;
        for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
            const std::size_t block_first = layout_.blocks.first(block);
            const std::size_t n = layout_.blocks.first(block + 1) - block_first;
            const activation_memory x = memory_.block(layout_, block_first);
            for (std::size_t t = 0; t < n; ++t) {
                const std::size_t row = block_first + t;
                L top[halves];
                L offset[halves];
                for (std::size_t h = 0; h < halves; ++h) top[h] = offset[h] = L(0.0f);
                for (std::size_t p = from; p < to; ++p) {
                    soon.ask<Isa>();
                    for (std::size_t h = 0; h < halves; ++h) {
                        const std::size_t at = p * panel_layout::rows + h * L::width;
                        const L w = L::load(weights + (p * rows_ + row) * panel_layout::rows + h * L::width, L::width);
                        const L scaled = w * L::load(scales_ + at, L::width);
                        if constexpr (side::has_minimum) offset[h] = fma(w, L::load(minimums_ + at, L::width), offset[h]);
                        if constexpr (side::integer) top[h] = larger(absolute(scaled), top[h]);
                        scaled.store(scaled_ + (side::integer ? 0 : t * attention_block) + at, L::width);
                    }
                }
                if constexpr (side::integer) x.scales[t] = place(largest_of(top), first, last, t, n, x);
                if constexpr (side::has_minimum) offsets_[row] = sum_of(offset);
            }
            if constexpr (!side::integer) turn(first, last, n, x.real_values);
        }
    }
    // scaled_[row][token] of n rows to [token][row], four by four.
    void turn(std::size_t first, std::size_t last, std::size_t n, float* to) const noexcept {
        using four = float __attribute__((vector_size(16)));
        std::size_t t = 0;
        for (; t + 4 <= n; t += 4)
            for (std::size_t i = first; i < last; i += 4) {
                four r[4];
                for (std::size_t j = 0; j < 4; ++j) __builtin_memcpy(&r[j], scaled_ + (t + j) * attention_block + i, 16);
                const four low01 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), high01 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
                const four low23 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), high23 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
                const four columns[4] = {
                    __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                    __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
                for (std::size_t j = 0; j < 4; ++j) __builtin_memcpy(to + (i + j) * n + t, &columns[j], 16);
            }
        if (n == 1) {
            __builtin_memcpy(to + first, scaled_ + first, (last - first) * sizeof(float));
            return;
        }
        for (; t < n; ++t)
            for (std::size_t i = first; i < last; ++i) to[i * n + t] = scaled_[t * attention_block + i];
    }
    // Row t of n: scaled_[first, last) as integers under one scale, which is returned: largest / 127.
    [[nodiscard]] float place(float largest, std::size_t first, std::size_t last, std::size_t t, std::size_t n,
                              const activation_memory& x) noexcept {
        using L = token_lanes<Isa>;
        group_statistics g{};
        g.largest = largest;
        const row_grid grid = grid_of(activation_grid{}, g, 0);
        const L inverse(grid.inverse);
        constexpr std::size_t bytes = panel_layout::quad * (side::wide ? 2 : 1);
        for (std::size_t at = first; at < last; at += panel_layout::rows) {
            std::int8_t* const row = row_ + at;
            for (std::size_t i = 0; i < panel_layout::rows; i += L::width)
                detail::tile_isa_of<Isa>::store_rounded(row + i, (L::load(scaled_ + at + i, L::width) * inverse).value);
            std::int8_t* to = x.values + (at / panel_layout::quad * n + t) * bytes;
            for (std::size_t q = 0; q < panel_layout::rows / panel_layout::quad; ++q, to += n * bytes) {
                if constexpr (side::wide) {
                    const std::int16_t words[4] = {row[4 * q], row[4 * q + 2], row[4 * q + 1], row[4 * q + 3]};
                    __builtin_memcpy(to, words, sizeof words);
                } else {
                    __builtin_memcpy(to, row + 4 * q, 4);
                }
            }
        }
        if constexpr (detail::lane_center<typename side::element> != 0) {
            const std::size_t phase = layout_.phases.quads * panel_layout::quad;
            for (std::size_t at = first / phase * phase; at < last; at += phase)
                x.pair_sums[at / phase * n + t] = pairs(detail::max_of(at, first), detail::min_of(at + phase, last));
        }
        return grid.scale;
    }
    // The sums over columns 0, 1 and over columns 2, 3 of the quads of row_[begin, end), as int16.
    [[nodiscard]] std::int32_t pairs(std::size_t begin, std::size_t end) const noexcept {
        using words = std::int16_t __attribute__((vector_size(16)));
        words sums{};
        for (; begin < end; begin += 16) {
            words v;
            __builtin_memcpy(&v, row_ + begin, 16);
            sums += (v >> 8) + static_cast<words>(v << 8 >> 8);
        }
        return static_cast<std::int32_t>(static_cast<std::uint16_t>(sums[0] + sums[2] + sums[4] + sums[6])) |
               static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::uint16_t>(sums[1] + sums[3] + sums[5] + sums[7])) << 16);
    }
    // Some panels of a piece; `next`, if they are the last: what will be read after them.
    void panel(const value_piece& piece, bool resume, bool finish, std::size_t p, std::size_t together, std::size_t apart,
               const std::byte* next, float* out) noexcept {
        constexpr std::size_t rows16 = panel_layout::rows;
        const bool unpacked = side::unpacks(layout_.blocks);
        const std::byte* codes = piece.codes + p * values_.panel_bytes;
        std::conditional_t<side::integer, integer_tile_arguments, real_tile_arguments> a{};
        a.scales = ones(); // the tokens' scales are in the weights
        a.widened_stride = rows16;
        a.results_stride = apart * rows_ * rows16;
        a.ahead = next != nullptr ? ahead_of(codes, next) : stream_ahead;
        tile_range r{};
        r.parts = 1;
        r.part_units = r.last_units = piece.count / side::unit_columns;
        r.resume = resume;
        r.finish = finish;
        if (unpacked)
            for (std::size_t j = 0; j < together; ++j)
                side::unpack(codes + j * apart * values_.panel_bytes, r.last_units, lanes_ + j * r.last_units * side::lane_bytes);
        const std::size_t stride = unpacked ? r.last_units * side::lane_bytes : apart * values_.panel_bytes;
        for (std::size_t block = 0; block < layout_.blocks.count; ++block) {
            const std::size_t first = layout_.blocks.first(block);
            const std::size_t n = layout_.blocks.first(block + 1) - first;
            const activation_memory x = memory_.block(layout_, first);
            const std::size_t at = (p * rows_ + first) * rows16;
            if constexpr (side::integer) {
                a.phases_per_part = layout_.phases.per_part;
                a.phase_quads = layout_.phases.quads;
                a.center = detail::lane_center<typename side::element>;
                a.codes = reinterpret_cast<const std::uint8_t*>(unpacked ? lanes_ : codes);
                a.codes_stride = stride;
                a.values = x.values + piece.first * n * (side::wide ? 2 : 1);
                a.pair_sums = x.pair_sums + piece.first / panel_layout::quad / layout_.phases.quads * n;
                a.part_scales = x.scales;
                a.totals = reinterpret_cast<std::int32_t*>(totals_) + at;
            } else {
                a.weights = unpacked ? lanes_ : codes;
                a.weights_stride = stride;
                a.values = x.real_values + piece.first * n;
                a.totals = reinterpret_cast<float*>(totals_) + at;
            }
            if constexpr (side::has_minimum) {
                a.part_sums = offsets_ + first;
                a.minimums = ones();
            } else {
                a.part_sums = x.part_sums;
            }
            a.results = out + at;
            side::tile(unpacked, together, n, a, r);
        }
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

    const detail::value_layout<Values>& values_;
    std::size_t rows_;
    float fixed_;
    activation_layout layout_;
    activation_memory memory_;
    float* scales_ = nullptr;
    float* minimums_ = nullptr;
    float* scaled_ = nullptr;
    std::int8_t* row_ = nullptr;
    float* offsets_ = nullptr;
    std::byte* totals_ = nullptr;
    std::byte* lanes_ = nullptr;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
