// parts.cpp: attention over several caches at once, whose parts are merged: full precision for the newest tokens and
// low rank for the rest (CSKV), more bits for the tokens that matter (ZipVL); and the mass by which those are chosen.
#include "support/attended.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/executors.hpp"
#include "support/random.hpp"

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;
using result = attended_result;

namespace {

constexpr std::array precisions{nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                nb::attention_precision::integer};

void append(auto& cache, const matrix& k, const matrix& v) {
    cache.append(static_cast<const_view>(k), static_cast<const_view>(v));
    cache.flush();
}
void merge(result& into, const result& from) {
    nb::merge_attention(into.out, into.sums, from.out, from.sums);
}
// The largest difference; and over the largest number of `want`.
double furthest(const matrix& got, const matrix& want) {
    double off = 0.0;
    for (std::size_t i = 0; i < want.at.size(); ++i)
        off = std::max(off, std::abs(static_cast<double>(got.at[i]) - static_cast<double>(want.at[i])));
    return off;
}
double relative(const matrix& got, const matrix& want) {
    double top = 0.0;
    for (const float x : want.at) top = std::max(top, std::abs(static_cast<double>(x)));
    return furthest(got, want) / top;
}
double relative_mean_square(const matrix& got, const matrix& want) {
    double error = 0.0, power = 0.0;
    for (std::size_t i = 0; i < want.at.size(); ++i) {
        const double w = static_cast<double>(want.at[i]);
        const double d = static_cast<double>(got.at[i]) - w;
        error += d * d;
        power += w * w;
    }
    return error / power;
}
// x, tokens x (heads x from), times a matrix [head][from][to] head by head.
matrix times(const matrix& x, const std::vector<float>& by, std::size_t heads, std::size_t keys, std::size_t from,
             std::size_t to) {
    matrix y(x.rows, heads * to);
    for (std::size_t i = 0; i < x.rows; ++i)
        for (std::size_t h = 0; h < heads; ++h)
            for (std::size_t c = 0; c < to; ++c) {
                double sum = 0.0;
                for (std::size_t j = 0; j < from; ++j)
                    sum += static_cast<double>(x.row(i)[h * from + j]) *
                           static_cast<double>(by[(h * keys / heads * from + j) * to + c]);
                y.row(i)[h * to + c] = static_cast<float>(sum);
            }
    return y;
}

} // namespace

TEST_CASE("the newest tokens and all before them are the whole, whatever a query's position") {
    nb::kv_cache_options o;
    o.heads = 2;
    o.head_size = 40;
    o.value_size = 56;
    o.capacity = 1400;
    const tokens t(o, 1300, 1);
    const matrix q = matrix::normal(70, 4 * 40, 2);
    const auto check = [&]<class S>(S) {
        nb::kv_cache<S, S> cache(o);
        append(cache, t.k, t.v);
        for (const std::size_t newest : {1u, 50u, 256u, 700u, 1290u, 5000u})
            for (const float cap : {0.0f, 3.0f}) {
                nb::attend_options options;
                options.precision = nb::attention_precision::integer_scores;
                options.soft_cap = cap;
                const result want = attended(cache, q, options);
                options.window = newest;
                result got = attended(cache, q, options);
                options.window = 0;
                options.exclude_recent = newest;
                const result old = attended(cache, q, options);
                CHECK(same_bits(attended(cache, q, options, 3).out, old.out));
                merge(got, old);
                INFO("the newest " << newest);
                // Each is a weighted mean of 1300 values at most, all terms and sums rounded once; joining rounds a few
                // times more.
                double largest = 0.0, logarithm = 0.0;
                for (const float x : t.v.at) largest = std::max(largest, 1.01 * std::abs(static_cast<double>(x)));
                for (const float x : want.sums.at) logarithm = std::max(logarithm, std::abs(static_cast<double>(x)));
                CHECK(furthest(got.out, want.out) <= 2.0 * 1316.0 * 0x1p-24 * largest);
                CHECK(furthest(got.sums, want.sums) <= 2.0 * 1316.0 * 0x1p-24 + 4.0 * 0x1p-24 * logarithm);
                // A query whose tokens are all that new sees none.
                if (newest > 1300)
                    CHECK(std::all_of(old.sums.at.begin(), old.sums.at.end(), [](float x) { return std::isinf(x); }));
            }
    };
    check(nb::f32_plain{});
    check(nb::int8_channel{});
    nb::kv_cache<nb::f16_plain, nb::f16_plain> cache(o);
    append(cache, t.k, t.v);
    nb::attend_options options;
    options.exclude_recent = 3;
    options.causal = false;
    CHECK(broken_by([&] { (void)attended(cache, q, options); }).find("exclude_recent") != std::string::npos);
}

TEST_CASE("a part that is not a number makes the whole none") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float none = -std::numeric_limits<float>::infinity();
    for (const float other : {none, 0.5f, nan})
        for (const bool first : {true, false}) {
            result bad{matrix(1, 2, nan), matrix(1, 1, nan)}, good{matrix(1, 2, 1.0f), matrix(1, 1, other)};
            result& into = first ? bad : good;
            merge(into, first ? good : bad);
            CHECK(std::isnan(into.out.at[0]));
            CHECK(std::isnan(into.out.at[1]));
            CHECK(std::isnan(into.sums.at[0]));
        }
}

TEST_CASE("a token's mass is the sum of its weights") {
    for (const bool waiting : {false, true}) {
        nb::kv_cache_options o;
        o.heads = 2;
        o.head_size = 48;
        o.capacity = 1200;
        if (waiting) {
            o.key_window = 30;
            o.sinks = 5;
        }
        const tokens t(o, 1111, 3);
        nb::kv_cache<nb::int8_channel, nb::int8_channel> cache(o);
        append(cache, t.k, t.v);
        const matrix q = matrix::normal(21, 6 * 48, 4);
        matrix mask(21, 1111);
        for (std::size_t i = 0; i < mask.at.size(); i += 7) mask.at[i] = -std::numeric_limits<float>::infinity();
        const std::vector<float> sinks{0.0f, 1.0f, 4.0f, -1.0f, 2.0f, 0.0f};
        for (const auto precision : precisions)
            for (int kind = 0; kind < 4; ++kind) {
                nb::attend_options options;
                options.precision = precision;
                if (kind == 1) options.window = 300;
                if (kind == 2) options.mask = mask;
                if (kind == 3) options.sink_scores = sinks;
                const result r = attended(cache, q, options);
                // The weights themselves: values that name their token.
                std::vector<double> want(2 * 1111);
                double step = 0.0; // what a score may be off by: of sums of 48 products, and of queries in 8 bits
                for (std::size_t h = 0; h < 2; ++h) {
                    matrix keys(1111, 48);
                    cache.read_keys(h, 0, keys);
                    for (std::size_t i = 0; i < 21; ++i)
                        for (std::size_t g = 3 * h; g < 3 * h + 3; ++g) {
                            const std::size_t position = 1111 - 21 + i;
                            std::vector<double> s(1111, 0.0);
                            double all = kind == 3 ? std::exp(static_cast<double>(sinks[g])) : 0.0;
                            for (std::size_t n = 0; n <= position; ++n) {
                                if (kind == 1 && position - n >= 300 && n >= o.sinks) continue;
                                if (kind == 2 && std::isinf(mask.row(i)[n])) continue;
                                double sum = 0.0, products = 0.0, top = 0.0, key = 0.0;
                                for (std::size_t c = 0; c < 48; ++c) {
                                    const double a = static_cast<double>(q.row(i)[g * 48 + c]);
                                    const double b = static_cast<double>(keys.row(n)[c]);
                                    sum += a * b;
                                    products += std::abs(a * b);
                                    top = std::max(top, std::abs(a));
                                    key += std::abs(b);
                                }
                                const double of_steps =
                                    precision == nb::attention_precision::fp32 ? 0.0 : top / 254.0 * key;
                                step = std::max(step, (60.0 * 0x1p-24 * products + of_steps) / std::sqrt(48.0));
                                all += s[n] = std::exp(sum / std::sqrt(48.0));
                            }
                            for (std::size_t n = 0; n <= position; ++n) want[h * 1111 + n] += s[n] / all;
                        }
                }
                matrix mass(2, 1111, -1.0f), other(2, 1111, -1.0f);
                nb::attention_mass(static_cast<const_view>(q), cache, r.sums, mass, options);
                nb::attention_mass(static_cast<const_view>(q), cache, r.sums, other, options, test_executor{3});
                CHECK(same_bits(mass, other));
                // A weight is off by its score's error and its log-sum's; that is a sum of 1111 terms, the mass one
                // of 63.
                const double within = std::exp(2.0 * step) - 1.0 + (1111.0 + 63.0 + 32.0) * 0x1p-24;
                double off = 0.0, sum = 0.0;
                for (std::size_t i = 0; i < want.size(); ++i) {
                    if (want[i] != 0.0)
                        off = std::max(off, std::abs(static_cast<double>(mass.at[i]) - want[i]) / want[i]);
                    if (want[i] == 0.0 && mass.at[i] != 0.0f) off = 1.0;
                    sum += static_cast<double>(mass.at[i]);
                }
                INFO("precision " << static_cast<int>(precision) << ", kind " << kind << (waiting ? " waiting" : ""));
                CHECK(off <= within);
                CHECK(within < (precision == nb::attention_precision::fp32 ? 1e-3 : 0.5));
                if (kind != 3) CHECK(std::abs(sum - 21.0 * 6.0) <= 2.0 * 1174.0 * 0x1p-24 * 21.0 * 6.0);
            }
        matrix mass(2, 1111), few(1, 1111);
        CHECK(broken_by([&] { nb::attention_mass(static_cast<const_view>(q), cache, mass, few); }).find("log_sums") !=
              std::string::npos);
        const matrix sums(21, 6);
        nb::attend_options unknown;
        unknown.precision = static_cast<nb::attention_precision>(9);
        CHECK(broken_by([&] {
                  nb::attention_mass(static_cast<const_view>(q), cache, sums, mass, unknown);
              }).find("precision") != std::string::npos);
        CHECK(broken_by([&] {
                  nb::attention_mass(static_cast<const_view>(q), cache, sums, few);
              }).find("heads x tokens") != std::string::npos);
    }
}

TEST_CASE("important tokens are the fewest that have the share") {
    matrix mass(2, 5);
    mass.at = {0.5f, 0.0f, 2.0f, 0.25f, 0.25f, 0.5f, 1.0f, 4.0f, 0.75f, 0.75f}; // sums 1, 1, 6, 1, 1
    using list = std::vector<std::uint32_t>;
    CHECK(nb::important_tokens(mass, 0.0) == list{});
    CHECK(nb::important_tokens(mass, 0.6) == list{2});
    CHECK(nb::important_tokens(mass, 0.61) == list{0, 2});
    CHECK(nb::important_tokens(mass, 0.8) == list{0, 1, 2});
    CHECK(nb::important_tokens(mass, 1.0) == list{0, 1, 2, 3, 4});
    mass.at[0] = std::numeric_limits<float>::quiet_NaN();
    CHECK(nb::important_tokens(mass, 0.6) == list{2});
    CHECK(nb::important_tokens(matrix(1, 0), 0.5).empty());
    CHECK(broken_by([&] { (void)nb::important_tokens(mass, 1.5); }).find("share") != std::string::npos);
}

TEST_CASE("CSKV: low rank for old tokens and full precision for the newest, exact at full rank") {
    // Keys and values are latents x a matrix per head, plus what the latents miss: the directions beyond the rank.
    constexpr std::size_t heads = 2, size = 32, count = 700, newest = 64;
    std::vector<double> errors;
    for (const std::size_t rank : {8u, 16u, 32u}) {
        // An orthogonal matrix: its first `rank` rows span the latents, whose variance falls from one direction to the
        // next.
        std::vector<float> basis(heads * size * size);
        for (std::size_t h = 0; h < heads; ++h) {
            std::vector<double> rows(size * size);
            const std::vector<float> noise = nibble_test::normal_values(size * size, 10 + h);
            for (std::size_t i = 0; i < size; ++i) {
                for (std::size_t c = 0; c < size; ++c) rows[i * size + c] = static_cast<double>(noise[i * size + c]);
                for (std::size_t pass = 0; pass < 2; ++pass)
                    for (std::size_t j = 0; j < i; ++j) {
                        double dot = 0.0;
                        for (std::size_t c = 0; c < size; ++c) dot += rows[i * size + c] * rows[j * size + c];
                        for (std::size_t c = 0; c < size; ++c) rows[i * size + c] -= dot * rows[j * size + c];
                    }
                double norm = 0.0;
                for (std::size_t c = 0; c < size; ++c) norm += rows[i * size + c] * rows[i * size + c];
                for (std::size_t c = 0; c < size; ++c) rows[i * size + c] /= std::sqrt(norm);
            }
            for (std::size_t i = 0; i < size * size; ++i) basis[h * size * size + i] = static_cast<float>(rows[i]);
        }
        matrix latents = matrix::normal(count, heads * size, 5), value_latents = matrix::normal(count, heads * size, 6);
        for (std::size_t t = 0; t < count; ++t)
            for (std::size_t c = 0; c < heads * size; ++c) {
                const float falls = std::exp2(-0.25f * static_cast<float>(c % size));
                latents.row(t)[c] *= 2.0f * falls;
                value_latents.row(t)[c] *= falls;
            }
        const matrix k = times(latents, basis, heads, heads, size, size);
        const matrix v = times(value_latents, basis, heads, heads, size, size);
        const auto first = [&](const matrix& x) {
            matrix y(x.rows, heads * rank);
            for (std::size_t t = 0; t < x.rows; ++t)
                for (std::size_t c = 0; c < y.cols; ++c) y.row(t)[c] = x.row(t)[c / rank * size + c % rank];
            return y;
        };
        nb::kv_cache_options o;
        o.heads = heads;
        o.head_size = size;
        o.capacity = count;
        nb::kv_cache<nb::f32_plain, nb::f32_plain> full(o);
        append(full, k, v);
        const matrix q = matrix::normal(9, 4 * size, 7);
        const result want = attended(full, q, {.precision = nb::attention_precision::fp32});
        // The window: pages of old tokens go back.
        full.evict_before(count - 9 - newest);
        o.head_size = rank;
        nb::kv_cache<nb::f32_plain, nb::f32_plain> low(o);
        append(low, first(latents), first(value_latents));
        // Queries meet latents through the matrix of the keys, and sums of latents go through that of the values.
        std::vector<float> down(heads * size * rank), up(heads * rank * size);
        for (std::size_t h = 0; h < heads; ++h)
            for (std::size_t i = 0; i < rank; ++i)
                for (std::size_t c = 0; c < size; ++c) {
                    const float x = basis[(h * size + i) * size + c];
                    down[(h * size + c) * rank + i] = x;
                    up[(h * rank + i) * size + c] = x;
                }
        const float scale = 1.0f / std::sqrt(static_cast<float>(size));
        const result latent =
            attended(low, times(q, down, 4, heads, size, rank),
                     {.exclude_recent = newest, .scale = scale, .precision = nb::attention_precision::fp32});
        result got = attended(full, q, {.window = newest, .scale = scale, .precision = nb::attention_precision::fp32});
        merge(got, {times(latent.out, up, 4, heads, rank, size), latent.sums});
        errors.push_back(relative_mean_square(got.out, want.out));
        if (rank == size) CHECK(relative(got.out, want.out) < 1e-5);
    }
    INFO(errors[0] << " " << errors[1] << " " << errors[2]);
    CHECK(errors[0] < 0.5);
    CHECK(errors[1] < 0.25 * errors[0]);
    CHECK(errors[2] < 1e-9);
}

TEST_CASE("ZipVL: four bits for the tokens that matter and two for the rest lie between four bits and two") {
    constexpr std::size_t size = 64, count = 600;
    nb::kv_cache_options o;
    o.head_size = size;
    o.capacity = count;
    tokens t(o, count, 20);
    // Queries that look at one token in twenty.
    matrix q = matrix::normal(16, 4 * size, 21);
    const std::vector<float> direction = nibble_test::normal_values(size, 22);
    for (std::size_t i = 0; i < count; i += 20)
        for (std::size_t c = 0; c < size; ++c) t.k.row(i)[c] += 1.2f * direction[c];
    for (float* row = q.at.data(); row != q.at.data() + q.at.size(); row += size)
        for (std::size_t c = 0; c < size; ++c) row[c] += direction[c];
    nb::attend_options options;
    options.causal = false;
    options.precision = nb::attention_precision::fp32;
    const auto uniform = [&]<class S>(S) {
        nb::kv_cache<S, S> cache(o);
        append(cache, t.k, t.v);
        return cache;
    };
    const auto exact = uniform(nb::f32_plain{});
    const result want = attended(exact, q, options);
    matrix mass(1, count);
    nb::attention_mass(static_cast<const_view>(q), exact, want.sums, mass, options);
    const std::vector<std::uint32_t> important = nb::important_tokens(mass, 0.9);
    CHECK(important.size() < count / 4);
    CHECK(important.size() >= count / 40);
    nb::kv_cache<nb::int4_g32_asym, nb::int4_g32_asym> more(o);
    nb::kv_cache<nb::int2_g32_asym, nb::int2_g32_asym> fewer(o);
    for (std::size_t i = 0; i < count; ++i) {
        const auto k = t.k.part(i, 1);
        const auto v = t.v.part(i, 1);
        if (std::binary_search(important.begin(), important.end(), static_cast<std::uint32_t>(i)))
            more.append(k, v);
        else
            fewer.append(k, v);
    }
    result mixed = attended(more, q, options);
    const double of_more = static_cast<double>(more.size());
    merge(mixed, attended(fewer, q, options));
    // The same tokens, each as its pool stores it, in one cache of fp32 numbers.
    nb::kv_cache<nb::f32_plain, nb::f32_plain> pools(o);
    const auto take = [&](const auto& from) {
        matrix k(from.size(), size), v(from.size(), size);
        from.read_keys(0, 0, k);
        from.read_values(0, 0, v);
        append(pools, k, v);
    };
    take(more);
    take(fewer);
    CHECK(relative(mixed.out, attended(pools, q, options).out) < 1e-5);
    const double four = relative_mean_square(attended(uniform(nb::int4_g32_asym{}), q, options).out, want.out);
    const double two = relative_mean_square(attended(uniform(nb::int2_g32_asym{}), q, options).out, want.out);
    const double between = relative_mean_square(mixed.out, want.out);
    INFO("4 bits " << four << ", 2 bits " << two << ", " << 100.0 * of_more / static_cast<double>(count)
                   << " % with 4 bits " << between);
    CHECK(between < 0.5 * two);
    CHECK(between > four);
}
