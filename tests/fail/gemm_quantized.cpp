// gemm_quantized.cpp: weights that are not packed.
// expect: gemm: these weights are not packed: pass pack\(weights\)
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const quantized<int4_g32>& w, matrix_view<float> y) {
    gemm(x, w, y);
}
