// gemm_gated_schemes.cpp: gate and up in two schemes.
// expect: gemm_gated: gate and up must be packed in one scheme
#include <nibble/epilogue/activation.hpp>
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& g, const packed<int8_g32>& u, matrix_view<float> y) {
    gemm_gated(x, g, u, y, silu);
}
