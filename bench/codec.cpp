// codec.cpp: nibble_codec, how fast each number format is written and read: quantize, under range::absmax and (search)
// least_squares, and dequantize, on Google Benchmark.
//   nibble_codec --benchmark_filter='^dequantize/int4'
// Lines are named <verb>/<scheme>/<isa>/<rows>x<cols>/threads:<n>; fp32_GBps counts the fp32 bytes that are read or
// written, of_copy is that over the rate at which memcpy writes a block of the same size at the same moment.
#include "support/scheme.hpp"
#include "support/synthetic.hpp"
#include "support/workload.hpp"

#include <nibble/core/executor.hpp>
#include <nibble/dispatch/fixed.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>

namespace {

// 2 MiB of fp32: larger than the first cache, smaller than the last.
constexpr std::size_t rows = 128;
constexpr std::size_t cols = 4096;
constexpr double fp32_bytes = static_cast<double>(rows * cols * sizeof(float));

[[nodiscard]] const bench::float_matrix& weights() {
    static const bench::float_matrix made = [] {
        bench::float_matrix w(rows, cols);
        for (std::size_t i = 0; i < rows; ++i) bench::synthetic_weight_row(i, w.view().row(i), cols);
        return w;
    }();
    return made;
}

// Runs `work` and a copy in turns; only the former is timed by the benchmark, both by the counters.
template <class Work> void run(benchmark::State& state, const Work& work) {
    using clock = std::chrono::steady_clock;
    bench::float_matrix copy(rows, cols);
    double own = 0.0;
    double copying = 0.0;
    work();
    for (auto _ : state) {
        const auto begin = clock::now();
        work();
        const auto end = clock::now();
        own += std::chrono::duration<double>(end - begin).count();
        state.PauseTiming();
        const auto copy_begin = clock::now();
        std::memcpy(copy.view().data(), weights().view().data(), rows * cols * sizeof(float));
        benchmark::ClobberMemory();
        copying += std::chrono::duration<double>(clock::now() - copy_begin).count();
        state.ResumeTiming();
    }
    const double runs = static_cast<double>(state.iterations());
    state.counters["fp32_GBps"] = fp32_bytes * runs / own * 1e-9;
    state.counters["of_copy"] = copying / own;
}

void register_scheme(const bench::scheme& format) {
    const std::string shape = "/" + std::string(format.name()) + "/" + nibble::best_isa::name + "/" +
                              std::to_string(rows) + "x" + std::to_string(cols) + "/threads:1";
    benchmark::RegisterBenchmark(("quantize" + shape).c_str(), [&format](benchmark::State& state) {
        // Every line has the same counters: the CSV reporter insists.
        state.counters["bits_per_weight"] = format.quantize(weights().view(), nibble::serial{})->bits_per_weight();
        run(state, [&] { benchmark::DoNotOptimize(format.quantize(weights().view(), nibble::serial{})); });
    })->MinTime(0.05);
    benchmark::RegisterBenchmark(("search" + shape).c_str(), [&format](benchmark::State& state) {
        state.counters["bits_per_weight"] = format.search(weights().view(), nibble::serial{})->bits_per_weight();
        run(state, [&] { benchmark::DoNotOptimize(format.search(weights().view(), nibble::serial{})); });
    })->MinTime(0.05);
    benchmark::RegisterBenchmark(("dequantize" + shape).c_str(), [&format](benchmark::State& state) {
        const std::unique_ptr<bench::quantized_weights> quantized = format.quantize(weights().view(), nibble::serial{});
        bench::float_matrix out(rows, cols);
        state.counters["bits_per_weight"] = quantized->bits_per_weight();
        run(state, [&] {
            quantized->dequantize(out.view(), nibble::serial{});
            benchmark::ClobberMemory();
        });
    })->MinTime(0.05);
}

} // namespace

int main(int argc, char** argv) {
    for (const std::unique_ptr<bench::scheme>& format : bench::all_schemes()) register_scheme(*format);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
