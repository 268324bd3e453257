// A language model on nibble's verbs: reads a GGUF file or a Hugging Face folder, writes on what it is given.
//   language_model --model FILE --prompt TEXT        (--help tells the rest)
// Follow the data: model.cpp (files to weights), tokenizer.cpp (text to tokens), inference.cpp (tokens to logits),
// sampler.hpp (logits to a token). linear.hpp and cache.hpp are the seams to nibble's templates.
#include "inference.hpp"
#include "sampler.hpp"
#include "tokenizer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

namespace {

struct arguments {
    std::string model, config, tokenizer, prefix, tokens_file, logits_file;
    std::vector<std::string> prompts;
    std::size_t tokens = 128, threads = std::max(1u, std::thread::hardware_concurrency()), chunk = 512, window = 1024,
                windows = 0;
    bool ignore_end = false, quiet = false;
    load_options load{};
    inference_options inference{};
    sampling_options sampling{};
};

std::size_t whole_number(const std::string& text) {
    char* end = nullptr;
    const auto value = static_cast<std::size_t>(std::strtoull(text.c_str(), &end, 10));
    if (text.empty() || *end != '\0' || text[0] == '-') throw model_error("'" + text + "' is not a whole number");
    return value;
}
float positive_number(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0)) throw model_error("'" + text + "' is not a number from 0 on");
    return static_cast<float>(value);
}

struct option {
    const char *name, *value, *help; // without a value: a switch
    std::function<void(const std::string&)> set;
};
std::vector<option> options_of(arguments& a) {
    const auto text = [](std::string& to) { return [&to](const std::string& v) { to = v; }; };
    const auto count = [](auto& to) { return [&to](const std::string& v) { to = whole_number(v); }; };
    const auto number = [](float& to) { return [&to](const std::string& v) { to = positive_number(v); }; };
    const auto flag = [](bool& to) { return [&to](const std::string&) { to = true; }; };
    inference_options& run = a.inference;
    sampling_options& sample = a.sampling;
    return {
        {"--model", "PATH", "a .gguf or .safetensors file, or a Hugging Face folder", text(a.model)},
        {"--config", "FILE", "config.json of a .safetensors file, if not beside it", text(a.config)},
        {"--tokenizer", "FILE", "a GGUF file or tokenizer.json, if not the model's own", text(a.tokenizer)},
        {"--prompt", "TEXT", "what to write on; several prompts are written on together",
         [&](const std::string& v) { a.prompts.push_back(v); }},
        {"--prefix", "TEXT", "stands before every prompt and is computed once", text(a.prefix)},
        {"--tokens", "N", "tokens to write, at most (128)", count(a.tokens)},
        {"--weights", "FORMAT", "quantize the layers' matrices; without it they stay as they are stored",
         text(a.load.weights)},
        {"--rule", "REGEX=FORMAT", "format of the matrices whose name the expression finds, or 'keep'; repeatable",
         [&](const std::string& v) {
             const std::size_t equals = v.rfind('=');
             if (equals == std::string::npos) throw model_error("a rule is REGEX=FORMAT");
             a.load.rules.emplace_back(v.substr(0, equals), v.substr(equals + 1));
             (void)is_found(a.load.rules.back().first, ""); // is it an expression?
         }},
        {"--keys", "FORMAT", "of keys in the cache (f16)", text(run.keys)},
        {"--values", "FORMAT", "of values in the cache (f16)", text(run.values)},
        {"--cache", "FORMAT", "of both", [&](const std::string& v) { run.keys = run.values = v; }},
        {"--activations", "SCALE", "of integer products: per_token, or per_group where weights have groups (automatic)",
         [&](const std::string& v) {
             if (v != "per_token" && v != "automatic") throw model_error("--activations is per_token or automatic");
             run.activations.scale =
                 v == "per_token" ? nb::activation_scale::per_token : nb::activation_scale::automatic;
         }},
        {"--context", "N", "tokens of a sequence (the model's, at most 4096)", count(run.context)},
        {"--threads", "N", "(all cores)", count(a.threads)},
        {"--chunk", "N", "tokens of a prompt at a time (512); changes no result, but of keys along tokens",
         count(a.chunk)},
        {"--temperature", "T", "0: always the most likely token (0)", number(sample.temperature)},
        {"--top-k", "N", "among the N most likely tokens (0: all)", count(sample.top_k)},
        {"--top-p", "P", "among the fewest that have this probability together (1)", number(sample.top_p)},
        {"--min-p", "P", "among those at least so likely as this share of the most likely (0)", number(sample.min_p)},
        {"--seed", "N", "of the choice (0); prompt i takes N + i", count(sample.seed)},
        {"--ignore-end", "", "write on after the end of a text", flag(a.ignore_end)},
        {"--evaluate", "FILE", "instead of writing: mean negative log-likelihood of token ids, uint16 little-endian",
         text(a.tokens_file)},
        {"--window", "N", "tokens of a window of that (1024)", count(a.window)},
        {"--windows", "N", "how many windows (0: as many as there are)", count(a.windows)},
        {"--logits", "FILE", "with --evaluate: all logits, fp32", text(a.logits_file)},
        {"--quiet", "", "nothing but the text", flag(a.quiet)}};
}

arguments parse(int argc, char** argv) {
    arguments a;
    const std::vector<option> all = options_of(a);
    if (argc == 1 || std::string_view(argv[1]) == "--help") {
        std::printf("language_model --model PATH --prompt TEXT [OPTION VALUE]...\n\n");
        for (const option& o : all) std::printf("  %-14s %-12s %s\n", o.name, o.value, o.help);
        std::printf("\nWeights:%s\nKeys:%s\nValues:%s\n", weight_formats().c_str(), names_of(key_formats{}).c_str(),
                    names_of(value_formats{}).c_str());
        std::exit(0);
    }
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const auto o = std::find_if(all.begin(), all.end(), [&](const option& one) { return name == one.name; });
        if (o == all.end()) throw model_error("'" + name + "' is no option; --help lists them");
        const bool has_value = *o->value != '\0';
        if (has_value && i + 1 == argc) throw model_error(name + " needs a value: " + o->value);
        try {
            o->set(has_value ? argv[++i] : "");
        } catch (const model_error& e) {
            throw model_error(name + ": " + e.what());
        }
    }
    if (a.model.empty()) throw model_error("--model is needed; --help tells more");
    if (a.prompts.empty() && a.tokens_file.empty()) throw model_error("--prompt or --evaluate is needed");
    if (a.threads == 0 || a.chunk == 0 || a.window == 0) throw model_error("threads, chunk and window are at least 1");
    return a;
}

// Prints and takes away what is whole characters: a token may end within one.
void print_characters(std::string& waiting) {
    const auto from_end = [&](std::size_t back) { return static_cast<unsigned char>(waiting[waiting.size() - back]); };
    std::size_t back = 1;
    while (back < std::min<std::size_t>(4, waiting.size()) && (from_end(back) & 0xc0) == 0x80) ++back;
    const unsigned lead = waiting.empty() ? 0 : from_end(back);
    const std::size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    const std::size_t whole = waiting.size() - (size > back ? back : 0);
    std::fwrite(waiting.data(), 1, whole, stdout);
    std::fflush(stdout);
    waiting.erase(0, whole);
}

int write(const arguments& a, const model& m, const tokenizer& t, const nb::thread_pool& threads) {
    inference_options options = a.inference;
    options.sequences = a.prompts.size() + (a.prefix.empty() ? 0 : 1);
    inference run(m, options, threads);
    struct text {
        std::size_t sequence;
        sampler choose;
        std::uint32_t next = 0;
        std::size_t count = 0; // of tokens written
        std::string written{}; // and not yet printed
        bool ended = false;
    };
    std::vector<text> texts;
    std::size_t prompt_tokens = 0;
    std::optional<std::size_t> shared;
    std::vector<std::uint32_t> ids = t.encode(a.prefix, true);
    if (!a.prefix.empty()) {
        shared = run.cache().add();
        (void)run.prefill(*shared, ids, a.chunk);
        prompt_tokens += ids.size();
    }
    for (const std::string& prompt : a.prompts) {
        ids = t.encode(prompt, !shared);
        if (ids.empty()) throw model_error("a prompt without a token");
        prompt_tokens += ids.size();
        const std::size_t sequence = shared ? run.cache().fork(*shared) : run.cache().add();
        sampling_options sampling = a.sampling;
        sampling.seed += texts.size();
        texts.push_back({sequence, sampler(sampling)});
        texts.back().next = texts.back().choose(run.prefill(sequence, ids, a.chunk));
    }
    const double prompt_seconds = run.seconds, prompt_kernels = run.seconds_in_kernels;

    // One text is printed as it grows, several when they are complete.
    const bool streams = texts.size() == 1;
    if (streams && !a.quiet) std::printf("%s%s", a.prefix.c_str(), a.prompts.front().c_str());
    std::vector<text*> going;
    std::vector<new_tokens> batch;
    std::size_t steps = 0, written = 0;
    for (;;) {
        going.clear();
        batch.clear();
        for (text& one : texts) {
            one.ended = one.ended || one.count == a.tokens || (!a.ignore_end && t.ends_text(one.next));
            if (one.ended) continue;
            one.written += t.bytes(one.next);
            if (streams) print_characters(one.written);
            one.ended = ++one.count == a.tokens || run.cache().size(one.sequence) == run.context();
            if (one.ended) continue;
            going.push_back(&one);
            batch.push_back({one.sequence, {&one.next, 1}, 1});
        }
        if (batch.empty()) break;
        const nb::matrix_view<const float> logits = run.forward(batch);
        for (std::size_t i = 0; i < going.size(); ++i)
            going[i]->next = going[i]->choose({logits.row(i), logits.cols()});
        ++steps;
        written += going.size();
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
        if (!streams) std::printf("%s[%zu] %s", i == 0 ? "" : "\n", i, a.prompts[i].c_str());
        std::fwrite(texts[i].written.data(), 1, texts[i].written.size(), stdout);
    }
    std::printf("\n");
    if (a.quiet) return 0;
    const double seconds = run.seconds - prompt_seconds, kernels = run.seconds_in_kernels - prompt_kernels;
    std::fprintf(stderr, "prompts: %zu tokens, %.1f tokens/s\n", prompt_tokens,
                 static_cast<double>(prompt_tokens) / prompt_seconds);
    if (steps != 0)
        std::fprintf(stderr, "writing: %zu steps, %.1f tokens/s, %.0f %% of the time in products and attention\n",
                     steps, static_cast<double>(written) / seconds, 100 * kernels / seconds);
    std::fprintf(stderr, "memory: weights %.1f MB, keys and values %.1f MB of tokens\n",
                 static_cast<double>(m.bytes()) / 1e6, static_cast<double>(run.cache().bytes()) / 1e6);
    return 0;
}

int evaluate(const arguments& a, const model& m, const nb::thread_pool& threads) {
    const std::string raw = read_file(a.tokens_file);
    std::vector<std::uint32_t> ids;
    for (std::size_t i = 0; i + 1 < raw.size(); i += 2)
        ids.push_back(static_cast<unsigned char>(raw[i]) | static_cast<unsigned>(static_cast<unsigned char>(raw[i + 1]))
                                                               << 8);
    // A window's last token is predicted too: it needs one token more.
    const std::size_t there = ids.empty() ? 0 : (ids.size() - 1) / a.window;
    const std::size_t windows = a.windows == 0 ? there : std::min(a.windows, there);
    if (windows == 0) throw model_error(a.tokens_file + ": holds no window and the token behind it");
    std::FILE* const logits_out = a.logits_file.empty() ? nullptr : std::fopen(a.logits_file.c_str(), "wb");
    if (logits_out == nullptr && !a.logits_file.empty()) throw model_error(a.logits_file + ": cannot be written");
    inference_options options = a.inference;
    options.context = std::max(options.context, a.window);
    inference run(m, options, threads);
    const std::size_t sequence = run.cache().add();
    double loss = 0;
    for (std::size_t w = 0; w < windows; ++w) {
        run.cache().truncate(sequence, 0);
        for (std::size_t at = w * a.window; at < (w + 1) * a.window;) {
            const std::size_t count = std::min(a.chunk, (w + 1) * a.window - at);
            const new_tokens piece{sequence, {ids.data() + at, count}, count};
            const nb::matrix_view<const float> logits = run.forward({&piece, 1});
            for (std::size_t i = 0; i < count; ++i) {
                const std::span<const float> row(logits.row(i), logits.cols());
                if (ids[at + i + 1] >= row.size()) throw model_error(a.tokens_file + ": a token beyond the vocabulary");
                loss += double{nb::log_sum_exp(row)} - double{row[ids[at + i + 1]]};
                if (logits_out != nullptr) std::fwrite(row.data(), sizeof(float), row.size(), logits_out);
            }
            at += count;
        }
        if (!a.quiet) std::fprintf(stderr, "\rwindow %zu of %zu", w + 1, windows);
    }
    if (!a.quiet) std::fprintf(stderr, "\n");
    if (logits_out != nullptr && std::fclose(logits_out) != 0)
        throw model_error(a.logits_file + ": could not be written");
    const double count = static_cast<double>(windows * a.window);
    std::printf("nll %.9f perplexity %.6f tokens %.0f bits_per_weight %.3f tokens_per_second %.1f\n", loss / count,
                std::exp(loss / count), count, m.bits_per_weight(), count / run.seconds);
    return 0;
}

int run(int argc, char** argv) {
    arguments a = parse(argc, argv);
    const nb::thread_pool threads(a.threads);
    const auto begin = std::chrono::steady_clock::now();
    model_files files(a.model, a.config);
    if (!a.quiet)
        a.load.progress = [](std::size_t done, std::size_t of) {
            std::fprintf(stderr, "\rloading %zu of %zu layers", done, of);
        };
    const model m = load_model(files, a.load, threads);
    if (!a.quiet) {
        const model_config& c = m.config;
        std::fprintf(stderr, "\r%s (%s): %zu layers of %zu, %.2f bits per weight, loaded in %.1f s\n", c.name.c_str(),
                     c.architecture.c_str(), c.layers, c.hidden, m.bits_per_weight(),
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return a.tokens_file.empty()
               ? write(a, m, tokenizer::open(a.tokenizer.empty() ? files.tokenizer() : a.tokenizer), threads)
               : evaluate(a, m, threads);
}

} // namespace

int main(int argc, char** argv) {
    // Arguments that nibble refuses, a context too short for a page, are errors like others.
    nb::set_failure_handler([](const char* message, const char*, int) { throw model_error(message); });
    try {
        return run(argc, argv);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "language_model: %s\n", e.what());
        return 2;
    }
}
