// gemm_epilogue_any.cpp: an epilogue without a position, for weights of a format known at run time, with options in braces.
// expect: gemm: no epilogue: it must be callable as step\(x, at\)
#include <nibble/any.hpp>
using namespace nibble;
using list = format_list<named_format<"int4", int4_g32>>;
void use(const prepared_activations& x, const any_packed<list>& w, float* y, workspace& memory) {
    gemm(x, w, {y, 1, 1}, [](auto v) { return v; }, {.workspace = &memory});
}
