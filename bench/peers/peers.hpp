// peers.hpp: other libraries' products behind the interface of a scheme, so that they are measured by the same loop.
#pragma once

#include "support/scheme.hpp"

#include <memory>
#include <string>
#include <vector>

namespace bench {

struct peer {
    std::unique_ptr<scheme> product; // name, weights, gemm
    bool fp32 = true;                // gives x w^T of the fp32 weights, but for rounding
    std::string isa;                 // what the library says it runs on, in lower case
    bool own_threads = false;        // computes with threads of its own, as many as the executor has
};

// Eigen's fp32 product and those of the libraries that the build found:
//   eigen_f32      this program's threads, as in nibble_compare
//   openblas_f32   sgemm, for one token sgemv, with OpenBLAS's own threads
//   onednn_f32     matmul of weights in the order that oneDNN asks for, with OpenMP's threads
//   onednn_u8s8    the same of bytes, per tensor: the product alone. Activations are u8 before the clock starts and the
//   result
//                  has no scale (y = sum over k of u8 times s8), so it does less than any gemm that takes and gives
//                  fp32.
// gemm sets the library's own number of threads to that of the executor.
[[nodiscard]] std::vector<peer> all_peers();

// An fp32 product of row-major matrices, y = x w^T.
using float_product = void (*)(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                               nibble::matrix_view<float> y, executor_ref threads);
[[nodiscard]] std::unique_ptr<scheme> make_float_scheme(std::string name, float_product product);

// Each appends its rows; defined where the library was found.
void add_openblas(std::vector<peer>& peers);
void add_onednn(std::vector<peer>& peers);

} // namespace bench
