// codec_check.hpp: holds a codec to its reference; the loops are compiled once, whatever the number of elements.
#pragma once

#include "support/lists.hpp"
#include "support/reference.hpp"

#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nibble_test {

// An element's functions behind pointers. encode: [rounding][overflow].
struct codec {
    std::string name;
    int bits = 0;
    float (*decode)(code_number) = nullptr;
    code_number (*encode[rounding_count][2])(float, std::uint32_t) = {};
    float largest = 0.0f;
    float lowest = 0.0f;
    bool has_nan = false;
    bool has_infinity = false;
};

template <class Element, nibble::rounding Rounding, nibble::overflow Overflow>
[[nodiscard]] code_number encode_with(float x, std::uint32_t random) {
    return nibble::encode<Element, Rounding, Overflow>(x, random);
}
template <class Element> [[nodiscard]] float decode_with(code_number code) {
    return Element::decode(static_cast<typename Element::code>(code));
}

template <class Element> [[nodiscard]] codec codec_of() {
    using nibble::overflow;
    using nibble::rounding;
    codec c;
    c.name = type_name<Element>();
    c.bits = Element::bits;
    c.decode = &decode_with<Element>;
    [&]<std::size_t... Mode>(std::index_sequence<Mode...>) {
        ((c.encode[Mode][0] = &encode_with<Element, static_cast<rounding>(Mode), overflow::saturate>), ...);
        ((c.encode[Mode][1] = &encode_with<Element, static_cast<rounding>(Mode), overflow::special>), ...);
    }(std::make_index_sequence<rounding_count>{});
    c.largest = nibble::largest<Element>;
    c.lowest = nibble::lowest<Element>;
    c.has_nan = nibble::has_nan_code<Element>;
    c.has_infinity = nibble::has_infinity_code<Element>;
    return c;
}

// Every code decodes as the reference says, and its value encodes to it again under every rounding; ties, midpoints and
// thresholds of overflow with their neighbours, zeros, NaN, infinities and `samples` random bit patterns encode as the
// reference says, under every rounding; stochastic rounding keeps to the two neighbours and is unbiased; results rise
// with x.
void check_codec(const codec& tested, const reference_codec& reference, std::size_t samples);

// What the library derives from an element's values.
struct derived_facts {
    std::string name;
    int bits = 0;
    nibble::detail::integer_mapping grid;
    bool fits_int16_sums = false;
    int lane_center = 0;
    int lane_offset = 0;
    std::size_t phase_quads = 0;
    std::vector<std::uint8_t> lanes;
    nibble::detail::real_lanes real;
    bool marks_nan = false;
    std::vector<float> values; // by the reference
    std::vector<float> decode_table;
    std::vector<float> sorted_values; // sorted_grid
    std::vector<std::uint8_t> sorted_codes;
};

template <class Element> [[nodiscard]] derived_facts facts_of(const reference_codec& reference) {
    using namespace nibble::detail;
    derived_facts f;
    f.name = type_name<Element>();
    f.bits = Element::bits;
    f.grid = integer_mapping_of<Element>;
    f.fits_int16_sums = nibble::detail::fits_int16_sums<Element>;
    f.lane_center = lane_center<Element>;
    f.lane_offset = lane_offset<Element>;
    if constexpr (nibble::detail::fits_int16_sums<Element>) f.phase_quads = int16_phase_quads<Element>;
    f.real = real_lanes_of<Element>;
    f.marks_nan = marks_nan<Element>;
    for (code_number c = 0; c < code_number{1} << Element::bits; ++c) {
        f.values.push_back(static_cast<float>(reference.decode(c)));
        f.lanes.push_back(lane_table<Element>.at[c]);
        f.decode_table.push_back(nibble::decode_table<Element>.at[c]);
    }
    for (std::size_t i = 0; i < sorted_grid<Element>.count; ++i) {
        f.sorted_values.push_back(sorted_grid<Element>.values.at[i]);
        f.sorted_codes.push_back(sorted_grid<Element>.codes.at[i]);
    }
    return f;
}

// Tables, the integer grid, the lanes of the kernel family and the arithmetic of the fp32 lanes give decode's values.
void check_facts(const derived_facts& facts);

template <class Element> void check_element(std::size_t samples) {
    const reference_codec& reference = reference_for<Element>();
    check_codec(codec_of<Element>(), reference, samples);
    if constexpr (Element::bits <= 8) check_facts(facts_of<Element>(reference));
}

} // namespace nibble_test
