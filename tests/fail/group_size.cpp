// group_size.cpp: a group of 6 columns is refused.
// expect: per_group: the group size must be a positive multiple of 4
#include <nibble/scheme/formats.hpp>
using namespace nibble;
constexpr std::size_t use = per_group<6>::count(1, 1);
