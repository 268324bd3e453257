// real_model.cpp: a trained model in both formats gives the same weights.
#include <support/catch.hpp>

#include <nibble/io/model_file.hpp>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#if !defined(NIBBLE_SHARED_MODELS)
#define NIBBLE_SHARED_MODELS ""
#endif

namespace nb = nibble;

namespace {

struct matrix {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<float> values;
    [[nodiscard]] bool operator==(const matrix&) const = default;
};

matrix read(const nb::model_file& file, const std::string& name) {
    const nb::tensor_info* tensor = file.find(name);
    INFO(name);
    REQUIRE(tensor != nullptr);
    matrix m{tensor->rows(), tensor->cols(), std::vector<float>(tensor->rows() * tensor->cols())};
    REQUIRE(nb::read_matrix(*tensor, {m.values.data(), m.rows, m.cols}).ok());
    return m;
}

// llama.cpp wants the halves of every head interleaved: row 2 i + j of a head is row 32 j + i of the other order.
matrix interleaved(const matrix& m, std::size_t head_size) {
    matrix out = m;
    for (std::size_t row = 0; row < m.rows; ++row) {
        const std::size_t head = row / head_size * head_size;
        const std::size_t i = row % head_size / 2;
        const std::size_t j = row % 2;
        std::memcpy(&out.values[row * m.cols], &m.values[(head + j * head_size / 2 + i) * m.cols],
                    m.cols * sizeof(float));
    }
    return out;
}

// The number after a key in the model's description.
std::size_t number_of(const std::string& json, const std::string& key) {
    const std::size_t at = json.find("\"" + key + "\":");
    INFO(key);
    REQUIRE(at != std::string::npos);
    return static_cast<std::size_t>(std::strtoull(json.c_str() + at + key.size() + 3, nullptr, 10));
}

} // namespace

TEST_CASE("a trained model in GGUF and in safetensors is the same model", "[io]") {
    const std::string folder = NIBBLE_SHARED_MODELS;
    std::ifstream description(folder + "/doclm-31m.json");
    if (folder.empty() || !description) NIBBLE_SKIP("no folder with the test models");
    const std::string json((std::istreambuf_iterator<char>(description)), std::istreambuf_iterator<char>());
    const std::size_t hidden = number_of(json, "hidden_size");
    const std::size_t layers = number_of(json, "num_hidden_layers");
    const std::size_t heads = number_of(json, "num_attention_heads");
    const std::size_t key_heads = number_of(json, "num_key_value_heads");
    const std::size_t head_size = number_of(json, "head_dim");
    const std::size_t inner = number_of(json, "intermediate_size");
    const std::size_t vocabulary = number_of(json, "vocab_size");

    nb::model_file gguf;
    nb::model_file safe;
    for (const auto& [file, name] : {std::pair(&gguf, "gguf"), std::pair(&safe, "safetensors")}) {
        const nb::status s = nb::model_file::open((folder + "/doclm-31m-bf16." + name).c_str(), *file);
        INFO(s.message());
        REQUIRE(s.ok());
    }
    REQUIRE(gguf.as_gguf() != nullptr);
    REQUIRE(safe.as_safetensors() != nullptr);
    CHECK(gguf.metadata_text("general.architecture") == "llama");
    CHECK(gguf.as_gguf()->metadata_integer("llama.embedding_length") == static_cast<std::int64_t>(hidden));
    CHECK(gguf.as_gguf()->metadata_integer("llama.block_count") == static_cast<std::int64_t>(layers));
    CHECK(gguf.as_gguf()->metadata_number("llama.rope.freq_base") == 10000.0);
    REQUIRE(gguf.as_gguf()->metadata_value("tokenizer.ggml.tokens") != nullptr);
    CHECK(gguf.as_gguf()->metadata_value("tokenizer.ggml.tokens")->count == vocabulary);
    CHECK(safe.metadata_text("format") == "pt");
    REQUIRE(gguf.tensors().size() == 2 + 9 * layers);
    REQUIRE(safe.tensors().size() == gguf.tensors().size());

    const auto same = [&](const std::string& in_gguf, const std::string& in_safe, std::size_t rows, std::size_t cols,
                          bool permuted = false) {
        const matrix a = read(gguf, in_gguf);
        const matrix b = read(safe, in_safe);
        INFO(in_gguf << " and " << in_safe);
        CHECK(a.rows == rows);
        CHECK(a.cols == cols);
        CHECK((a == (permuted ? interleaved(b, head_size) : b)));
        if (permuted) CHECK_FALSE((a == b));
        double sum = 0.0; // weights, not noise: finite and of sane size
        for (const float v : a.values) sum += static_cast<double>(v) * static_cast<double>(v);
        CHECK(sum > 0.0);
        CHECK(sum < 1e3 * static_cast<double>(rows * cols));
    };
    same("token_embd.weight", "model.embed_tokens.weight", vocabulary, hidden);
    same("output_norm.weight", "model.norm.weight", 1, hidden);
    for (std::size_t layer = 0; layer < layers; ++layer) {
        const std::string a = "blk." + std::to_string(layer) + ".";
        const std::string b = "model.layers." + std::to_string(layer) + ".";
        same(a + "attn_norm.weight", b + "input_layernorm.weight", 1, hidden);
        same(a + "ffn_norm.weight", b + "post_attention_layernorm.weight", 1, hidden);
        same(a + "attn_q.weight", b + "self_attn.q_proj.weight", heads * head_size, hidden, true);
        same(a + "attn_k.weight", b + "self_attn.k_proj.weight", key_heads * head_size, hidden, true);
        same(a + "attn_v.weight", b + "self_attn.v_proj.weight", key_heads * head_size, hidden);
        same(a + "attn_output.weight", b + "self_attn.o_proj.weight", hidden, heads * head_size);
        same(a + "ffn_gate.weight", b + "mlp.gate_proj.weight", inner, hidden);
        same(a + "ffn_up.weight", b + "mlp.up_proj.weight", inner, hidden);
        same(a + "ffn_down.weight", b + "mlp.down_proj.weight", hidden, inner);
    }
}
