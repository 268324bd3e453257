// kv_cache_keys.cpp: a scale that 128 tokens share cannot be known when the first of them comes.
// expect: kv_cache: a scheme must have per_channel .one scale per token., per_group, per_tensor
#include <nibble/kv_cache.hpp>
using namespace nibble;
constexpr std::size_t use = detail::key_format<fp8_e4m3_tile128>::tokens_per_group;
