// cxx17.cpp: an older language standard is refused in one sentence.
// flags: -std=c++17
// expect: nibble needs C\+\+20
#include <nibble/core/config.hpp>
