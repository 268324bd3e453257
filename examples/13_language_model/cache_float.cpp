// cache_float.cpp: keys and values in floating point; and the list of all pairs.
#include "cache_unit.hpp"

std::vector<cache_pair> integer_caches();

std::vector<cache_pair>& cache_pairs() {
    static std::vector<cache_pair> pairs = [] {
        std::vector<cache_pair> all{cache_pair_of<nb::f32_plain, nb::f32_plain>("f32", "f32"),
                                    cache_pair_of<nb::f16_plain, nb::f16_plain>("f16", "f16")};
        for (const cache_pair& pair : integer_caches()) all.push_back(pair);
        return all;
    }();
    return pairs;
}
