// kv_cache_values.cpp: values are stored in panels of 16 channels, which a group must fill.
// expect: kv_cache: groups of values must be multiples of 16 channels
#include <nibble/kv_cache.hpp>
using namespace nibble;
detail::value_layout<group_scheme<int8, 8>> use;
