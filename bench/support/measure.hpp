// measure.hpp: times functions on a shared, noisy machine by comparing each sample with probes of the same moments.
#pragma once

#include "executor_ref.hpp"
#include "peaks.hpp"

#include <nibble/core/buffer.hpp>

#include <cstddef>
#include <functional>
#include <vector>

namespace bench {

[[nodiscard]] double median(std::vector<double> values);

// The sum of `count` floats, a multiple of 64 on a boundary of 64 bytes, by four streams: the fastest way to read them.
[[nodiscard]] float read_through(const float* memory, std::size_t count);

// One run of `steps` steps of a peak on every thread, in 10^9 operations per second; and the steps, a multiple of four,
// that take about `seconds`: steps times threads times peak.operations are done.
double run_peak(executor_ref threads, const instruction_peak& peak, std::size_t steps);
[[nodiscard]] std::size_t steps_for(executor_ref threads, const instruction_peak& peak, double seconds);

// What this machine can do with these threads, asked again and again: neighbours, frequency and hyperthreads change it
// within seconds, so only a ratio to a probe of the same moment means anything.
class machine_limits {
public:
    // Allocates the 256 MiB that are read, and probes for a third of a second to learn what undisturbed looks like. The
    // fma peak is that of the fastest register width that the compiler flags have (fma_peaks): on cores with two
    // 512-bit units it is twice what a kernel of 256 bits can reach.
    explicit machine_limits(executor_ref threads);

    // About 2 ms of independent fp32 multiply-adds of that width on every thread, in GFLOP/s (two per fma).
    double probe_fma();
    // One sum over 256 MiB of floats on huge pages, four streams per share, in GB/s (10^9 bytes).
    double probe_read();

    // Some 10 ms of the fma probe that count for nothing: cores that slept reach their frequency, and virtual ones
    // their place.
    void wake();

    // Within a tenth of the best probe so far: no neighbour took part of a core meanwhile.
    [[nodiscard]] bool undisturbed(double fma_GFLOPs) const;
    // Medians so far: of the undisturbed fma probes, of all read probes.
    [[nodiscard]] double fma_peak_GFLOPs() const;
    [[nodiscard]] double read_bandwidth_GBps() const;
    // How many of all fma probes were undisturbed, 0 to 1.
    [[nodiscard]] double undisturbed_share() const;

    // The width of the fma peak's registers.
    [[nodiscard]] int fma_bits() const noexcept { return fma_peak_->bits; }
    [[nodiscard]] executor_ref threads() const noexcept { return threads_; }

private:
    executor_ref threads_;
    nibble::buffer memory_;
    const instruction_peak* fma_peak_ = nullptr;
    std::size_t fma_steps_ = 0;
    std::vector<double> fma_;
    std::vector<double> read_;
    double best_fma_ = 0;
};

struct sampling {
    int wanted = 5;               // undisturbed rounds to collect
    int most = 15;                // rounds to try at most
    double budget_seconds = 2;    // no new round after this
    double sample_seconds = 4e-3; // shorter functions are called several times per sample
    double known_seconds = 0; // how long one call took; 0: not known, so each subject is called twice before, untimed
};

// One round: every subject timed once, in turn, with probes around it.
struct sample {
    std::vector<double> seconds;    // per call of each subject
    std::vector<double> fma_GFLOPs; // probes before and after each subject: their mean or, if disturbed, the better
    std::vector<double> read_GBps;  // likewise, where asked for
    bool undisturbed = false;
};

// Rounds of the same subjects, taken one after the other: each ends with the probes that the next one begins with.
// `with_read` adds a read probe before and after each subject.
class rounds {
public:
    rounds(machine_limits& limits, bool with_read);
    // Subject s is called calls[s] times. `timed` is told when the clock starts (true) and when it has stopped (false),
    // and may wait before it returns.
    void add(const std::vector<std::function<void()>>& subjects, const std::vector<std::size_t>& calls,
             const std::function<void(bool)>& timed = {});
    [[nodiscard]] int undisturbed() const noexcept { return undisturbed_; }
    [[nodiscard]] std::size_t size() const noexcept { return samples_.size(); }
    // The rounds that count.
    [[nodiscard]] std::vector<sample> kept() const;

private:
    machine_limits& limits_;
    bool with_read_;
    double fma_;
    double read_;
    std::vector<sample> samples_;
    std::vector<double> quality_; // the lowest fma probe of each round
    int undisturbed_ = 0;
};

// The undisturbed rounds or, if there are none (a busy machine), the third of highest quality; indices, ascending.
[[nodiscard]] std::vector<std::size_t> rounds_that_count(const std::vector<bool>& undisturbed,
                                                         const std::vector<double>& quality);

// How often something that takes `once_seconds` is called in a sample: 1 to 10^6 times.
[[nodiscard]] std::size_t calls_per_sample(double once_seconds, double sample_seconds);

// The rounds that count of as many as `how` asks for. `with_read`: see rounds.
[[nodiscard]] std::vector<sample> take_samples(machine_limits& limits, const sampling& how, bool with_read,
                                               const std::vector<std::function<void()>>& subjects);

template <class Projection>
[[nodiscard]] double median_of(const std::vector<sample>& samples, Projection&& projection) {
    std::vector<double> values;
    for (const sample& one : samples) values.push_back(projection(one));
    return median(std::move(values));
}

} // namespace bench
