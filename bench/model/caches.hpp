// caches.hpp: caches of keys and values in every format: the numbers rounded as a format would, attended to in fp32;
// and the kernels' own, whose products with integers are integer products.
#pragma once

#include "support/scheme.hpp"

#include "cache.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace bench {

// A cache in fp32 whose numbers have been through the formats of keys and of values: what storing them costs by itself.
[[nodiscard]] std::unique_ptr<sequence_cache> rounded_cache(const cache_shape& shape, const scheme& keys,
                                                            const scheme& values);

struct cache_kernel {
    std::string_view keys, values;
    std::unique_ptr<sequence_cache> (*make)(const cache_shape& shape);
    double (*bits)(std::size_t head_size); // of a number of keys and values, with its share of scales
};
// Pairs with kernels, from many bits to few.
[[nodiscard]] const std::vector<cache_kernel>& cache_kernels();

} // namespace bench
