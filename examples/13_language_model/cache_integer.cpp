// cache_integer.cpp: keys and values in integers, a scale per token and head or per 32 of its channels.
#include "cache_unit.hpp"

std::vector<cache_pair> integer_caches() {
    return {cache_pair_of<nb::int8_channel, nb::int8_channel>("int8", "int8"),
            cache_pair_of<nb::int4_g32, nb::int4_g32>("int4_g32", "int4_g32")};
}
