// language_model_check.cpp: examples/13_language_model gives the same logits whatever the threads, the pieces of a
// prompt and the other sequences; those of the reference, where the model doclm-31m is in the folder that the
// environment's NIBBLE_SHARED_MODELS names; else it runs on a small model of random weights, written for this.
#include "inference.hpp"
#include "sampler.hpp"
#include "tokenizer.hpp"

#include <nibble/io/gguf_writer.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <unistd.h>

namespace {

constexpr std::size_t hidden = 64, feed_forward = 96, heads = 4, key_heads = 2, head_size = 16;

// A llama of two layers, and a tokenizer of bytes and a few merges.
void write_small_model(const std::string& path) {
    nb::gguf_writer file;
    const auto check = [](const nb::status& s) {
        if (!s) throw model_error(s.message());
    };
    check(file.add_metadata("general.architecture", "llama"));
    check(file.add_metadata("general.name", "random weights"));
    const std::pair<const char*, std::uint32_t> numbers[] = {
        {"block_count", 2},      {"embedding_length", hidden},    {"feed_forward_length", feed_forward},
        {"context_length", 256}, {"attention.head_count", heads}, {"attention.head_count_kv", key_heads}};
    for (const auto& [key, value] : numbers) check(file.add_metadata(std::string("llama.") + key, value));
    check(file.add_metadata("llama.attention.layer_norm_rms_epsilon", 1e-5f));
    std::vector<std::string> texts;
    for (unsigned byte = 0, other = 256; byte < 256; ++byte) { // as GPT-2 prints bytes
        const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        const unsigned code = plain ? byte : other++;
        std::string& text = texts.emplace_back();
        if (code >= 128) text += static_cast<char>(static_cast<unsigned char>(0xc0 | code >> 6));
        text += static_cast<char>(static_cast<unsigned char>(code < 128 ? code : 0x80 | (code & 63)));
    }
    std::vector<std::string> merges{"t h", "th e", "\xc4\xa0 the"};
    texts.insert(texts.end(), {"th", "the", "\xc4\xa0the", "<|end|>"});
    std::vector<std::int32_t> types(texts.size(), 1);
    types.back() = 3;
    const std::vector<std::string_view> text_views(texts.begin(), texts.end()),
        merge_views(merges.begin(), merges.end());
    check(file.add_metadata("tokenizer.ggml.model", "gpt2"));
    check(file.add_array<std::string_view>("tokenizer.ggml.tokens", text_views));
    check(file.add_array<std::int32_t>("tokenizer.ggml.token_type", types));
    check(file.add_array<std::string_view>("tokenizer.ggml.merges", merge_views));
    check(file.add_metadata("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(texts.size() - 1)));
    std::mt19937 random;
    const auto add = [&]<class Scheme>(const std::string& name, std::size_t rows, std::size_t cols) {
        std::vector<float> values(rows * cols);
        for (float& v : values)
            v = rows == 1 ? 1.0f : std::normal_distribution<float>(0, 1 / std::sqrt(static_cast<float>(cols)))(random);
        check(file.add_quantized(name + ".weight", nb::quantize<Scheme>({values.data(), rows, cols})));
    };
    const auto norm = [&](const std::string& name) { add.operator()<nb::f32_plain>(name, 1, hidden); };
    add.operator()<nb::bf16_plain>("token_embd", texts.size(), hidden);
    norm("output_norm");
    for (int i = 0; i < 2; ++i) {
        const std::string blk = "blk." + std::to_string(i) + ".";
        norm(blk + "attn_norm");
        norm(blk + "ffn_norm");
        add.operator()<nb::q8_0>(blk + "attn_q", heads * head_size, hidden);
        add.operator()<nb::bf16_plain>(blk + "attn_k", key_heads * head_size, hidden);
        add.operator()<nb::bf16_plain>(blk + "attn_v", key_heads * head_size, hidden);
        add.operator()<nb::q8_0>(blk + "attn_output", hidden, heads * head_size);
        add.operator()<nb::q8_0>(blk + "ffn_gate", feed_forward, hidden);
        if (i == 0)
            add.operator()<nb::q8_0>(blk + "ffn_up", feed_forward, hidden);
        else // another format than the gate's
            add.operator()<nb::bf16_plain>(blk + "ffn_up", feed_forward, hidden);
        add.operator()<nb::q8_0>(blk + "ffn_down", hidden, feed_forward);
    }
    check(file.write(path.c_str()));
}

int failures = 0;
void expect(bool holds, const char* what) {
    std::printf("%s: %s\n", what, holds ? "yes" : "NO");
    if (!holds) ++failures;
}

using tokens = std::vector<std::uint32_t>;

struct cache_pair {
    const char *keys, *values;
};

// The logits of all tokens but those of a first piece.
std::vector<float> logits_of(const model& m, const tokens& ids, std::size_t threads, std::size_t chunk,
                             const cache_pair& cache) {
    const nb::thread_pool pool(threads);
    inference run(m, {.keys = cache.keys, .values = cache.values}, pool);
    const std::size_t sequence = run.cache().add();
    std::vector<float> all;
    for (std::size_t at = 0; at < ids.size(); at += chunk) {
        const std::size_t count = std::min(chunk, ids.size() - at);
        const new_tokens piece{sequence, {ids.data() + at, count}, count};
        const nb::matrix_view<const float> logits = run.forward({&piece, 1});
        all.insert(all.end(), logits.data(), logits.data() + count * logits.cols());
    }
    return all;
}

void check_invariance(const model& m, const tokens& ids, const cache_pair& cache) {
    const std::vector<float> whole = logits_of(m, ids, 1, ids.size(), cache);
    const auto same = [&](const std::vector<float>& other) {
        return other.size() == whole.size() &&
               std::memcmp(other.data(), whole.data(), whole.size() * sizeof(float)) == 0;
    };
    std::printf("keys in %s, values in %s\n", cache.keys, cache.values);
    expect(same(logits_of(m, ids, 2, ids.size(), cache)), "  two threads give the bits of one");
    expect(same(logits_of(m, ids, 2, 7, cache)), "  pieces of 7 tokens give the bits of the whole prompt");

    // Two texts on one prefix, written together, against each by itself.
    const nb::thread_pool pool(1);
    inference run(m, {.keys = cache.keys, .values = cache.values, .sequences = 3}, pool);
    const std::size_t vocabulary = m.config.vocabulary, half = ids.size() / 2;
    const std::size_t first = run.cache().add();
    (void)run.prefill(first, std::span(ids).first(half), 512);
    const std::size_t second = run.cache().fork(first);
    const tokens other(4, ids[1]);
    const new_tokens both[] = {{first, std::span(ids).subspan(half), ids.size() - half}, {second, other, other.size()}};
    const nb::matrix_view<const float> logits = run.forward(both);
    tokens alone(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(half));
    alone.insert(alone.end(), other.begin(), other.end());
    const std::vector<float> second_alone = logits_of(m, alone, 1, alone.size(), cache);
    expect(std::memcmp(logits.row(0), whole.data() + half * vocabulary,
                       (ids.size() - half) * vocabulary * sizeof(float)) == 0 &&
               std::memcmp(logits.row(ids.size() - half), second_alone.data() + half * vocabulary,
                           other.size() * vocabulary * sizeof(float)) == 0,
           "  two sequences on one prefix give the bits of each alone");
}

// Pieces with scores: the better pair merges first, a space comes before the text, what has no piece is bytes.
void check_sentence_pieces() {
    nb::gguf_writer writer;
    const std::vector<std::string_view> texts{"<unk>",
                                              "<s>",
                                              "</s>",
                                              "<0xE2>",
                                              "<0x82>",
                                              "<0xAC>",
                                              "ab",
                                              "\xe2\x96\x81"
                                              "a",
                                              "ba",
                                              "\xe2\x96\x81",
                                              "a",
                                              "b"};
    const std::vector<std::int32_t> types{2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1};
    const std::vector<float> scores{0, 0, 0, 0, 0, 0, -1, -2, -3, -4, -5, -6};
    nb::gguf_file file;
    bool well = writer.add_metadata("tokenizer.ggml.model", "llama").ok() &&
                writer.add_array<std::string_view>("tokenizer.ggml.tokens", texts).ok() &&
                writer.add_array<std::int32_t>("tokenizer.ggml.token_type", types).ok() &&
                writer.add_array<float>("tokenizer.ggml.scores", scores).ok() &&
                writer.add_metadata("tokenizer.ggml.bos_token_id", std::uint32_t{1}).ok();
    const std::vector<std::byte> bytes = writer.bytes();
    well = well && nb::gguf_file::parse(bytes, file).ok();
    const tokenizer t = tokenizer::read(file);
    well = well && t.encode("ab\xe2\x82\xac"
                            "ab</s>a",
                            true) == tokens{1, 9, 6, 3, 4, 5, 6, 2, 10};
    std::string back;
    for (const std::uint32_t id : {9u, 6u, 3u, 4u, 5u, 2u}) back += t.bytes(id);
    expect(well && back == " ab\xe2\x82\xac", "sentence pieces merge by their scores");
}

// As Hugging Face's tokenizers have it.
void check_byte_pairs(const tokenizer& t) {
    const tokens expected{449, 78,   266, 3758, 83,  7,   349,  2222, 4674, 2034, 941, 991, 3243, 368,
                          7,   1342, 221, 5657, 303, 221, 1734, 198,  1268, 221,  128, 103, 159,  225,
                          106, 221,  161, 117,  256, 163, 245,  230,  221,  5601, 248, 225, 911};
    expect(t.encode("Then the weights' 12345 don't they're I'LL  spaces\n\n  next\tline \xc3\xa9\xe2\x82\xac "
                    "\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x99\x82 x",
                    false) == expected,
           "words split and merge as in another tokenizer");
}

int check() {
    namespace fs = std::filesystem;
    const char* const folder = std::getenv("NIBBLE_SHARED_MODELS");
    const fs::path models(folder != nullptr ? folder : "");
    fs::path path = models / "doclm-31m-bf16.gguf";
    const bool real = folder != nullptr && fs::exists(path);
    if (!real) {
        std::printf("no doclm-31m in NIBBLE_SHARED_MODELS: random weights; its reference logits are not compared\n");
        path = fs::temp_directory_path() / ("nibble_language_model_" + std::to_string(::getpid()) + ".gguf");
        write_small_model(path.string());
    }
    const nb::thread_pool threads(2);
    model_files files(path.string());
    if (!real) fs::remove(path); // the mapping keeps its contents
    const model m = load_model(files, {}, threads);
    const tokenizer t = tokenizer::read(*files.gguf());
    const std::string text = "Then the weights of the matrix \xc3\xa9\xe2\x82\xac 12345, <|end|>they're read";
    tokens ids = t.encode(text, true);
    std::string back;
    for (const std::uint32_t id : ids) back += t.bytes(id);
    expect(back == text || (!real && back + "<|end|>" != text && back.size() + 7 == text.size()),
           "a text comes back from its tokens");
    check_sentence_pieces();
    if (real) check_byte_pairs(t);
    if (!real) expect(t.encode("the the<|end|>", false) == tokens{257, 258, 259}, "bytes merge in order");
    for (const auto& [keys, values] : {std::pair{"f32", "f32"}, {"int8", "int8"}, {"mxfp8_e4m3", "int4_g32"}})
        check_invariance(m, ids, {keys, values});

    if (real) {
        ids.resize(512);
        std::vector<std::uint16_t> raw(ids.size());
        std::ifstream(models / "doclm-31m.val-tokens.u16", std::ios::binary)
            .read(reinterpret_cast<char*>(raw.data()), static_cast<std::streamsize>(raw.size() * sizeof raw[0]));
        std::copy(raw.begin(), raw.end(), ids.begin());
        std::vector<float> reference(8 * m.config.vocabulary);
        std::ifstream(models / "doclm-31m.logits.f32", std::ios::binary)
            .read(reinterpret_cast<char*>(reference.data()),
                  static_cast<std::streamsize>(reference.size() * sizeof(float)));
        const auto compare = [&](const model& with, const char* what) {
            const std::vector<float> logits = logits_of(with, ids, 2, 512, {"f32", "f32"});
            float most = 0;
            for (std::size_t i = 0; i < reference.size(); ++i)
                most = std::max(most, std::fabs(logits[logits.size() - reference.size() + i] - reference[i]));
            std::printf("largest difference from the reference logits: %.2g\n", static_cast<double>(most));
            expect(most < 2e-3f, what);
        };
        compare(m, "the GGUF file has the logits of the reference");
        model_files others((models / "doclm-31m-bf16.safetensors").string(), (models / "doclm-31m.json").string());
        compare(load_model(others, {}, threads), "the safetensors file has the logits of the reference");
    }
    return failures == 0 ? 0 : 1;
}

} // namespace

int main() {
    try {
        return check();
    } catch (const std::exception& e) {
        std::printf("%s\n", e.what());
        return 1;
    }
}
