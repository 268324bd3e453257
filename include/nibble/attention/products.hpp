// attention/products.hpp: the products of a task with keys and with values, behind functions: keys of a scheme are
// compiled once, and so are values, whatever they are paired with.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_side.hpp>
#include <nibble/kernel/attention_values.hpp>
#include <nibble/kernel/dequantize_keys.hpp>
#include <nibble/kernel/prefetch.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <new>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Where the keys, or the values, of one head lie in a page: what their layout comes to in plain numbers.
struct page_part {
    std::size_t codes, scales, zeros, bytes;
    std::size_t panel_bytes;             // codes of 16 tokens
    std::size_t slots;                   // scales of 16 tokens, or of a group of tokens that share them
    std::size_t slot_tokens;             // 16, or the tokens of that group
    std::size_t scale_bytes, zero_bytes; // of one

    template <class Keys> [[nodiscard]] static page_part of(const key_layout<Keys>& layout) noexcept {
        using format = key_format<Keys>;
        page_part p = common<format>(layout);
        p.panel_bytes = layout.panel_bytes;
        p.slots = layout.slots;
        if (format::tokens_per_group != 0) p.slot_tokens = format::tokens_per_group;
        return p;
    }
    // Of value_layout or prefix_layout.
    template <class Values> [[nodiscard]] static page_part of_values(const Values& layout) noexcept {
        page_part p = common<token_format<typename Values::scheme_type>>(layout);
        p.panel_bytes = layout.codes_at(panel_layout::rows) - layout.codes_at(0);
        p.slots = layout.slot(0, panel_layout::rows) - layout.slot(0, 0);
        return p;
    }
    // A piece that begins at token t, a multiple of 16.
    template <class Piece> void point(Piece& piece, const std::byte* page, std::size_t t) const noexcept {
        const std::size_t slot = t / slot_tokens * slots;
        piece.codes = page + codes + t / panel_layout::rows * panel_bytes;
        piece.scales = page + scales + slot * scale_bytes;
        piece.zeros = page + zeros + slot * zero_bytes;
    }

private:
    template <class Format, class Layout> [[nodiscard]] static page_part common(const Layout& layout) noexcept {
        return {.codes = layout.codes,
                .scales = layout.scales,
                .zeros = layout.zeros,
                .bytes = layout.bytes,
                .panel_bytes = 0,
                .slots = 0,
                .slot_tokens = panel_layout::rows,
                .scale_bytes = sizeof(typename Format::scale_code),
                .zero_bytes = sizeof(typename Format::zero_code)};
    }
};

// Room for what a task holds of a side; of no type that it knows.
struct side_storage {
    static constexpr std::size_t capacity = 640;
    alignas(16) std::byte bytes[capacity];
    template <class T, class... Arguments> void make(Arguments&&... arguments) noexcept {
        static_assert(sizeof(T) <= capacity && alignof(T) <= 16 && std::is_trivially_destructible_v<T>);
        ::new (static_cast<void*>(bytes)) T(static_cast<Arguments&&>(arguments)...);
    }
    template <class T> [[nodiscard]] T& as() noexcept { return *reinterpret_cast<T*>(bytes); }
};

// The keys of a task. `layout` is the key_layout of their pages, which stays; `queries` and `fixed` as key_side has
// them. `rotated`: they are decoded too.
struct key_operations {
    bool second_level; // are they prefetched into the second-level cache?
    page_part (*part)(const void* layout) noexcept;
    void (*make)(side_storage& at, const void* layout, std::size_t rows, const float* queries, float fixed,
                 bool rotated, kernel::arena& memory) noexcept;
    void (*prepare)(side_storage& at) noexcept;
    bool (*prefetches)(side_storage& at) noexcept;
    void (*scores)(side_storage& at, const kernel::key_piece& piece, float* out, const std::byte* next) noexcept;
    void (*decode)(void* at, const kernel::key_piece& piece, std::size_t panel, const float* mean, float* to) noexcept;
};
// And the values, of a value_layout or prefix_layout.
struct value_operations {
    bool second_level;
    page_part (*part)(const void* layout) noexcept;
    void (*make)(side_storage& at, const void* layout, std::size_t rows, float fixed, kernel::arena& memory) noexcept;
    bool (*prefetches)(side_storage& at) noexcept;
    void (*accumulate)(side_storage& at, const kernel::value_piece* pieces, std::size_t count, std::size_t begin,
                       std::size_t end, const float* probabilities, float* out, const std::byte* next,
                       kernel::prefetch_cursor& soon) noexcept;
};

template <isa Isa, class Keys, bool Integers> struct keys_of_task {
    kernel::key_side<Isa, Keys, Integers> products;
    kernel::panel_decoder<Isa, Keys> decoder;
    keys_of_task(const key_layout<Keys>& layout, std::size_t rows, const float* queries, float fixed, bool rotated,
                 kernel::arena& memory) noexcept
        : products(layout, rows, queries, fixed, memory), decoder(layout, fixed, rotated, memory) {}
};

template <isa Isa, class Keys, bool Integers>
inline constexpr key_operations key_table{
    .second_level = kernel::prefetches_l2<Isa, key_format<Keys>::element::bits>,
    .part = [](const void* layout) noexcept { return page_part::of(*static_cast<const key_layout<Keys>*>(layout)); },
    .make =
        [](side_storage& at, const void* layout, std::size_t rows, const float* queries, float fixed, bool rotated,
           kernel::arena& memory) noexcept {
            at.make<keys_of_task<Isa, Keys, Integers>>(*static_cast<const key_layout<Keys>*>(layout), rows, queries,
                                                       fixed, rotated, memory);
        },
    .prepare = [](side_storage& at) noexcept { at.as<keys_of_task<Isa, Keys, Integers>>().products.prepare(); },
    .prefetches =
        [](side_storage& at) noexcept { return at.as<keys_of_task<Isa, Keys, Integers>>().products.prefetches(); },
    .scores =
        [](side_storage& at, const kernel::key_piece& piece, float* out, const std::byte* next) noexcept {
            at.as<keys_of_task<Isa, Keys, Integers>>().products.scores(piece, out, next);
        },
    .decode =
        [](void* at, const kernel::key_piece& piece, std::size_t panel, const float* mean, float* to) noexcept {
            static_cast<side_storage*>(at)->as<keys_of_task<Isa, Keys, Integers>>().decoder.decode(piece, panel, mean,
                                                                                                   to);
        },
};

template <isa Isa, class Layout, bool Integers>
inline constexpr value_operations value_table{
    .second_level = kernel::prefetches_l2<Isa, Layout::format::element::bits>,
    .part = [](const void* layout) noexcept { return page_part::of_values(*static_cast<const Layout*>(layout)); },
    .make =
        [](side_storage& at, const void* layout, std::size_t rows, float fixed, kernel::arena& memory) noexcept {
            at.make<kernel::value_side<Isa, Layout, Integers>>(*static_cast<const Layout*>(layout), rows, fixed,
                                                               memory);
        },
    .prefetches =
        [](side_storage& at) noexcept { return at.as<kernel::value_side<Isa, Layout, Integers>>().prefetches(); },
    .accumulate =
        [](side_storage& at, const kernel::value_piece* pieces, std::size_t count, std::size_t begin, std::size_t end,
           const float* probabilities, float* out, const std::byte* next, kernel::prefetch_cursor& soon) noexcept {
            at.as<kernel::value_side<Isa, Layout, Integers>>().accumulate(pieces, count, begin, end, probabilities, out,
                                                                          next, soon);
        },
};

// With products of integers, if the scheme has any. Seams of compilation: see instantiate.hpp.
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

// All that a task asks of the schemes of its cache.
struct attention_products {
    struct layouts {
        const void* keys;
        const void* values;
    };
    const key_operations* keys = nullptr;
    const value_operations* values = nullptr;
    layouts (*of_cache)(const kv_sequence& cache) noexcept = nullptr;

    template <isa Isa, class Keys, class Values>
    [[nodiscard]] static attention_products of_precision(attention_precision precision) {
        NIBBLE_CHECK(precision == attention_precision::fp32 || precision == attention_precision::integer_scores ||
                         precision == attention_precision::integer,
                     "attention: no precision of that number");
        using cache_type = kv_cache<Keys, Values>;
        attention_products p{};
        p.keys = &key_operations_of<Isa, Keys>(precision != attention_precision::fp32);
        p.values = &value_operations_of<Isa, typename cache_type::pages_type::value_layout>(
            precision == attention_precision::integer);
        p.of_cache = [](const kv_sequence& cache) noexcept {
            const auto& pages = *static_cast<const cache_type&>(cache).pages();
            return layouts{&pages.keys(), &pages.values()};
        };
        return p;
    }
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
