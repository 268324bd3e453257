// product.hpp: x times quantized weights as one line of Google Benchmark's, with the machine's limits measured in
// between.
#pragma once

#include "measure.hpp"
#include "rotation.hpp"
#include "scheme.hpp"
#include "shape.hpp"
#include "workload.hpp"

#include <nibble/adapt/thread_pool.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace bench {

// Up to so many tokens a product is bound by memory: its weights are read from copies that no cache holds.
inline constexpr std::size_t cold_tokens = 8;

// At least 160 MiB and four times the last-level cache.
[[nodiscard]] std::size_t cold_bytes();

// The pool and the limits of each number of threads, made when first asked for.
class machines {
public:
    [[nodiscard]] machine_limits& limits(std::size_t threads);
    // Into Google Benchmark's head: what the limits are, as far as they are known before anything is timed.
    void describe(std::size_t threads);

private:
    struct pooled {
        explicit pooled(std::size_t threads) : pool(threads), limits(executor_ref(pool)) {}
        nibble::thread_pool pool;
        machine_limits limits;
    };
    std::map<std::size_t, std::unique_ptr<pooled>> made_;
};

// One scheme's weights of one shape, in the kernel's order, with what is known about them.
class product {
public:
    // Quantizes and packs. `work` is borrowed: one tensor, and as many tokens as will be asked for.
    product(const scheme& format, const workload& work, executor_ref threads);

    // y = x w^T of the first `tokens` tokens; up to cold_tokens of them with the next copy of the weights.
    void run(std::size_t tokens, executor_ref threads);
    // Calls run until all weights that it may use have been used with that many tokens.
    void warm(std::size_t tokens, executor_ref threads);

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; } // of one copy
    [[nodiscard]] double bits_per_weight() const noexcept { return bits_per_weight_; }
    [[nodiscard]] double weight_sqnr_db() const noexcept { return weight_sqnr_db_; }
    [[nodiscard]] nibble::matrix_view<const float> output(std::size_t tokens) const noexcept {
        return output_.first(tokens);
    }

private:
    [[nodiscard]] const packed_weights& weights(std::size_t tokens);

    const workload& work_;
    std::unique_ptr<packed_weights> first_;                         // until copies are needed
    std::optional<rotation<std::unique_ptr<packed_weights>>> cold_; // then in here
    std::size_t bytes_ = 0;
    double bits_per_weight_ = 0;
    double weight_sqnr_db_ = 0;
    float_matrix output_;
    nibble::workspace scratch_;
};

// The products of all lines, of which the workload and the weights of the last one are kept: register the lines of a
// scheme and shape one after the other.
class products {
public:
    explicit products(std::size_t most_tokens) : most_tokens_(most_tokens) {}
    [[nodiscard]] const workload& inputs(weight_shape shape, executor_ref threads);
    [[nodiscard]] product& of(const scheme& format, weight_shape shape, executor_ref threads);

private:
    std::size_t most_tokens_;
    weight_shape work_shape_;
    std::unique_ptr<workload> work_;
    const scheme* format_ = nullptr;
    std::unique_ptr<product> product_;
};

struct line_settings {
    std::size_t tokens = 1;
    int samples = 9;              // rounds for each batch that Google Benchmark asks for
    double sample_seconds = 4e-3; // shorter products are called several times in each
    bool own_threads = false;     // the product has threads of its own: wait until they rest before the probes
};

struct timed_line {
    std::vector<sample> samples;  // the rounds that count, of one subject
    double undisturbed_share = 0; // of all rounds
};

// Times `subject`, called `calls` times per sample: only its calls are on Google Benchmark's clock, with fma and, where
// asked for, read probes of the same threads before and after each sample.
[[nodiscard]] timed_line time_subject(benchmark::State& state, machine_limits& limits, bool with_read,
                                      const std::function<void()>& subject, std::size_t calls,
                                      const line_settings& how);

// The same for `subject` in turn with `beside`, each called as often as its own time asks for: seconds[0] of a sample
// is the subject's, seconds[1] the other's, fma_GFLOPs likewise. Only the subject is on Google Benchmark's clock.
[[nodiscard]] timed_line time_beside(benchmark::State& state, machine_limits& limits,
                                     const std::function<void()>& subject, const std::function<void()>& beside,
                                     const line_settings& how);

// The same for a product of how.tokens tokens, with both probes. Of more than cold_tokens the read probes come before
// the first and after the last sample only: they would take the weights out of the caches.
[[nodiscard]] timed_line time_product(benchmark::State& state, product& weights, machine_limits& limits,
                                      const line_settings& how);

} // namespace bench
