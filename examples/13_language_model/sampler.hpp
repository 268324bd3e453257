// sampler.hpp: the next token from logits: greedy, or at random among those that are likely enough.
#pragma once

#include <nibble/transform/softmax.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

struct sampling_options {
    float temperature = 0; // 0: greedy, the most likely token (of equal ones the first)
    std::size_t top_k = 0; // the most likely ones; 0: all
    float top_p = 1;       // the fewest most likely ones whose probabilities add up to this
    float min_p = 0;       // those at least this share of the most likely one
    std::uint64_t seed = 0;
};

class sampler {
public:
    explicit sampler(const sampling_options& options) : options_(options), random_(options.seed) {}

    [[nodiscard]] std::uint32_t operator()(std::span<const float> logits) {
        if (!(options_.temperature > 0))
            return static_cast<std::uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        order_.resize(logits.size());
        for (std::size_t i = 0; i < logits.size(); ++i) order_[i] = static_cast<std::uint32_t>(i);
        const auto likelier = [&](std::uint32_t a, std::uint32_t b) {
            return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
        };
        std::size_t count = logits.size();
        if (options_.top_k != 0) count = std::min(count, options_.top_k);
        std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), order_.end(), likelier);
        probability_.resize(count);
        for (std::size_t i = 0; i < count; ++i) probability_[i] = logits[order_[i]] / options_.temperature;
        nibble::softmax(probability_, probability_);
        double sum = 0;
        std::size_t kept = 0;
        while (kept < count &&
               (kept == 0 || (sum < double{options_.top_p} && probability_[kept] >= options_.min_p * probability_[0])))
            sum += double{probability_[kept++]};
        // 53 bits of the generator: the same choice with every standard library.
        double left = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
        for (std::size_t i = 0; i + 1 < kept; ++i)
            if ((left -= double{probability_[i]}) < 0) return order_[i];
        return order_[kept - 1];
    }

private:
    sampling_options options_;
    std::mt19937_64 random_;
    std::vector<std::uint32_t> order_;
    std::vector<float> probability_;
};
