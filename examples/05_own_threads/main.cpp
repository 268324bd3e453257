// Your engine's threads in nibble's verbs: two members make an executor. The results are the same bits for any of them.
#include <nibble/nibble.hpp>

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace nb = nibble;

// Starts threads for every call, which keeps the example short; an engine would wake those of its pool instead.
struct fresh_threads {
    std::size_t threads;

    std::size_t concurrency() const noexcept { return threads; }

    // Every index below count once, in any order; no two tasks at a time have the same worker number.
    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        std::atomic<std::size_t> next{0};
        const auto work = [&](std::size_t worker) {
            for (std::size_t i = next++; i < count; i = next++) task(i, worker);
        };
        std::vector<std::thread> helpers;
        for (std::size_t worker = 1; worker < threads; ++worker) helpers.emplace_back(work, worker);
        work(0);
        for (std::thread& helper : helpers) helper.join();
    }
};
static_assert(nb::executor<fresh_threads>);

template <nb::executor Threads>
std::vector<float> product(nb::matrix_view<const float> x, nb::matrix_view<const float> w, const Threads& threads) {
    std::vector<float> y(x.rows() * w.rows());
    const auto weights = nb::pack(nb::quantize<nb::int4_g32>(w, {}, threads), threads);
    nb::gemm(x, weights, {y.data(), x.rows(), w.rows()}, nb::identity{}, {}, threads);
    return y;
}

int main() {
    const std::size_t tokens = 7, outputs = 300, inputs = 640;
    std::vector<float> w(outputs * inputs), x(tokens * inputs);
    std::mt19937 random;
    std::normal_distribution<float> normal;
    for (float& value : w) value = normal(random);
    for (float& value : x) value = normal(random);
    const nb::matrix_view<const float> w_view(w.data(), outputs, inputs), x_view(x.data(), tokens, inputs);

    const std::vector<float> alone = product(x_view, w_view, nb::serial{});
    bool same = true;
    for (std::size_t threads = 2; threads <= 8; threads *= 2) {
        const std::vector<float> y = product(x_view, w_view, fresh_threads{threads});
        const bool equal = std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)) == 0;
        std::printf("%zu threads: %s\n", threads, equal ? "the same bits as one" : "DIFFERENT from one");
        same = same && equal;
    }
    return same ? 0 : 1;
}
