// cache/stored_sequence.hpp: a sequence of cached keys and values: appended, taken back, saved and read; compiled once
// for all schemes, whose numbers it stores through tables of functions (storage.hpp).
#pragma once

#include <nibble/cache/pages.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/cache/storage.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/exchange.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/kv_store.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// What kv_cache says of it is its contract.
class stored_sequence : public kv_sequence {
public:
    // What keys, or values, go through before they are stored, windows and sinks included; none (nullptr) at first. For
    // a sequence that has no token yet. read_keys and attend undo it (read_keys gives keys that no rotary embedding has
    // rotated). What a transform makes infinite counts as not finite. A fork shares it; whoever restores a page in
    // another sequence sets the same.
    void set_key_transform(shared_ptr<const kv_transform> transform) {
        const kv_cache_options& o = options();
        NIBBLE_CHECK(tokens_ == 0,
                     "kv_cache::set_key_transform: tokens are there, which came through another transform");
        if (transform != nullptr) {
            check_transform(*transform, o.heads, o.head_size, true);
            NIBBLE_CHECK(memory_->stores_values() || (transform->order.empty() && !transform->hadamard),
                         "kv_cache::set_key_transform: an order or a Hadamard transform leaves no prefix of the keys "
                         "to be values");
        }
        key_rotary_ = transform != nullptr ? tables_of(transform->rotary) : nullptr;
        key_transform_ = std::move(transform);
    }
    void set_value_transform(shared_ptr<const kv_transform> transform) {
        const kv_cache_options& o = options();
        NIBBLE_CHECK(tokens_ == 0,
                     "kv_cache::set_value_transform: tokens are there, which came through another transform");
        NIBBLE_CHECK(memory_->stores_values(),
                     "kv_cache::set_value_transform: values that are a prefix of the keys go through theirs");
        if (transform != nullptr) check_transform(*transform, o.heads, o.value_size, false);
        value_transform_ = std::move(transform);
    }

    // Stores the tokens of the last append, once their queries have attended to them, as the next append would: before
    // fork, so that their pages are shared, before save_page, or to have the memory of a long append back at once.
    template <executor Executor = serial> void flush(const Executor& threads = {}) {
        check_pages();
        if (due_ != tokens_ || !short_newest_.empty()) put_tokens({}, {}, tokens_, threads);
    }

    // Back to the first `count` tokens, as if no more had been appended; of the last append's, as if it had been
    // shorter. Where numbers wait in fp32 for their group or in a window, at most options().rollback tokens go back
    // from the most there have been, unless `count` leaves none of them waiting, or they are of the last append and not
    // stored yet.
    void truncate(std::size_t count) {
        check_pages();
        NIBBLE_CHECK(can_truncate(count),
                     "kv_cache::truncate: to a number of tokens that are there, and not further back than "
                     "options.rollback where keys or values wait in fp32");
        const std::size_t keys = memory_->stored_keys(count);
        const std::size_t values = memory_->stored_values(count);
        const std::size_t end = ceil_div(max_of(keys, values), options().page_tokens);
        const bool clears = count < due_ || uncleared_;
        release_from(end);
        tokens_ = count;
        due_ = min_of(due_, count);
        if (clears) clear_from(stored_keys(), stored_values());
        begin_ = min_of(begin_, count);
        oldest_key_ = min_of(oldest_key_, count);
        oldest_value_ = min_of(oldest_value_, count);
        if (count == 0 && !short_newest_.empty()) newest_ = exchange(short_newest_, {});
    }
    void clear() { truncate(0); }

    // A page that was dropped, as save_page wrote it.
    void restore_page(std::size_t i, array_view<const std::byte> from) {
        check_pages();
        NIBBLE_CHECK(i < table_.size() && table_[i] == none && i * options().page_tokens >= begin_,
                     "kv_cache::restore_page: a page that was dropped");
        NIBBLE_CHECK(from.size() == memory_->page_bytes(), "kv_cache::restore_page: the bytes of one page");
        NIBBLE_CHECK(memory_->available() != 0, "kv_cache::restore_page: no page left");
        table_[i] = memory_->take();
        memory_->restore(table_[i], from.data());
        clear_from(i, stored_keys(), stored_values()); // tokens taken back since it was saved
    }

    // What is stored, as fp32 and in the channels of append: row t is token first + t, keys or values of one head, or
    // NaN if they were not finite.
    void read_keys(std::size_t head, std::size_t first, matrix_view<float> out) const {
        check_read(head, first, out, options().head_size, stored_keys());
        for (std::size_t t = 0; t < out.rows(); ++t) read_key(head, first + t, out.row(t));
    }
    void read_values(std::size_t head, std::size_t first, matrix_view<float> out) const {
        check_read(head, first, out, options().value_size, stored_values());
        for (std::size_t t = 0; t < out.rows(); ++t) read_value(head, first + t, out.row(t));
    }

protected:
    stored_sequence() noexcept = default;
    explicit stored_sequence(shared_ptr<page_memory> pages) : kv_sequence(std::move(pages)) {
        const key_storage& of = of_keys();
        transposed_.resize(options().heads * options().head_size * of.tokens_per_group * of.code_bytes);
    }
    stored_sequence(stored_sequence&&) noexcept = default;
    stored_sequence& operator=(stored_sequence&&) noexcept = default;
    ~stored_sequence() = default;

    template <executor Executor>
    void append_rows(matrix_view<const float> k, matrix_view<const float> v, const Executor& threads) {
        const kv_cache_options& o = options();
        NIBBLE_CHECK(k.rows() == v.rows(), "kv_cache::append: as many keys as values");
        NIBBLE_CHECK(k.rows() == 0 || (k.cols() == o.heads * o.head_size && v.cols() == o.heads * o.value_size),
                     "kv_cache::append: a row must have all heads: heads x head_size keys, heads x value_size values");
        append_tokens(k, v, threads);
    }
    template <executor Executor> void append_rows(matrix_view<const float> k, const Executor& threads) {
        NIBBLE_CHECK(k.rows() == 0 || k.cols() == options().heads * options().head_size,
                     "kv_cache::append: a row must have all heads: heads x head_size keys");
        append_tokens(k, {}, threads);
    }

private:
    [[nodiscard]] const key_storage& of_keys() const noexcept { return memory_->of_keys(); }
    [[nodiscard]] const value_storage& of_values() const noexcept { return memory_->of_values(); }

    // No keys from `keys` and no values from `values` on in any page but shared ones, which wait until they are this
    // sequence's own.
    void clear_from(std::size_t keys, std::size_t values) noexcept {
        uncleared_ = false;
        for (std::size_t i = min_of(keys, values) / options().page_tokens; i < table_.size(); ++i) {
            if (table_[i] == none) continue;
            if (memory_->owners(table_[i]) == 1)
                clear_from(i, keys, values);
            else
                uncleared_ = true;
        }
    }
    // Page i without keys from `keys` and values from `values` on.
    void clear_from(std::size_t i, std::size_t keys, std::size_t values) noexcept {
        const std::size_t size = options().page_tokens;
        const std::size_t first = i * size;
        for (std::size_t h = 0; h < options().heads; ++h) {
            for (std::size_t t = max_of(keys, first); t < first + size; ++t)
                of_keys().clear(memory_->keys(), memory_->keys_of(table_[i], h), t - first);
            if (memory_->stores_values())
                for (std::size_t t = max_of(values, first); t < first + size; ++t)
                    of_values().clear(memory_->values(), memory_->values_of(table_[i], h), t - first);
            std::uint8_t* nonfinite = memory_->nonfinite(table_[i], h);
            for (std::size_t t = max_of(keys, first); t < first + size; ++t) nonfinite[t - first] &= nonfinite_value;
            for (std::size_t t = max_of(values, first); t < first + size; ++t) nonfinite[t - first] &= nonfinite_key;
        }
        memory_->count_marks(table_[i]);
    }

    template <executor Executor>
    void append_tokens(matrix_view<const float> k, matrix_view<const float> v, const Executor& threads) {
        check_executor(threads);
        NIBBLE_CHECK(k.rows() <= options().capacity - tokens_,
                     "kv_cache::append: more tokens than the capacity of the sequence");
        if (k.rows() != 0) put_tokens(k, v, memory_->stores_at_next_append() ? tokens_ : tokens_ + k.rows(), threads);
    }
    // Tokens to the end, after which the first `due` are stored, but for windows and groups.
    template <executor Executor>
    void put_tokens(matrix_view<const float> k, matrix_view<const float> v, std::size_t due, const Executor& threads) {
        const kv_cache_options& o = options();
        const std::size_t count = k.rows();
        for_each_page_written(count, [&](std::size_t i) {
            NIBBLE_CHECK(i >= table_.size() || table_[i] != none || i * o.page_tokens < begin_,
                         "kv_cache::append: the page it writes to was dropped: restore it");
        });
        NIBBLE_CHECK(pages_needed(count) <= memory_->available(),
                     "kv_cache::append: no page left; evict, truncate or release sequences, or make more pages");
        const bool resizes = resizes_newest(count);
        newest_tokens other;
        if (resizes) {
            if (count > o.prompt_tokens)
                other = newest_for(count);
            else
                other = exchange(short_newest_, {});
        }
        if (uncleared_) clear_from(stored_keys(), stored_values());
        for_each_page_written(count, [&](std::size_t i) {
            if (i >= table_.size()) table_.resize(i + 1, none);
            if (table_[i] == none) {
                table_[i] = memory_->take();
            } else if (memory_->owners(table_[i]) > 1) {
                table_[i] = memory_->own(table_[i]);
                clear_from(i, stored_keys(), stored_values());
            }
        });
        const std::size_t stored[] = {stored_keys(), stored_values()};
        for_each_task(o.heads, threads, [&](std::size_t h, std::size_t) {
            store_waiting(h);
            if (resizes) copy_newest(h, other);
            found_[h] = append_head(h, k, v, resizes ? other : newest_) ? 1 : 0;
        });
        // Marks are rare, and looking for them in all of a page costs as much as a token.
        bool any = newest_.keys.marked + newest_.values.marked + first_keys_.marked + first_values_.marked != 0;
        if (resizes) {
            if (count > o.prompt_tokens && short_newest_.empty()) short_newest_ = std::move(newest_);
            newest_ = std::move(other);
        }
        tokens_ += count;
        due_ = due;
        oldest_key_ = oldest_in(newest_keys(), oldest_key_);
        oldest_value_ = oldest_in(newest_values(), oldest_value_);
        for (const std::uint8_t found : found_) any = any || found != 0;
        if (!any) return;
        for (fp32_window* open : {&newest_.keys, &newest_.values, &first_keys_, &first_values_}) open->count_marks();
        const std::size_t first = min_of(stored[0], stored[1]) / o.page_tokens;
        for (std::size_t i = first; i < table_.size(); ++i)
            if (table_[i] != none) memory_->count_marks(table_[i]);
    }
    // Of a head, what waits in fp32 and is neither in a window nor of a group that is not complete.
    void store_waiting(std::size_t h) noexcept {
        store_keys(h, stored_keys(), memory_->stored_keys(tokens_));
        if (memory_->stores_values())
            for (std::size_t t = stored_values(); t < memory_->stored_values(tokens_); ++t) store_open_value(h, t);
    }
    // True if there was a number that is not finite.
    bool append_head(std::size_t h, matrix_view<const float> k, matrix_view<const float> v,
                     newest_tokens& to) noexcept {
        const kv_cache_options& o = options();
        const bool leaves = !memory_->stores_at_next_append(); // tokens leave their windows as others come
        float x[kernel::longest_head];
        bool found = false;
        for (std::size_t t = 0; t < k.rows(); ++t) {
            const std::size_t position = tokens_ + t;
            bool good_key = finite_row(k.row(t) + h * o.head_size, o.head_size, x);
            good_key = transform_row(key_transform_.get(), h, o.head_size, x) && good_key;
            if (position < o.sinks) put_open_key(first_keys_, h, position, x, o.head_size, !good_key);
            if (to.keys.tokens == 0) {
                store_key(h, position, x, !good_key);
            } else {
                put_open_key(to.keys, h, position % to.keys.tokens, x, o.head_size, !good_key);
                if (leaves) store_keys(h, memory_->stored_keys(position), memory_->stored_keys(position + 1));
            }
            found = found || !good_key;
            if (!memory_->stores_values()) continue;
            bool good_value = finite_row(v.row(t) + h * o.value_size, o.value_size, x);
            good_value = transform_row(value_transform_.get(), h, o.value_size, x) && good_value;
            if (position < o.sinks) put_open_value(first_values_, h, position, x, o.value_size, !good_value);
            if (to.values.tokens == 0) {
                store_value(h, position, x, !good_value);
            } else {
                put_open_value(to.values, h, position % to.values.tokens, x, o.value_size, !good_value);
                const std::size_t first = memory_->stored_values(position);
                if (leaves && first != memory_->stored_values(position + 1)) store_open_value(h, first);
            }
            found = found || !good_value;
        }
        return found;
    }
    void store_key(std::size_t h, std::size_t position, const float* x, bool marked) noexcept {
        const std::size_t size = options().page_tokens;
        of_keys().store(memory_->keys(), memory_->keys_of(table_[position / size], h), position % size, x,
                        options().key_scale);
        if (marked) mark(h, position, nonfinite_key);
    }
    // Keys [from, to) out of the window.
    void store_keys(std::size_t h, std::size_t from, std::size_t to) noexcept {
        const kv_cache_options& o = options();
        const auto marked = [&](std::size_t position) {
            return newest_.keys.nonfinite[h * newest_.keys.tokens + position % newest_.keys.tokens] != 0;
        };
        const std::size_t group = of_keys().tokens_per_group;
        if (group == 0) {
            float x[kernel::longest_head];
            for (; from < to; ++from) {
                get_open_key(newest_.keys, h, from % newest_.keys.tokens, o.head_size, x);
                store_key(h, from, x, marked(from));
            }
            return;
        }
        kernel::waiting_keys waiting{.panels = newest_.keys.head(h),
                                     .panel_bytes = key_layout<f32_plain>(panel_layout::rows, o.head_size).panel_bytes,
                                     .tokens = newest_.keys.tokens,
                                     .first = 0};
        for (; from < to; from += group) {
            waiting.first = from;
            of_keys().store_group(memory_->keys(), memory_->keys_of(table_[from / o.page_tokens], h),
                                  from % o.page_tokens, waiting, o.key_scale,
                                  transposed_.data() + h * transposed_.size() / o.heads);
            for (std::size_t t = 0; t < group; ++t)
                if (marked(from + t)) mark(h, from + t, nonfinite_key);
        }
    }
    // A value out of the window.
    void store_open_value(std::size_t h, std::size_t position) noexcept {
        float x[kernel::longest_head];
        const std::size_t at = position % newest_.values.tokens;
        get_open_value(newest_.values, h, at, options().value_size, x);
        store_value(h, position, x, newest_.values.nonfinite[h * newest_.values.tokens + at] != 0);
    }
    void store_value(std::size_t h, std::size_t position, const float* x, bool marked) noexcept {
        const std::size_t size = options().page_tokens;
        if (memory_->stores_values())
            of_values().store(memory_->values(), memory_->values_of(table_[position / size], h), position % size, x,
                              options().value_scale);
        if (marked) mark(h, position, nonfinite_value);
    }

    void read_key(std::size_t h, std::size_t position, float* x) const {
        const kv_cache_options& o = options();
        const auto open = [&](const fp32_window& from, std::size_t at) {
            get_open_key(from, h, at, o.head_size, x);
            return from.nonfinite[h * from.tokens + at] != 0;
        };
        bool marked = false;
        if (position < o.sinks) {
            marked = open(first_keys_, position);
        } else if (position >= stored_keys()) {
            marked = open(newest_.keys, position % newest_.keys.tokens);
        } else {
            const std::uint32_t page = table_[position / o.page_tokens];
            of_keys().load(memory_->keys(), memory_->keys_of(page, h), position % o.page_tokens, o.key_scale, x);
            marked = (memory_->nonfinite(page, h)[position % o.page_tokens] & nonfinite_key) != 0;
        }
        if (marked)
            for (std::size_t c = 0; c < o.head_size; ++c) x[c] = quiet_nan;
        else if (key_transform_ != nullptr)
            restore_channels<best_isa>(*key_transform_, h, o.head_size, o.head_size, 1.0f, x);
    }
    void read_value(std::size_t h, std::size_t position, float* x) const {
        const kv_cache_options& o = options();
        if (!memory_->stores_values()) {
            float key[kernel::longest_head];
            read_key(h, position, key);
            std::memcpy(x, key, o.value_size * sizeof(float));
            return;
        }
        const auto open = [&](const fp32_window& from, std::size_t at) {
            get_open_value(from, h, at, o.value_size, x);
            return from.nonfinite[h * from.tokens + at] != 0;
        };
        bool marked = false;
        if (position < o.sinks) {
            marked = open(first_values_, position);
        } else if (position >= stored_values()) {
            marked = open(newest_.values, position % newest_.values.tokens);
        } else {
            const std::uint32_t page = table_[position / o.page_tokens];
            of_values().load(memory_->values(), memory_->values_of(page, h), position % o.page_tokens, o.value_scale,
                             x);
            marked = (memory_->nonfinite(page, h)[position % o.page_tokens] & nonfinite_value) != 0;
        }
        if (marked)
            for (std::size_t c = 0; c < o.value_size; ++c) x[c] = quiet_nan;
        else if (value_transform_ != nullptr)
            restore_channels<best_isa>(*value_transform_, h, o.value_size, o.value_size, 1.0f, x);
    }

    dynamic_array<std::byte> transposed_; // scratch of keys along tokens: [head][token of a group][channel] codes
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
