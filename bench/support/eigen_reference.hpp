// eigen_reference.hpp: Eigen's product of the unquantized weights: the speed to beat in fp32, the truth in fp64.
#pragma once

#include "executor_ref.hpp"

#include <nibble/core/view.hpp>

namespace bench {

// y (M x N) = x (M x K) times the transposed weights (N x K), by Eigen in fp32. Eigen itself is single-threaded here
// (it threads through OpenMP only); each thread computes panels of weight rows, which is how a parallel BLAS cuts it
// too.
void eigen_product(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                   nibble::matrix_view<float> y, executor_ref threads);

// The same with weights and activations widened to fp64 and everything after that in fp64.
void exact_product(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                   nibble::matrix_view<double> y, executor_ref threads);

} // namespace bench
