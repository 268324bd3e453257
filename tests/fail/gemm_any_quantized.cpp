// gemm_any_quantized.cpp: weights of a format known at run time that are not packed.
// expect: gemm: these weights are not packed: pass pack\(weights\)
#include <nibble/any.hpp>
using namespace nibble;
using list = format_list<named_format<"int4", int4_g32>>;
void use(matrix_view<const float> x, const any_quantized<list>& w, matrix_view<float> y) {
    gemm(x, w, y);
}
