// attend.cpp: nibble_attend, attention over caches of many formats beside the machine's limits, on Google Benchmark.
//   nibble_attend --caches='^int' --contexts=4096,32768 --heads=32x8x128 --queries=1,512 --threads=2
//   nibble_attend --caches=prefix --heads=128x1x576x512
// Lines are named attend/<keys>/<values>/<isa>/ctx:<n>/q:<n>/heads:<query heads>x<key heads>x<head size>/threads:<T>,
// with x<value size> behind the head size where that differs, as in latent attention, whose values are the prefix of
// keys. Each has the counters
//   cache_GBps         bytes of keys and values per second: those of the whole cache, read once
//   of_read_bandwidth  that over the rate at which the same threads read 256 MiB at the same moment
//   us_per_token       time per query, in microseconds
//   GFLOPs             2 x queries x query heads x context x (head size + value size) per second; causal queries count
//   as if
//                      they saw all
//   of_fma_peak        that over the rate of fp32 multiply-adds in registers
//   of_f32_cache       time over that of the f32 cache of the same shape, if that was a line before; else 0
//   append_share       time to append one token over that to attend to it
//   bits_per_number    of the cache: keys and values with their scales
//   undisturbed        share of the samples around which no neighbour took part of a core
// The caches are rotated over copies that no cache of the machine holds, as a model's layers would be.
#include "support/command_line.hpp"
#include "support/product.hpp"
#include "support/synthetic.hpp"

#include <nibble/attend.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace nb = nibble;

struct arguments {
    std::vector<std::size_t> contexts{4096};
    std::vector<std::size_t> queries{1};
    std::vector<std::string> heads{"32x32x128", "32x8x128"};
    std::vector<std::size_t> threads{std::max(1u, std::thread::hardware_concurrency())};
    std::string caches;
    std::string precision = "integer";
    int samples = 9;
};

struct attention_shape {
    std::size_t query_heads = 0;
    std::size_t heads = 0;
    std::size_t size = 0;
    std::size_t value_size = 0;
    std::size_t context = 0;
    std::size_t queries = 0;
};

// Copies of one cache, whatever its formats.
class caches {
public:
    virtual ~caches() = default;
    virtual void append(nb::matrix_view<const float> k, nb::matrix_view<const float> v,
                        bench::executor_ref threads) = 0;
    virtual void truncate(std::size_t tokens) = 0;
    virtual void attend(nb::matrix_view<const float> q, nb::matrix_view<float> out, const nb::attend_options& options,
                        bench::executor_ref threads) = 0;
    [[nodiscard]] virtual std::size_t bytes() const = 0; // of one copy
};

template <class Keys, class Values> class caches_of final : public caches {
public:
    caches_of(const nb::kv_cache_options& options, std::size_t copies) {
        for (std::size_t i = 0; i < copies; ++i) all_.emplace_back(options);
    }
    void append(nb::matrix_view<const float> k, nb::matrix_view<const float> v, bench::executor_ref threads) override {
        if constexpr (nb::kv_cache<Keys, Values>::stores_values)
            all_[last_].append(k, v, threads);
        else
            all_[last_].append(k, threads);
        last_ = (last_ + 1) % all_.size();
    }
    void truncate(std::size_t tokens) override {
        for (auto& one : all_) one.truncate(tokens);
    }
    void attend(nb::matrix_view<const float> q, nb::matrix_view<float> out, const nb::attend_options& options,
                bench::executor_ref threads) override {
        nb::attend(q, all_[next_], out, options, threads);
        next_ = (next_ + 1) % all_.size();
    }
    [[nodiscard]] std::size_t bytes() const override { return all_[0].page_count() * all_[0].pages()->page_bytes(); }

private:
    std::vector<nb::kv_cache<Keys, Values>> all_;
    std::size_t next_ = 0;
    std::size_t last_ = 0;
};

struct subject {
    std::string keys;
    std::string values;
    double bits; // of a number of keys and of values, about
    double value_bits;
    std::function<std::unique_ptr<caches>(const nb::kv_cache_options&, std::size_t copies)> make;
};
template <class Keys, class Values> subject pair_of(std::string keys, std::string values) {
    const auto bits = []<class S>(S) { return nb::bits_per_weight<S>(128, 128); };
    using key_scheme = typename nb::detail::key_format<Keys>::scheme_type;
    double value_bits = 0.0;
    if constexpr (nb::any_scheme<Values>) value_bits = bits(Values{});
    return {std::move(keys), std::move(values), bits(key_scheme{}), value_bits,
            [](const nb::kv_cache_options& options, std::size_t copies) -> std::unique_ptr<caches> {
                return std::make_unique<caches_of<Keys, Values>>(options, copies);
            }};
}

std::vector<subject> all_subjects() {
    using kivi = nb::minimum_scheme<nb::uint2, 32>;
    std::vector<subject> all;
    const auto both = [&]<class S>(S) {
        const std::string name(nb::name_of<S>());
        all.push_back(pair_of<S, S>(name, name));
    };
    both(nb::f32_plain{});
    both(nb::f16_plain{});
    both(nb::bf16_plain{});
    both(nb::int8_channel{});
    both(nb::int8_g32{});
    both(nb::mxfp8_e4m3{});
    both(nb::int4_channel{});
    both(nb::int4_g32{});
    both(nb::mxfp4{});
    both(nb::int2_g32{});
    all.push_back(pair_of<nb::along_tokens<kivi>, kivi>("along_tokens_int2_g32_min", "int2_g32_min"));
    all.push_back(pair_of<nb::int8_channel, nb::int4_g32>("int8_channel", "int4_g32"));
    const auto latent = [&]<class S>(S) {
        all.push_back(pair_of<S, nb::prefix_of_keys>(std::string(nb::name_of<S>()), "prefix"));
    };
    latent(nb::f16_plain{});
    latent(nb::int8_channel{});
    latent(nb::int4_g32{});
    return all;
}

class lines {
public:
    explicit lines(const arguments& given, nb::attention_precision precision) : given_(given), precision_(precision) {}

    void add(const subject& what, const attention_shape& shape, std::size_t threads) {
        std::ostringstream name;
        name << "attend/" << what.keys << '/' << what.values << '/' << nb::best_isa::name << "/ctx:" << shape.context
             << "/q:" << shape.queries << "/heads:" << shape.query_heads << 'x' << shape.heads << 'x' << shape.size;
        if (shape.value_size != shape.size) name << 'x' << shape.value_size;
        name << "/threads:" << threads;
        benchmark::RegisterBenchmark(name.str().c_str(), [=, this](benchmark::State& state) {
            run(state, what, shape, threads);
        })->Unit(benchmark::kMicrosecond);
    }
    void describe(std::size_t threads) { machines_.describe(threads); }

private:
    void run(benchmark::State& state, const subject& what, const attention_shape& shape, std::size_t threads) {
        bench::machine_limits& limits = machines_.limits(threads);
        const bench::executor_ref pool = limits.threads();
        const std::size_t row = shape.heads * shape.size;
        const std::size_t value_row = shape.heads * shape.value_size;
        constexpr std::size_t appended = 16;
        const nb::kv_cache_options options{.heads = shape.heads,
                                           .head_size = shape.size,
                                           .value_size = shape.value_size,
                                           .capacity = shape.context + appended,
                                           .storing = nb::kv_storing::at_append}; // what is timed is what is stored
        const double context = static_cast<double>(shape.context);
        const double numbers = context * static_cast<double>(row + (what.value_bits == 0.0 ? 0 : value_row));
        const double bits =
            context * (what.bits * static_cast<double>(row) + what.value_bits * static_cast<double>(value_row));
        const std::size_t copies = 1 + static_cast<std::size_t>(static_cast<double>(bench::cold_bytes()) / (bits / 8));
        const std::unique_ptr<caches> cache = what.make(options, copies);
        constexpr std::size_t chunk = 256;
        bench::float_matrix k(chunk, row);
        bench::float_matrix v(chunk, value_row);
        bench::float_matrix q(shape.queries, shape.query_heads * shape.size);
        for (std::size_t i = 0; i < chunk; ++i) {
            bench::synthetic_weight_row(2 * i, k.view().row(i), row);
            bench::synthetic_weight_row(2 * i + 1, v.view().row(i), value_row);
        }
        for (std::size_t i = 0; i < shape.queries; ++i)
            bench::synthetic_weight_row(1000 + i, q.view().row(i), shape.query_heads * shape.size);
        for (std::size_t t = 0; t < shape.context; t += chunk)
            for (std::size_t copy = 0; copy < copies; ++copy) {
                const std::size_t n = std::min(chunk, shape.context - t);
                cache->append({k.view().data(), n, row}, {v.view().data(), n, value_row}, pool);
            }

        bench::float_matrix out(shape.queries, shape.query_heads * shape.value_size);
        nb::workspace scratch;
        const nb::attend_options how{.precision = precision_, .workspace = &scratch};
        const auto call = [&] { cache->attend(q.view(), out.view(), how, pool); };
        using clock = std::chrono::steady_clock;
        const auto seconds = [](const auto& work) {
            const auto begin = clock::now();
            work();
            return std::chrono::duration<double>(clock::now() - begin).count();
        };
        // What was stored last is still to be written back by the machine's caches, which would be timed as if
        // attention did it: as for weights, every copy is read once before, where memory is what is measured.
        for (std::size_t copy = 0; copy < (shape.queries > bench::cold_tokens ? 1 : copies); ++copy) call();
        const double once = seconds(call);
        const bench::timed_line timed = bench::time_subject(
            state, limits, true, call, bench::calls_per_sample(once, 4e-3), {.samples = given_.samples});
        std::vector<double> appends;
        for (std::size_t i = 0; i < appended * copies; ++i)
            appends.push_back(seconds([&] {
                cache->append({k.view().data(), 1, row}, {v.view().data(), 1, value_row}, pool);
            }));
        cache->truncate(shape.context);

        const double bytes = 1e-9 * static_cast<double>(cache->bytes());
        const double operations = 2e-9 * static_cast<double>(shape.queries * shape.query_heads) * context *
                                  static_cast<double>(shape.size + shape.value_size);
        using bench::sample;
        const auto median = [&](auto value) { return bench::median_of(timed.samples, value); };
        const double time = median([&](const sample& s) { return s.seconds[0]; });
        std::ostringstream key;
        key << shape.context << ' ' << shape.queries << ' ' << shape.query_heads << ' ' << shape.heads << ' '
            << shape.size << ' ' << shape.value_size << ' ' << threads;
        if (what.keys == "f32" && what.values == "f32") f32_[key.str()] = time;
        const auto f32 = f32_.find(key.str());
        auto& counters = state.counters;
        counters["cache_GBps"] = median([&](const sample& s) { return bytes / s.seconds[0]; });
        counters["of_read_bandwidth"] = median([&](const sample& s) { return bytes / s.seconds[0] / s.read_GBps[0]; });
        counters["us_per_token"] = 1e6 * time / static_cast<double>(shape.queries);
        counters["GFLOPs"] = operations / time;
        counters["of_fma_peak"] = median([&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
        counters["of_f32_cache"] = f32 == f32_.end() ? 0.0 : time / f32->second;
        counters["append_share"] = bench::median(appends) / time * static_cast<double>(shape.queries);
        counters["bits_per_number"] = 8e9 * bytes / numbers;
        counters["undisturbed"] = timed.undisturbed_share;
    }

    arguments given_;
    nb::attention_precision precision_;
    bench::machines machines_;
    std::map<std::string, double> f32_; // seconds
};

attention_shape parse_heads(const std::string& text) {
    attention_shape shape;
    char x = 0;
    char y = 0;
    std::istringstream in(text);
    bool good = in >> shape.query_heads >> x >> shape.heads >> y >> shape.size && x == 'x' && y == 'x';
    shape.value_size = shape.size;
    if (good && in.peek() != EOF) good = in >> x >> shape.value_size && x == 'x' && in.peek() == EOF;
    if (!good || shape.heads == 0 || shape.query_heads == 0 || shape.query_heads % shape.heads != 0 ||
        shape.size == 0 || shape.size > 1024 || shape.value_size == 0 || shape.value_size > 1024)
        throw bench::user_error(
            "--heads: '" + text +
            "' is not <query heads>x<key heads>x<head size>[x<value size>], the first a multiple of the second");
    return shape;
}

int run(const arguments& given, std::vector<char*> benchmark_arguments) {
    const std::regex wanted = bench::parse_pattern("--caches", given.caches);
    const std::map<std::string, nb::attention_precision> precisions{
        {"fp32", nb::attention_precision::fp32},
        {"integer_scores", nb::attention_precision::integer_scores},
        {"integer", nb::attention_precision::integer}};
    std::vector<subject> subjects;
    for (subject& one : all_subjects())
        if (std::regex_search(one.keys + "/" + one.values, wanted)) subjects.push_back(std::move(one));
    if (subjects.empty()) throw bench::user_error("no cache has a name matching '" + given.caches + "'");
    std::vector<attention_shape> shapes;
    for (const std::string& text : given.heads) shapes.push_back(parse_heads(text));

    int count = static_cast<int>(benchmark_arguments.size());
    benchmark::Initialize(&count, benchmark_arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, benchmark_arguments.data())) return bench::exit_usage;

    lines all(given, precisions.at(given.precision));
    for (const std::size_t threads : given.threads)
        for (attention_shape shape : shapes)
            for (const std::size_t context : given.contexts)
                for (const std::size_t queries : given.queries) {
                    shape.context = context;
                    shape.queries = std::min(queries, context);
                    for (const subject& one : subjects) {
                        if (one.value_bits == 0.0 && shape.value_size > shape.size)
                            throw bench::user_error("--heads: values that are a prefix of the keys cannot be longer");
                        all.add(one, shape, threads);
                    }
                }
    bench::describe_build();
    for (const std::size_t threads : given.threads) all.describe(threads);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{"Times attention over caches of keys and values in several formats.", "nibble_attend"};
    app.add_option("--contexts", given.contexts, "tokens in the cache")
        ->type_name("N,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--queries", given.queries, "queries of a call, the last of them at the last token")
        ->type_name("Q,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_option("--heads", given.heads, "query heads x key heads x head size, and x value size where that differs")
        ->type_name("QxKxD[xV],...")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--threads", given.threads, "threads of every kernel and probe")
        ->type_name("T,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--caches", given.caches, "only caches whose <keys>/<values> match, for example '^int4|f16'")
        ->type_name("REGEX");
    app.add_option("--precision", given.precision,
                   "of the products with integer formats: fp32, integer_scores or integer")
        ->check(CLI::IsMember({"fp32", "integer_scores", "integer"}))
        ->capture_default_str();
    app.add_option("--samples", given.samples, "samples of each line at least")
        ->type_name("S")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    return bench::bench_main(app, argc, argv, [&](std::vector<char*> rest) {
        for (auto* list : {&given.contexts, &given.queries, &given.threads}) bench::drop_repeated(*list);
        return run(given, std::move(rest));
    });
}
