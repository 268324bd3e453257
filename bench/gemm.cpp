// gemm.cpp: nibble_gemm, every format's product beside the machine's limits and other libraries, on Google Benchmark.
//   nibble_gemm --formats='^int4' --tokens=1,128 --sizes=11008x4096 --threads=1,2
// Lines are named gemm/<scheme>/<isa>/<M>x<N>x<K>/threads:<T>; <scheme>_a7 is the scheme with activations of 7 bits,
// where that is another kernel. Each has the counters
//   weight_GBps        bytes of packed weights per second
//   of_read_bandwidth  that over the rate at which the same threads read 256 MiB at the same moment
//   GFLOPs             2 M N K per second
//   of_fma_peak        that over the rate of fp32 multiply-adds in registers, of the same threads at the same moment.
//   The peak
//                      is that of the fastest register width that the compiler flags have; the head says which
//   bits_per_weight, weight_sqnr_dB   of the quantized weights
//   undisturbed        share of the samples around which no neighbour took part of a core; the others do not count,
//   unless
//                      there are no better ones
// all but the last three medians over samples, the shares medians of the ratios. The time is Google Benchmark's mean.
// Lines of what gemm does besides (support/form.hpp) are named after the verb, requantize/<scheme>/... and so on, in
// schemes that stand for the others; --formats filters them by the scheme, --benchmark_filter by the verb too. Their
// counters are GFLOPs, of_fma_peak, undisturbed and
//   of_plain           the time over that of the plain products of the same weights and tokens, which take turns with
//   it:
//                      1.05 is 5 % more. Weights are not taken out of the caches
#include "peers/peers.hpp"
#include "support/command_line.hpp"
#include "support/form.hpp"
#include "support/product.hpp"

#include <nibble/dispatch/fixed.hpp>

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct arguments {
    std::vector<std::string> sizes{"4096x4096"};
    std::vector<std::size_t> tokens{1, 2, 4, 8, 32, 128, 512};
    std::vector<std::size_t> threads{std::max(1u, std::thread::hardware_concurrency())};
    std::string formats;
    int samples = 9;
};

struct subject {
    const bench::scheme* format;
    std::string isa;
    bool own_threads; // other than the executor's
    bool checked;     // whether the product is compared with fp64 before it is timed
};

// Whether the fp32 product of a few tokens and features is what it should be: within the bound of K roundings in any
// order. A peer called wrongly would be fast.
bool is_product(const bench::workload& work, nibble::matrix_view<const float> y) {
    const bench::weight_tensor& tensor = work.tensors.front();
    const auto x = work.inputs(tensor).view();
    const auto w = tensor.weights.view();
    for (std::size_t token = 0; token < y.rows(); token += std::max<std::size_t>(1, y.rows() / 4))
        for (std::size_t n = 0; n < y.cols(); n += std::max<std::size_t>(1, y.cols() / 16)) {
            double exact = 0;
            double magnitude = 0;
            for (std::size_t k = 0; k < w.cols(); ++k) {
                const double term = static_cast<double>(x.row(token)[k]) * static_cast<double>(w.row(n)[k]);
                exact += term;
                magnitude += std::abs(term);
            }
            const double bound = static_cast<double>(w.cols() + 2) * 0x1p-24 * magnitude;
            if (!(std::abs(static_cast<double>(y.row(token)[n]) - exact) <= bound)) return false;
        }
    return true;
}

class lines {
public:
    explicit lines(const arguments& given)
        : given_(given), products_(*std::max_element(given.tokens.begin(), given.tokens.end())) {}

    void add(const subject& what, bench::weight_shape shape, std::size_t threads, std::size_t tokens) {
        const std::string name = bench::line_name("gemm", what.format->name(), what.isa, tokens, shape, threads);
        benchmark::RegisterBenchmark(name.c_str(), [=, this](benchmark::State& state) {
            run(state, what, shape, threads, tokens);
        })->Unit(benchmark::kMicrosecond);
    }

    void add(const bench::form_maker& what, bench::weight_shape shape, std::size_t threads, std::size_t tokens) {
        const std::string name =
            bench::line_name(what.verb(), what.scheme(), nibble::best_isa::name, tokens, shape, threads);
        benchmark::RegisterBenchmark(name.c_str(), [=, &what, this](benchmark::State& state) {
            run(state, what, shape, threads, tokens);
        })->Unit(benchmark::kMicrosecond);
    }
    void describe(std::size_t threads) { machines_.describe(threads); }

private:
    void run(benchmark::State& state, const subject& what, bench::weight_shape shape, std::size_t threads,
             std::size_t tokens) {
        bench::machine_limits& limits = machines_.limits(threads);
        bench::product& weights = products_.of(*what.format, shape, limits.threads());
        if (what.checked) {
            weights.run(tokens, limits.threads());
            if (!is_product(products_.inputs(shape, limits.threads()), weights.output(tokens))) {
                state.SkipWithError("the product is wrong");
                return;
            }
        }
        const bench::timed_line timed = bench::time_product(
            state, weights, limits, {.tokens = tokens, .samples = given_.samples, .own_threads = what.own_threads});

        const double bytes = 1e-9 * static_cast<double>(weights.bytes());
        const double operations = 2e-9 * static_cast<double>(tokens * shape.n * shape.k);
        using bench::sample;
        const auto median = [&](auto value) { return bench::median_of(timed.samples, value); };
        auto& counters = state.counters;
        counters["weight_GBps"] = median([&](const sample& s) { return bytes / s.seconds[0]; });
        counters["of_read_bandwidth"] = median([&](const sample& s) { return bytes / s.seconds[0] / s.read_GBps[0]; });
        counters["GFLOPs"] = median([&](const sample& s) { return operations / s.seconds[0]; });
        counters["of_fma_peak"] = median([&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
        counters["bits_per_weight"] = weights.bits_per_weight();
        counters["weight_sqnr_dB"] = weights.weight_sqnr_db();
        counters["undisturbed"] = timed.undisturbed_share;
    }

    void run(benchmark::State& state, const bench::form_maker& what, bench::weight_shape shape, std::size_t threads,
             std::size_t tokens) {
        bench::machine_limits& limits = machines_.limits(threads);
        const bench::workload& work = products_.inputs(shape, limits.threads());
        const bench::weight_tensor& tensor = work.tensors.front();
        const std::unique_ptr<bench::form> made =
            what.make(tensor.weights.view(), work.inputs(tensor).first(tokens), limits.threads());
        const bench::timed_line timed = bench::time_beside(
            state, limits, [&] { made->run(limits.threads()); }, [&] { made->run_plain(limits.threads()); },
            {.tokens = tokens, .samples = given_.samples});
        const double operations = 2e-9 * static_cast<double>(what.products() * tokens * shape.n * shape.k);
        using bench::sample;
        const auto median = [&](auto value) { return bench::median_of(timed.samples, value); };
        auto& counters = state.counters;
        counters["of_plain"] = median([](const sample& s) { return s.seconds[0] / s.seconds[1]; });
        counters["GFLOPs"] = median([&](const sample& s) { return operations / s.seconds[0]; });
        counters["of_fma_peak"] = median([&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
        counters["undisturbed"] = timed.undisturbed_share;
    }

    arguments given_;
    bench::machines machines_;
    bench::products products_;
};

int run(const arguments& given, std::vector<char*> benchmark_arguments) {
    const std::regex wanted = bench::parse_pattern("--formats", given.formats);
    const std::vector<bench::weight_shape> shapes = bench::parse_shapes("--sizes", given.sizes);
    const std::vector<bench::peer> peers = bench::all_peers();

    std::vector<subject> subjects;
    const auto consider = [&](const subject& one) {
        if (std::regex_search(std::string(one.format->name()), wanted)) subjects.push_back(one);
    };
    std::vector<std::unique_ptr<bench::scheme>> variants;
    for (const auto& one : bench::all_schemes()) {
        consider({one.get(), nibble::best_isa::name, false, false});
        if (auto variant = one->with_seven_bits()) {
            consider({variant.get(), nibble::best_isa::name, false, false});
            variants.push_back(std::move(variant));
        }
    }
    for (const bench::peer& one : peers) consider({one.product.get(), one.isa, one.own_threads, one.fp32});
    std::vector<const bench::form_maker*> forms;
    for (const auto& one : bench::all_forms())
        if (std::regex_search(std::string(one->scheme()), wanted)) forms.push_back(one.get());
    if (subjects.empty()) throw bench::user_error("no format has a name matching '" + given.formats + "'");

    int count = static_cast<int>(benchmark_arguments.size());
    benchmark::Initialize(&count, benchmark_arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, benchmark_arguments.data())) return bench::exit_usage;

    lines all(given);
    for (const subject& one : subjects)
        for (const bench::weight_shape shape : shapes)
            for (const std::size_t threads : given.threads)
                for (const std::size_t tokens : given.tokens) all.add(one, shape, threads, tokens);
    for (const bench::form_maker* one : forms)
        for (const bench::weight_shape shape : shapes)
            for (const std::size_t threads : given.threads)
                for (const std::size_t tokens : given.tokens) all.add(*one, shape, threads, tokens);
    bench::describe_build();
    for (const std::size_t threads : given.threads) all.describe(threads);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{
        "Times the product of tokens and quantized weights in every format, beside Eigen and, where the build found "
        "them, OpenBLAS and oneDNN.",
        "nibble_gemm"};
    app.add_option("--sizes", given.sizes, "N x K of the weights, separated by commas")
        ->type_name("NxK,...")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--tokens", given.tokens, "M; up to 8 tokens read weights that are in no cache")
        ->type_name("M,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_option("--threads", given.threads, "threads of every kernel and probe")
        ->type_name("T,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--formats", given.formats, "only formats and peers whose names match, for example '^int4|_f32'")
        ->type_name("REGEX");
    app.add_option("--samples", given.samples, "samples of each line at least")
        ->type_name("S")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    return bench::bench_main(app, argc, argv, [&](std::vector<char*> rest) {
        bench::drop_repeated(given.tokens);
        bench::drop_repeated(given.threads);
        return run(given, std::move(rest));
    });
}
