// oneTBB's threads in nibble's verbs, for an engine that has them already: several requests at a time, each a task of
// the engine's, whose products spread over the same arena. The results are the same bits as one by one on one thread.
#include <cstdio>

#if !__has_include(<oneapi/tbb/task_group.h>)
int main() {
    std::printf("skipped: compiled without oneTBB (Debian and Ubuntu: apt-get install libtbb-dev)\n");
    return 77; // what ctest counts as skipped
}
#else

#include <nibble/adapt/tbb.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <oneapi/tbb/task_group.h>

namespace nb = nibble;

using format = nb::int4_g32;

std::vector<float> normal(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> number;
    std::vector<float> v(count);
    for (float& x : v) x = number(random);
    return v;
}

struct request {
    std::vector<float> x, y;
    nb::workspace scratch; // of its own: requests run at the same time

    template <nb::executor Threads> void run(const nb::packed<format>& w, const Threads& threads) {
        const std::size_t tokens = x.size() / w.cols();
        y.resize(tokens * w.rows());
        nb::gemm({x.data(), tokens, w.cols()}, w, {y.data(), tokens, w.rows()}, nb::identity{}, {.workspace = &scratch},
                 threads);
    }
};

int main() {
    const std::size_t outputs = 300, inputs = 512;
    const std::vector<float> w = normal(outputs * inputs, 1);
    const nb::tbb_executor threads(
        std::max(1u, std::thread::hardware_concurrency())); // one for the program: copies share its arena
    const auto weights = nb::pack(nb::quantize<format>({w.data(), outputs, inputs}, {}, threads), threads);

    std::vector<request> requests(6), alone(6);
    for (std::size_t i = 0; i < requests.size(); ++i)
        requests[i].x = alone[i].x = normal((1 + 5 * i) * inputs, 2 + static_cast<unsigned>(i)); // 1 to 26 tokens

    oneapi::tbb::task_group tasks;
    for (request& r : requests) tasks.run([&] { r.run(weights, threads); });
    tasks.wait();

    bool same = true;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        alone[i].run(weights, nb::serial{});
        same = same && std::memcmp(requests[i].y.data(), alone[i].y.data(), alone[i].y.size() * sizeof(float)) == 0;
    }
    std::printf("%zu requests at a time on %zu threads of oneTBB: %s\n", requests.size(), threads.concurrency(),
                same ? "the same bits as one by one" : "DIFFERENT");
    return same ? 0 : 1;
}
#endif
