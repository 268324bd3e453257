// kv_cache_along_tokens.cpp: groups along the tokens need a group size.
// expect: kv_cache: along_tokens needs a scheme with per_group of a multiple of 16, such as int4_g32_min
#include <nibble/kv_cache.hpp>
using namespace nibble;
constexpr std::size_t use = detail::key_format<along_tokens<int8_channel>>::tokens_per_group;
