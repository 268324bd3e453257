// epilogue/destination.hpp: where results go that are not simply stored as a matrix: rows chosen by number, or a type
// of yours.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/isa/stored_lanes.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What a verb writes to instead of a matrix: rows() x cols() results, each of which `put` takes once, at.count of eight
// lanes side by side. Different places are put by different threads at the same time; a row's columns come in any
// order, but always from one multiple of 8 to the next or to the row's end. A destination may also have  void check()
// const,  called before anything is written.
template <class D>
concept destination = requires(const D& y, lanes<generic> x, position at) {
    { y.rows() } -> std::convertible_to<std::size_t>;
    { y.cols() } -> std::convertible_to<std::size_t>;
    y.put(x, at);
};

// Result m goes to row rows[m] of y: the inverse of the rows that activation_options gathers, for a mixture of experts
// whose tokens are sorted by expert. The rows must ascend, so that none comes twice. scatter_rows replaces what is
// there; scatter_add adds: y(rows[m], n) += result(m, n), in fp32, rounded to y's type. Rows that are not named stay as
// they are. Several calls that add to one y must come one after the other.
template <bool Add, stored_float T> struct scatter {
    matrix_view<T> y;
    array_view<const std::uint32_t> list;
    scatter(matrix_view<T> to, array_view<const std::uint32_t> row_numbers) noexcept : y(to), list(row_numbers) {}
    [[nodiscard]] std::size_t rows() const noexcept { return list.size(); }
    [[nodiscard]] std::size_t cols() const noexcept { return y.cols(); }
    template <class Lanes> NIBBLE_INLINE void put(const Lanes& x, const position& at) const noexcept {
        using Isa = typename Lanes::isa_type;
        T* const to = y.row(list[at.token]) + at.output;
        if constexpr (Add)
            store_lanes<Isa>(to, load_lanes<Isa>(static_cast<const T*>(to), at.count) + x, at.count);
        else
            store_lanes<Isa>(to, x, at.count);
    }
    void check() const {
        for (std::size_t i = 0; i < list.size(); ++i) {
            NIBBLE_CHECK(list[i] < y.rows(), "scatter: a row number is not that of a row of y");
            NIBBLE_CHECK(i == 0 || list[i - 1] < list[i], "scatter: row numbers must ascend, each at most once");
        }
    }
};
template <stored_float T> struct scatter_rows : scatter<false, T> {
    using scatter<false, T>::scatter;
};
template <stored_float T> scatter_rows(matrix_view<T>, array_view<const std::uint32_t>) -> scatter_rows<T>;
template <stored_float T> struct scatter_add : scatter<true, T> {
    using scatter<true, T>::scatter;
};
template <stored_float T> scatter_add(matrix_view<T>, array_view<const std::uint32_t>) -> scatter_add<T>;

namespace detail {

template <class D> void check_destination(const D& y) {
    if constexpr (requires { y.check(); }) y.check();
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
