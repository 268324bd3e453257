// gemm_quantized_braces.cpp: weights that are not packed, with all else in braces.
// expect: gemm: these weights are not packed: pass pack\(weights\)
#include <nibble/gemm.hpp>
#include <nibble/scheme/formats.hpp>
using namespace nibble;
void use(float* p, const quantized<int4_g32>& w, workspace& memory) {
    gemm({p, 1, 1}, w, {p, 1, 1}, identity{}, {.workspace = &memory});
}
