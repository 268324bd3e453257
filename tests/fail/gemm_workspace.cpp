// gemm_workspace.cpp: a workspace where its options belong.
// expect: gemm: after the epilogue come gemm_options
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& w, matrix_view<float> y, workspace& memory) {
    gemm(x, w, y, identity{}, memory);
}
