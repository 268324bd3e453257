// gemm_const_result.cpp: a result that cannot be written.
// expect: gemm: y must be a matrix_view of float, float16_t or bfloat16_t that can be written
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(const prepared_activations& x, const packed<int4_g32>& w, matrix_view<const float> y) {
    gemm(x, w, y);
}
