// kv_slice_3.cpp: one share of the pairs of schemes (support/kv_pair.hpp says why).
#include "support/kv_pair_slice.hpp"

template std::vector<std::unique_ptr<attend_test::kv_pair>> attend_test::make_kv_slice<3>();
