// attention/products.hpp: the products of attention with keys, and with values, of one scheme: tables of functions, so
// that a task is compiled once for all schemes, and a scheme once as keys and once as values whatever it is paired
// with.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_side.hpp>
#include <nibble/kernel/attention_values.hpp>
#include <nibble/kernel/dequantize_keys.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Room for an object whose type only the table that made it knows, and which needs no destructor.
template <class Like> struct alignas(Like) room_for {
    std::byte bytes[sizeof(Like)];
    // Not the standard's way to say where: one copy of that serves all instruction sets of a program.
    template <class T> struct placed {
        T value;
        [[nodiscard]] static void* operator new(std::size_t, void* at) noexcept { return at; }
    };
    template <class T, class... Arguments> static void make(void* at, Arguments&&... arguments) noexcept {
        static_assert(sizeof(T) <= sizeof(Like) && alignof(T) <= alignof(Like) && std::is_trivially_destructible_v<T>);
        new (at) placed<T>{T(static_cast<Arguments&&>(arguments)...)};
    }
};

// Keys: make is kernel::score_product's constructor, make_decoder that of kernel::panel_decoder, at rooms for such.
struct key_operations {
    void (*make)(void* at, const plain_key_layout& keys, std::size_t rows, const float* queries, float fixed,
                 kernel::arena& memory) noexcept;
    void (*prepare)(void* side) noexcept;
    bool (*prefetches)(const void* side) noexcept;
    void (*scores)(void* side, const kernel::key_piece& piece, float* out, const std::byte* next) noexcept;
    void (*make_decoder)(void* at, const plain_key_layout& keys, float fixed, bool used,
                         kernel::arena& memory) noexcept;
    void (*decode)(void* decoder, const kernel::key_piece& piece, std::size_t p, const float* mean, float* to) noexcept;
    bool prefetches_l2; // into the second-level cache
};
struct value_operations {
    void (*make)(void* at, const plain_value_layout& values, std::size_t rows, float fixed,
                 kernel::arena& memory) noexcept;
    bool (*prefetches)(const void* side) noexcept;
    void (*accumulate)(void* side, const kernel::value_piece* pieces, std::size_t count, std::size_t begin,
                       std::size_t end, const float* probabilities, float* out, const std::byte* next,
                       kernel::prefetch_cursor& soon) noexcept;
    bool prefetches_l2;
};

template <isa Isa> using score_product_room = room_for<kernel::score_product<Isa, f32_plain, false>>;
template <isa Isa> using decoder_room = room_for<kernel::panel_decoder<Isa, f32_plain>>;
template <isa Isa> using value_product_room = room_for<kernel::value_product<Isa, value_layout<f32_plain>, false>>;

template <isa Isa, class Keys, bool Integers>
inline constexpr key_operations key_table = [] {
    using side = kernel::score_product<Isa, Keys, Integers>;
    using decoder = kernel::panel_decoder<Isa, Keys>;
    key_operations p{};
    p.make = [](void* at, const plain_key_layout& keys, std::size_t rows, const float* queries, float fixed,
                kernel::arena& memory) noexcept {
        score_product_room<Isa>::template make<side>(at, keys, rows, queries, fixed, memory);
    };
    p.prepare = [](void* at) noexcept { static_cast<side*>(at)->prepare(); };
    p.prefetches = [](const void* at) noexcept { return static_cast<const side*>(at)->prefetches(); };
    p.scores = [](void* at, const kernel::key_piece& piece, float* out, const std::byte* next) noexcept {
        static_cast<side*>(at)->scores(piece, out, next);
    };
    p.make_decoder = [](void* at, const plain_key_layout& keys, float fixed, bool used,
                        kernel::arena& memory) noexcept {
        decoder_room<Isa>::template make<decoder>(at, keys, fixed, used, memory);
    };
    p.decode = [](void* at, const kernel::key_piece& piece, std::size_t panel, const float* mean, float* to) noexcept {
        static_cast<decoder*>(at)->decode(piece, panel, mean, to);
    };
    p.prefetches_l2 = kernel::prefetches_l2<Isa, key_format<Keys>::element::bits>;
    return p;
}();
// Layout: value_layout of a scheme, or prefix_layout of keys.
template <isa Isa, class Layout, bool Integers>
inline constexpr value_operations value_table = [] {
    using side = kernel::value_product<Isa, Layout, Integers>;
    value_operations p{};
    p.make = [](void* at, const plain_value_layout& values, std::size_t rows, float fixed,
                kernel::arena& memory) noexcept {
        value_product_room<Isa>::template make<side>(at, values, rows, fixed, memory);
    };
    p.prefetches = [](const void* at) noexcept { return static_cast<const side*>(at)->prefetches(); };
    p.accumulate = [](void* at, const kernel::value_piece* pieces, std::size_t count, std::size_t begin,
                      std::size_t end, const float* probabilities, float* out, const std::byte* next,
                      kernel::prefetch_cursor& soon) noexcept {
        static_cast<side*>(at)->accumulate(pieces, count, begin, end, probabilities, out, next, soon);
    };
    p.prefetches_l2 = kernel::prefetches_l2<Isa, Layout::scheme_type::element_type::bits>;
    return p;
}();

// With products of integers, if the scheme has any: other elements take them in fp32 either way. Seams of compilation:
// see instantiate.hpp.
template <isa Isa, class Keys> NIBBLE_NOINLINE const key_operations& key_operations_of(bool integers) noexcept {
    if constexpr (kernel::attention_side<Isa, typename key_format<Keys>::scheme_type, true>::integer)
        if (integers) return key_table<Isa, Keys, true>;
    return key_table<Isa, Keys, false>;
}
template <isa Isa, class Layout> NIBBLE_NOINLINE const value_operations& value_operations_of(bool integers) noexcept {
    if constexpr (kernel::attention_side<Isa, typename Layout::scheme_type, true>::integer)
        if (integers) return value_table<Isa, Layout, true>;
    return value_table<Isa, Layout, false>;
}

[[nodiscard]] inline bool integer_scores(attention_precision precision) {
    NIBBLE_CHECK(precision == attention_precision::fp32 || precision == attention_precision::integer_scores ||
                     precision == attention_precision::integer,
                 "attention: no precision of that number");
    return precision != attention_precision::fp32;
}
[[nodiscard]] inline bool integer_values(attention_precision precision) noexcept {
    return precision == attention_precision::integer;
}

// What a call's precision makes of the schemes of a cache.
struct attention_products {
    const key_operations* keys = nullptr;
    const value_operations* values = nullptr;
    template <isa Isa, class Keys, class Values>
    [[nodiscard]] static attention_products of(bool integer_scores, bool integer_values) noexcept {
        return {&key_operations_of<Isa, Keys>(integer_scores),
                &value_operations_of<Isa, typename values_of_cache<Keys, Values>::layout>(integer_values)};
    }
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
