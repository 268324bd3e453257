// gemm.cpp: one format from float weights to product.
// bar: 5 s
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

void product(nibble::matrix_view<const float> w, nibble::matrix_view<const float> x, nibble::matrix_view<float> y);
void product(nibble::matrix_view<const float> w, nibble::matrix_view<const float> x, nibble::matrix_view<float> y) {
    nibble::gemm(x, nibble::pack(nibble::quantize<nibble::int4_g128>(w)), y);
}
