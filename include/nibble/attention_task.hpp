// attention_task.hpp: what attend does in one task: some queries of a sequence over all of its tokens, block after block, wherever
// those lie.
#pragma once

#include <nibble/attend_options.hpp>
#include <nibble/attention_rows.hpp>
#include <nibble/attention_sums.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/attention_decode.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_values.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/rotary.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/kv_transform.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::detail {

// run(a type that says which of both products are of integers)
template <bool Scores, bool Values>
struct integer_products {
    static constexpr bool scores = Scores;
    static constexpr bool values = Values;
};
template <class Run>
decltype(auto) with_products(attention_precision precision, const Run& run) {
    switch (precision) {
    case attention_precision::fp32: return run(integer_products<false, false>{});
    case attention_precision::integer_scores: return run(integer_products<true, false>{});
    case attention_precision::integer: return run(integer_products<true, true>{});
    }
    NIBBLE_CHECK(false, "attention: no precision of that number");
    return run(integer_products<false, false>{});
}

template <isa Isa, class Keys, cached_values Values, bool IntegerScores, bool IntegerValues>
class attention_task {
    using cache_type = kv_cache<Keys, Values>;
    using key_side = kernel::key_side<Isa, Keys, IntegerScores>;
    using open_key_side = kernel::key_side<Isa, f32_plain, false>;
    // Values are stored themselves, or are keys of the same place.
    static constexpr bool stores_values = cache_type::pages_type::stores_values;
    using value_layout_type = typename cache_type::pages_type::value_layout;
    using open_values_type = values_of_cache<f32_plain, std::conditional_t<stores_values, f32_plain, prefix_of_keys>>;
    using open_value_layout = typename open_values_type::layout;
    using value_side = kernel::value_side<Isa, value_layout_type, IntegerValues>;
    using open_value_side = kernel::value_side<Isa, open_value_layout, false>;
    using key_piece = kernel::key_piece;
    using value_piece = kernel::value_piece;
    static constexpr std::size_t rows16 = panel_layout::rows;
    // Panels of keys that are turned before the next products: 32 KiB of 128 channels.
    static constexpr std::size_t panels_turned = 4;

public:
    attention_task(const cache_type& cache, const attention_rows& rows, const attend_options& options,
                   kernel::arena& memory) noexcept
        : cache_(cache), o_(cache.options()), at_(rows), options_(options), seen_(cache, options), rows_(rows.rows()),
          key_transform_(cache.key_transform().get()), rotary_(cache.key_rotary()),
          queries_(memory.take<float>(rows_ * o_.head_size)), offsets_(memory.take<float>(rows_)),
          scores_(memory.take<float>(kernel::attention_block * rows_)),
          mixed_(memory.take<float>(rows16 * rows_)), rescale_(memory.take<float>(rows_)),
          open_keys_layout_(cache.newest_keys().tokens, o_.head_size),
          open_values_layout_(open_values(cache.newest_values().tokens)),
          first_keys_layout_(cache.first_keys().tokens, o_.head_size),
          first_values_layout_(open_values(cache.first_values().tokens)),
          keys_(cache.pages()->keys(), rows_, queries_, o_.key_scale, memory),
          open_keys_(open_keys_layout_, rows_, queries_, 1.0f, memory),
          values_(cache.pages()->values(), rows_, stores_values ? o_.value_scale : o_.key_scale, memory),
          open_values_(open_values_layout_, rows_, 1.0f, memory), first_values_(first_values_layout_, rows_, 1.0f, memory),
          decoder_(cache.pages()->keys(), o_.key_scale, rotary_ != nullptr, memory),
          open_decoder_(open_keys_layout_, 1.0f, rotary_ != nullptr, memory),
          partners_(has_partners(cache.pages()->keys(), cache.pages()->values(), o_.page_tokens) && rotary_ == nullptr &&
                    keys_.asks() && values_.asks()) {
        if (rotary_ == nullptr) return;
        query_turns_ = memory.take<kernel::turn>(rotary_->pairs());
        block_turns_ = memory.take<float>(2 * rotary_->padded());
        panel_turns_ = memory.take<float>(2 * rotary_->padded());
        turned_keys_ = memory.take<std::byte>(panels_turned * open_keys_layout_.panel_bytes);
    }
    attention_task(const attention_task&) = delete; // parts refer to one another
    attention_task& operator=(const attention_task&) = delete;

    // The queries of the task, with the scale in them, as they meet what is stored.
    void prepare(matrix_view<const float> q) noexcept {
        const float scale = options_.scale != 0.0f ? options_.scale : 1.0f / __builtin_sqrtf(static_cast<float>(o_.head_size));
        for (std::size_t r = 0; r < rows_; ++r) {
            const float* from = q.row(at_.first_query + r / at_.group) + (at_.head * at_.group + r % at_.group) * o_.head_size;
            bool finite = true;
            for (std::size_t c = 0; c < o_.head_size; ++c) {
                queries_[r * o_.head_size + c] = from[c] * scale;
                finite = finite && is_finite(from[c]);
            }
            // All scores of -infinity are NaN too, not a query that sees no token.
            if (!finite) queries_[r * o_.head_size] = quiet_nan;
            offsets_[r] = 0.0f;
            if (key_transform_ != nullptr) transform_query(r);
        }
        if (rotary_ == nullptr) keys_.prepare();
        if (rotary_ != nullptr || cache_.newest_keys().tokens != 0 || o_.sinks != 0) open_keys_.prepare();
    }

    // The tokens of one span; whether those of the next are read after it.
    void span(std::size_t index, bool goes_on, const attention_sums& to) noexcept {
        const std::size_t begin = index * kernel::attention_span;
        const std::size_t end = min_of(cache_.size(), begin + kernel::attention_span);
        goes_to_ = goes_on ? cache_.size() : end;
        to.clear(o_, rows_);
        // What the scores lack: the query x the keys' mean. (A soft cap wants it in every score: adjust.)
        for (std::size_t r = 0; r < rows_ && options_.soft_cap == 0.0f; ++r) to.offsets[r] = offsets_[r];
        for (std::size_t first = begin; first < end; first += kernel::attention_block)
            if (seen_.any(at_, first, min_of(end, first + kernel::attention_block)))
                block(first, min_of(kernel::attention_block, end - first), to.states, to.sums);
    }

    // mass[t] += the sum over the rows of e^(score - log_sums[row]), for the tokens t of one span.
    void add_mass(std::size_t index, const float* log_sums, float* mass) noexcept {
        using L = lanes<Isa>;
        partners_ = false; // no values are read
        const std::size_t begin = index * kernel::attention_span;
        const std::size_t end = min_of(cache_.size(), begin + kernel::attention_span);
        for (std::size_t first = begin; first < end; first += kernel::attention_block) {
            const std::size_t count = min_of(kernel::attention_block, end - first);
            if (!seen_.any(at_, first, first + count)) continue;
            const std::size_t panels = ceil_div(count, rows16);
            (void)block_scores(first, count);
            for (std::size_t r = 0; r < rows_; ++r) {
                adjust(r, first, count, panels);
                if (log_sums[r] == -infinity) continue;
                const L less(-(log_sums[r] - (options_.soft_cap == 0.0f ? offsets_[r] : 0.0f)));
                for (std::size_t t = 0; t < count; t += 8) {
                    const std::size_t n = min_of<std::size_t>(8, count - t);
                    const L score = L::load(scores_ + (t / rows16 * rows_ + r) * rows16 + t % rows16, 8);
                    (L::load(mass + first + t, n) + exp(score + less)).store(mass + first + t, n);
                }
            }
        }
    }

private:
    // Where the codes of a block's keys take as much memory as those of its values, and stay in the first-level cache: keys ask for
    // the values of their tokens as they are read, and values for the keys of the next block, at the same place of a page. So all
    // of it is asked for at one pace, as long before it is read as half a block takes (Emerald Rapids, one query, against a
    // distance within streams: int4_g32 1.17 to 1.20 times as fast, int8 1.01 to 1.04; f16, whose halves are 64 KiB, 0.97). Only
    // where the tiles of both do ask: not for keys that are turned as they are read, nor for many rows, whose panels are unpacked.
    [[nodiscard]] static bool has_partners(const key_layout<Keys>& keys, const value_layout_type& values, std::size_t page_tokens) noexcept {
        if constexpr (stores_values) {
            const std::size_t room = std::size_t{NIBBLE_CPU_IS_AMD ? 16u : 32u} << 10; // of 32 or 48 KiB
            return keys.scales == values.scales && page_tokens <= kernel::attention_block &&
                   kernel::attention_block / page_tokens * keys.scales <= room;
        } else {
            return false;
        }
    }
    [[nodiscard]] open_value_layout open_values(std::size_t tokens) const noexcept {
        return open_values_type::make(key_layout<f32_plain>(tokens, o_.head_size), o_.value_size);
    }
    // Positions [begin, end) of the block that one storage has.
    struct range {
        std::size_t begin, end;
        [[nodiscard]] bool empty() const noexcept { return begin >= end; }
    };
    [[nodiscard]] static range meet(std::size_t begin, std::size_t end, std::size_t first, std::size_t count) noexcept {
        return {max_of(begin, first), min_of(end, first + count)};
    }

    NIBBLE_NOINLINE void transform_query(std::size_t r) noexcept {
        using L = lanes<Isa>;
        float* const query = queries_ + r * o_.head_size;
        if (rotary_ != nullptr) { // keys get their mean back before they are turned
            if (r % at_.group == 0) rotary_->turns_at(at_.position(r), query_turns_);
            rotary_->rotate_row(query_turns_, query);
            return;
        }
        if (!key_transform_->mean.empty()) {
            const float* mean = key_transform_->mean.data() + at_.head * o_.head_size;
            L sum[2] = {L(0.0f), L(0.0f)};
            for (std::size_t c = 0; c < o_.head_size; c += 8) {
                const std::size_t n = min_of<std::size_t>(8, o_.head_size - c);
                L& part = sum[c / 8 % 2];
                part = fma(L::load(query + c, n), L::load(mean + c, n), part);
            }
            offsets_[r] = kernel::sum_of(sum);
        }
        transform_channels<Isa>(*key_transform_, at_.head, o_.head_size, false, query);
    }

    // What of a block lies where: sinks, pages, and the newest tokens, as far as any row sees them. All else is masked, whatever
    // the scores of it hold.
    struct places {
        range first_values, values, new_values;
    };
    // The scores of a block, NaN where a key or a value is not finite.
    places block_scores(std::size_t first, std::size_t count) noexcept {
        const std::size_t sinks = min_of(o_.sinks, cache_.size());
        const std::size_t begin = max_of(sinks, seen_.begin(at_.position(0)));
        const std::size_t end = seen_.end(at_.position(rows_ - 1));
        const range first_keys = meet(0, sinks, first, count);
        const range keys = meet(begin, min_of(cache_.stored_keys(), end), first, count);
        const range new_keys = meet(max_of(begin, cache_.stored_keys()), end, first, count);
        const range first_values = meet(0, sinks, first, count);
        const range values = meet(begin, min_of(cache_.stored_values(), end), first, count);
        const range new_values = meet(max_of(begin, cache_.stored_values()), end, first, count);
        if (rotary_ != nullptr) rotary_->turns_at(first, block_turns_);
        if (!first_keys.empty()) open_scores(cache_.first_keys(), first_keys_layout_, first_keys, first, false);
        // What comes next from memory is asked for before it is needed: the tiles ask for what is read after them, and while the
        // processor is busy with the scores it asks for more of the values.
        const std::byte* const soon = values_at(values);
        for (std::size_t i = first / o_.page_tokens; i * o_.page_tokens < first + count; ++i) ask_for_scales(i, stores_values);
        if (!keys.empty()) page_scores(keys, first, soon);
        if (!new_keys.empty()) open_scores(cache_.newest_keys(), open_keys_layout_, new_keys, first, true);
        // A value that is not finite spoils its token wherever the key lies.
        spoil_open(cache_.first_values(), first_values, first, false);
        spoil_pages(values, first);
        spoil_open(cache_.newest_values(), new_values, first, true);
        return {first_values, values, new_values};
    }
    [[nodiscard]] const std::byte* values_at(const range& values) const noexcept {
        if (!stores_values || values.empty()) return nullptr;
        return cache_.pages()->values_of(cache_.page(values.begin / o_.page_tokens), at_.head);
    }

    // What is asked for while scores are weighed and no tile asks: the block's values, whose beginning the keys' tiles have asked
    // for; or, where those asked for all of them, the next block's keys (1.02 to 1.1 times as fast as asking for nothing).
    [[nodiscard]] kernel::asked_memory asked_meanwhile(const range& values, std::size_t first) const noexcept {
        const std::size_t step = rows_ == 1 ? 128 : 64;
        const auto& pages = *cache_.pages();
        if (!partners_) {
            const std::byte* const at = values_at(values);
            return at == nullptr ? kernel::asked_memory{} : kernel::asked_memory{at + 8192, at + pages.values().scales, step};
        }
        const std::uint32_t later = page_of_next_block(first / o_.page_tokens, first);
        if (later == cache_type::none) return {};
        const std::byte* const at = pages.keys_of(later, at_.head);
        return {at, at + pages.keys().scales, step};
    }
    // The page one block of tokens after a page of the block at `first`, if it is read next.
    [[nodiscard]] std::uint32_t page_of_next_block(std::size_t page, std::size_t first) const noexcept {
        if (first + kernel::attention_block >= goes_to_) return cache_type::none;
        return cache_.page(page + kernel::attention_block / o_.page_tokens);
    }

    void block(std::size_t first, std::size_t count, kernel::softmax_state* states, float* out) noexcept {
        const std::size_t panels = ceil_div(count, rows16);
        const places at = block_scores(first, count);
        kernel::asked_memory asked = asked_meanwhile(at.values, first);
        for (std::size_t r = 0; r < rows_; ++r) adjust(r, first, count, panels);
        kernel::weigh<Isa>(scores_, rows_, panels, states, rescale_, asked);
        const std::size_t after = first + kernel::attention_block;
        for (std::size_t i = after / o_.page_tokens; i * o_.page_tokens < after + kernel::attention_block; ++i)
            ask_for_scales(i, false);
        rescale(out);
        if (!at.first_values.empty()) {
            const range& r = at.first_values;
            const value_piece piece = open_piece(cache_.first_values(), first, r.begin, r.end);
            first_values_.accumulate(&piece, 1, r.begin - first, r.end - first, scores_, out, nullptr, asked);
        }
        if (!at.values.empty()) page_values(at.values, first, out, asked);
        if (!at.new_values.empty()) newest_values(at.new_values, first, out, asked);
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
    template <class Side, class Decoder>
    void scores_of(Side& side, Decoder& decoder, const key_piece& piece, std::size_t position, std::size_t begin, std::size_t first,
                   const std::byte* next) noexcept {
        const auto products = [&](const key_piece& part, float* out, const std::byte* after) {
            if (rotary_ != nullptr)
                rotated_scores(decoder, part, (position - first) / rows16, out);
            else
                side.scores(part, out, after);
        };
        const std::size_t panel = (position - first) / rows16;
        if (begin > position) {
            key_piece one = piece;
            one.panels = 1;
            products(one, mixed_, nullptr);
            for (std::size_t r = 0; r < rows_; ++r)
                for (std::size_t i = begin - position; i < rows16; ++i)
                    scores_[(panel * rows_ + r) * rows16 + i] = mixed_[r * rows16 + i];
        } else {
            products(piece, scores_ + panel * rows_ * rows16, next);
        }
    }
    // Of keys that are turned as they are read; `panel` is where in the block they begin.
    template <class Decoder>
    NIBBLE_NOINLINE void rotated_scores(Decoder& decoder, const key_piece& piece, std::size_t panel, float* out) noexcept {
        const float* mean = key_transform_->mean.empty() ? nullptr : key_transform_->mean.data() + at_.head * o_.head_size;
        const std::size_t bytes = open_keys_layout_.panel_bytes;
        for (std::size_t p = 0; p < piece.panels;) {
            key_piece turned{};
            turned.panels = min_of(panels_turned, piece.panels - p);
            for (std::size_t i = 0; i < turned.panels; ++i) {
                auto* to = reinterpret_cast<float*>(turned_keys_ + i * bytes);
                decoder.decode(piece, p + i, mean, to);
                rotary_->rotate_panel<Isa>(block_turns_, panel + p + i, to, panel_turns_);
                std::memset(to + o_.head_size * rows16, 0, bytes - o_.head_size * rows16 * sizeof *to); // padding
            }
            turned.codes = turned.scales = turned.zeros = turned_keys_;
            open_keys_.scores(turned, out + p * rows_ * rows16, nullptr);
            p += turned.panels;
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
            scores_of(open_keys_, open_decoder_, piece, position, r.begin, first, nullptr);
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
                if (partners_) piece.partner = kernel::ahead_of(part, pages.values_of(id, at_.head));
                return piece;
            };
            std::size_t position = max_of(page * size, r.begin / rows16 * rows16);
            if (position < r.begin) {
                scores_of(keys_, decoder_, piece_at(position, 1), position, r.begin, first, nullptr);
                position += rows16;
            }
            // After these keys come those of the next page, or the block's values.
            const std::byte* next = end < r.end ? pages.keys_of(cache_.page(page + 1), at_.head) : values;
            if (position < end)
                scores_of(keys_, decoder_, piece_at(position, ceil_div(end - position, rows16)), position, position, first, next);
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
            const L offset(offsets_[r]);
            for (std::size_t p = 0; p < panels; ++p)
                for (std::size_t half = 0; half < 16; half += 8) {
                    float* at = row + p * stride + half;
                    (cap * tanh((L::load(at, 8) + offset) * inverse)).store(at, 8);
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
            for (std::size_t t = 0; t < count; ++t) { // what it hides does not count, a NaN neither
                float& s = row[t / rows16 * stride + t % rows16];
                s = mask[t] == -infinity ? -infinity : s + mask[t];
            }
        }
        const std::size_t last = seen_.end(at_.position(r));
        const std::size_t end = min_of(first + count, max_of(last, first));
        const std::size_t begin = min_of(max_of(seen_.begin(at_.position(r)), first), first + panels * rows16);
        if (begin > first)
            for (std::size_t t = first; t < begin; ++t)
                if (t >= o_.sinks || t >= last) row[(t - first) / rows16 * stride + (t - first) % rows16] = -infinity;
        for (std::size_t t = max_of(end, begin) - first; t < panels * rows16; ++t) row[t / rows16 * stride + t % rows16] = -infinity;
    }

    // ---- values ----
    void rescale(float* out) noexcept {
        using L = kernel::token_lanes<Isa>;
        for (std::size_t r = 0; r < rows_; ++r) {
            if (rescale_[r] == 1.0f) continue;
            const L by(rescale_[r]);
            for (std::size_t p = 0; p < ceil_div(o_.value_size, rows16); ++p)
                for (std::size_t i = 0; i < rows16; i += L::width) {
                    float* at = out + (p * rows_ + r) * rows16 + i;
                    (L::load(at, L::width) * by).store(at, L::width);
                }
        }
    }
    [[nodiscard]] value_piece open_piece(const open_tokens& open, std::size_t first, std::size_t begin, std::size_t end) const noexcept {
        value_piece piece{};
        const std::size_t from = begin / rows16 * rows16;
        piece.codes = open.head(at_.head) + open_values_layout_.codes_at(from % open.tokens);
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
        using format = token_format<typename value_layout_type::scheme_type>;
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
            piece.codes = part + layout.codes_at(t);
            piece.scales = part + layout.scales + layout.slot(0, t) * sizeof(typename format::scale_code);
            piece.zeros = part + layout.zeros + layout.slot(0, t) * sizeof(typename format::zero_code);
            piece.first = begin - first;
            piece.count = end - begin;
            const std::uint32_t later = partners_ ? page_of_next_block(page, first) : cache_type::none;
            if (later != cache_type::none) piece.partner = kernel::ahead_of(part, pages.keys_of(later, at_.head));
        }
        const std::uint32_t after = cache_.page((first + kernel::attention_block) / size);
        values_.accumulate(pieces, count, r.begin - first, r.end - first, scores_, out,
                           after == cache_type::none ? nullptr : pages.keys_of(after, at_.head), asked);
    }

    const cache_type& cache_;
    const kv_cache_options& o_;
    attention_rows at_;
    const attend_options& options_;
    seen_tokens seen_;
    std::size_t rows_;
    const kv_transform* key_transform_;
    const kernel::rotary_tables* rotary_;
    float* queries_;
    float* offsets_;
    float* scores_;
    float* mixed_;
    float* rescale_;
    key_layout<f32_plain> open_keys_layout_;
    open_value_layout open_values_layout_;
    key_layout<f32_plain> first_keys_layout_;
    open_value_layout first_values_layout_;
    key_side keys_;
    open_key_side open_keys_;
    value_side values_;
    open_value_side open_values_;
    open_value_side first_values_;
    kernel::panel_decoder<Isa, Keys> decoder_; // from here on for a rotary embedding alone
    kernel::panel_decoder<Isa, f32_plain> open_decoder_;
    bool partners_;
    std::size_t goes_to_ = 0; // tokens before which the span ends, and those that follow it
    kernel::turn* query_turns_ = nullptr; // of one position
    float* block_turns_ = nullptr;
    float* panel_turns_ = nullptr;
    std::byte* turned_keys_ = nullptr; // panels in the layout of f32 pages
};

} // namespace nibble::inline NIBBLE_ABI::detail
