// recode.hpp: from one stored format to another without fp32 in between: codes through a table, scales by a power of
// two.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/element/element.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// How codes of one element become codes of another: to = encode(from / 2^exponent), under scales 2^exponent times as
// large.
struct recode_plan {
    int exponent = 0;
    bool exact = false; // every value that From's encoder makes has a code in To
};

// Whether To is From with other values for the same codes: they stay what they are.
template <small_element From, small_element To>
inline constexpr bool shares_codes = [] {
    if constexpr (requires { typename To::rounded_element; })
        return std::same_as<typename To::rounded_element, From>;
    else
        return false;
}();

template <small_element From, small_element To>
inline constexpr recode_plan recode_plan_of = [] {
    if (shares_codes<From, To>) return recode_plan{};
    const auto exact_with = [](int exponent) {
        for (std::size_t c = 0; c < decode_table<From>.size; ++c) {
            const float v = decode_table<From>.at[c];
            if (!is_finite(v)) return false;
            const float scaled = v * exp2i(-exponent);
            if (To::decode(encode<To>(scaled)) != scaled) return false;
        }
        return true;
    };
    // Of the largest positive values: the one negative value more of two's complement does not count.
    const auto top = []<class E>() { return abs_of(E::decode(encode<E>(3.4028234e38f))); };
    const int between = floor_log2(top.template operator()<From>()) - floor_log2(top.template operator()<To>());
    for (int e = between - 8; e <= between + 8; ++e)
        if (exact_with(e)) return recode_plan{e, true};
    return recode_plan{between, false};
}();

template <small_element From, small_element To, rounding Rounding>
inline constexpr auto recode_table = [] {
    constexpr recode_plan plan = recode_plan_of<From, To>;
    table<std::uint8_t, (std::size_t{1} << From::bits)> t{};
    for (std::size_t c = 0; c < t.size; ++c)
        t.at[c] = shares_codes<From, To> ? static_cast<std::uint8_t>(c)
                                         : encode<To, Rounding>(decode_table<From>.at[c] * exp2i(-plan.exponent));
    return t;
}();

// Whether recode goes from one scheme to the other, whatever the scales of a matrix; it says what stands against it.
template <any_scheme From, any_scheme To>
inline constexpr bool recodable = [] {
    using from_element = typename scheme_traits<From>::element;
    using to_element = typename scheme_traits<To>::element;
    if constexpr (small_element<from_element> && small_element<to_element> &&
                  std::same_as<typename From::granularity_type, typename To::granularity_type> &&
                  From::scaled == To::scaled && From::two_level == To::two_level &&
                  std::same_as<typename From::zero_type, typename To::zero_type> && !From::has_integer_zero &&
                  From::has_offset == To::has_offset)
        return recode_plan_of<from_element, to_element>.exponent == 0 || (From::scaled && !From::has_offset);
    else
        return false;
}();

// Scales in format From times 2^exponent in format To, which must hold every product.
template <element From, element To>
void recode_scales(const typename From::code* from, typename To::code* to, std::size_t count, int exponent) {
    bool exact = true;
    for (std::size_t i = 0; i < count; ++i) {
        const float v = From::decode(from[i]) * exp2i(exponent);
        to[i] = encode<To>(v);
        const float stored = To::decode(to[i]);
        exact = exact && (stored == v || (stored != stored && v != v)) &&
                (v == v ? From::decode(from[i]) == v * exp2i(-exponent) : true);
    }
    NIBBLE_CHECK(exact, "recode: a scale times the power of two between the elements does not fit the scale's format; "
                        "give the target scheme a wider one");
}

} // namespace detail

// q in scheme To: its codes c become encode<To>(decode(c) / 2^e), its scales are multiplied by 2^e, which is exact.
// Where a code of To exists for every value of From (int4 to int8, ternary to int2, E2M1 to int5 ...) nothing is lost;
// otherwise e is the distance between the largest positive values' powers of two and codes are rounded a second time,
// to the nearest even code unless Rounding says otherwise, and saturate: int8 to int4 is Double Rounding's bit switch,
// round(c / 16) under 16 times the scale (see quantize for the first rounding). To rounded_levels of q's element q
// keeps its codes and its scales. Both schemes must have the same granularity, scales of formats that hold the product
// exactly (a scale that they do not is an error), and the same minimum or none; an offset of the scales needs e to be
// 0. Elements have at most 8 bits. NaN codes become To's NaN, or 0. One pass over the codes; allocates the result and,
// per row in work, one row of codes.
template <any_scheme To, rounding Rounding = rounding::nearest_even, any_scheme From, executor Executor = serial>
[[nodiscard]] quantized<To> recode(const quantized<From>& q, const Executor& threads = {}) {
    detail::check_executor(threads);
    using from_traits = detail::scheme_traits<From>;
    using to_traits = detail::scheme_traits<To>;
    using from_element = typename from_traits::element;
    using to_element = typename to_traits::element;
    static_assert(small_element<from_element> && small_element<to_element>,
                  "recode: elements of at most 8 bits; for others dequantize and quantize");
    static_assert(
        std::same_as<typename From::granularity_type, typename To::granularity_type> && From::scaled == To::scaled,
        "recode: both schemes must share scales among the same weights; dequantize and quantize changes that");
    static_assert(std::same_as<typename From::zero_type, typename To::zero_type> && !From::has_integer_zero,
                  "recode: both schemes must have the same minimum or none; an integer zero has no exact counterpart: "
                  "dequantize and quantize");
    static_assert(Rounding != rounding::stochastic && Rounding != rounding::learned,
                  "recode: codes go through one table, so the rounding must follow from the code alone");
    constexpr int exponent = detail::recode_plan_of<from_element, to_element>.exponent;
    constexpr const auto& table = detail::recode_table<from_element, to_element, Rounding>;
    static_assert(From::has_offset == To::has_offset && (!From::has_offset || exponent == 0),
                  "recode: an offset has no exact counterpart where scales change: dequantize and quantize");
    static_assert(From::scaled || exponent == 0,
                  "recode: without a scale the values would change; use a scaled scheme");

    quantized<To> out(q.rows(), q.cols());
    out.set_nonfinite(q.nonfinite());
    if constexpr (To::has_offset) out.set_offset(q.offset());
    if (q.rows() == 0 || q.cols() == 0) return out;
    detail::for_each_task(q.rows(), threads, [&](std::size_t row, std::size_t) {
        std::uint8_t codes[kernel::quantize_block];
        for (std::size_t start = 0; start < q.cols(); start += kernel::quantize_block) {
            const std::size_t n = detail::min_of(kernel::quantize_block, q.cols() - start);
            detail::load_codes<from_element>(q.row_codes(row), start, n, codes);
            for (std::size_t i = 0; i < n; ++i) codes[i] = table.at[codes[i]];
            detail::store_codes<to_element>(codes, n, out.row_codes(row), start);
        }
    });
    // The outer scale carries the factor where there is one, so that inner scales stay in their narrow formats.
    if constexpr (From::two_level) {
        detail::recode_scales<typename from_traits::scale_element, typename to_traits::scale_element>(
            q.scales(), out.scales(), q.scale_count(), 0);
        detail::recode_scales<typename from_traits::outer_element, typename to_traits::outer_element>(
            q.outer_scales(), out.outer_scales(), q.outer_count(), exponent);
    } else if constexpr (From::scaled) {
        detail::recode_scales<typename from_traits::scale_element, typename to_traits::scale_element>(
            q.scales(), out.scales(), q.scale_count(), exponent);
    }
    for (std::size_t i = 0; i < q.zero_count(); ++i) out.zeros()[i] = q.zeros()[i];
    for (std::size_t i = 0; i < q.outer_zero_count(); ++i) out.outer_zeros()[i] = q.outer_zeros()[i];
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
