// include.cpp: everything, used for nothing.
// bar: 2 s
#include <nibble/nibble.hpp>
