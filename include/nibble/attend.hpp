// attend.hpp: the fourth verb: attention of queries over the keys and values of a cache.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/attention.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace nibble::inline NIBBLE_ABI {

// In what the products are computed. Schemes whose elements are no small integers (FP8, NF4, f16, ...) always take fp32.
enum class attention_precision {
    fp32,            // all products in fp32
    integer_scores,  // queries in 8 bits, one scale per query and head: exact integer products with integer keys
    integer,         // the weights of the tokens in 8 bits too, one scale per query, head and 256 tokens
};

struct attend_options {
    bool causal = true;            // query i of n sees tokens up to its own position, size - n + i; else all
    std::size_t window = 0;        // and at most the last so many of those, its own included; 0: no limit. Sinks stay visible
    float scale = 0.0f;            // of the products of queries and keys; 0: 1 / sqrt(head_size)
    float soft_cap = 0.0f;         // c: scores become c tanh(score / c) (Gemma 2); 0: none
    std::span<const float> slopes{}; // ALiBi, one per query head: slope x (token's position - query's) is added
    // Added to the scores, queries x size(), the same for all heads: 0 or -infinity, or any bias.
    matrix_view<const float> mask{};
    std::span<const float> sink_scores{}; // one per query head: a score without a value that takes part in the softmax (GPT-OSS)
    // Where log(sum of e^score) goes, queries x query heads: merge_attention joins results of parts by it.
    matrix_view<float> log_sums{};
    attention_precision precision = attention_precision::integer;
    nibble::workspace* workspace = nullptr; // scratch kept between calls; without it every call allocates and frees its own
};

// One sequence of a call for several: its queries are rows [first, first + count) of q and out, the last of which belongs to
// the sequence's last token.
template <class Keys, any_scheme Values>
struct attended_sequence {
    const kv_cache<Keys, Values>* cache = nullptr;
    std::size_t first = 0;
    std::size_t count = 1;
};

namespace detail {

// What one task has: some queries of one sequence, all query heads of one key head.
struct attention_rows {
    std::size_t head = 0;         // of keys
    std::size_t first_query = 0;  // row of q
    std::size_t queries = 0;
    std::size_t first_position = 0; // of the first of them
    std::size_t group = 1;        // query heads per key head
    [[nodiscard]] std::size_t rows() const noexcept { return queries * group; }
    [[nodiscard]] std::size_t position(std::size_t row) const noexcept { return first_position + row / group; }
};

template <isa Isa, class Keys, any_scheme Values, bool IntegerScores, bool IntegerValues>
class attention_task {
    using cache_type = kv_cache<Keys, Values>;
    using key_side = kernel::key_side<Isa, Keys, IntegerScores>;
    using value_side = kernel::value_side<Isa, Values, IntegerValues>;
    using open_key_side = kernel::key_side<Isa, f32_plain, false>;
    using open_value_side = kernel::value_side<Isa, f32_plain, false>;
    using key_piece = kernel::key_piece;
    using value_piece = kernel::value_piece;
    static constexpr std::size_t rows16 = panel_layout::rows;

public:
    attention_task(const cache_type& cache, const attention_rows& rows, const attend_options& options,
                   kernel::arena& memory) noexcept
        : cache_(cache), o_(cache.options()), at_(rows), options_(options), rows_(rows.rows()),
          queries_(memory.take<float>(rows_ * o_.head_size)), scores_(memory.take<float>(kernel::attention_block * rows_)),
          mixed_(memory.take<float>(rows16 * rows_)), rescale_(memory.take<float>(rows_)),
          open_keys_layout_(cache.newest_keys().tokens, o_.head_size),
          open_values_layout_(cache.newest_values().tokens, o_.value_size),
          first_keys_layout_(cache.first_keys().tokens, o_.head_size),
          first_values_layout_(cache.first_values().tokens, o_.value_size),
          keys_(cache.pages()->keys(), rows_, queries_, o_.key_scale, memory),
          open_keys_(open_keys_layout_, rows_, queries_, 1.0f, memory),
          values_(cache.pages()->values(), rows_, o_.value_scale, memory),
          open_values_(open_values_layout_, rows_, 1.0f, memory), first_values_(first_values_layout_, rows_, 1.0f, memory) {}

    [[nodiscard]] static std::size_t sums(const kv_cache_options& o, std::size_t rows) noexcept {
        return round_up(o.value_size, rows16) * rows;
    }

    // The queries of the task, with the scale in them.
    void prepare(matrix_view<const float> q, float scale) noexcept {
        for (std::size_t r = 0; r < rows_; ++r) {
            const float* from = q.row(at_.first_query + r / at_.group) + (at_.head * at_.group + r % at_.group) * o_.head_size;
            for (std::size_t c = 0; c < o_.head_size; ++c) queries_[r * o_.head_size + c] = from[c] * scale;
        }
        keys_.prepare();
        if (cache_.newest_keys().tokens != 0 || o_.sinks != 0) open_keys_.prepare();
    }

    // Tokens [begin, end) of one span into `out`, [channels' panel][row][16], and states.
    void span(std::size_t begin, std::size_t end, kernel::softmax_state* states, float* out) noexcept {
        for (std::size_t r = 0; r < rows_; ++r) states[r] = {};
        for (std::size_t i = 0; i < sums(o_, rows_); ++i) out[i] = 0.0f;
        for (std::size_t first = begin; first < end; first += kernel::attention_block)
            if (visible(first, min_of(end, first + kernel::attention_block)))
                block(first, min_of(kernel::attention_block, end - first), states, out);
    }

    // Whether any row sees any token of [begin, end).
    [[nodiscard]] bool visible(std::size_t begin, std::size_t end) const noexcept {
        if (begin < o_.sinks) return true;
        return begin < last_seen(rows_ - 1) && end > first_seen(0);
    }
    // Row r sees sinks and [first_seen, last_seen).
    [[nodiscard]] std::size_t last_seen(std::size_t r) const noexcept {
        return options_.causal ? min_of(cache_.size(), at_.position(r) + 1) : cache_.size();
    }
    [[nodiscard]] std::size_t first_seen(std::size_t r) const noexcept {
        const std::size_t own = at_.position(r) + 1;
        return max_of(cache_.begin(), options_.window != 0 && own > options_.window ? own - options_.window : 0);
    }

private:
    // Positions [begin, end) of the block that one storage has.
    struct range {
        std::size_t begin, end;
        [[nodiscard]] bool empty() const noexcept { return begin >= end; }
    };
    [[nodiscard]] static range meet(std::size_t begin, std::size_t end, std::size_t first, std::size_t count) noexcept {
        return {max_of(begin, first), min_of(end, first + count)};
    }

    void block(std::size_t first, std::size_t count, kernel::softmax_state* states, float* out) noexcept {
        const std::size_t panels = ceil_div(count, rows16);
        const std::size_t sinks = min_of(o_.sinks, cache_.size());
        // What lies where: sinks, pages, and the newest tokens, as far as any row sees them. All else is masked, whatever the
        // scores of it hold.
        const std::size_t begin = max_of(sinks, first_seen(0));
        const std::size_t end = last_seen(rows_ - 1);
        const range first_keys = meet(0, sinks, first, count);
        const range keys = meet(begin, min_of(cache_.stored_keys(), end), first, count);
        const range new_keys = meet(max_of(begin, cache_.stored_keys()), end, first, count);
        const range first_values = meet(0, sinks, first, count);
        const range values = meet(begin, min_of(cache_.stored_values(), end), first, count);
        const range new_values = meet(max_of(begin, cache_.stored_values()), end, first, count);

        if (!first_keys.empty()) open_scores(cache_.first_keys(), first_keys_layout_, first_keys, first, false);
        // What comes next from memory is asked for before it is needed: the tiles ask for what is read after them, and while the
        // processor is busy with the scores it asks for more of the values.
        const std::byte* soon = nullptr;
        if (!values.empty()) soon = cache_.pages()->values_of(cache_.page(values.begin / o_.page_tokens), at_.head);
        for (std::size_t i = first / o_.page_tokens; i * o_.page_tokens < first + count; ++i) ask_for_scales(i, true);
        if (!keys.empty()) page_scores(keys, first, soon);
        if (!new_keys.empty()) open_scores(cache_.newest_keys(), open_keys_layout_, new_keys, first, true);
        // A value that is not finite spoils its token wherever the key lies.
        spoil_open(cache_.first_values(), first_values, first, false);
        spoil_pages(values, first);
        spoil_open(cache_.newest_values(), new_values, first, true);
        kernel::asked_memory asked{};
        if (soon != nullptr) asked = {soon + 8192, soon + cache_.pages()->values().scales, rows_ == 1 ? 128u : 64u};
        for (std::size_t r = 0; r < rows_; ++r) {
            adjust(r, first, count, panels);
            kernel::weigh<Isa>(scores_, rows_, r, panels, states[r], rescale_[r], asked);
        }
        const std::size_t after = first + kernel::attention_block;
        for (std::size_t i = after / o_.page_tokens; i * o_.page_tokens < after + kernel::attention_block; ++i)
            ask_for_scales(i, false);
        rescale(out);
        if (!first_values.empty()) {
            const value_piece piece = open_piece(cache_.first_values(), first, first_values.begin, first_values.end);
            first_values_.accumulate(&piece, 1, first_values.begin - first, first_values.end - first, scores_, out, nullptr, asked);
        }
        if (!values.empty()) page_values(values, first, out, asked);
        if (!new_values.empty()) newest_values(new_values, first, out, asked);
    }

    static void ask_for(const std::byte* at, std::size_t bytes) noexcept {
        for (std::size_t i = 0; i < bytes; i += 64) Isa::prefetch(at + i);
    }
    // Scales and zero points: short stretches beside the codes, which no prefetch of a tile reaches.
    void ask_for_scales(std::size_t page, bool values) noexcept {
        const auto& pages = *cache_.pages();
        if (cache_.page(page) == cache_type::none) return;
        const std::uint32_t id = cache_.page(page);
        if (values)
            ask_for(pages.values_of(id, at_.head) + pages.values().scales, pages.values().bytes - pages.values().scales);
        else
            ask_for(pages.keys_of(id, at_.head) + pages.keys().scales, pages.keys().bytes - pages.keys().scales);
    }

    // ---- scores ----
    // The panels of a range, whose first may hold tokens of the range before it already.
    template <class Side>
    void scores_of(Side& side, const key_piece& piece, std::size_t position, std::size_t begin, std::size_t first,
                   const std::byte* next) noexcept {
        const std::size_t panel = (position - first) / rows16;
        if (begin > position) {
            key_piece one = piece;
            one.panels = 1;
            side.scores(one, mixed_, nullptr);
            for (std::size_t r = 0; r < rows_; ++r)
                for (std::size_t i = begin - position; i < rows16; ++i)
                    scores_[(panel * rows_ + r) * rows16 + i] = mixed_[r * rows16 + i];
        } else {
            side.scores(piece, scores_ + panel * rows_ * rows16, next);
        }
    }
    void open_scores(const open_tokens& open, const key_layout<f32_plain>& layout, const range& r, std::size_t first,
                     bool newest) noexcept {
        for (std::size_t position = r.begin / rows16 * rows16; position < r.end;) {
            const std::size_t at = newest ? position % open.tokens : position;
            const bool mixed = r.begin > position;
            const std::size_t whole = min_of(round_up(r.end, rows16) - position, open.tokens - at) / rows16;
            const std::size_t panels = mixed ? 1 : whole;
            key_piece piece{};
            piece.codes = open.head(at_.head) + at / rows16 * layout.panel_bytes;
            piece.scales = piece.zeros = piece.codes;
            piece.panels = panels;
            scores_of(open_keys_, piece, position, r.begin, first, nullptr);
            position += panels * rows16;
        }
        spoil_open(open, r, first, newest);
    }
    void page_scores(const range& r, std::size_t first, const std::byte* values) noexcept {
        using format = key_format<Keys>;
        const auto& pages = *cache_.pages();
        const auto& layout = pages.keys();
        const std::size_t size = o_.page_tokens;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            const std::uint32_t id = cache_.page(page);
            const std::byte* part = pages.keys_of(id, at_.head);
            const std::size_t end = min_of(r.end, (page + 1) * size);
            const auto piece_at = [&](std::size_t position, std::size_t panels) {
                const std::size_t t = position - page * size;
                key_piece piece{};
                piece.codes = part + layout.codes + t / rows16 * layout.panel_bytes;
                std::size_t slots = t / rows16 * layout.slots;
                if constexpr (format::tokens_per_group != 0) {
                    slots = t / format::tokens_per_group * layout.slots;
                    piece.begun = t % format::tokens_per_group / rows16;
                }
                piece.scales = part + layout.scales + slots * sizeof(typename format::scale_code);
                piece.zeros = part + layout.zeros + slots * sizeof(typename format::zero_code);
                piece.panels = panels;
                return piece;
            };
            std::size_t position = max_of(page * size, r.begin / rows16 * rows16);
            if (position < r.begin) {
                scores_of(keys_, piece_at(position, 1), position, r.begin, first, nullptr);
                position += rows16;
            }
            // After these keys come those of the next page, or the block's values.
            const std::byte* next = end < r.end ? pages.keys_of(cache_.page(page + 1), at_.head) : values;
            if (position < end)
                scores_of(keys_, piece_at(position, ceil_div(end - position, rows16)), position, position, first, next);
        }
        spoil_pages(r, first);
    }
    void spoil_open(const open_tokens& open, const range& r, std::size_t first, bool newest) noexcept {
        if (open.marked == 0) return;
        for (std::size_t position = r.begin; position < r.end; ++position)
            if (open.marks[at_.head * open.tokens + (newest ? position % open.tokens : position)] != 0) spoil(position - first);
    }
    void spoil_pages(const range& r, std::size_t first) noexcept {
        if (r.empty()) return;
        const auto& pages = *cache_.pages();
        const std::size_t size = o_.page_tokens;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            if (!pages.has_marks(cache_.page(page))) continue;
            const std::uint8_t* marks = pages.marks(cache_.page(page), at_.head);
            for (std::size_t t = max_of(r.begin, page * size); t < min_of(r.end, (page + 1) * size); ++t)
                if (marks[t - page * size] != 0) spoil(t - first);
        }
    }
    // All scores of a token whose key or value is not finite.
    void spoil(std::size_t t) noexcept {
        for (std::size_t r = 0; r < rows_; ++r) scores_[(t / rows16 * rows_ + r) * rows16 + t % rows16] = quiet_nan;
    }

    // What comes to a row's scores besides the products, and which of them count.
    void adjust(std::size_t r, std::size_t first, std::size_t count, std::size_t panels) noexcept {
        using L = lanes<Isa>;
        const std::size_t head = at_.head * at_.group + r % at_.group;
        float* const row = scores_ + r * rows16;
        const std::size_t stride = rows_ * rows16;
        if (options_.soft_cap != 0.0f) {
            const L cap(options_.soft_cap);
            const L inverse(1.0f / options_.soft_cap);
            for (std::size_t p = 0; p < panels; ++p)
                for (std::size_t half = 0; half < 16; half += 8) {
                    float* at = row + p * stride + half;
                    (cap * tanh(L::load(at, 8) * inverse)).store(at, 8);
                }
        }
        if (!options_.slopes.empty()) {
            const float slope = options_.slopes[head];
            for (std::size_t t = 0; t < panels * rows16; ++t) {
                const float distance = static_cast<float>(static_cast<std::ptrdiff_t>(first + t) -
                                                          static_cast<std::ptrdiff_t>(at_.position(r)));
                float& s = row[t / rows16 * stride + t % rows16];
                s = fused_multiply_add(slope, distance, s);
            }
        }
        if (!options_.mask.empty()) {
            const float* mask = options_.mask.row(at_.first_query + r / at_.group) + first;
            for (std::size_t t = 0; t < count; ++t) row[t / rows16 * stride + t % rows16] += mask[t];
        }
        const std::size_t end = min_of(first + count, max_of(last_seen(r), first));
        const std::size_t begin = min_of(max_of(first_seen(r), first), first + panels * rows16);
        if (begin > first)
            for (std::size_t t = first; t < begin; ++t)
                if (t >= o_.sinks || t >= last_seen(r)) row[(t - first) / rows16 * stride + (t - first) % rows16] = -infinity;
        for (std::size_t t = max_of(end, begin) - first; t < panels * rows16; ++t) row[t / rows16 * stride + t % rows16] = -infinity;
    }

    // ---- values ----
    void rescale(float* out) noexcept {
        using L = lanes<Isa>;
        for (std::size_t r = 0; r < rows_; ++r) {
            if (rescale_[r] == 1.0f) continue;
            const L by(rescale_[r]);
            for (std::size_t p = 0; p < ceil_div(o_.value_size, rows16); ++p)
                for (std::size_t half = 0; half < 16; half += 8) {
                    float* at = out + (p * rows_ + r) * rows16 + half;
                    (L::load(at, 8) * by).store(at, 8);
                }
        }
    }
    [[nodiscard]] value_piece open_piece(const open_tokens& open, std::size_t first, std::size_t begin, std::size_t end) const noexcept {
        value_piece piece{};
        const std::size_t from = begin / rows16 * rows16;
        piece.codes = open.head(at_.head) + from % open.tokens * rows16 * sizeof(float);
        piece.scales = piece.zeros = piece.codes;
        piece.first = from - first;
        piece.count = round_up(end, rows16) - from;
        return piece;
    }
    void newest_values(const range& r, std::size_t first, float* out, kernel::asked_memory& asked) noexcept {
        const open_tokens& open = cache_.newest_values();
        value_piece pieces[kernel::most_pieces];
        std::size_t count = 0;
        for (std::size_t position = r.begin; position < r.end;) {
            const std::size_t wraps = position / open.tokens * open.tokens + open.tokens;
            const std::size_t end = min_of(r.end, wraps);
            pieces[count++] = open_piece(open, first, position, end);
            position = end;
        }
        open_values_.accumulate(pieces, count, r.begin - first, r.end - first, scores_, out, nullptr, asked);
    }
    void page_values(const range& r, std::size_t first, float* out, kernel::asked_memory& asked) noexcept {
        using format = token_format<Values>;
        const auto& pages = *cache_.pages();
        const auto& layout = pages.values();
        const std::size_t size = o_.page_tokens;
        value_piece pieces[kernel::most_pieces];
        std::size_t count = 0;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            const std::byte* part = pages.values_of(cache_.page(page), at_.head);
            const std::size_t begin = max_of(page * size, first); // whole phases: all of the page that is in the block
            const std::size_t end = min_of(round_up(min_of(r.end, (page + 1) * size), rows16), (page + 1) * size);
            const std::size_t t = begin - page * size;
            kernel::value_piece& piece = pieces[count++];
            piece.codes = part + layout.codes +
                          t / panel_layout::quad / step_quads<typename format::element> * step_bytes<typename format::element>;
            piece.scales = part + layout.scales + t * sizeof(typename format::scale_code);
            piece.zeros = part + layout.zeros + t * sizeof(typename format::zero_code);
            piece.first = begin - first;
            piece.count = end - begin;
        }
        const std::uint32_t after = cache_.page((first + kernel::attention_block) / size);
        values_.accumulate(pieces, count, r.begin - first, r.end - first, scores_, out,
                           after == cache_type::none ? nullptr : pages.keys_of(after, at_.head), asked);
    }

    const cache_type& cache_;
    const kv_cache_options& o_;
    attention_rows at_;
    const attend_options& options_;
    std::size_t rows_;
    float* queries_;
    float* scores_;
    float* mixed_;
    float* rescale_;
    key_layout<f32_plain> open_keys_layout_;
    value_layout<f32_plain> open_values_layout_;
    key_layout<f32_plain> first_keys_layout_;
    value_layout<f32_plain> first_values_layout_;
    key_side keys_;
    open_key_side open_keys_;
    value_side values_;
    open_value_side open_values_;
    open_value_side first_values_;
};

// out = a x of_a + b x of_b for the rows of a task; layout as in attention_task.
template <isa Isa>
inline void join_sums(float* a, const float* b, std::size_t rows, std::size_t r, std::size_t panels, float of_a, float of_b) noexcept {
    using L = lanes<Isa>;
    for (std::size_t p = 0; p < panels; ++p)
        for (std::size_t half = 0; half < 16; half += 8) {
            float* at = a + (p * rows + r) * 16 + half;
            const L scaled = (L::load(at, 8) * L(of_a)).kept();
            fma(L::load(b + (p * rows + r) * 16 + half, 8), L(of_b), scaled).store(at, 8);
        }
}

// All spans of one task, in order, to out.
template <isa Isa, class Task, class Cache>
inline void attend_rows(const Cache& cache, const attention_rows& at, matrix_view<const float> q, matrix_view<float> out, float scale,
                        const attend_options& options, kernel::arena& memory) noexcept {
    const kv_cache_options& o = cache.options();
    const std::size_t rows = at.rows();
    const std::size_t panels = ceil_div(o.value_size, panel_layout::rows);
    auto* states = memory.take<kernel::softmax_state>(rows);
    auto* part_states = memory.take<kernel::softmax_state>(rows);
    auto* sums = memory.take<float>(Task::sums(o, rows));
    auto* part_sums = memory.take<float>(Task::sums(o, rows));
    Task task(cache, at, options, memory);
    task.prepare(q, scale);
    for (std::size_t r = 0; r < rows; ++r) states[r] = {};
    for (std::size_t i = 0; i < Task::sums(o, rows); ++i) sums[i] = 0.0f;
    for (std::size_t begin = 0; begin < cache.size(); begin += kernel::attention_span) {
        const std::size_t end = min_of(cache.size(), begin + kernel::attention_span);
        if (!task.visible(begin, end)) continue;
        task.span(begin, end, part_states, part_sums);
        for (std::size_t r = 0; r < rows; ++r) {
            float of_all = 1.0f;
            float of_part = 1.0f;
            states[r] = kernel::joined<Isa>(states[r], part_states[r], of_all, of_part);
            join_sums<Isa>(sums, part_sums, rows, r, panels, of_all, of_part);
        }
    }
    for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t query = at.first_query + r / at.group;
        const std::size_t head = at.head * at.group + r % at.group;
        kernel::softmax_state state = states[r];
        float of_all = 1.0f;
        if (!options.sink_scores.empty()) {
            float unused = 1.0f;
            state = kernel::joined<Isa>(state, {options.sink_scores[head], 1.0f}, of_all, unused);
        }
        const float factor = state.sum == 0.0f ? 0.0f : of_all / state.sum;
        float* to = out.row(query) + head * o.value_size;
        for (std::size_t c = 0; c < o.value_size; ++c)
            to[c] = sums[(c / panel_layout::rows * rows + r) * panel_layout::rows + c % panel_layout::rows] * factor;
        if (!options.log_sums.empty())
            options.log_sums(query, head) =
                state.sum == 0.0f ? -infinity : rounded_by_itself(kernel::natural_log(state.sum)) + state.largest;
    }
}

template <isa Isa, class Keys, class Values, bool IntegerScores, bool IntegerValues, executor Executor>
void attend_sequences(matrix_view<const float> q, std::span<const attended_sequence<Keys, Values>> sequences, matrix_view<float> out,
                      std::size_t group, const attend_options& options, const Executor& threads) {
    using task = attention_task<Isa, Keys, Values, IntegerScores, IntegerValues>;
    // Rows of a task: its queries and scores stay in the second-level cache.
    const std::size_t at_once = max_of<std::size_t>(1, 32 / group);
    std::size_t tasks = 0;
    for (const auto& s : sequences) tasks += s.cache->options().heads * ceil_div(s.count, at_once);
    const auto rows_of = [&](std::size_t index) {
        for (const auto& s : sequences) {
            const std::size_t heads = s.cache->options().heads;
            const std::size_t own = heads * ceil_div(s.count, at_once);
            if (index >= own) {
                index -= own;
                continue;
            }
            const std::size_t first = index / heads * at_once;
            return std::pair(&s, attention_rows{.head = index % heads,
                                                .first_query = s.first + first,
                                                .queries = min_of(at_once, s.count - first),
                                                .first_position = s.cache->size() - s.count + first,
                                                .group = group});
        }
        return std::pair(&sequences[0], attention_rows{});
    };
    const auto run = [&](std::size_t index, kernel::arena& memory) {
        const auto [s, at] = rows_of(index);
        const float scale = options.scale != 0.0f
                                ? options.scale
                                : 1.0f / __builtin_sqrtf(static_cast<float>(s->cache->options().head_size));
        attend_rows<Isa, task>(*s->cache, at, q, out, scale, options, memory);
    };
    // The most that a task takes.
    std::size_t bytes = 0;
    for (const auto& s : sequences) {
        kernel::arena counter;
        const kv_cache_options& o = s.cache->options();
        const attention_rows most{.head = 0, .first_query = 0, .queries = min_of(at_once, s.count), .first_position = 0, .group = group};
        (void)counter.take<kernel::softmax_state>(2 * most.rows() + 64);
        (void)counter.take<float>(2 * task::sums(o, most.rows()) + 64);
        const task measured(*s.cache, most, options, counter);
        bytes = max_of(bytes, counter.used());
    }
    bytes = round_up(bytes, 4096) + 64;
    const auto all = [&](std::byte* memory) {
        threads.parallel_for(tasks, [&](std::size_t index, std::size_t worker) {
            kernel::arena own(memory + worker * bytes);
            run(index, own);
        });
    };
    if (options.workspace != nullptr) {
        all(options.workspace->reserve(threads.concurrency() * bytes));
    } else {
        buffer own(threads.concurrency() * bytes);
        all(own.data());
    }
}

} // namespace detail

// out = softmax(scale q kᵀ + ...) v for the queries of several sequences at once: q has a row per query with all its heads,
// query heads x head_size, and out query heads x value_size; query heads are a multiple of the cache's heads, and consecutive
// ones share a head of keys (MHA, GQA, MQA). A row's result depends on its own query and the cache alone: not on the other
// queries, the threads, the size of pages, or the ISA, to the last bit.
//
// With precision fp32 the result is that of attention over what the cache stores (read_keys, read_values) within rounding.
// A query that sees no token gets zeros, and -infinity for its log-sum. A NaN or infinity in a query, or in a key or a value
// it sees, makes the results of that query and head NaN.
template <isa Isa = best_isa, class Keys, any_scheme Values, executor Executor = serial>
void attend(matrix_view<const float> q, std::span<const attended_sequence<Keys, Values>> sequences, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    NIBBLE_CHECK(q.rows() == out.rows(), "attend: out must have a row for each query");
    if (sequences.empty()) return;
    std::size_t group = 0;
    for (const auto& s : sequences) {
        NIBBLE_CHECK(s.cache != nullptr, "attend: every sequence needs its cache");
        const kv_cache_options& o = s.cache->options();
        const std::size_t heads = q.cols() / o.head_size;
        NIBBLE_CHECK(heads != 0 && q.cols() == heads * o.head_size && heads % o.heads == 0,
                     "attend: a row of q must have heads x head_size numbers, the heads a multiple of the cache's");
        NIBBLE_CHECK(out.cols() == heads * o.value_size, "attend: a row of out must have heads x value_size numbers");
        NIBBLE_CHECK(group == 0 || group == heads / o.heads, "attend: all sequences must have as many query heads per key head");
        group = heads / o.heads;
        NIBBLE_CHECK(s.first <= q.rows() && s.count <= q.rows() - s.first, "attend: a sequence's queries must be rows of q");
        NIBBLE_CHECK(s.count <= s.cache->size(), "attend: more queries than tokens: append their keys and values first");
        NIBBLE_CHECK(options.slopes.empty() || options.slopes.size() == heads, "attend: one slope per query head");
        NIBBLE_CHECK(options.sink_scores.empty() || options.sink_scores.size() == heads, "attend: one sink score per query head");
        NIBBLE_CHECK(options.log_sums.empty() || (options.log_sums.rows() == q.rows() && options.log_sums.cols() == heads),
                     "attend: log_sums must be queries x query heads");
        NIBBLE_CHECK(options.mask.empty() || (options.mask.rows() == q.rows() && options.mask.cols() >= s.cache->size()),
                     "attend: the mask must be queries x tokens");
        if (s.count == 0) continue;
        const std::size_t oldest = s.cache->size() - s.count + 1;
        const std::size_t from =
            detail::max_of(s.cache->begin(), options.window != 0 && oldest > options.window ? oldest - options.window : std::size_t{0});
        const std::size_t end = s.cache->stored_keys() > s.cache->stored_values() ? s.cache->stored_keys() : s.cache->stored_values();
        for (std::size_t i = from / o.page_tokens; i * o.page_tokens < end; ++i)
            NIBBLE_CHECK(s.cache->has_page(i), "attend: a page that a query sees was dropped: restore it");
    }
    switch (options.precision) {
    case attention_precision::fp32:
        return detail::attend_sequences<Isa, Keys, Values, false, false>(q, sequences, out, group, options, threads);
    case attention_precision::integer_scores:
        return detail::attend_sequences<Isa, Keys, Values, true, false>(q, sequences, out, group, options, threads);
    case attention_precision::integer:
        return detail::attend_sequences<Isa, Keys, Values, true, true>(q, sequences, out, group, options, threads);
    }
    NIBBLE_CHECK(false, "attend: no precision of that number");
}

// Of one sequence, whose last queries.rows() tokens they are.
template <isa Isa = best_isa, class Keys, any_scheme Values, executor Executor = serial>
void attend(matrix_view<const float> q, const kv_cache<Keys, Values>& cache, matrix_view<float> out,
            const attend_options& options = {}, const Executor& threads = {}) {
    const attended_sequence<Keys, Values> one{&cache, 0, q.rows()};
    attend<Isa>(q, std::span<const attended_sequence<Keys, Values>>(&one, 1), out, options, threads);
}

// Joins the results of attention over two parts of the tokens (a shared prefix and the rest, parts on several machines), as if
// it had been one: a = (a e^log_a + b e^log_b) / (e^log_a + e^log_b), log_a = ln(e^log_a + e^log_b), row by row and head by
// head; all matrices as attend writes them. Parts without a token (-infinity) change nothing. Within rounding, the order of
// the parts does not matter. b may be a or overlap nothing of it.
template <isa Isa = best_isa>
void merge_attention(matrix_view<float> a, matrix_view<float> log_a, matrix_view<const float> b, matrix_view<const float> log_b) {
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
            const kernel::softmax_state sum =
                kernel::joined<Isa>({log_a(i, h), 1.0f}, {log_b(i, h), 1.0f}, of_a, of_b);
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
