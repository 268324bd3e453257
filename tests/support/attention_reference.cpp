// attention_reference.cpp: attention by its definition; compiled once and optimised, since most of the time of the
// tests of attention is spent here.
#include "attention_reference.hpp"

#include "random.hpp"

#include <nibble/attend.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/kv_cache.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

namespace attend_test {

matrix matrix::normal(std::size_t r, std::size_t c, std::uint64_t seed) {
    // Every pair of schemes is asked about the same few matrices, and logarithms and cosines take longer than the
    // kernels.
    static std::map<std::uint64_t, std::vector<float>> drawn;
    static std::size_t held = 0;
    if (held > (std::size_t{1} << 24)) {
        drawn.clear();
        held = 0;
    }
    std::vector<float>& numbers = drawn[seed];
    held -= numbers.size();
    for (std::size_t i = numbers.size(); i < r * c; ++i) numbers.push_back(nibble_test::random_normal(seed, i));
    held += numbers.size();
    matrix m(r, c);
    std::copy_n(numbers.data(), r * c, m.at.data());
    return m;
}

std::vector<double> turned(const nibble::rotary_embedding& r, const float* x, std::size_t size, std::size_t position) {
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

reference_attention attend_by_definition(const sequence& cache, const_view q, const nibble::attend_options& options,
                                         bool integer_scores, bool integer_values, bool along, std::size_t first_row) {
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
        // By channels, so that the products with all tokens are summed side by side, each in the order of channels.
        std::vector<double> keys(o.head_size * size);
        for (std::size_t t = 0; t < size; ++t) {
            const std::vector<double> key = turned(rotary, k.row(t), o.head_size, t);
            for (std::size_t c = 0; c < o.head_size; ++c) keys[c * size + t] = key[c];
        }
        // A value that is not finite spoils its token too, whatever its weight.
        std::vector<bool> finite(size, true);
        std::vector<double> key_top(size), value_top(size), channel_top(o.head_size);
        for (std::size_t t = 0; t < size; ++t) {
            for (std::size_t c = 0; c < o.head_size; ++c) {
                const double a = std::abs(static_cast<double>(k.row(t)[c]));
                key_top[t] = std::max(key_top[t], a);
                channel_top[c] = std::max(channel_top[c], a);
            }
            for (std::size_t c = 0; c < o.value_size; ++c) {
                value_top[t] = std::max(value_top[t], std::abs(static_cast<double>(v.row(t)[c])));
                finite[t] = finite[t] && std::isfinite(v.row(t)[c]);
            }
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
                std::vector<double> dots(size, 0.0);
                for (std::size_t c = 0; c < o.head_size; ++c) {
                    const double by = turned_query[c];
                    const double* key = keys.data() + c * size;
                    for (std::size_t t = 0; t < size; ++t) dots[t] += by * key[t];
                }
                std::vector<double> s(size, -inf);
                double top = -inf, off = 0.0;
                bool sees = false;
                for (std::size_t t = 0; t < size; ++t) {
                    if (t >= last || (t < first && t >= o.sinks)) continue;
                    double sum = finite[t] ? dots[t] : nan;
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
                for (double& x : s) all += x = x == -inf ? 0.0 : std::exp(x - shift);
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
                for (std::size_t t = 0; t < size; ++t) {
                    if (s[t] == 0.0) continue;
                    const double weight = s[t] / all;
                    const float* value = v.row(t);
                    for (std::size_t c = 0; c < o.value_size; ++c) out[c] += weight * static_cast<double>(value[c]);
                }
                for (std::size_t c = 0; c < o.value_size; ++c)
                    bound[c] = (grows - 1.0) * largest +
                               (static_cast<double>(size) + 16.0) * eps * 3.0 * largest * grows +
                               (integer_values ? stepped * grows : 0.0) + 1e-37;
                r.bound_log[i * heads + h] =
                    off + (static_cast<double>(size) + 16.0) * eps + 2.0 * eps * std::abs(log_sum);
            }
    }
    for (std::size_t i = 0; i < r.exact.size(); ++i) r.out.at[i] = static_cast<float>(r.exact[i]);
    for (std::size_t i = 0; i < r.exact_log.size(); ++i) r.log_sums.at[i] = static_cast<float>(r.exact_log[i]);
    return r;
}

} // namespace attend_test
