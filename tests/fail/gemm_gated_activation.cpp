// gemm_gated_activation.cpp: options where the activation of the gate belongs.
// expect: gemm_gated: after y comes the activation of the gate, such as silu
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& w, matrix_view<float> y) {
    gemm_gated(x, w, w, y, gemm_options{});
}
