// product.cpp: weights made and kept, and the loop between Google Benchmark's clock and the probes.
#include "product.hpp"

#include "machine.hpp"
#include "sqnr.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <utility>

namespace bench {

namespace {

// Threads of BLAS and OpenMP libraries poll for up to a tenth of a second before they sleep, and a probe would share
// its cores with them: returns when this process has used next to no processor time for a while, or after a second.
void wait_for_rest() {
    // The time of a thread that runs without a break is booked at clock ticks, at worst 10 ms apart: two of them at
    // least.
    constexpr auto pause = std::chrono::milliseconds(30);
    constexpr double rest = 2e-3;
    for (int turn = 0; turn < 33; ++turn) {
        const std::clock_t before = std::clock(); // of the process
        std::this_thread::sleep_for(pause);
        if (static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < rest) return;
    }
}

} // namespace

std::size_t cold_bytes() {
    static const std::size_t bytes = std::max(std::size_t{160} << 20, 4 * describe_machine().last_level_cache_bytes);
    return bytes;
}

machine_limits& machines::limits(std::size_t threads) {
    std::unique_ptr<pooled>& one = made_[threads];
    if (!one) one = std::make_unique<pooled>(threads);
    return one->limits;
}

void machines::describe(std::size_t threads) {
    const machine_limits& known = limits(threads);
    char text[128];
    std::snprintf(text, sizeof text, "read %.1f GB/s, fma in %d bits %.1f GFLOP/s", known.read_bandwidth_GBps(),
                  known.fma_bits(), known.fma_peak_GFLOPs());
    benchmark::AddCustomContext("limits/threads:" + std::to_string(threads), text);
}

product::product(const scheme& format, const workload& work, executor_ref threads) : work_(work) {
    const float_matrix& exact = work.tensors.front().weights;
    const std::unique_ptr<quantized_weights> quantized = format.quantize(exact.view(), threads);
    bits_per_weight_ = quantized->bits_per_weight();
    float_matrix approximate(exact.rows(), exact.cols());
    quantized->dequantize(approximate.view(), threads);
    weight_sqnr_db_ = compare(exact.view().data(), approximate.view().data(), exact.rows() * exact.cols()).db();
    first_ = quantized->pack(threads);
    bytes_ = first_->bytes();
    output_ = float_matrix(work.inputs(work.tensors.front()).rows(), exact.rows());
}

const packed_weights& product::weights(std::size_t tokens) {
    if (tokens > cold_tokens) return cold_ ? *cold_->first().front() : *first_;
    if (!cold_) {
        std::vector<std::unique_ptr<packed_weights>> set;
        set.push_back(std::move(first_));
        cold_.emplace(std::move(set), bytes_, cold_bytes());
    }
    return *cold_->next().front();
}

void product::run(std::size_t tokens, executor_ref threads) {
    const float_matrix& x = work_.inputs(work_.tensors.front());
    weights(tokens).gemm(x.first(tokens), {output_.view().data(), tokens, output_.cols()}, scratch_, threads);
}

void product::warm(std::size_t tokens, executor_ref threads) {
    run(tokens, threads);
    if (tokens > cold_tokens) return;
    for (std::size_t copy = 1; copy < cold_->copies(); ++copy) run(tokens, threads);
}

const workload& products::inputs(weight_shape shape, executor_ref threads) {
    if (!work_ || !(work_shape_ == shape)) {
        product_.reset();
        format_ = nullptr;
        work_ = std::make_unique<workload>(synthetic_workload(shape.n, shape.k, most_tokens_, threads));
        work_shape_ = shape;
    }
    return *work_;
}

product& products::of(const scheme& format, weight_shape shape, executor_ref threads) {
    const workload& work = inputs(shape, threads);
    if (format_ != &format) {
        product_.reset(); // first: two sets of copies are not needed
        product_ = std::make_unique<product>(format, work, threads);
        format_ = &format;
    }
    return *product_;
}

timed_line time_subject(benchmark::State& state, machine_limits& limits, bool with_read,
                        const std::function<void()>& subject, std::size_t calls, const line_settings& how) {
    const auto rest = [&] {
        if (!how.own_threads) return;
        wait_for_rest();
        limits.wake();
    };
    const std::function<void(bool)> timed = [&](bool running) {
        if (running) {
            state.ResumeTiming();
            return;
        }
        state.PauseTiming();
        rest();
    };
    rest();
    rounds taken(limits, with_read);
    // A batch is all samples, so that the shortest run that Google Benchmark can ask for has a median.
    const auto batch = static_cast<benchmark::IterationCount>(calls) * how.samples;
    while (state.KeepRunningBatch(batch)) {
        state.PauseTiming();
        for (int round = 0; round < how.samples; ++round) taken.add({subject}, {calls}, timed);
        state.ResumeTiming();
    }
    return {taken.kept(), static_cast<double>(taken.undisturbed()) / static_cast<double>(taken.size())};
}

timed_line time_beside(benchmark::State& state, machine_limits& limits, const std::function<void()>& subject,
                       const std::function<void()>& beside, const line_settings& how) {
    const auto calls_of = [&](const std::function<void()>& one) {
        using clock = std::chrono::steady_clock;
        one();
        const auto start = clock::now();
        one();
        return calls_per_sample(std::chrono::duration<double>(clock::now() - start).count(), how.sample_seconds);
    };
    const std::vector<std::size_t> calls{calls_of(subject), calls_of(beside)};
    bool subject_is_next = true;
    const std::function<void(bool)> timed = [&](bool running) {
        if (subject_is_next) {
            if (running)
                state.ResumeTiming();
            else
                state.PauseTiming();
        }
        if (!running) subject_is_next = !subject_is_next;
    };
    rounds taken(limits, false);
    while (state.KeepRunningBatch(static_cast<benchmark::IterationCount>(calls[0]) * how.samples)) {
        state.PauseTiming();
        for (int round = 0; round < how.samples; ++round) taken.add({subject, beside}, calls, timed);
        state.ResumeTiming();
    }
    return {taken.kept(), static_cast<double>(taken.undisturbed()) / static_cast<double>(taken.size())};
}

timed_line time_product(benchmark::State& state, product& weights, machine_limits& limits, const line_settings& how) {
    using clock = std::chrono::steady_clock;
    const executor_ref threads = limits.threads();
    weights.warm(how.tokens, threads);
    const auto start = clock::now();
    weights.run(how.tokens, threads);
    const double once = std::chrono::duration<double>(clock::now() - start).count();
    const std::size_t calls = calls_per_sample(once, how.sample_seconds);
    const std::function<void()> subject = [&] { weights.run(how.tokens, threads); };
    if (how.tokens <= cold_tokens) return time_subject(state, limits, true, subject, calls, how);
    std::vector<double> read{limits.probe_read(), limits.probe_read()};
    subject(); // what the probe took from the caches
    timed_line timed = time_subject(state, limits, false, subject, calls, how);
    read.push_back(limits.probe_read());
    read.push_back(limits.probe_read());
    for (sample& one : timed.samples) one.read_GBps.assign(1, median(read));
    return timed;
}

} // namespace bench
