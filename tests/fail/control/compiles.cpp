// compiles.cpp: nothing is wrong here.
// expect: .
#include <nibble/core/config.hpp>
