// levels.hpp: rounding to a sorted list of values, by thresholds; what codebook and elements without an encode share.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Where a list's ties go under rounding::nearest_even.
enum class list_tie {
    even_code, // to the even code of the two, down if none or both are
    down,      // down, and the tie is the middle rounded to fp32
};

// x goes up from `below` to its neighbour `above` exactly if x is larger than this; for the roundings that depend on x
// alone.
template <rounding Rounding, list_tie Ties>
[[nodiscard]] constexpr float last_that_stays(float below, float above, bool above_is_even) noexcept {
    const bool above_is_smaller = abs_of(above) < abs_of(below);
    const bool equal = abs_of(above) == abs_of(below);
    if constexpr (Rounding == rounding::floor) return just_under(above);
    if constexpr (Rounding == rounding::ceiling) return below;
    if constexpr (Rounding == rounding::toward_zero) {
        if (equal) return just_under(0.0f);
        return above_is_smaller ? below : just_under(above);
    }
    const double sum = static_cast<double>(below) + static_cast<double>(above);
    const float middle = static_cast<float>(sum * 0.5);
    if constexpr (Rounding == rounding::nearest_even && Ties == list_tie::down) return middle;
    bool tie_goes_up = above_is_even;
    if constexpr (Rounding == rounding::half_up) tie_goes_up = true;
    if constexpr (Rounding == rounding::half_away) tie_goes_up = !above_is_smaller;
    if constexpr (Rounding == rounding::half_toward_zero) tie_goes_up = above_is_smaller || equal;
    // What the sum lost (Knuth's two-sum) decides on which side of the true middle an fp32 value lies.
    const double part = sum - static_cast<double>(below);
    const double lost = (static_cast<double>(below) - (sum - part)) + (static_cast<double>(above) - part);
    const double beyond = 2.0 * static_cast<double>(middle) - sum;
    const bool is_above = beyond > lost;
    const bool is_tie = beyond == lost;
    return is_above || (is_tie && tie_goes_up) ? just_under(middle) : middle;
}

// A list is a type with
//   static constexpr std::size_t count;        levels, at most 256
//   static constexpr list_tie ties;
//   static constexpr <...> sorted;             sorted.values.at[i] ascending and finite, sorted.codes.at[i]
// Thresholds are filled up to a power of two with infinity.
template <class List, rounding Rounding>
inline constexpr auto level_thresholds = [] {
    table<float, detail::bit_ceil(List::count)> t{};
    for (std::size_t i = 0; i < t.size; ++i) t.at[i] = infinity;
    for (std::size_t i = 0; i + 1 < List::count; ++i)
        t.at[i] = last_that_stays<Rounding, List::ties>(List::sorted.values.at[i], List::sorted.values.at[i + 1],
                                                        (List::sorted.codes.at[i] & 1) != 0 &&
                                                            (List::sorted.codes.at[i + 1] & 1) == 0);
    return t;
}();

// As words: tables of bytes cannot be gathered.
template <class List>
inline constexpr auto level_codes = [] {
    table<std::uint32_t, List::count> t{};
    for (std::size_t i = 0; i < List::count; ++i) t.at[i] = List::sorted.codes.at[i];
    return t;
}();

// Up to this many levels, comparing with every threshold is faster than any search: vectors have no branches and no
// gathers.
inline constexpr std::size_t levels_compared = 32;

// How many of Count thresholds, every Step-th one, lie under x.
template <std::size_t Count, std::size_t Step, class Thresholds>
[[nodiscard]] NIBBLE_INLINE constexpr std::uint32_t count_under(float x, const Thresholds& t) noexcept {
    return [&]<std::size_t... At>(std::index_sequence<At...>) {
        return (0u + ... + static_cast<std::uint32_t>(x > t.at[(At + 1) * Step - 1]));
    }(std::make_index_sequence<Count>{});
}

// How many thresholds lie under x. Branch-free.
template <class List, rounding Rounding>
[[nodiscard]] NIBBLE_INLINE constexpr std::uint32_t level_rank(float x) noexcept {
    constexpr const auto& t = level_thresholds<List, Rounding>;
    if constexpr (List::count <= levels_compared) {
        return count_under<List::count - 1, 1>(x, t);
    } else {
        // A sixteenth by comparing, which is what vectors do well, then by halves. Unrolled here: GCC makes a loop of
        // the halves that is three times as slow.
        constexpr std::uint32_t part = static_cast<std::uint32_t>(t.size / 16);
        constexpr std::uint32_t halves = static_cast<std::uint32_t>(detail::bit_width(part)) - 1;
        std::uint32_t rank = part * count_under<15, part>(x, t);
        [&]<std::uint32_t... At>(std::integer_sequence<std::uint32_t, At...>) {
            ((rank += static_cast<std::uint32_t>(x > t.at[rank + (part >> (At + 1)) - 1]) << (halves - 1 - At)), ...);
        }(std::make_integer_sequence<std::uint32_t, halves>{});
        return rank;
    }
}

// The code of x. Few levels: a sum over all thresholds, each with the step from one code to the next, so that codes in
// any order cost the same and nothing is looked up.
template <class List, rounding Rounding>
[[nodiscard]] NIBBLE_INLINE constexpr std::uint32_t level_code(float x) noexcept {
    if constexpr (List::count <= levels_compared) {
        constexpr const auto& t = level_thresholds<List, Rounding>;
        constexpr const auto& c = level_codes<List>;
        return [&]<std::size_t... At>(std::index_sequence<At...>) {
            return (c.at[0] + ... + ((0u - static_cast<std::uint32_t>(x > t.at[At])) & (c.at[At + 1] - c.at[At])));
        }(std::make_index_sequence<List::count - 1>{});
    } else {
        return level_codes<List>.at[level_rank<List, Rounding>(x)];
    }
}

// The code of x under any rounding; NaN counts as 0.
template <class List, rounding Rounding>
[[nodiscard]] NIBBLE_INLINE constexpr std::uint8_t encode_level(float x, std::uint32_t random) noexcept {
    x = nan_to_zero(x);
    if constexpr (Rounding == rounding::learned) {
        const std::uint32_t down = level_code<List, rounding::floor>(x);
        const std::uint32_t up = level_code<List, rounding::ceiling>(x);
        return static_cast<std::uint8_t>(down ^ ((down ^ up) & (0u - (random & 1u))));
    } else if constexpr (Rounding == rounding::stochastic) {
        constexpr const auto& values = List::sorted.values;
        constexpr std::uint32_t last = static_cast<std::uint32_t>(List::count - 1);
        const std::uint32_t low = level_rank<List, rounding::floor>(x);
        const std::uint32_t high = low < last ? low + 1 : last;
        const double below = static_cast<double>(values.at[low]);
        const double width = static_cast<double>(values.at[high]) - below;
        const double chance = static_cast<double>(random) * 0x1p-32;
        // Below the first level the difference is negative; at the last and beyond there is no width.
        const bool up = width > 0.0 && chance * width < static_cast<double>(x) - below;
        return static_cast<std::uint8_t>(level_codes<List>.at[up ? high : low]);
    } else {
        return static_cast<std::uint8_t>(level_code<List, Rounding>(x));
    }
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
