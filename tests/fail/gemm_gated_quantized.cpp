// gemm_gated_quantized.cpp: gate and up that are not packed.
// expect: gemm: these weights are not packed: pass pack\(weights\)
#include <nibble/epilogue/activation.hpp>
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const quantized<int4_g32>& w, matrix_view<float> y) {
    gemm_gated(x, w, w, y, silu);
}
