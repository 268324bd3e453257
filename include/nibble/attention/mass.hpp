// attention/mass.hpp: how much attention each token of a cache got: which tokens matter.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/attention/products.hpp>
#include <nibble/attention/queries.hpp>
#include <nibble/attention/task.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kernel/sort_by_key.hpp>
#include <nibble/kv_cache.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline void check_mass(matrix_view<const float> q, const kv_sequence& cache, matrix_view<const float> log_sums,
                       matrix_view<const float> mass, const attend_options& options) {
    const kv_cache_options& o = cache.options();
    const std::size_t heads = check_queries(q, q.rows(), cache, options) * o.heads;
    NIBBLE_CHECK(log_sums.rows() == q.rows() && log_sums.cols() == heads,
                 "attention_mass: log_sums must be queries x query heads");
    NIBBLE_CHECK(mass.rows() == o.heads && mass.cols() == cache.size(),
                 "attention_mass: mass must be the cache's heads x tokens");
}

template <isa Isa, bool StoresValues, executor Executor>
void sum_mass(matrix_view<const float> q, const kv_sequence& cache, const attention_products& products,
              matrix_view<const float> log_sums, matrix_view<float> mass, const attend_options& options,
              const Executor& threads) {
    using task_type = attention_task<Isa, StoresValues>;
    const kv_cache_options& o = cache.options();
    check_executor(threads);
    const std::size_t group = log_sums.cols() / o.heads;
    const std::size_t at_once = attention_rows::queries_at_once(group);
    const std::size_t spans = ceil_div(cache.size(), kernel::kv_split);
    const auto rows_from = [&](std::size_t head, std::size_t first) {
        return attention_rows::make(cache, head, 0, q.rows(), first, group);
    };
    kernel::arena counter;
    const task_type measured(cache, products, rows_from(0, 0), options, counter);
    (void)counter.take<float>(at_once * group);
    const std::size_t bytes = round_up(counter.used(), 4096) + 64;
    const auto all = [&](std::byte* memory) {
        for_each_task(o.heads * spans, threads, [&](std::size_t index, std::size_t worker) {
            const std::size_t head = index % o.heads;
            const std::size_t span = index / o.heads;
            float* const to = mass.row(head);
            const std::size_t end = min_of(cache.size(), (span + 1) * kernel::kv_split);
            for (std::size_t t = span * kernel::kv_split; t < end; ++t) to[t] = 0.0f;
            for (std::size_t first = 0; first < q.rows(); first += at_once) {
                kernel::arena own(memory + worker * bytes);
                const attention_rows rows = rows_from(head, first);
                auto* sums = own.take<float>(rows.rows());
                task_type work(cache, products, rows, options, own);
                work.prepare(q);
                for (std::size_t r = 0; r < rows.rows(); ++r)
                    sums[r] = log_sums(first + r / group, head * group + r % group);
                work.add_mass(span, sums, to);
            }
        });
    };
    if (options.workspace != nullptr) {
        all(options.workspace->reserve(concurrency_of(threads) * bytes));
    } else {
        buffer own(concurrency_of(threads) * bytes);
        all(own.data());
    }
}

} // namespace detail

// mass[h][t] = the sum of the probabilities of token t, over all queries and all query heads of key head h: what attend
// with the same q and options gave the token, log_sums being those that it wrote. mass: the cache's heads x size().
// Costs half to three quarters of attend. The same bits for any number of threads. A query whose log-sum is NaN makes
// all of its head NaN.
template <isa Isa = best_isa, class Keys, cached_values Values, executor Executor = serial>
void attention_mass(matrix_view<const float> q, const kv_cache<Keys, Values>& cache, matrix_view<const float> log_sums,
                    matrix_view<float> mass, const attend_options& options = {}, const Executor& threads = {}) {
    detail::check_mass(q, cache, log_sums, mass, options);
    const detail::attention_products products =
        detail::attention_products::of<Isa, Keys, Values>(detail::integer_scores(options.precision), false);
    detail::sum_mass<Isa, kv_cache<Keys, Values>::stores_values>(q, cache, products, log_sums, mass, options, threads);
}

// The fewest tokens that together have at least `share` of all mass (ZipVL, He et al., 2024: tokens that keep more
// bits), in order; of equal ones the earlier. mass: rows are added up.
[[nodiscard]] inline dynamic_array<std::uint32_t> important_tokens(matrix_view<const float> mass, double share) {
    NIBBLE_CHECK(share >= 0.0 && share <= 1.0, "important_tokens: a share is 0 to 1");
    dynamic_array<double> sums(mass.cols());
    for (std::size_t h = 0; h < mass.rows(); ++h)
        for (std::size_t t = 0; t < mass.cols(); ++t) {
            const double m = static_cast<double>(mass(h, t));
            sums[t] += m == m ? m : 0.0;
        }
    dynamic_array<kernel::keyed<std::uint64_t>> ranking(sums.size()), spare;
    double all = 0.0;
    for (std::size_t t = 0; t < sums.size(); ++t) {
        ranking[t] = {kernel::ordered_key(-sums[t]), static_cast<std::uint32_t>(t)};
        all += sums[t];
    }
    kernel::sort_by_key(ranking, spare);
    dynamic_array<char> chosen(sums.size());
    double sum = 0.0;
    std::size_t count = 0;
    for (; count < ranking.size() && sum < share * all; ++count) {
        sum += sums[ranking[count].position];
        chosen[ranking[count].position] = 1;
    }
    dynamic_array<std::uint32_t> tokens;
    tokens.reserve(count);
    for (std::size_t t = 0; t < chosen.size(); ++t)
        if (chosen[t] != 0) tokens.push_back(static_cast<std::uint32_t>(t));
    return tokens;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
