// tokenizer.cpp: splitting text into words, and merging what words are made of.
#include "tokenizer.hpp"

#include "json_fields.hpp"
#include "unicode.hpp"

#include <nibble/io/mapped_file.hpp>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
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

// GPT-2 writes bytes as printable characters: itself, or, what is none, from U+0100 on in order.
[[nodiscard]] std::string bytes_of_printable(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
        const code_point c = code_point_at(text, i);
        const bool itself = c.code > 160 && c.code < 256 && c.code != 173, other = c.code >= 256 && c.code < 324;
        const std::uint32_t place = c.code - 256; // among 0 to 32, 127 to 160 and 173
        if (itself || other)
            out += static_cast<char>(itself ? c.code : place < 33 ? place : place < 67 ? place + 94 : 173);
        else
            out += text.substr(i, c.bytes); // ASCII, and what is in special tokens
        i += c.bytes;
    }
    return out;
}

// How the files name the ways to split words.
struct family {
    std::string_view name;
    int splitting; // tokenizer::splitting
    bool whole_words_first;
};
constexpr family families[] = {{"gpt-2", 1, false}, {"default", 1, false},   {"llama-bpe", 2, true},
                               {"llama3", 2, true}, {"smaug-bpe", 2, false}, {"qwen2", 3, false}};

} // namespace

void tokenizer::add(std::string_view text, use as) {
    const auto id = static_cast<token>(texts_.size());
    std::string own(text);
    bool is_byte = !has_pieces() && as == use::text && (own = bytes_of_printable(text)).size() == 1;
    if (has_pieces()) {
        constexpr std::string_view visible_space = "\xe2\x96\x81"; // U+2581
        for (std::size_t i = 0; (i = own.find(visible_space, i)) != std::string::npos; ++i)
            own.replace(i, visible_space.size(), " ");
        is_byte = own.size() == 6 && own.starts_with("<0x") && own[5] == '>'; // "<0x0A>"
        if (is_byte) own = {static_cast<char>(std::strtoul(own.substr(3, 2).c_str(), nullptr, 16))};
    }
    if (is_byte) of_byte_[static_cast<unsigned char>(own[0])] = id;
    if (!is_byte || !has_pieces()) ids_.emplace(own, id);
    for (const char* end :
         {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>", "<eos>"})
        if (as != use::text && own == end) ends_.push_back(id);
    if (as != use::text && !own.empty()) specials_.push_back(id);
    texts_.push_back(std::move(own));
    uses_.push_back(as);
}

void tokenizer::add_merge(std::string_view merge) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) throw std::runtime_error("tokenizer: a merge of other than two parts");
    const std::string a = bytes_of_printable(merge.substr(0, space)), b = bytes_of_printable(merge.substr(space + 1));
    const token x = find(a), y = find(b), both = find(a + b);
    if (x == none || y == none || both == none) throw std::runtime_error("tokenizer: a merge of what is no token");
    merges_.emplace(std::uint64_t{x} << 32 | y, merged{static_cast<float>(merges_.size()), both});
}

tokenizer tokenizer::open(const std::string& path) {
    nibble::mapped_file file;
    nibble::gguf_file gguf;
    nibble::status s = nibble::mapped_file::open(path.c_str(), file);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    if (s && !text.starts_with("GGUF")) return read_json(text);
    if (s) s = nibble::gguf_file::open(path.c_str(), gguf);
    if (!s) throw std::runtime_error(s.message() + "; --tokenizer names a GGUF file or tokenizer.json");
    return read(gguf);
}

tokenizer tokenizer::read(const nibble::gguf_file& file) {
    tokenizer t;
    const std::string model(file.metadata_text("tokenizer.ggml.model").value_or("no"));
    const std::string pre(file.metadata_text("tokenizer.ggml.pre").value_or("gpt-2"));
    const auto texts = file.metadata_texts("tokenizer.ggml.tokens");
    const auto types = file.metadata_numbers("tokenizer.ggml.token_type");
    if (model != "llama" && model != "gpt2")
        throw std::runtime_error("tokenizer '" + model + "' is not known; gpt2 and llama are");
    if (!texts) throw std::runtime_error("the file has no list of tokens");
    const family* const known =
        std::find_if(std::begin(families), std::end(families), [&](const family& one) { return one.name == pre; });
    if (model == "gpt2" && known == std::end(families))
        throw std::runtime_error("words split as by '" + pre + "' are not known; gpt-2, llama-bpe and qwen2 are");
    t.splitting_ = model == "llama" ? splitting::none : static_cast<splitting>(known->splitting);
    for (std::size_t i = 0; i < texts->size(); ++i) {
        const int type = types && i < types->size() ? static_cast<int>((*types)[i]) : 1;
        t.add((*texts)[i], type == 3 ? use::control : type == 4 ? use::whole : use::text);
    }
    if (t.has_pieces()) {
        const auto scores = file.metadata_numbers("tokenizer.ggml.scores");
        if (!scores || scores->size() != texts->size()) throw std::runtime_error("the tokens have no scores");
        t.scores_.assign(scores->begin(), scores->end());
        t.space_first_ = file.metadata_flag("tokenizer.ggml.add_space_prefix").value_or(true);
    } else {
        t.whole_words_first_ = known->whole_words_first;
        const auto merges = file.metadata_texts("tokenizer.ggml.merges");
        if (!merges) throw std::runtime_error("the file has no merges of tokens");
        for (const std::string_view merge : *merges) t.add_merge(merge);
    }
    const auto id = [&](const char* key) {
        const auto number = file.metadata_integer(key);
        return number && *number >= 0 ? static_cast<token>(*number) : none;
    };
    t.begin_ = id("tokenizer.ggml.bos_token_id");
    t.unknown_ = id("tokenizer.ggml.unknown_token_id");
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) t.ends_.push_back(id(key));
    t.adds_begin_ = file.metadata_flag("tokenizer.ggml.add_bos_token")
                        .value_or(t.has_pieces() || t.splitting_ == splitting::llama3);
    return t;
}

tokenizer tokenizer::read_json(std::string_view text) {
    tokenizer t;
    try {
        const json file = json::parse(text);
        const auto string = [](const json& of) -> const std::string& { return of.get_ref<const std::string&>(); };
        const json &model = file.at("model"), &pre = file.at("pre_tokenizer");
        // The splitting is given as an expression: known by what tells them apart.
        std::string expression;
        bool byte_level = text_of(pre, "type") == "ByteLevel";
        if (const json* const steps = field_of(pre, "pretokenizers"))
            for (const json& step : *steps) {
                byte_level = byte_level || text_of(step, "type") == "ByteLevel";
                if (const json* const pattern = field_of(step, "pattern")) expression = text_of(*pattern, "Regex");
            }
        if (!byte_level || text_of(model, "type") != "BPE")
            throw std::runtime_error("only byte-level BPE is read; take the tokenizer of a GGUF file");
        if (expression.find("\\p{N}{1,3}") != std::string::npos)
            t.splitting_ = splitting::llama3;
        else if (expression.find("(?i:'s") != std::string::npos)
            t.splitting_ = splitting::qwen2;
        else if (!expression.empty())
            throw std::runtime_error("words are split by an expression that is not known: " + expression);
        t.whole_words_first_ = number_of(model, "ignore_merges", 0) != 0;
        std::map<token, std::pair<std::string, use>> tokens; // by number, which may leave some out
        const json& vocabulary = model.at("vocab");
        for (auto one = vocabulary.begin(); one != vocabulary.end(); ++one)
            tokens[one.value().get<token>()] = {one.key(), use::text};
        if (const json* const added = field_of(file, "added_tokens"))
            for (const json& one : *added)
                tokens[static_cast<token>(count_of(one, "id"))] = {
                    text_of(one, "content"), number_of(one, "special", 0) != 0 ? use::control : use::whole};
        if (tokens.empty() || tokens.rbegin()->first > 10'000'000) throw std::runtime_error("no tokens, or too many");
        for (const auto& [id, one] : tokens) {
            while (t.texts_.size() < id) t.add("", use::text);
            t.add(one.first, one.second);
        }
        for (const json& merge : model.at("merges")) // "a b" or ["a", "b"]
            t.add_merge(merge.is_array() ? string(merge.at(0)) + ' ' + string(merge.at(1)) : string(merge));
    } catch (const std::exception& e) {
        throw std::runtime_error(std::string("tokenizer.json: ") + e.what());
    }
    t.begin_ = t.find("<|begin_of_text|>");
    t.adds_begin_ = t.begin_ != none && t.splitting_ == splitting::llama3;
    return t;
}

tokenizer::token tokenizer::find(std::string_view text) const {
    const auto at = ids_.find(std::string(text));
    return at != ids_.end() ? at->second : none;
}

tokenizer::merged tokenizer::merge_of(token left, token right, std::string_view text) const {
    if (has_pieces()) {
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
        const std::size_t size = has_pieces() ? code_point_at(word, i).bytes : 1;
        const token id = has_pieces() ? find(word.substr(i, size)) : of_byte_[static_cast<unsigned char>(word[i])];
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

std::vector<tokenizer::token> tokenizer::encode(std::string_view text, bool begin) const {
    std::vector<token> out;
    if (begin && adds_begin_ && begin_ != none) out.push_back(begin_);
    while (!text.empty()) {
        std::size_t at = text.size();
        token special = none;
        for (const token id : specials_) { // the first place; there the longest
            const std::size_t found = text.substr(0, at + texts_[id].size()).find(texts_[id]);
            if (found < at || (found == at && special != none && texts_[id].size() > texts_[special].size())) {
                at = found;
                special = id;
            }
        }
        std::string plain(text.substr(0, at));
        if (begin && space_first_ && !plain.empty()) plain.insert(0, 1, ' ');
        for (std::string_view rest = plain; !rest.empty();) {
            const std::size_t size = has_pieces() ? rest.size() : word_length(rest);
            encode_word(rest.substr(0, size), out);
            rest.remove_prefix(size);
        }
        begin = false;
        if (special == none) break;
        out.push_back(special);
        text.remove_prefix(at + texts_[special].size());
    }
    return out;
}

std::string tokenizer::bytes(token id) const {
    return id < texts_.size() && uses_[id] != use::control ? texts_[id] : "";
}

bool tokenizer::ends_text(token id) const noexcept {
    return std::find(ends_.begin(), ends_.end(), id) != ends_.end();
}
