// roofline.cpp: nibble_roofline, what this machine can do, and how near to it the formats' products come.
//   nibble_roofline --threads=1,2 --formats='^int4_g|mxfp4'
// Lines are named roofline/<what>/threads:<T>:
//   read_dram, read_dram_small_pages, read_l3, read_l2, read_l1   reading buffers of 256 MiB, with and without huge
//   pages, of
//             a quarter of the last cache together, and of half a cache on each thread
//   fma_<bits>, bytes_int16_<bits>, ...   arithmetic in registers, in every width that the compiler flags have; see
//             support/peaks.hpp
// and, for each format asked for, roofline/<scheme>/<isa>/<M>x<N>x<K>/threads:<T>: its product with M = 1 and M = 128.
// The limit of a product is the longer of two times: of reading its packed weights once from memory, and of its 2 M N K
// operations at the fastest peak that suits the format (support/roof.hpp). Both are those of the same moment.
// Every line has all counters; 0 where one means nothing:
//   GBps, GOPs   bytes read or, of a product, bytes of weights; operations, two for a multiply-add, per second
//   of_fma_peak  GOPs over the fp32 fma peak
//   limit_GOPs   the operations that the limit allows per second
//   of_limit     the time of the limit over the time taken
//   memory_bound 1 if the limit is that of memory
// A table of the products follows on stderr.
#include "support/command_line.hpp"
#include "support/formats.hpp"
#include "support/peaks.hpp"
#include "support/product.hpp"
#include "support/roof.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/dispatch/fixed.hpp>

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <new>
#include <sys/mman.h>
#endif

namespace {

struct arguments {
    std::string size = "4096x4096";
    std::vector<std::size_t> threads{1, std::max(1u, std::thread::hardware_concurrency())};
    std::string formats;
    int samples = 9;
};

// ---- memory
// ----------------------------------------------------------------------------------------------------------

std::atomic<float> sink{0};

// What Google Benchmark knows of this level of cache; `otherwise` if nothing.
std::size_t cache_bytes(int level, std::size_t otherwise) {
    for (const auto& cache : benchmark::CPUInfo::Get().caches)
        if (cache.level == level && cache.type != "Instruction" && cache.size > 0)
            return static_cast<std::size_t>(cache.size);
    return otherwise;
}

struct level {
    std::string name;
    std::size_t bytes_per_thread;
    nibble::allocator from;
};

#if defined(__linux__)
// 4 KiB pages, whatever the system's default.
nibble::allocator small_pages() {
    return {.allocate = [](std::size_t bytes, std::size_t alignment, void*) -> void* {
                void* memory = ::operator new(bytes, std::align_val_t{alignment}, std::nothrow);
                if (memory != nullptr) (void)::madvise(memory, bytes, MADV_NOHUGEPAGE);
                return memory;
            },
            .deallocate =
                [](void* memory, std::size_t bytes, std::size_t alignment, void*) {
                    (void)::madvise(memory, bytes, MADV_HUGEPAGE); // the allocator's next user gets what it had
                    ::operator delete(memory, std::align_val_t{alignment});
                }};
}
#endif

std::vector<level> levels(std::size_t threads) {
    const std::size_t first = cache_bytes(1, std::size_t{32} << 10);
    const std::size_t second = cache_bytes(2, std::size_t{512} << 10);
    const std::size_t third = cache_bytes(3, 0);
    constexpr std::size_t memory = std::size_t{256} << 20;
    std::vector<level> all{{"read_dram", memory / threads, {}}};
#if defined(__linux__)
    all.push_back({"read_dram_small_pages", memory / threads, small_pages()});
#endif
    if (third != 0) all.push_back({"read_l3", std::max(third / 4 / threads, 2 * second), {}});
    all.push_back({"read_l2", second / 2, {}});
    all.push_back({"read_l1", first / 2, {}});
    return all;
}

// ---- products
// --------------------------------------------------------------------------------------------------------

// What each format computes in, by its name; the list is the one of bench::all_schemes.
template <class... Formats>
std::map<std::string, bench::arithmetic, std::less<>> units_of(nibble::format_list<Formats...>) {
    std::map<std::string, bench::arithmetic, std::less<>> units;
    (units.emplace(Formats::name, bench::arithmetic_of<nibble::best_isa, typename Formats::scheme::element_type>()),
     ...);
    return units;
}

struct table_row {
    std::string format;
    double bits = 0;
    std::size_t tokens = 0;
    std::size_t threads = 0;
    std::string_view bound; // memory, or the peak
    double limit_GOPs = 0;
    double GOPs = 0;
    double of_limit = 0;
};

class lines {
public:
    explicit lines(const arguments& given) : given_(given), products_(largest_tokens) {}

    void add_machine(std::size_t threads) {
        for (const level& one : levels(threads))
            add(one.name, threads, [=, this](benchmark::State& state) { read(state, one, threads); });
        for (const auto& list : {bench::fma_peaks(), bench::integer_peaks()})
            for (const bench::instruction_peak& one : list)
                add(std::string(one.name), threads,
                    [&one, threads, this](benchmark::State& state) { compute(state, one, threads); });
    }

    void add_product(const bench::scheme& format, bench::weight_shape shape, std::size_t threads) {
        for (const std::size_t tokens : {std::size_t{1}, largest_tokens}) {
            const std::string name =
                bench::line_name("roofline", format.name(), nibble::best_isa::name, tokens, shape, threads);
            benchmark::RegisterBenchmark(name.c_str(), [=, &format, this](benchmark::State& state) {
                multiply(state, format, shape, threads, tokens);
            })->Unit(benchmark::kMicrosecond);
        }
    }

    [[nodiscard]] const std::vector<table_row>& table() const noexcept { return table_; }

private:
    static constexpr std::size_t largest_tokens = 128;

    template <class Run> void add(const std::string& what, std::size_t threads, Run run) {
        benchmark::RegisterBenchmark(("roofline/" + what + "/threads:" + std::to_string(threads)).c_str(), run)
            ->Unit(benchmark::kMicrosecond);
    }

    [[nodiscard]] bench::line_settings settings(std::size_t tokens = 1) const {
        return {.tokens = tokens, .samples = given_.samples};
    }

    static void count(benchmark::State& state, double GBps, double GOPs, double of_fma, bool memory_bound,
                      double limit_GOPs, double of_limit, double undisturbed) {
        auto& counters = state.counters;
        counters["GBps"] = GBps;
        counters["GOPs"] = GOPs;
        counters["of_fma_peak"] = of_fma;
        counters["memory_bound"] = memory_bound ? 1 : 0;
        counters["limit_GOPs"] = limit_GOPs;
        counters["of_limit"] = of_limit;
        counters["undisturbed"] = undisturbed;
    }

    void read(benchmark::State& state, const level& what, std::size_t threads) {
        bench::machine_limits& limits = machines_.limits(threads);
        const std::size_t floats = what.bytes_per_thread / sizeof(float) / 64 * 64;
        std::vector<nibble::buffer> memory;
        for (std::size_t worker = 0; worker < threads; ++worker) memory.emplace_back(floats * sizeof(float), what.from);
        // Four shares per thread, so that one that starts late holds up the others by a share only; a share is some 4
        // MiB of reading or, in memory, a quarter of the buffer.
        const std::size_t shares = 4 * threads;
        const bool once = floats * sizeof(float) >= (std::size_t{16} << 20);
        const std::size_t passes = once ? 1 : std::max<std::size_t>(1, (std::size_t{1} << 20) / floats);
        const std::size_t length = once ? floats / 4 / 64 * 64 : floats;
        const std::function<void()> subject = [&] {
            limits.threads().parallel_for(shares, [&](std::size_t index, std::size_t worker) {
                // Each thread stays in its own cache; in memory each share is another part.
                const float* from =
                    once ? memory[index / 4].as<float>() + index % 4 * length : memory[worker].as<float>();
                float sum = 0;
                for (std::size_t pass = 0; pass < passes; ++pass) {
                    sum += bench::read_through(from, length);
                    benchmark::ClobberMemory();
                }
                sink.store(sum, std::memory_order_relaxed);
            });
        };
        subject();
        const bench::timed_line timed = bench::time_subject(state, limits, false, subject, 1, settings());
        const double bytes = 1e-9 * static_cast<double>(shares * passes * length * sizeof(float));
        const double rate =
            bench::median_of(timed.samples, [&](const bench::sample& s) { return bytes / s.seconds[0]; });
        count(state, rate, 0, 0, false, 0, 0, timed.undisturbed_share);
    }

    void compute(benchmark::State& state, const bench::instruction_peak& peak, std::size_t threads) {
        bench::machine_limits& limits = machines_.limits(threads);
        const std::size_t steps = bench::steps_for(limits.threads(), peak, 2e-3);
        const bench::timed_line timed = bench::time_subject(
            state, limits, false, [&] { bench::run_peak(limits.threads(), peak, steps); }, 1, settings());
        const double operations = 1e-9 * peak.operations * static_cast<double>(steps * threads);
        const double rate =
            bench::median_of(timed.samples, [&](const bench::sample& s) { return operations / s.seconds[0]; });
        const double of_fma = bench::median_of(
            timed.samples, [&](const bench::sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
        count(state, 0, rate, of_fma, false, 0, 0, timed.undisturbed_share);
    }

    struct fastest {
        std::string_view name; // of the peak
        double over_fma = 0;   // its rate over that of the fma peak of the same moments
    };
    // Of the peaks that serve a unit; measured once.
    [[nodiscard]] fastest peak_for(bench::arithmetic unit, std::size_t threads) {
        const auto known = ratios_.find({unit, threads});
        if (known != ratios_.end()) return known->second;
        bench::machine_limits& limits = machines_.limits(threads);
        fastest best;
        for (const auto& list : {bench::fma_peaks(), bench::integer_peaks()})
            for (const bench::instruction_peak& one : list) {
                if (!bench::serves(one.name, unit)) continue;
                const std::size_t steps = bench::steps_for(limits.threads(), one, 2e-3);
                const double operations = 1e-9 * one.operations * static_cast<double>(steps * threads);
                const auto samples =
                    bench::take_samples(limits, {.wanted = 9, .most = 27, .budget_seconds = 0.5, .sample_seconds = 0},
                                        false, {[&] { bench::run_peak(limits.threads(), one, steps); }});
                const double over_fma = bench::median_of(
                    samples, [&](const bench::sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
                if (over_fma > best.over_fma) best = {one.name, over_fma};
            }
        // Where integers have no peak of their own there is fma.
        if (best.name.empty()) best = peak_for(bench::arithmetic::floats, threads);
        return ratios_[{unit, threads}] = best;
    }

    void multiply(benchmark::State& state, const bench::scheme& format, bench::weight_shape shape, std::size_t threads,
                  std::size_t tokens) {
        bench::machine_limits& limits = machines_.limits(threads);
        const bench::arithmetic unit = units_.at(std::string(format.name()));
        const fastest peak = peak_for(unit, threads);
        bench::product& weights = products_.of(format, shape, limits.threads());
        const bench::timed_line timed = bench::time_product(state, weights, limits, settings(tokens));
        const double bytes = static_cast<double>(weights.bytes());
        const double operations = 2.0 * static_cast<double>(tokens * shape.n * shape.k);
        using bench::sample;
        const auto bound = [&](const sample& s) {
            return bench::limit_of(bytes, operations, 1e9 * s.read_GBps[0], 1e9 * s.fma_GFLOPs[0] * peak.over_fma);
        };
        const auto median = [&](auto value) { return bench::median_of(timed.samples, value); };
        const double rate = 1e-9 * median([&](const sample& s) { return operations / s.seconds[0]; });
        const double limit = 1e-9 * median([&](const sample& s) { return operations / bound(s).seconds; });
        const double reached = median([&](const sample& s) { return bound(s).seconds / s.seconds[0]; });
        const bool memory_bound = median([&](const sample& s) { return bound(s).memory_bound ? 1.0 : 0.0; }) > 0.5;
        count(state, 1e-9 * median([&](const sample& s) { return bytes / s.seconds[0]; }), rate,
              1e-9 * median([&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; }), memory_bound,
              limit, reached, timed.undisturbed_share);
        table_row row{.format = std::string(format.name()),
                      .bits = weights.bits_per_weight(),
                      .tokens = tokens,
                      .threads = threads,
                      .bound = memory_bound ? "memory" : peak.name,
                      .limit_GOPs = limit,
                      .GOPs = rate,
                      .of_limit = reached};
        table_.push_back(std::move(row));
    }

    arguments given_;
    bench::machines machines_;
    bench::products products_;
    std::map<std::string, bench::arithmetic, std::less<>> units_ = units_of(bench::formats{});
    std::map<std::pair<bench::arithmetic, std::size_t>, fastest> ratios_;
    std::vector<table_row> table_;
};

int run(const arguments& given, std::vector<char*> benchmark_arguments) {
    const bench::weight_shape shape = bench::parse_shapes("--size", {given.size}).front();
    std::vector<const bench::scheme*> formats;
    if (!given.formats.empty()) {
        const std::regex wanted = bench::parse_pattern("--formats", given.formats);
        for (const auto& one : bench::all_schemes())
            if (std::regex_search(std::string(one->name()), wanted)) formats.push_back(one.get());
        if (formats.empty()) throw bench::user_error("no format has a name matching '" + given.formats + "'");
    }

    int count = static_cast<int>(benchmark_arguments.size());
    benchmark::Initialize(&count, benchmark_arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, benchmark_arguments.data())) return bench::exit_usage;

    lines all(given);
    for (const std::size_t threads : given.threads) all.add_machine(threads);
    for (const bench::scheme* format : formats)
        for (const std::size_t threads : given.threads) all.add_product(*format, shape, threads);
    bench::describe_build();
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();

    if (!all.table().empty())
        std::fprintf(stderr, "\n%-24s %7s %5s %4s  %-16s %12s %12s %9s\n", "format", "bits/w", "M", "T", "bound by",
                     "limit GOP/s", "GOP/s", "of limit");
    for (const table_row& row : all.table())
        std::fprintf(stderr, "%-24s %7.3f %5zu %4zu  %-16s %12.1f %12.1f %9.3f\n", row.format.c_str(), row.bits,
                     row.tokens, row.threads, std::string(row.bound).c_str(), row.limit_GOPs, row.GOPs, row.of_limit);
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{
        "Measures what this machine can do: reading, multiplying in every unit; and, with --formats, how near to that "
        "the formats' products come.",
        "nibble_roofline"};
    app.add_option("--formats", given.formats, "also the products of the formats whose names match; '.' for all")
        ->type_name("REGEX");
    app.add_option("--size", given.size, "N x K of their weights")->type_name("NxK")->capture_default_str();
    app.add_option("--threads", given.threads, "threads of every probe and kernel")
        ->type_name("T,...")
        ->delimiter(',')
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--samples", given.samples, "samples of each line at least")
        ->type_name("S")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    return bench::bench_main(app, argc, argv, [&](std::vector<char*> rest) {
        bench::drop_repeated(given.threads);
        return run(given, std::move(rest));
    });
}
