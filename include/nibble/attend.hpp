// attend.hpp: the fourth verb: attention of queries over the keys and values of a cache. Where a program uses many
// schemes, instantiate.hpp says how each is compiled once.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/attention/partial.hpp>
#include <nibble/attention/products.hpp>
#include <nibble/attention/queries.hpp>
#include <nibble/attention/task.hpp>
#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kv_cache.hpp>

#include <cstddef>
#include <span>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// One sequence of a call for several: its queries are rows [first, first + count) of q and out, the last of which
// belongs to the sequence's last token; or any number of queries that belong to none of its tokens (cross-attention,
// below).
template <class Keys, cached_values Values> struct attended_sequence {
    const kv_cache<Keys, Values>* cache = nullptr;
    std::size_t first = 0;
    std::size_t count = 1;
};

namespace detail {

template <isa Isa, bool StoresValues>
void measure_task(const attention_products& products, const kv_sequence& cache, const attention_rows& rows,
                  const attend_options& options, kernel::arena& counter) {
    (void)attention_task<Isa, StoresValues>(cache, products, rows, options, counter);
}
template <isa Isa, bool StoresValues>
void run_task(const attention_products& products, const kv_sequence& cache, const attention_rows& rows,
              const attend_options& options, kernel::arena& memory, matrix_view<const float> q, std::size_t begin,
              std::size_t end, const attention_sums& part, const attention_sums* all) {
    attention_task<Isa, StoresValues> work(cache, products, rows, options, memory);
    work.prepare(q);
    const visible_range visible(cache, options);
    for (std::size_t i = begin; i < end; ++i) {
        work.span(visible.span(rows, i), i + 1 < end, part);
        if (all != nullptr) join<Isa>(cache.options(), rows.rows(), *all, part);
    }
}

// What is done with a sequence's tokens: compiled once per ISA, by the products with its schemes.
struct attention_work {
    attention_products products{};
    // Counts a task's memory.
    void (*measure)(const attention_products& products, const kv_sequence& cache, const attention_rows& rows,
                    const attend_options& options, kernel::arena& counter) = nullptr;
    // Spans number [begin, end) of a task, one after the other into `part`, each joined to `all`, if there is one.
    void (*run)(const attention_products& products, const kv_sequence& cache, const attention_rows& rows,
                const attend_options& options, kernel::arena& memory, matrix_view<const float> q, std::size_t begin,
                std::size_t end, const attention_sums& part, const attention_sums* all) = nullptr;

    template <isa Isa, bool StoresValues>
    [[nodiscard]] static attention_work of(const attention_products& products) noexcept {
        return {products, &measure_task<Isa, StoresValues>, &run_task<Isa, StoresValues>};
    }
};

// The sequences of a call, whatever their caches store.
class sequence_list {
public:
    struct sequence {
        const kv_sequence* cache = nullptr;
        std::size_t first = 0;
        std::size_t count = 0;
        attention_work work{};
    };
    using getter = sequence (*)(const void*, std::size_t, attention_precision);

    sequence_list(const void* from, std::size_t count, getter at, attention_precision precision) noexcept
        : from_(from), count_(count), at_(at), precision_(precision) {}
    template <isa Isa, class Keys, class Values>
    [[nodiscard]] static sequence_list of(array_view<const attended_sequence<Keys, Values>> from,
                                          attention_precision precision) noexcept {
        return {from.data(), from.size(),
                [](const void* all, std::size_t i, attention_precision p) {
                    const auto& s = static_cast<const attended_sequence<Keys, Values>*>(all)[i];
                    const bool scores = integer_scores(p);
                    return sequence{s.cache, s.first, s.count,
                                    attention_work::of<Isa, kv_cache<Keys, Values>::stores_values>(
                                        attention_products::of<Isa, Keys, Values>(scores, integer_values(p)))};
                },
                precision};
    }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] sequence operator[](std::size_t i) const { return at_(from_, i, precision_); }

private:
    const void* from_;
    std::size_t count_;
    getter at_;
    attention_precision precision_;
};

// How a call is cut into tasks: all query heads of a key head, for a few queries. Where those cannot keep all threads
// busy, the spans of a task are work of their own; they are joined in order either way, so that no bit depends on it.
class attention_plan {
public:
    using sequence = sequence_list::sequence;
    struct task {
        const kv_sequence* cache = nullptr;
        attention_rows rows{};
        attention_work work{};
    };

    attention_plan(const sequence_list& sequences, std::size_t group, const attend_options& options,
                   std::size_t concurrency) noexcept
        : sequences_(sequences), group_(group), at_once_(attention_rows::queries_at_once(group)), options_(options) {
        for (std::size_t i = 0; i < sequences.size(); ++i) tasks_ += tasks_of(sequences[i]);
        // With so many tasks none of them can hold up the others for long.
        may_split_ = concurrency > 1 && tasks_ < 8 * concurrency;
        if (!may_split_ || tasks_ == 0) return;
        std::size_t all = 0;
        for (std::size_t i = 0; i < tasks_; ++i) {
            const std::size_t spans = spans_of(at(i));
            all += spans;
            longest_ = max_of(longest_, spans);
        }
        // How long the busiest thread has to do, in spans, against what there is for each.
        const std::size_t busiest = max_of(longest_, ceil_div(ceil_div(tasks_, concurrency) * all, tasks_));
        splits_ = longest_ > 1 && 10 * busiest > 11 * ceil_div(all, concurrency);
    }
    [[nodiscard]] std::size_t tasks() const noexcept { return tasks_; }
    [[nodiscard]] std::size_t longest() const noexcept { return longest_; } // spans of a task
    [[nodiscard]] bool may_split() const noexcept { return may_split_; }
    [[nodiscard]] bool splits() const noexcept { return splits_; }
    [[nodiscard]] std::size_t spans_of(const task& t) const noexcept {
        return visible_range(*t.cache, options_).spans(t.rows);
    }
    // The largest task of a sequence.
    [[nodiscard]] attention_rows most(const sequence& s) const noexcept {
        return attention_rows::make(*s.cache, 0, s.first, s.count, 0, group_);
    }
    [[nodiscard]] task at(std::size_t index) const noexcept {
        for (std::size_t i = 0; i < sequences_.size(); ++i) {
            const sequence s = sequences_[i];
            const std::size_t own = tasks_of(s);
            if (index >= own) {
                index -= own;
                continue;
            }
            const std::size_t heads = s.cache->options().heads;
            return {s.cache,
                    attention_rows::make(*s.cache, index % heads, s.first, s.count, index / heads * at_once_, group_),
                    s.work};
        }
        return {};
    }

private:
    [[nodiscard]] std::size_t tasks_of(const sequence& s) const noexcept {
        return s.cache->options().heads * ceil_div(s.count, at_once_);
    }

    const sequence_list& sequences_;
    std::size_t group_;
    std::size_t at_once_;
    const attend_options& options_;
    std::size_t tasks_ = 0;
    std::size_t longest_ = 0;
    bool may_split_ = false;
    bool splits_ = false;
};

// What a call takes of the workspace; whatever the lengths of the caches.
struct attention_memory {
    std::size_t task = 0;    // of the largest task
    std::size_t sums = 0;    // and its sums
    std::size_t worker = 0;  // both, and a span's
    std::size_t at_once = 0; // spans of every task that are worked on together, if any are
    std::size_t all = 0;

    [[nodiscard]] static attention_memory of(const attention_plan& plan, const sequence_list& sequences,
                                             const attend_options& options, std::size_t concurrency) {
        attention_memory m{};
        for (std::size_t i = 0; i < sequences.size(); ++i) {
            const sequence_list::sequence s = sequences[i];
            const attention_rows most = plan.most(s);
            kernel::arena counter;
            s.work.measure(s.work.products, *s.cache, most, options, counter);
            kernel::arena own;
            (void)attention_sums::take(s.cache->options(), most.rows(), own);
            m.task = max_of(m.task, counter.used());
            m.sums = max_of(m.sums, own.used());
        }
        m.worker = round_up(m.task + 2 * m.sums, 4096) + 64; // not all at the same place of a page
        if (plan.may_split()) m.at_once = ceil_div(4 * concurrency, max_of<std::size_t>(1, plan.tasks()));
        m.all = concurrency * m.worker + (plan.may_split() ? plan.tasks() * (1 + m.at_once) * m.sums : 0);
        return m;
    }
};

// The same for all: how many query heads share a key head.
[[nodiscard]] inline std::size_t check_sequences(matrix_view<const float> q, const sequence_list& sequences,
                                                 matrix_view<const float> out, const attend_options& options) {
    NIBBLE_CHECK(q.rows() == out.rows(), "attend: out must have a row for each query");
    std::size_t group = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        const sequence_list::sequence s = sequences[i];
        NIBBLE_CHECK(s.cache != nullptr, "attend: every sequence needs its cache");
        NIBBLE_CHECK(s.first <= q.rows() && s.count <= q.rows() - s.first,
                     "attend: a sequence's queries must be rows of q");
        const std::size_t own_group = check_queries(q, s.count, *s.cache, options);
        const kv_cache_options& o = s.cache->options();
        const std::size_t heads = own_group * o.heads;
        NIBBLE_CHECK(out.cols() == heads * o.value_size, "attend: a row of out must have heads x value_size numbers");
        NIBBLE_CHECK(group == 0 || group == own_group,
                     "attend: all sequences must have as many query heads per key head");
        group = own_group;
        NIBBLE_CHECK(options.sink_scores.empty() || options.sink_scores.size() == heads,
                     "attend: one sink score per query head");
        NIBBLE_CHECK(options.log_sums.empty() ||
                         (options.log_sums.rows() == q.rows() && options.log_sums.cols() == heads),
                     "attend: log_sums must be queries x query heads");
    }
    return group;
}
[[nodiscard]] inline std::size_t check_query_heads(const sequence_list& sequences, std::size_t query_heads,
                                                   std::size_t concurrency) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        NIBBLE_CHECK(sequences[i].cache != nullptr, "attend_workspace_bytes: every sequence needs its cache");
        NIBBLE_CHECK(query_heads != 0 && query_heads % sequences[i].cache->options().heads == 0,
                     "attend_workspace_bytes: query heads are a multiple of the cache's heads");
    }
    (void)checked_concurrency(concurrency);
    const std::size_t group = query_heads / sequences[0].cache->options().heads;
    for (std::size_t i = 0; i < sequences.size(); ++i)
        NIBBLE_CHECK(sequences[i].cache->options().heads * group == query_heads,
                     "attend_workspace_bytes: all sequences must have as many query heads per key head");
    return group;
}

// A call in its workspace.
template <isa Isa, executor Executor> struct attention_call {
    using task = attention_plan::task;
    matrix_view<const float> q;
    matrix_view<float> out;
    const attend_options& options;
    const Executor& threads;
    const attention_plan& plan;
    attention_memory takes;

    void run(std::byte* memory, std::size_t concurrency) const {
        std::byte* const joined = memory + concurrency * takes.worker;
        if (plan.splits()) return run_spans(memory, joined, joined + plan.tasks() * takes.sums);
        for_each_task(plan.tasks(), threads, [&](std::size_t index, std::size_t worker) {
            run_task(plan.at(index), memory + worker * takes.worker);
        });
    }

private:
    [[nodiscard]] static attention_sums sums_at(std::byte* memory, const task& t) {
        kernel::arena own(memory);
        return attention_sums::take(t.cache->options(), t.rows.rows(), own);
    }
    void run_task(const task& t, std::byte* memory) const {
        const attention_sums all = sums_at(memory + takes.task, t);
        const attention_sums part = sums_at(memory + takes.task + takes.sums, t);
        kernel::arena own(memory);
        all.clear(t.cache->options(), t.rows.rows());
        t.work.run(t.work.products, *t.cache, t.rows, options, own, q, 0, plan.spans_of(t), part, &all);
        normalize<Isa>(*t.cache, t.rows, all, options, out);
    }
    // A few spans of every task at once, each into sums of its own.
    void run_spans(std::byte* memory, std::byte* joined, std::byte* parts) const {
        const std::size_t tasks = plan.tasks();
        for (std::size_t first = 0; first < plan.longest(); first += takes.at_once) {
            for_each_task(tasks * takes.at_once, threads, [&](std::size_t i, std::size_t worker) {
                const task t = plan.at(i % tasks);
                const std::size_t index = first + i / tasks;
                if (index >= plan.spans_of(t)) return;
                kernel::arena own(memory + worker * takes.worker);
                t.work.run(t.work.products, *t.cache, t.rows, options, own, q, index, index + 1,
                           sums_at(parts + i * takes.sums, t), nullptr);
            });
            for_each_task(tasks, threads, [&](std::size_t i, std::size_t) { join_spans(i, first, joined, parts); });
        }
    }
    void join_spans(std::size_t i, std::size_t first, std::byte* joined, std::byte* parts) const {
        const task t = plan.at(i);
        const kv_cache_options& o = t.cache->options();
        const std::size_t spans = plan.spans_of(t);
        const attention_sums all = sums_at(joined + i * takes.sums, t);
        if (first == 0) all.clear(o, t.rows.rows());
        for (std::size_t j = 0; j < takes.at_once && first + j < spans; ++j)
            join<Isa>(o, t.rows.rows(), all, sums_at(parts + (j * plan.tasks() + i) * takes.sums, t));
        if (first + takes.at_once >= plan.longest()) normalize<Isa>(*t.cache, t.rows, all, options, out);
    }
};

template <isa Isa, executor Executor>
void attend_sequences(matrix_view<const float> q, const sequence_list& sequences, matrix_view<float> out,
                      const attend_options& options, const Executor& threads) {
    check_executor(threads);
    const std::size_t group = check_sequences(q, sequences, out, options);
    if (sequences.size() == 0) return;
    const std::size_t concurrency = concurrency_of(threads);
    const attention_plan plan(sequences, group, options, concurrency);
    const attention_call<Isa, Executor> call{
        q, out, options, threads, plan, attention_memory::of(plan, sequences, options, concurrency)};
    if (options.workspace != nullptr) {
        call.run(options.workspace->reserve(call.takes.all), concurrency);
    } else {
        buffer own(call.takes.all);
        call.run(own.data(), concurrency);
    }
}

[[nodiscard]] inline std::size_t workspace_bytes_of(const sequence_list& sequences, std::size_t query_heads,
                                                    std::size_t concurrency, const attend_options& options) {
    if (sequences.size() == 0) return 0;
    const std::size_t group = check_query_heads(sequences, query_heads, concurrency);
    const attention_plan plan(sequences, group, options, concurrency);
    return attention_memory::of(plan, sequences, options, concurrency).all;
}

template <class Keys, class Values>
[[nodiscard]] array_view<const attended_sequence<Keys, Values>> view_of(const attended_sequence<Keys, Values>* of,
                                                                        std::size_t count) {
    return {of, count};
}
template <class Sequences>
[[nodiscard]] auto as_view(const Sequences& sequences) -> decltype(view_of(sequences.data(), sequences.size())) {
    return view_of(sequences.data(), sequences.size());
}
template <class Sequences>
concept sequences_of_caches = requires(const Sequences& sequences) { as_view(sequences); };

} // namespace detail

// out = softmax(scale q kᵀ + ...) v for the queries of several sequences at once: q has a row per query with all its
// heads, query heads x head_size, and out query heads x value_size; query heads are a multiple of the cache's heads,
// and consecutive ones share a head of keys (MHA, GQA, MQA). A row's result depends on its own query and the cache
// alone: not on the other queries, the threads, the size of pages, or the ISA, to the last bit.
//
// With precision fp32 the result is that of attention over what the cache holds (read_keys, read_values) within
// rounding, whatever it went through before (kv_transform); queries and keys turned by their positions where that says
// so. A prompt is appended, then attended to by its queries: a cache that stores with the next append (kv_storing: keys
// along tokens, windows) holds it in fp32 then, so that what its queries get depends on how it was cut, as kv_cache
// says; others, on nothing but the tokens. A query that sees no token gets zeros, and -infinity for its log-sum, or its
// sink score's. A NaN or infinity in a query, or in a key or a value it sees, makes the results of that query and head
// NaN.
//
// Queries are those of a sequence's last tokens, of which there must be as many. In cross-attention they are not, and
// there may be more queries than tokens, also over none: where nothing asks for a query's position, that is with causal
// = false and without a window, slopes, or keys that attend turns (kv_transform::rotary).
template <isa Isa = best_isa, class Keys, cached_values Values, executor Executor = serial>
void attend(matrix_view<const float> q, array_view<const attended_sequence<Keys, Values>> sequences,
            matrix_view<float> out, const attend_options& options = {}, const Executor& threads = {}) {
    detail::attend_sequences<Isa>(q, detail::sequence_list::of<Isa>(sequences, options.precision), out, options,
                                  threads);
}

// The same of a vector, an array or a span of sequences that may change.
template <isa Isa = best_isa, detail::sequences_of_caches Sequences, executor Executor = serial>
void attend(matrix_view<const float> q, const Sequences& sequences, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    attend<Isa>(q, detail::as_view(sequences), out, options, threads);
}

// Of one sequence, to whose last q.rows() tokens the queries belong, or to none.
template <isa Isa = best_isa, class Keys, cached_values Values, executor Executor = serial>
void attend(matrix_view<const float> q, const kv_cache<Keys, Values>& cache, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    const attended_sequence<Keys, Values> one{&cache, 0, q.rows()};
    attend<Isa>(q, array_view<const attended_sequence<Keys, Values>>(&one, 1), out, options, threads);
}

// The bytes that options.workspace must have for attend not to allocate: for these sequences and this number of query
// heads and threads, with the options' precision; however long the caches grow. Fewer queries may need more, as they
// may be shared out in spans: ask for each number that is used.
template <isa Isa = best_isa, class Keys, cached_values Values>
[[nodiscard]] std::size_t attend_workspace_bytes(array_view<const attended_sequence<Keys, Values>> sequences,
                                                 std::size_t query_heads, std::size_t concurrency,
                                                 const attend_options& options = {}) {
    return detail::workspace_bytes_of(detail::sequence_list::of<Isa>(sequences, options.precision), query_heads,
                                      concurrency, options);
}
template <isa Isa = best_isa, detail::sequences_of_caches Sequences>
[[nodiscard]] std::size_t attend_workspace_bytes(const Sequences& sequences, std::size_t query_heads,
                                                 std::size_t concurrency, const attend_options& options = {}) {
    return attend_workspace_bytes<Isa>(detail::as_view(sequences), query_heads, concurrency, options);
}
template <isa Isa = best_isa, class Keys, cached_values Values>
[[nodiscard]] std::size_t attend_workspace_bytes(const kv_cache<Keys, Values>& cache, std::size_t queries,
                                                 std::size_t query_heads, std::size_t concurrency,
                                                 const attend_options& options = {}) {
    const attended_sequence<Keys, Values> one{&cache, 0, queries};
    return attend_workspace_bytes<Isa>(array_view<const attended_sequence<Keys, Values>>(&one, 1), query_heads,
                                       concurrency, options);
}

// Joins the results of attention over two parts of the tokens (a shared prefix and the rest, parts on several
// machines), as if it had been one: a = (a e^log_a + b e^log_b) / (e^log_a + e^log_b), log_a = ln(e^log_a + e^log_b),
// row by row and head by head; all matrices as attend writes them. Parts without a token (-infinity) change nothing.
// Within rounding, the order of the parts does not matter. b may be a or overlap nothing of it.
template <isa Isa = best_isa>
void merge_attention(matrix_view<float> a, matrix_view<float> log_a, matrix_view<const float> b,
                     matrix_view<const float> log_b) {
    NIBBLE_CHECK(a.rows() == b.rows() && a.cols() == b.cols() && log_a.rows() == a.rows() && log_b.rows() == a.rows() &&
                     log_a.cols() == log_b.cols(),
                 "merge_attention: both parts must have the same shape, with a log-sum for every query and head");
    if (a.empty() || log_a.cols() == 0) return;
    NIBBLE_CHECK(a.cols() % log_a.cols() == 0, "merge_attention: as many channels for every head");
    const std::size_t channels = a.cols() / log_a.cols();
    for (std::size_t i = 0; i < a.rows(); ++i)
        for (std::size_t h = 0; h < log_a.cols(); ++h) {
            float of_a = 1.0f;
            float of_b = 1.0f;
            const kernel::softmax_state sum = kernel::joined<Isa>({log_a(i, h), 1.0f}, {log_b(i, h), 1.0f}, of_a, of_b);
            if (sum.largest == -detail::infinity) continue;
            const float total = of_a + of_b;
            const float share_a = of_a / total;
            const float share_b = of_b / total;
            for (std::size_t c = h * channels; c < (h + 1) * channels; ++c)
                a(i, c) = detail::fused_multiply_add(b(i, c), share_b, detail::rounded_by_itself(a(i, c) * share_a));
            log_a(i, h) = detail::rounded_by_itself(kernel::natural_log(total)) + sum.largest;
        }
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
