// gemm_epilogue_mutable.cpp: an epilogue that changes itself: threads share it.
// expect: while const
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(matrix_view<const float> x, const packed<int4_g32>& w, matrix_view<float> y) {
    gemm(x, w, y, [n = 0](auto v, const position&) mutable { return ++n, v; });
}
