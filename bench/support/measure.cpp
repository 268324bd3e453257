// measure.cpp: the probes and the sampling loop.
#include "measure.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bench {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
}

// Keeps a result alive that nothing reads.
std::atomic<float> sink{0};

// Twelve independent chains: fma has a latency of four cycles and a throughput of two per cycle on current cores.
constexpr int chains = 12;

#if defined(__AVX512F__)
constexpr int lanes = 16;
float fma_chains(std::size_t steps) {
    __m512 sum[chains];
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
    const __m512 a = _mm512_set1_ps(0.999f);
    const __m512 b = _mm512_set1_ps(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], a, b);
    }
    __m512 total = sum[0];
    for (int c = 1; c < chains; ++c) total = _mm512_add_ps(total, sum[c]);
    return _mm512_cvtss_f32(total);
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int lanes = 8;
float fma_chains(std::size_t steps) {
    __m256 sum[chains];
    for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_ps(static_cast<float>(c));
    const __m256 a = _mm256_set1_ps(0.999f);
    const __m256 b = _mm256_set1_ps(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], a, b);
    }
    __m256 total = sum[0];
    for (int c = 1; c < chains; ++c) total = _mm256_add_ps(total, sum[c]);
    return _mm256_cvtss_f32(total);
}
#elif defined(__ARM_NEON)
constexpr int lanes = 4;
float fma_chains(std::size_t steps) {
    float32x4_t sum[chains];
    for (int c = 0; c < chains; ++c) sum[c] = vdupq_n_f32(static_cast<float>(c));
    const float32x4_t a = vdupq_n_f32(0.999f);
    const float32x4_t b = vdupq_n_f32(0.001f);
    for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) sum[c] = vfmaq_f32(b, sum[c], a);
    }
    float32x4_t total = sum[0];
    for (int c = 1; c < chains; ++c) total = vaddq_f32(total, sum[c]);
    return vgetq_lane_f32(total, 0);
}
#else
// Without fma a multiply and an add count as the two operations that they are.
constexpr int lanes = 4;
float fma_chains(std::size_t steps) {
    float sum[chains][lanes];
    for (int c = 0; c < chains; ++c)
        for (int l = 0; l < lanes; ++l) sum[c][l] = static_cast<float>(c);
    for (std::size_t i = 0; i < steps; ++i)
        for (int c = 0; c < chains; ++c)
            for (int l = 0; l < lanes; ++l) sum[c][l] = sum[c][l] * 0.999f + 0.001f;
    float total = 0;
    for (int c = 0; c < chains; ++c) total += sum[c][0];
    return total;
}
#endif

// Four streams through one share of the memory: one stream alone does not keep enough cache lines in flight.
float sum_of_streams(const float* memory, std::size_t count) {
    constexpr std::size_t streams = 4;
    constexpr std::size_t width = 16;
    const std::size_t share = count / streams / width * width;
    float sum[streams][width] = {};
    for (std::size_t i = 0; i < share; i += width)
        for (std::size_t s = 0; s < streams; ++s)
            for (std::size_t l = 0; l < width; ++l) sum[s][l] += memory[s * share + i + l];
    float total = 0;
    for (const auto& stream : sum)
        for (const float lane : stream) total += lane;
    return total;
}

constexpr std::size_t read_bytes = std::size_t{256} << 20;

// More shares than threads, so that a thread that starts late holds up the others by a share only.
std::size_t shares_of(executor_ref threads) {
    return threads.concurrency() * 4;
}

} // namespace

double median(std::vector<double> values) {
    if (values.empty()) return std::nan("");
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    if (values.size() % 2 != 0) return *middle;
    return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

machine_limits::machine_limits(executor_ref threads) : threads_(threads), memory_(read_bytes) {
    // Touch by the threads that will read, and long enough for sleeping cores to reach their frequency.
    probe_read();
    fma_steps_ = 1 << 14;
    for (int round = 0; round < 4; ++round) {
        const auto start = clock::now();
        probe_fma();
        const double factor = 2e-3 / std::max(seconds_since(start), 1e-5);
        const double steps = static_cast<double>(fma_steps_) * std::clamp(factor, 0.1, 16.0);
        fma_steps_ = static_cast<std::size_t>(std::clamp(steps, 1e3, 1e9));
    }
    fma_.clear();
    read_.clear();
    best_fma_ = 0;
    for (int round = 0; round < 40; ++round) probe_fma();
    for (int round = 0; round < 16; ++round) {
        probe_read();
        probe_fma();
    }
}

double machine_limits::probe_fma() {
    const std::size_t shares = shares_of(threads_);
    const std::size_t steps = std::max<std::size_t>(1, fma_steps_ / 4); // four shares per thread
    const auto start = clock::now();
    threads_.parallel_for(
        shares, [steps](std::size_t, std::size_t) { sink.store(fma_chains(steps), std::memory_order_relaxed); });
    const double seconds = seconds_since(start);
    const double operations = 2.0 * chains * lanes * static_cast<double>(steps) * static_cast<double>(shares);
    const double rate = operations / seconds * 1e-9;
    fma_.push_back(rate);
    best_fma_ = std::max(best_fma_, rate);
    return rate;
}

double machine_limits::probe_read() {
    const std::size_t shares = shares_of(threads_);
    const float* memory = memory_.as<float>();
    const std::size_t share = read_bytes / sizeof(float) / shares / 64 * 64;
    const auto start = clock::now();
    threads_.parallel_for(shares, [=](std::size_t index, std::size_t) {
        sink.store(sum_of_streams(memory + index * share, share), std::memory_order_relaxed);
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

std::vector<sample> take_samples(machine_limits& limits, const sampling& how, bool with_read,
                                 const std::vector<std::function<void()>>& subjects) {
    std::vector<std::size_t> calls(subjects.size(), 1);
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        double once = how.known_seconds;
        if (once <= 0) {
            subjects[s]();
            const auto start = clock::now();
            subjects[s]();
            once = std::max(seconds_since(start), 1e-7);
        }
        calls[s] = static_cast<std::size_t>(std::clamp(std::ceil(how.sample_seconds / once), 1.0, 1e6));
    }

    std::vector<sample> samples;
    std::vector<double> quality; // the lowest probe of each round
    int undisturbed = 0;
    const auto begin = clock::now();
    double fma = limits.probe_fma();
    double read = with_read ? limits.probe_read() : 0;
    for (int round = 0; round < how.most && undisturbed < how.wanted; ++round) {
        if (round >= 1 && seconds_since(begin) > how.budget_seconds) break;
        sample one;
        std::vector<double> fma_at{fma};
        std::vector<double> read_at{read};
        for (std::size_t s = 0; s < subjects.size(); ++s) {
            const auto start = clock::now();
            for (std::size_t call = 0; call < calls[s]; ++call) subjects[s]();
            one.seconds.push_back(seconds_since(start) / static_cast<double>(calls[s]));
            read_at.push_back(read = with_read ? limits.probe_read() : 0);
            fma_at.push_back(fma = limits.probe_fma());
        }
        const double lowest = *std::min_element(fma_at.begin(), fma_at.end());
        one.undisturbed = limits.undisturbed(lowest);
        undisturbed += one.undisturbed ? 1 : 0;
        // A probe is short: where others take the core away, one of two neighbouring probes may have lost most of its
        // time and say nothing about the sample between them.
        const auto between = [&](const std::vector<double>& probes, std::size_t s) {
            return one.undisturbed ? 0.5 * (probes[s] + probes[s + 1]) : std::max(probes[s], probes[s + 1]);
        };
        for (std::size_t s = 0; s < subjects.size(); ++s) {
            one.fma_GFLOPs.push_back(between(fma_at, s));
            one.read_GBps.push_back(between(read_at, s));
        }
        samples.push_back(std::move(one));
        quality.push_back(lowest);
    }

    std::vector<sample> kept;
    double threshold = 0;
    if (undisturbed == 0) {
        std::vector<double> sorted = quality;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        threshold = sorted[(sorted.size() - 1) / 3];
    }
    for (std::size_t i = 0; i < samples.size(); ++i)
        if (undisturbed != 0 ? samples[i].undisturbed : quality[i] >= threshold) kept.push_back(std::move(samples[i]));
    return kept;
}

} // namespace bench
