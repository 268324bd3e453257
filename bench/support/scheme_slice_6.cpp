// scheme_slice_6.cpp: one share of the formats (scheme_slice.hpp says why).
#include "scheme_slice.hpp"

template std::vector<bench::placed_scheme> bench::make_slice<6>();
