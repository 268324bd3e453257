// openblas.cpp: OpenBLAS's sgemm and sgemv, for the list of peers.
#include "peers.hpp"

#include <cblas.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>

namespace bench {
namespace {

int size(std::size_t value) {
    return static_cast<int>(value);
}

void openblas_product(nibble::matrix_view<const float> x, nibble::matrix_view<const float> weights,
                      nibble::matrix_view<float> y, executor_ref threads) {
    const int wanted = size(threads.concurrency());
    if (openblas_get_num_threads() != wanted) openblas_set_num_threads(wanted);
    if (x.rows() == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, size(weights.rows()), size(weights.cols()), 1.0f, weights.data(),
                    size(weights.stride()), x.data(), 1, 0.0f, y.data(), 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size(x.rows()), size(weights.rows()), size(x.cols()), 1.0f,
                    x.data(), size(x.stride()), weights.data(), size(weights.stride()), 0.0f, y.data(),
                    size(y.stride()));
}

} // namespace

void add_openblas(std::vector<peer>& peers) {
    for (const char* variable : {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"})
        if (const char* value = std::getenv(variable))
            std::fprintf(stderr,
                         "nibble_gemm: warning: %s=%s is set in the environment and may slow OpenBLAS; "
                         "unset it for a comparison\n",
                         variable, value);
    std::string core = openblas_get_corename();
    for (char& c : core) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    peers.push_back({make_float_scheme("openblas_f32", openblas_product), true, core, true});
}

} // namespace bench
