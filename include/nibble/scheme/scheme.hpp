// scheme.hpp: an element with a granularity, a scale and a zero point: a number format as one type.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/granularity/granularity.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// ---- how the scale of a group follows from its values ---------------------------------------------------------------

// What a rule sees of a group: values that are not finite count as zeros, and nonfinite tells that there were some.
struct group_statistics {
    float largest = 0.0f;       // max |x|
    float low = 0.0f;           // min x
    float high = 0.0f;          // max x
    double sum_magnitude = 0.0; // sum |x|
    std::size_t count = 0;
    bool nonfinite = false;
};

// A scale rule has  static constexpr float apply<Element>(const group_statistics&): the scale wanted, before it is
// rounded to the scale's own format.

// The largest magnitude lands on the element's largest value: max|x| / largest. The default.
struct by_largest {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        return g.largest / largest<E>;
    }
};

// 2^(floor(log2 max|x|) - floor(log2 largest)), the rule of OCP MX v1.0 section 6.3 and of block floating point:
// values between the element's largest and the next power of two saturate.
struct by_exponent {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        if (g.largest == 0.0f) return 0.0f;
        const int e = detail::floor_log2(g.largest) - detail::floor_log2(largest<E>);
        return detail::exp2i(e < -127 ? -127 : e > 127 ? 127 : e);
    }
};

// The smallest power of two under which nothing saturates: 2^ceil(log2(max|x| / largest)).
struct by_exponent_no_clip {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        if (g.largest == 0.0f) return 0.0f;
        int e = detail::floor_log2(g.largest) - detail::floor_log2(largest<E>);
        if (detail::mantissa_of(g.largest) > detail::mantissa_of(largest<E>)) ++e;
        return detail::exp2i(e < -127 ? -127 : e > 127 ? 127 : e);
    }
};

// by_exponent of max|x| rounded to the element's own precision at its largest binade (a tie goes up, to the power of
// two): what would round up to the next power gets a scale that holds it.
struct by_exponent_rounded {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        if (g.largest == 0.0f) return 0.0f;
        int e = detail::floor_log2(g.largest) - detail::floor_log2(largest<E>);
        if (detail::mantissa_of(g.largest) >= threshold<E>) ++e;
        return detail::exp2i(e < -127 ? -127 : e > 127 ? 127 : e);
    }

private:
    // The largest value and the step below it, of which the power above is half a step away at the threshold.
    template <element E>
    static constexpr double threshold = [] {
        static_assert(E::bits <= 8, "by_exponent_rounded: for elements of at most 8 bits");
        constexpr auto& g = detail::sorted_grid<E>;
        const double top = static_cast<double>(g.values.at[g.count - 1]);
        const double below = g.count > 1 ? static_cast<double>(g.values.at[g.count - 2]) : 0.0;
        double unit = 1.0; // the power of two at or below top
        while (unit * 2.0 <= top) unit *= 2.0;
        while (unit > top) unit *= 0.5;
        return 2.0 - (top - below) / unit * 0.5;
    }();
};

// mean |x|: for binary the scale of least squared error (XNOR-Net), for ternary the rule of BitNet b1.58.
struct by_mean {
    template <element E> [[nodiscard]] static constexpr float apply(const group_statistics& g) noexcept {
        return g.count == 0 ? 0.0f : static_cast<float>(g.sum_magnitude / static_cast<double>(g.count));
    }
};

// ---- scales
// -----------------------------------------------------------------------------------------------------------

// One scale per scale group, stored in Format (any element may be a scale).
template <element Format = f32, class Rule = std::conditional_t<std::same_as<Format, e8m0>, by_exponent, by_largest>>
struct scale {
    using format = Format;
    using rule = Rule;
};

// What is added to every scale of a matrix.
struct no_offset {};
struct mean_offset {}; // the mean of the group scales, fp32 (QLoRA's double quantization)

// For two_level granularities: Inner numbers under Outer ones, scale = inner x outer, each rounded to fp32; with
// mean_offset (inner x outer) + offset, rounded twice. The outer scale is max|group scale - offset| / largest<Inner>.
template <element Inner, element Outer = f32, class Rule = by_largest, class Offset = no_offset>
struct two_level_scale {
    using format = Inner;
    using outer_format = Outer;
    using rule = Rule;
    using offset = Offset;
};

// Values are stored as they are: f16, bf16, f32.
struct no_scale {};

// ---- zero points
// --------------------------------------------------------------------------------------------------------

struct no_zero {};

// value = (code - zero) x scale with an integer zero in the code's own range, one byte each: real 0 is exact.
// For unsigned integer elements.
struct integer_zero {};

// value = code x scale + minimum (GGUF's "_1" types, KIVI): a float offset per scale group, stored in Format.
template <element Format = f16> struct minimum {
    using format = Format;
};

// The same in two levels, as the K types of GGUF have it: minimum = -(inner x outer), rounded to fp32, with codes of
// Inner per group and of Outer per outer group. Inner has no negative values: minimums are at most 0. For two_level
// granularities.
template <element Inner, element Outer = f16> struct two_level_minimum {
    using format = Inner;
    using outer_format = Outer;
};

// ---- the scheme
// -------------------------------------------------------------------------------------------------------------

namespace detail {
template <class Z> inline constexpr bool is_minimum = false;
template <class F> inline constexpr bool is_minimum<minimum<F>> = true;
template <class Z> inline constexpr bool is_two_level_minimum = false;
template <class Inner, class Outer> inline constexpr bool is_two_level_minimum<two_level_minimum<Inner, Outer>> = true;
template <class S> inline constexpr bool is_two_level_scale = false;
template <class Inner, class Outer, class Rule, class Offset>
inline constexpr bool is_two_level_scale<two_level_scale<Inner, Outer, Rule, Offset>> = true;
template <class S> inline constexpr bool is_offset_scale = false;
template <class Inner, class Outer, class Rule>
inline constexpr bool is_offset_scale<two_level_scale<Inner, Outer, Rule, mean_offset>> = true;
template <class S> inline constexpr bool is_scale = false;
template <class F, class R> inline constexpr bool is_scale<scale<F, R>> = true;
} // namespace detail

// A number format. Every verb takes any scheme; kernels, tables and names follow from it.
template <element Element, granularity Granularity, class Scale, class Zero = no_zero> struct scheme {
    using element_type = Element;
    using granularity_type = Granularity;
    using scale_type = Scale;
    using zero_type = Zero;

    static constexpr bool two_level = detail::is_two_level_scale<Scale>;
    static constexpr bool scaled = !std::same_as<Scale, no_scale>;
    static constexpr bool has_integer_zero = std::same_as<Zero, integer_zero>;
    static constexpr bool has_two_level_minimum = detail::is_two_level_minimum<Zero>;
    static constexpr bool has_minimum = detail::is_minimum<Zero> || has_two_level_minimum;
    static constexpr bool has_offset = detail::is_offset_scale<Scale>;

    static_assert(two_level || detail::is_scale<Scale> || !scaled,
                  "scheme: Scale must be scale<Format>, two_level_scale<Inner, Outer> or no_scale");
    static_assert(two_level == nested_granularity<Granularity>,
                  "scheme: two_level_scale and a two_level granularity belong together");
    static_assert(has_integer_zero || has_minimum || std::same_as<Zero, no_zero>,
                  "scheme: Zero must be no_zero, integer_zero, minimum<Format> or two_level_minimum<Inner, Outer>");
    static_assert(!has_two_level_minimum || two_level, "scheme: two_level_minimum needs a two_level_scale");
    static_assert(!has_offset || std::same_as<Zero, no_zero>,
                  "scheme: mean_offset and a zero point do not go together");
    static_assert(scaled || std::same_as<Zero, no_zero>, "scheme: a zero point needs a scale");
    static_assert(!has_integer_zero || (detail::integer_mapping_of<Element>.linear && lowest<Element> == 0.0f &&
                                        detail::integer_mapping_of<Element>.exponent == 0),
                  "scheme: integer_zero needs an unsigned integer element such as uint4");
    static_assert(!has_minimum || lowest<Element> == 0.0f, "scheme: minimum needs an unsigned element such as uint4");
};

template <class S> inline constexpr bool is_scheme = false;
template <class E, class G, class S, class Z> inline constexpr bool is_scheme<scheme<E, G, S, Z>> = true;

// Any type that derives from or is a scheme.
template <class S>
concept any_scheme = requires {
    typename S::element_type;
    typename S::granularity_type;
    typename S::scale_type;
    typename S::zero_type;
    { S::two_level } -> std::convertible_to<bool>;
};

namespace detail {

struct nothing {};
template <class S> struct scale_format {
    using type = f32;
};
template <class S>
    requires requires { typename S::format; }
struct scale_format<S> {
    using type = typename S::format;
};
template <class S> struct outer_format {
    using type = f32;
};
template <class S>
    requires requires { typename S::outer_format; }
struct outer_format<S> {
    using type = typename S::outer_format;
};
template <class G> struct outer_granularity {
    using type = G;
};
template <class G>
    requires requires { typename G::outer; }
struct outer_granularity<G> {
    using type = typename G::outer;
};

// The numbers of scale groups, sizes and types of a scheme, in one place.
template <any_scheme S> struct scheme_traits {
    using element = typename S::element_type;
    using code = typename element::code;
    using granularity = typename S::granularity_type;
    using scale = typename S::scale_type;
    using scale_element = typename scale_format<scale>::type;
    using outer_element = typename outer_format<scale>::type;
    using outer_granularity = typename nibble::detail::outer_granularity<granularity>::type;
    using zero_element = typename scale_format<typename S::zero_type>::type;
    using scale_code = typename scale_element::code;
    using outer_code = typename outer_element::code;
    using zero_code = std::conditional_t<S::has_integer_zero, std::uint8_t, typename zero_element::code>;
    using outer_zero_element = typename outer_format<typename S::zero_type>::type;
    using outer_zero_code = typename outer_zero_element::code;
    static constexpr bool has_zero = S::has_integer_zero || S::has_minimum;

    [[nodiscard]] static constexpr std::size_t row_bytes(std::size_t cols) noexcept {
        return ceil_div(cols * static_cast<std::size_t>(element::bits), 8);
    }
    [[nodiscard]] static constexpr std::size_t scale_count(std::size_t rows, std::size_t cols) noexcept {
        return S::scaled ? granularity::count(rows, cols) : 0;
    }
    [[nodiscard]] static constexpr std::size_t outer_count(std::size_t rows, std::size_t cols) noexcept {
        return S::two_level ? outer_granularity::count(rows, cols) : 0;
    }
    [[nodiscard]] static constexpr std::size_t zero_count(std::size_t rows, std::size_t cols) noexcept {
        return has_zero ? granularity::count(rows, cols) : 0;
    }
    [[nodiscard]] static constexpr std::size_t outer_zero_count(std::size_t rows, std::size_t cols) noexcept {
        return S::has_two_level_minimum ? outer_granularity::count(rows, cols) : 0;
    }
    // Do long rows have several scales, groups along K? No: one per row, or for all.
    [[nodiscard]] static constexpr bool has_groups() noexcept {
        constexpr std::size_t long_row = std::size_t{1} << 30;
        return group_size(long_row) < long_row;
    }
    // Columns that share a scale; at least 1 so that an empty matrix divides by nothing.
    [[nodiscard]] static constexpr std::size_t group_size(std::size_t cols) noexcept {
        return max_of<std::size_t>(1, S::scaled ? granularity::group_size(cols) : cols);
    }
};

// The scale of a group from its inner and outer numbers. The product is rounded before the sum: it never fuses with it.
template <any_scheme S>
[[nodiscard]] NIBBLE_INLINE constexpr float two_level_product(float inner, float outer, float offset) noexcept {
    if constexpr (S::has_offset) {
        return rounded_by_itself(inner * outer) + offset;
    } else {
        return inner * outer;
    }
}

} // namespace detail

// All bits of codes, scales and zero points of a rows x cols matrix, per weight.
template <any_scheme S> [[nodiscard]] constexpr double bits_per_weight(std::size_t rows, std::size_t cols) noexcept {
    using traits = detail::scheme_traits<S>;
    if (rows == 0 || cols == 0) return 0.0;
    const double weights = static_cast<double>(rows) * static_cast<double>(cols);
    double bits = weights * traits::element::bits;
    bits += static_cast<double>(traits::scale_count(rows, cols)) * traits::scale_element::bits;
    bits += static_cast<double>(traits::outer_count(rows, cols)) * traits::outer_element::bits;
    bits += static_cast<double>(traits::zero_count(rows, cols)) *
            (S::has_minimum ? static_cast<double>(traits::zero_element::bits) : 8.0);
    bits += static_cast<double>(traits::outer_zero_count(rows, cols)) * traits::outer_zero_element::bits;
    if (S::has_offset) bits += 32.0;
    return bits / weights;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
