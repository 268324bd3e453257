// names.cpp: the names alone, as in an engine's own headers.
// bar: 0.3 s
#include <nibble/fwd.hpp>
