// A decode loop over a paged cache: two conversations share the pages of one prompt, each appends a token and attends
// to all tokens before it at every step, and a guess of several tokens is taken back.
#include <nibble/nibble.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

namespace nb = nibble;

// 8-bit keys, one scale per token and head; 4-bit values, one per 32 channels.
using layer_cache = nb::kv_cache<nb::int8_channel, nb::int4_g32>;

const std::size_t key_heads = 2, query_heads = 8, channels = 64; // four query heads share a head of keys and values

struct numbers {
    std::mt19937 random;
    std::vector<float> normal(std::size_t count) {
        std::vector<float> v(count);
        for (float& x : v) x = std::normal_distribution<float>()(random);
        return v;
    }
};

// What was said so far in fp32, for the check at the end; a model has this nowhere.
struct conversation {
    layer_cache tokens;
    std::vector<float> keys, values;

    void append(const std::vector<float>& k, const std::vector<float>& v) {
        const std::size_t count = k.size() / (key_heads * channels);
        tokens.append({k.data(), count, key_heads * channels}, {v.data(), count, key_heads * channels});
        keys.insert(keys.end(), k.begin(), k.end());
        values.insert(values.end(), v.begin(), v.end());
    }
};

double error_of(const conversation& c, const std::vector<float>& q, const std::vector<float>& out) {
    double noise = 0, signal = 0;
    const std::size_t count = c.tokens.size();
    for (std::size_t h = 0; h < query_heads; ++h) {
        const std::size_t at = h / (query_heads / key_heads) * channels;
        std::vector<double> weight(count), exact(channels);
        double sum = 0;
        for (std::size_t t = 0; t < count; ++t) {
            double score = 0;
            for (std::size_t i = 0; i < channels; ++i)
                score += double{q[h * channels + i]} * double{c.keys[t * key_heads * channels + at + i]};
            sum += weight[t] = std::exp(score / std::sqrt(static_cast<double>(channels)));
        }
        for (std::size_t t = 0; t < count; ++t)
            for (std::size_t i = 0; i < channels; ++i)
                exact[i] += weight[t] / sum * double{c.values[t * key_heads * channels + at + i]};
        for (std::size_t i = 0; i < channels; ++i) {
            noise += std::pow(double{out[h * channels + i]} - exact[i], 2);
            signal += exact[i] * exact[i];
        }
    }
    return std::sqrt(noise / signal);
}

int main() {
    numbers from;
    // Memory for all sequences of this layer: 10 pages of 256 tokens each.
    constexpr std::size_t page_count = 10;
    const auto pages = std::make_shared<layer_cache::pages_type>(
        nb::kv_cache_options{.heads = key_heads, .head_size = channels, .capacity = 4096, .pages = page_count});

    // The prompt, once; then two conversations that begin with it.
    conversation first{layer_cache(pages), {}, {}};
    first.append(from.normal(1000 * key_heads * channels), from.normal(1000 * key_heads * channels));
    conversation second{first.tokens.fork(), first.keys, first.values};
    const std::size_t shared = pages->available();

    std::vector<float> out(query_heads * channels);
    nb::workspace scratch;
    double worst = 0;
    for (int step = 0; step < 40; ++step)
        for (conversation* c : {&first, &second}) {
            c->append(from.normal(key_heads * channels), from.normal(key_heads * channels));
            const std::vector<float> q = from.normal(query_heads * channels);
            nb::attend({q.data(), 1, query_heads * channels}, c->tokens, {out.data(), 1, query_heads * channels},
                       {.workspace = &scratch});
            worst = std::max(worst, error_of(*c, q, out));
        }

    // Five guessed tokens, attended to at once, of which two are kept.
    const std::vector<float> q = from.normal(5 * query_heads * channels);
    std::vector<float> guessed(5 * query_heads * channels);
    first.append(from.normal(5 * key_heads * channels), from.normal(5 * key_heads * channels));
    nb::attend({q.data(), 5, query_heads * channels}, first.tokens, {guessed.data(), 5, query_heads * channels},
               {.workspace = &scratch});
    first.tokens.truncate(first.tokens.size() - 3);

    std::printf("%zu and %zu tokens in %zu pages, %zu before they parted; error at most %.1f %%\n", first.tokens.size(),
                second.tokens.size(), page_count - pages->available(), page_count - shared, 100 * worst);
    return worst < 0.2 ? 0 : 1;
}
