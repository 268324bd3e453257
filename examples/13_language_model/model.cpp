// model.cpp: files to configuration and weights.
#include "model.hpp"

#include <nibble/io/quantization_config.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include <regex.h>

namespace {

void check(const nb::status& s) {
    if (!s) throw model_error(s.message());
}

struct name_pair {
    std::string_view gguf, hugging_face;
};
constexpr name_pair names[] = {{"attn_norm", "input_layernorm"},
                               {"attn_q", "self_attn.q_proj"},
                               {"attn_k", "self_attn.k_proj"},
                               {"attn_v", "self_attn.v_proj"},
                               {"attn_output", "self_attn.o_proj"},
                               {"attn_q_norm", "self_attn.q_norm"},
                               {"attn_k_norm", "self_attn.k_norm"},
                               {"ffn_norm", "post_attention_layernorm"},
                               {"ffn_gate", "mlp.gate_proj"},
                               {"ffn_up", "mlp.up_proj"},
                               {"ffn_down", "mlp.down_proj"},
                               {"token_embd", "embed_tokens"},
                               {"output_norm", "norm"}};
// Gemma has a norm behind each half of a layer too, and then other names.
constexpr name_pair gemma_names[] = {{"post_attention_norm", "post_attention_layernorm"},
                                     {"ffn_norm", "pre_feedforward_layernorm"},
                                     {"post_ffw_norm", "post_feedforward_layernorm"}};

[[nodiscard]] nb::dynamic_array<double> frequencies_of(double base, std::size_t dims, double divisor) {
    nb::dynamic_array<double> all;
    for (std::size_t i = 0; i < dims; i += 2)
        all.push_back(std::pow(base, -static_cast<double>(i) / static_cast<double>(dims)) / divisor);
    return all;
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

// What both kinds of files say, under their own names; what neither says is `otherwise`, or an error without one.
class settings {
public:
    settings(const nb::gguf_file* file, const json& from, std::string prefix)
        : file_(file), from_(from), prefix_(std::move(prefix)) {}
    [[nodiscard]] double number(const std::string& gguf, const std::string& hugging_face,
                                std::optional<double> otherwise = {}) const {
        std::optional<double> value;
        if (file_ != nullptr)
            value = gguf.empty() ? std::nullopt : file_->metadata_number(prefix_ + gguf);
        else if (const json* field = from_.find(hugging_face))
            value = field->number;
        if (!value && !otherwise)
            throw model_error("the model does not say " + (file_ != nullptr ? prefix_ + gguf : hugging_face));
        return value ? *value : *otherwise;
    }
    [[nodiscard]] std::size_t count(const char* gguf, const char* hugging_face,
                                    std::optional<std::size_t> otherwise = {}) const {
        return static_cast<std::size_t>(
            number(gguf, hugging_face, otherwise ? std::optional(static_cast<double>(*otherwise)) : std::nullopt));
    }

private:
    const nb::gguf_file* file_;
    const json& from_;
    std::string prefix_;
};

void set_rotary(model_config& c, const nb::gguf_file& file, model_files& files, const settings& of) {
    const std::size_t dims = of.count("rope.dimension_count", "", c.head_size);
    const std::string scaling(file.metadata_text(c.architecture + ".rope.scaling.type").value_or("none"));
    if (scaling != "none" && scaling != "linear")
        throw model_error("rotary embeddings scaled by '" + scaling + "' are not known");
    const double divisor = scaling == "linear" ? of.number("rope.scaling.factor", "") : 1.0;
    c.frequencies = frequencies_of(of.number("rope.freq_base", "", 10000.0), dims, divisor);
    c.interleaved = c.architecture == "llama"; // its converter permutes queries and keys
    c.local_frequencies = frequencies_of(of.number("rope.freq_base_swa", "", 10000.0), dims, 1.0);
    const nb::tensor_info* factors = files.find("rope_freqs.weight");
    if (factors == nullptr) return;
    std::vector<float> by(factors->cols());
    check(nb::read_matrix(*factors, {by.data(), 1, by.size()}));
    if (by.size() != c.frequencies.size()) throw model_error("rope_freqs.weight: not one number for each pair");
    for (std::size_t i = 0; i < by.size(); ++i) c.frequencies[i] /= static_cast<double>(by[i]);
}

void set_rotary(model_config& c, const json& from) {
    if (from.number_of("partial_rotary_factor", 1) != 1) throw model_error("partial_rotary_factor is not known");
    // Newer files have all of it in rope_parameters, by kind of layer where there are two.
    const json* const parameters = from.find("rope_parameters");
    const json* const full = parameters != nullptr ? parameters->find("full_attention") : nullptr;
    const json* const local = parameters != nullptr ? parameters->find("sliding_attention") : nullptr;
    const json* const rotary = full != nullptr ? full : parameters;
    const double base =
        (rotary != nullptr ? *rotary : from).number_of("rope_theta", c.architecture == "gemma3" ? 1e6 : 1e4);
    c.frequencies = frequencies_of(base, c.head_size, 1.0);
    c.local_frequencies = frequencies_of(local != nullptr ? local->number_of("rope_theta", 1e4)
                                                          : from.number_of("rope_local_base_freq", 1e4),
                                         c.head_size, 1.0);
    const json* const scaling = rotary != nullptr ? rotary : from.find("rope_scaling");
    if (scaling == nullptr) return;
    std::string kind(scaling->text_of("rope_type"));
    if (kind.empty()) kind = scaling->text_of("type");
    if (kind == "llama3")
        scale_as_llama3(c.frequencies, *scaling);
    else if (kind == "linear")
        for (double& f : c.frequencies) f /= scaling->number_of("factor", 1);
    else if (!kind.empty() && kind != "default")
        throw model_error("rotary embeddings scaled by '" + kind + "' are not known");
}

void set_windows(model_config& c, const json& from, const std::string& type, const settings& of, bool is_gguf) {
    const bool gemma = c.architecture == "gemma3";
    const std::size_t window =
        of.count("attention.sliding_window", "sliding_window", gemma ? std::nullopt : std::optional<std::size_t>(0));
    c.has_window.assign(c.layers, false);
    if (!gemma && (is_gguf || (type != "mistral" && from.number_of("use_sliding_window", 0) == 0) || window == 0))
        return;
    c.window = window;
    const json* types = from.find("layer_types");
    const std::size_t pattern =
        of.count("attention.sliding_window_pattern", "sliding_window_pattern", gemma ? 6 : c.layers + 1);
    const std::size_t first = gemma ? 0 : of.count("", "max_window_layers", 0);
    for (std::size_t i = 0; i < c.layers; ++i)
        c.has_window[i] = types != nullptr && i < types->items.size()
                              ? types->items[i].value.text == "sliding_attention"
                              : i >= first && (i + 1) % pattern != 0;
}

[[nodiscard]] model_config config_of(model_files& files) {
    const nb::gguf_file* const file = files.gguf();
    const json* const text = files.config().find("text_config");
    const json& from = text != nullptr ? *text : files.config();
    const std::string type(file != nullptr ? file->metadata_text("general.architecture").value_or("?")
                                           : from.text_of("model_type"));
    model_config c;
    c.architecture = type == "mistral" ? "llama" : type == "gemma3_text" ? "gemma3" : type;
    const std::string_view known[] = {"llama", "qwen2", "qwen3", "gemma3"};
    if (std::find(std::begin(known), std::end(known), c.architecture) == std::end(known))
        throw model_error("architecture '" + type + "' is not known; llama, mistral, qwen2, qwen3 and gemma3 are");
    if (file != nullptr) c.name = file->metadata_text("general.name").value_or("");
    const bool gemma = c.architecture == "gemma3";
    const settings of(file, from, c.architecture + ".");
    c.layers = of.count("block_count", "num_hidden_layers");
    c.hidden = of.count("embedding_length", "hidden_size");
    c.heads = of.count("attention.head_count", "num_attention_heads");
    c.key_heads = of.count("attention.head_count_kv", "num_key_value_heads", c.heads);
    if (c.heads == 0 || c.key_heads == 0 || c.heads % c.key_heads != 0) throw model_error("heads do not fit key heads");
    c.head_size = of.count("attention.key_length", "head_dim", c.hidden / c.heads);
    c.feed_forward = of.count("feed_forward_length", "intermediate_size");
    c.context = of.count("context_length", "max_position_embeddings");
    c.norm_epsilon = of.number("attention.layer_norm_rms_epsilon", "rms_norm_eps",
                               file != nullptr ? std::nullopt : std::optional(1e-6));
    if (of.count("attention.value_length", "", c.head_size) != c.head_size)
        throw model_error("values of another size than keys are not known");
    if (of.count("expert_count", "num_experts", 0) != 0) throw model_error("mixtures of experts are not known");
    for (const char* key : {"hidden_act", "hidden_activation"})
        if (from.find(key) != nullptr && from.text_of(key) != (gemma ? "gelu_pytorch_tanh" : "silu"))
            throw model_error("activation '" + std::string(from.text_of(key)) + "' is not known for " + type);
    if (file != nullptr)
        set_rotary(c, *file, files, of);
    else
        set_rotary(c, from);
    set_windows(c, from, type, of, file != nullptr);
    c.attention_soft_cap = static_cast<float>(of.number("attn_logit_softcapping", "attn_logit_softcapping", 0.0));
    c.logit_soft_cap = static_cast<float>(of.number("final_logit_softcapping", "final_logit_softcapping", 0.0));
    if (!gemma) {
        c.local_frequencies.clear();
        return c;
    }
    c.feed_forward_activation = activation::gelu;
    c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
    if (file == nullptr)
        c.attention_scale = static_cast<float>(
            1 / std::sqrt(from.number_of("query_pre_attn_scalar", static_cast<double>(c.head_size))));
    else if (c.layers == 62) // 27B
        c.attention_scale = 1 / std::sqrt(static_cast<float>(c.hidden / c.heads));
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
    [[nodiscard]] std::vector<float> vector_if_there(const std::string& name, std::size_t size) {
        return has(name) ? vector(name, size) : std::vector<float>();
    }
    [[nodiscard]] std::unique_ptr<linear> matrix(const std::string& name, std::size_t outputs, std::size_t inputs,
                                                 const std::string& format) {
        const std::string there = files_.name(name), layer = there.substr(0, there.rfind('.'));
        std::string wanted = format;
        for (auto rule = options_.rules.rbegin(); rule != options_.rules.rend(); ++rule)
            if (rule->first.found_in(there)) wanted = rule->second;
        const bool keep = wanted.empty() || wanted == "keep";
        const bool quantized =
            files_.gguf() == nullptr && nb::detect_layout(files_.safetensors(), layer) != nb::layer_layout::none;
        std::vector<float> values(keep ? 0 : outputs * inputs);
        const nb::matrix_view<float> w(values.data(), keep ? 0 : outputs, inputs);
        std::unique_ptr<linear> made;
        std::string stored;
        if (quantized) {
            check(read_checkpoint_layer(files_.safetensors(), layer, files_.quantization(), w, threads_, made));
            for (const nb::tensor_info& tensor : files_.safetensors().tensors())
                if (tensor.name.find(layer + ".") == 0 && !tensor.name.ends_with(".bias"))
                    files_.mark_known(std::string(tensor.name));
            if (made != nullptr && (made->outputs() != outputs || made->inputs() != inputs))
                throw model_error("layer '" + layer + "' has another shape than the configuration says");
            stored = "in a format of its own";
        } else {
            const nb::tensor_info& tensor = find(name, outputs, inputs);
            stored = tensor.type_name;
            if (!keep) check(nb::read_matrix(tensor, w));
            for (const weight_unit& unit : weight_units())
                if (keep && made == nullptr) check(unit.read(tensor, threads_, made));
        }
        for (const weight_unit& unit : weight_units())
            if (!keep && made == nullptr) unit.quantize(wanted, w, threads_, made);
        if (made == nullptr && keep)
            throw model_error("'" + there + "' is stored as " + stored +
                              ", which this program does not run as it is; take --weights to quantize it anew");
        if (made == nullptr)
            throw model_error("'" + wanted + "' is no format of weights; there are" + weight_formats());
        return made;
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

    model_files& files_;
    const load_options& options_;
    const nb::thread_pool& threads_;
};

template <class Visit> void for_each_matrix(const model& m, const Visit& visit) {
    for (const model_layer& l : m.layers)
        for (const auto* w : {&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down}) visit(**w);
}

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
    char magic[4] = {};
    if (!fs::is_directory(path)) std::ifstream(path, std::ios::binary).read(magic, 4);
    if (std::string_view(magic, 4) == "GGUF") {
        check(nb::gguf_file::open(path.c_str(), gguf_));
        if (gguf_.metadata_integer("split.count").value_or(1) > 1)
            throw model_error(path + ": is one part of several; join them with llama.cpp's gguf-split --merge");
        return;
    }
    check(nb::safetensors_model::open(path.c_str(), safetensors_));
    const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
    folder_ = folder.empty() ? "." : folder.string();
    const std::string beside = config.empty() ? folder_ + "/config.json" : config;
    std::ifstream in(beside, std::ios::binary);
    if (!in) throw model_error(beside + ": cannot be opened");
    try {
        config_ = json::parse(std::string{std::istreambuf_iterator<char>(in), {}});
    } catch (const std::runtime_error& e) {
        throw model_error(beside + ": " + e.what());
    }
    if (config_.find("quantization_config") != nullptr)
        check(nb::read_quantization_config(beside.c_str(), quantization_));
    if (const json* inner = config_.find("config")) config_ = json(*inner);
    constexpr std::string_view embedding = "embed_tokens.weight";
    for (const nb::tensor_info& tensor : safetensors_.tensors())
        if (tensor.name.ends_with(embedding)) prefix_ = tensor.name.substr(0, tensor.name.size() - embedding.size());
}

// "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight".
std::string model_files::name(const std::string& gguf_name) const {
    if (gguf() != nullptr) return gguf_name;
    if (gguf_name == "output.weight") return "lm_head.weight";
    const std::size_t end = gguf_name.rfind('.');
    const std::size_t begin = gguf_name.starts_with("blk.") ? gguf_name.find('.', 4) + 1 : 0;
    const std::string_view part = std::string_view(gguf_name).substr(begin, end - begin);
    std::string_view found = part;
    for (const name_pair& pair : names)
        if (pair.gguf == part) found = pair.hugging_face;
    if (config_.text_of("model_type").find("gemma") != std::string_view::npos)
        for (const name_pair& pair : gemma_names)
            if (pair.gguf == part) found = pair.hugging_face;
    return prefix_ + (begin != 0 ? "layers." + gguf_name.substr(4, begin - 4) : "") + std::string(found) +
           gguf_name.substr(end);
}

const nb::tensor_info* model_files::find(const std::string& gguf_name) {
    const std::string there = name(gguf_name);
    const nb::tensor_info* tensor = gguf() != nullptr ? gguf_.find(there) : safetensors_.find(there);
    if (tensor != nullptr) mark_known(there);
    return tensor;
}

std::string model_files::unknown() const {
    for (const nb::tensor_info& tensor : gguf() != nullptr ? gguf_.tensors() : safetensors_.tensors())
        if ((tensor.name.starts_with("blk.") || tensor.name.starts_with(prefix_ + "layers.")) &&
            known_.count(tensor.name) == 0 && tensor.name.find("rotary_emb") == std::string_view::npos)
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
        layer.attention_norm = norm("attn_norm", c.hidden);
        layer.feed_forward_norm = norm("ffn_norm", c.hidden);
        layer.query = matrix("attn_q", queries, c.hidden);
        layer.key = matrix("attn_k", keys, c.hidden);
        layer.value = matrix("attn_v", keys, c.hidden);
        layer.output = matrix("attn_output", c.hidden, queries);
        layer.gate = matrix("ffn_gate", c.feed_forward, c.hidden);
        layer.up = matrix("ffn_up", c.feed_forward, c.hidden);
        layer.down = matrix("ffn_down", c.hidden, c.feed_forward);
        layer.query_bias = read.vector_if_there(blk + "attn_q.bias", queries);
        layer.key_bias = read.vector_if_there(blk + "attn_k.bias", keys);
        layer.value_bias = read.vector_if_there(blk + "attn_v.bias", keys);
        if (gemma || c.architecture == "qwen3") {
            layer.query_norm = norm("attn_q_norm", c.head_size);
            layer.key_norm = norm("attn_k_norm", c.head_size);
        }
        if (gemma) {
            layer.post_attention_norm = norm("post_attention_norm", c.hidden);
            layer.post_feed_forward_norm = norm("post_ffw_norm", c.hidden);
        }
        if (options.progress) options.progress(i + 1, c.layers);
    }
    if (const std::string unknown = files.unknown(); !unknown.empty())
        throw model_error("tensor '" + unknown + "' is not known for " + c.architecture +
                          ": results without it would be wrong");
    return m;
}

std::size_t model::bytes() const {
    std::size_t sum = embedding->bytes() + (separate_output ? separate_output->bytes() : 0);
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
