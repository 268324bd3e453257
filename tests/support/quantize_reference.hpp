// quantize_reference.hpp: the documented rules of quantize, weight by weight and in one thread, for any scheme.
#pragma once

#include "support/lists.hpp"
#include "support/reference.hpp"

#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace nibble_test {

enum class scale_rule { by_largest, by_exponent, by_exponent_no_clip, by_exponent_rounded, by_mean };

// A scheme as data.
struct scheme_facts {
    std::string name;
    const reference_codec* element = nullptr;
    const reference_codec* scale = nullptr;
    const reference_codec* outer = nullptr;
    const reference_codec* zero = nullptr;       // the minimum's format
    const reference_codec* outer_zero = nullptr; // of a two_level_minimum
    scale_rule rule = scale_rule::by_largest;
    bool scaled = false;
    bool two_level = false;
    bool integer_zero = false;
    bool minimum = false;
    bool offset = false;
    std::size_t (*slots)(std::size_t, std::size_t) = nullptr;
    std::size_t (*slot)(std::size_t, std::size_t, std::size_t) = nullptr;
    std::size_t (*outer_slots)(std::size_t, std::size_t) = nullptr;
    std::size_t (*outer_slot)(std::size_t, std::size_t, std::size_t) = nullptr;
};

template <class Scheme> [[nodiscard]] scheme_facts facts_of_scheme(std::string name) {
    using traits = nibble::detail::scheme_traits<Scheme>;
    scheme_facts f;
    f.name = std::move(name);
    f.element = &reference_for<typename traits::element>();
    f.scaled = Scheme::scaled;
    f.two_level = Scheme::two_level;
    f.integer_zero = Scheme::has_integer_zero;
    f.minimum = Scheme::has_minimum;
    f.offset = Scheme::has_offset;
    f.slots = &traits::granularity::count;
    f.slot = &traits::granularity::index;
    f.outer_slots = &traits::outer_granularity::count;
    f.outer_slot = &traits::outer_granularity::index;
    if constexpr (Scheme::scaled) {
        using rule = typename Scheme::scale_type::rule;
        static_assert(std::is_same_v<rule, nibble::by_largest> || std::is_same_v<rule, nibble::by_exponent> ||
                          std::is_same_v<rule, nibble::by_exponent_no_clip> ||
                          std::is_same_v<rule, nibble::by_exponent_rounded> || std::is_same_v<rule, nibble::by_mean>,
                      "a new scale rule needs a line in quantize_reference.cpp");
        f.scale = &reference_for<typename traits::scale_element>();
        if (std::is_same_v<rule, nibble::by_exponent>) f.rule = scale_rule::by_exponent;
        if (std::is_same_v<rule, nibble::by_exponent_no_clip>) f.rule = scale_rule::by_exponent_no_clip;
        if (std::is_same_v<rule, nibble::by_exponent_rounded>) f.rule = scale_rule::by_exponent_rounded;
        if (std::is_same_v<rule, nibble::by_mean>) f.rule = scale_rule::by_mean;
        if constexpr (Scheme::two_level) f.outer = &reference_for<typename traits::outer_element>();
        if constexpr (Scheme::has_minimum) f.zero = &reference_for<typename traits::zero_element>();
        if constexpr (Scheme::has_two_level_minimum)
            f.outer_zero = &reference_for<typename traits::outer_zero_element>();
    }
    return f;
}

// Quantized weights as plain numbers.
struct plain_quantized {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<code_number> codes; // rows x cols
    std::vector<code_number> scales;
    std::vector<code_number> outer;
    std::vector<code_number> zeros;
    std::vector<code_number> outer_zeros;
    float offset = 0.0f;
    std::vector<float> values; // rows x cols
    bool nonfinite = false;
    std::vector<std::vector<unsigned char>> streams; // the bytes of each row's codes
};

[[nodiscard]] plain_quantized reference_quantize(const scheme_facts& scheme, const float* x, std::size_t rows,
                                                 std::size_t cols, std::size_t stride, nibble::rounding rounding);

template <class Scheme> [[nodiscard]] plain_quantized plain(const nibble::quantized<Scheme>& q) {
    plain_quantized p;
    p.rows = q.rows();
    p.cols = q.cols();
    p.nonfinite = q.nonfinite();
    for (std::size_t i = 0; i < q.rows(); ++i) {
        for (std::size_t j = 0; j < q.cols(); ++j) {
            p.codes.push_back(q.code_at(i, j));
            p.values.push_back(q.value_at(i, j));
        }
        p.streams.emplace_back(q.row_codes(i), q.row_codes(i) + q.row_bytes());
    }
    for (std::size_t s = 0; s < q.scale_count(); ++s) p.scales.push_back(q.scales()[s]);
    for (std::size_t s = 0; s < q.outer_count(); ++s) p.outer.push_back(q.outer_scales()[s]);
    for (std::size_t s = 0; s < q.zero_count(); ++s) p.zeros.push_back(q.zeros()[s]);
    for (std::size_t s = 0; s < q.outer_zero_count(); ++s) p.outer_zeros.push_back(q.outer_zeros()[s]);
    p.offset = q.offset();
    return p;
}

// Weights of the kinds that quantizers meet.
enum class weights_kind { normal, zeros, tiny, huge, nonfinite, constant, ties, last };
[[nodiscard]] std::vector<float> weights_of(weights_kind kind, std::size_t rows, std::size_t cols, std::uint64_t seed);

// "" if both are the same bits, else where they differ first.
[[nodiscard]] std::string difference(const plain_quantized& got, const plain_quantized& wanted, int element_bits);

// Squared error of each slot, in double.
[[nodiscard]] std::vector<double> errors_of_slots(const scheme_facts& scheme, const plain_quantized& q, const float* x);

// A matrix cut into blocks, the columns from right to left: of 1, 2, 3 ... columns, every other one in two parts.
void for_each_block(
    std::size_t rows, std::size_t cols,
    const std::function<void(std::size_t row, std::size_t col, std::size_t height, std::size_t width)>& visit);

// A format behind pointers: what the tests call of it.
struct format_verbs {
    scheme_facts facts;
    plain_quantized (*quantize)(const float* x, std::size_t rows, std::size_t cols, std::size_t stride,
                                const nibble::quantize_options& options, std::size_t workers) = nullptr;
    // The same by choose_scales and encode, or encode_block of one block after the other.
    plain_quantized (*quantize_by_halves)(const float* x, std::size_t rows, std::size_t cols,
                                          const nibble::quantize_options& options, bool by_blocks,
                                          std::size_t workers) = nullptr;
    std::vector<float> (*round_trip)(const float* x, std::size_t rows, std::size_t cols, std::size_t out_stride,
                                     std::size_t workers) = nullptr;
};

// The named formats' verbs; every_format_<n>.cpp enter them.
[[nodiscard]] inline std::map<std::string, format_verbs (*)()>& format_of_name() {
    static std::map<std::string, format_verbs (*)()> all;
    return all;
}

// Codes, scales and zero points by the rules, over shapes and kinds of weights; dequantize; strides; executors; errors.
void check_format(const format_verbs& format);

} // namespace nibble_test
