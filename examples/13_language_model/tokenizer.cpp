// tokenizer.cpp: splitting text into words, and merging what words are made of.
#include "tokenizer.hpp"

#include "unicode.hpp"

#include <algorithm>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace {

struct code_point {
    std::uint32_t code;
    std::size_t bytes;
};
// What is no UTF-8 counts as one character a byte.
[[nodiscard]] code_point code_point_at(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
    const unsigned lead = byte(0);
    const std::size_t size = lead < 0x80 ? 1 : (lead >> 5) == 6 ? 2 : (lead >> 4) == 14 ? 3 : (lead >> 3) == 30 ? 4 : 0;
    if (size == 0 || size > text.size() - at) return {0xfffd, 1};
    std::uint32_t code = size == 1 ? lead : lead & (0x7fu >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return {0xfffd, 1};
        code = code << 6 | (byte(i) & 63u);
    }
    return {code, size};
}

// GPT-2 writes bytes as printable characters: itself, or from U+0100 on in order.
[[nodiscard]] bool is_printable(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}
[[nodiscard]] std::string bytes_of_printable(std::string_view text) {
    static const std::vector<unsigned char> others = [] {
        std::vector<unsigned char> list;
        for (unsigned b = 0; b < 256; ++b)
            if (!is_printable(b)) list.push_back(static_cast<unsigned char>(b));
        return list;
    }();
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
        const code_point c = code_point_at(text, i);
        if (c.code >= 256 && c.code - 256 < others.size())
            out += static_cast<char>(others[c.code - 256]);
        else if (c.code < 256 && is_printable(c.code))
            out += static_cast<char>(static_cast<unsigned char>(c.code));
        else
            out += text.substr(i, c.bytes); // of a special token: as it is
        i += c.bytes;
    }
    return out;
}

constexpr std::string_view visible_space = "\xe2\x96\x81"; // U+2581

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (std::size_t i = 0; (i = text.find(from, i)) != std::string::npos; i += to.size())
        text.replace(i, from.size(), to);
}

// "<0x0A>"
[[nodiscard]] int byte_of_name(std::string_view text) {
    if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
    return static_cast<int>(std::strtoul(std::string(text.substr(3, 2)).c_str(), nullptr, 16));
}

} // namespace

void tokenizer::add(std::string text, use as) {
    ids_.emplace(text, static_cast<token>(texts_.size()));
    texts_.push_back(std::move(text));
    uses_.push_back(as);
}

void tokenizer::add_merge(std::string_view left, std::string_view right) {
    const std::string a = bytes_of_printable(left), b = bytes_of_printable(right);
    const token x = find(a), y = find(b), both = find(a + b);
    if (x == none || y == none || both == none) throw std::runtime_error("tokenizer: a merge of what is no token");
    merges_.emplace(std::uint64_t{x} << 32 | y, merged{static_cast<float>(merges_.size()), both});
}

void tokenizer::finish() {
    of_byte_.assign(256, none);
    for (token id = 0; id < texts_.size(); ++id) {
        const std::string& text = texts_[id];
        const int named = kind_ == kind::sentence_pieces ? byte_of_name(text) : -1;
        if (named >= 0)
            of_byte_[static_cast<std::size_t>(named)] = id;
        else if (kind_ == kind::byte_pairs && text.size() == 1 && uses_[id] == use::text)
            of_byte_[static_cast<unsigned char>(text[0])] = id;
        if (uses_[id] == use::text) continue;
        if (!text.empty()) specials_.push_back(id);
        for (const std::string_view end :
             {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>", "<eos>"})
            if (text == end) ends_.push_back(id);
    }
    std::stable_sort(specials_.begin(), specials_.end(),
                     [&](token a, token b) { return texts_[a].size() > texts_[b].size(); });
}

tokenizer tokenizer::read(const nibble::gguf_file& file) {
    tokenizer t;
    const std::string model(file.metadata_text("tokenizer.ggml.model").value_or("no"));
    const std::string pre(file.metadata_text("tokenizer.ggml.pre").value_or("gpt-2"));
    const auto texts = file.metadata_texts("tokenizer.ggml.tokens");
    if (model == "llama")
        t.kind_ = kind::sentence_pieces;
    else if (model != "gpt2")
        throw std::runtime_error("tokenizer '" + model + "' is not known; gpt2 and llama are");
    if (!texts) throw std::runtime_error("the file has no list of tokens");
    const auto types = file.metadata_numbers("tokenizer.ggml.token_type");
    for (std::size_t i = 0; i < texts->size(); ++i) {
        const int type = types && i < types->size() ? static_cast<int>((*types)[i]) : 1;
        const use as = type == 3 ? use::control : type == 4 ? use::whole : use::text;
        std::string text((*texts)[i]);
        if (t.kind_ == kind::byte_pairs && as == use::text) text = bytes_of_printable(text);
        if (t.kind_ == kind::sentence_pieces) replace_all(text, visible_space, " ");
        t.add(std::move(text), as);
    }
    if (t.kind_ == kind::sentence_pieces) {
        const auto scores = file.metadata_numbers("tokenizer.ggml.scores");
        if (!scores || scores->size() != texts->size()) throw std::runtime_error("the tokens have no scores");
        for (const double score : *scores) t.scores_.push_back(static_cast<float>(score));
        t.space_first_ = file.metadata_flag("tokenizer.ggml.add_space_prefix").value_or(true);
    } else {
        if (pre == "llama-bpe" || pre == "llama3" || pre == "smaug-bpe")
            t.splitting_ = splitting::llama3;
        else if (pre == "qwen2")
            t.splitting_ = splitting::qwen2;
        else if (pre != "gpt-2" && pre != "default")
            throw std::runtime_error("words split as by '" + pre + "' are not known; gpt-2, llama-bpe and qwen2 are");
        t.whole_words_first_ = pre == "llama-bpe" || pre == "llama3";
        const auto merges = file.metadata_texts("tokenizer.ggml.merges");
        if (!merges) throw std::runtime_error("the file has no merges of tokens");
        for (const std::string_view merge : *merges) {
            const std::size_t space = merge.find(' ', 1);
            if (space == std::string_view::npos) throw std::runtime_error("a merge without a space");
            t.add_merge(merge.substr(0, space), merge.substr(space + 1));
        }
    }
    const auto id = [&](const char* key) {
        const auto number = file.metadata_integer(key);
        return number && *number >= 0 ? static_cast<token>(*number) : none;
    };
    t.begin_ = id("tokenizer.ggml.bos_token_id");
    t.unknown_ = id("tokenizer.ggml.unknown_token_id");
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
        if (id(key) != none) t.ends_.push_back(id(key));
    t.adds_begin_ = file.metadata_flag("tokenizer.ggml.add_bos_token")
                        .value_or(t.kind_ == kind::sentence_pieces || t.splitting_ == splitting::llama3);
    t.finish();
    return t;
}

tokenizer tokenizer::read(const json& file) {
    tokenizer t;
    const json* model = file.find("model");
    const json* vocabulary = model != nullptr ? model->find("vocab") : nullptr;
    const json* merges = model != nullptr ? model->find("merges") : nullptr;
    const json* pre = file.find("pre_tokenizer");
    if (vocabulary == nullptr || merges == nullptr || pre == nullptr || model->text_of("type") != "BPE")
        throw std::runtime_error("tokenizer.json: only byte-level BPE is read; take the tokenizer of a GGUF file");
    // The splitting is given as an expression: known by what tells them apart.
    std::string expression;
    bool byte_level = pre->text_of("type") == "ByteLevel";
    if (const json* steps = pre->find("pretokenizers"))
        for (const auto& [unused, step] : steps->items) {
            byte_level = byte_level || step.text_of("type") == "ByteLevel";
            if (const json* pattern = step.find("pattern")) expression = pattern->text_of("Regex");
        }
    if (!byte_level) throw std::runtime_error("tokenizer.json: only byte-level BPE is read");
    if (expression.find("\\p{N}{1,3}") != std::string::npos)
        t.splitting_ = splitting::llama3;
    else if (expression.find("(?i:'s") != std::string::npos)
        t.splitting_ = splitting::qwen2;
    else if (!expression.empty())
        throw std::runtime_error("tokenizer.json: words are split by an expression that is not known: " + expression);
    t.whole_words_first_ = model->number_of("ignore_merges", 0) != 0;
    std::vector<std::pair<std::string, use>> tokens;
    const auto put = [&](double id, std::string text, use as) {
        if (!(id >= 0 && id < 1e7)) throw std::runtime_error("tokenizer.json: a token without a number");
        if (tokens.size() <= static_cast<std::size_t>(id)) tokens.resize(static_cast<std::size_t>(id) + 1);
        tokens[static_cast<std::size_t>(id)] = {std::move(text), as};
    };
    for (const auto& [text, id] : vocabulary->items) put(id.number, bytes_of_printable(text), use::text);
    if (const json* added = file.find("added_tokens"))
        for (const auto& [unused, one] : added->items)
            put(one.number_of("id", -1), std::string(one.text_of("content")),
                one.number_of("special", 0) != 0 ? use::control : use::whole);
    for (auto& [text, as] : tokens) t.add(std::move(text), as);
    for (const auto& [unused, merge] : merges->items) { // "a b" or ["a", "b"]
        const std::size_t space = merge.text.find(' ', 1);
        if (merge.items.size() == 2)
            t.add_merge(merge.items[0].value.text, merge.items[1].value.text);
        else if (space != std::string::npos)
            t.add_merge(std::string_view(merge.text).substr(0, space), std::string_view(merge.text).substr(space + 1));
        else
            throw std::runtime_error("tokenizer.json: a merge of other than two parts");
    }
    t.begin_ = t.find("<|begin_of_text|>");
    t.adds_begin_ = t.begin_ != none && t.splitting_ == splitting::llama3;
    t.finish();
    return t;
}

tokenizer::token tokenizer::find(std::string_view text) const {
    const auto at = ids_.find(std::string(text));
    return at != ids_.end() ? at->second : none;
}

tokenizer::merged tokenizer::merge_of(token left, token right, std::string_view text) const {
    if (kind_ == kind::sentence_pieces) {
        const token id = find(text);
        return id != none && uses_[id] != use::control ? merged{-scores_[id], id} : merged{0, none};
    }
    if (left == none || right == none) return {0, none};
    const auto at = merges_.find(std::uint64_t{left} << 32 | right);
    return at != merges_.end() ? at->second : merged{0, none};
}

// The neighbours that come first in the order of merges become one, until none are left that merge.
void tokenizer::encode_word(std::string_view word, std::vector<token>& out) const {
    if (whole_words_first_) {
        const token id = find(word);
        if (id != none) return out.push_back(id);
    }
    struct symbol {
        std::size_t begin, end;
        token id;
        std::size_t before, after; // its neighbours
    };
    struct candidate {
        float order;
        std::size_t left, right, end; // where the right one ended then
        token id;
        bool operator<(const candidate& other) const { // the queue gives the largest
            return std::tie(order, left) > std::tie(other.order, other.left);
        }
    };
    constexpr auto nothing = static_cast<std::size_t>(-1);
    std::vector<symbol> symbols;
    for (std::size_t i = 0; i < word.size();) {
        const std::size_t size = kind_ == kind::byte_pairs ? 1 : code_point_at(word, i).bytes;
        const token id =
            kind_ == kind::byte_pairs ? of_byte_[static_cast<unsigned char>(word[i])] : find(word.substr(i, size));
        symbols.push_back({i, i + size, id, symbols.size() - 1, symbols.size() + 1});
        i += size;
    }
    if (symbols.empty()) return;
    symbols.back().after = nothing;
    std::priority_queue<candidate> queue;
    const auto offer = [&](std::size_t left, std::size_t right) {
        if (left == nothing || right == nothing) return;
        const symbol &a = symbols[left], &b = symbols[right];
        const merged m = merge_of(a.id, b.id, word.substr(a.begin, b.end - a.begin));
        if (m.id != none) queue.push({m.order, left, right, b.end, m.id});
    };
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) offer(i, i + 1);
    while (!queue.empty()) {
        const candidate c = queue.top();
        queue.pop();
        symbol &a = symbols[c.left], &b = symbols[c.right];
        // Merged into another meanwhile, or grown.
        if (a.begin == a.end || b.begin == b.end || a.after != c.right || b.end != c.end) continue;
        const std::string_view both = word.substr(a.begin, b.end - a.begin);
        if (merge_of(a.id, b.id, both).id != c.id) continue;
        a = {a.begin, b.end, c.id, a.before, b.after};
        if (a.after != nothing) symbols[a.after].before = c.left;
        b.begin = b.end;
        offer(a.before, c.left);
        offer(c.left, a.after);
    }
    for (std::size_t i = 0; i != nothing; i = symbols[i].after) {
        const symbol& s = symbols[i];
        if (s.id != none) {
            out.push_back(s.id);
            continue;
        }
        for (std::size_t j = s.begin; j < s.end; ++j) {
            const token of_byte = of_byte_[static_cast<unsigned char>(word[j])];
            if (of_byte != none) out.push_back(of_byte);
            if (of_byte == none && unknown_ != none) {
                out.push_back(unknown_);
                break;
            }
        }
    }
}

// The length in bytes of the first word, by the expressions of the three families:
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
//           \s+(?!\S)|\s+, and qwen2 the same with \p{N} in place of \p{N}{1,3}
std::size_t tokenizer::word_length(std::string_view text) const {
    const bool gpt2 = splitting_ == splitting::gpt2;
    const auto letter = [](std::uint32_t c) { return unicode::is_letter(c); };
    const auto number = [](std::uint32_t c) { return unicode::is_number(c); };
    const auto other = [&](std::uint32_t c) { return !letter(c) && !number(c) && !unicode::is_space(c); };
    // The end of what satisfies `is` from `at` on.
    const auto run = [&](std::size_t at, const auto& is, std::size_t most = static_cast<std::size_t>(-1)) {
        for (std::size_t n = 0; at < text.size() && n < most; ++n) {
            const code_point c = code_point_at(text, at);
            if (!is(c.code)) break;
            at += c.bytes;
        }
        return at;
    };
    const code_point first = code_point_at(text, 0);
    if (first.code == '\'')
        for (const std::string_view end : {"s", "t", "re", "ve", "m", "ll", "d"}) {
            std::string after(text.substr(1, end.size()));
            if (!gpt2)
                for (char& c : after) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
            if (after == end) return 1 + end.size();
        }
    const std::size_t space = first.code == ' ' ? 1 : 0;
    const bool joins =
        gpt2 ? space != 0 : first.code != '\r' && first.code != '\n' && !letter(first.code) && !number(first.code);
    const std::size_t before = joins ? first.bytes : 0; // may stand before letters
    if (const std::size_t end = run(before, letter); end > before) return end;
    if (gpt2) {
        if (const std::size_t end = run(space, number); end > space) return end;
    } else if (number(first.code)) {
        return run(0, number, splitting_ == splitting::llama3 ? 3 : 1);
    }
    if (const std::size_t end = run(space, other); end > space)
        return gpt2 ? end : run(end, [](std::uint32_t c) { return c == '\r' || c == '\n'; });
    const std::size_t spaces = run(0, [](std::uint32_t c) { return unicode::is_space(c); });
    if (!gpt2) // up to the last line break
        for (std::size_t i = spaces; i > 0; --i)
            if (text[i - 1] == '\r' || text[i - 1] == '\n') return i;
    if (spaces == text.size()) return spaces;
    std::size_t last = 0; // where the last of them begins: it belongs to the next word, unless it is the only one
    for (std::size_t i = 0; i < spaces; i += code_point_at(text, i).bytes) last = i;
    return last != 0 ? last : std::max<std::size_t>(spaces, 1);
}

void tokenizer::encode_plain(std::string_view text, bool begin, std::vector<token>& out) const {
    if (text.empty()) return;
    if (kind_ == kind::sentence_pieces)
        return encode_word(begin && space_first_ ? " " + std::string(text) : std::string(text), out);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t size = word_length(text.substr(at));
        encode_word(text.substr(at, size), out);
        at += size;
    }
}

std::vector<tokenizer::token> tokenizer::encode(std::string_view text, bool begin) const {
    std::vector<token> out;
    if (begin && adds_begin_ && begin_ != none) out.push_back(begin_);
    while (!text.empty()) {
        std::size_t at = text.size();
        token special = none;
        for (const token id : specials_) { // the first place; there the longest
            const std::size_t found = text.substr(0, at + texts_[id].size() - 1).find(texts_[id]);
            if (found < at) {
                at = found;
                special = id;
            }
        }
        encode_plain(text.substr(0, at), begin, out);
        begin = false;
        if (special == none) break;
        out.push_back(special);
        text.remove_prefix(at + texts_[special].size());
    }
    return out;
}

std::string tokenizer::bytes(token id) const {
    if (id >= texts_.size() || uses_[id] == use::control) return "";
    const int byte = kind_ == kind::sentence_pieces ? byte_of_name(texts_[id]) : -1;
    return byte >= 0 ? std::string(1, static_cast<char>(static_cast<unsigned char>(byte))) : texts_[id];
}

bool tokenizer::ends_text(token id) const noexcept {
    return std::find(ends_.begin(), ends_.end(), id) != ends_.end();
}
