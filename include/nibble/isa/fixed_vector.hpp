// fixed_vector.hpp: vectors of a fixed number of lanes, as compilers have them on every machine: what loops use whose
// length no ISA decides.
#pragma once

#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Operators work lane by lane, comparisons give masks of integers of the same size, and __builtin_shufflevector moves
// lanes. Passed by reference, where longer than 16 bytes: without AVX compilers pass such vectors otherwise than with
// it, and say so.
template <class T, std::size_t Lanes> struct fixed_vector_of {
    using type __attribute__((vector_size(Lanes * sizeof(T)))) = T;
};
template <class T, std::size_t Lanes> using fixed_vector = typename fixed_vector_of<T, Lanes>::type;
using four_floats = fixed_vector<float, 4>;
using eight_floats = fixed_vector<float, 8>;
using eight_words = fixed_vector<std::int32_t, 8>;

// The lanes of an ISA's own vector.
template <class Lanes> NIBBLE_INLINE void to_vector(const Lanes& from, fixed_vector<float, Lanes::width>& to) noexcept {
    float v[Lanes::width];
    from.store(v, Lanes::width);
    __builtin_memcpy(&to, v, sizeof to);
}

// Within each four lanes: a0 b0 a1 b1 or a2 b2 a3 b3 by ones, a0 a1 b0 b1 or a2 a3 b2 b3 by twos.
template <std::size_t Width, bool High, bool Twos, class Vector, std::size_t... At>
NIBBLE_INLINE void interleave(const Vector& a, const Vector& b, Vector& to, std::index_sequence<At...>) noexcept {
    if constexpr (Twos)
        to = __builtin_shufflevector(a, b, (At / 4 * 4 + At % 2 + (High ? 2 : 0) + (At % 4 / 2 != 0 ? Width : 0))...);
    else
        to = __builtin_shufflevector(a, b, (At / 4 * 4 + At % 4 / 2 + (High ? 2 : 0) + (At % 2 != 0 ? Width : 0))...);
}

// Lanes 4 i .. 4 i + 3 of columns[j] are lane 4 i + j of rows 0, 1, 2, 3.
template <std::size_t Width>
NIBBLE_INLINE void transpose(const fixed_vector<float, Width> (&rows)[4],
                             fixed_vector<float, Width> (&columns)[4]) noexcept {
    constexpr std::make_index_sequence<Width> all{};
    fixed_vector<float, Width> low01, high01, low23, high23;
    interleave<Width, false, false>(rows[0], rows[1], low01, all);
    interleave<Width, true, false>(rows[0], rows[1], high01, all);
    interleave<Width, false, false>(rows[2], rows[3], low23, all);
    interleave<Width, true, false>(rows[2], rows[3], high23, all);
    interleave<Width, false, true>(low01, low23, columns[0], all);
    interleave<Width, true, true>(low01, low23, columns[1], all);
    interleave<Width, false, true>(high01, high23, columns[2], all);
    interleave<Width, true, true>(high01, high23, columns[3], all);
}

// Lanes 4 Index .. 4 Index + 3.
template <std::size_t Index, class Vector> [[nodiscard]] NIBBLE_INLINE four_floats four_of(const Vector& v) noexcept {
    return __builtin_shufflevector(v, v, 4 * Index, 4 * Index + 1, 4 * Index + 2, 4 * Index + 3);
}

// to[lane x stride + row] = rows[row][lane]
template <std::size_t Width, std::size_t Rows>
NIBBLE_INLINE void store_transposed(const fixed_vector<float, Width> (&rows)[4], float* to,
                                    std::size_t stride) noexcept {
    fixed_vector<float, Width> columns[4];
    transpose<Width>(rows, columns);
    [&]<std::size_t... At>(std::index_sequence<At...>) NIBBLE_INLINE_LAMBDA {
        const auto store = [&]<std::size_t Lane>() NIBBLE_INLINE_LAMBDA {
            const four_floats v = four_of<Lane / 4>(columns[Lane % 4]);
            __builtin_memcpy(to + Lane * stride, &v, Rows * sizeof(float));
        };
        (store.template operator()<At>(), ...);
    }(std::make_index_sequence<Width>{});
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
