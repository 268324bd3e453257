// kernel/family/int8_tiles.hpp: products of bytes by matrix tiles (isa/matrix_tiles.hpp), exact: of many tokens, where
// the machine has them. Lanes are unpacked into cache, signed, a window of 64 columns in each tile.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/matrix_tiles.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// [window of 64 columns][token][64] int8, of the last window as many columns as there are.
inline constexpr activation_order byte_windows{
    .value_bytes = 1,
    .place = [](const std::int8_t* row, std::size_t padded, std::size_t token, std::size_t tokens,
                std::byte* values) noexcept {
        constexpr std::size_t window = detail::tile_products::window;
        for (std::size_t column = 0; column < padded; column += window) {
            const std::size_t width = detail::min_of(window, padded - column);
            std::byte* to = values + column * tokens + token * width;
            if (width == window)
                __builtin_memcpy(to, row + column, window);
            else
                __builtin_memcpy(to, row + column, width);
        }
    }};

// How parts lie among windows: what a part has of a window is a tile of its own, with zeros for the window's other
// columns.
struct part_windows {
    static constexpr std::size_t window = detail::tile_products::window;
    static constexpr std::size_t window_quads = window / panel_layout::quad;
    // Windows that a part of so many quads has a share of, if it begins at a column.
    [[nodiscard]] static constexpr std::size_t of(std::size_t column, std::size_t quads) noexcept {
        return detail::ceil_div(column % window + quads * panel_layout::quad, window);
    }
    // At most, of any part of a range: how far parts' lanes are apart, in tiles.
    [[nodiscard]] static constexpr std::size_t most(std::size_t begin, std::size_t quads) noexcept {
        if (begin % window == 0 && quads % window_quads == 0) return quads / window_quads;
        if (begin % (quads * panel_layout::quad) == 0 && window_quads % quads == 0) return 1;
        return quads / window_quads + 2;
    }
    // Do this part of a range, which begins at a column, and the next, both complete, lie in one window?
    [[nodiscard]] static NIBBLE_INLINE bool share(const tile_range& r, std::size_t part, std::size_t column) noexcept {
        const std::size_t columns = r.part_units * panel_layout::quad;
        return part + 2 < r.parts + (r.last_units == r.part_units ? 1 : 0) && !r.resume && r.ends_part &&
               column % window + 2 * columns <= window;
    }
};

// The sums of a part, or of two that follow each other, on their way into the results or the totals.
struct finished_sums {
    const std::int32_t* sums[2] = {}; // of a panel: [token][16]
    std::size_t next_sums = 0;        // from part to part
    const tile_arguments* to = nullptr;
    std::size_t part = 0;
    std::size_t phases = 1; // of a part, of which pair_sums are given
    std::size_t tokens = 0; // of the block
    std::size_t panels = 0;
};

template <isa Isa, bool Zeros> struct tile_sums {
    using i32 = typename Isa::i32;
    using f32 = typename Isa::f32;
    static constexpr std::size_t rows = panel_layout::rows;
    static constexpr std::size_t width = Isa::width;

    // Into the results, by one fma for each part, with scales per part of the activations and with minimums where there
    // are some.
    template <std::size_t Parts, bool Scaled, bool Minimum> static void finish(const finished_sums& f) noexcept {
        const tile_arguments& a = *f.to;
        const std::size_t tokens = f.tokens;
        const float* const part_scales = Scaled ? a.part_scales + f.part * tokens : nullptr;
        const float* const part_sums = Minimum ? a.part_sums + f.part * tokens : nullptr;
        for (std::size_t panel = 0; panel < f.panels; ++panel)
            for (std::size_t half = 0; half < rows; half += width) {
                const std::size_t wide = panel * a.scales_stride + f.part * rows + half;
                float* const to = a.results + panel * a.results_stride + half;
                f32 scales[Parts];
                f32 minimums[Parts];
                for (std::size_t p = 0; p < Parts; ++p) {
                    scales[p] = Isa::load(a.scales + wide + p * rows);
                    minimums[p] = Minimum ? Isa::load(a.minimums + wide + p * rows) : scales[p];
                }
                const exact_sums<Parts> from(f, panel, half);
#pragma GCC unroll 4
                for (std::size_t t = 0; t < tokens; ++t) {
                    f32 r = Isa::load(to + t * rows);
#pragma GCC unroll 2
                    for (std::size_t p = 0; p < Parts; ++p) {
                        f32 both = scales[p];
                        if constexpr (Scaled) both = Isa::multiply(both, Isa::broadcast(part_scales[p * tokens + t]));
                        r = Isa::fma(Isa::to_float(from.at(p, t)), both, r);
                        if constexpr (Minimum) r = Isa::fma(Isa::broadcast(part_sums[p * tokens + t]), minimums[p], r);
                    }
                    Isa::store(to + t * rows, r);
                }
            }
    }
    // What finishes so many parts of these.
    using finisher = void (*)(const finished_sums&) noexcept;
    template <std::size_t Parts> [[nodiscard]] static finisher finisher_of(const tile_arguments& a) noexcept {
        if (a.minimums != nullptr)
            return a.part_scales != nullptr ? &finish<Parts, true, true> : &finish<Parts, false, true>;
        return a.part_scales != nullptr ? &finish<Parts, true, false> : &finish<Parts, false, false>;
    }
    // Zeros alone: the sums are where they stay.
    static void add_zeros(const finished_sums& f) noexcept {
        for (std::size_t panel = 0; panel < f.panels; ++panel)
            for (std::size_t half = 0; half < rows; half += width) {
                auto* const to = reinterpret_cast<std::int32_t*>(f.to->totals) + panel * f.to->results_stride + half;
                const exact_sums<1> from(f, panel, half);
                for (std::size_t t = 0; t < f.tokens; ++t) Isa::store(to + t * rows, from.at(0, t));
            }
    }

private:
    // Sums of the lanes, and what zeros add to them.
    template <std::size_t Parts> struct exact_sums {
        const std::int32_t* sums;
        std::size_t next_sums;
        typename Isa::words zeros[Parts];
        const std::int32_t* pairs;
        std::size_t phases;
        std::size_t tokens;
        NIBBLE_INLINE exact_sums(const finished_sums& f, std::size_t panel, std::size_t half) noexcept
            : sums(f.sums[panel] + half), next_sums(f.next_sums), zeros{}, pairs(nullptr), phases(f.phases),
              tokens(f.tokens) {
            if constexpr (Zeros) {
                for (std::size_t p = 0; p < Parts; ++p)
                    zeros[p] = Isa::load_words(f.to->zeros + panel * f.to->scales_stride + (f.part + p) * rows + half);
                pairs = f.to->pair_sums + f.part * f.to->phases_per_part * tokens;
            }
        }
        [[nodiscard]] NIBBLE_INLINE i32 at(std::size_t p, std::size_t t) const noexcept {
            i32 sum = Isa::load(sums + p * next_sums + t * rows);
            if constexpr (Zeros) { // of several parts each is one phase
                if constexpr (Parts > 1) return Isa::add_pairs(sum, zeros[p], Isa::broadcast2(pairs + p * tokens + t));
                for (std::size_t phase = 0; phase < phases; ++phase)
                    sum = Isa::add_pairs(sum, zeros[p], Isa::broadcast2(pairs + phase * tokens + t));
            }
            return sum;
        }
    };
};

// Multiplies the parts of a range, each exactly, while the sums of those before are finished.
template <isa Isa, bool Zeros, std::size_t TokenTiles, std::size_t Panels>
NIBBLE_NOINLINE void multiply_tiles(const tile_arguments& a, const tile_range& r, std::size_t tokens) noexcept {
    using tiles = typename Isa::matrix_tiles;
    using sums = tile_sums<detail::panel_isa_of<Isa>, Zeros>;
    using products = detail::tile_products;
    constexpr std::size_t rows = panel_layout::rows;
    constexpr std::size_t of_panel = TokenTiles * products::most_tokens * rows;
    alignas(64) std::int32_t scratch[2][products::most_sums][Panels][of_panel];
    const std::size_t apart = part_windows::most(r.begin, r.part_units) * products::lane_bytes;
    const auto* block = reinterpret_cast<const std::int8_t*>(a.values) - r.begin * tokens; // column 0 of the block

    products p{};
    p.next_values = products::window * tokens;
    p.next_out = Panels * of_panel;
    p.tokens[0] = detail::min_of(tokens, products::most_tokens);
    p.tokens[1] = tokens - p.tokens[0];
    finished_sums before{};
    typename sums::finisher finish = nullptr;
    const typename sums::finisher finish_one = sums::template finisher_of<1>(a);
    const typename sums::finisher finish_two = sums::template finisher_of<2>(a);

    std::size_t column = r.begin, buffer = 0;
    for (std::size_t part = 0; part < r.parts; part += p.sums) {
        const bool two = apart == products::lane_bytes && part_windows::share(r, part, column);
        p.sums = two ? 2 : 1; // two share the window's activations
        const bool last = part + p.sums == r.parts;
        const std::size_t units = last ? r.last_units : r.part_units;
        const std::size_t window = column / products::window * products::window;
        const bool complete = !last || r.ends_part;
        p.windows = two ? 1 : part_windows::of(column, units);
        p.values = block + window * tokens;
        p.last_stride = detail::min_of(products::window, a.columns - window - (p.windows - 1) * products::window);
        for (std::size_t n = 0; n < Panels; ++n) {
            p.lanes[n] = reinterpret_cast<const std::int8_t*>(a.weights + n * a.weights_stride) + part * apart;
            for (std::size_t m = 0; m < TokenTiles; ++m) {
                const std::size_t tile = m * products::most_tokens * rows;
                auto* totals = reinterpret_cast<std::int32_t*>(a.totals) + n * a.results_stride + tile;
                p.start[m][n] = r.resume && part == 0 ? totals : nullptr;
                p.out[m][n] = complete ? scratch[buffer][0][n] + tile : totals;
            }
        }
        tiles::template multiply<TokenTiles, Panels>(p);
        // Sums of the parts before, whose stores are done by now, while tiles of these are still being multiplied.
        if (finish != nullptr) finish(before);

        finished_sums now{.next_sums = p.next_out,
                          .to = &a,
                          .part = part,
                          .phases = detail::ceil_div(units, a.phase_quads),
                          .tokens = tokens,
                          .panels = Panels};
        for (std::size_t n = 0; n < Panels; ++n) now.sums[n] = p.out[0][n];
        before = now;
        finish = !complete ? nullptr : two ? finish_two : finish_one;
        if constexpr (Zeros)
            if (!complete) sums::add_zeros(now);
        column += p.sums * r.part_units * panel_layout::quad;
        buffer ^= 1;
    }
    if (finish != nullptr) finish(before);
}

// Of an element that another integer family serves too, with fewer tokens.
template <isa Isa, element E, class Few> struct int8_tiles_family {
    using isa_type = Isa;
    using element_type = E;
    static constexpr activation_order order = byte_windows;
    static constexpr token_tiles tiles{.longest = 32, .shorter = 32};
    static constexpr std::size_t unit_columns = panel_layout::quad;
    static constexpr std::size_t phase_units = detail::int32_phase_quads;
    static constexpr float unit = Few::unit;
    static constexpr int lane_offset = Few::lane_offset;
    static constexpr std::size_t lane_bytes = panel_layout::rows * panel_layout::quad;
    static constexpr bool lanes_are_codes = false;
    static constexpr bool always_packed = false;
    static constexpr std::size_t most_panels = Few::most_panels;
    static constexpr std::size_t streamed_quads = Few::streamed_quads;
    static constexpr std::size_t most_tokens = 256;
    using session = typename Isa::matrix_tiles::session;

    [[nodiscard]] static constexpr bool reads_packed(std::size_t, std::size_t) noexcept { return false; }
    [[nodiscard]] static constexpr bool in_pairs(bool) noexcept { return true; }
    [[nodiscard]] static constexpr std::size_t panels_in_cache(std::size_t) noexcept { return 2; }
    // Lanes take a third of the first-level cache, activations of a block of tokens another.
    [[nodiscard]] static constexpr std::size_t cached_units(std::size_t, std::size_t panels) noexcept {
        return (std::size_t{16} << 10) / lane_bytes / panels;
    }
    [[nodiscard]] static constexpr bool requests(std::size_t, bool, bool) noexcept { return false; }

    // From panel to panel, of a range: parts begin on tiles.
    [[nodiscard]] static constexpr std::size_t lane_stride(const tile_range& r) noexcept {
        return r.parts * part_windows::most(r.begin, r.part_units) * detail::tile_products::lane_bytes;
    }
    // The longest that there is, of parts of so many quads.
    [[nodiscard]] static constexpr std::size_t longest_lanes(std::size_t units, std::size_t part_units) noexcept {
        constexpr std::size_t window_quads = detail::tile_products::window / panel_layout::quad;
        const std::size_t part = detail::max_of<std::size_t>(1, detail::min_of(units, part_units));
        const std::size_t tiles_of_part = window_quads % part == 0   ? 1
                                          : part % window_quads == 0 ? part / window_quads
                                                                     : part / window_quads + 2;
        return (units / part + 1) * (tiles_of_part + 2) * detail::tile_products::lane_bytes;
    }

    static void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        unpack_integer<Isa, E>(reinterpret_cast<const std::uint8_t*>(codes), units,
                               reinterpret_cast<std::uint8_t*>(lanes));
        constexpr auto center = static_cast<std::uint8_t>(detail::lane_center<E>);
        auto* out = reinterpret_cast<std::uint8_t*>(lanes);
        for (std::size_t at = 0; at < units; ++at, out += lane_bytes)
            for (std::size_t i = 0; i < lane_bytes; ++i) out[i] = static_cast<std::uint8_t>(out[i] - center);
    }
    static NIBBLE_NOINLINE void unpack(const std::byte* codes, const tile_range& r, std::byte* lanes) noexcept {
        constexpr std::size_t window_quads = part_windows::window_quads;
        const std::size_t apart = part_windows::most(r.begin, r.part_units) * detail::tile_products::lane_bytes;
        std::size_t quad = r.begin / panel_layout::quad;
        for (std::size_t part = 0; part < r.parts; ++part, lanes += apart) {
            std::size_t units = part + 1 == r.parts ? r.last_units : r.part_units;
            std::byte* to = lanes;
            while (units != 0) {
                const std::size_t before = quad % window_quads;
                const std::size_t n = before == 0 && units > window_quads
                                          ? units / window_quads * window_quads
                                          : detail::min_of(window_quads - before, units);
                const std::size_t after = detail::round_up(before + n, window_quads) - before - n;
                __builtin_memset(to, 0, before * lane_bytes);
                to += before * lane_bytes;
                unpack(codes, n, to);
                to += n * lane_bytes;
                __builtin_memset(to, 0, after * lane_bytes);
                to += after * lane_bytes;
                codes += n / detail::step_quads<E> * detail::step_bytes<E>;
                quad += n;
                units -= n;
            }
        }
    }

    template <bool Zeros>
    static NIBBLE_INLINE void multiply(bool, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                       const tile_range& r) noexcept {
        if (tokens > detail::tile_products::most_tokens)
            panels > 1 ? multiply_tiles<Isa, Zeros, 2, 2>(a, r, tokens)
                       : multiply_tiles<Isa, Zeros, 2, 1>(a, r, tokens);
        else
            panels > 1 ? multiply_tiles<Isa, Zeros, 1, 2>(a, r, tokens)
                       : multiply_tiles<Isa, Zeros, 1, 1>(a, r, tokens);
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
