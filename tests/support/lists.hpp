// lists.hpp: what tests run over: the elements that the named formats use, and every small minifloat there can be.
#pragma once

#include "kinds.hpp"

#include <nibble/element/bipolar.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/sign_magnitude.hpp>
#include <nibble/scheme/formats.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

namespace nibble_test {

template <class... Types> struct type_list {
    static constexpr std::size_t size = sizeof...(Types);
};

// Calls visit.template operator()<Type>() for every type, in order.
template <class Visit, class... Types> void for_each_type(type_list<Types...>, Visit&& visit) {
    (visit.template operator()<Types>(), ...);
}

// ---- elements of the named formats, each once
// ------------------------------------------------------------------------

template <class List, class Type> struct with;
template <class... Types, class Type> struct with<type_list<Types...>, Type> {
    using type =
        std::conditional_t<(std::is_same_v<Types, Type> || ...), type_list<Types...>, type_list<Types..., Type>>;
};

template <class List, class... Formats> struct elements_in {
    using type = List;
};
template <class List, class Format, class... Rest> struct elements_in<List, Format, Rest...> {
    using scheme = typename Format::scheme;
    using traits = nibble::detail::scheme_traits<scheme>;
    using one = typename with<List, typename traits::element>::type;
    using two =
        typename with<one, std::conditional_t<scheme::scaled, typename traits::scale_element, nibble::f32>>::type;
    using three =
        typename with<two, std::conditional_t<scheme::two_level, typename traits::outer_element, nibble::f32>>::type;
    using four =
        typename with<three, std::conditional_t<scheme::has_minimum, typename traits::zero_element, nibble::f32>>::type;
    using type = typename elements_in<four, Rest...>::type;
};
template <class... Formats>
auto elements_of(nibble::format_list<Formats...>) -> typename elements_in<type_list<>, Formats...>::type;

using named_elements = decltype(elements_of(nibble::all_formats{}));

// ---- elements that no named format need use
// --------------------------------------------------------------------------------

using bipolar_elements = type_list<nibble::bipolar<1>, nibble::bipolar<2>, nibble::bipolar<3>, nibble::bipolar<4>,
                                   nibble::bipolar<5>, nibble::bipolar<6>, nibble::bipolar<7>, nibble::bipolar<8>>;
using balanced_elements = type_list<nibble::balanced<1>, nibble::balanced<2>, nibble::balanced<3>, nibble::balanced<4>,
                                    nibble::balanced<5>, nibble::balanced<6>, nibble::balanced<7>>;
using sign_magnitude_elements =
    type_list<nibble::sign_magnitude<2>, nibble::sign_magnitude<3>, nibble::sign_magnitude<4>,
              nibble::sign_magnitude<5>, nibble::sign_magnitude<6>, nibble::sign_magnitude<7>,
              nibble::sign_magnitude<8>>;
template <nibble::integer_range Range>
using integers_of = type_list<nibble::integer<2, Range>, nibble::integer<3, Range>, nibble::integer<4, Range>,
                              nibble::integer<5, Range>, nibble::integer<6, Range>, nibble::integer<7, Range>,
                              nibble::integer<8, Range>>;

// ---- minifloats: every split of `Bits` bits, signed and unsigned, under every convention of special codes
// -----------------

[[nodiscard]] constexpr bool is_valid_minifloat(nibble::float_format f) noexcept {
    if (f.exponent < 0 || f.mantissa < 0) return false;
    if (f.specials != nibble::specials::none && f.exponent == 0) return false;
    if (f.specials == nibble::specials::fnuz && !f.has_sign) return false;
    // 8 exponent bits at the default bias reach 2^128, which fp32 does not have, unless that code is special.
    return f.exponent < 8 || f.specials == nibble::specials::ieee || f.specials == nibble::specials::fn;
}

template <class Visit> constexpr void for_each_split(int bits, Visit&& visit) {
    for (const bool has_sign : {true, false})
        for (int exponent = 0; exponent <= 8; ++exponent)
            for (const nibble::specials specials :
                 {nibble::specials::none, nibble::specials::ieee, nibble::specials::fn, nibble::specials::fnuz}) {
                const nibble::float_format f{.exponent = exponent,
                                             .mantissa = bits - exponent - (has_sign ? 1 : 0),
                                             .specials = specials,
                                             .has_sign = has_sign};
                if (is_valid_minifloat(f)) visit(f);
            }
}

template <int Bits>
inline constexpr auto splits_of = [] {
    constexpr std::size_t count = [] {
        std::size_t n = 0;
        for_each_split(Bits, [&](nibble::float_format) { ++n; });
        return n;
    }();
    std::array<nibble::float_format, count> all{};
    std::size_t n = 0;
    for_each_split(Bits, [&](nibble::float_format f) { all[n++] = f; });
    return all;
}();

template <int Bits, std::size_t... Index>
auto minifloats_at(std::index_sequence<Index...>) -> type_list<nibble::minifloat<splits_of<Bits>[Index]>...>;
template <int Bits>
using minifloats_of = decltype(minifloats_at<Bits>(std::make_index_sequence<splits_of<Bits>.size()>{}));

// ---- a part of the formats, so that several units share the compilation of all
// -----------------------------------------------

template <std::size_t Part, std::size_t Parts, class Visit> void for_each_format_of_part(Visit&& visit) {
    [&]<class... Formats, std::size_t... Index>(nibble::format_list<Formats...>, std::index_sequence<Index...>) {
        const auto one = [&]<class Format, std::size_t At>() {
            if constexpr (At % Parts == Part && tested<At, Format>) visit.template operator()<Format>();
        };
        (one.template operator()<Formats, Index>(), ...);
    }(nibble::all_formats{}, std::make_index_sequence<nibble::all_formats::size>{});
}

// The type's name as the compiler spells it, for messages.
template <class Type> [[nodiscard]] constexpr std::string_view type_name() noexcept {
    std::string_view name = __PRETTY_FUNCTION__;
    const std::size_t begin = name.find("Type = ");
    if (begin != std::string_view::npos) name.remove_prefix(begin + 7);
    const std::size_t end = name.find("; std::string_view");
    if (end != std::string_view::npos) return name.substr(0, end);
    return name.substr(0, name.rfind(']'));
}

} // namespace nibble_test
