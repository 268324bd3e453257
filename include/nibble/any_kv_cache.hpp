// any_kv_cache.hpp: kv_cache and attend for formats of keys and values that are known only at run time.
#pragma once

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/attention/options.hpp>
#include <nibble/attention/products.hpp>
#include <nibble/cache/pages.hpp>
#include <nibble/cache/storage.hpp>
#include <nibble/cache/stored_sequence.hpp>
#include <nibble/core/array_view.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What a cache can store that is no scheme, under a name, for a list of formats beside named_format:
// named_cache_format<"int4_g32_min_along_tokens", along_tokens<int4_g32_min>> of keys,
// named_cache_format<"prefix", prefix_of_keys> of values.
template <format_name Name, class Stored> struct named_cache_format {
    using scheme = Stored;
    static constexpr std::string_view name{Name.text, sizeof(Name.text) - 1};
};

namespace detail {

template <class Keys>
concept keys_with_prefix =
    key_format<Keys>::tokens_per_group == 0 && value_scheme<typename key_format<Keys>::scheme_type>;

// Tables of a list of formats, in its order.
template <class List> struct cached_formats;
template <class... Formats> struct cached_formats<format_list<Formats...>> {
    static constexpr std::size_t count = sizeof...(Formats);
    static constexpr std::string_view names[] = {Formats::name...};
    static constexpr bool has_prefix = (std::is_same_v<typename Formats::scheme, prefix_of_keys> || ...);

    // The place of a name in the list; count if it is not there.
    [[nodiscard]] static constexpr std::size_t find(std::string_view name) noexcept {
        std::size_t at = 0;
        while (at < count && names[at] != name) ++at;
        return at;
    }
    [[nodiscard]] static const key_storage& store_keys(std::size_t at) noexcept {
        static constexpr const key_storage* all[] = {&key_storage_of<typename Formats::scheme>...};
        return *all[at];
    }
    template <isa Isa> [[nodiscard]] static const key_operations& keys(std::size_t at, bool integers) noexcept {
        using get = const key_operations& (*)(bool) noexcept;
        static constexpr get all[] = {&key_operations_of<Isa, typename Formats::scheme>...};
        return all[at](integers);
    }
    // Of keys whose prefix is the values; nullptr for those that have none.
    template <class Keys> [[nodiscard]] static constexpr const value_storage* prefix_storage() noexcept {
        if constexpr (keys_with_prefix<Keys>)
            return &prefix_storage_of<Keys>;
        else
            return nullptr;
    }
    [[nodiscard]] static const value_storage* store_prefix(std::size_t at) noexcept {
        static constexpr const value_storage* all[] = {prefix_storage<typename Formats::scheme>()...};
        return all[at];
    }
    using get_values = const value_operations& (*)(bool) noexcept;
    template <isa Isa, class Keys> [[nodiscard]] static constexpr get_values prefix_operations() noexcept {
        if constexpr (keys_with_prefix<Keys>)
            return &value_operations_of<Isa, prefix_layout<Keys>>;
        else
            return nullptr;
    }
    template <isa Isa> [[nodiscard]] static const value_operations& prefix(std::size_t at, bool integers) noexcept {
        static constexpr get_values all[] = {prefix_operations<Isa, typename Formats::scheme>()...};
        return all[at](integers);
    }
    // Of values that are stored; nullptr for prefix_of_keys.
    template <class Values> [[nodiscard]] static constexpr const value_storage* own_storage() noexcept {
        if constexpr (std::is_same_v<Values, prefix_of_keys>)
            return nullptr;
        else
            return &value_storage_of<Values>;
    }
    [[nodiscard]] static const value_storage* store_values(std::size_t at) noexcept {
        static constexpr const value_storage* all[] = {own_storage<typename Formats::scheme>()...};
        return all[at];
    }
    template <isa Isa, class Values> [[nodiscard]] static constexpr get_values own_operations() noexcept {
        if constexpr (std::is_same_v<Values, prefix_of_keys>)
            return nullptr;
        else
            return &value_operations_of<Isa, value_layout<Values>>;
    }
    template <isa Isa> [[nodiscard]] static const value_operations& values(std::size_t at, bool integers) noexcept {
        static constexpr get_values all[] = {own_operations<Isa, typename Formats::scheme>()...};
        return all[at](integers);
    }
};

} // namespace detail

// Pages of keys and values in one format of each list, chosen by name; as kv_pages otherwise.
template <class KeyFormats, class ValueFormats> class any_kv_pages : public detail::page_memory {
    using key_list = detail::cached_formats<KeyFormats>;
    using value_list = detail::cached_formats<ValueFormats>;
    struct chosen {
        std::size_t keys = 0;
        std::size_t values = 0;
    };

public:
    // not_found for a name that its list lacks, with those that it has; unsupported for prefix_of_keys of keys that are
    // along tokens, or whose groups are no multiples of 16. Options that kv_cache refuses are the caller's error, as
    // there.
    [[nodiscard]] static status make(std::string_view keys, std::string_view values, const kv_cache_options& options,
                                     shared_ptr<any_kv_pages>& out, allocator from = {}) {
        const chosen at{key_list::find(keys), value_list::find(values)};
        if (at.keys == key_list::count)
            return detail::no_such_name("any_kv_pages", "format of keys", keys, key_list::names);
        if (at.values == value_list::count)
            return detail::no_such_name("any_kv_pages", "format of values", values, value_list::names);
        if (storage_of(at) == nullptr)
            return {status_code::unsupported,
                    "any_kv_pages: these keys are along tokens, or their groups are no multiples of 16: no prefix of "
                    "them can be values"};
        out = make_shared<any_kv_pages>(at, options, from);
        return {};
    }
    // What make calls.
    any_kv_pages(const chosen& at, const kv_cache_options& options, allocator from)
        : page_memory(options, key_list::store_keys(at.keys), *storage_of(at), from), at_(at) {}

    [[nodiscard]] std::string_view key_name() const noexcept { return key_list::names[at_.keys]; }
    [[nodiscard]] std::string_view value_name() const noexcept { return value_list::names[at_.values]; }

    // ---- for attend ----
    template <isa Isa>
    [[nodiscard]] detail::attention_products products(bool integer_scores, bool integer_values) const noexcept {
        const detail::key_operations& keys = key_list::template keys<Isa>(at_.keys, integer_scores);
        if constexpr (value_list::has_prefix)
            if (!stores_values()) return {&keys, &key_list::template prefix<Isa>(at_.keys, integer_values)};
        return {&keys, &value_list::template values<Isa>(at_.values, integer_values)};
    }
    template <isa Isa>
    [[nodiscard]] detail::attention_work work(bool integer_scores, bool integer_values) const noexcept {
        const detail::attention_products by = products<Isa>(integer_scores, integer_values);
        if constexpr (value_list::has_prefix)
            if (!stores_values()) return detail::attention_work::of<Isa, false>(by);
        return detail::attention_work::of<Isa, true>(by);
    }

private:
    [[nodiscard]] static const detail::value_storage* storage_of(const chosen& at) noexcept {
        if constexpr (value_list::has_prefix)
            if (value_list::store_values(at.values) == nullptr) return key_list::store_prefix(at.keys);
        return value_list::store_values(at.values);
    }

    chosen at_;
};

// A kv_cache of keys in one format of the first list and values in one of the second: what kv_cache says of its members
// holds for those of the same name here, and the numbers are the same bit for bit. Each format is compiled once as keys
// or as values, not once for each pair: name in the lists what you run, in any number of pairs.
//
// Without pages (as it is made, or moved from) it is empty: it can be assigned to and destroyed; all that needs pages
// fails and says so.
template <class KeyFormats, class ValueFormats> class any_kv_cache : public detail::stored_sequence {
public:
    using pages_type = any_kv_pages<KeyFormats, ValueFormats>;
    using key_formats = KeyFormats;
    using value_formats = ValueFormats;

    any_kv_cache() noexcept = default;
    explicit any_kv_cache(shared_ptr<pages_type> pages) : stored_sequence(pages), pages_(std::move(pages)) {}
    any_kv_cache(any_kv_cache&&) noexcept = default;
    any_kv_cache& operator=(any_kv_cache&&) noexcept = default;

    // With pages of its own; the status of any_kv_pages::make.
    [[nodiscard]] static status make(std::string_view keys, std::string_view values, const kv_cache_options& options,
                                     any_kv_cache& out, allocator from = {}) {
        shared_ptr<pages_type> pages;
        status s = pages_type::make(keys, values, options, pages, from);
        if (s.ok()) out = any_kv_cache(std::move(pages));
        return s;
    }

    [[nodiscard]] bool empty() const noexcept { return pages_ == nullptr; } // no pages, not: no tokens
    [[nodiscard]] const shared_ptr<pages_type>& pages() const noexcept { return pages_; }
    // Names in the lists; "" if empty.
    [[nodiscard]] std::string_view key_name() const noexcept { return empty() ? "" : pages_->key_name(); }
    [[nodiscard]] std::string_view value_name() const noexcept { return empty() ? "" : pages_->value_name(); }

    // Of keys and values, or, with prefix_of_keys, of keys alone.
    template <executor Executor = serial>
    void append(matrix_view<const float> k, matrix_view<const float> v, const Executor& threads = {}) {
        check_pages();
        NIBBLE_CHECK(pages_->stores_values(),
                     "any_kv_cache::append: values are a prefix of the keys here: append keys alone");
        append_rows(k, v, threads);
    }
    template <executor Executor = serial> void append(matrix_view<const float> k, const Executor& threads = {}) {
        check_pages();
        NIBBLE_CHECK(!pages_->stores_values(), "any_kv_cache::append: this cache stores values: append them too");
        append_rows(k, threads);
    }
    [[nodiscard]] any_kv_cache fork() const {
        check_pages();
        any_kv_cache copy(pages_);
        copy.share(*this);
        return copy;
    }

private:
    shared_ptr<pages_type> pages_;
};

// As attended_sequence; the sequences of a call may be in different formats.
template <class KeyFormats, class ValueFormats> struct any_attended_sequence {
    const any_kv_cache<KeyFormats, ValueFormats>* cache = nullptr;
    std::size_t first = 0;
    std::size_t count = 1;
};

namespace detail {

template <isa Isa, class K, class V>
[[nodiscard]] sequence_list list_of(array_view<const any_attended_sequence<K, V>> from, attention_precision precision) {
    return {from.data(), from.size(),
            [](const void* all, std::size_t i, attention_precision p) {
                const auto& s = static_cast<const any_attended_sequence<K, V>*>(all)[i];
                if (s.cache == nullptr || s.cache->empty()) return sequence_list::sequence{nullptr, s.first, s.count};
                const any_kv_pages<K, V>& pages = *s.cache->pages();
                const bool scores = integer_scores(p);
                return sequence_list::sequence{s.cache, s.first, s.count,
                                               pages.template work<Isa>(scores, integer_values(p))};
            },
            precision};
}

template <class K, class V>
[[nodiscard]] array_view<const any_attended_sequence<K, V>> any_view_of(const any_attended_sequence<K, V>* of,
                                                                        std::size_t count) {
    return {of, count};
}
template <class Sequences>
concept sequences_of_any_caches =
    requires(const Sequences& sequences) { any_view_of(sequences.data(), sequences.size()); };

} // namespace detail

// attend, attend_workspace_bytes and attention_mass of such caches: what those of a kv_cache say holds.
template <isa Isa = best_isa, class K, class V, executor Executor = serial>
void attend(matrix_view<const float> q, array_view<const any_attended_sequence<K, V>> sequences, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    detail::attend_sequences<Isa>(q, detail::list_of<Isa>(sequences, options.precision), out, options, threads);
}
template <isa Isa = best_isa, detail::sequences_of_any_caches Sequences, executor Executor = serial>
void attend(matrix_view<const float> q, const Sequences& sequences, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    attend<Isa>(q, detail::any_view_of(sequences.data(), sequences.size()), out, options, threads);
}
template <isa Isa = best_isa, class K, class V, executor Executor = serial>
void attend(matrix_view<const float> q, const any_kv_cache<K, V>& cache, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    const any_attended_sequence<K, V> one{&cache, 0, q.rows()};
    attend<Isa>(q, array_view<const any_attended_sequence<K, V>>(&one, 1), out, options, threads);
}

template <isa Isa = best_isa, class K, class V>
[[nodiscard]] std::size_t attend_workspace_bytes(array_view<const any_attended_sequence<K, V>> sequences,
                                                 std::size_t query_heads, std::size_t concurrency,
                                                 const attend_options& options = {}) {
    return detail::workspace_bytes_of(detail::list_of<Isa>(sequences, options.precision), query_heads, concurrency,
                                      options);
}
template <isa Isa = best_isa, detail::sequences_of_any_caches Sequences>
[[nodiscard]] std::size_t attend_workspace_bytes(const Sequences& sequences, std::size_t query_heads,
                                                 std::size_t concurrency, const attend_options& options = {}) {
    return attend_workspace_bytes<Isa>(detail::any_view_of(sequences.data(), sequences.size()), query_heads,
                                       concurrency, options);
}
template <isa Isa = best_isa, class K, class V>
[[nodiscard]] std::size_t attend_workspace_bytes(const any_kv_cache<K, V>& cache, std::size_t queries,
                                                 std::size_t query_heads, std::size_t concurrency,
                                                 const attend_options& options = {}) {
    const any_attended_sequence<K, V> one{&cache, 0, queries};
    return attend_workspace_bytes<Isa>(array_view<const any_attended_sequence<K, V>>(&one, 1), query_heads, concurrency,
                                       options);
}

template <isa Isa = best_isa, class K, class V, executor Executor = serial>
void attention_mass(matrix_view<const float> q, const any_kv_cache<K, V>& cache, matrix_view<const float> log_sums,
                    matrix_view<float> mass, const attend_options& options = {}, const Executor& threads = {}) {
    detail::check_mass(q, cache, log_sums, mass, options); // an empty cache too
    const detail::attention_products products =
        cache.pages()->template products<Isa>(detail::integer_scores(options.precision), false);
    if (cache.pages()->stores_values())
        return detail::sum_mass<Isa, true>(q, cache, products, log_sums, mass, options, threads);
    if constexpr (detail::cached_formats<V>::has_prefix)
        detail::sum_mass<Isa, false>(q, cache, products, log_sums, mass, options, threads);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
