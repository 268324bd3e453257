// granularity.hpp: where a scale lives, as a concept; index arithmetic, nothing else.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// A granularity maps each weight (row, col) of a rows x cols matrix to the group of those that share one scale (and
// zero point):
//   count(rows, cols)           how many scale groups there are
//   group_size(cols)            how many consecutive columns of a row lie in a group, counted from column 0; the last
//                               of a row may be fewer. A multiple of 4, or at least cols: others are padded to that in
//                               packed weights
//   index(row, col, cols)       the group of a weight, below count
//   row_local                   true if no group has weights of two rows
template <class G>
concept granularity = requires(std::size_t n) {
    { G::count(n, n) } -> std::same_as<std::size_t>;
    { G::group_size(n) } -> std::same_as<std::size_t>;
    { G::index(n, n, n) } -> std::same_as<std::size_t>;
    { G::row_local } -> std::convertible_to<bool>;
};

// Two granularities, one inside the other: the inner one's scales are numbers of a small format, multiplied by the
// scale of the outer one (NVFP4: groups of 16 under the whole tensor). The outer group_size must be a multiple of
// the inner one.
template <class G>
concept nested_granularity = requires {
    typename G::inner;
    typename G::outer;
} && granularity<typename G::inner> && granularity<typename G::outer>;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
