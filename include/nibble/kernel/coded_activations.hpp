// kernel/coded_activations.hpp: activations that are quantized already: stored codes and scales in the order of a tile.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The integer of every code, relative to the middle of an unsigned element's range; -128 only where the element has it.
template <small_element E>
inline constexpr auto activation_integers = [] {
    detail::table<std::int8_t, decode_table<E>.size> t{};
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    for (std::size_t c = 0; c < t.size; ++c) {
        double v = static_cast<double>(decode_table<E>.at[c]);
        for (int i = 0; i < g.exponent; ++i) v *= 0.5;
        for (int i = 0; i > g.exponent; --i) v *= 2.0;
        t.at[c] = static_cast<std::int8_t>(static_cast<int>(v) - detail::lane_offset<E>);
    }
    return t;
}();

// Does every code fit where activations are kept? (Of 8-bit elements with other lowest codes than these none does.)
template <element E>
inline constexpr bool is_activation_element = [] {
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    return g.exists && g.low - detail::lane_offset<E> >= -128 && g.high - detail::lane_offset<E> <= 127;
}();

// The largest magnitude of those integers.
template <element E>
inline constexpr int activation_magnitude = [] {
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    return detail::max_of(detail::lane_offset<E> - g.low, g.high - detail::lane_offset<E>);
}();

// A row of stored codes as fp32, by the formula of quantized.hpp.
template <any_scheme A> class code_reader {
public:
    static constexpr std::size_t longest = 512;
    code_reader(const quantized<A>& x, std::size_t row, const std::uint8_t* codes) noexcept
        : scales_(x.read_scales()), row_(row), group_size_(detail::scheme_traits<A>::group_size(x.cols())),
          codes_(codes) {}
    [[nodiscard]] const float* piece(std::size_t first, std::size_t count) noexcept {
        for (std::size_t at = 0; at < count;) {
            const std::size_t column = first + at;
            const std::size_t end = detail::min_of(count, at + group_size_ - column % group_size_);
            const float scale = scales_.scale(row_, column);
            const float zero = scales_.zero(row_, column);
            for (; at < end; ++at) piece_[at] = decode_value<A>(codes_[first + at], scale, zero);
        }
        return piece_;
    }

private:
    typename quantized<A>::scale_reader scales_;
    std::size_t row_;
    std::size_t group_size_;
    const std::uint8_t* codes_;
    float piece_[longest];
};

// Tokens of one block; `row` is scratch for layout.row_bytes() bytes and `codes` for cols, rounded up to 8. True if a
// code stands for -128, which not all tiles take.
template <any_scheme A>
[[nodiscard]] inline bool place_codes_of_block(const activation_layout& layout, const quantized<A>& x,
                                               std::size_t block, const activation_memory& memory, std::int8_t* row,
                                               std::uint8_t* codes) noexcept {
    using element = typename A::element_type;
    const detail::depth_plan& depth = layout.depth;
    const std::size_t first = layout.blocks.first(block);
    const std::size_t tokens = layout.blocks.first(block + 1) - first;
    const activation_memory out = memory.block(layout, first);
    bool below = false;
    for (std::size_t t = 0; t < tokens; ++t) {
        const std::size_t token = first + t;
        detail::load_codes<element>(x.row_codes(token), 0, x.cols(), codes);
        if (!layout.order.quantized()) {
            code_reader<A> from(x, token, codes);
            copy_token(layout, from, t, tokens, out);
            continue;
        }
        const typename quantized<A>::scale_reader scales = x.read_scales();
        for (std::size_t part = 0; part < depth.count; ++part) {
            const std::size_t n = depth.columns(part);
            const std::uint8_t* from = codes + depth.column(part);
            std::int8_t* to = row + depth.begin(part);
            std::int8_t lowest = 0;
            for (std::size_t i = 0; i < n; ++i) {
                to[i] = activation_integers<element>.at[from[i]];
                lowest = to[i] < lowest ? to[i] : lowest;
            }
            for (std::size_t i = n; i < detail::round_up(n, depth.step); ++i) to[i] = 0;
            below = below || lowest == -128;
        }
        constexpr float unit = detail::exp2i(detail::integer_mapping_of<element>.exponent);
        const auto scale_of = [&](std::size_t part) {
            return depth.count == 0 ? 0.0f : scales.scale(token, depth.column(part)) * unit;
        };
        std::int32_t offset = -detail::lane_offset<element>;
        if constexpr (A::has_integer_zero) {
            if (depth.count != 0) offset += static_cast<std::int32_t>(scales.zero(token, 0));
        }
        if (out.corrections != nullptr) out.corrections[t] = static_cast<float>(-offset) * scale_of(0);
        place_token(layout, row, t, tokens, out, offset, scale_of);
    }
    return below;
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
