// caches.hpp: what stands in caches of keys and values: numbers rounded as any format would, attended to in fp32; and
// the pairs of formats whose kernels are measured, among those that the example's cache has.
#pragma once

#include "support/scheme.hpp"

#include <nibble/adapt/thread_pool.hpp>

#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

namespace bench {

// Rounds keys and values through a format, a head of a token as a row, as caches have it: what storing them costs by
// itself. Keeps references.
[[nodiscard]] std::function<void(nibble::matrix_view<float> keys, nibble::matrix_view<float> values)>
rounding(const scheme& format, std::size_t head_size, const nibble::thread_pool& threads);

struct cache_kernel {
    std::string_view keys, values; // as the tables call them
    std::string_view key_format, value_format;
    [[nodiscard]] double bits(std::size_t head_size) const; // of a number, with its share of scales
};
// From many bits to few.
[[nodiscard]] const std::vector<cache_kernel>& cache_kernels();

} // namespace bench
