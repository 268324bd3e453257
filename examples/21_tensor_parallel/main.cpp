// Tensor parallelism: a feed-forward block on several processes (mpirun -n 4 tensor_parallel). The first matrix is cut
// by outputs, the second by inputs, so that each token costs one all-reduce, of partial sums; these are sent as 8-bit
// integers in blocks instead of fp32.
#include <cstdio>

#if !__has_include(<mpi.h>)
int main() {
    std::printf("skipped: compiled without MPI (Debian and Ubuntu: apt-get install libopenmpi-dev openmpi-bin)\n");
    return 77; // what ctest counts as skipped
}
#else

#include <nibble/nibble.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

// Its C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

namespace nb = nibble;

using weights_format = nb::int4_g32;
using wire_format = nb::int8_g32; // fp16 scale per 32 numbers: 8.5 bits instead of 32

struct ranks {
    int count = 1, own = 0;
    ranks() {
        MPI_Comm_size(MPI_COMM_WORLD, &count);
        MPI_Comm_rank(MPI_COMM_WORLD, &own);
    }
};

// sum over all ranks of their `values`, on all of them the same bits. Each rank adds up one part of the numbers in
// fp32, rank by rank, whatever the order in which messages come. Returns the bytes that this rank sent.
std::size_t all_reduce_quantized(std::vector<float>& values, const ranks& of) {
    const auto count = static_cast<std::size_t>(of.count);
    const std::size_t part = (values.size() + count * 32 - 1) / (count * 32) * 32; // numbers per rank
    values.resize(part * count, 0.0f);
    // Bytes of a part: codes, then scales.
    const auto write = [&](const float* from, std::byte* to) {
        const auto q = nb::quantize<wire_format>({from, 1, part});
        std::memcpy(to, q.row_codes(0), q.row_bytes());
        std::memcpy(to + q.row_bytes(), q.scales(), q.scale_count() * sizeof *q.scales());
    };
    nb::quantized<wire_format> got(1, part);
    const std::size_t codes = got.row_bytes(), bytes = codes + got.scale_count() * sizeof *got.scales();
    const auto read = [&](const std::byte* from, float* to) {
        std::memcpy(got.row_codes(0), from, codes);
        std::memcpy(got.scales(), from + codes, bytes - codes);
        nb::dequantize(got, {to, 1, part});
    };

    // Reduce-scatter: part r of all ranks to rank r.
    std::vector<std::byte> out(bytes * count), in(bytes * count);
    for (std::size_t r = 0; r < count; ++r) write(values.data() + r * part, out.data() + r * bytes);
    MPI_Alltoall(out.data(), static_cast<int>(bytes), MPI_BYTE, in.data(), static_cast<int>(bytes), MPI_BYTE,
                 MPI_COMM_WORLD);
    std::vector<float> sum(part, 0.0f), one(part);
    for (std::size_t r = 0; r < count; ++r) {
        read(in.data() + r * bytes, one.data());
        for (std::size_t i = 0; i < part; ++i) sum[i] += one[i];
    }
    // All-gather: sums, once more quantized. A rank reads its own as the others do.
    write(sum.data(), out.data());
    MPI_Allgather(out.data(), static_cast<int>(bytes), MPI_BYTE, in.data(), static_cast<int>(bytes), MPI_BYTE,
                  MPI_COMM_WORLD);
    for (std::size_t r = 0; r < count; ++r) read(in.data() + r * bytes, values.data() + r * part);
    return 2 * (count - 1) * bytes;
}

// down(silu(up x)) of some of the hidden numbers: the sums of all slices are the block's result.
struct slice {
    nb::packed<weights_format> up, down;

    // Hidden numbers [first, first + count), multiples of the weights' groups, so that codes are those of the whole.
    slice(const std::vector<float>& up_weights, const std::vector<float>& down_weights, std::size_t width,
          std::size_t first, std::size_t count) {
        const std::size_t inner = up_weights.size() / width;
        up = nb::pack(nb::quantize<weights_format>({up_weights.data() + first * width, count, width}));
        // Columns of a matrix: a view whose rows are as far apart as those of the whole.
        down = nb::pack(nb::quantize<weights_format>({down_weights.data() + first, width, count, inner}));
    }
    [[nodiscard]] std::vector<float> forward(const std::vector<float>& x) const {
        const std::size_t tokens = x.size() / up.cols();
        std::vector<float> h(tokens * up.rows()), y(tokens * down.rows());
        nb::gemm({x.data(), tokens, up.cols()}, up, {h.data(), tokens, up.rows()}, nb::silu);
        nb::gemm({h.data(), tokens, up.rows()}, down, {y.data(), tokens, down.rows()});
        return y;
    }
};

double error_of(const std::vector<float>& y, const std::vector<float>& exact) {
    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
        noise += std::pow(double{y[i]} - double{exact[i]}, 2);
        signal += std::pow(double{exact[i]}, 2);
    }
    return std::sqrt(noise / signal);
}

int run(const ranks& of) {
    const std::size_t width = 256, inner = 1024, tokens = 8;
    std::mt19937 random; // the same numbers on every rank; an engine reads its slice of a file
    std::normal_distribution<float> normal;
    std::vector<float> up(inner * width), down(width * inner), x(tokens * width);
    for (auto* values : {&up, &down, &x})
        for (float& v : *values) v = normal(random);

    const auto count = static_cast<std::size_t>(of.count), own = static_cast<std::size_t>(of.own);
    const std::size_t groups = inner / 32, first = groups * own / count * 32;
    const slice mine(up, down, width, first, groups * (own + 1) / count * 32 - first);
    const std::vector<float> partial = mine.forward(x);

    std::vector<float> plain(partial.size()), quantized = partial;
    MPI_Allreduce(partial.data(), plain.data(), static_cast<int>(plain.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    const std::size_t sent = all_reduce_quantized(quantized, of);
    const std::size_t sent_plain = 2 * (count - 1) * (plain.size() / count) * sizeof(float); // by a ring

    // Do all ranks have the bits of rank 0?
    std::vector<float> theirs = quantized;
    MPI_Bcast(theirs.data(), static_cast<int>(theirs.size()), MPI_FLOAT, 0, MPI_COMM_WORLD);
    int same = std::memcmp(theirs.data(), quantized.data(), theirs.size() * sizeof(float)) == 0 ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);

    const std::vector<float> whole = slice(up, down, width, 0, inner).forward(x);
    const double of_plain = error_of(plain, whole), of_quantized = error_of(quantized, whole);
    if (of.own == 0) {
        std::printf("%d ranks; against one process: fp32 all-reduce %.1e, in 8-bit blocks %.2f %%\n", of.count,
                    of_plain, 100 * of_quantized);
        std::printf("%zu bytes sent by a rank instead of %zu; %s on all ranks\n", sent, sent_plain,
                    same != 0 ? "the same bits" : "DIFFERENT");
    }
    return same != 0 && of_plain < 1e-5 && of_quantized < 0.015 ? 0 : 1;
}

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    const int result = run(ranks());
    MPI_Finalize();
    return result;
}
#endif
