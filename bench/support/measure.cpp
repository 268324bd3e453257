// measure.cpp: the probes and the sampling loop.
#include "measure.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>

namespace bench {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
}

// Keeps a result alive that nothing reads.
std::atomic<float> sink{0};

constexpr std::size_t read_bytes = std::size_t{256} << 20;

// More shares than threads, so that a thread that starts late holds up the others by a share only.
std::size_t shares_of(executor_ref threads) {
    return threads.concurrency() * 4;
}

} // namespace

// One stream alone does not keep enough cache lines in flight. A vector of the compiler's own, so that the four sums
// stay in registers whatever its optimiser thinks of arrays.
float read_through(const float* memory, std::size_t count) {
    constexpr std::size_t streams = 4;
    constexpr std::size_t width = 16;
    using lanes [[gnu::vector_size(width * sizeof(float)), gnu::may_alias]] = float;
    const std::size_t share = count / streams / width; // in vectors; memory is on a boundary of 64 bytes
    const auto* from = reinterpret_cast<const lanes*>(memory);
    lanes sum0{};
    lanes sum1{};
    lanes sum2{};
    lanes sum3{};
    for (std::size_t i = 0; i < share; ++i) {
        sum0 += from[i];
        sum1 += from[share + i];
        sum2 += from[2 * share + i];
        sum3 += from[3 * share + i];
    }
    const lanes sum = (sum0 + sum1) + (sum2 + sum3);
    float total = 0;
    for (std::size_t l = 0; l < width; ++l) total += sum[l];
    return total;
}

double median(std::vector<double> values) {
    if (values.empty()) return std::nan("");
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    if (values.size() % 2 != 0) return *middle;
    return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

double run_peak(executor_ref threads, const instruction_peak& peak, std::size_t steps) {
    const std::size_t shares = shares_of(threads);
    const std::size_t per_share = std::max<std::size_t>(1, steps / 4);
    const auto start = clock::now();
    threads.parallel_for(shares,
                         [&](std::size_t, std::size_t) { sink.store(peak.run(per_share), std::memory_order_relaxed); });
    const double seconds = seconds_since(start);
    return peak.operations * static_cast<double>(per_share) * static_cast<double>(shares) / seconds * 1e-9;
}

std::size_t steps_for(executor_ref threads, const instruction_peak& peak, double seconds) {
    std::size_t steps = 1 << 14;
    double per_step = 1; // of the fastest run: others were disturbed
    for (int round = 0; round < 6; ++round) {
        const auto start = clock::now();
        (void)run_peak(threads, peak, steps);
        per_step = std::min(per_step, std::max(seconds_since(start), 1e-6) / static_cast<double>(steps));
        steps = static_cast<std::size_t>(std::clamp(seconds / per_step, 1e3, 1e9));
    }
    return (steps + 3) / 4 * 4; // four shares per thread
}

machine_limits::machine_limits(executor_ref threads) : threads_(threads), memory_(read_bytes) {
    // Touch by the threads that will read, and long enough for sleeping cores to reach their frequency.
    probe_read();
    read_.clear();
    // The widths take turns; a wider one has to win clearly, since kernels are written for the narrowest.
    const auto widths = fma_peaks();
    std::vector<std::size_t> steps;
    for (const instruction_peak& one : widths) steps.push_back(steps_for(threads_, one, 2e-3));
    std::vector<double> best(widths.size(), 0.0);
    for (int round = 0; round < 8; ++round)
        for (std::size_t w = 0; w < widths.size(); ++w)
            best[w] = std::max(best[w], run_peak(threads_, widths[w], steps[w]));
    std::size_t chosen = 0;
    for (std::size_t w = 1; w < widths.size(); ++w)
        if (best[w] > 1.1 * best[chosen]) chosen = w;
    fma_peak_ = &widths[chosen];
    fma_steps_ = steps[chosen];
    best_fma_ = best[chosen];

    for (int round = 0; round < 40; ++round) probe_fma();
    for (int round = 0; round < 16; ++round) {
        probe_read();
        probe_fma();
    }
}

double machine_limits::probe_fma() {
    const double rate = run_peak(threads_, *fma_peak_, fma_steps_);
    fma_.push_back(rate);
    best_fma_ = std::max(best_fma_, rate);
    return rate;
}

void machine_limits::wake() {
    for (int round = 0; round < 5; ++round) (void)run_peak(threads_, *fma_peak_, fma_steps_);
}

double machine_limits::probe_read() {
    const std::size_t shares = shares_of(threads_);
    const float* memory = memory_.as<float>();
    const std::size_t share = read_bytes / sizeof(float) / shares / 64 * 64;
    const auto start = clock::now();
    threads_.parallel_for(shares, [=](std::size_t index, std::size_t) {
        sink.store(read_through(memory + index * share, share), std::memory_order_relaxed);
    });
    const double seconds = seconds_since(start);
    const double rate = static_cast<double>(share * shares * sizeof(float)) / seconds * 1e-9;
    read_.push_back(rate);
    return rate;
}

bool machine_limits::undisturbed(double fma_GFLOPs) const {
    return fma_GFLOPs >= 0.9 * best_fma_;
}

double machine_limits::fma_peak_GFLOPs() const {
    std::vector<double> kept;
    std::copy_if(fma_.begin(), fma_.end(), std::back_inserter(kept), [this](double one) { return undisturbed(one); });
    return median(std::move(kept));
}

double machine_limits::read_bandwidth_GBps() const {
    return median(read_);
}

double machine_limits::undisturbed_share() const {
    const auto good = std::count_if(fma_.begin(), fma_.end(), [this](double one) { return undisturbed(one); });
    return static_cast<double>(good) / static_cast<double>(fma_.size());
}

rounds::rounds(machine_limits& limits, bool with_read)
    : limits_(limits), with_read_(with_read), fma_(limits.probe_fma()), read_(with_read ? limits.probe_read() : 0) {}

void rounds::add(const std::vector<std::function<void()>>& subjects, const std::vector<std::size_t>& calls,
                 const std::function<void(bool)>& timed) {
    sample one;
    std::vector<double> fma_at{fma_};
    std::vector<double> read_at{read_};
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        if (timed) timed(true);
        const auto start = clock::now();
        for (std::size_t call = 0; call < calls[s]; ++call) subjects[s]();
        one.seconds.push_back(seconds_since(start) / static_cast<double>(calls[s]));
        if (timed) timed(false);
        read_at.push_back(read_ = with_read_ ? limits_.probe_read() : 0);
        fma_at.push_back(fma_ = limits_.probe_fma());
    }
    const double lowest = *std::min_element(fma_at.begin(), fma_at.end());
    one.undisturbed = limits_.undisturbed(lowest);
    undisturbed_ += one.undisturbed ? 1 : 0;
    // A probe is short: where others take the core away, one of two neighbouring probes may have lost most of its
    // time and say nothing about the sample between them.
    const auto between = [&](const std::vector<double>& probes, std::size_t s) {
        return one.undisturbed ? 0.5 * (probes[s] + probes[s + 1]) : std::max(probes[s], probes[s + 1]);
    };
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        one.fma_GFLOPs.push_back(between(fma_at, s));
        one.read_GBps.push_back(between(read_at, s));
    }
    samples_.push_back(std::move(one));
    quality_.push_back(lowest);
}

std::vector<sample> rounds::kept() const {
    std::vector<bool> undisturbed;
    for (const sample& one : samples_) undisturbed.push_back(one.undisturbed);
    std::vector<sample> kept;
    for (const std::size_t index : rounds_that_count(undisturbed, quality_)) kept.push_back(samples_[index]);
    return kept;
}

std::vector<std::size_t> rounds_that_count(const std::vector<bool>& undisturbed, const std::vector<double>& quality) {
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < undisturbed.size(); ++i)
        if (undisturbed[i]) kept.push_back(i);
    if (!kept.empty() || quality.empty()) return kept;
    std::vector<double> sorted = quality;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const double threshold = sorted[(sorted.size() - 1) / 3];
    for (std::size_t i = 0; i < quality.size(); ++i)
        if (quality[i] >= threshold) kept.push_back(i);
    return kept;
}

std::size_t calls_per_sample(double once_seconds, double sample_seconds) {
    return static_cast<std::size_t>(std::clamp(std::ceil(sample_seconds / std::max(once_seconds, 1e-7)), 1.0, 1e6));
}

std::vector<sample> take_samples(machine_limits& limits, const sampling& how, bool with_read,
                                 const std::vector<std::function<void()>>& subjects) {
    std::vector<std::size_t> calls;
    for (const auto& subject : subjects) {
        double once = how.known_seconds;
        if (once <= 0) {
            subject();
            const auto start = clock::now();
            subject();
            once = seconds_since(start);
        }
        calls.push_back(calls_per_sample(once, how.sample_seconds));
    }
    const auto begin = clock::now();
    rounds taken(limits, with_read);
    for (int round = 0; round < how.most && taken.undisturbed() < how.wanted; ++round) {
        if (round >= 1 && seconds_since(begin) > how.budget_seconds) break;
        taken.add(subjects, calls);
    }
    return taken.kept();
}

} // namespace bench
