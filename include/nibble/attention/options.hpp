// attention/options.hpp: what attend can be told.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// In what the products are computed. Schemes whose elements are no small integers (FP8, NF4, f16, ...) always take
// fp32, as do scores with keys that attend rotates (kv_transform::rotary).
enum class attention_precision {
    fp32,           // all products in fp32
    integer_scores, // queries in 8 bits, one scale per query and head: exact integer products with integer keys
    integer,        // the probabilities of the tokens in 8 bits too, one scale per query, head and 256 tokens
};

struct attend_options {
    bool causal = true;     // query i of n sees tokens up to its own position, size - n + i; else all, also if n > size
    std::size_t window = 0; // and at most the last so many of those, its own included; 0: no limit. Sinks stay visible
    // And none of the last so many, its own included: those that another cache has (with causal alone).
    std::size_t exclude_recent = 0;
    float scale = 0.0f;               // of the products of queries and keys; 0: 1 / sqrt(head_size)
    float soft_cap = 0.0f;            // c: scores become c tanh(score / c) (Gemma 2); 0: none
    array_view<const float> slopes{}; // ALiBi, one per query head: slope x (token's position - query's) is added
    // Added to the scores, queries x size(), the same for all heads: 0 or any bias; what has -infinity is not seen.
    matrix_view<const float> mask{};
    array_view<const float>
        sink_scores{}; // one per query head: a score without a value that takes part in the softmax (GPT-OSS)
    // Where log(sum of e^score) goes, queries x query heads: merge_attention joins results of parts by it.
    matrix_view<float> log_sums{};
    attention_precision precision = attention_precision::integer;
    // Scratch kept between calls, of attend_workspace_bytes or whatever it grows to; without it every call allocates
    // its own.
    nibble::workspace* workspace = nullptr;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
