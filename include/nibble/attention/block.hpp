// attention/block.hpp: what a task of attention does whatever schemes its cache stores: queries, the tokens that are
// fp32 as yet, and what becomes of scores. Compiled once per ISA, not for each pair of schemes.
#pragma once

#include <nibble/attention/options.hpp>
#include <nibble/attention/partial.hpp>
#include <nibble/attention/queries.hpp>
#include <nibble/cache/pages.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_values.hpp>
#include <nibble/kernel/dequantize_keys.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/rotary.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// StoresValues: or values are keys of the same place.
template <isa Isa, bool StoresValues> class attention_base {
protected:
    using open_score_product = kernel::score_product<Isa, f32_plain, false>;
    using open_values_type = values_of_cache<f32_plain, std::conditional_t<StoresValues, f32_plain, prefix_of_keys>>;
    using open_value_layout = typename open_values_type::layout;
    using open_value_product = kernel::value_product<Isa, open_value_layout, false>;
    using open_decoder = kernel::panel_decoder<Isa, f32_plain>;
    using key_piece = kernel::key_piece;
    using value_piece = kernel::value_piece;
    static constexpr std::size_t rows16 = panel_layout::rows;
    // Panels of keys that are rotated before the next products: 32 KiB of 128 channels.
    static constexpr std::size_t panels_rotated = 4;

    attention_base(const kv_sequence& cache, const attention_rows& rows, const attend_options& options,
                   kernel::arena& memory) noexcept
        : cache_(cache), memory_(cache.memory()), o_(cache.options()), at_(rows), options_(options),
          visible_(cache, options), rows_(rows.rows()), key_transform_(cache.key_transform().get()),
          rotary_(cache.key_rotary()), queries_(memory.take<float>(rows_ * o_.head_size)),
          offsets_(memory.take<float>(rows_)), scores_(memory.take<float>(kernel::attention_block * rows_)),
          boundary_scores_(memory.take<float>(rows16 * rows_)), rescale_(memory.take<float>(rows_)),
          open_keys_layout_(cache.newest_keys().tokens, o_.head_size),
          open_values_layout_(open_values(cache.newest_values().tokens)),
          first_keys_layout_(cache.first_keys().tokens, o_.head_size),
          first_values_layout_(open_values(cache.first_values().tokens)),
          open_keys_(open_keys_layout_, rows_, queries_, 1.0f, memory),
          open_values_(open_values_layout_, rows_, 1.0f, memory),
          first_values_(first_values_layout_, rows_, 1.0f, memory),
          open_decoder_(open_keys_layout_, 1.0f, rotary_ != nullptr, memory) {
        if (rotary_ == nullptr) return;
        query_rotations_ = memory.take<kernel::rotation>(rotary_->pairs());
        block_rotations_ = memory.take<float>(2 * rotary_->padded());
        panel_rotations_ = memory.take<float>(2 * rotary_->padded());
        rotated_keys_ = memory.take<std::byte>(panels_rotated * open_keys_layout_.panel_bytes);
    }
    attention_base(const attention_base&) = delete; // parts refer to one another
    attention_base& operator=(const attention_base&) = delete;
    ~attention_base() = default;

    // The queries of the task, with the scale in them, as they meet what is stored.
    void prepare_queries(matrix_view<const float> q) noexcept {
        const float scale =
            options_.scale != 0.0f ? options_.scale : 1.0f / __builtin_sqrtf(static_cast<float>(o_.head_size));
        for (std::size_t r = 0; r < rows_; ++r) {
            const float* from =
                q.row(at_.first_query + r / at_.group) + (at_.head * at_.group + r % at_.group) * o_.head_size;
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
        if (rotary_ != nullptr || cache_.newest_keys().tokens != 0 || o_.sinks != 0) open_keys_.prepare();
    }

    NIBBLE_NOINLINE void transform_query(std::size_t r) noexcept {
        using L = lanes<Isa>;
        float* const query = queries_ + r * o_.head_size;
        if (rotary_ != nullptr) { // keys get their mean back before they are rotated
            if (r % at_.group == 0) rotary_->rotations_at(at_.position(r), query_rotations_);
            rotary_->rotate_row(query_rotations_, query);
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

    // Positions [begin, end) of the block that one storage has.
    struct range {
        std::size_t begin, end;
        [[nodiscard]] bool empty() const noexcept { return begin >= end; }
    };
    [[nodiscard]] static range meet(std::size_t begin, std::size_t end, std::size_t first, std::size_t count) noexcept {
        return {max_of(begin, first), min_of(end, first + count)};
    }

    [[nodiscard]] open_value_layout open_values(std::size_t tokens) const noexcept {
        return open_values_type::make(key_layout<f32_plain>(tokens, o_.head_size), o_.value_size);
    }
    // What of a block lies where: sinks, pages, and the newest tokens, as far as any row sees them. All else is masked,
    // whatever the scores of it hold.
    struct places {
        range first_keys, keys, new_keys;
        range first_values, values, new_values;
    };
    [[nodiscard]] places places_of(std::size_t first, std::size_t count) const noexcept {
        const std::size_t sinks = min_of(o_.sinks, cache_.size());
        const std::size_t begin = max_of(sinks, visible_.begin(at_.position(0)));
        const std::size_t end = visible_.end(at_.position(rows_ - 1));
        const range sunk = meet(0, sinks, first, count);
        return {.first_keys = sunk,
                .keys = meet(begin, min_of(cache_.stored_keys(), end), first, count),
                .new_keys = meet(max_of(begin, cache_.stored_keys()), end, first, count),
                .first_values = sunk,
                .values = meet(begin, min_of(cache_.stored_values(), end), first, count),
                .new_values = meet(max_of(begin, cache_.stored_values()), end, first, count)};
    }
    [[nodiscard]] const std::byte* values_at(const range& values) const noexcept {
        if (!StoresValues || values.empty()) return nullptr;
        return memory_.values_of(cache_.page(values.begin / o_.page_tokens), at_.head);
    }

    // The page one block of tokens after a page of the block at `first`, if it is read next.
    [[nodiscard]] std::uint32_t page_of_next_block(std::size_t page, std::size_t first) const noexcept {
        if (first + kernel::attention_block >= goes_to_) return kv_sequence::none;
        return cache_.page(page + kernel::attention_block / o_.page_tokens);
    }

    // ---- scores ----
    // products(a piece, where to, what is read next) of a range's panels, whose first may hold tokens of the range
    // before it already.
    template <class Products>
    void scores_of(const Products& products, const key_piece& piece, std::size_t position, std::size_t begin,
                   std::size_t first, const std::byte* next) noexcept {
        const std::size_t panel = (position - first) / rows16;
        if (begin > position) {
            key_piece one = piece;
            one.panels = 1;
            products(one, boundary_scores_, nullptr);
            for (std::size_t r = 0; r < rows_; ++r)
                for (std::size_t i = begin - position; i < rows16; ++i)
                    scores_[(panel * rows_ + r) * rows16 + i] = boundary_scores_[r * rows16 + i];
        } else {
            products(piece, scores_ + panel * rows_ * rows16, next);
        }
    }
    // Of keys that are rotated as they are read: decode(decoder, piece, which panel of it, mean, to) makes them fp32;
    // `panel` is where in the block they begin.
    using decode_panel = void (*)(void* decoder, const key_piece& piece, std::size_t p, const float* mean,
                                  float* to) noexcept;
    template <class Decoder> [[nodiscard]] static constexpr decode_panel decode_by() noexcept {
        return [](void* decoder, const key_piece& piece, std::size_t p, const float* mean, float* to) noexcept {
            static_cast<Decoder*>(decoder)->decode(piece, p, mean, to);
        };
    }
    NIBBLE_NOINLINE void rotated_scores(decode_panel decode, void* decoder, const key_piece& piece, std::size_t panel,
                                        float* out) noexcept {
        const float* mean =
            key_transform_->mean.empty() ? nullptr : key_transform_->mean.data() + at_.head * o_.head_size;
        const std::size_t bytes = open_keys_layout_.panel_bytes;
        for (std::size_t p = 0; p < piece.panels;) {
            key_piece rotated{};
            rotated.panels = min_of(panels_rotated, piece.panels - p);
            for (std::size_t i = 0; i < rotated.panels; ++i) {
                auto* to = reinterpret_cast<float*>(rotated_keys_ + i * bytes);
                decode(decoder, piece, p + i, mean, to);
                rotary_->rotate_panel<Isa>(block_rotations_, panel + p + i, to, panel_rotations_);
                std::memset(to + o_.head_size * rows16, 0, bytes - o_.head_size * rows16 * sizeof *to); // padding
            }
            rotated.codes = rotated.scales = rotated.zeros = rotated_keys_;
            open_keys_.scores(rotated, out + p * rows_ * rows16, nullptr);
            p += rotated.panels;
        }
    }
    void open_scores(const fp32_window& open, const key_layout<f32_plain>& layout, const range& r, std::size_t first,
                     bool newest) noexcept {
        for (std::size_t position = r.begin / rows16 * rows16; position < r.end;) {
            const auto products = [&](const key_piece& part, float* out, const std::byte* after) {
                if (rotary_ != nullptr)
                    rotated_scores(decode_by<open_decoder>(), &open_decoder_, part, (position - first) / rows16, out);
                else
                    open_keys_.scores(part, out, after);
            };
            const std::size_t at = newest ? position % open.tokens : position;
            const bool mixed = r.begin > position;
            const std::size_t whole = min_of(round_up(r.end, rows16) - position, open.tokens - at) / rows16;
            const std::size_t panels = mixed ? 1 : whole;
            key_piece piece{};
            piece.codes = open.head(at_.head) + at / rows16 * layout.panel_bytes;
            piece.scales = piece.zeros = piece.codes;
            piece.panels = panels;
            scores_of(products, piece, position, r.begin, first, nullptr);
            position += panels * rows16;
        }
        set_nan_of_window(open, r, first, newest);
    }
    void set_nan_of_window(const fp32_window& open, const range& r, std::size_t first, bool newest) noexcept {
        if (open.marked == 0) return;
        for (std::size_t position = r.begin; position < r.end; ++position)
            if (open.nonfinite[at_.head * open.tokens + (newest ? position % open.tokens : position)] != 0)
                set_nan(position - first);
    }
    void set_nan_of_pages(const range& r, std::size_t first) noexcept {
        if (r.empty()) return;
        const std::size_t size = o_.page_tokens;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            if (!memory_.has_marks(cache_.page(page))) continue;
            const std::uint8_t* nonfinite = memory_.nonfinite(cache_.page(page), at_.head);
            for (std::size_t t = max_of(r.begin, page * size); t < min_of(r.end, (page + 1) * size); ++t)
                if (nonfinite[t - page * size] != 0) set_nan(t - first);
        }
    }
    // All scores of a token whose key or value is not finite.
    void set_nan(std::size_t t) noexcept {
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
        const std::size_t last = visible_.end(at_.position(r));
        const std::size_t end = min_of(first + count, max_of(last, first));
        const std::size_t begin = min_of(max_of(visible_.begin(at_.position(r)), first), first + panels * rows16);
        if (begin > first)
            for (std::size_t t = first; t < begin; ++t)
                if (t >= o_.sinks || t >= last) row[(t - first) / rows16 * stride + (t - first) % rows16] = -infinity;
        for (std::size_t t = max_of(end, begin) - first; t < panels * rows16; ++t)
            row[t / rows16 * stride + t % rows16] = -infinity;
    }

    // The scores of sinks; and, when those of pages are there, of the newest tokens, and NaN for what is not finite: a
    // value makes its token NaN wherever the key lies.
    void first_scores(const places& at, std::size_t first) noexcept {
        if (rotary_ != nullptr) rotary_->rotations_at(first, block_rotations_);
        if (!at.first_keys.empty()) open_scores(cache_.first_keys(), first_keys_layout_, at.first_keys, first, false);
    }
    void newest_scores(const places& at, std::size_t first) noexcept {
        if (!at.new_keys.empty()) open_scores(cache_.newest_keys(), open_keys_layout_, at.new_keys, first, true);
        set_nan_of_window(cache_.first_values(), at.first_values, first, false);
        set_nan_of_pages(at.values, first);
        set_nan_of_window(cache_.newest_values(), at.new_values, first, true);
    }

    // Scores to probabilities, in place: the rest of the softmax is in `states` and rescale_.
    void softmax(std::size_t first, std::size_t count, kernel::softmax_state* states,
                 kernel::prefetch_cursor& asked) noexcept {
        const std::size_t panels = ceil_div(count, rows16);
        for (std::size_t r = 0; r < rows_; ++r) adjust(r, first, count, panels);
        kernel::softmax<Isa>(scores_, rows_, panels, states, rescale_, asked);
    }
    // mass[t] += the sum over the rows of e^(score - log_sums[row]), for the tokens t of a block that any row sees.
    void add_probabilities(std::size_t first, std::size_t count, const float* log_sums, float* mass) noexcept {
        using L = lanes<Isa>;
        for (std::size_t r = 0; r < rows_; ++r) {
            adjust(r, first, count, ceil_div(count, rows16));
            if (log_sums[r] == -infinity) continue;
            const L less(-(log_sums[r] - (options_.soft_cap == 0.0f ? offsets_[r] : 0.0f)));
            for (std::size_t t = 0; t < count; t += 8) {
                const std::size_t n = min_of<std::size_t>(8, count - t);
                const L score = L::load(scores_ + (t / rows16 * rows_ + r) * rows16 + t % rows16, 8);
                (L::load(mass + first + t, n) + exp(score + less)).store(mass + first + t, n);
            }
        }
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
    [[nodiscard]] value_piece open_piece(const fp32_window& open, std::size_t first, std::size_t begin,
                                         std::size_t end) const noexcept {
        value_piece piece{};
        const std::size_t from = begin / rows16 * rows16;
        piece.codes = open.head(at_.head) + open_values_layout_.codes_at(from % open.tokens);
        piece.scales = piece.zeros = piece.codes;
        piece.first = from - first;
        piece.count = round_up(end, rows16) - from;
        return piece;
    }
    void first_values(const range& r, std::size_t first, float* out, kernel::prefetch_cursor& asked) noexcept {
        const value_piece piece = open_piece(cache_.first_values(), first, r.begin, r.end);
        first_values_.accumulate(&piece, 1, r.begin - first, r.end - first, scores_, out, nullptr, asked);
    }
    void newest_values(const range& r, std::size_t first, float* out, kernel::prefetch_cursor& asked) noexcept {
        const fp32_window& open = cache_.newest_values();
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
    const kv_sequence& cache_;
    const page_memory& memory_;
    const kv_cache_options& o_;
    attention_rows at_;
    const attend_options& options_;
    visible_range visible_;
    std::size_t rows_;
    const kv_transform* key_transform_;
    const kernel::rotary_tables* rotary_;
    float* queries_;
    float* offsets_;
    float* scores_;
    float* boundary_scores_;
    float* rescale_;
    key_layout<f32_plain> open_keys_layout_;
    open_value_layout open_values_layout_;
    key_layout<f32_plain> first_keys_layout_;
    open_value_layout first_values_layout_;
    open_score_product open_keys_;
    open_value_product open_values_;
    open_value_product first_values_;
    open_decoder open_decoder_;                   // from here to rotated_keys_ for a rotary embedding alone
    kernel::rotation* query_rotations_ = nullptr; // of one position
    float* block_rotations_ = nullptr;
    float* panel_rotations_ = nullptr;
    std::byte* rotated_keys_ = nullptr; // panels in the layout of f32 pages
    std::size_t goes_to_ = 0;           // tokens before which the span ends, and those that follow it
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
