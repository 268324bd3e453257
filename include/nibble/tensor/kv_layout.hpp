// kv_layout.hpp: where the keys and values of one head lie within a page of a kv_cache: token after token into panels.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/layout.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Keys per channel: scheme S, which must have per_group<G>, with its groups along the tokens: G consecutive tokens of
// one channel share a scale (KIVI). A number of tokens that is no multiple of G leaves the last ones in fp32 until
// their group is complete; and those of an append stay in it until their own queries have seen them (kv_storing).
template <any_scheme S> struct along_tokens {
    using scheme_type = S;
};

namespace detail {

template <class G> inline constexpr std::size_t group_size_of = 0;
template <std::size_t Size> inline constexpr std::size_t group_size_of<per_group<Size>> = Size;
template <class G> struct inner_granularity {
    using type = G;
};
template <class Inner, class Outer> struct inner_granularity<two_level<Inner, Outer>> {
    using type = Inner;
};

template <any_scheme S> using token_granularity = typename inner_granularity<typename S::granularity_type>::type;
template <any_scheme S>
inline constexpr bool outer_scale_is_one = [] {
    if constexpr (S::two_level)
        return std::same_as<typename scheme_traits<S>::outer_granularity, per_tensor>;
    else
        return true;
}();

} // namespace detail

// Schemes that keys and values can be stored in token by token. A token is a row: per_channel is one scale per token,
// per_group<G> one per token and G channels, per_tensor one for all, which must be known beforehand, as must be the
// outer one of two_level.
template <class S>
concept token_scheme =
    any_scheme<S> &&
    (detail::group_size_of<detail::token_granularity<S>> != 0 ||
     std::same_as<detail::token_granularity<S>, per_channel> ||
     (std::same_as<detail::token_granularity<S>, per_tensor> && !detail::scheme_traits<S>::has_zero)) &&
    detail::outer_scale_is_one<S> && !S::has_two_level_minimum && !S::has_offset;
// Of values, whose groups are to be whole panels of 16 channels.
template <class S>
concept value_scheme = token_scheme<S> && detail::group_size_of<detail::token_granularity<S>> % panel_layout::rows == 0;
// Of keys whose groups run along the tokens.
template <class S>
concept along_tokens_scheme =
    token_scheme<S> && !S::two_level && detail::group_size_of<detail::token_granularity<S>> != 0 &&
    detail::group_size_of<detail::token_granularity<S>> % panel_layout::rows == 0;

// Values that take no memory of their own: those of a token are the first value_size channels of its key, as the cache
// stores them (multi-head latent attention: DeepSeek-V2, arXiv:2405.04434). Keys are then a scheme with per_channel,
// per_tensor or groups of a multiple of 16.
struct prefix_of_keys {};

template <class V>
concept cached_values = any_scheme<V> || std::same_as<V, prefix_of_keys>;

namespace detail {

// What a scheme says about the numbers of a cache.
template <any_scheme S> struct token_format {
    using scheme_type = S;
    using traits = scheme_traits<S>;
    using element = typename traits::element;
    static constexpr std::size_t group = group_size_of<token_granularity<S>>; // channels; 0: all of the token's
    static constexpr bool per_tensor_scale = std::same_as<token_granularity<S>, per_tensor>;
    static_assert(token_scheme<S>,
                  "kv_cache: a scheme must have per_channel (one scale per token), per_group, per_tensor without "
                  "zero points, or two_level of those under per_tensor, such as int8_channel, int4_g32, nvfp4");
    // One scale for everything is part of the cache's options, not stored with the tokens.
    static constexpr bool stores_scales = S::scaled && !per_tensor_scale;
    static constexpr bool stores_zeros = traits::has_zero;
    using scale_code = typename traits::scale_code;
    using zero_code = typename traits::zero_code;
    [[nodiscard]] static constexpr std::size_t groups(std::size_t channels) noexcept {
        return group == 0 ? 1 : ceil_div(channels, group);
    }
};

// Keys, as a scheme or along_tokens of one.
template <class Keys> struct key_format : token_format<Keys> {
    static constexpr std::size_t tokens_per_group = 0; // scales belong to tokens
};
template <any_scheme S> struct key_format<along_tokens<S>> : token_format<S> {
    static constexpr std::size_t tokens_per_group = token_format<S>::group;
    static_assert(along_tokens_scheme<S>,
                  "kv_cache: along_tokens needs a scheme with per_group of a multiple of 16, such as int4_g32_min");
};

// Bytes of the keys of one head in a page of `tokens` tokens, each section on a 64-byte boundary:
//   codes   panels of 16 tokens, all channels of a panel in the order of layout.hpp, a token being a row
//   scales  [panel][group of channels][16 tokens], or along tokens [group of tokens][channel]
//   zeros   likewise
// In plain numbers, which say what all schemes have in common.
struct plain_key_layout {
    std::size_t tokens = 0;
    std::size_t channels = 0;
    depth_plan depth{};
    std::size_t panel_bytes = 0;
    std::size_t slots = 0; // scales per panel, or per group of tokens
    std::size_t codes = 0, scales = 0, zeros = 0, bytes = 0;
    std::size_t tokens_per_group = 0;            // of keys along tokens, or 0
    std::size_t scale_bytes = 0, zero_bytes = 0; // of a slot
    [[nodiscard]] std::size_t panels() const noexcept { return tokens / panel_layout::rows; }
};
template <class Keys> struct key_layout : plain_key_layout {
    using format = key_format<Keys>;
    using element = typename format::element;

    key_layout() noexcept = default;
    key_layout(std::size_t tokens_per_page, std::size_t head_size) noexcept {
        constexpr std::size_t step = step_quads<element> * panel_layout::quad;
        tokens = tokens_per_page;
        channels = head_size;
        depth = depth_plan::make(head_size,
                                 format::tokens_per_group != 0 || format::group == 0 ? head_size : format::group, step);
        panel_bytes = depth.padded / depth.step * step_bytes<element>;
        slots = format::tokens_per_group != 0 ? head_size : depth.count * panel_layout::rows;
        tokens_per_group = format::tokens_per_group;
        scale_bytes = sizeof(typename format::scale_code);
        zero_bytes = sizeof(typename format::zero_code);
        const std::size_t count =
            slots *
            (format::tokens_per_group != 0 ? tokens / max_of<std::size_t>(1, format::tokens_per_group) : panels());
        scales = round_up(panels() * panel_bytes, 64);
        zeros = scales + round_up(format::stores_scales ? count * scale_bytes : 0, 64);
        bytes = zeros + round_up(format::stores_zeros ? count * zero_bytes : 0, 64);
    }
};

// Bytes of the values likewise: a channel is a row, and tokens are columns.
//   codes   panels of 16 channels, all tokens of the page
//   scales  [group of channels][token]
//   zeros   likewise
struct plain_value_layout {
    std::size_t tokens = 0;
    std::size_t channels = 0;
    std::size_t panel_bytes = 0; // with prefix_of_keys: of 16 tokens
    std::size_t groups = 1;
    std::size_t panels_per_group = 0;
    std::size_t codes = 0, scales = 0, zeros = 0, bytes = 0;
    std::size_t scale_bytes = 0, zero_bytes = 0;
    std::size_t step_tokens = 1, step_bytes = 0;  // of codes: so many tokens further
    std::size_t panel_slots = 0, group_slots = 0; // between the slots of tokens 16 apart, and of groups
    [[nodiscard]] std::size_t panels() const noexcept { return ceil_div(channels, panel_layout::rows); }
    // Where attention finds token t of a page (a multiple of 16), and its scales.
    [[nodiscard]] std::size_t codes_at(std::size_t t) const noexcept { return codes + t / step_tokens * step_bytes; }
    [[nodiscard]] std::size_t slot(std::size_t group, std::size_t t) const noexcept {
        return t / panel_layout::rows * panel_slots + group * group_slots + t % panel_layout::rows;
    }
};
template <class Values> struct value_layout : plain_value_layout {
    using format = token_format<Values>;
    using element = typename format::element;
    using scheme_type = Values;
    static constexpr bool transposed = false; // or they are keys
    static_assert(value_scheme<Values>, "kv_cache: groups of values must be multiples of 16 channels");

    value_layout() noexcept = default;
    value_layout(std::size_t tokens_per_page, std::size_t head_size) noexcept {
        constexpr std::size_t step = step_quads<element> * panel_layout::quad;
        tokens = tokens_per_page;
        channels = head_size;
        panel_bytes = tokens / step * detail::step_bytes<element>;
        groups = format::groups(channels);
        panels_per_group = format::group == 0 ? panels() : format::group / panel_layout::rows;
        scale_bytes = sizeof(typename format::scale_code);
        zero_bytes = sizeof(typename format::zero_code);
        step_tokens = step;
        step_bytes = detail::step_bytes<element>;
        panel_slots = panel_layout::rows;
        group_slots = tokens;
        scales = round_up(panels() * panel_bytes, 64);
        zeros = scales + round_up(format::stores_scales ? groups * tokens * scale_bytes : 0, 64);
        bytes = zeros + round_up(format::stores_zeros ? groups * tokens * zero_bytes : 0, 64);
    }
};

// Values that are a prefix of keys stored so.
template <class Keys> struct prefix_layout : plain_value_layout {
    using scheme_type = typename key_format<Keys>::scheme_type;
    using format = token_format<scheme_type>;
    static constexpr bool transposed = true;
    static_assert(key_format<Keys>::tokens_per_group == 0 && value_scheme<scheme_type>,
                  "kv_cache: with prefix_of_keys the keys must be a scheme whose groups are multiples of 16 channels, "
                  "not along_tokens");

    prefix_layout() noexcept = default;
    prefix_layout(const plain_key_layout& of, std::size_t value_size) noexcept {
        tokens = of.tokens;
        channels = value_size;
        panel_bytes = of.panel_bytes;
        groups = format::groups(value_size);
        panels_per_group = format::group == 0 ? panels() : format::group / panel_layout::rows;
        codes = of.codes;
        scales = of.scales;
        zeros = of.zeros;
        scale_bytes = of.scale_bytes;
        zero_bytes = of.zero_bytes;
        step_tokens = panel_layout::rows;
        step_bytes = of.panel_bytes;
        panel_slots = of.slots;
        group_slots = panel_layout::rows;
    }
};

// Where the values of a cache are.
template <class Keys, class Values> struct values_of_cache {
    using layout = value_layout<Values>;
    static constexpr bool stored = true;
    [[nodiscard]] static layout make(const plain_key_layout& keys, std::size_t value_size) noexcept {
        return layout(keys.tokens, value_size);
    }
};
template <class Keys> struct values_of_cache<Keys, prefix_of_keys> {
    using layout = prefix_layout<Keys>;
    static constexpr bool stored = false;
    [[nodiscard]] static layout make(const plain_key_layout& keys, std::size_t value_size) noexcept {
        return layout(keys, value_size);
    }
};

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
