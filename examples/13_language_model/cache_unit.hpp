// cache_unit.hpp: the cache over lists of formats.
#pragma once

#include "cache.hpp"

#include <nibble/any_kv_cache.hpp>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

template <class KeyFormats, class ValueFormats> class cache_of final : public sequence_cache {
public:
    using layer_cache = nb::any_kv_cache<KeyFormats, ValueFormats>;

    cache_of(std::string_view keys, std::string_view values, const cache_shape& shape) : layers_(shape.layers) {
        nb::kv_cache_options options{.heads = shape.heads, .head_size = shape.head_size, .capacity = shape.context};
        const std::size_t of_a_sequence = (shape.context + options.page_tokens - 1) / options.page_tokens;
        // Pages belong to whoever takes them: layers may share one set of them as sequences do.
        options.pages = shape.layers * shape.sequences * of_a_sequence;
        const nb::status s = layer_cache::pages_type::make(keys, values, options, pages_);
        if (!s) throw std::runtime_error(s.message());
    }

    [[nodiscard]] std::size_t add() override {
        std::vector<layer_cache>& layers = sequences_.emplace_back();
        for (std::size_t i = 0; i < layers_; ++i) layers.emplace_back(pages_);
        return sequences_.size() - 1;
    }
    [[nodiscard]] std::size_t fork(std::size_t sequence) override {
        std::vector<layer_cache> layers;
        for (const layer_cache& layer : sequences_[sequence]) layers.push_back(layer.fork());
        sequences_.push_back(std::move(layers));
        return sequences_.size() - 1;
    }
    void truncate(std::size_t sequence, std::size_t tokens) override {
        for (layer_cache& layer : sequences_[sequence]) layer.truncate(tokens);
    }
    [[nodiscard]] std::size_t size(std::size_t sequence) const override { return sequences_[sequence].front().size(); }
    [[nodiscard]] std::size_t bytes() const override {
        return (pages_->options().pages - pages_->available()) * pages_->page_bytes();
    }

    void append(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> keys,
                nb::matrix_view<const float> values, machine& on) override {
        for (const auto& [sequence, first, count] : batch)
            sequences_[sequence][layer].append({keys.row(first), count, keys.cols(), keys.stride()},
                                               {values.row(first), count, values.cols(), values.stride()}, on.threads);
    }
    void attend(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> queries,
                nb::matrix_view<float> out, nb::attend_options options, machine& on) override {
        attended_.clear();
        for (const auto& [sequence, first, count] : batch)
            attended_.push_back({&sequences_[sequence][layer], first, count});
        options.workspace = &on.scratch;
        nb::attend(queries, attended_, out, options, on.threads);
    }

private:
    std::size_t layers_;
    nb::shared_ptr<typename layer_cache::pages_type> pages_;
    std::vector<std::vector<layer_cache>> sequences_; // [sequence][layer]
    std::vector<nb::any_attended_sequence<KeyFormats, ValueFormats>> attended_;
};
