// model.cpp: files to configuration and weights.
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include <regex.h>

namespace {

void check(const nb::status& s) {
    if (!s) throw model_error(s.message());
}

[[nodiscard]] std::string text_of_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw model_error(path.string() + ": cannot be opened");
    return {std::istreambuf_iterator<char>(file), {}};
}
[[nodiscard]] json json_of_file(const std::filesystem::path& path) {
    try {
        return json_parser::parse(text_of_file(path));
    } catch (const std::runtime_error& e) {
        throw model_error(path.string() + ": " + e.what());
    }
}

struct name_pair {
    std::string_view gguf, hugging_face;
};
constexpr name_pair layer_names[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                                     {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                                     {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
                                     {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
                                     {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                                     {"ffn_down", "mlp.down_proj"}};
// Gemma has a norm behind each half of a layer too, and then other names.
constexpr name_pair gemma_names[] = {{"post_attention_norm", "post_attention_layernorm"},
                                     {"ffn_norm", "pre_feedforward_layernorm"},
                                     {"post_ffw_norm", "post_feedforward_layernorm"}};
constexpr name_pair top_names[] = {{"token_embd", "embed_tokens"}, {"output_norm", "norm"}};

// "blk.3.attn_q.weight" as "layers.3.self_attn.q_proj.weight".
[[nodiscard]] std::string hugging_face_name(const std::string& name, bool gemma) {
    const std::size_t end = name.rfind('.');
    const std::size_t begin = name.compare(0, 4, "blk.") == 0 ? name.find('.', 4) + 1 : 0;
    const std::string part = name.substr(begin, end - begin);
    const auto found_in = [&](const auto& names) -> std::string {
        for (const name_pair& pair : names)
            if (pair.gguf == part)
                return (begin != 0 ? "layers." + name.substr(4, begin - 4) : std::string()) +
                       std::string(pair.hugging_face) + name.substr(end);
        return "";
    };
    std::string found = begin == 0 ? found_in(top_names) : gemma ? found_in(gemma_names) : "";
    return found.empty() && begin != 0 ? found_in(layer_names) : found;
}

[[nodiscard]] nb::dynamic_array<double> frequencies_of(double base, std::size_t dims, double divisor) {
    nb::dynamic_array<double> all;
    for (std::size_t i = 0; i < dims; i += 2)
        all.push_back(std::pow(base, -static_cast<double>(i) / static_cast<double>(dims)) / divisor);
    return all;
}

void set_gemma(model_config& c) {
    c.feed_forward_activation = activation::gelu;
    c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
}

[[nodiscard]] model_config config_of(const nb::gguf_file& file, model_files& files) {
    model_config c;
    c.architecture = file.metadata_text("general.architecture").value_or("?");
    c.name = file.metadata_text("general.name").value_or("");
    const std::string prefix = c.architecture + ".";
    const auto number = [&](const char* key, std::optional<double> otherwise) {
        const std::optional<double> value = file.metadata_number(prefix + key);
        if (!value && !otherwise) throw model_error("the file does not say " + prefix + key);
        return value ? *value : *otherwise;
    };
    const auto count = [&](const char* key, std::optional<double> otherwise = {}) {
        return static_cast<std::size_t>(number(key, otherwise));
    };
    if (c.architecture != "llama" && c.architecture != "qwen2" && c.architecture != "qwen3" &&
        c.architecture != "gemma3")
        throw model_error("architecture '" + c.architecture + "' is not known; llama, qwen2, qwen3 and gemma3 are");
    c.layers = count("block_count");
    c.hidden = count("embedding_length");
    c.heads = count("attention.head_count");
    c.key_heads = count("attention.head_count_kv", static_cast<double>(c.heads));
    if (c.heads == 0 || c.key_heads == 0 || c.heads % c.key_heads != 0) throw model_error("heads do not fit key heads");
    c.head_size = count("attention.key_length", static_cast<double>(c.hidden / c.heads));
    c.feed_forward = count("feed_forward_length");
    c.context = count("context_length");
    c.norm_epsilon = number("attention.layer_norm_rms_epsilon", {});
    c.interleaved = c.architecture == "llama"; // its converter permutes queries and keys
    if (count("attention.value_length", static_cast<double>(c.head_size)) != c.head_size)
        throw model_error("values of another size than keys are not known");
    if (count("expert_count", 0) != 0) throw model_error("mixtures of experts are not known");
    const std::size_t dims = count("rope.dimension_count", static_cast<double>(c.head_size));
    const std::string scaling(file.metadata_text(prefix + "rope.scaling.type").value_or("none"));
    if (scaling != "none" && scaling != "linear")
        throw model_error("rotary embeddings scaled by '" + scaling + "' are not known");
    const double divisor = scaling == "linear" ? number("rope.scaling.factor", {}) : 1.0;
    c.frequencies = frequencies_of(number("rope.freq_base", 10000.0), dims, divisor);
    if (const nb::tensor_info* factors = files.find("rope_freqs.weight")) {
        std::vector<float> by(factors->cols());
        check(nb::read_matrix(*factors, {by.data(), 1, by.size()}));
        if (by.size() != c.frequencies.size()) throw model_error("rope_freqs.weight: not one number for each pair");
        for (std::size_t i = 0; i < by.size(); ++i) c.frequencies[i] /= static_cast<double>(by[i]);
    }
    c.has_window.assign(c.layers, false);
    c.attention_soft_cap = static_cast<float>(number("attn_logit_softcapping", 0.0));
    c.logit_soft_cap = static_cast<float>(number("final_logit_softcapping", 0.0));
    if (c.architecture == "gemma3") {
        set_gemma(c);
        c.window = count("attention.sliding_window");
        c.local_frequencies = frequencies_of(number("rope.freq_base_swa", 10000.0), dims, 1.0);
        const std::size_t pattern = count("attention.sliding_window_pattern", 6);
        for (std::size_t i = 0; i < c.layers; ++i) c.has_window[i] = (i + 1) % pattern != 0;
        if (c.layers == 62) c.attention_scale = 1 / std::sqrt(static_cast<float>(c.hidden / c.heads)); // 27B
    }
    return c;
}

// Llama 3's: long wavelengths by the factor, short ones not, between them a straight line.
void scale_as_llama3(nb::dynamic_array<double>& frequencies, const json& scaling) {
    const double factor = scaling.number_of("factor", 1), low = scaling.number_of("low_freq_factor", 1),
                 high = scaling.number_of("high_freq_factor", 4),
                 context = scaling.number_of("original_max_position_embeddings", 8192);
    for (double& f : frequencies) {
        const double turns = context * f / (2 * 3.14159265358979323846);
        const double share = std::clamp((turns - low) / (high - low), 0.0, 1.0);
        f = f / factor * (1 - share) + f * share;
    }
}

[[nodiscard]] model_config config_of(const json& whole) {
    const json* text = whole.find("text_config");
    const json& from = text != nullptr ? *text : whole;
    const auto count = [&](const char* key, std::optional<std::size_t> otherwise = {}) {
        const json* value = from.find(key);
        if (value == nullptr && !otherwise) throw model_error(std::string("config.json does not say ") + key);
        return value != nullptr ? static_cast<std::size_t>(value->number) : *otherwise;
    };
    model_config c;
    const std::string type(from.text_of("model_type"));
    c.architecture = type == "mistral" ? "llama" : type == "gemma3_text" ? "gemma3" : type;
    if (c.architecture != "llama" && c.architecture != "qwen2" && c.architecture != "qwen3" &&
        c.architecture != "gemma3")
        throw model_error("model_type '" + type + "' is not known; llama, mistral, qwen2, qwen3 and gemma3_text are");
    if (const json* q = whole.find("quantization_config"))
        throw model_error("weights quantized by '" + std::string(q->text_of("quant_method")) +
                          "' are not read by this program; take the checkpoint in BF16 and --weights, or a GGUF");
    c.layers = count("num_hidden_layers");
    c.hidden = count("hidden_size");
    c.heads = count("num_attention_heads");
    c.key_heads = count("num_key_value_heads", c.heads);
    if (c.heads == 0 || c.key_heads == 0 || c.heads % c.key_heads != 0) throw model_error("heads do not fit key heads");
    c.head_size = count("head_dim", c.hidden / c.heads);
    c.feed_forward = count("intermediate_size");
    c.context = count("max_position_embeddings");
    c.norm_epsilon = from.number_of("rms_norm_eps", 1e-6);
    const bool gemma = c.architecture == "gemma3";
    const std::string expected = gemma ? "gelu_pytorch_tanh" : "silu";
    for (const char* key : {"hidden_act", "hidden_activation"})
        if (from.find(key) != nullptr && from.text_of(key) != expected)
            throw model_error("activation '" + std::string(from.text_of(key)) + "' is not known for " + type);
    if (from.number_of("partial_rotary_factor", 1) != 1) throw model_error("partial_rotary_factor is not known");
    // Newer files have all of it in rope_parameters, by kind of layer where there are two.
    const json* const parameters = from.find("rope_parameters");
    const json* const full = parameters != nullptr ? parameters->find("full_attention") : nullptr;
    const json* const local = parameters != nullptr ? parameters->find("sliding_attention") : nullptr;
    const json* const rotary = full != nullptr ? full : parameters;
    c.frequencies = frequencies_of((rotary != nullptr ? *rotary : from).number_of("rope_theta", gemma ? 1e6 : 1e4),
                                   c.head_size, 1.0);
    if (const json* scaling = rotary != nullptr ? rotary : from.find("rope_scaling")) {
        std::string kind(scaling->text_of("rope_type"));
        if (kind.empty()) kind = scaling->text_of("type");
        if (kind == "llama3")
            scale_as_llama3(c.frequencies, *scaling);
        else if (kind == "linear")
            for (double& f : c.frequencies) f /= scaling->number_of("factor", 1);
        else if (!kind.empty() && kind != "default")
            throw model_error("rotary embeddings scaled by '" + kind + "' are not known");
    }
    const auto window = static_cast<std::size_t>(from.number_of("sliding_window", 0));
    const bool windows = gemma || (type == "mistral" && window != 0) || from.number_of("use_sliding_window", 0) != 0;
    if (windows) c.window = window;
    c.has_window.assign(c.layers, false);
    const json* types = from.find("layer_types");
    const std::size_t pattern = count("sliding_window_pattern", gemma ? 6 : c.layers + 1);
    const std::size_t first = gemma ? 0 : count("max_window_layers", 0);
    for (std::size_t i = 0; i < c.layers && windows; ++i)
        c.has_window[i] = types != nullptr && i < types->items.size()
                              ? types->items[i].value.text == "sliding_attention"
                              : i >= first && (i + 1) % pattern != 0;
    if (gemma) {
        set_gemma(c);
        const double base =
            local != nullptr ? local->number_of("rope_theta", 1e4) : from.number_of("rope_local_base_freq", 1e4);
        c.local_frequencies = frequencies_of(base, c.head_size, 1.0);
        const double scalar = from.number_of("query_pre_attn_scalar", static_cast<double>(c.head_size));
        c.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
        c.attention_soft_cap = static_cast<float>(from.number_of("attn_logit_softcapping", 0));
        c.logit_soft_cap = static_cast<float>(from.number_of("final_logit_softcapping", 0));
    }
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
        const nb::tensor_info& tensor = find(name, 1, size);
        std::vector<float> values(size);
        check(nb::read_matrix(tensor, {values.data(), 1, size}));
        for (float& value : values) value += add;
        return values;
    }
    [[nodiscard]] std::vector<float> vector_if_there(const std::string& name, std::size_t size) {
        return has(name) ? vector(name, size) : std::vector<float>();
    }
    [[nodiscard]] std::unique_ptr<linear> matrix(const std::string& name, std::size_t outputs, std::size_t inputs,
                                                 const std::string& format) {
        const nb::tensor_info& tensor = find(name, outputs, inputs);
        std::string wanted = format;
        for (const auto& [expression, other] : options_.rules)
            if (expression.found_in(tensor.name)) {
                wanted = other;
                break;
            }
        std::unique_ptr<linear> made;
        if (wanted.empty() || wanted == "keep") {
            for (const weight_unit& unit : weight_units())
                if (made == nullptr) check(unit.read(tensor, threads_, made));
            if (made == nullptr)
                throw model_error("tensor '" + std::string(tensor.name) + "' is stored as " +
                                  std::string(tensor.type_name) +
                                  ", which this program does not run as it is; take --weights to quantize it anew");
            return made;
        }
        std::vector<float> values(outputs * inputs);
        const nb::matrix_view<float> w(values.data(), outputs, inputs);
        check(nb::read_matrix(tensor, w));
        std::string names;
        for (const weight_unit& unit : weight_units()) {
            if (made == nullptr) unit.quantize(wanted, w, threads_, made);
            names += unit.names();
        }
        if (made == nullptr) throw model_error("'" + wanted + "' is no format of weights; there are" + names);
        return made;
    }

private:
    [[nodiscard]] const nb::tensor_info& find(const std::string& name, std::size_t rows, std::size_t cols) {
        const nb::tensor_info* tensor = files_.find(name);
        if (tensor == nullptr) throw model_error("the model has no tensor " + name);
        if (tensor->rows() != rows || tensor->cols() != cols)
            throw model_error("tensor '" + std::string(tensor->name) + "' is " + std::to_string(tensor->rows()) +
                              " x " + std::to_string(tensor->cols()) + ", but the configuration says " +
                              std::to_string(rows) + " x " + std::to_string(cols));
        return *tensor;
    }

    model_files& files_;
    const load_options& options_;
    const nb::thread_pool& threads_;
};

} // namespace

pattern::pattern(const std::string& text) {
    auto* const expression = new ::regex_t;
    const int error = ::regcomp(expression, text.c_str(), REG_EXTENDED | REG_NOSUB);
    compiled_ = {expression, [error](void* p) {
                     if (error == 0) ::regfree(static_cast<::regex_t*>(p));
                     delete static_cast<::regex_t*>(p);
                 }};
    if (error != 0) throw model_error("'" + text + "' is no regular expression");
}

bool pattern::found_in(std::string_view text) const {
    return ::regexec(static_cast<const ::regex_t*>(compiled_.get()), std::string(text).c_str(), 0, nullptr, 0) == 0;
}

model_files::model_files(const std::string& path, const std::string& config) {
    namespace fs = std::filesystem;
    std::vector<fs::path> paths{path};
    if (fs::is_directory(path)) {
        std::set<fs::path> found; // by the index, if there is one, else all there are
        const fs::path index = fs::path(path) / "model.safetensors.index.json";
        if (fs::exists(index)) {
            const json whole = json_of_file(index);
            if (const json* map = whole.find("weight_map"))
                for (const auto& [tensor, file] : map->items) found.insert(fs::path(path) / file.text);
        } else {
            for (const fs::directory_entry& entry : fs::directory_iterator(path))
                if (entry.path().extension() == ".safetensors") found.insert(entry.path());
        }
        paths.clear();
        for (const fs::path& one : found) paths.push_back(one);
        if (paths.empty()) throw model_error(path + ": no .safetensors file is in that folder");
    }
    for (const fs::path& one : paths) check(nb::model_file::open(one.c_str(), files_.emplace_back()));
    if (gguf() != nullptr) {
        if (gguf()->metadata_integer("split.count").value_or(1) > 1)
            throw model_error(path + ": is one part of several; join them with llama.cpp's gguf-split --merge");
        return;
    }
    const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
    folder_ = folder.empty() ? "." : folder.string();
    config_ = json_of_file(config.empty() ? folder / "config.json" : fs::path(config));
    if (const json* inner = config_.find("config")) {
        const json copy = *inner;
        config_ = copy;
    }
    for (const nb::model_file& file : files_)
        for (const nb::tensor_info& tensor : file.tensors())
            for (const std::string_view end : {"embed_tokens.weight"})
                if (tensor.name.size() >= end.size() && tensor.name.substr(tensor.name.size() - end.size()) == end)
                    prefix_ = tensor.name.substr(0, tensor.name.size() - end.size());
}

const nb::tensor_info* model_files::find(const std::string& name) {
    std::string there = name;
    if (gguf() == nullptr) {
        there = name == "output.weight"
                    ? "lm_head.weight"
                    : prefix_ + hugging_face_name(name, config_.text_of("model_type").find("gemma") !=
                                                            std::string_view::npos);
    }
    for (const nb::model_file& file : files_)
        if (const nb::tensor_info* tensor = file.find(there)) {
            known_.push_back(there);
            return tensor;
        }
    return nullptr;
}

std::optional<std::string> model_files::unknown() const {
    const std::set<std::string_view> known(known_.begin(), known_.end());
    for (const nb::model_file& file : files_)
        for (const nb::tensor_info& tensor : file.tensors()) {
            const bool of_a_layer = tensor.name.find("blk.") == 0 || tensor.name.find(prefix_ + "layers.") == 0;
            if (of_a_layer && known.count(tensor.name) == 0 && tensor.name.find("rotary_emb") == std::string_view::npos)
                return std::string(tensor.name);
        }
    return std::nullopt;
}

model load_model(model_files& files, const load_options& options, const nb::thread_pool& threads) {
    model m;
    model_config& c = m.config;
    c = files.gguf() != nullptr ? config_of(*files.gguf(), files) : config_of(files.config());
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
        layer.attention_norm = read.vector(blk + "attn_norm.weight", c.hidden, add);
        layer.feed_forward_norm = read.vector(blk + "ffn_norm.weight", c.hidden, add);
        layer.query = read.matrix(blk + "attn_q.weight", queries, c.hidden, options.weights);
        layer.key = read.matrix(blk + "attn_k.weight", keys, c.hidden, options.weights);
        layer.value = read.matrix(blk + "attn_v.weight", keys, c.hidden, options.weights);
        layer.output = read.matrix(blk + "attn_output.weight", c.hidden, queries, options.weights);
        layer.gate = read.matrix(blk + "ffn_gate.weight", c.feed_forward, c.hidden, options.weights);
        layer.up = read.matrix(blk + "ffn_up.weight", c.feed_forward, c.hidden, options.weights);
        layer.down = read.matrix(blk + "ffn_down.weight", c.hidden, c.feed_forward, options.weights);
        layer.query_bias = read.vector_if_there(blk + "attn_q.bias", queries);
        layer.key_bias = read.vector_if_there(blk + "attn_k.bias", keys);
        layer.value_bias = read.vector_if_there(blk + "attn_v.bias", keys);
        if (gemma || c.architecture == "qwen3") {
            layer.query_norm = read.vector(blk + "attn_q_norm.weight", c.head_size, add);
            layer.key_norm = read.vector(blk + "attn_k_norm.weight", c.head_size, add);
        }
        if (gemma) {
            layer.post_attention_norm = read.vector(blk + "post_attention_norm.weight", c.hidden, add);
            layer.post_feed_forward_norm = read.vector(blk + "post_ffw_norm.weight", c.hidden, add);
        }
        if (options.progress) options.progress(i + 1, c.layers);
    }
    if (const std::optional<std::string> unknown = files.unknown())
        throw model_error("tensor '" + *unknown + "' is not known for " + c.architecture +
                          ": results without it would be wrong");
    return m;
}

namespace {
template <class Visit> void for_each_matrix(const model& m, const Visit& visit) {
    for (const model_layer& l : m.layers)
        for (const auto* w : {&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down}) visit(**w);
}
} // namespace

std::size_t model::bytes() const {
    std::size_t sum = embedding->bytes() + (separate_output != nullptr ? separate_output->bytes() : 0);
    for_each_matrix(*this, [&](const linear& w) { sum += w.bytes(); });
    return sum;
}

double model::bits_per_weight() const {
    double bits = 0, weights = 0;
    for_each_matrix(*this, [&](const linear& w) {
        const double count = static_cast<double>(w.outputs() * w.inputs());
        bits += w.bits_per_weight() * count;
        weights += count;
    });
    return bits / weights;
}
