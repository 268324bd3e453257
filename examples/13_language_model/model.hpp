// model.hpp: what a model is: its configuration and its weights, read from a GGUF file, a safetensors file or a Hugging
// Face folder.
#pragma once

#include "linear.hpp"

#include <nibble/core/dynamic_array.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/safetensors_model.hpp>

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What is wrong with a file or an argument, for whoever runs the program.
struct model_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct model_config {
    std::string architecture; // llama, qwen2, qwen3, qwen3moe or gemma3
    std::string name;
    std::size_t layers = 0, hidden = 0, heads = 0, key_heads = 0, head_size = 0, feed_forward = 0, vocabulary = 0;
    std::size_t experts = 0, experts_of_token = 0; // of a feed-forward half, which has then as many of each matrix
    bool shares_add_up = true;                     // those of a token's experts, to 1
    std::size_t context = 0;                       // tokens that the model was trained for
    double norm_epsilon = 1e-5;
    bool interleaved = false;                         // pairs of the rotary embedding: (2i, 2i + 1), else (i, i + half)
    nb::dynamic_array<double> frequencies{};          // of the rotary embedding, in radians per position
    nb::dynamic_array<double> local_frequencies{};    // and those of layers with a window
    std::size_t window = 0;                           // tokens that layers with a window see
    std::vector<bool> has_window;                     // of each layer
    float attention_scale = 0;                        // 0: 1 / sqrt(head size)
    float attention_soft_cap = 0, logit_soft_cap = 0; // 0: none
    float embedding_scale = 1;
    activation feed_forward_activation = activation::silu;
};

// Vectors that an architecture does not have are empty.
struct model_layer {
    std::vector<float> attention_norm, query_norm, key_norm, post_attention_norm;
    std::vector<float> feed_forward_norm, post_feed_forward_norm;
    std::unique_ptr<linear> query, key, value, output;
    std::vector<float> query_bias, key_bias, value_bias;
    std::unique_ptr<linear> router;                      // of experts, if there are any
    std::vector<std::unique_ptr<linear>> gate, up, down; // one, or one of each expert

    // The matrices that --weights means: all but the router.
    template <class Self, class Visit> static void for_each_matrix(Self& layer, const Visit& visit) {
        for (auto* one : {&layer.query, &layer.key, &layer.value, &layer.output}) visit(*one);
        for (auto* all : {&layer.gate, &layer.up, &layer.down})
            for (auto& one : *all) visit(one);
    }
};

struct model {
    model_config config;
    std::unique_ptr<linear> embedding, separate_output; // no separate one: the embedding's rows
    std::vector<float> output_norm;
    std::vector<model_layer> layers;

    [[nodiscard]] const linear& output() const noexcept { return separate_output ? *separate_output : *embedding; }
    // Bytes of all matrices, and bits per weight of the layers' ones.
    [[nodiscard]] std::size_t bytes() const;
    [[nodiscard]] double bits_per_weight() const;
};

// The open files of a model. Tensors are asked for by GGUF's names and found under Hugging Face's too.
class model_files {
public:
    // A .gguf file, or a .safetensors file with its config.json beside it or at `config`, or the folder of these.
    explicit model_files(const std::string& path, const std::string& config = "");

    [[nodiscard]] const nb::gguf_file* gguf() const noexcept { return is_gguf_ ? &gguf_ : nullptr; }
    [[nodiscard]] const nb::safetensors_model& safetensors() const noexcept { return safetensors_; }
    // Where the tokenizer is, if it is in its place: the GGUF file, or the folder's tokenizer.json.
    [[nodiscard]] const std::string& tokenizer() const noexcept { return tokenizer_; }
    // Under the names of Hugging Face's config.json for either kind of file.
    [[nodiscard]] const nlohmann::json& config() const noexcept { return *config_; }
    // What a checkpoint's tensors do not tell of its quantized layers.
    [[nodiscard]] const nb::layer_options& quantization() const noexcept { return quantization_; }
    [[nodiscard]] std::string name(const std::string& gguf_name) const; // in the files
    // The tensor or nullptr; marks it as known.
    [[nodiscard]] const nb::tensor_info* find(const std::string& gguf_name);
    void mark_known(std::string there) { known_.insert(std::move(there)); } // or a layer's, with all its tensors
    // The first tensor of a layer that nobody asked for: what it does is then not done. "" if there is none.
    [[nodiscard]] std::string unknown() const;

private:
    bool is_gguf_ = false;
    nb::gguf_file gguf_;
    nb::safetensors_model safetensors_;
    nb::layer_options quantization_;
    std::string tokenizer_, prefix_;
    std::shared_ptr<const nlohmann::json> config_;
    std::set<std::string, std::less<>> known_;
};

struct load_options {
    std::string weights; // format of the layers' matrices; "": as they are stored
    // Format of the matrices whose name in the file a POSIX extended regular expression finds, the first that
    // does; before `weights`, and of embeddings and output too. "keep" leaves them as they are stored.
    std::vector<std::pair<std::string, std::string>> rules;
    std::function<void(std::size_t done, std::size_t of)> progress{}; // in layers
};

// Throws model_error, as all here: an expression that is none, a file that cannot be opened.
[[nodiscard]] bool is_found(const std::string& expression, const std::string& text);
[[nodiscard]] std::string read_file(const std::string& path);
// ... the file is damaged, or holds what this program does not know.
[[nodiscard]] model load_model(model_files& files, const load_options& options, const nb::thread_pool& threads);
