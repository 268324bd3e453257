// model.cpp: files to configuration and weights.
#include "model.hpp"

#include "json_fields.hpp"

#include <nibble/io/mapped_file.hpp>
#include <nibble/io/model_file.hpp>
#include <nibble/io/quantization_config.hpp>
#include <nibble/io/read_layer.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <optional>

#include <regex.h>

namespace {

using nlohmann::json;

void check(const nb::status& s) {
    if (!s) throw model_error(s.message());
}

// Of tensors, and of numbers in the configuration.
struct name_pair {
    const char *gguf, *hugging_face;
};
// clang-format off
constexpr name_pair tensor_names[] = {
    {"attn_norm", "input_layernorm"},           {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},             {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},        {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},        {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate_inp", "mlp.gate"},               {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},                  {"ffn_down", "mlp.down_proj"},
    {"token_embd", "embed_tokens"},             {"output_norm", "norm"}};
// Gemma has a norm behind each half of a layer too, and then other names.
constexpr name_pair gemma_tensor_names[] = {
    {"post_attention_norm", "post_attention_layernorm"}, {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"}};
constexpr name_pair number_names[] = {
    {"block_count", "num_hidden_layers"},                {"embedding_length", "hidden_size"},
    {"attention.head_count", "num_attention_heads"},     {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},                {"attention.value_length", "value_head_dim"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"context_length", "max_position_embeddings"},
    {"attention.sliding_window", "sliding_window"},      {"attention.sliding_window_pattern", "sliding_window_pattern"},
    {"feed_forward_length", "intermediate_size"},        {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_count", "num_experts"},                     {"expert_used_count", "num_experts_per_tok"},
    {"rope.freq_base", "rope_theta"},                    {"rope.freq_base_swa", "rope_local_base_freq"},
    {"rope.dimension_count", "rotary_dim"},              {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"}};
// clang-format on

// A GGUF file's metadata as Hugging Face's config.json has it.
[[nodiscard]] json config_of(const nb::gguf_file& file) {
    const std::string type(file.metadata_text("general.architecture").value_or("?"));
    json config{{"model_type", type}, {"name", file.metadata_text("general.name").value_or("")}, {"rope_theta", 1e4}};
    for (const name_pair& name : number_names)
        if (const auto value = file.metadata_number(type + "." + name.gguf)) config[name.hugging_face] = *value;
    if (const auto scaling = file.metadata_text(type + ".rope.scaling.type"))
        config["rope_scaling"]["rope_type"] = *scaling;
    if (const auto factor = file.metadata_number(type + ".rope.scaling.factor"))
        config["rope_scaling"]["factor"] = *factor;
    if (type == "gemma3" && number_of(config, "num_hidden_layers") == 62) // 27B
        config["query_pre_attn_scalar"] = number_of(config, "hidden_size") / number_of(config, "num_attention_heads");
    return config;
}

[[nodiscard]] nb::dynamic_array<double> frequencies_of(double base, std::size_t dims) {
    nb::dynamic_array<double> all;
    for (std::size_t i = 0; i < dims; i += 2)
        all.push_back(std::pow(base, -static_cast<double>(i) / static_cast<double>(dims)));
    return all;
}

// Llama 3's: long wavelengths by the factor, short ones not, between them a straight line.
void scale_as_llama3(nb::dynamic_array<double>& frequencies, const json& scaling) {
    const double factor = number_of(scaling, "factor", 1), low = number_of(scaling, "low_freq_factor", 1),
                 high = number_of(scaling, "high_freq_factor", 4),
                 context = number_of(scaling, "original_max_position_embeddings", 8192);
    for (double& f : frequencies) {
        const double turns = context * f / (2 * 3.14159265358979323846);
        const double share = std::clamp((turns - low) / (high - low), 0.0, 1.0);
        f = f / factor * (1 - share) + f * share;
    }
}

void set_rotary(model_config& c, const json& from, model_files& files) {
    // Newer files have all of it in rope_parameters, by kind of layer where there are two.
    const json* const parameters = field_of(from, "rope_parameters");
    const json* const full = parameters != nullptr ? field_of(*parameters, "full_attention") : nullptr;
    const json* const local = parameters != nullptr ? field_of(*parameters, "sliding_attention") : nullptr;
    const json* const rotary = full != nullptr ? full : parameters;
    const std::size_t dims = count_of(
        from, "rotary_dim", std::floor(static_cast<double>(c.head_size) * number_of(from, "partial_rotary_factor", 1)));
    c.frequencies = frequencies_of(
        number_of(rotary != nullptr ? *rotary : from, "rope_theta", c.architecture == "gemma3" ? 1e6 : 1e4), dims);
    if (c.architecture == "gemma3")
        c.local_frequencies = frequencies_of(local != nullptr ? number_of(*local, "rope_theta", 1e4)
                                                              : number_of(from, "rope_local_base_freq", 1e4),
                                             dims);
    c.interleaved = files.gguf() != nullptr && c.architecture == "llama"; // its converter permutes queries and keys
    const json* const scaling = rotary != nullptr ? rotary : field_of(from, "rope_scaling");
    const std::string kind =
        scaling == nullptr ? "default" : text_of(*scaling, "rope_type", text_of(*scaling, "type").c_str());
    if (kind == "llama3")
        scale_as_llama3(c.frequencies, *scaling);
    else if (kind == "linear")
        for (double& f : c.frequencies) f /= number_of(*scaling, "factor");
    else if (kind != "" && kind != "default" && kind != "none")
        throw model_error("rotary embeddings scaled by '" + kind + "' are not known");
    const nb::tensor_info* const factors = files.find("rope_freqs.weight");
    if (factors == nullptr) return;
    std::vector<float> by(factors->cols());
    check(nb::read_matrix(*factors, {by.data(), 1, by.size()}));
    if (by.size() != c.frequencies.size()) throw model_error("rope_freqs.weight: not one number for each pair");
    for (std::size_t i = 0; i < by.size(); ++i) c.frequencies[i] /= static_cast<double>(by[i]);
}

void set_windows(model_config& c, const json& from, const std::string& type) {
    const bool gemma = c.architecture == "gemma3";
    c.has_window.assign(c.layers, false);
    if (!gemma && type != "mistral" && number_of(from, "use_sliding_window", 0) == 0) return;
    c.window = count_of(from, "sliding_window", gemma ? std::nullopt : std::optional(0.0));
    if (!gemma && c.window == 0) return;
    const json* const types = field_of(from, "layer_types");
    const std::size_t pattern = count_of(from, "sliding_window_pattern", gemma ? 6 : static_cast<double>(c.layers + 1));
    const std::size_t first = gemma ? 0 : count_of(from, "max_window_layers", 0);
    for (std::size_t i = 0; i < c.layers; ++i)
        c.has_window[i] = types != nullptr && i < types->size() ? (*types)[i] == "sliding_attention"
                                                                : i >= first && (i + 1) % pattern != 0;
}

[[nodiscard]] model_config config_of(model_files& files) {
    const json* const inner = field_of(files.config(), "text_config");
    const json& from = inner != nullptr ? *inner : files.config();
    const std::string type = text_of(from, "model_type", "?");
    model_config c;
    c.name = text_of(from, "name");
    c.architecture = type == "mistral" ? "llama" : type == "gemma3_text" ? "gemma3" : type;
    if (type == "qwen3_moe") c.architecture = "qwen3moe";
    const std::string_view known[] = {"llama", "qwen2", "qwen3", "qwen3moe", "gemma3"};
    if (std::find(std::begin(known), std::end(known), c.architecture) == std::end(known))
        throw model_error("architecture '" + type +
                          "' is not known; llama, mistral, qwen2, qwen3, qwen3moe and gemma3 are");
    const bool gemma = c.architecture == "gemma3", moe = c.architecture == "qwen3moe";
    c.layers = count_of(from, "num_hidden_layers");
    c.hidden = count_of(from, "hidden_size");
    c.heads = count_of(from, "num_attention_heads");
    c.key_heads = count_of(from, "num_key_value_heads", static_cast<double>(c.heads));
    if (c.heads == 0 || c.key_heads == 0 || c.heads % c.key_heads != 0) throw model_error("heads do not fit key heads");
    c.head_size = count_of(from, "head_dim", static_cast<double>(c.hidden / c.heads));
    if (count_of(from, "value_head_dim", static_cast<double>(c.head_size)) != c.head_size)
        throw model_error("values of another size than keys are not known");
    c.feed_forward = count_of(from, moe ? "moe_intermediate_size" : "intermediate_size");
    c.experts = count_of(from, "num_experts", 0);
    if (!moe && c.experts != 0) throw model_error("mixtures of experts are not known for " + type);
    if (moe) {
        c.experts_of_token = count_of(from, "num_experts_per_tok");
        c.shares_add_up = number_of(from, "norm_topk_prob", files.gguf() != nullptr ? 1 : 0) != 0;
        if (c.experts_of_token == 0 || c.experts_of_token > c.experts) throw model_error("no experts for a token");
        const json* const dense = field_of(from, "mlp_only_layers");
        if (number_of(from, "decoder_sparse_step", 1) != 1 || (dense != nullptr && !dense->empty()))
            throw model_error("layers without experts between others are not known");
    }
    c.context = count_of(from, "max_position_embeddings");
    c.norm_epsilon = number_of(from, "rms_norm_eps", 1e-6);
    for (const char* key : {"hidden_act", "hidden_activation"})
        if (const std::string act = text_of(from, key); !act.empty() && act != (gemma ? "gelu_pytorch_tanh" : "silu"))
            throw model_error("activation '" + act + "' is not known for " + type);
    set_rotary(c, from, files);
    set_windows(c, from, type);
    c.attention_soft_cap = static_cast<float>(number_of(from, "attn_logit_softcapping", 0));
    c.logit_soft_cap = static_cast<float>(number_of(from, "final_logit_softcapping", 0));
    if (!gemma) return c;
    c.feed_forward_activation = activation::gelu;
    c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
    if (field_of(from, "query_pre_attn_scalar") != nullptr)
        c.attention_scale = static_cast<float>(1 / std::sqrt(number_of(from, "query_pre_attn_scalar")));
    return c;
}

// Reads tensors of the shape that is expected, or says what is wrong.
class weight_reader {
public:
    weight_reader(model_files& files, const load_options& options, const nb::thread_pool& threads)
        : files_(files), options_(options), threads_(threads) {}

    [[nodiscard]] bool has(const std::string& name) { return files_.find(name) != nullptr; }
    // `add` goes to each: Hugging Face stores Gemma's norms less 1.
    [[nodiscard]] std::vector<float> vector(const std::string& name, std::size_t size, float add = 0) {
        std::vector<float> values(size);
        check(nb::read_matrix(find(name, 1, size), {values.data(), 1, size}));
        for (float& value : values) value += add;
        return values;
    }
    [[nodiscard]] std::unique_ptr<linear> matrix(const std::string& name, std::size_t outputs, std::size_t inputs,
                                                 const std::string& format) {
        const std::string there = files_.name(name), layer = there.substr(0, there.rfind('.'));
        if (files_.gguf() != nullptr || nb::detect_layout(files_.safetensors(), layer) == nb::layer_layout::none)
            return convert(find(name, outputs, inputs), outputs, inputs, there, format);
        const std::string wanted = format_of(there, format);
        std::vector<float> values(wanted.empty() ? 0 : outputs * inputs);
        const nb::matrix_view<float> w(values.data(), wanted.empty() ? 0 : outputs, inputs);
        std::unique_ptr<linear> made;
        check(read_checkpoint_layer(files_.safetensors(), layer, files_.quantization(), w, threads_, made));
        files_.mark_known(layer);
        if (made != nullptr && (made->outputs() != outputs || made->inputs() != inputs))
            throw model_error("layer '" + layer + "' has another shape than the configuration says");
        return made != nullptr ? std::move(made) : quantized(w, wanted);
    }
    // One, or one of each expert: GGUF has these in one tensor, Hugging Face in one each.
    [[nodiscard]] std::vector<std::unique_ptr<linear>> matrices(const std::string& name, std::size_t experts,
                                                                std::size_t outputs, std::size_t inputs) {
        std::vector<std::unique_ptr<linear>> all;
        const std::string together = name + "_exps.weight";
        if (experts == 0) {
            all.push_back(matrix(name + ".weight", outputs, inputs, options_.weights));
        } else if (files_.gguf() == nullptr) {
            for (std::size_t e = 0; e < experts; ++e)
                all.push_back(matrix(name + "." + std::to_string(e) + ".weight", outputs, inputs, options_.weights));
        } else {
            nb::tensor_info part = find(together, experts * outputs, inputs);
            part.shape = {outputs, inputs};
            part.bytes /= experts;
            for (std::size_t e = 0; e < experts; ++e, part.data += part.bytes)
                all.push_back(convert(part, outputs, inputs, together, options_.weights));
        }
        return all;
    }

private:
    [[nodiscard]] const nb::tensor_info& find(const std::string& name, std::size_t rows, std::size_t cols) {
        const nb::tensor_info* tensor = files_.find(name);
        if (tensor == nullptr) throw model_error("the model has no tensor " + files_.name(name));
        if (tensor->rows() != rows || tensor->cols() != cols)
            throw model_error("tensor '" + std::string(tensor->name) + "' is " + std::to_string(tensor->rows()) +
                              " x " + std::to_string(tensor->cols()) + ", but the configuration says " +
                              std::to_string(rows) + " x " + std::to_string(cols));
        return *tensor;
    }
    // "": as it is stored.
    [[nodiscard]] std::string format_of(const std::string& there, const std::string& otherwise) const {
        std::string wanted = otherwise;
        for (auto rule = options_.rules.rbegin(); rule != options_.rules.rend(); ++rule) // the first one counts
            if (is_found(rule->first, there)) wanted = rule->second;
        return wanted == "keep" ? "" : wanted;
    }
    [[nodiscard]] std::unique_ptr<linear> convert(const nb::tensor_info& tensor, std::size_t outputs,
                                                  std::size_t inputs, const std::string& there,
                                                  const std::string& format) const {
        const std::string wanted = format_of(there, format);
        if (!wanted.empty()) {
            std::vector<float> values(outputs * inputs);
            const nb::matrix_view<float> w(values.data(), outputs, inputs);
            check(nb::read_matrix(tensor, w));
            return quantized(w, wanted);
        }
        std::unique_ptr<linear> made;
        check(read_tensor(tensor, threads_, made));
        if (made == nullptr)
            throw model_error("'" + there + "' is stored as " + std::string(tensor.type_name) +
                              ", which this program does not run as it is; take --weights to quantize it anew");
        return made;
    }
    [[nodiscard]] std::unique_ptr<linear> quantized(nb::matrix_view<const float> w, const std::string& format) const {
        std::unique_ptr<linear> made = quantize_matrix(w, format, threads_);
        if (made == nullptr)
            throw model_error("'" + format + "' is no format of weights; there are" + weight_formats());
        return made;
    }

    model_files& files_;
    const load_options& options_;
    const nb::thread_pool& threads_;
};

} // namespace

bool is_found(const std::string& expression, const std::string& text) {
    // std::regex would take longer to compile than all of this file.
    ::regex_t compiled;
    if (::regcomp(&compiled, expression.c_str(), REG_EXTENDED | REG_NOSUB) != 0)
        throw model_error("'" + expression + "' is no regular expression");
    const bool found = ::regexec(&compiled, text.c_str(), 0, nullptr, 0) == 0;
    ::regfree(&compiled);
    return found;
}

std::string read_file(const std::string& path) {
    nb::mapped_file file;
    check(nb::mapped_file::open(path.c_str(), file));
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

model_files::model_files(const std::string& path, const std::string& config) {
    namespace fs = std::filesystem;
    const bool is_folder = fs::is_directory(path);
    nb::mapped_file file;
    if (!is_folder) check(nb::mapped_file::open(path.c_str(), file));
    is_gguf_ = nb::detect_model_format(file.bytes()) == nb::model_format::gguf;
    if (is_gguf_) {
        check(nb::gguf_file::open(path.c_str(), gguf_));
        tokenizer_ = path;
        config_ = std::make_shared<json>(config_of(gguf_));
        return;
    }
    check(nb::safetensors_model::open(path.c_str(), safetensors_));
    const fs::path folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
    tokenizer_ = (folder / "tokenizer.json").string();
    const std::string beside = config.empty() ? (folder / "config.json").string() : config;
    json all = json::parse(read_file(beside), nullptr, false);
    if (!all.is_object()) throw model_error(beside + ": is no JSON object");
    if (field_of(all, "quantization_config") != nullptr)
        check(nb::read_quantization_config(beside.c_str(), quantization_));
    if (const json* const inner = field_of(all, "config"); inner != nullptr && inner->is_object()) all = json(*inner);
    config_ = std::make_shared<json>(std::move(all));
    constexpr std::string_view embedding = "embed_tokens.weight";
    for (const nb::tensor_info& tensor : safetensors_.tensors())
        if (tensor.name.ends_with(embedding)) prefix_ = tensor.name.substr(0, tensor.name.size() - embedding.size());
}

// "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight", "blk.3.ffn_up.5.weight", of an expert,
// "model.layers.3.mlp.experts.5.up_proj.weight".
std::string model_files::name(const std::string& gguf_name) const {
    if (is_gguf_) return gguf_name;
    if (gguf_name == "output.weight") return "lm_head.weight";
    const std::size_t begin = gguf_name.starts_with("blk.") ? gguf_name.find('.', 4) + 1 : 0;
    const std::size_t end = gguf_name.find('.', begin), last = gguf_name.rfind('.');
    const std::string_view part = std::string_view(gguf_name).substr(begin, end - begin);
    std::string found(part);
    const auto look_up = [&](const auto& names) {
        for (const name_pair& pair : names)
            if (pair.gguf == part) found = pair.hugging_face;
    };
    look_up(tensor_names);
    if (text_of(config(), "model_type").starts_with("gemma")) look_up(gemma_tensor_names);
    if (end != last) found.insert(found.find('.'), ".experts" + gguf_name.substr(end, last - end));
    return prefix_ + (begin != 0 ? "layers." + gguf_name.substr(4, begin - 4) : "") + found + gguf_name.substr(last);
}

const nb::tensor_info* model_files::find(const std::string& gguf_name) {
    const std::string there = name(gguf_name);
    const nb::tensor_info* tensor = is_gguf_ ? gguf_.find(there) : safetensors_.find(there);
    if (tensor != nullptr) mark_known(there);
    return tensor;
}

std::string model_files::unknown() const {
    const auto is_known = [&](std::string_view name) {
        if (known_.count(name) != 0 || name.find("rotary_emb") != std::string_view::npos) return true;
        if (name.ends_with(".bias")) return false; // of no layer: known by itself only
        for (std::size_t end = name.rfind('.'); end != std::string_view::npos; end = name.substr(0, end).rfind('.'))
            if (known_.count(name.substr(0, end)) != 0) return true;
        return false;
    };
    for (const nb::tensor_info& tensor : is_gguf_ ? gguf_.tensors() : safetensors_.tensors())
        if ((tensor.name.starts_with("blk.") || tensor.name.starts_with(prefix_ + "layers.")) && !is_known(tensor.name))
            return std::string(tensor.name);
    return "";
}

model load_model(model_files& files, const load_options& options, const nb::thread_pool& threads) {
    model m;
    m.config = config_of(files);
    model_config& c = m.config;
    weight_reader read(files, options, threads);
    const nb::tensor_info* embedding = files.find("token_embd.weight");
    if (embedding == nullptr) throw model_error("the model has no embedding of tokens");
    c.vocabulary = embedding->rows();
    m.embedding = read.matrix("token_embd.weight", c.vocabulary, c.hidden, "");
    if (read.has("output.weight")) m.separate_output = read.matrix("output.weight", c.vocabulary, c.hidden, "");
    const bool gemma = c.architecture == "gemma3";
    const float add = gemma && files.gguf() == nullptr ? 1.0f : 0.0f;
    m.output_norm = read.vector("output_norm.weight", c.hidden, add);
    const std::size_t queries = c.heads * c.head_size, keys = c.key_heads * c.head_size;
    for (std::size_t i = 0; i < c.layers; ++i) {
        const std::string blk = "blk." + std::to_string(i) + ".";
        model_layer& layer = m.layers.emplace_back();
        const auto matrix = [&](const char* name, std::size_t outputs, std::size_t inputs) {
            return read.matrix(blk + name + ".weight", outputs, inputs, options.weights);
        };
        const auto norm = [&](const char* name, std::size_t size) {
            return read.vector(blk + name + ".weight", size, add);
        };
        const auto bias = [&](const char* name, std::size_t size) {
            return read.has(blk + name + ".bias") ? read.vector(blk + name + ".bias", size) : std::vector<float>();
        };
        layer.attention_norm = norm("attn_norm", c.hidden);
        layer.feed_forward_norm = norm("ffn_norm", c.hidden);
        layer.query = matrix("attn_q", queries, c.hidden);
        layer.key = matrix("attn_k", keys, c.hidden);
        layer.value = matrix("attn_v", keys, c.hidden);
        layer.output = matrix("attn_output", c.hidden, queries);
        layer.query_bias = bias("attn_q", queries);
        layer.key_bias = bias("attn_k", keys);
        layer.value_bias = bias("attn_v", keys);
        if (c.experts != 0) layer.router = read.matrix(blk + "ffn_gate_inp.weight", c.experts, c.hidden, "");
        layer.gate = read.matrices(blk + "ffn_gate", c.experts, c.feed_forward, c.hidden);
        layer.up = read.matrices(blk + "ffn_up", c.experts, c.feed_forward, c.hidden);
        layer.down = read.matrices(blk + "ffn_down", c.experts, c.hidden, c.feed_forward);
        if (gemma || c.architecture.starts_with("qwen3")) {
            layer.query_norm = norm("attn_q_norm", c.head_size);
            layer.key_norm = norm("attn_k_norm", c.head_size);
        }
        if (gemma) {
            layer.post_attention_norm = norm("post_attention_norm", c.hidden);
            layer.post_feed_forward_norm = norm("post_ffw_norm", c.hidden);
        }
        for (const auto* all : {&layer.gate, &layer.up, &layer.down})
            for (const auto& one : *all)
                if (c.experts != 0 && one->format() != (all == &layer.down ? layer.down : layer.gate)[0]->format())
                    throw model_error(blk + "*: experts of one layer in different formats are not known");
        if (options.progress) options.progress(i + 1, c.layers);
    }
    if (const std::string unknown = files.unknown(); !unknown.empty())
        throw model_error("tensor '" + unknown + "' is not known for " + c.architecture +
                          ": results without it would be wrong");
    return m;
}

std::size_t model::bytes() const {
    std::size_t sum = embedding->bytes() + (separate_output ? separate_output->bytes() : 0);
    for (const model_layer& layer : layers)
        model_layer::for_each_matrix(layer, [&](const auto& w) { sum += w->bytes(); });
    return sum;
}

double model::bits_per_weight() const {
    double bits = 0, weights = 0;
    for (const model_layer& layer : layers)
        model_layer::for_each_matrix(layer, [&](const auto& w) {
            const double count = static_cast<double>(w->outputs() * w->inputs());
            bits += w->bits_per_weight() * count;
            weights += count;
        });
    return bits / weights;
}
