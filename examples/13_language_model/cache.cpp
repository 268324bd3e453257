// cache.cpp: what nibble's verbs do for keys and values, compiled here for all formats.
#include "cache.hpp"

#include <stdexcept>
#include <utility>

sequence_cache::sequence_cache(std::string_view keys, std::string_view values, const cache_shape& shape)
    : layers_(shape.layers) {
    nb::kv_cache_options options{.heads = shape.heads, .head_size = shape.head_size, .capacity = shape.context};
    const std::size_t of_a_sequence = (shape.context + options.page_tokens - 1) / options.page_tokens;
    // Pages belong to whoever takes them: layers may share one set of them as sequences do.
    options.pages = shape.layers * shape.sequences * of_a_sequence;
    const nb::status s = layer_cache::pages_type::make(keys, values, options, pages_);
    if (!s) throw std::runtime_error(s.message());
}

std::size_t sequence_cache::add() {
    std::vector<layer_cache>& layers = sequences_.emplace_back();
    for (std::size_t i = 0; i < layers_; ++i) layers.emplace_back(pages_);
    return sequences_.size() - 1;
}

std::size_t sequence_cache::fork(std::size_t sequence) {
    std::vector<layer_cache> layers;
    for (const layer_cache& layer : sequences_[sequence]) layers.push_back(layer.fork());
    sequences_.push_back(std::move(layers));
    return sequences_.size() - 1;
}

void sequence_cache::truncate(std::size_t sequence, std::size_t tokens) {
    for (layer_cache& layer : sequences_[sequence]) layer.truncate(tokens);
}

std::size_t sequence_cache::bytes() const {
    return (pages_->options().pages - pages_->available()) * pages_->page_bytes();
}

void sequence_cache::append(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> keys,
                            nb::matrix_view<const float> values, machine& on) {
    for (const auto& [sequence, first, count] : batch)
        sequences_[sequence][layer].append({keys.row(first), count, keys.cols(), keys.stride()},
                                           {values.row(first), count, values.cols(), values.stride()}, on.threads);
}

void sequence_cache::attend(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> queries,
                            nb::matrix_view<float> out, nb::attend_options options, machine& on) {
    attended_.clear();
    for (const auto& [sequence, first, count] : batch)
        attended_.push_back({&sequences_[sequence][layer], first, count});
    options.workspace = &on.scratch;
    nb::attend(queries, attended_, out, options, on.threads);
}
