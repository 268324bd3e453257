// inference.hpp: the forward pass: tokens of one or several sequences in, logits out.
#pragma once

#include "cache.hpp"
#include "model.hpp"

#include <nibble/transform/rotary.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

struct inference_options {
    std::string keys = "f16", values = "f16"; // formats of the cache
    std::size_t context = 0;                  // tokens of a sequence; 0: the model's, at most 4096
    std::size_t sequences = 1;                // at once
    nb::attention_precision precision = nb::attention_precision::integer;
    nb::activation_options activations{}; // of integer products
};

// Tokens to the end of a sequence. Logits are asked for after its last `logits` ones.
struct new_tokens {
    std::size_t sequence = 0;
    std::span<const std::uint32_t> tokens;
    std::size_t logits = 1;
};

class inference {
public:
    // Keeps references to the model and the threads. Throws model_error for formats that there are not.
    inference(const model& m, const inference_options& options, const nb::thread_pool& threads);

    [[nodiscard]] sequence_cache& cache() noexcept { return cache_; }
    [[nodiscard]] std::size_t context() const noexcept { return context_; }

    // All tokens in one pass, whose memory grows with their number: a long prompt comes in pieces, which changes no bit
    // of the logits (but see key_formats). A row of logits for each that was asked for, in order; valid until the next
    // call.
    [[nodiscard]] nb::matrix_view<const float> forward(std::span<const new_tokens> batch);
    // One sequence, in pieces of `chunk` tokens; the logits after its last token.
    [[nodiscard]] std::span<const float> prefill(std::size_t sequence, std::span<const std::uint32_t> tokens,
                                                 std::size_t chunk = 512);

    // Does something to keys and values before they are cached: for experiments.
    std::function<void(nb::matrix_view<float> keys, nb::matrix_view<float> values)> change_cached{};
    // Seconds within forward, and within gemm and attend of these, so far.
    double seconds = 0, seconds_in_kernels = 0;

private:
    struct rows { // of fp32 numbers, which grow and never shrink
        std::vector<float> numbers;
        [[nodiscard]] nb::matrix_view<float> view(std::size_t count, std::size_t size) {
            if (numbers.size() < count * size) numbers.resize(count * size);
            return {numbers.data(), count, size};
        }
    };
    class shared_activations;

    void attention(std::size_t index, std::span<const batch_rows> batch, nb::matrix_view<float> x);
    void feed_forward(std::size_t index, nb::matrix_view<float> x);
    // x += what a token's likeliest experts make of h, each by its share.
    void experts(const model_layer& layer, nb::matrix_view<const float> h, nb::matrix_view<float> x);
    void normalize_heads(nb::matrix_view<float> x, const std::vector<float>& weight);
    // x += norm(block), or the product's epilogue has added it already.
    void close_half(const linear& last, shared_activations& from, const std::vector<float>& norm,
                    nb::matrix_view<float> x);

    const model& model_;
    inference_options options_;
    std::size_t context_;
    machine on_;
    sequence_cache cache_;
    nb::prepared_activations prepared_;
    nb::rotary_positions positions_, local_positions_;
    rows hidden_, normed_, query_, key_, value_, attended_, gate_, mixed_, logits_, last_;
    std::vector<std::uint32_t> ids_, places_;
    std::vector<batch_rows> batch_;
};
