// Cross-attention (speech, translation, image captions): keys and values are those of an encoder, stored once per
// request; any number of queries of the decoder meets all of them, for several requests in one call.
#include <nibble/nibble.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

namespace nb = nibble;

const std::size_t heads = 4, channels = 64, width = heads * channels;

// Of one layer: 8-bit keys and values, a scale per token and head.
using encoder_memory = nb::kv_cache<nb::int8_channel, nb::int8_channel>;

// What the encoder gave, N x width each. The fp32 copies serve the check below; an engine keeps the cache alone.
struct request {
    encoder_memory tokens;
    std::vector<float> keys, values;

    request(std::vector<float> k, std::vector<float> v)
        : tokens(
              nb::kv_cache_options{.heads = heads, .head_size = channels, .capacity = k.size() / width, .rollback = 0}),
          keys(std::move(k)), values(std::move(v)) { // as many tokens as there are, none of which is taken back
        const std::size_t count = keys.size() / width;
        tokens.append({keys.data(), count, width}, {values.data(), count, width});
    }
};

// Queries meet all tokens: those that come later too, and also where there are more queries than tokens.
const nb::attend_options all_tokens{.causal = false};

// One query in double precision.
void attend_exactly(const float* q, const request& r, double* out) {
    const std::size_t count = r.tokens.size();
    for (std::size_t h = 0; h < heads; ++h) {
        std::vector<double> weight(count);
        double sum = 0;
        for (std::size_t t = 0; t < count; ++t) {
            double score = 0;
            for (std::size_t c = h * channels; c < (h + 1) * channels; ++c)
                score += double{q[c]} * double{r.keys[t * width + c]};
            sum += weight[t] = std::exp(score / std::sqrt(static_cast<double>(channels)));
        }
        for (std::size_t c = h * channels; c < (h + 1) * channels; ++c) {
            out[c] = 0;
            for (std::size_t t = 0; t < count; ++t) out[c] += weight[t] / sum * double{r.values[t * width + c]};
        }
    }
}

int main() {
    std::mt19937 random;
    std::normal_distribution<float> number;
    const auto normal = [&](std::size_t count) {
        std::vector<float> v(count);
        for (float& x : v) x = number(random);
        return v;
    };

    // A long recording that is decoded greedily, and a short one with four beams: beams of a request share its memory,
    // so they are queries of one sequence. A third begins: its prompt has more tokens than the encoder gave.
    const request requests[] = {{normal(1500 * width), normal(1500 * width)},
                                {normal(90 * width), normal(90 * width)},
                                {normal(6 * width), normal(6 * width)}};
    const std::size_t counts[] = {1, 4, 11};
    const std::size_t rows = 16;
    const std::vector<float> q = normal(rows * width);
    std::vector<float> out(rows * width), one(width);

    std::vector<nb::attended_sequence<nb::int8_channel, nb::int8_channel>> sequences;
    for (std::size_t i = 0, first = 0; i < 3; first += counts[i++])
        sequences.push_back({&requests[i].tokens, first, counts[i]});
    nb::attend({q.data(), rows, width}, sequences, {out.data(), rows, width}, all_tokens);

    double noise = 0, signal = 0;
    bool same = true;
    std::vector<double> exact(width);
    for (const auto& s : sequences)
        for (std::size_t row = s.first; row < s.first + s.count; ++row) {
            const request& r = requests[&s - sequences.data()];
            attend_exactly(q.data() + row * width, r, exact.data());
            for (std::size_t c = 0; c < width; ++c) {
                noise += std::pow(double{out[row * width + c]} - exact[c], 2);
                signal += exact[c] * exact[c];
            }
            nb::attend({q.data() + row * width, 1, width}, r.tokens, {one.data(), 1, width}, all_tokens);
            same = same && std::memcmp(one.data(), out.data() + row * width, width * sizeof(float)) == 0;
        }
    const double error = std::sqrt(noise / signal);
    std::printf("%zu queries of 3 requests over 1500, 90 and 6 tokens: error %.2f %%, one by one %s\n", rows,
                100 * error, same ? "the same bits" : "DIFFERENT");
    return error < 0.03 && same ? 0 : 1;
}
