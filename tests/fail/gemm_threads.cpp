// gemm_threads.cpp: a number of threads instead of an executor.
// expect: gemm: the last argument must be an executor
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& w, matrix_view<float> y) {
    gemm(x, w, y, gemm_options{}, 4);
}
