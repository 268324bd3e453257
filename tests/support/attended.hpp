// attended.hpp: results of attention over a kv_cache of a type, for tests of what only some types have.
#pragma once

#include "support/attention_reference.hpp"
#include "support/executors.hpp"

#include <nibble/attend.hpp>

#include <cstddef>
#include <cstring>

namespace attend_test {

struct attended_result {
    matrix out, sums;
};
template <class Cache>
[[nodiscard]] attended_result attended(const Cache& cache, const matrix& q, nibble::attend_options options,
                                       std::size_t workers = 1) {
    const std::size_t heads = q.cols / cache.options().head_size;
    attended_result r{matrix(q.rows, heads * cache.options().value_size, 3.0f), matrix(q.rows, heads, 3.0f)};
    options.log_sums = r.sums;
    nibble::attend(static_cast<const_view>(q), cache, static_cast<view>(r.out), options, test_executor{workers});
    return r;
}
[[nodiscard]] inline bool same_bits(const matrix& a, const matrix& b) {
    return a.at.size() == b.at.size() && std::memcmp(a.at.data(), b.at.data(), a.at.size() * sizeof(float)) == 0;
}

} // namespace attend_test
