// OpenMP's threads in nibble's verbs, for an engine that has them already: its own loops and the products run on the
// same team, one after the other. The results are the same bits for any number of threads.
#include <cstdio>

#if !defined(_OPENMP)
int main() {
    std::printf("skipped: compiled without OpenMP (g++ -fopenmp; Clang on Debian: apt-get install libomp-dev)\n");
    return 77; // what ctest counts as skipped
}
#else

#include <nibble/adapt/openmp.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include <omp.h>

namespace nb = nibble;

using format = nb::int4_g32;

std::vector<float> normal(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> number;
    std::vector<float> v(count);
    for (float& x : v) x = number(random);
    return v;
}

// y = norm(x) wᵀ: a loop of the engine's, then a product.
std::vector<float> layer(std::vector<float> x, const nb::packed<format>& w, nb::workspace& scratch,
                         const nb::openmp_executor& threads) {
    const std::size_t width = w.cols(), tokens = x.size() / width;
#pragma omp parallel for num_threads(static_cast<int>(threads.concurrency()))
    for (std::size_t t = 0; t < tokens; ++t) {
        float* row = x.data() + t * width;
        float squares = 0;
        for (std::size_t i = 0; i < width; ++i) squares += row[i] * row[i];
        const float by = 1 / std::sqrt(squares / static_cast<float>(width));
        for (std::size_t i = 0; i < width; ++i) row[i] *= by;
    }
    // Outside of the parallel region: inside of one OpenMP gives the executor a team of one thread.
    std::vector<float> y(tokens * w.rows());
    nb::gemm({x.data(), tokens, width}, w, {y.data(), tokens, w.rows()}, nb::identity{}, {.workspace = &scratch},
             threads);
    return y;
}

int main() {
    const std::size_t tokens = 9, outputs = 300, inputs = 512;
    const std::vector<float> w = normal(outputs * inputs, 1), x = normal(tokens * inputs, 2);
    const nb::openmp_executor all; // as many as omp_get_max_threads(), so OMP_NUM_THREADS, says
    const auto weights = nb::pack(nb::quantize<format>({w.data(), outputs, inputs}, {}, all), all);

    nb::workspace scratch;
    const std::vector<float> alone = layer(x, weights, scratch, nb::openmp_executor(1));
    bool same = true;
    for (const std::size_t threads : {2u, 5u}) {
        const std::vector<float> y = layer(x, weights, scratch, nb::openmp_executor(threads));
        const bool equal = std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)) == 0;
        std::printf("%zu threads of OpenMP %d: %s\n", threads, _OPENMP, equal ? "the same bits as one" : "DIFFERENT");
        same = same && equal;
    }
    return same ? 0 : 1;
}
#endif
