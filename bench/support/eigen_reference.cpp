// eigen_reference.cpp: the only unit of the program that compiles Eigen's products.
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own _mm512_extractf64x4_pd, inlined into Eigen, reads what it calls undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "eigen_reference.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cstddef>

namespace bench {
namespace {

template <class T> using row_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T> using rows_of = Eigen::Map<const row_major<T>, 0, Eigen::OuterStride<>>;
// y transposed: its columns are the rows of y, so Eigen writes column-major, as it does best.
template <class T>
using columns_of = Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>, 0, Eigen::OuterStride<>>;

Eigen::Index index(std::size_t value) {
    return static_cast<Eigen::Index>(value);
}

// Panels of at least 64 rows, and about four for each thread: long enough for Eigen's blocking, short enough that no
// thread waits long for the last one.
struct panels {
    std::size_t rows;
    std::size_t height;
    [[nodiscard]] std::size_t count() const { return (rows + height - 1) / height; }
    [[nodiscard]] std::size_t begin(std::size_t panel) const { return panel * height; }
    [[nodiscard]] std::size_t size(std::size_t panel) const { return std::min(height, rows - begin(panel)); }
};

panels cut(std::size_t rows, std::size_t threads) {
    const std::size_t wanted = rows / (4 * threads) / 16 * 16;
    return {rows, std::max<std::size_t>(64, wanted)};
}

} // namespace

void eigen_product(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                   nibble::matrix_view<float> y, executor_ref threads) {
    if (x.empty() || weights.empty()) return;
    const panels split = cut(weights.rows(), threads.concurrency());
    threads.parallel_for(split.count(), [&](std::size_t panel, std::size_t) {
        const std::size_t begin = split.begin(panel);
        const rows_of<float> w(weights.row(begin), index(split.size(panel)), index(weights.cols()),
                               Eigen::OuterStride<>(index(weights.stride())));
        if (x.rows() == 1) {
            const Eigen::Map<const Eigen::VectorXf> input(x.data(), index(x.cols()));
            Eigen::Map<Eigen::VectorXf> output(y.data() + begin, index(split.size(panel)));
            output.noalias() = w * input;
            return;
        }
        const rows_of<float> input(x.data(), index(x.rows()), index(x.cols()), Eigen::OuterStride<>(index(x.stride())));
        columns_of<float> output(y.data() + begin, index(split.size(panel)), index(x.rows()),
                                 Eigen::OuterStride<>(index(y.stride())));
        output.noalias() = w * input.transpose();
    });
}

void exact_product(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                   nibble::matrix_view<double> y, executor_ref threads) {
    if (x.empty() || weights.empty()) return;
    const rows_of<float> narrow(x.data(), index(x.rows()), index(x.cols()), Eigen::OuterStride<>(index(x.stride())));
    const row_major<double> input = narrow.cast<double>();
    const panels split{weights.rows(), 64}; // 64 rows widened at a time
    threads.parallel_for(split.count(), [&](std::size_t panel, std::size_t) {
        const std::size_t begin = split.begin(panel);
        const rows_of<float> w(weights.row(begin), index(split.size(panel)), index(weights.cols()),
                               Eigen::OuterStride<>(index(weights.stride())));
        const row_major<double> wide = w.cast<double>();
        columns_of<double> output(y.data() + begin, index(split.size(panel)), index(x.rows()),
                                  Eigen::OuterStride<>(index(y.stride())));
        output.noalias() = wide * input.transpose();
    });
}

} // namespace bench
