// gemm_slice_0.cpp: one share of the formats (support/gemm_format.hpp says why).
#include "support/gemm_format_slice.hpp"

template std::vector<std::unique_ptr<gemm_test::gemm_format>> gemm_test::make_gemm_slice<0>();
