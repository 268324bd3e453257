// attention_reference.hpp: attention by its definition, in double, over what a cache says it holds; and how far from it
// the library may be.
#pragma once

#include "support/kv_pair.hpp"

#include <nibble/attend.hpp>
#include <nibble/cache/transform.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace attend_test {

struct matrix {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<float> at;
    matrix() = default;
    matrix(std::size_t r, std::size_t c, float value = 0.0f) : rows(r), cols(c), at(r * c, value) {}
    [[nodiscard]] static matrix normal(std::size_t r, std::size_t c, std::uint64_t seed);
    [[nodiscard]] float* row(std::size_t i) { return at.data() + i * cols; }
    [[nodiscard]] const float* row(std::size_t i) const { return at.data() + i * cols; }
    [[nodiscard]] operator view() { return {at.data(), rows, cols}; }
    [[nodiscard]] operator const_view() const { return {at.data(), rows, cols}; }
    [[nodiscard]] const_view part(std::size_t first, std::size_t count) const {
        return {at.data() + first * cols, count, cols};
    }
};

// Keys and values of a number of tokens, appended in pieces.
struct tokens {
    matrix k, v;
    tokens() = default;
    tokens(const nibble::kv_cache_options& o, std::size_t count, std::uint64_t seed)
        : k(matrix::normal(count, o.heads * o.head_size, seed)),
          v(matrix::normal(count, o.heads * (o.value_size == 0 ? o.head_size : o.value_size), seed + 1000)) {}
    // And stored, but for windows and groups that are not complete.
    void append_to(sequence& s, std::size_t first, std::size_t count) const {
        s.append(k.part(first, count), v.part(first, count));
        s.flush();
    }
    void append_to(sequence& s) const { append_to(s, 0, k.rows); }
    // In chunks of a size; from what is there already.
    void append_rest(sequence& s, std::size_t chunk) const {
        while (s.size() < k.rows) append_to(s, s.size(), std::min(chunk, k.rows - s.size()));
    }
};

struct reference_attention {
    matrix out, log_sums;      // rounded to fp32 for reading; compared in double below
    std::vector<double> exact; // queries x (heads x value_size)
    std::vector<double> exact_log;
    std::vector<double> bound;     // of each number of out
    std::vector<double> bound_log; // of each log-sum
};

// x of one head, in double, turned by its position as a rotary embedding says.
[[nodiscard]] std::vector<double> turned(const nibble::rotary_embedding& r, const float* x, std::size_t size,
                                         std::size_t position);

// The last q.rows tokens' queries, or those from `first_position` on. Bounds hold for the precision in the options and
// follow from the arithmetic: fp32 sums of D products and of T weights, a query step of 1/254 of the largest, a weight
// step of 1/254 of the largest in 256 tokens.
[[nodiscard]] reference_attention attend_by_definition(const sequence& cache, const_view q,
                                                       const nibble::attend_options& options, bool integer_scores,
                                                       bool integer_values, bool along, std::size_t first_row = 0);
[[nodiscard]] inline reference_attention attend_by_definition(const kv_pair& pair, const sequence& cache, const_view q,
                                                              const nibble::attend_options& options,
                                                              std::size_t first_row = 0) {
    using precision = nibble::attention_precision;
    return attend_by_definition(cache, q, options, options.precision != precision::fp32 && pair.integer_keys(),
                                options.precision == precision::integer && pair.integer_values(),
                                pair.tokens_per_group() != 0, first_row);
}

// "", or where `got` is out of bounds.
[[nodiscard]] inline std::string outside(const reference_attention& want, const_view got) {
    for (std::size_t i = 0; i < got.rows(); ++i)
        for (std::size_t j = 0; j < got.cols(); ++j) {
            const double w = want.exact[i * got.cols() + j];
            const double g = static_cast<double>(got(i, j));
            if (std::isnan(w) ? std::isnan(g) : std::abs(g - w) <= want.bound[i * got.cols() + j]) continue;
            return "query " + std::to_string(i) + " number " + std::to_string(j) + ": " + std::to_string(g) +
                   " instead of " + std::to_string(w) + " within " + std::to_string(want.bound[i * got.cols() + j]);
        }
    return {};
}
[[nodiscard]] inline std::string log_sums_outside(const reference_attention& want, const_view got) {
    for (std::size_t i = 0; i < got.rows(); ++i)
        for (std::size_t j = 0; j < got.cols(); ++j) {
            const double w = want.exact_log[i * got.cols() + j];
            const double g = static_cast<double>(got(i, j));
            if (std::isnan(w) ? std::isnan(g) : g == w || std::abs(g - w) <= want.bound_log[i * got.cols() + j])
                continue;
            return "query " + std::to_string(i) + " head " + std::to_string(j) + ": log-sum " + std::to_string(g) +
                   " instead of " + std::to_string(w);
        }
    return {};
}
// The largest difference in a row over the row's largest number, of all rows and heads.
[[nodiscard]] inline double relative_error(const reference_attention& want, const_view got, std::size_t value_size) {
    double worst = 0.0;
    for (std::size_t i = 0; i < got.rows(); ++i)
        for (std::size_t h = 0; h < got.cols(); h += value_size) {
            double top = 0.0, off = 0.0;
            for (std::size_t j = h; j < h + value_size; ++j) {
                const double w = want.exact[i * got.cols() + j];
                top = std::max(top, std::abs(w));
                off = std::max(off, std::abs(static_cast<double>(got(i, j)) - w));
            }
            if (off != 0.0) worst = std::max(worst, off / top);
        }
    return worst;
}

} // namespace attend_test
