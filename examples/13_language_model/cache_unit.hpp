// cache_unit.hpp: the cache of one pair of formats. A pair takes three to six seconds of compilation.
#pragma once

#include "cache.hpp"

#include <nibble/attend.hpp>
#include <nibble/kv_cache.hpp>

template <class Keys, class Values> class cache_of final : public sequence_cache {
public:
    using layer_cache = nb::kv_cache<Keys, Values>;

    // Pages belong to whoever takes them: layers may share one set of them as sequences do.
    explicit cache_of(const cache_shape& shape) : layers_(shape.layers) {
        nb::kv_cache_options options{.heads = shape.heads, .head_size = shape.head_size, .capacity = shape.context};
        const std::size_t of_a_sequence = (shape.context + options.page_tokens - 1) / options.page_tokens;
        options.pages = shape.layers * shape.sequences * of_a_sequence;
        pages_ = nb::make_shared<typename layer_cache::pages_type>(options);
        count_ = options.pages;
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
    [[nodiscard]] std::size_t bytes() const override { return (count_ - pages_->available()) * pages_->page_bytes(); }

    void append(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> keys,
                nb::matrix_view<const float> values, machine& on) override {
        for (const batch_rows& rows : batch)
            sequences_[rows.sequence][layer].append(
                {keys.row(rows.first), rows.count, keys.cols(), keys.stride()},
                {values.row(rows.first), rows.count, values.cols(), values.stride()}, on.threads);
    }
    void attend(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> queries,
                nb::matrix_view<float> out, nb::attend_options options, machine& on) override {
        attended_.clear();
        for (const batch_rows& rows : batch)
            attended_.push_back({&sequences_[rows.sequence][layer], rows.first, rows.count});
        options.workspace = &on.scratch;
        nb::attend(queries, attended_, out, options, on.threads);
    }

private:
    std::size_t layers_;
    std::size_t count_ = 0;
    nb::shared_ptr<typename layer_cache::pages_type> pages_;
    std::vector<std::vector<layer_cache>> sequences_; // [sequence][layer]
    std::vector<nb::attended_sequence<Keys, Values>> attended_;
};

template <class Keys, class Values>
[[nodiscard]] cache_pair cache_pair_of(std::string_view keys, std::string_view values) {
    return {keys, values, [](const cache_shape& shape) -> std::unique_ptr<sequence_cache> {
                return std::make_unique<cache_of<Keys, Values>>(shape);
            }};
}
