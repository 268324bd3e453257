// perplexity.cpp: nibble_perplexity, what number formats cost a language model: weights, activations and cache of keys
// and values, each by itself, over text that the model has not seen.
//   nibble_perplexity --model model.gguf --tokens ids.u16 --windows 8
//   nibble_perplexity --model folder/ --text book.txt --schemes '^int4|^q4|^mxfp4' --cache none --plot a.svg
// Every row is one change to the same model, whose weights are otherwise those of the file decoded to fp32, products
// and attention in fp32:
//   weights      the layers' matrices in a format (embeddings and output stay); under range::least_squares with
//   --search activations  of products with them: fp32, or what the kernels make of them: int8, scaled per_group or
//   per_token keys/values  rounded as a format would, attended to in fp32; with "kernel" beside them, by nibble's
//   kernels of that
//                cache, whose products with integer formats are integer (a prompt comes in pieces of 512 tokens, which
//                along_tokens caches attend to before they are rounded)
// Columns: nll is the mean negative log-likelihood of the next token in nats, perplexity its exponential; kl the mean
// Kullback-Leibler divergence of the row's prediction from that of the unchanged model, sum p ln(p / q), in nats; top1
// how often both find the same token likeliest; tokens/s of prompts, with what this program adds to products.
#include "model/caches.hpp"
#include "model/matrix.hpp"
#include "support/command_line.hpp"
#include "support/progress.hpp"
#include "support/scatter.hpp"
#include "support/scheme.hpp"
#include "support/workload.hpp"

#include "inference.hpp"
#include "tokenizer.hpp"

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/transform/softmax.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <regex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct arguments {
    std::string model;
    std::string config;
    std::string tokens;
    std::string text;
    std::size_t window = 1024;
    std::size_t windows = 8;
    std::string schemes;
    std::string cache;
    std::string activations = "all";
    bool search = false;
    std::size_t threads = std::max(1u, std::thread::hardware_concurrency());
    std::string json;
    std::string csv;
    std::string plot;
};

struct result {
    std::string weights = "unchanged";
    std::string activations = "fp32";
    std::string keys = "fp32";
    std::string values = "fp32";
    double bits_per_weight = 32; // of the layers' matrices
    double bits_per_number = 32; // of the cache
    double nll = 0;
    double perplexity = 0;
    double kl = 0;
    double top1_agreement = 1;
    double tokens_per_second = 0;
};

// Visits a row's columns by name, in the order of every report.
template <class Visit> void for_each_column(const result& row, Visit&& visit) {
    visit("weights", row.weights);
    visit("activations", row.activations);
    visit("keys", row.keys);
    visit("values", row.values);
    visit("bits_per_weight", row.bits_per_weight);
    visit("bits_per_number", row.bits_per_number);
    visit("nll", row.nll);
    visit("perplexity", row.perplexity);
    visit("kl", row.kl);
    visit("top1_agreement", row.top1_agreement);
    visit("tokens_per_second", row.tokens_per_second);
}

std::string bench_file(const char* option, const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw bench::user_error(std::string(option) + ": cannot open '" + path + "'");
    return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::uint32_t> read_tokens(const arguments& given, const model_files& files) {
    if (given.tokens.empty() == given.text.empty())
        throw bench::user_error("either --tokens or --text is needed: what the model is to predict");
    if (!given.text.empty()) {
        const std::string text = bench_file("--text", given.text);
        return tokenizer::open(files.tokenizer()).encode(text, true);
    }
    const std::string raw = bench_file("--tokens", given.tokens);
    if (raw.size() % 2 != 0)
        throw bench::user_error("--tokens: '" + given.tokens + "' is not a file of 16-bit numbers");
    std::vector<std::uint32_t> ids(raw.size() / 2);
    for (std::size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<unsigned char>(raw[2 * i]) |
                 static_cast<std::uint32_t>(static_cast<unsigned char>(raw[2 * i + 1])) << 8;
    return ids;
}

std::vector<std::unique_ptr<linear>*> matrices_of(model& m) {
    std::vector<std::unique_ptr<linear>*> all;
    for (model_layer& layer : m.layers)
        model_layer::for_each_matrix(layer, [&](std::unique_ptr<linear>& one) { all.push_back(&one); });
    return all;
}

bench::float_matrix numbers_of(const linear& w, machine& on) {
    bench::float_matrix numbers(w.outputs(), w.inputs());
    std::vector<std::uint32_t> ids(w.outputs());
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint32_t>(i);
    w.rows(ids, numbers.view(), on);
    return numbers;
}

// Runs the model over all windows and compares with what the unchanged one predicted.
class evaluation {
public:
    evaluation(std::vector<std::uint32_t> ids, std::size_t window, std::size_t windows, std::size_t vocabulary,
               const nibble::thread_pool& threads)
        : ids_(std::move(ids)), window_(window), vocabulary_(vocabulary), threads_(threads) {
        const std::size_t there = ids_.empty() ? 0 : (ids_.size() - 1) / window;
        windows_ = windows == 0 ? there : std::min(windows, there);
        if (windows_ == 0) throw bench::user_error("the text is shorter than a window and the token behind it");
        ids_.resize(windows_ * window + 1);
        for (const std::uint32_t id : ids_)
            if (id >= vocabulary)
                throw bench::user_error("token " + std::to_string(id) + " is beyond the model's vocabulary of " +
                                        std::to_string(vocabulary));
        if (static_cast<double>(windows_ * window) * static_cast<double>(vocabulary) > 4e9)
            throw bench::user_error("predictions for so many tokens take more than 16 GB: take fewer --windows");
    }
    [[nodiscard]] std::size_t tokens() const { return windows_ * window_; }
    [[nodiscard]] std::size_t windows() const { return windows_; }

    // Logits of all tokens, window after window, into `row`; those of the first model are kept.
    void run(inference& with, result& row, const std::function<void(std::size_t)>& window_done) {
        const bool first = reference_.empty();
        if (first) reference_.resize(tokens() * vocabulary_);
        const std::size_t sequence = with.cache().add();
        std::vector<sums> workers(threads_.concurrency());
        const double before = with.seconds;
        for (std::size_t w = 0; w < windows_; ++w) {
            with.cache().truncate(sequence, 0);
            constexpr std::size_t chunk = 512;
            for (std::size_t at = w * window_; at < (w + 1) * window_; at += chunk) {
                const std::size_t count = std::min(chunk, (w + 1) * window_ - at);
                const new_tokens piece{sequence, {ids_.data() + at, count}, count};
                const nibble::matrix_view<const float> logits = with.forward({&piece, 1});
                threads_.parallel_for(count, [&](std::size_t i, std::size_t worker) {
                    float* const reference = reference_.data() + (at + i) * vocabulary_;
                    if (first) std::copy_n(logits.row(i), vocabulary_, reference);
                    compare(workers[worker], {logits.row(i), vocabulary_}, {reference, vocabulary_}, ids_[at + i + 1]);
                });
            }
            window_done(w + 1);
        }
        sums all;
        for (const sums& one : workers) {
            all.loss += one.loss;
            all.kl += one.kl;
            all.agreed += one.agreed;
        }
        const auto count = static_cast<double>(tokens());
        row.nll = all.loss / count;
        row.perplexity = std::exp(row.nll);
        row.kl = all.kl / count;
        row.top1_agreement = static_cast<double>(all.agreed) / count;
        row.tokens_per_second = count / (with.seconds - before);
    }

private:
    struct sums {
        double loss = 0;
        double kl = 0;
        std::size_t agreed = 0;
        std::vector<float> probability;
    };
    static void compare(sums& into, std::span<const float> q, std::span<const float> p, std::uint32_t next) {
        const double q_sum = nibble::log_sum_exp(q);
        into.loss += q_sum - double{q[next]};
        // sum p (ln p - ln q), where a logarithm is a logit less the logarithm of all of them.
        into.probability.resize(p.size());
        nibble::softmax(p, into.probability);
        const double shift = q_sum - double{nibble::log_sum_exp(p)};
        double kl = shift;
        std::size_t likeliest_p = 0;
        std::size_t likeliest_q = 0;
        for (std::size_t i = 0; i < p.size(); ++i) {
            kl += double{into.probability[i]} * (double{p[i]} - double{q[i]});
            if (p[i] > p[likeliest_p]) likeliest_p = i;
            if (q[i] > q[likeliest_q]) likeliest_q = i;
        }
        into.kl += kl;
        if (likeliest_p == likeliest_q) ++into.agreed;
    }

    std::vector<std::uint32_t> ids_;
    std::size_t window_;
    std::size_t windows_ = 0;
    std::size_t vocabulary_;
    const nibble::thread_pool& threads_;
    std::vector<float> reference_; // [token][vocabulary]
};

const char* name_of(nibble::activation_scale scale) {
    return scale == nibble::activation_scale::per_token ? "int8 per_token" : "int8 per_group";
}

// A row that is still to be made: what it is called, and how the model becomes it.
struct trial {
    result row;
    const bench::scheme* weights = nullptr;
    bool fp32_products = true;
    nibble::activation_scale scale = nibble::activation_scale::automatic;
    const bench::scheme* rounded = nullptr; // of keys and values
    const bench::cache_kernel* kernel = nullptr;
};

std::vector<trial> trials_of(const arguments& given) {
    std::vector<trial> all(1); // the unchanged model
    if (given.schemes != "none") {
        const std::regex wanted = bench::parse_pattern("--schemes", given.schemes);
        for (const auto& one : bench::all_schemes()) {
            const std::string name(one->name());
            if (!std::regex_search(name, wanted)) continue;
            trial t;
            t.row.weights = name;
            t.weights = one.get();
            if (given.activations != "int8") all.push_back(t);
            if (given.activations == "fp32") continue;
            t.fp32_products = false;
            for (const nibble::activation_scale scale : one->activation_scales()) {
                t.row.activations = name_of(scale);
                t.scale = scale;
                all.push_back(t);
            }
        }
    }
    if (given.cache != "none") {
        const std::regex wanted = bench::parse_pattern("--cache", given.cache);
        for (const auto& one : bench::all_schemes()) {
            const std::string name(one->name());
            if (!one->stores_tokens() || !std::regex_search(name, wanted)) continue;
            trial t;
            t.row.keys = t.row.values = name;
            t.rounded = one.get();
            all.push_back(t);
        }
        for (const bench::cache_kernel& one : bench::cache_kernels()) {
            const std::string keys(one.keys);
            const std::string values(one.values);
            if (!std::regex_search(keys + '/' + values, wanted)) continue;
            trial t;
            t.row.keys = keys + " kernel";
            t.row.values = values + " kernel";
            t.kernel = &one;
            all.push_back(t);
        }
    }
    return all;
}

// The layers' matrices of a model in another format, for as long as it lives.
class changed_weights {
public:
    changed_weights(model& m, const trial& t, const arguments& given, machine& on, double& bits) : m_(m) {
        double weighted = 0;
        double weights = 0;
        for (std::unique_ptr<linear>* place : matrices_of(m)) {
            const linear& original = **place;
            const bench::float_matrix numbers = numbers_of(original, on);
            const bench::executor_ref threads(on.threads);
            const std::unique_ptr<bench::quantized_weights> quantized =
                given.search ? t.weights->search(numbers.view(), threads)
                             : t.weights->quantize(numbers.view(), threads);
            std::unique_ptr<linear> made;
            if (t.fp32_products) {
                bench::float_matrix rounded(original.outputs(), original.inputs());
                quantized->dequantize(rounded.view(), threads);
                made = quantize_matrix(static_cast<const bench::float_matrix&>(rounded).view(), "f32", on.threads);
            } else {
                made = bench::matrix_of(quantized->pack(threads), t.row.weights, quantized->bits_per_weight(),
                                        original.outputs(), original.inputs(), t.scale);
            }
            const auto count = static_cast<double>(original.outputs() * original.inputs());
            weighted += quantized->bits_per_weight() * count;
            weights += count;
            originals_.push_back(std::exchange(*place, std::move(made)));
        }
        bits = weighted / weights;
    }
    changed_weights(const changed_weights&) = delete;
    changed_weights& operator=(const changed_weights&) = delete;
    ~changed_weights() {
        const std::vector<std::unique_ptr<linear>*> places = matrices_of(m_);
        for (std::size_t i = 0; i < originals_.size(); ++i) *places[i] = std::move(originals_[i]);
    }

private:
    model& m_;
    std::vector<std::unique_ptr<linear>> originals_;
};

void print_table(const std::vector<result>& rows) {
    std::printf("\n%-22s %-15s %-44s %6s %9s %10s %9s %7s %9s\n", "weights", "activations", "keys / values", "bits",
                "nll", "perplexity", "kl", "top-1", "tokens/s");
    for (const result& row : rows) {
        const bool cache = row.weights == "unchanged" && row.keys != "fp32";
        const std::string caches = row.keys == row.values ? row.keys : row.keys + " / " + row.values;
        std::printf("%-22s %-15s %-44s %6.3f %9.6f %10.4f %9.6f %6.2f%% %9.0f\n", row.weights.c_str(),
                    row.activations.c_str(), caches.c_str(), cache ? row.bits_per_number : row.bits_per_weight, row.nll,
                    row.perplexity, row.kl, 100 * row.top1_agreement, row.tokens_per_second);
    }
}

std::string to_csv(const std::vector<result>& rows) {
    std::string text;
    for_each_column(result{}, [&](const char* name, const auto&) { (text += text.empty() ? "" : ",") += name; });
    text += '\n';
    for (const result& row : rows) {
        std::string line;
        for_each_column(row, [&](const char*, const auto& value) {
            if (!line.empty()) line += ',';
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
                line += value;
            } else {
                char number[40];
                std::snprintf(number, sizeof number, "%.9g", value);
                line += number;
            }
        });
        text += line + '\n';
    }
    return text;
}

std::string to_json(const arguments& given, const model& m, std::size_t tokens, const std::vector<result>& rows) {
    nlohmann::ordered_json object{{"model", given.model},
                                  {"name", m.config.name},
                                  {"architecture", m.config.architecture},
                                  {"window", given.window},
                                  {"tokens", tokens},
                                  {"threads", given.threads},
                                  {"rows", nlohmann::ordered_json::array()}};
    for (const result& row : rows) {
        nlohmann::ordered_json one;
        for_each_column(row, [&](const char* name, const auto& value) { one[name] = value; });
        object["rows"].push_back(one);
    }
    return object.dump(1) + '\n';
}

// Weights with what the kernels do to activations; what beats a point has no more bits and a smaller divergence.
std::string to_svg(const arguments& given, const model& m, std::size_t tokens, const std::vector<result>& rows) {
    bench::scatter plot;
    plot.title = "What formats of weights cost a language model";
    plot.lines = {m.config.name + " (" + m.config.architecture + "), " + std::to_string(tokens) +
                  " tokens in windows of " + std::to_string(given.window)};
    plot.x_title = "bits per weight, with scales and zero points";
    plot.y_title = "KL divergence from the unchanged model, nats (less is better)";
    plot.logarithmic_y = true;
    plot.widest_drawn = 10;
    plot.other_caption = "larger or further away";
    std::map<std::string, const result*> best; // a format by its first row of integer products, or else of fp32
    for (const result& row : rows)
        if (row.weights != "unchanged") {
            const result*& at = best[row.weights];
            if (at == nullptr || (at->activations == "fp32" && row.activations != "fp32")) at = &row;
        }
    for (const auto& [name, row] : best) {
        if (!(row->kl > 0)) continue; // exact: no place on a logarithmic axis
        bool front = true;
        for (const auto& [other_name, other] : best)
            if (other->bits_per_weight <= row->bits_per_weight && other->kl <= row->kl &&
                (other->bits_per_weight < row->bits_per_weight || other->kl < row->kl))
                front = false;
        char note[120];
        std::snprintf(note, sizeof note, "%.3f bits, KL %.2g, perplexity %.3f", row->bits_per_weight, row->kl,
                      row->perplexity);
        plot.points.push_back({name, note, row->bits_per_weight, std::log10(row->kl), 5, front});
    }
    return bench::to_svg(plot);
}

void write_file(const char* option, const std::string& path, const std::string& text) {
    if (path.empty()) return;
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file) throw bench::user_error(std::string(option) + ": cannot write '" + path + "'");
}

int run(const arguments& given) {
    const std::vector<trial> trials = trials_of(given);
    if (trials.size() == 1) throw bench::user_error("no scheme and no cache has a name matching");
    for (const auto& [option, path] : {std::pair{"--json", given.json}, {"--csv", given.csv}, {"--plot", given.plot}})
        if (!path.empty() && !std::ofstream(path, std::ios::binary | std::ios::app))
            throw bench::user_error(std::string(option) + ": cannot write '" + path + "'");

    const nibble::thread_pool threads(given.threads);
    model_files files(given.model, given.config);
    const std::vector<std::uint32_t> ids = read_tokens(given, files);
    load_options loading;
    loading.rules.emplace_back(".", "f32");
    model m = load_model(files, loading, threads);
    evaluation text(ids, given.window, given.windows, m.config.vocabulary, threads);
    std::fprintf(stderr, "%s (%s): %zu layers, %zu tokens in %zu windows, %zu rows\n", m.config.name.c_str(),
                 m.config.architecture.c_str(), m.config.layers, text.tokens(), text.windows(), trials.size());

    bench::progress bar(trials.size() * text.windows());
    machine on{threads};
    std::vector<result> rows;
    for (std::size_t i = 0; i < trials.size(); ++i) {
        const trial& t = trials[i];
        result row = t.row;
        const std::string what = t.weights != nullptr ? row.weights + ", " + row.activations
                                 : row.keys != "fp32" ? row.keys
                                                      : "the model as it is";
        bar.show(i * text.windows(), what);
        std::optional<changed_weights> changed;
        if (t.weights != nullptr) changed.emplace(m, t, given, on, row.bits_per_weight);
        inference_options options;
        options.keys = options.values = "f32";
        options.context = given.window;
        if (t.kernel != nullptr) {
            options.keys = t.kernel->key_format;
            options.values = t.kernel->value_format;
            row.bits_per_number = t.kernel->bits(m.config.head_size);
        }
        inference with(m, options, threads);
        if (t.rounded != nullptr) {
            const bench::float_matrix heads(128, m.config.head_size);
            row.bits_per_number = t.rounded->quantize(heads.view(), threads)->bits_per_weight();
            with.change_cached = bench::rounding(*t.rounded, m.config.head_size, threads);
        }
        text.run(with, row, [&](std::size_t done) { bar.show(i * text.windows() + done, what); });
        rows.push_back(row);
    }
    bar.clear();
    print_table(rows);
    write_file("--json", given.json, to_json(given, m, text.tokens(), rows));
    write_file("--csv", given.csv, to_csv(rows));
    write_file("--plot", given.plot, to_svg(given, m, text.tokens(), rows));
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{"What number formats of weights, activations and caches cost a language model.", "nibble_perplexity"};
    app.add_option("--model", given.model, "a .gguf or .safetensors file, or a Hugging Face folder")->required();
    app.add_option("--config", given.config, "config.json of a .safetensors file, if not beside it");
    app.add_option("--tokens", given.tokens, "token ids to predict, uint16 little-endian")->type_name("FILE");
    app.add_option("--text", given.text, "or text, for the model's own tokenizer")->type_name("FILE");
    app.add_option("--window", given.window, "tokens of a window, predicted from its beginning on")
        ->check(CLI::Range(2, 1 << 20))
        ->capture_default_str();
    app.add_option("--windows", given.windows, "how many windows; 0: as many as there are")->capture_default_str();
    app.add_option("--schemes", given.schemes, "only weights whose names match, or none")->type_name("REGEX");
    app.add_option("--cache", given.cache, "only caches whose names match (of kernels <keys>/<values>), or none")
        ->type_name("REGEX");
    app.add_option("--activations", given.activations, "of products with these weights: fp32, int8 or all")
        ->check(CLI::IsMember({"fp32", "int8", "all"}))
        ->capture_default_str();
    app.add_flag("--search", given.search, "choose scales of weights by range::least_squares");
    app.add_option("--threads", given.threads, "of everything")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--json", given.json, "write the rows there")->type_name("FILE");
    app.add_option("--csv", given.csv, "likewise")->type_name("FILE");
    app.add_option("--plot", given.plot, "bits against divergence, as SVG")->type_name("FILE");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : bench::exit_usage;
    }
    const auto fail = [](const char* message, int code) {
        std::fprintf(stderr, "nibble_perplexity: %s\n", message);
        return code;
    };
    try {
        return run(given);
    } catch (const bench::user_error& error) {
        return fail(error.what(), bench::exit_usage);
    } catch (const model_error& error) {
        return fail(error.what(), bench::exit_usage);
    } catch (const std::bad_alloc&) {
        return fail("not enough memory", 1);
    } catch (const std::exception& error) {
        return fail(error.what(), 1);
    }
}
