// cache.hpp: keys and values of all layers and sequences, in formats that are chosen by name: nibble's any_kv_cache.
#pragma once

#include "linear.hpp"

#include <nibble/any_kv_cache.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct cache_shape {
    std::size_t layers = 0, heads = 0, head_size = 0;
    std::size_t context = 0;   // tokens of a sequence, at most
    std::size_t sequences = 1; // as many of that length have room
};

// Rows [first, first + count) of a batch are the newest tokens of a sequence.
struct batch_rows {
    std::size_t sequence = 0, first = 0, count = 0;
};

// Each format is compiled once as keys and once as values, in cache.cpp, and they go together in any pair. Those of
// groups with a minimum are KIVI's, along tokens where they are keys: what is appended in one piece attends to itself
// before such keys are rounded, so that with them, only, logits depend on how a prompt is cut.
using key_formats = nb::format_list<
    nb::named_format<"f32", nb::f32_plain>, nb::named_format<"f16", nb::f16_plain>,
    nb::named_format<"int8", nb::int8_channel>, nb::named_format<"int8_g32", nb::int8_g32>,
    nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"mxfp8_e4m3", nb::mxfp8_e4m3>,
    nb::named_format<"mxfp4", nb::mxfp4>,
    nb::named_cache_format<"along_tokens_int4_g32_min", nb::along_tokens<nb::minimum_scheme<nb::uint4, 32>>>,
    nb::named_cache_format<"along_tokens_int2_g32_min", nb::along_tokens<nb::minimum_scheme<nb::uint2, 32>>>>;
using value_formats =
    nb::format_list<nb::named_format<"f32", nb::f32_plain>, nb::named_format<"f16", nb::f16_plain>,
                    nb::named_format<"int8", nb::int8_channel>, nb::named_format<"int8_g32", nb::int8_g32>,
                    nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"mxfp8_e4m3", nb::mxfp8_e4m3>,
                    nb::named_format<"mxfp4", nb::mxfp4>,
                    nb::named_format<"int4_g32_min", nb::minimum_scheme<nb::uint4, 32>>,
                    nb::named_format<"int2_g32_min", nb::minimum_scheme<nb::uint2, 32>>>;

class sequence_cache {
public:
    // Throws std::runtime_error for a format that there is not.
    sequence_cache(std::string_view keys, std::string_view values, const cache_shape& shape);

    // A new sequence without tokens, or with those of another, whose memory it shares until one of the two writes to
    // it.
    [[nodiscard]] std::size_t add();
    [[nodiscard]] std::size_t fork(std::size_t sequence);
    void truncate(std::size_t sequence, std::size_t tokens);
    [[nodiscard]] std::size_t size(std::size_t sequence) const { return sequences_[sequence].front().size(); }
    [[nodiscard]] std::size_t bytes() const; // that hold tokens

    void append(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> keys,
                nb::matrix_view<const float> values, machine& on);
    void attend(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> queries,
                nb::matrix_view<float> out, nb::attend_options options, machine& on);

private:
    using layer_cache = nb::any_kv_cache<key_formats, value_formats>;

    std::size_t layers_;
    nb::shared_ptr<layer_cache::pages_type> pages_;
    std::vector<std::vector<layer_cache>> sequences_; // [sequence][layer]
    std::vector<nb::any_attended_sequence<key_formats, value_formats>> attended_;
};
