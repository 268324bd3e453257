// kinds.hpp: one format of each kind, for builds in which every format would take too long.
#pragma once

#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <type_traits>
#include <utility>

namespace nibble_test {

// Formats of one kind share every kernel: they differ in group size or in what a scale is stored in, which a kernel reads
// through two lines of widening.
template <class A, class B>
inline constexpr bool same_kind = std::is_same_v<typename A::scheme::element_type, typename B::scheme::element_type> &&
                                  std::is_same_v<typename A::scheme::zero_type, typename B::scheme::zero_type> &&
                                  A::scheme::two_level == B::scheme::two_level &&
                                  A::scheme::has_offset == B::scheme::has_offset;

// Is the list's format number Index the first of its kind?
template <std::size_t Index, class Format, class... Formats>
[[nodiscard]] constexpr bool first_of_its_kind(nibble::format_list<Formats...>) noexcept {
    std::size_t at = 0;
    std::size_t first = Index;
    ((same_kind<Format, Formats> && at < first ? first = at : first, ++at), ...);
    return first == Index;
}

// Sanitizer builds (NIBBLE_TEST_KINDS_ONLY) keep one format of each kind, all others every format.
#if defined(NIBBLE_TEST_KINDS_ONLY)
inline constexpr bool kinds_only = true;
#else
inline constexpr bool kinds_only = false;
#endif
template <std::size_t Index, class Format>
inline constexpr bool tested = !kinds_only || first_of_its_kind<Index, Format>(nibble::all_formats{});

// How many formats that leaves.
inline constexpr std::size_t tested_formats = []<class... Formats, std::size_t... Index>(
                                                  nibble::format_list<Formats...>, std::index_sequence<Index...>) {
    return (std::size_t{0} + ... + (tested<Index, Formats> ? 1u : 0u));
}(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});

template <class Visit>
void for_each_kind(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nibble::format_list<Formats...> list, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (first_of_its_kind<At, Format>(nibble::format_list<Formats...>{})) visit.template operator()<Format>();
        };
        (void)list;
        (one.template operator()<Formats, Index>(), ...);
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});
}

} // namespace nibble_test
