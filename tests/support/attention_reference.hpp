// attention_reference.hpp: attention by its definition, in double, over what a cache says it holds; and how far from it
// the library may be.
#pragma once

#include "support/kv_pair.hpp"
#include "support/random.hpp"

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
    [[nodiscard]] static matrix normal(std::size_t r, std::size_t c, std::uint64_t seed) {
        matrix m(r, c);
        m.at = nibble_test::normal_values(r * c, seed);
        return m;
    }
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
[[nodiscard]] inline std::vector<double> turned(const nibble::rotary_embedding& r, const float* x, std::size_t size,
                                                std::size_t position) {
    std::vector<double> y(x, x + size);
    for (std::size_t i = 0; i < r.dims / 2; ++i) {
        const double frequency = r.frequencies.empty()
                                     ? std::pow(r.base, -2.0 * static_cast<double>(i) / static_cast<double>(r.dims))
                                     : r.frequencies[i];
        const double angle = static_cast<double>(position) * frequency;
        double& a = y[r.interleaved ? 2 * i : i];
        double& b = y[r.interleaved ? 2 * i + 1 : i + r.dims / 2];
        const double before = a;
        a = before * std::cos(angle) - b * std::sin(angle);
        b = before * std::sin(angle) + b * std::cos(angle);
    }
    return y;
}

// The last q.rows tokens' queries, or those from `first_position` on. Bounds hold for the precision in the options and
// follow from the arithmetic: fp32 sums of D products and of T weights, a query step of 1/254 of the largest, a weight
// step of 1/254 of the largest in 256 tokens.
[[nodiscard]] inline reference_attention attend_by_definition(const sequence& cache, const_view q,
                                                              const nibble::attend_options& options,
                                                              bool integer_scores, bool integer_values, bool along,
                                                              std::size_t first_row = 0) {
    const nibble::kv_cache_options& o = cache.options();
    const std::size_t size = cache.size();
    const std::size_t heads = q.cols() / o.head_size;
    const std::size_t group = heads / o.heads;
    const double eps = 0x1p-24;
    const nibble::rotary_embedding rotary =
        cache.key_transform() != nullptr ? cache.key_transform()->rotary : nibble::rotary_embedding{};
    integer_scores = integer_scores && rotary.dims == 0;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double inf = std::numeric_limits<double>::infinity();
    reference_attention r;
    r.out = matrix(q.rows(), heads * o.value_size);
    r.log_sums = matrix(q.rows(), heads);
    r.exact.resize(q.rows() * heads * o.value_size);
    r.bound.resize(r.exact.size());
    r.exact_log.resize(q.rows() * heads);
    r.bound_log.resize(q.rows() * heads);
    const double scale =
        options.scale != 0.0f ? static_cast<double>(options.scale) : 1.0 / std::sqrt(static_cast<double>(o.head_size));
    for (std::size_t kv = 0; kv < o.heads; ++kv) {
        // What is still there: sinks and [begin, size).
        matrix k(size, o.head_size);
        matrix v(size, o.value_size);
        const std::size_t sinks = std::min(o.sinks, size);
        const std::size_t rest = std::max(sinks, cache.begin());
        cache.read_keys(kv, 0, {k.at.data(), sinks, o.head_size});
        cache.read_values(kv, 0, {v.at.data(), sinks, o.value_size});
        if (rest < size) {
            cache.read_keys(kv, rest, {k.row(rest), size - rest, o.head_size});
            cache.read_values(kv, rest, {v.row(rest), size - rest, o.value_size});
        }
        std::vector<std::vector<double>> keys(size);
        for (std::size_t t = 0; t < size; ++t) keys[t] = turned(rotary, k.row(t), o.head_size, t);
        std::vector<double> key_top(size), value_top(size), channel_top(o.head_size);
        for (std::size_t t = 0; t < size; ++t) {
            for (std::size_t c = 0; c < o.head_size; ++c) {
                const double a = std::abs(static_cast<double>(k.row(t)[c]));
                key_top[t] = std::max(key_top[t], a);
                channel_top[c] = std::max(channel_top[c], a);
            }
            for (std::size_t c = 0; c < o.value_size; ++c)
                value_top[t] = std::max(value_top[t], std::abs(static_cast<double>(v.row(t)[c])));
        }
        for (std::size_t i = 0; i < q.rows(); ++i)
            for (std::size_t h = kv * group; h < (kv + 1) * group; ++h) {
                const float* query = q.row(i) + h * o.head_size;
                const std::size_t position = size - q.rows() + i;
                const std::size_t last = options.causal ? std::min(size, position + 1) : size;
                const std::size_t own = position + 1;
                const std::size_t first =
                    std::max(cache.begin(), options.window != 0 && own > options.window ? own - options.window : 0);
                const std::vector<double> turned_query = turned(rotary, query, o.head_size, position);
                double query_top = 0.0, query_sum = 0.0, along_top = 0.0;
                for (std::size_t c = 0; c < o.head_size; ++c) {
                    const double a = std::abs(static_cast<double>(query[c]) * scale);
                    query_top = std::max(query_top, a);
                    query_sum += a;
                    along_top = std::max(along_top, a * 3.0 * channel_top[c]);
                }
                std::vector<double> s(size, -inf);
                double top = -inf, off = 0.0;
                bool sees = false;
                for (std::size_t t = 0; t < size; ++t) {
                    if (t >= last || (t < first && t >= o.sinks)) continue;
                    double sum = 0.0;
                    for (std::size_t c = 0; c < o.head_size; ++c) sum += turned_query[c] * keys[t][c];
                    // A value that is not finite spoils its token too, whatever its weight.
                    for (std::size_t c = 0; c < o.value_size; ++c)
                        if (!std::isfinite(v.row(t)[c])) sum = nan;
                    const double products = query_sum * 3.0 * key_top[t];
                    double error = (static_cast<double>(o.head_size) + 8.0) * eps * products;
                    if (integer_scores)
                        error += along ? along_top * 2.0 * static_cast<double>(o.head_size) / 254.0
                                       : query_top / 254.0 * 3.0 * key_top[t] * static_cast<double>(o.head_size);
                    sum *= scale;
                    if (options.soft_cap != 0.0f) {
                        const double cap = static_cast<double>(options.soft_cap);
                        sum = cap * std::tanh(sum / cap);
                        error += 8.0 * eps * cap;
                    }
                    if (!options.slopes.empty()) {
                        const double add = static_cast<double>(options.slopes[h]) *
                                           (static_cast<double>(t) - static_cast<double>(position));
                        sum += add;
                        error += 2.0 * eps * std::abs(add);
                    }
                    if (!options.mask.empty()) {
                        const double add = static_cast<double>(options.mask(first_row + i, t));
                        if (add == -inf) continue; // not seen, whatever it is
                        sum += add;
                        if (std::isfinite(add)) error += 2.0 * eps * std::abs(add);
                    }
                    s[t] = sum;
                    sees = true;
                    if (sum == -inf) continue;
                    off = std::max(off, error + 4.0 * eps * std::abs(sum));
                    top = std::isnan(sum) || std::isnan(top) ? nan : std::max(top, sum);
                }
                double all = 0.0;
                const double sink = options.sink_scores.empty() ? -inf : static_cast<double>(options.sink_scores[h]);
                const double shift = std::isnan(top) ? nan : std::max(top, sink);
                double* out = r.exact.data() + i * heads * o.value_size + h * o.value_size;
                double* bound = r.bound.data() + i * heads * o.value_size + h * o.value_size;
                double& log_sum = r.exact_log[i * heads + h];
                bool bad = std::isnan(shift);
                for (std::size_t c = 0; c < o.head_size && sees; ++c) bad = bad || !std::isfinite(query[c]);
                if (bad || shift == -inf) {
                    log_sum = bad ? nan : -inf;
                    std::fill(out, out + o.value_size, bad ? nan : 0.0);
                    continue;
                }
                for (double& x : s) all += x = std::exp(x - shift);
                all += std::exp(sink - shift);
                log_sum = std::log(all) + shift;
                double largest = 0.0; // sum of weight x largest value of the token
                double stepped = 0.0; // what weights in steps may miss
                for (std::size_t block = 0; block < size; block += 256) {
                    double weight = 0.0, values = 0.0;
                    const std::size_t n = std::min<std::size_t>(256, size - block);
                    for (std::size_t t = block; t < block + n; ++t) {
                        if (s[t] == 0.0) continue;
                        weight = std::max(weight, s[t] / all);
                        largest += s[t] / all * value_top[t];
                    }
                    for (std::size_t t = block; t < block + n; ++t) values = std::max(values, value_top[t]);
                    stepped += weight * 3.0 * values * static_cast<double>(n) / 254.0;
                }
                const double grows = std::exp(2.0 * off);
                for (std::size_t c = 0; c < o.value_size; ++c) {
                    for (std::size_t t = 0; t < size; ++t)
                        if (s[t] != 0.0) out[c] += s[t] / all * static_cast<double>(v.row(t)[c]);
                    bound[c] = (grows - 1.0) * largest +
                               (static_cast<double>(size) + 16.0) * eps * 3.0 * largest * grows +
                               (integer_values ? stepped * grows : 0.0) + 1e-37;
                }
                r.bound_log[i * heads + h] =
                    off + (static_cast<double>(size) + 16.0) * eps + 2.0 * eps * std::abs(log_sum);
            }
    }
    for (std::size_t i = 0; i < r.exact.size(); ++i) r.out.at[i] = static_cast<float>(r.exact[i]);
    for (std::size_t i = 0; i < r.exact_log.size(); ++i) r.log_sums.at[i] = static_cast<float>(r.exact_log[i]);
    return r;
}
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
