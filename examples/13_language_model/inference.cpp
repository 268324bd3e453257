// inference.cpp: one block of a transformer after the other, on nibble's verbs.
#include "inference.hpp"

#include <nibble/transform/rms_norm.hpp>
#include <nibble/transform/scatter_add_rows.hpp>
#include <nibble/transform/softmax.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

namespace {

class stopwatch {
public:
    explicit stopwatch(double& sum) : sum_(sum) {}
    stopwatch(const stopwatch&) = delete;
    stopwatch& operator=(const stopwatch&) = delete;
    ~stopwatch() { sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

private:
    double& sum_;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

} // namespace

// The same activations for several matrices: prepared once for all that read them alike.
class inference::shared_activations {
public:
    shared_activations(inference& of, nb::matrix_view<const float> x) : of_(of), x_(x) {}

    void multiply(const linear& w, nb::matrix_view<float> y, const finish& then = {}) {
        const stopwatch time(of_.seconds_in_kernels);
        w.multiply(prepared_for(w), y, then, of_.on_);
    }
    void multiply_gated(const linear& gate, const linear& up, activation f, nb::matrix_view<float> y) {
        if (gate.format() != up.format()) {
            multiply(gate, y, {.activate = f});
            return multiply(up, y, {.factor = y});
        }
        const stopwatch time(of_.seconds_in_kernels);
        gate.multiply_gated(prepared_for(gate), up, f, y, of_.on_);
    }

private:
    [[nodiscard]] const nb::prepared_activations& prepared_for(const linear& w) {
        if (!ready_ || !w.fits(of_.prepared_)) w.prepare(x_, of_.prepared_, of_.options_.activations, of_.on_);
        ready_ = true;
        return of_.prepared_;
    }

    inference& of_;
    nb::matrix_view<const float> x_;
    bool ready_ = false;
};

inference::inference(const model& m, const inference_options& options, const nb::thread_pool& threads)
    : model_(m), options_(options),
      context_(options.context != 0 ? options.context : std::min<std::size_t>(m.config.context, 4096)), on_{threads},
      cache_(options.keys, options.values,
             {m.config.layers, m.config.key_heads, m.config.head_size, context_, options.sequences}) {}

nb::matrix_view<const float> inference::forward(std::span<const new_tokens> batch) {
    const stopwatch time(seconds);
    const model_config& c = model_.config;
    ids_.clear();
    places_.clear();
    batch_.clear();
    std::size_t wanted = 0;
    for (const new_tokens& entry : batch) {
        const std::size_t size = cache_.size(entry.sequence);
        if (entry.tokens.size() > context_ - size)
            throw model_error("the context of " + std::to_string(context_) + " tokens is full");
        batch_.push_back({entry.sequence, ids_.size(), entry.tokens.size()});
        for (std::size_t i = 0; i < entry.tokens.size(); ++i) {
            if (entry.tokens[i] >= c.vocabulary)
                throw model_error("token " + std::to_string(entry.tokens[i]) + " is not in the vocabulary");
            ids_.push_back(entry.tokens[i]);
            places_.push_back(static_cast<std::uint32_t>(size + i));
        }
        wanted += std::min(entry.logits, entry.tokens.size());
    }
    const auto rotary = [&](const nb::dynamic_array<double>& frequencies) {
        return nb::rotary_embedding{
            .dims = 2 * frequencies.size(), .interleaved = c.interleaved, .frequencies = frequencies};
    };
    positions_.assign(rotary(c.frequencies), places_);
    if (!c.local_frequencies.empty()) local_positions_.assign(rotary(c.local_frequencies), places_);

    const nb::matrix_view<float> x = hidden_.view(ids_.size(), c.hidden);
    model_.embedding->rows(ids_, x, on_);
    if (c.embedding_scale != 1.0f)
        for (std::size_t i = 0; i < x.rows() * x.cols(); ++i) x.data()[i] *= c.embedding_scale;
    for (std::size_t i = 0; i < c.layers; ++i) {
        attention(i, batch_, x);
        feed_forward(i, x);
    }

    const nb::matrix_view<float> last = last_.view(wanted, c.hidden);
    std::size_t to = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const std::size_t count = std::min(batch[i].logits, batch[i].tokens.size());
        for (std::size_t j = batch_[i].count - count; j < batch_[i].count; ++j, ++to)
            std::memcpy(last.row(to), x.row(batch_[i].first + j), c.hidden * sizeof(float));
    }
    const nb::matrix_view<float> logits = logits_.view(wanted, c.vocabulary);
    if (wanted == 0) return logits;
    nb::rms_norm(last, model_.output_norm, last, {.epsilon = c.norm_epsilon}, on_.threads);
    shared_activations(*this, last).multiply(model_.output(), logits);
    if (c.logit_soft_cap != 0.0f)
        for (std::size_t i = 0; i < wanted * c.vocabulary; ++i)
            logits.data()[i] = c.logit_soft_cap * std::tanh(logits.data()[i] / c.logit_soft_cap);
    return logits;
}

std::span<const float> inference::prefill(std::size_t sequence, std::span<const std::uint32_t> tokens,
                                          std::size_t chunk) {
    nb::matrix_view<const float> logits;
    for (std::size_t first = 0; first < tokens.size(); first += chunk) {
        const std::size_t count = std::min(chunk, tokens.size() - first);
        const new_tokens piece{sequence, tokens.subspan(first, count), first + count == tokens.size() ? 1u : 0u};
        logits = forward({&piece, 1});
    }
    return {logits.data(), logits.cols()};
}

void inference::attention(std::size_t index, std::span<const batch_rows> batch, nb::matrix_view<float> x) {
    const model_config& c = model_.config;
    const model_layer& layer = model_.layers[index];
    const std::size_t count = x.rows();
    const nb::matrix_view<float> h = normed_.view(count, c.hidden);
    nb::rms_norm(x, layer.attention_norm, h, {.epsilon = c.norm_epsilon}, on_.threads);

    const nb::matrix_view<float> q = query_.view(count, c.heads * c.head_size);
    const nb::matrix_view<float> k = key_.view(count, c.key_heads * c.head_size);
    const nb::matrix_view<float> v = value_.view(count, c.key_heads * c.head_size);
    const auto bias = [](const std::vector<float>& b) { return finish{.bias = b.empty() ? nullptr : b.data()}; };
    shared_activations from(*this, h);
    from.multiply(*layer.query, q, bias(layer.query_bias));
    from.multiply(*layer.key, k, bias(layer.key_bias));
    from.multiply(*layer.value, v, bias(layer.value_bias));

    normalize_heads(q, layer.query_norm);
    normalize_heads(k, layer.key_norm);
    const bool local = c.has_window[index];
    const nb::rotary_positions& positions = local && !c.local_frequencies.empty() ? local_positions_ : positions_;
    positions.rotate(q, c.head_size, on_.threads);
    positions.rotate(k, c.head_size, on_.threads);

    const nb::matrix_view<float> out = attended_.view(count, c.heads * c.head_size);
    {
        const stopwatch time(seconds_in_kernels);
        if (change_cached) change_cached(k, v);
        cache_.append(index, batch, k, v, on_);
        cache_.attend(index, batch, q, out,
                      {.window = local ? c.window : 0,
                       .scale = c.attention_scale,
                       .soft_cap = c.attention_soft_cap,
                       .precision = options_.precision},
                      on_);
    }
    shared_activations attended(*this, out);
    close_half(*layer.output, attended, layer.post_attention_norm, x);
}

void inference::feed_forward(std::size_t index, nb::matrix_view<float> x) {
    const model_config& c = model_.config;
    const model_layer& layer = model_.layers[index];
    const nb::matrix_view<float> h = normed_.view(x.rows(), c.hidden);
    nb::rms_norm(x, layer.feed_forward_norm, h, {.epsilon = c.norm_epsilon}, on_.threads);
    if (layer.router != nullptr) return experts(layer, h, x);
    const nb::matrix_view<float> gated = gate_.view(x.rows(), c.feed_forward);
    shared_activations(*this, h).multiply_gated(*layer.gate[0], *layer.up[0], c.feed_forward_activation, gated);
    shared_activations between(*this, gated);
    close_half(*layer.down[0], between, layer.post_feed_forward_norm, x);
}

// Tokens are sorted by expert: all experts are one call for gate and up, one for down, one that adds the results where
// they belong. The likeliest experts come in the order of their numbers, so that sums do not depend on the others.
void inference::experts(const model_layer& layer, nb::matrix_view<const float> h, nb::matrix_view<float> x) {
    const model_config& c = model_.config;
    const std::size_t used = c.experts_of_token, results = h.rows() * used;
    const nb::matrix_view<float> likely = logits_.view(h.rows(), c.experts);
    shared_activations(*this, h).multiply(*layer.router, likely);
    std::vector<std::vector<std::pair<std::uint32_t, float>>> sent(c.experts); // tokens and shares
    std::vector<std::uint32_t> order(c.experts), tokens;
    for (std::size_t token = 0; token < h.rows(); ++token) {
        const std::span<float> p(likely.row(token), c.experts);
        nb::softmax(p, p);
        for (std::size_t e = 0; e < c.experts; ++e) order[e] = static_cast<std::uint32_t>(e);
        std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(used), order.end(),
                          [&](std::uint32_t a, std::uint32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
        float sum = 0;
        for (std::size_t i = 0; i < used; ++i) sum += p[order[i]];
        for (std::size_t i = 0; i < used; ++i)
            sent[order[i]].emplace_back(static_cast<std::uint32_t>(token), p[order[i]] / (c.shares_add_up ? sum : 1));
    }
    std::vector<float> shares;
    std::vector<linear::expert> first, second;
    for (std::size_t e = 0; e < c.experts; ++e) {
        if (sent[e].empty()) continue;
        first.push_back({layer.gate[e].get(), layer.up[e].get(), tokens.size(), sent[e].size()});
        second.push_back({layer.down[e].get(), nullptr, tokens.size(), sent[e].size()});
        for (const auto& [token, share] : sent[e]) {
            tokens.push_back(token);
            shares.push_back(share);
        }
    }
    const nb::matrix_view<float> gated = gate_.view(results, c.feed_forward), mixed = mixed_.view(results, c.hidden);
    const stopwatch time(seconds_in_kernels);
    nb::activation_options of_rows = options_.activations;
    of_rows.rows = tokens;
    first[0].weights->multiply_experts(h, first, c.feed_forward_activation, gated, of_rows, on_);
    second[0].weights->multiply_experts(gated, second, activation::none, mixed, options_.activations, on_);
    nb::scatter_add_rows(mixed, tokens, shares, x, on_.threads);
}

void inference::close_half(const linear& last, shared_activations& from, const std::vector<float>& norm,
                           nb::matrix_view<float> x) {
    if (norm.empty()) return from.multiply(last, x, {.addend = x});
    const nb::matrix_view<float> h = normed_.view(x.rows(), x.cols());
    from.multiply(last, h);
    nb::rms_norm(h, norm, x, {.epsilon = model_.config.norm_epsilon, .addend = x}, on_.threads);
}

void inference::normalize_heads(nb::matrix_view<float> x, const std::vector<float>& weight) {
    if (weight.empty()) return;
    const nb::matrix_view<float> heads(x.data(), x.rows() * x.cols() / weight.size(), weight.size());
    nb::rms_norm(heads, weight, heads, {.epsilon = model_.config.norm_epsilon}, on_.threads);
}
