// tile_slices.hpp: a list of formats cut into shares, one for each unit of a program that compiles products of all.
#pragma once

#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>

#include <array>
#include <cstddef>
#include <type_traits>

namespace bench {

// Formats with the same tiles: they share a slice, so that these are compiled once.
template <class T, bool Zeros> struct named_tiles {};
template <class S> struct tiles_of {
    using plan = nibble::kernel::gemm_plan<S, nibble::generic>;
    template <bool Real> static auto name() {
        if constexpr (Real)
            return named_tiles<typename S::element_type, false>{};
        else if constexpr (nibble::kernel::has_tile_sources<typename plan::alternative>)
            return named_tiles<typename plan::alternative::packed_loader, plan::has_zeros>{};
        else
            return named_tiles<typename plan::family::packed_loader, plan::has_zeros>{};
    }
    using type = decltype(name<!plan::integers>());
};

// The slice of each format of the list: the number of its tiles among all, modulo the slices.
template <std::size_t Slices, class... Formats>
[[nodiscard]] constexpr auto tile_slices(nibble::format_list<Formats...>) noexcept {
    std::array<std::size_t, sizeof...(Formats)> slice_of{};
    std::size_t at = 0;
    std::size_t kinds = 0;
    const auto place = [&]<class Format>() {
        std::size_t first = at;
        std::size_t other = 0;
        ((std::is_same_v<typename tiles_of<typename Format::scheme>::type,
                         typename tiles_of<typename Formats::scheme>::type>&& other < first
              ? first = other
              : first,
          ++other),
         ...);
        slice_of[at] = first != at ? slice_of[first] : kinds++ % Slices;
        ++at;
    };
    (place.template operator()<Formats>(), ...);
    return slice_of;
}

} // namespace bench
