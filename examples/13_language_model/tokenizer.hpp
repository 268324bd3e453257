// tokenizer.hpp: text to tokens and back: byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece's unigrams as Llama 2
// and Gemma merge them.
#pragma once

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

    // Of a GGUF file's metadata, or Hugging Face's tokenizer.json (BPE). Throw std::runtime_error for what is not
    // known.
    [[nodiscard]] static tokenizer open(const std::string& path);
    [[nodiscard]] static tokenizer read(const nibble::gguf_file& file);

    // Special tokens are known by their text ("<|im_start|>"). `begin`: as a text by itself, after the token that the
    // model wants there, if it does.
    [[nodiscard]] std::vector<token> encode(std::string_view text, bool begin) const;
    // The bytes of a token, which may be a part of a character; none of one that controls.
    [[nodiscard]] std::string bytes(token id) const;
    [[nodiscard]] bool ends_text(token id) const noexcept;

private:
    enum class splitting { none, gpt2, llama3, qwen2 }; // none: sentence pieces, whose texts are one word
    enum class use { text, whole, control }; // whole: found before words are split; control: that, without bytes
    static constexpr token none = 0xffffffffu;
    struct merged {
        float order; // the lower, the earlier
        token id;
    };

    [[nodiscard]] static tokenizer read_json(std::string_view text);
    [[nodiscard]] bool has_pieces() const noexcept { return splitting_ == splitting::none; }
    void add(std::string_view text, use as); // the next token, as files spell it
    void add_merge(std::string_view merge);  // "left right"
    [[nodiscard]] token find(std::string_view text) const;
    [[nodiscard]] merged merge_of(token left, token right, std::string_view text) const;
    void encode_word(std::string_view word, std::vector<token>& out) const;
    [[nodiscard]] std::size_t word_length(std::string_view text) const;

    splitting splitting_ = splitting::gpt2;
    bool whole_words_first_ = false; // a word that is a token takes no merges
    bool space_first_ = false;       // a text begins with a space that it does not have
    bool adds_begin_ = false;
    token begin_ = none, unknown_ = none;
    std::vector<token> ends_, specials_;
    std::vector<std::string> texts_; // as bytes
    std::vector<float> scores_;
    std::vector<use> uses_;
    std::unordered_map<std::string, token> ids_;
    std::unordered_map<std::uint64_t, merged> merges_;           // left << 32 | right
    std::vector<token> of_byte_ = std::vector<token>(256, none); // a token for each byte, if there is one
};
