// abstraction.cpp: nibble_abstraction, what nibble's templates cost beside loops written out in intrinsics
// (support/by_hand.hpp), which compute the same bits from the same packed weights of int4_g128.
//   nibble_abstraction --tokens=1,128 --sizes=512x4096,4096x4096
// Lines are named abstraction/int4_g128/<isa>/<M>x<N>x<K>/threads:1. Both take turns, on one thread, with activations
// prepared beforehand. Counters:
//   of_by_hand    nibble's time over that of the loops, the median of pairs of samples: 1.03 is 3 % more
//   GFLOPs, undisturbed   as in nibble_gemm
#include "support/by_hand.hpp"
#include "support/command_line.hpp"
#include "support/product.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using scheme = nibble::int4_g128;

struct arguments {
    std::vector<std::string> sizes{"512x4096", "4096x4096"};
    std::vector<std::size_t> tokens{1, 128};
    int samples = 31;
};

void time_line(benchmark::State& state, bench::machine_limits& limits, bench::weight_shape shape, std::size_t tokens,
               int samples) {
    const bench::workload work = bench::synthetic_workload(shape.n, shape.k, tokens, limits.threads());
    const bench::weight_tensor& tensor = work.tensors.front();
    const nibble::matrix_view<const float> x = work.inputs(tensor).first(tokens);
    const nibble::packed<scheme> w = nibble::pack(nibble::quantize<scheme>(tensor.weights.view()));
    const nibble::prepared_activations prepared =
        nibble::prepare<scheme>(x, {.scale = nibble::activation_scale::per_token});
    const bench::by_hand_activations by_hand = bench::by_hand_activations::of(x);
    nibble::workspace scratch;
    nibble::gemm_options options;
    options.workspace = &scratch;
    bench::float_matrix y(tokens, shape.n), other(tokens, shape.n);
    const auto subject = [&] { nibble::gemm(prepared, w, y.view(), options); };
    const auto beside = [&] { bench::multiply_by_hand(by_hand, w, other.view()); };
    const bench::timed_line timed =
        bench::time_beside(state, limits, subject, beside, {.tokens = tokens, .samples = samples});
    if (std::memcmp(y.view().data(), other.view().data(), tokens * shape.n * sizeof(float)) != 0) {
        state.SkipWithError("the loops compute other bits than nibble");
        return;
    }
    using bench::sample;
    const double operations = 2e-9 * static_cast<double>(tokens * shape.n * shape.k);
    state.counters["of_by_hand"] =
        bench::median_of(timed.samples, [](const sample& s) { return s.seconds[0] / s.seconds[1]; });
    state.counters["GFLOPs"] =
        bench::median_of(timed.samples, [&](const sample& s) { return operations / s.seconds[0]; });
    state.counters["undisturbed"] = timed.undisturbed_share;
}

int run(const arguments& given, std::vector<char*> benchmark_arguments) {
    if (*bench::by_hand_isa() == '\0')
        throw bench::user_error(
            "the compiler flags have neither AVX2 nor AVX-512 with VNNI: nothing is written by hand for less");
    const std::vector<bench::weight_shape> shapes = bench::parse_shapes("--sizes", given.sizes);
    for (const bench::weight_shape shape : shapes)
        if (shape.n % 64 != 0 || shape.k % 128 != 0)
            throw bench::user_error("--sizes: N must be a multiple of 64 and K of 128");
    for (const std::size_t tokens : given.tokens)
        if (tokens != 1 && tokens % bench::by_hand_tokens() != 0)
            throw bench::user_error("--tokens: 1, or a multiple of " + std::to_string(bench::by_hand_tokens()));
    int count = static_cast<int>(benchmark_arguments.size());
    benchmark::Initialize(&count, benchmark_arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, benchmark_arguments.data())) return bench::exit_usage;
    bench::machines machines;
    for (const bench::weight_shape shape : shapes)
        for (const std::size_t tokens : given.tokens)
            benchmark::RegisterBenchmark(
                bench::line_name("abstraction", nibble::name_of<scheme>(), bench::by_hand_isa(), tokens, shape, 1)
                    .c_str(),
                [&machines, shape, tokens, samples = given.samples](benchmark::State& state) {
                    time_line(state, machines.limits(1), shape, tokens, samples);
                })
                ->Unit(benchmark::kMicrosecond);
    bench::describe_build();
    machines.describe(1);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{
        "Times nibble's product of tokens and int4_g128 weights beside the same loops written out in intrinsics.",
        "nibble_abstraction"};
    app.add_option("--sizes", given.sizes, "N x K of the weights, multiples of 64 x 128, separated by commas")
        ->type_name("NxK,...")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--tokens", given.tokens, "M: 1, or multiples of a tile's tokens")
        ->type_name("M,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_option("--samples", given.samples, "samples of each line at least")
        ->type_name("S")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    return bench::bench_main(app, argc, argv, [&](std::vector<char*> rest) {
        bench::drop_repeated(given.tokens);
        return run(given, std::move(rest));
    });
}
