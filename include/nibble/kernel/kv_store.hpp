// kernel/kv_store.hpp: one token's keys or values of one head into its place in a page, and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/pack.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/tensor/kv_layout.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// Channels of a head, at most: what is worked on at once lies on the stack.
inline constexpr std::size_t longest_head = 1024;

// What a run of numbers stores: a code for each, a scale and a zero point for each group.
template <any_scheme S> struct stored_numbers {
    using format = detail::token_format<S>;
    typename format::element::code codes[longest_head];
    typename format::scale_code scales[longest_head / 4];
    typename format::zero_code zeros[longest_head / 4];
};

// x[0, count), all finite, in groups of `group_size`; `fixed` is the scale that is known beforehand: of all numbers, or
// the outer one. The two halves of quantize with the same codes and scales, but that nothing becomes infinite: without
// a scale too large numbers saturate.
template <any_scheme S>
NIBBLE_NOINLINE void quantize_numbers(const float* x, std::size_t count, std::size_t group_size, float fixed,
                                      stored_numbers<S>& out) noexcept {
    using format = detail::token_format<S>;
    using element = typename format::element;
    constexpr std::size_t most = longest_head / 4; // groups
    float scales[format::stores_scales ? most : 1];
    float zeros[format::stores_zeros ? most : 1];
    float units[longest_head];
    if constexpr (format::stores_scales) {
        float numbers[asks_range<S> ? 3 : 1][most];
        double sums[asks_sum<S> ? most : 1];
        unsigned char nonfinite[most];
        statistics_of_groups all{numbers[0], nullptr, nullptr, sums, nonfinite};
        if constexpr (asks_range<S>) {
            all.low = numbers[1];
            all.high = numbers[2];
        }
        const std::size_t groups = detail::ceil_div(count, group_size);
        measure_groups<asks_range<S>, asks_sum<S>>(x, groups, group_size, count, all);
        outer_parameters outer{};
        outer.scale = fixed;
        parameters_of_groups<S, asks_range<S>, asks_sum<S>>(all, groups, group_size, count, outer, true,
                                                            {out.scales, out.zeros, scales, zeros});
    } else {
        scales[0] = fixed;
        group_size = count;
    }
    constexpr unit_encoder<element> nearest{&encode_units<element, rounding::nearest_even, overflow::saturate>};
    encode_groups<S>(x, count, group_size, group_size, scales, zeros, nearest, 0, units, out.codes);
}

// The value of a code of slot i, as quantized::value_at has it.
template <any_scheme S>
[[nodiscard]] inline float stored_value(typename detail::token_format<S>::element::code code,
                                        typename detail::token_format<S>::scale_code scale_code,
                                        typename detail::token_format<S>::zero_code zero_code, float fixed) noexcept {
    using traits = detail::scheme_traits<S>;
    float scale = fixed;
    float zero = 0.0f;
    if constexpr (detail::token_format<S>::stores_scales) {
        scale = detail::decoded<typename traits::scale_element>(scale_code);
        if constexpr (S::two_level) scale *= fixed;
    }
    if constexpr (S::has_integer_zero)
        zero = detail::decoded<typename traits::element>(zero_code);
    else if constexpr (S::has_minimum)
        zero = detail::decoded<typename traits::zero_element>(zero_code);
    return decode_value<S>(code, scale, zero);
}

// ---- keys
// ----------------------------------------------------------------------------------------------------------------

// visit(channel, codes of its quad's step, quad in the step, column in the quad) in order, one call per quad.
template <element E, class Byte, class Visit>
NIBBLE_INLINE void for_each_key_quad(const detail::plain_key_layout& layout, Byte* part, std::size_t token,
                                     const Visit& visit) noexcept {
    constexpr std::size_t quads = detail::step_quads<E>;
    Byte* panel = part + layout.codes + token / panel_layout::rows * layout.panel_bytes;
    for (std::size_t group = 0; group < layout.depth.count; ++group) {
        const std::size_t first = layout.depth.column(group);
        const std::size_t count = layout.depth.columns(group);
        const std::size_t begin = layout.depth.begin(group) / panel_layout::quad;
        for (std::size_t i = 0; i < count; i += panel_layout::quad) {
            const std::size_t q = begin + i / panel_layout::quad;
            visit(first + i, detail::min_of(panel_layout::quad, count - i), panel + q / quads * detail::step_bytes<E>,
                  q % quads);
        }
    }
}

template <element E>
inline void put_key_codes(const detail::plain_key_layout& layout, std::byte* part, std::size_t token,
                          const typename E::code* codes) noexcept {
    const std::size_t row = token % panel_layout::rows;
    for_each_key_quad<E>(layout, part, token, [&](std::size_t channel, std::size_t n, std::byte* step, std::size_t q) {
        if constexpr (E::bits > 8) {
            auto* to = reinterpret_cast<typename E::code*>(step);
            for (std::size_t j = 0; j < n; ++j) to[j * panel_layout::rows + row] = codes[channel + j];
        } else {
            std::uint8_t quad[4] = {};
            for (std::size_t j = 0; j < 4; ++j) quad[j] = j < n ? codes[channel + j] : padding_code<E>;
            put_quad<E>(reinterpret_cast<std::uint8_t*>(step), q, row, load_word(quad));
        }
    });
}
template <element E>
inline void get_key_codes(const detail::plain_key_layout& layout, const std::byte* part, std::size_t token,
                          typename E::code* codes) noexcept {
    const std::size_t row = token % panel_layout::rows;
    for_each_key_quad<E>(layout, part, token,
                         [&](std::size_t channel, std::size_t n, const std::byte* step, std::size_t q) {
                             if constexpr (E::bits > 8) {
                                 const auto* from = reinterpret_cast<const typename E::code*>(step);
                                 for (std::size_t j = 0; j < n; ++j)
                                     codes[channel + j] = from[j * panel_layout::rows + row];
                             } else {
                                 std::uint8_t quad[4];
                                 store_word(quad, get_quad<E>(reinterpret_cast<const std::uint8_t*>(step), q, row));
                                 for (std::size_t j = 0; j < n; ++j) codes[channel + j] = quad[j];
                             }
                         });
}

// Where the scales (or zero points) that belong to a token stand: slot i of it at [i x stride].
template <class Keys>
[[nodiscard]] NIBBLE_INLINE std::size_t key_slot(const detail::plain_key_layout& layout, std::size_t token) noexcept {
    using format = detail::key_format<Keys>;
    if constexpr (format::tokens_per_group != 0)
        return token / format::tokens_per_group * layout.slots;
    else
        return token / panel_layout::rows * layout.slots + token % panel_layout::rows;
}
template <class Keys>
inline constexpr std::size_t key_slot_stride = detail::key_format<Keys>::tokens_per_group != 0 ? 1 : panel_layout::rows;

// A token whose scales are its own.
template <class Keys>
inline void store_key(const detail::plain_key_layout& layout, std::byte* part, std::size_t token, const float* x,
                      float fixed) noexcept {
    using format = detail::key_format<Keys>;
    stored_numbers<typename format::scheme_type> numbers;
    quantize_numbers<typename format::scheme_type>(x, layout.channels, layout.depth.group_size, fixed, numbers);
    put_key_codes<typename format::element>(layout, part, token, numbers.codes);
    const std::size_t at = key_slot<Keys>(layout, token);
    for (std::size_t i = 0; i < layout.depth.count; ++i) {
        if constexpr (format::stores_scales)
            reinterpret_cast<typename format::scale_code*>(part + layout.scales)[at + i * panel_layout::rows] =
                numbers.scales[i];
        if constexpr (format::stores_zeros)
            reinterpret_cast<typename format::zero_code*>(part + layout.zeros)[at + i * panel_layout::rows] =
                numbers.zeros[i];
    }
}

// Keys of one head that wait in fp32, in the layout of a page in f32: the token at position p at p % tokens.
struct waiting_keys {
    const std::byte* panels = nullptr;
    std::size_t panel_bytes = 0;
    std::size_t tokens = 0;
    std::size_t first = 0; // of those that are meant
    // `count` of them, a multiple of 16, in one channel.
    NIBBLE_INLINE void column(std::size_t channel, std::size_t count, float* x) const noexcept {
        constexpr std::size_t rows = panel_layout::rows;
        for (std::size_t t = 0; t < count; t += rows)
            __builtin_memcpy(x + t, panels + (first + t) % tokens / rows * panel_bytes + channel * rows * sizeof(float),
                             rows * sizeof(float));
    }
};

// A complete group of tokens from `token` on, whose channels have a scale each; `transposed` is scratch for a code of
// every token and channel.
template <class Keys>
inline void store_key_group(const detail::plain_key_layout& layout, std::byte* part, std::size_t token,
                            const waiting_keys& from, float fixed,
                            typename detail::key_format<Keys>::element::code* transposed) noexcept {
    using format = detail::key_format<Keys>;
    using scheme = typename format::scheme_type;
    constexpr std::size_t tokens = format::tokens_per_group;
    constexpr std::size_t together =
        detail::max_of<std::size_t>(1, quantize_block / detail::max_of<std::size_t>(1, tokens));
    const std::size_t at = key_slot<Keys>(layout, token);
    float x[together * tokens];
    stored_numbers<scheme> numbers;
    for (std::size_t first = 0; first < layout.channels; first += together) {
        const std::size_t n = detail::min_of(together, layout.channels - first);
        for (std::size_t c = 0; c < n; ++c) from.column(first + c, tokens, x + c * tokens);
        quantize_numbers<scheme>(x, n * tokens, tokens, fixed, numbers);
        for (std::size_t c = 0; c < n; ++c) {
            if constexpr (format::stores_scales)
                reinterpret_cast<typename format::scale_code*>(part + layout.scales)[at + first + c] =
                    numbers.scales[c];
            if constexpr (format::stores_zeros)
                reinterpret_cast<typename format::zero_code*>(part + layout.zeros)[at + first + c] = numbers.zeros[c];
            for (std::size_t t = 0; t < tokens; ++t)
                transposed[t * layout.channels + first + c] = numbers.codes[c * tokens + t];
        }
    }
    for (std::size_t t = 0; t < tokens; ++t)
        put_key_codes<typename format::element>(layout, part, token + t, transposed + t * layout.channels);
}

template <class Keys>
inline void load_key(const detail::plain_key_layout& layout, const std::byte* part, std::size_t token, float fixed,
                     float* x) noexcept {
    using format = detail::key_format<Keys>;
    typename format::element::code codes[longest_head];
    get_key_codes<typename format::element>(layout, part, token, codes);
    const std::size_t at = key_slot<Keys>(layout, token);
    const auto* scales = reinterpret_cast<const typename format::scale_code*>(part + layout.scales);
    const auto* zeros = reinterpret_cast<const typename format::zero_code*>(part + layout.zeros);
    for (std::size_t c = 0; c < layout.channels; ++c) {
        const std::size_t slot =
            at + (format::tokens_per_group != 0 ? c : c / layout.depth.group_size) * key_slot_stride<Keys>;
        typename format::scale_code scale{};
        typename format::zero_code zero{};
        if constexpr (format::stores_scales) scale = scales[slot];
        if constexpr (format::stores_zeros) zero = zeros[slot];
        x[c] = stored_value<typename format::scheme_type>(codes[c], scale, zero, fixed);
    }
}

// As if the token, or the group of tokens from it on, had never been stored.
template <class Keys>
inline void clear_key(const detail::plain_key_layout& layout, std::byte* part, std::size_t token) noexcept {
    using format = detail::key_format<Keys>;
    using element = typename format::element;
    const std::size_t row = token % panel_layout::rows;
    for_each_key_quad<element>(layout, part, token, [&](std::size_t, std::size_t n, std::byte* step, std::size_t q) {
        if constexpr (element::bits > 8) {
            for (std::size_t j = 0; j < n; ++j)
                reinterpret_cast<typename element::code*>(step)[j * panel_layout::rows + row] = 0;
        } else {
            put_quad<element>(reinterpret_cast<std::uint8_t*>(step), q, row, panel_flip<element> * 0x01010101u);
        }
    });
    if (format::tokens_per_group != 0 && token % detail::max_of<std::size_t>(1, format::tokens_per_group) != 0) return;
    const std::size_t at = key_slot<Keys>(layout, token);
    const std::size_t count = format::tokens_per_group != 0 ? layout.channels : layout.depth.count;
    for (std::size_t i = 0; i < count; ++i) {
        if constexpr (format::stores_scales)
            reinterpret_cast<typename format::scale_code*>(part + layout.scales)[at + i * key_slot_stride<Keys>] = 0;
        if constexpr (format::stores_zeros)
            reinterpret_cast<typename format::zero_code*>(part + layout.zeros)[at + i * key_slot_stride<Keys>] = 0;
    }
}

// ---- values
// --------------------------------------------------------------------------------------------------------------

// The place of a token's code in a panel: the step, and which quad, and for 16 bits and more the column.
template <element E, class Byte, class Visit>
NIBBLE_INLINE void for_each_value(const detail::plain_value_layout& layout, Byte* part, std::size_t token,
                                  const Visit& visit) noexcept {
    constexpr std::size_t quads = detail::step_quads<E>;
    const std::size_t quad = token / panel_layout::quad;
    Byte* step = part + layout.codes + quad / quads * detail::step_bytes<E>;
    for (std::size_t c = 0; c < layout.channels; ++c)
        visit(c, step + c / panel_layout::rows * layout.panel_bytes, quad % quads, c % panel_layout::rows);
}
template <element E>
inline void put_value_codes(const detail::plain_value_layout& layout, std::byte* part, std::size_t token,
                            const typename E::code* codes) noexcept {
    const std::size_t column = token % panel_layout::quad;
    for_each_value<E>(layout, part, token, [&](std::size_t c, std::byte* step, std::size_t q, std::size_t row) {
        if constexpr (E::bits > 8)
            reinterpret_cast<typename E::code*>(step)[column * panel_layout::rows + row] = codes[c];
        else
            put_quad<E>(reinterpret_cast<std::uint8_t*>(step), q, row, codes[c] * 0x01010101u, 0xffu << (8 * column));
    });
}

template <class Values>
inline void store_value(const detail::plain_value_layout& layout, std::byte* part, std::size_t token, const float* x,
                        float fixed) noexcept {
    using format = detail::token_format<Values>;
    stored_numbers<Values> numbers;
    quantize_numbers<Values>(x, layout.channels, format::group == 0 ? layout.channels : format::group, fixed, numbers);
    put_value_codes<typename format::element>(layout, part, token, numbers.codes);
    for (std::size_t g = 0; g < layout.groups; ++g) {
        if constexpr (format::stores_scales)
            reinterpret_cast<typename format::scale_code*>(part + layout.scales)[g * layout.tokens + token] =
                numbers.scales[g];
        if constexpr (format::stores_zeros)
            reinterpret_cast<typename format::zero_code*>(part + layout.zeros)[g * layout.tokens + token] =
                numbers.zeros[g];
    }
}

template <class Values>
inline void load_value(const detail::plain_value_layout& layout, const std::byte* part, std::size_t token, float fixed,
                       float* x) noexcept {
    using format = detail::token_format<Values>;
    using element = typename format::element;
    const std::size_t column = token % panel_layout::quad;
    for_each_value<element>(
        layout, part, token, [&](std::size_t c, const std::byte* step, std::size_t q, std::size_t row) {
            typename element::code code{};
            if constexpr (element::bits > 8)
                code = reinterpret_cast<const typename element::code*>(step)[column * panel_layout::rows + row];
            else
                code = static_cast<std::uint8_t>(
                    get_quad<element>(reinterpret_cast<const std::uint8_t*>(step), q, row) >> (8 * column));
            const std::size_t slot =
                (format::group == 0 ? 0 : c / detail::max_of<std::size_t>(1, format::group)) * layout.tokens + token;
            typename format::scale_code scale{};
            typename format::zero_code zero{};
            if constexpr (format::stores_scales)
                scale = reinterpret_cast<const typename format::scale_code*>(part + layout.scales)[slot];
            if constexpr (format::stores_zeros)
                zero = reinterpret_cast<const typename format::zero_code*>(part + layout.zeros)[slot];
            x[c] = stored_value<Values>(code, scale, zero, fixed);
        });
}

template <class Values>
inline void clear_value(const detail::plain_value_layout& layout, std::byte* part, std::size_t token) noexcept {
    using format = detail::token_format<Values>;
    using element = typename format::element;
    typename element::code zeros[longest_head] = {};
    if constexpr (element::bits <= 8)
        for (std::size_t c = 0; c < layout.channels; ++c) zeros[c] = static_cast<std::uint8_t>(panel_flip<element>);
    put_value_codes<typename format::element>(layout, part, token, zeros);
    for (std::size_t g = 0; g < layout.groups; ++g) {
        if constexpr (format::stores_scales)
            reinterpret_cast<typename format::scale_code*>(part + layout.scales)[g * layout.tokens + token] = 0;
        if constexpr (format::stores_zeros)
            reinterpret_cast<typename format::zero_code*>(part + layout.zeros)[g * layout.tokens + token] = 0;
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
