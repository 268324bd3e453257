// kv_pair_slice.hpp: the templates behind kv_pair.hpp; included by attend/slices/ alone.
#pragma once

#include "support/kinds.hpp"
#include "support/kv_pair.hpp"

#include <nibble/attend.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/quantize.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace attend_test {

// ISAs a pair is compiled for: the best, and generic too for one pair of each family.
template <bool Generic, class Visit> void for_each_tested_isa(Visit&& visit) {
    visit.template operator()<nibble::best_isa>();
    if constexpr (Generic && !std::is_same_v<nibble::best_isa, nibble::generic>)
        visit.template operator()<nibble::generic>();
}

template <class Keys, class Values, bool Generic> class sequence_of final : public sequence {
public:
    using cache_type = nibble::kv_cache<Keys, Values>;
    explicit sequence_of(cache_type cache) : cache_(std::move(cache)) {}

    [[nodiscard]] const cache_type& cache() const { return cache_; }
    [[nodiscard]] const nibble::kv_cache_options& options() const override { return cache_.options(); }
    [[nodiscard]] std::size_t size() const override { return cache_.size(); }
    [[nodiscard]] std::size_t begin() const override { return cache_.begin(); }
    [[nodiscard]] std::size_t stored_keys() const override { return cache_.stored_keys(); }
    [[nodiscard]] std::size_t stored_values() const override { return cache_.stored_values(); }
    [[nodiscard]] std::size_t pages_needed(std::size_t count) const override { return cache_.pages_needed(count); }
    [[nodiscard]] std::size_t available() const override { return cache_.pages()->available(); }
    [[nodiscard]] std::size_t page_bytes() const override { return cache_.pages()->page_bytes(); }
    [[nodiscard]] std::size_t owners(std::size_t i) const override { return cache_.pages()->owners(cache_.page(i)); }
    void set_key_transform(std::shared_ptr<const nibble::kv_transform> t) override {
        cache_.set_key_transform(std::move(t));
    }
    void set_value_transform(std::shared_ptr<const nibble::kv_transform> t) override {
        cache_.set_value_transform(std::move(t));
    }
    [[nodiscard]] nibble::shared_ptr<const nibble::kv_transform> key_transform() const override {
        return cache_.key_transform();
    }
    void append(const_view k, const_view v, const test_executor& threads) override { cache_.append(k, v, threads); }
    void flush(const test_executor& threads) override { cache_.flush(threads); }
    void truncate(std::size_t count) override { cache_.truncate(count); }
    [[nodiscard]] bool can_truncate(std::size_t count) const override { return cache_.can_truncate(count); }
    [[nodiscard]] std::unique_ptr<sequence> fork() const override {
        return std::make_unique<sequence_of>(cache_.fork());
    }
    [[nodiscard]] std::unique_ptr<sequence> beside() const override {
        return std::make_unique<sequence_of>(cache_type(cache_.pages()));
    }
    void evict_before(std::size_t position) override { cache_.evict_before(position); }
    [[nodiscard]] std::size_t page_count() const override { return cache_.page_count(); }
    [[nodiscard]] bool has_page(std::size_t i) const override { return cache_.has_page(i); }
    [[nodiscard]] std::vector<std::byte> save_page(std::size_t i) const override {
        std::vector<std::byte> bytes(page_bytes());
        cache_.save_page(i, bytes);
        return bytes;
    }
    void drop_page(std::size_t i) override { cache_.drop_page(i); }
    void restore_page(std::size_t i, const std::vector<std::byte>& from) override { cache_.restore_page(i, from); }
    void read_keys(std::size_t head, std::size_t first, view out) const override { cache_.read_keys(head, first, out); }
    void read_values(std::size_t head, std::size_t first, view out) const override {
        cache_.read_values(head, first, out);
    }
    void attend(std::size_t isa, const_view q, view out, const nibble::attend_options& options,
                const test_executor& threads) const override {
        std::size_t at = 0;
        for_each_tested_isa<Generic>([&]<class I>() {
            if (at++ == isa) nibble::attend<I>(q, cache_, out, options, threads);
        });
    }
    [[nodiscard]] std::size_t workspace_bytes(std::size_t isa, std::size_t queries, std::size_t heads,
                                              std::size_t threads,
                                              const nibble::attend_options& options) const override {
        std::size_t at = 0;
        std::size_t bytes = 0;
        for_each_tested_isa<Generic>([&]<class I>() {
            if (at++ == isa) bytes = nibble::attend_workspace_bytes<I>(cache_, queries, heads, threads, options);
        });
        return bytes;
    }

private:
    cache_type cache_;
};

// What quantize makes of a matrix whose rows are tokens (of one head), and the scale that it chose for all of it, where
// the scheme has one.
template <class Scheme> [[nodiscard]] std::vector<float> quantized_rows(const_view x, float& scale) {
    using traits = nibble::detail::scheme_traits<Scheme>;
    const nibble::quantized<Scheme> q = nibble::quantize<Scheme>(x);
    if constexpr (Scheme::two_level)
        scale = nibble::detail::decoded<typename traits::outer_element>(q.outer_scales()[0]);
    else if constexpr (nibble::detail::token_format<Scheme>::per_tensor_scale && Scheme::scaled)
        scale = nibble::detail::decoded<typename traits::scale_element>(q.scales()[0]);
    std::vector<float> all(x.rows() * x.cols());
    nibble::dequantize(q, view(all.data(), x.rows(), x.cols()));
    return all;
}

template <class KeyFormat, class ValueFormat, bool Along, bool Generic> class kv_pair_of final : public kv_pair {
public:
    using key_scheme = typename KeyFormat::scheme;
    template <bool Turned, class S> struct keys_of {
        using type = S;
    };
    template <class S> struct keys_of<true, S> {
        using type = nibble::along_tokens<S>;
    };
    using Keys = typename keys_of<Along, key_scheme>::type;
    using Values = typename ValueFormat::scheme;
    using own_sequence = sequence_of<Keys, Values, Generic>;

    [[nodiscard]] std::string name() const override {
        return std::string(Along ? "along_tokens " : "") + std::string(KeyFormat::name) + " x " +
               std::string(ValueFormat::name);
    }
    [[nodiscard]] std::size_t tokens_per_group() const override {
        return nibble::detail::key_format<Keys>::tokens_per_group;
    }
    [[nodiscard]] bool integer_keys() const override {
        return nibble::detail::integer_mapping_of<typename key_scheme::element_type>.exists;
    }
    [[nodiscard]] bool integer_values() const override {
        return nibble::detail::integer_mapping_of<typename Values::element_type>.exists;
    }
    [[nodiscard]] bool has_offsets() const override {
        return nibble::detail::scheme_traits<key_scheme>::has_zero || nibble::detail::scheme_traits<Values>::has_zero;
    }
    [[nodiscard]] std::size_t isas() const override {
        std::size_t n = 0;
        for_each_tested_isa<Generic>([&]<class I>() { ++n; });
        return n;
    }
    [[nodiscard]] std::unique_ptr<sequence> make(const nibble::kv_cache_options& options,
                                                 nibble::allocator from) const override {
        return std::make_unique<own_sequence>(nibble::kv_cache<Keys, Values>(options, from));
    }
    void attend(const_view q, const std::vector<part_of_call>& parts, view out, const nibble::attend_options& options,
                const test_executor& threads) const override {
        std::vector<nibble::attended_sequence<Keys, Values>> all;
        for (const part_of_call& p : parts)
            all.push_back(
                {p.cache == nullptr ? nullptr : &static_cast<const own_sequence*>(p.cache)->cache(), p.first, p.count});
        nibble::attend<nibble::best_isa>(q, std::span<const nibble::attended_sequence<Keys, Values>>(all), out, options,
                                         threads);
    }
    [[nodiscard]] std::vector<float> quantized_keys(const_view k, float& scale) const override {
        if constexpr (Along) {
            constexpr std::size_t group = nibble::detail::key_format<Keys>::tokens_per_group;
            std::vector<float> all(k.rows() * k.cols());
            for (std::size_t first = 0; first + group <= k.rows(); first += group) {
                const const_view part(k.row(first), group, k.cols(), k.stride());
                nibble::dequantize_transposed(nibble::quantize_transposed<key_scheme>(part),
                                              view(all.data() + first * k.cols(), group, k.cols()));
            }
            return all;
        } else {
            return quantized_rows<key_scheme>(k, scale);
        }
    }
    [[nodiscard]] std::vector<float> quantized_values(const_view v, float& scale) const override {
        return quantized_rows<Values>(v, scale);
    }
};

namespace detail {

template <class... Formats> struct formats {
    template <class Format> using with = formats<Formats..., Format>;
    static constexpr std::size_t size = sizeof...(Formats);
};
template <std::size_t At, class First, class... Rest> struct nth {
    using type = typename nth<At - 1, Rest...>::type;
};
template <class First, class... Rest> struct nth<0, First, Rest...> {
    using type = First;
};
template <std::size_t At, class... Formats> auto format_at(formats<Formats...>) -> typename nth<At, Formats...>::type;

template <class List, std::size_t At, class... Rest> struct value_kinds_in {
    using type = List;
};
template <class List, std::size_t At, class Format, class... Rest> struct value_kinds_in<List, At, Format, Rest...> {
    static constexpr bool takes = nibble::value_scheme<typename Format::scheme> &&
                                  nibble_test::first_of_its_kind<At, Format>(nibble::all_formats{});
    using next = typename std::conditional_t<takes, typename List::template with<Format>, List>;
    using type = typename value_kinds_in<next, At + 1, Rest...>::type;
};
template <class... Formats>
auto value_kinds(nibble::format_list<Formats...>) -> typename value_kinds_in<formats<>, 0, Formats...>::type;

template <class... Formats, std::size_t... Index>
[[nodiscard]] constexpr bool first_of_family(std::size_t at, formats<Formats...>, std::index_sequence<Index...>) {
    // Of the formats before number `at`, none is of its family.
    bool first = true;
    const auto compare = [&]<class A, std::size_t I>() {
        const bool same = [&]<class... B, std::size_t... J>(formats<B...>, std::index_sequence<J...>) {
            return ((J == at && nibble_test::same_family<A, B>) || ...);
        }(formats<Formats...>{}, std::index_sequence<Index...>{});
        if (I < at && same) first = false;
    };
    (compare.template operator()<Formats, Index>(), ...);
    return first;
}

} // namespace detail

using kv_kinds = decltype(detail::value_kinds(nibble::all_formats{}));

template <std::size_t Slice> std::vector<std::unique_ptr<kv_pair>> make_kv_slice() {
    constexpr std::size_t kv_slices = NIBBLE_TEST_KV_SLICES;
    std::vector<std::unique_ptr<kv_pair>> all;
    // Neighbours in one slice: keys of a kind and values of the same kind share what they unpack with.
    constexpr std::size_t begin = kv_kinds::size * Slice / kv_slices;
    constexpr std::size_t end = kv_kinds::size * (Slice + 1) / kv_slices;
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        const auto one = [&]<std::size_t At>() {
            using key = decltype(detail::format_at<At>(kv_kinds{}));
            using value = decltype(detail::format_at<(At + 1) % kv_kinds::size>(kv_kinds{}));
            constexpr bool first = detail::first_of_family(At, kv_kinds{}, std::make_index_sequence<kv_kinds::size>{});
            // Narrowed builds keep one pair of each family, on one ISA.
            if constexpr (first || !nibble_test::kinds_only) {
                constexpr bool generic = first && !nibble_test::kinds_only;
                all.push_back(std::make_unique<kv_pair_of<key, value, false, generic>>());
                if constexpr (nibble::along_tokens_scheme<typename key::scheme>)
                    all.push_back(std::make_unique<kv_pair_of<key, value, true, generic>>());
            }
        };
        (one.template operator()<begin + Index>(), ...);
    }(std::make_index_sequence<end - begin>{});
    // No named format has one scale for everything, as FP8 caches often do.
    using fp8 = nibble::named_format<"fp8_e4m3_tensor",
                                     nibble::scheme<nibble::e4m3, nibble::per_tensor, nibble::scale<nibble::f32>>>;
    if constexpr (Slice + 1 == kv_slices) all.push_back(std::make_unique<kv_pair_of<fp8, fp8, false, false>>());
    return all;
}

} // namespace attend_test
