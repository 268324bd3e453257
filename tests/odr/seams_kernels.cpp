// seams_kernels.cpp: the kernels of seams.cpp.
#include <nibble/instantiate.hpp>
#include <nibble/scheme/formats.hpp>

NIBBLE_INSTANTIATE_ACTIVATIONS();
NIBBLE_INSTANTIATE_GEMM(nibble::int4_g32);
NIBBLE_INSTANTIATE_ATTENTION();
NIBBLE_INSTANTIATE_KEYS(nibble::int4_g32);
NIBBLE_INSTANTIATE_VALUES(nibble::int4_g32);
