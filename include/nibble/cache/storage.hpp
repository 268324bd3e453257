// cache/storage.hpp: how numbers of one scheme are stored in pages: tables of functions, so that sequences are compiled
// once for all schemes, and a scheme once as keys and once as values whatever it is paired with.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/kernel/kv_store.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// `part` is where the keys, or values, of a page and head lie.
struct key_storage {
    plain_key_layout (*layout)(std::size_t page_tokens, std::size_t head_size) noexcept;
    std::size_t tokens_per_group; // of keys along tokens, or 0
    std::size_t code_bytes;       // of the scratch that store_group has for each of its tokens and channels
    // A key whose scales are its own; nothing for keys along tokens.
    void (*store)(const plain_key_layout& layout, std::byte* part, std::size_t token, const float* x,
                  float fixed) noexcept;
    // A group of keys along tokens; nothing for others.
    void (*store_group)(const plain_key_layout& layout, std::byte* part, std::size_t token,
                        const kernel::waiting_keys& from, float fixed, std::byte* scratch) noexcept;
    void (*load)(const plain_key_layout& layout, const std::byte* part, std::size_t token, float fixed,
                 float* x) noexcept;
    void (*clear)(const plain_key_layout& layout, std::byte* part, std::size_t token) noexcept;
};
struct value_storage {
    plain_value_layout (*layout)(const plain_key_layout& keys, std::size_t value_size) noexcept;
    bool stored; // or the values are keys, and there is nothing to store
    void (*store)(const plain_value_layout& layout, std::byte* part, std::size_t token, const float* x,
                  float fixed) noexcept;
    void (*load)(const plain_value_layout& layout, const std::byte* part, std::size_t token, float fixed,
                 float* x) noexcept;
    void (*clear)(const plain_value_layout& layout, std::byte* part, std::size_t token) noexcept;
};

template <class Keys>
inline constexpr key_storage key_storage_of = {
    .layout = [](std::size_t page_tokens, std::size_t head_size) noexcept -> plain_key_layout {
        return key_layout<Keys>(page_tokens, head_size);
    },
    .tokens_per_group = key_format<Keys>::tokens_per_group,
    .code_bytes = sizeof(typename key_format<Keys>::element::code),
    .store =
        [](const plain_key_layout& layout, std::byte* part, std::size_t token, const float* x, float fixed) noexcept {
            if constexpr (key_format<Keys>::tokens_per_group == 0)
                kernel::store_key<Keys>(layout, part, token, x, fixed);
        },
    .store_group =
        [](const plain_key_layout& layout, std::byte* part, std::size_t token, const kernel::waiting_keys& from,
           float fixed, std::byte* scratch) noexcept {
            if constexpr (key_format<Keys>::tokens_per_group != 0)
                kernel::store_key_group<Keys>(layout, part, token, from, fixed,
                                              reinterpret_cast<typename key_format<Keys>::element::code*>(scratch));
        },
    .load = [](const plain_key_layout& layout, const std::byte* part, std::size_t token, float fixed,
               float* x) noexcept { kernel::load_key<Keys>(layout, part, token, fixed, x); },
    .clear = [](const plain_key_layout& layout, std::byte* part,
                std::size_t token) noexcept { kernel::clear_key<Keys>(layout, part, token); }};

template <class Values>
inline constexpr value_storage value_storage_of = {
    .layout = [](const plain_key_layout& keys, std::size_t value_size) noexcept -> plain_value_layout {
        return value_layout<Values>(keys.tokens, value_size);
    },
    .stored = true,
    .store = [](const plain_value_layout& layout, std::byte* part, std::size_t token, const float* x,
                float fixed) noexcept { kernel::store_value<Values>(layout, part, token, x, fixed); },
    .load = [](const plain_value_layout& layout, const std::byte* part, std::size_t token, float fixed,
               float* x) noexcept { kernel::load_value<Values>(layout, part, token, fixed, x); },
    .clear = [](const plain_value_layout& layout, std::byte* part,
                std::size_t token) noexcept { kernel::clear_value<Values>(layout, part, token); }};

// Values that are a prefix of keys stored so.
template <class Keys>
inline constexpr value_storage prefix_storage_of = {
    .layout = [](const plain_key_layout& keys, std::size_t value_size) noexcept -> plain_value_layout {
        return prefix_layout<Keys>(keys, value_size);
    },
    .stored = false,
    .store = nullptr,
    .load = nullptr,
    .clear = nullptr};
template <class Keys, class Values> [[nodiscard]] constexpr const value_storage& storage_of_values() noexcept {
    if constexpr (values_of_cache<Keys, Values>::stored)
        return value_storage_of<Values>;
    else
        return prefix_storage_of<Keys>;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
