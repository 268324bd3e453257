// gemm_epilogue.cpp: an epilogue that takes one result instead of eight and where they stand.
// expect: gemm: no epilogue: it must be callable as step\(x, at\)
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& w, matrix_view<float> y) {
    gemm(x, w, y, [](float v) { return 2.0f * v; });
}
