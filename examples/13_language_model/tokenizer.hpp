// tokenizer.hpp: text to tokens and back: byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece's unigrams as Llama 2
// and Gemma merge them.
#pragma once

#include "json.hpp"

#include <nibble/io/gguf.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

class tokenizer {
public:
    using token = std::uint32_t;

    // Of a GGUF file's metadata, of Hugging Face's tokenizer.json (BPE). Throw std::runtime_error for what is not
    // known.
    [[nodiscard]] static tokenizer read(const nibble::gguf_file& file);
    [[nodiscard]] static tokenizer read(const json& file);

    // Special tokens are known by their text ("<|im_start|>"). `begin`: as a text by itself, after the token that the
    // model wants there, if it does.
    [[nodiscard]] std::vector<token> encode(std::string_view text, bool begin) const;
    // The bytes of a token, which may be a part of a character; none of one that controls.
    [[nodiscard]] std::string bytes(token id) const;
    [[nodiscard]] bool ends_text(token id) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return texts_.size(); }

private:
    enum class kind { byte_pairs, sentence_pieces };
    enum class splitting { gpt2, llama3, qwen2 };
    static constexpr token none = 0xffffffffu;
    struct merged {
        float order; // the lower, the earlier
        token id;
    };

    enum class use {
        text,
        whole,
        control
    }; // whole: found in texts before words are split; control: that, without bytes
    void add(std::string text, use as);
    void add_merge(std::string_view left, std::string_view right);
    void finish();
    [[nodiscard]] token find(std::string_view text) const;
    [[nodiscard]] merged merge_of(token left, token right, std::string_view text) const;
    void encode_word(std::string_view word, std::vector<token>& out) const;
    void encode_plain(std::string_view text, bool begin, std::vector<token>& out) const;
    [[nodiscard]] std::size_t word_length(std::string_view text) const;

    kind kind_ = kind::byte_pairs;
    splitting splitting_ = splitting::gpt2;
    bool whole_words_first_ = false; // a word that is a token takes no merges
    bool space_first_ = false;       // a text begins with a space that it does not have
    token begin_ = none, unknown_ = none;
    bool adds_begin_ = false;
    std::vector<token> ends_;
    std::vector<std::string> texts_; // as bytes
    std::vector<float> scores_;
    std::vector<use> uses_;
    std::vector<token> specials_; // the longest first
    std::unordered_map<std::string, token> ids_;
    std::unordered_map<std::uint64_t, merged> merges_; // left << 32 | right
    std::vector<token> of_byte_;                       // a token for each byte, or none
};
