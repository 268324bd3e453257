// kv_cache_prefix_of_keys.cpp: values that are a prefix of the keys need keys whose scales belong to tokens.
// expect: kv_cache: with prefix_of_keys the keys must be a scheme whose groups are multiples of 16 channels, not along_tokens
#include <nibble/kv_cache.hpp>
using namespace nibble;
constexpr bool use = kv_pages<along_tokens<int4_g32>, prefix_of_keys>::stores_values;
using layout = kv_pages<along_tokens<int4_g32>, prefix_of_keys>::value_layout;
constexpr std::size_t size = sizeof(layout);
