// attention/queries.hpp: the queries of one task of attention, and which tokens they see.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/softmax.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// What one task has: some queries of one sequence, all query heads of one key head.
struct attention_rows {
    std::size_t head = 0;        // of keys
    std::size_t first_query = 0; // row of q
    std::size_t queries = 0;
    std::size_t first_position = 0; // of the first of them
    std::size_t group = 1;          // query heads per key head
    [[nodiscard]] std::size_t rows() const noexcept { return queries * group; }
    [[nodiscard]] std::size_t position(std::size_t row) const noexcept { return first_position + row / group; }

    // Queries that a task has, at most: whole tiles of 6, 8 and 12 rows, which stay in the second-level cache with
    // their scores (against 32 rows, 512 queries: fp32 1.07 to 1.1 times as fast, integers the same; more rows gain
    // nothing).
    [[nodiscard]] static std::size_t queries_at_once(std::size_t group) noexcept {
        return max_of<std::size_t>(1, 72 / group);
    }
    // Of the last `count` tokens of a cache, whose queries are rows `row` and following of q, those from number `first`
    // on. (Of more queries than tokens nothing asks for a position: check_queries.)
    [[nodiscard]] static attention_rows make(const kv_sequence& cache, std::size_t head, std::size_t row,
                                             std::size_t count, std::size_t first, std::size_t group) noexcept {
        return {.head = head,
                .first_query = row + first,
                .queries = min_of(queries_at_once(group), count - first),
                .first_position = cache.size() - min_of(count, cache.size()) + first,
                .group = group};
    }
};

// Queries of `count` rows of q against a cache, and what the options say of them: how many query heads share a key
// head.
[[nodiscard]] inline std::size_t check_queries(matrix_view<const float> q, std::size_t count, const kv_sequence& cache,
                                               const attend_options& options) {
    const kv_cache_options& o = cache.options();
    const std::size_t heads = q.cols() / o.head_size;
    NIBBLE_CHECK(heads != 0 && q.cols() == heads * o.head_size && heads % o.heads == 0,
                 "attention: a row of q must have heads x head_size numbers, the heads a multiple of the cache's");
    const bool have_positions =
        options.causal || options.window != 0 || !options.slopes.empty() || cache.key_rotary() != nullptr;
    NIBBLE_CHECK(
        count <= cache.size() || !have_positions,
        "attention: more queries than tokens: append their keys and values first; or, for cross-attention, set "
        "causal = false, without a window, slopes or keys that attend rotates");
    NIBBLE_CHECK(options.exclude_recent == 0 || options.causal, "attention: exclude_recent is for causal attention");
    NIBBLE_CHECK(options.slopes.empty() || options.slopes.size() == heads, "attention: one slope per query head");
    NIBBLE_CHECK(options.mask.empty() || (options.mask.rows() == q.rows() && options.mask.cols() >= cache.size()),
                 "attention: the mask must be queries x tokens");
    if (count == 0) return heads / o.heads;
    std::size_t from = cache.begin();
    if (options.window != 0) {
        const std::size_t oldest = cache.size() - count + 1;
        from = max_of(from, oldest - min_of(oldest, options.window));
    }
    const std::size_t end = max_of(cache.stored_keys(), cache.stored_values());
    for (std::size_t i = from / o.page_tokens; i * o.page_tokens < end; ++i)
        NIBBLE_CHECK(cache.has_page(i), "attention: a page that a query sees was dropped: restore it");
    return heads / o.heads;
}

// Which tokens of a sequence a query sees: sinks, and [begin, end) of its position.
class visible_range {
public:
    visible_range(const kv_sequence& cache, const attend_options& options) noexcept
        : size_(cache.size()), oldest_(cache.begin()), sinks_(cache.options().sinks), window_(options.window),
          exclude_recent_(options.exclude_recent), causal_(options.causal) {}

    [[nodiscard]] std::size_t end(std::size_t position) const noexcept {
        return causal_ ? min_of(size_, position + 1 - min_of(position + 1, exclude_recent_)) : size_;
    }
    [[nodiscard]] std::size_t begin(std::size_t position) const noexcept {
        return max_of(oldest_, window_ != 0 && position + 1 > window_ ? position + 1 - window_ : std::size_t{0});
    }
    // Whether any of the rows sees any token of [from, to).
    [[nodiscard]] bool any(const attention_rows& rows, std::size_t from, std::size_t to) const noexcept {
        return from < sinks_ || (from < end(rows.position(rows.rows() - 1)) && to > begin(rows.position(0)));
    }
    // The spans of which that is true: how many, and which is the i-th.
    [[nodiscard]] std::size_t spans(const attention_rows& rows) const noexcept {
        const auto [sinks, first, last] = stretches(rows);
        return sinks + (last - first);
    }
    [[nodiscard]] std::size_t span(const attention_rows& rows, std::size_t i) const noexcept {
        const auto [sinks, first, last] = stretches(rows);
        return i < sinks ? i : first + (i - sinks);
    }

private:
    struct stretch {
        std::size_t sinks, first, last; // spans [0, sinks) and [first, last)
    };
    [[nodiscard]] stretch stretches(const attention_rows& rows) const noexcept {
        constexpr std::size_t span = kernel::kv_split;
        const std::size_t sinks = ceil_div(min_of(sinks_, size_), span);
        const std::size_t to = end(rows.position(rows.rows() - 1));
        const std::size_t from = min_of(begin(rows.position(0)), to);
        const std::size_t first = max_of(sinks, from / span);
        return {sinks, first, max_of(first, from == to ? std::size_t{0} : ceil_div(to, span))};
    }

    std::size_t size_, oldest_, sinks_, window_, exclude_recent_;
    bool causal_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
