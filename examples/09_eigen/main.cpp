// Eigen matrices in and out, without a copy.
#include <nibble/adapt/eigen.hpp>
#include <nibble/nibble.hpp>

#include <Eigen/Dense>

#include <cstdio>

namespace nb = nibble;
using weight_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
    const Eigen::Index tokens = 6, outputs = 200, inputs = 320;
    const weight_matrix w = weight_matrix::Random(outputs, inputs);
    const auto weights = nb::pack(nb::quantize<nb::int8_channel>(nb::view(w)));

    // Row-major: one token per row, y = x wᵀ.
    const weight_matrix x = weight_matrix::Random(tokens, inputs);
    weight_matrix y(tokens, outputs);
    nb::gemm(nb::view(x), weights, nb::view(y));
    const float error = (y - x * w.transpose()).norm() / y.norm();

    // Eigen's default, column-major: one token per column, y = w x. In memory that is the transpose of the above.
    const Eigen::MatrixXf x_columns = x.transpose();
    Eigen::MatrixXf y_columns(outputs, tokens);
    auto y_rows = y_columns.transpose();
    nb::gemm(nb::view(x_columns.transpose()), weights, nb::view(y_rows));
    const bool same = y_columns == y.transpose();

    std::printf("int8_channel: error %.2f %%; column-major %s\n", 100.0 * static_cast<double>(error),
                same ? "the same" : "DIFFERENT");
    return same && error < 0.02f ? 0 : 1;
}
