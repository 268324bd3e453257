// scheme_slice_3.cpp: one share of the formats (scheme_slice.hpp says why).
#include "scheme_slice.hpp"

template std::vector<std::unique_ptr<bench::scheme>> bench::make_slice<3>();
