// gemm_double.cpp: activations in double.
// expect: gemm: x must be a matrix_view of float, float16_t or bfloat16_t, or prepared_activations
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const double> x, const packed<int4_g32>& w, matrix_view<float> y) {
    gemm(x, w, y);
}
