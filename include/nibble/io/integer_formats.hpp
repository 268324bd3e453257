// integer_formats.hpp: the formats of GPTQ, AWQ and compressed-tensors: integers in groups or rows, with each scale
// type.
#pragma once

#include <nibble/io/layer_format.hpp>

#include <nibble/core/config.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

template <class G> inline constexpr auto granularity_name = format_name("_channel");
template <> inline constexpr auto granularity_name<per_tensor> = format_name("_tensor");
template <> inline constexpr auto granularity_name<per_group<32>> = format_name("_g32");
template <> inline constexpr auto granularity_name<per_group<64>> = format_name("_g64");
template <> inline constexpr auto granularity_name<per_group<96>> = format_name("_g96");
template <> inline constexpr auto granularity_name<per_group<128>> = format_name("_g128");

template <element F> inline constexpr auto scale_name = format_name("_f32");
template <> inline constexpr auto scale_name<f16> = format_name("_f16");
template <> inline constexpr auto scale_name<bf16> = format_name("_bf16");

template <int Bits> inline constexpr char integer_name[] = {'i', 'n', 't', static_cast<char>('0' + Bits), '\0'};

template <bool Zero> inline constexpr auto zero_name = format_name("");
template <> inline constexpr auto zero_name<true> = format_name("_asym");

template <class E, bool Zero, class G, element F>
using integer_format =
    named_format<join_names(format_name(integer_name<E::bits>), granularity_name<G>, zero_name<Zero>, scale_name<F>),
                 scheme<E, G, scale<F>, std::conditional_t<Zero, integer_zero, no_zero>>>;

template <class E, bool Zero, class G>
using integer_scales =
    format_list<integer_format<E, Zero, G, f16>, integer_format<E, Zero, G, bf16>, integer_format<E, Zero, G, f32>>;

template <class E, bool Zero>
using integer_groups = join_formats<integer_scales<E, Zero, per_group<128>>, integer_scales<E, Zero, per_group<64>>,
                                    integer_scales<E, Zero, per_group<32>>, integer_scales<E, Zero, per_channel>>;

} // namespace detail

// Unsigned codes with an integer zero point, named int4_g128_asym_f16 and so on: groups of 128, 64, 32 and whole rows,
// scales of fp16, bf16, fp32. An engine lists the few that it runs: kernels are instantiated for each.
template <int Bits> using asymmetric_integer_formats = detail::integer_groups<unsigned_integer<Bits>, true>;
// Signed codes, -2^(Bits - 1) among them, without a zero point: int4_g128_f16 and so on.
template <int Bits> using symmetric_integer_formats = detail::integer_groups<integer<Bits, integer_range::full>, false>;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
