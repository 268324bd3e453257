// kinds.hpp: one format of each kind, and one ISA, for builds in which every one would take too long.
#pragma once

#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

namespace nibble_test {

// Formats of one kind share every kernel: they differ in group size or in what a scale is stored in, which a kernel
// reads through two lines of widening.
template <class A, class B>
inline constexpr bool same_kind =
    std::is_same_v<typename A::scheme::element_type, typename B::scheme::element_type> &&
    std::is_same_v<typename A::scheme::zero_type, typename B::scheme::zero_type> &&
    A::scheme::two_level == B::scheme::two_level && A::scheme::has_offset == B::scheme::has_offset;

// Is the list's format number Index the first of its kind?
template <std::size_t Index, class Format, class... Formats>
[[nodiscard]] constexpr bool first_of_its_kind(nibble::format_list<Formats...>) noexcept {
    std::size_t at = 0;
    std::size_t first = Index;
    ((same_kind<Format, Formats>&& at < first ? first = at : first, ++at), ...);
    return first == Index;
}

// Narrowed builds (NIBBLE_TEST_KINDS_ONLY) keep one format of each kind, one that looks for races of threads
// (NIBBLE_TEST_FAMILIES_ONLY too) one of each family, all others every format.
#if defined(NIBBLE_TEST_FAMILIES_ONLY)
inline constexpr bool families_only = true;
#else
inline constexpr bool families_only = false;
#endif
#if defined(NIBBLE_TEST_KINDS_ONLY)
inline constexpr bool kinds_only = true;
#else
inline constexpr bool kinds_only = false;
#endif

// visit.operator()<I>() for every ISA, or in those builds, where templates are slow to compile, for the best alone:
// gemm/slices/ keep all for one format of each family there.
template <class Visit> constexpr void for_each_tested_isa(Visit&& visit) {
    if constexpr (kinds_only)
        visit.template operator()<nibble::best_isa>();
    else
        nibble::for_each_isa(visit);
}

// All of a list, or in those builds, which run slowly too, every third and the last.
template <class T> [[nodiscard]] std::vector<T> some_of(std::initializer_list<T> all) {
    std::vector<T> some;
    for (std::size_t i = 0; i < all.size(); ++i)
        if (!kinds_only || i % 3 == 0 || i + 1 == all.size()) some.push_back(all.begin()[i]);
    return some;
}

// Formats of one family ask the same of activations and of what surrounds the sums; their codes differ.
template <class A, class B>
inline constexpr bool same_family = [] {
    using namespace nibble::detail;
    using a = typename A::scheme;
    using b = typename B::scheme;
    const bool multiply_alike =
        integer_mapping_of<typename a::element_type>.exists == integer_mapping_of<typename b::element_type>.exists &&
        fits_int16_sums<typename a::element_type> == fits_int16_sums<typename b::element_type>;
    return multiply_alike && a::has_integer_zero == b::has_integer_zero && a::has_minimum == b::has_minimum &&
           a::two_level == b::two_level && a::scaled == b::scaled;
}();

// Is the list's format number Index the first of its family?
template <std::size_t Index, class Format, class... Formats>
[[nodiscard]] constexpr bool first_of_its_family(nibble::format_list<Formats...>) noexcept {
    std::size_t at = 0;
    bool found = false;
    ((found = found || (at++ < Index && same_family<Format, Formats>)), ...);
    return !found;
}

template <std::size_t Index, class Format>
inline constexpr bool tested = families_only ? first_of_its_family<Index, Format>(nibble::all_formats{})
                                             : !kinds_only || first_of_its_kind<Index, Format>(nibble::all_formats{});

// Is it compiled for all ISAs, not for the best alone?
template <std::size_t Index, class Format>
inline constexpr bool on_all_isas = kinds_only ? first_of_its_family<Index, Format>(nibble::all_formats{})
                                               : first_of_its_kind<Index, Format>(nibble::all_formats{});

// How many formats that leaves.
inline constexpr std::size_t tested_formats =
    []<class... Formats, std::size_t... Index>(nibble::format_list<Formats...>, std::index_sequence<Index...>) {
        return (std::size_t{0} + ... + (tested<Index, Formats> ? 1u : 0u));
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});

// visit.operator()<Format>() for those.
template <class Visit> void for_each_tested_format(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nibble::format_list<Formats...>, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (tested<At, Format>) visit.template operator()<Format>();
        };
        (one.template operator()<Formats, Index>(), ...);
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});
}

// visit.operator()<Format>() for the first format of the list of each family.
template <class Visit> void for_each_family(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nibble::format_list<Formats...>, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (first_of_its_family<At, Format>(nibble::format_list<Formats...>{}))
                visit.template operator()<Format>();
        };
        (one.template operator()<Formats, Index>(), ...);
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});
}

template <class Visit> void for_each_kind(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nibble::format_list<Formats...> list, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (first_of_its_kind<At, Format>(nibble::format_list<Formats...>{}))
                visit.template operator()<Format>();
        };
        (void)list;
        (one.template operator()<Formats, Index>(), ...);
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});
}

} // namespace nibble_test
