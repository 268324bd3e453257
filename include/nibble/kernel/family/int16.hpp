// kernel/family/int16.hpp: products of int16 pairs summed in int32, exact for every code and activation of 8 bits: for
// machines that sum byte products in int16 only, and elements that leave those no room.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/family/family.hpp>
#include <nibble/kernel/family/int8.hpp>
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/unpack.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

template <isa Isa, element E> struct int16_family : integer_family<int16_family<Isa, E>, Isa, E> {
    using common = integer_family<int16_family, Isa, E>;
    using common::linear;
    // Up to this magnitude of the activations byte products, two of them added by one instruction, are exact as well.
    using alternative = int8_family<Isa, E, true>;
    [[nodiscard]] static constexpr bool prefers_alternative(std::size_t, const activation_layout& x) noexcept {
        return x.qmax <= detail::byte_limit<E>;
    }

    static constexpr activation_order order = word_quads;
    static constexpr std::size_t phase_units = detail::int32_phase_quads;
    static constexpr std::size_t lane_bytes = panel_layout::rows * panel_layout::quad * 2;
    static constexpr bool wide_sums = true;
    static constexpr bool lanes_are_codes = false;
    static NIBBLE_INLINE void unpack(const std::byte* codes, std::size_t units, std::byte* lanes) noexcept {
        unpack_words<Isa, E>(reinterpret_cast<const std::uint8_t*>(codes), units,
                             reinterpret_cast<std::int16_t*>(lanes));
    }

    // Bytes become int16 in registers for four tiles of tokens (measured: 16 tokens 0.96 times as fast through lanes,
    // 128 tokens 1.08).
    static constexpr bool always_packed = false;
    static constexpr bool few_packed = linear;
    [[nodiscard]] static constexpr bool reads_packed(std::size_t tokens, std::size_t blocks) noexcept {
        return tokens == 1 || (few_packed && blocks <= 4);
    }
    static constexpr bool bytes = linear && E::bits == 8;
    static constexpr std::size_t most_panels = common::panels_for_one(bytes, phase_units);
    [[nodiscard]] static constexpr bool in_pairs(bool) noexcept { return false; }
    [[nodiscard]] static constexpr std::size_t cached_units(std::size_t, std::size_t panels) noexcept {
        return common::lanes_in_cache / lane_bytes / panels;
    }
    static constexpr std::size_t streamed_quads = bytes ? 32 : 64;
    static constexpr std::size_t most_tokens = 128;

    using packed_loader = packed_word_loader<Isa, E::bits, typename common::table>;
    using lanes_loader = word_loader<Isa>;
    [[nodiscard]] static constexpr bool requests(std::size_t, bool, bool) noexcept { return false; }
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
