// kernel/family/float32.hpp: products of fp32 lanes, one chain of fma over the columns of a part; for elements that are
// no small integers.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/family/family.hpp>
#include <nibble/kernel/real_tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

template <isa Isa, element E> struct float32_family {
    using isa_type = Isa;
    using element_type = E;
    static constexpr activation_order order = float_columns;
    static constexpr token_tiles tiles = Isa::facts.float_tiles;
    static constexpr std::size_t unit_columns = 1;
    static constexpr std::size_t phase_units = detail::int32_phase_quads;
    static constexpr float unit = 1.0f;
    static constexpr int lane_offset = 0;
    static constexpr std::size_t lane_bytes = panel_layout::rows * sizeof(float);
    static constexpr bool lanes_are_codes = E::bits == 32;
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        unpack_real<Isa, E>(reinterpret_cast<const std::uint8_t*>(codes), units, reinterpret_cast<float*>(lanes));
    }

    // Codes of up to 8 bits decoded in registers for several tokens, where a panel is one vector: for so few that doing
    // it for each tile of them is less than storing lanes: 2, 4, 6, 8 tokens are 1.3, 1.3, 1.1, 1.0 times as fast with
    // fp8, 1.8, 1.7, 1.6, 1.2 with six bits (Emerald Rapids); 12 would be 0.7. Half a panel a vector leaves too few
    // registers for a decoder's constants and the sums.
    static constexpr bool decoded = detail::panel_in_one_vector<Isa> && E::bits <= 8 && detail::decodes_alike<E>;
    static constexpr std::size_t most_decoded_tokens = 8;
    // fp16 and bf16 are decoded so cheaply that doing it twice, for two tiles of tokens, is less than storing lanes.
    static constexpr bool few_packed = E::bits > 8 || decoded;
    static constexpr std::size_t most_packed_tokens = 12;
    static constexpr bool always_packed = lanes_are_codes;
    [[nodiscard]] static constexpr bool reads_packed(std::size_t tokens, std::size_t) noexcept {
        return lanes_are_codes || tokens == 1 ||
               (few_packed && tokens <= most_packed_tokens && (!decoded || tokens <= most_decoded_tokens));
    }
    static constexpr std::size_t most_panels = 4;
    // Where a panel's rows are one vector, two panels at once share broadcasts, and few tokens have sums enough to hide
    // the latency of what adds to them. Decoders keep the processor busy meanwhile.
    [[nodiscard]] static constexpr bool in_pairs(bool packed) noexcept {
        return detail::panel_in_one_vector<Isa> && !(decoded && packed);
    }
    [[nodiscard]] static constexpr std::size_t panels_in_cache(std::size_t tokens) noexcept {
        return tokens > most_packed_tokens ? 4 : 2;
    }
    // fp32 lanes come from the second-level cache at the speed of the products, for long blocks, whose sums are stored
    // and read again less often (measured, f32: 64, 128, 256, 512 columns of four panels at 151, 158, 157, 153 GFLOP/s;
    // more panels lose).
    [[nodiscard]] static constexpr std::size_t cached_units(std::size_t tokens, std::size_t panels) noexcept {
        return tokens > most_packed_tokens ? 256 : (std::size_t{16} << 10) / lane_bytes / panels;
    }
    static constexpr std::size_t streamed_quads = lanes_are_codes ? 32 : 64;
    static constexpr std::size_t most_tokens = 384;

    using packed_loader = real_packed_loader<Isa, E>;
    using lanes_loader = real_loader<detail::panel_isa_of<Isa>>;
    // What a step decodes of several columns fills the registers that more tokens would take.
    template <class Loader> static constexpr bool has_longest = Loader::columns == 1;
    [[nodiscard]] static constexpr bool requests(std::size_t tokens, bool, bool) noexcept {
        return tokens >= tiles.shorter;
    }
    template <class Loader, std::size_t Panels, std::size_t Tokens, bool Zeros>
    static NIBBLE_INLINE void tile(const tile_arguments& a, const tile_range& r) noexcept {
        static_assert(!Zeros);
        real_tile<Loader, Panels, Tokens>(a, r);
    }
    template <bool Zeros>
    static NIBBLE_INLINE void multiply(bool packed, std::size_t panels, std::size_t tokens, const tile_arguments& a,
                                       const tile_range& r) noexcept {
        tile_ladder<float32_family, Zeros>::multiply(packed, panels, tokens, a, r);
    }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
