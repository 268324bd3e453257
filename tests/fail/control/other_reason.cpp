// other_reason.cpp: fails to compile, but not as said.
// expect: nibble needs C\+\+20
#include <nibble/core/config.hpp>
static_assert(1 == 2);
