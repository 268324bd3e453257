// layer_format.hpp: what a checkpoint's layer is, in numbers, and the scheme of a list that holds just that.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/codebooks.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_flat_block.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/per_tile.hpp>
#include <nibble/granularity/two_level.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/any_format.hpp>
#include <nibble/tensor/quantized.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// An fp32 number that stands for its reciprocal: compressed-tensors stores the number that scales were divided by.
// decode(c) is 1 / c, rounded once.
struct reciprocal_f32 {
    static constexpr int bits = 32;
    using code = std::uint32_t;
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        const float stored = detail::bit_cast<float>(c);
        if (stored == 0.0f) return (c >> 31) != 0 ? -detail::infinity : detail::infinity;
        return 1.0f / stored;
    }
    template <rounding = rounding::nearest_even, overflow = overflow::special>
    [[nodiscard]] static constexpr code encode(float x, std::uint32_t = 0) noexcept {
        return detail::bit_cast<code>(decode(detail::bit_cast<code>(x)));
    }
};

namespace detail {

// Numbers of a file are copied into sections that hold the machine's own.
static_assert(std::endian::native == std::endian::little,
              "layers of checkpoints are read on little-endian machines only");

enum class layer_code { other, unsigned_integer, signed_integer, e2m1, e4m3, e5m2, nf4, fp4 };
enum class layer_granularity { other, channel, group, tensor, tile, span };
enum class layer_scale {
    other,
    float16,
    bfloat16,
    float32,
    power_of_two,
    e4m3_times,
    e4m3_divided,
    dynamic8_offset,
    absmax_of_127
};

// A scheme as numbers: what readers find in a file, and what a list is searched for.
struct layer_format {
    layer_code code = layer_code::other;
    int bits = 0;
    layer_granularity granularity = layer_granularity::other;
    std::size_t size = 0;      // of a group or span; columns of a tile
    std::size_t tile_rows = 0; // rows of a tile
    layer_scale scale = layer_scale::other;
    bool zero = false;                        // an integer zero point per scale group
    layer_scale minimum = layer_scale::other; // the type of a float per scale group that is added; other: there is none
    std::size_t outer = 0;                    // span of the outer scales, 0: one for the tensor
};

template <class E> inline constexpr layer_code code_of_element = layer_code::other;
template <int Bits, integer_range Range>
inline constexpr layer_code code_of_element<integer<Bits, Range>> =
    Range == integer_range::unsigned_ ? layer_code::unsigned_integer : layer_code::signed_integer;
template <> inline constexpr layer_code code_of_element<e2m1> = layer_code::e2m1;
template <> inline constexpr layer_code code_of_element<e4m3> = layer_code::e4m3;
template <> inline constexpr layer_code code_of_element<e5m2> = layer_code::e5m2;
template <> inline constexpr layer_code code_of_element<nf4> = layer_code::nf4;
template <> inline constexpr layer_code code_of_element<bnb_fp4> = layer_code::fp4;

struct granularity_numbers {
    layer_granularity granularity = layer_granularity::other;
    std::size_t size = 0;
    std::size_t tile_rows = 0;
};
template <class G> inline constexpr granularity_numbers numbers_of_granularity = {};
template <> inline constexpr granularity_numbers numbers_of_granularity<per_channel> = {layer_granularity::channel, 0};
template <> inline constexpr granularity_numbers numbers_of_granularity<per_tensor> = {layer_granularity::tensor, 0};
template <std::size_t Size>
inline constexpr granularity_numbers numbers_of_granularity<per_group<Size>> = {layer_granularity::group, Size};
template <std::size_t Size>
inline constexpr granularity_numbers numbers_of_granularity<per_flat_block<Size>> = {layer_granularity::span, Size};
template <std::size_t Rows, std::size_t Cols>
inline constexpr granularity_numbers numbers_of_granularity<per_tile<Rows, Cols>> = {layer_granularity::tile, Cols,
                                                                                     Rows};
template <class Inner, class Outer>
inline constexpr granularity_numbers numbers_of_granularity<two_level<Inner, Outer>> = numbers_of_granularity<Inner>;

template <class G> inline constexpr std::size_t outer_span = 0;
template <class Inner, std::size_t Size>
inline constexpr std::size_t outer_span<two_level<Inner, per_flat_block<Size>>> = Size;

template <class S> inline constexpr layer_scale scale_of = layer_scale::other;
template <class Rule> inline constexpr layer_scale scale_of<scale<f16, Rule>> = layer_scale::float16;
template <class Rule> inline constexpr layer_scale scale_of<scale<bf16, Rule>> = layer_scale::bfloat16;
template <class Rule> inline constexpr layer_scale scale_of<scale<f32, Rule>> = layer_scale::float32;
template <class Rule> inline constexpr layer_scale scale_of<scale<e8m0, Rule>> = layer_scale::power_of_two;
template <class Rule>
inline constexpr layer_scale scale_of<two_level_scale<e4m3, f32, Rule, no_offset>> = layer_scale::e4m3_times;
template <class Rule>
inline constexpr layer_scale scale_of<two_level_scale<e4m3, reciprocal_f32, Rule, no_offset>> =
    layer_scale::e4m3_divided;
template <class Rule>
inline constexpr layer_scale scale_of<two_level_scale<dynamic8, f32, Rule, mean_offset>> = layer_scale::dynamic8_offset;

template <class Z> inline constexpr layer_scale minimum_of = layer_scale::other;
template <class F> inline constexpr layer_scale minimum_of<minimum<F>> = scale_of<scale<F>>;

// Schemes that no layout stores have something `other` in it.
template <any_scheme S>
inline constexpr layer_format format_of = [] {
    layer_format f{};
    f.code = code_of_element<typename S::element_type>;
    f.bits = S::element_type::bits;
    f.granularity = numbers_of_granularity<typename S::granularity_type>.granularity;
    f.size = numbers_of_granularity<typename S::granularity_type>.size;
    f.tile_rows = numbers_of_granularity<typename S::granularity_type>.tile_rows;
    f.scale = scale_of<typename S::scale_type>;
    if constexpr (S::has_minimum) {
        f.minimum = minimum_of<typename S::zero_type>;
        if (f.minimum == layer_scale::other) f.scale = layer_scale::other;
    }
    f.zero = S::has_integer_zero;
    f.outer = outer_span<typename S::granularity_type>;
    // Two levels are read where the outer one is the tensor or a span.
    if constexpr (S::two_level)
        if (f.outer == 0 && !std::is_same_v<typename S::granularity_type::outer, per_tensor>)
            f.scale = layer_scale::other;
    return f;
}();

// Do these scale groups of a rows x cols matrix hold the same weights, in the same order?
[[nodiscard]] constexpr bool same_groups(const layer_format& a, const layer_format& b, std::size_t cols) noexcept {
    const auto columns = [&](const layer_format& f) { // per group, if groups are parts of one row; else 0
        switch (f.granularity) {
        case layer_granularity::channel:
            return cols;
        case layer_granularity::group:
            return min_of(f.size, cols);
        case layer_granularity::tile:
            return f.tile_rows == 1 ? min_of(f.size, cols) : std::size_t{0};
        case layer_granularity::span:
            return f.size != 0 && cols % f.size == 0 ? f.size : std::size_t{0};
        default:
            return std::size_t{0};
        }
    };
    if (columns(a) != 0 && columns(b) != 0) return columns(a) == columns(b);
    return a.granularity == b.granularity && a.size == b.size && a.tile_rows == b.tile_rows &&
           a.granularity != layer_granularity::other;
}

// Can S hold a layer of format `want`, bit for bit? A global scale that divides is also held, as its reciprocal, by a
// scheme whose outer scale multiplies: the weights are the same, the stored number is not.
template <any_scheme S> [[nodiscard]] constexpr bool holds(const layer_format& want, std::size_t cols) noexcept {
    constexpr layer_format have = format_of<S>;
    return have.code != layer_code::other && have.scale != layer_scale::other && have.code == want.code &&
           have.bits == want.bits && have.zero == want.zero && have.outer == want.outer && have.scale == want.scale &&
           have.minimum == want.minimum && same_groups(have, want, cols);
}

[[nodiscard]] inline std::string format_text(const layer_format& f) {
    constexpr std::string_view codes[] = {"?", "uint", "int", "e2m1", "e4m3", "e5m2", "nf4", "bnb_fp4"};
    constexpr std::string_view scales[] = {"?",
                                           "fp16 scales",
                                           "bf16 scales",
                                           "fp32 scales",
                                           "e8m0 scales",
                                           "e4m3 scales times an fp32 number",
                                           "e4m3 scales divided by an fp32 number",
                                           "dynamic8 scales times fp32 scales plus an offset",
                                           "fp32 magnitudes of the code 127"};
    std::string text(codes[static_cast<std::size_t>(f.code)]);
    if (f.code == layer_code::unsigned_integer || f.code == layer_code::signed_integer) text += std::to_string(f.bits);
    switch (f.granularity) {
    case layer_granularity::channel:
        text += " per channel";
        break;
    case layer_granularity::group:
        text += " in groups of " + std::to_string(f.size);
        break;
    case layer_granularity::tensor:
        text += " per tensor";
        break;
    case layer_granularity::tile:
        text += " in tiles of " + std::to_string(f.tile_rows) + " x " + std::to_string(f.size);
        break;
    case layer_granularity::span:
        text += " in blocks of " + std::to_string(f.size) + " weights of the flattened matrix";
        break;
    case layer_granularity::other:
        break;
    }
    text.append(", ").append(scales[static_cast<std::size_t>(f.scale)]);
    if (f.outer != 0) text += " per " + std::to_string(f.outer) + " weights";
    if (f.minimum != layer_scale::other) text += ", minimums";
    return text += f.zero ? ", integer zero points" : "";
}

// Where a layout's decoder puts what it reads, and an encoder finds it: the sections of a quantized matrix.
template <class Byte> struct layer_sections {
    Byte* codes = nullptr; // rows x row_bytes
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t row_bytes = 0;
    Byte* scales = nullptr;
    std::size_t scale_bytes = 0; // of one
    std::size_t scale_count = 0;
    Byte* outer = nullptr;
    std::size_t outer_count = 0;
    Byte* zeros = nullptr;
    float offset = 0.0f;
};
using layer_destination = layer_sections<std::byte>;
using layer_source = layer_sections<const std::byte>;

template <class Byte, class Quantized> [[nodiscard]] layer_sections<Byte> sections_of(Quantized& q) {
    using traits = typename Quantized::traits;
    layer_sections<Byte> m;
    m.codes = reinterpret_cast<Byte*>(q.row_codes(0));
    m.rows = q.rows();
    m.cols = q.cols();
    m.row_bytes = q.row_bytes();
    m.scales = reinterpret_cast<Byte*>(q.scales());
    m.scale_bytes = sizeof(typename traits::scale_code);
    m.scale_count = q.scale_count();
    m.outer = reinterpret_cast<Byte*>(q.outer_scales());
    m.outer_count = q.outer_count();
    m.zeros = reinterpret_cast<Byte*>(q.zeros());
    m.offset = q.offset();
    return m;
}

template <any_scheme S, class Fill> void fill_quantized(quantized<S>& q, const Fill& fill) {
    layer_destination to = sections_of<std::byte>(q);
    fill(to);
    if constexpr (S::has_offset) q.set_offset(to.offset);
}

// The first format of the list that holds `want`, filled by fill(layer_destination&). False if there is none.
template <class List, class Fill>
[[nodiscard]] bool make_layer(const layer_format& want, std::size_t rows, std::size_t cols, any_quantized<List>& out,
                              const Fill& fill) {
    bool made = false;
    for_each_format(List{}, [&]<class Format>() {
        using scheme = typename Format::scheme;
        if (made || !holds<scheme>(want, cols)) return;
        quantized<scheme> q(rows, cols);
        fill_quantized(q, fill);
        out = any_quantized<List>(std::move(q));
        made = true;
    });
    return made;
}

// What a list that lacks a format is told, and what to put into it.
[[nodiscard]] inline std::string no_format_text(const layer_format& want) {
    const std::string text = "the list of formats has none that holds " + format_text(want);
    const std::string size = std::to_string(want.size);
    if (want.scale == layer_scale::power_of_two)
        return text + (want.code == layer_code::e2m1 ? "; mxfp4_formats has it" : "; mxfp8_formats has it");
    if (want.scale == layer_scale::e4m3_times || want.scale == layer_scale::e4m3_divided)
        return text + "; nvfp4_formats has it";
    if (want.scale == layer_scale::absmax_of_127) return text + "; llm_int8_formats has it";
    switch (want.granularity) {
    case layer_granularity::channel:
    case layer_granularity::group:
        if (want.size % 4 != 0) return text + "; groups of a scheme are multiples of 4 columns";
        if (want.granularity == layer_granularity::group &&
            (want.code == layer_code::e4m3 || want.code == layer_code::e5m2))
            return text + "; fp8 in groups needs a scheme of yours with per_group<" + size + "> in the list";
        return text +
               "; nibble's own lists have groups of 32, 64 and 128 columns and whole rows, other groups need a "
               "scheme of yours" +
               (want.granularity == layer_granularity::group ? " with per_group<" + size + ">" : "") + " in the list";
    case layer_granularity::tile:
        return text + "; nibble's own lists have tiles of 128 x 128, others need a scheme of yours with per_tile<" +
               std::to_string(want.tile_rows) + ", " + size + "> in the list";
    case layer_granularity::span:
        if (want.size % 4 != 0) return text + "; blocks of a scheme are multiples of 4 weights";
        return text + "; bitsandbytes_block_formats<" + size + "> has it";
    case layer_granularity::tensor:
    case layer_granularity::other:
        break;
    }
    return text;
}

// ---- names of the formats in nibble's lists: int4_g128_asym_f16 ----------------------------------------------------

template <std::size_t A, std::size_t B>
[[nodiscard]] constexpr format_name<A + B - 1> join_names(const format_name<A>& a, const format_name<B>& b) noexcept {
    char text[A + B - 1] = {};
    for (std::size_t i = 0; i + 1 < A; ++i) text[i] = a.text[i];
    for (std::size_t i = 0; i < B; ++i) text[A - 1 + i] = b.text[i];
    return format_name<A + B - 1>(text);
}
template <class... Names>
[[nodiscard]] constexpr auto join_names(const Names&... names) noexcept
    requires(sizeof...(Names) > 2)
{
    return [](const auto& first, const auto& second, const auto&... rest) {
        return join_names(join_names(first, second), rest...);
    }(names...);
}

template <std::size_t N> inline constexpr std::size_t decimal_digits = 1;
template <std::size_t N>
    requires(N >= 10)
inline constexpr std::size_t decimal_digits<N> = 1 + decimal_digits<N / 10>;
// The digits of N.
template <std::size_t N>
inline constexpr auto decimal_name = [] {
    constexpr std::size_t digits = decimal_digits<N>;
    char text[digits + 1] = {};
    std::size_t rest = N;
    for (std::size_t i = digits; i-- > 0; rest /= 10) text[i] = static_cast<char>('0' + rest % 10);
    return format_name<digits + 1>(text);
}();

template <class... Lists> struct joined_lists;
template <class... A> struct joined_lists<format_list<A...>> {
    using type = format_list<A...>;
};
template <class... A, class... B, class... More> struct joined_lists<format_list<A...>, format_list<B...>, More...> {
    using type = typename joined_lists<format_list<A..., B...>, More...>::type;
};

} // namespace detail

// All formats of several lists, in that order.
template <class... Lists> using join_formats = typename detail::joined_lists<Lists...>::type;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
