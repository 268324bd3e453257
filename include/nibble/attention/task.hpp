// attention/task.hpp: what attend does in one task: some queries of a sequence over all of its tokens, block after
// block, wherever those lie.
#pragma once

#include <nibble/attention/block.hpp>
#include <nibble/attention/options.hpp>
#include <nibble/attention/partial.hpp>
#include <nibble/attention/products.hpp>
#include <nibble/attention/queries.hpp>
#include <nibble/cache/pages.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_values.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Of caches whose values are stored, or are a prefix of their keys; whatever the schemes.
template <isa Isa, bool StoresValues> class attention_task : attention_base<Isa, StoresValues> {
    using base = attention_base<Isa, StoresValues>;
    using base::at_;
    using base::cache_;
    using base::goes_to_;
    using base::o_;
    using base::options_;
    using base::rotary_;
    using base::rows16;
    using base::rows_;
    using base::scores_;
    using base::visible_;
    using typename base::key_piece;
    using typename base::places;
    using typename base::range;
    using typename base::value_piece;

public:
    attention_task(const kv_sequence& cache, const attention_products& products, const attention_rows& rows,
                   const attend_options& options, kernel::arena& memory) noexcept
        : base(cache, rows, options, memory), pages_(cache.memory()), of_keys_(*products.keys),
          of_values_(*products.values) {
        of_keys_.make(&keys_, pages_.keys(), rows_, base::queries_, o_.key_scale, memory);
        of_values_.make(&values_, pages_.values(), rows_, StoresValues ? o_.value_scale : o_.key_scale, memory);
        of_keys_.make_decoder(&decoder_, pages_.keys(), o_.key_scale, rotary_ != nullptr, memory);
        paired_prefetch_ = prefetches_in_pairs() && rotary_ == nullptr && of_keys_.prefetches(&keys_) &&
                           of_values_.prefetches(&values_);
    }

    // The queries of the task, as they meet what is stored.
    void prepare(matrix_view<const float> q) noexcept {
        base::prepare_queries(q);
        if (rotary_ == nullptr) of_keys_.prepare(&keys_);
    }

    // The tokens of one span; whether those of the next are read after it.
    void span(std::size_t index, bool goes_on, const attention_sums& to) noexcept {
        const std::size_t begin = index * kernel::kv_split;
        const std::size_t end = min_of(cache_.size(), begin + kernel::kv_split);
        goes_to_ = goes_on ? cache_.size() : end;
        to.clear(o_, rows_);
        // What the scores lack: the query x the keys' mean. (A soft cap wants it in every score: adjust.)
        for (std::size_t r = 0; r < rows_ && options_.soft_cap == 0.0f; ++r) to.offsets[r] = base::offsets_[r];
        for (std::size_t first = begin; first < end; first += kernel::attention_block)
            if (visible_.any(at_, first, min_of(end, first + kernel::attention_block)))
                block(first, min_of(kernel::attention_block, end - first), to.states, to.sums);
    }

    // mass[t] += the sum over the rows of e^(score - log_sums[row]), for the tokens t of one span.
    void add_mass(std::size_t index, const float* log_sums, float* mass) noexcept {
        paired_prefetch_ = false; // no values are read
        const std::size_t begin = index * kernel::kv_split;
        const std::size_t end = min_of(cache_.size(), begin + kernel::kv_split);
        for (std::size_t first = begin; first < end; first += kernel::attention_block) {
            const std::size_t count = min_of(kernel::attention_block, end - first);
            if (!visible_.any(at_, first, first + count)) continue;
            block_scores(base::places_of(first, count), first, count);
            base::add_probabilities(first, count, log_sums, mass);
        }
    }

private:
    // Where the codes of a block's keys take as much memory as those of its values, and stay in the cache that is
    // asked: keys ask for the values of their tokens as they are read, and values for the keys of the next block, at
    // the same place of a page. So all of it is asked for at one pace, as long before it is read as half a block takes
    // (Emerald Rapids, one query, against a distance within streams: int4_g32 1.17 to 1.20 times as fast, int8 1.01
    // to 1.04; f16, whose halves are 64 KiB, 0.97). Only where the tiles of both do ask: not for keys that are rotated
    // as they are read, nor for many rows, whose panels are unpacked.
    [[nodiscard]] bool prefetches_in_pairs() const noexcept {
        if constexpr (StoresValues) {
            // Of a first-level cache of 32 or 48 KiB; or, where requests of both halves go to it, of a second-level
            // one.
            const std::size_t room = std::size_t{of_keys_.prefetches_l2 && of_values_.prefetches_l2 ? 128u : 32u} << 10;
            const std::size_t scales = pages_.keys().scales;
            return scales == pages_.values().scales && o_.page_tokens <= kernel::attention_block &&
                   kernel::attention_block / o_.page_tokens * scales <= room;
        } else {
            return false;
        }
    }
    // The scores of a block, NaN where a key or a value is not finite.
    void block_scores(const places& at, std::size_t first, std::size_t count) noexcept {
        base::first_scores(at, first);
        // What comes next from memory is asked for before it is needed: the tiles ask for what is read after them, and
        // while the processor is busy with the scores it asks for more of the values.
        const std::byte* const soon = base::values_at(at.values);
        for (std::size_t i = first / o_.page_tokens; i * o_.page_tokens < first + count; ++i)
            prefetch_scales(i, StoresValues);
        if (!at.keys.empty()) page_scores(at.keys, first, soon);
        base::newest_scores(at, first);
    }
    // What is asked for during the softmax, when no tile asks: the block's values, whose beginning the keys' tiles
    // have asked for; or, where those asked for all of them, the next block's keys (1.02 to 1.1 times as fast as asking
    // for nothing).
    [[nodiscard]] kernel::prefetch_cursor prefetched_meanwhile(const range& values, std::size_t first) const noexcept {
        const std::size_t step = rows_ == 1 ? 128 : 64;
        if (!paired_prefetch_) {
            const std::byte* const at = base::values_at(values);
            return at == nullptr ? kernel::prefetch_cursor{}
                                 : kernel::prefetch_cursor{at + 8192, at + pages_.values().scales, step};
        }
        const std::uint32_t later = base::page_of_next_block(first / o_.page_tokens, first);
        if (later == kv_sequence::none) return {};
        const std::byte* const at = pages_.keys_of(later, at_.head);
        return {at, at + pages_.keys().scales, step};
    }
    void block(std::size_t first, std::size_t count, kernel::softmax_state* states, float* out) noexcept {
        const places at = base::places_of(first, count);
        block_scores(at, first, count);
        kernel::prefetch_cursor asked = prefetched_meanwhile(at.values, first);
        base::softmax(first, count, states, asked);
        const std::size_t after = first + kernel::attention_block;
        for (std::size_t i = after / o_.page_tokens; i * o_.page_tokens < after + kernel::attention_block; ++i)
            prefetch_scales(i, false);
        base::rescale(out);
        if (!at.first_values.empty()) base::first_values(at.first_values, first, out, asked);
        if (!at.values.empty()) page_values(at.values, first, out, asked);
        if (!at.new_values.empty()) base::newest_values(at.new_values, first, out, asked);
    }

    static void prefetch(const std::byte* at, std::size_t bytes) noexcept {
        for (std::size_t i = 0; i < bytes; i += 64) Isa::prefetch(at + i);
    }
    // Scales and zero points: short stretches beside the codes, which no prefetch of a tile reaches.
    void prefetch_scales(std::size_t page, bool values) noexcept {
        if (cache_.page(page) == kv_sequence::none) return;
        const std::uint32_t id = cache_.page(page);
        if (values)
            prefetch(pages_.values_of(id, at_.head) + pages_.values().scales,
                     pages_.values().bytes - pages_.values().scales);
        else
            prefetch(pages_.keys_of(id, at_.head) + pages_.keys().scales, pages_.keys().bytes - pages_.keys().scales);
    }

    void page_scores(const range& r, std::size_t first, const std::byte* values) noexcept {
        const plain_key_layout& layout = pages_.keys();
        const std::size_t size = o_.page_tokens;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            const std::uint32_t id = cache_.page(page);
            const std::byte* part = pages_.keys_of(id, at_.head);
            const std::size_t end = min_of(r.end, (page + 1) * size);
            const auto piece_at = [&](std::size_t position, std::size_t panels) {
                const std::size_t t = position - page * size;
                key_piece piece{};
                piece.codes = part + layout.codes + t / rows16 * layout.panel_bytes;
                std::size_t slots = t / rows16 * layout.slots;
                if (layout.tokens_per_group != 0) {
                    slots = t / layout.tokens_per_group * layout.slots;
                    piece.begun = t % layout.tokens_per_group / rows16;
                }
                piece.scales = part + layout.scales + slots * layout.scale_bytes;
                piece.zeros = part + layout.zeros + slots * layout.zero_bytes;
                piece.panels = panels;
                if (paired_prefetch_)
                    piece.paired_prefetch_offset = kernel::prefetch_offset(part, pages_.values_of(id, at_.head));
                return piece;
            };
            std::size_t position = max_of(page * size, r.begin / rows16 * rows16);
            const auto products = [&](const key_piece& of, float* out, const std::byte* after) {
                if (rotary_ != nullptr)
                    base::rotated_scores(of_keys_.decode, &decoder_, of, (position - first) / rows16, out);
                else
                    of_keys_.scores(&keys_, of, out, after);
            };
            if (position < r.begin) {
                base::scores_of(products, piece_at(position, 1), position, r.begin, first, nullptr);
                position += rows16;
            }
            // After these keys come those of the next page, or the block's values.
            const std::byte* next = end < r.end ? pages_.keys_of(cache_.page(page + 1), at_.head) : values;
            if (position < end)
                base::scores_of(products, piece_at(position, ceil_div(end - position, rows16)), position, position,
                                first, next);
        }
        base::set_nan_of_pages(r, first);
    }
    void page_values(const range& r, std::size_t first, float* out, kernel::prefetch_cursor& asked) noexcept {
        const plain_value_layout& layout = pages_.values();
        const std::size_t size = o_.page_tokens;
        value_piece pieces[kernel::most_pieces];
        std::size_t count = 0;
        for (std::size_t page = r.begin / size; page * size < r.end; ++page) {
            const std::byte* part = pages_.values_of(cache_.page(page), at_.head);
            const std::size_t begin = max_of(page * size, first); // whole phases: all of the page that is in the block
            const std::size_t end = min_of(round_up(min_of(r.end, (page + 1) * size), rows16), (page + 1) * size);
            const std::size_t t = begin - page * size;
            kernel::value_piece& piece = pieces[count++];
            piece.codes = part + layout.codes_at(t);
            piece.scales = part + layout.scales + layout.slot(0, t) * layout.scale_bytes;
            piece.zeros = part + layout.zeros + layout.slot(0, t) * layout.zero_bytes;
            piece.first = begin - first;
            piece.count = end - begin;
            const std::uint32_t later = paired_prefetch_ ? base::page_of_next_block(page, first) : kv_sequence::none;
            if (later != kv_sequence::none)
                piece.paired_prefetch_offset = kernel::prefetch_offset(part, pages_.keys_of(later, at_.head));
        }
        const std::uint32_t after = cache_.page((first + kernel::attention_block) / size);
        of_values_.accumulate(&values_, pieces, count, r.begin - first, r.end - first, scores_, out,
                              after == kv_sequence::none ? nullptr : pages_.keys_of(after, at_.head), asked);
    }

    const page_memory& pages_;
    const key_operations& of_keys_;
    const value_operations& of_values_;
    score_product_room<Isa> keys_;
    value_product_room<Isa> values_;
    decoder_room<Isa> decoder_; // for a rotary embedding alone
    bool paired_prefetch_ = false;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
