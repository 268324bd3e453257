// cache/sequence.hpp: what a sequence of cached keys and values is whatever schemes they are stored in.
#pragma once

#include <nibble/cache/pages.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/exchange.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Keys or values of some tokens in fp32, in the layout of a page in f32: the newest ones, position p at p % tokens, or
// the first.
struct fp32_window {
    std::size_t tokens = 0;
    std::size_t head_bytes = 0;
    buffer memory;
    dynamic_array<std::uint8_t> nonfinite; // [head][tokens]
    std::size_t marked = 0;                // of those, not 0

    fp32_window() = default;
    fp32_window(std::size_t count, std::size_t bytes, std::size_t heads, allocator from = {})
        : tokens(count), head_bytes(bytes), memory(count == 0 ? 0 : bytes * heads, from), nonfinite(count * heads) {}
    [[nodiscard]] const std::byte* head(std::size_t h) const noexcept { return memory.data() + h * head_bytes; }
    [[nodiscard]] std::byte* head(std::size_t h) noexcept { return memory.data() + h * head_bytes; }
    void count_marks() noexcept {
        marked = 0;
        for (const std::uint8_t m : nonfinite) marked += m;
    }
};
// The newest tokens of a sequence.
struct newest_tokens {
    fp32_window keys, values;
    [[nodiscard]] bool empty() const noexcept { return keys.tokens == 0 && values.tokens == 0; }
};

// The tokens, pages and transforms of a kv_cache, which adds how numbers are stored. Attention knows a cache as this
// but for its products.
class kv_sequence {
public:
    static constexpr std::uint32_t none = page_memory::none;

    kv_sequence(const kv_sequence&) = delete;
    kv_sequence& operator=(const kv_sequence&) = delete;

    [[nodiscard]] const kv_cache_options& options() const {
        check_pages();
        return memory_->options();
    }
    [[nodiscard]] std::size_t size() const noexcept { return tokens_; }
    // The first token that is still there, those in options().sinks aside.
    [[nodiscard]] std::size_t begin() const noexcept { return begin_; }
    // Tokens below it are stored as Keys, or Values; from it on they are fp32 as yet.
    [[nodiscard]] std::size_t stored_keys() const noexcept {
        return memory_ == nullptr ? 0 : memory_->stored_keys(due_);
    }
    [[nodiscard]] std::size_t stored_values() const noexcept {
        return memory_ == nullptr ? 0 : memory_->stored_values(due_);
    }

    [[nodiscard]] const shared_ptr<const kv_transform>& key_transform() const noexcept { return key_transform_; }
    [[nodiscard]] const shared_ptr<const kv_transform>& value_transform() const noexcept { return value_transform_; }

    // Pages that the next `count` tokens take from the set: they can be appended if it has as many available. An append
    // takes the pages of its tokens also where it is the next one that stores them: flush needs more, pages_needed(0),
    // after a fork alone.
    [[nodiscard]] std::size_t pages_needed(std::size_t count) const {
        std::size_t needed = 0;
        for_each_page_written(count, [&](std::size_t i) {
            if (i >= table_.size() || table_[i] == none || memory_->owners(table_[i]) > 1) ++needed;
        });
        return needed;
    }

    [[nodiscard]] bool can_truncate(std::size_t count) const noexcept {
        if (memory_ == nullptr || count > tokens_ || (count < begin_ && count != 0)) return false;
        if (count >= due_) return true; // these have not been stored
        const std::size_t keys = memory_->stored_keys(count);
        const std::size_t values = memory_->stored_values(count);
        return (keys == count || keys >= oldest_key_) && (values == count || values >= oldest_value_);
    }

    // Gives back all pages whose tokens all lie before `position` and are stored: attention with a window no longer
    // asks for them. Sinks stay.
    void evict_before(std::size_t position) {
        NIBBLE_CHECK(position <= tokens_, "kv_cache::evict_before: a position within the sequence");
        const std::size_t size = options().page_tokens;
        const std::size_t pages = min_of(position, min_of(stored_keys(), stored_values())) / size;
        for (std::size_t i = 0; i < min_of(pages, table_.size()); ++i)
            if (table_[i] != none) memory_->release(exchange(table_[i], none));
        begin_ = max_of(begin_, pages * size);
    }

    // Pages to and from plain memory, pages().page_bytes() of it each, bit for bit. A page that was saved may be
    // dropped, which gives its memory back; until it is restored attend must not meet it. Tokens are in pages once they
    // are stored: flush() first.
    [[nodiscard]] std::size_t page_count() const noexcept { return table_.size(); }
    [[nodiscard]] bool has_page(std::size_t i) const noexcept { return i < table_.size() && table_[i] != none; }
    void save_page(std::size_t i, array_view<std::byte> to) const {
        check_pages();
        NIBBLE_CHECK(has_page(i) && to.size() == memory_->page_bytes(),
                     "kv_cache::save_page: a page that is there, and its size");
        memory_->save(table_[i], to.data());
    }
    void drop_page(std::size_t i) {
        check_pages();
        NIBBLE_CHECK(has_page(i), "kv_cache::drop_page: a page that is there");
        memory_->release(detail::exchange(table_[i], none));
    }

    // ---- for attend ----
    [[nodiscard]] const page_memory& memory() const noexcept { return *memory_; }
    [[nodiscard]] const kernel::rotary_tables* key_rotary() const noexcept { return key_rotary_.get(); }
    // What has become of values: with prefix_of_keys they went through the keys' transform.
    [[nodiscard]] const kv_transform* transform_of_values() const noexcept {
        return memory_->stores_values() ? value_transform_.get() : key_transform_.get();
    }
    [[nodiscard]] std::size_t channels_of_values() const noexcept {
        return memory_->stores_values() ? options().value_size : options().head_size;
    }
    [[nodiscard]] std::uint32_t page(std::size_t i) const noexcept { return i < table_.size() ? table_[i] : none; }
    [[nodiscard]] const fp32_window& newest_keys() const noexcept { return newest_.keys; }
    [[nodiscard]] const fp32_window& newest_values() const noexcept {
        return memory_->stores_values() ? newest_.values : newest_.keys;
    }
    [[nodiscard]] const fp32_window& first_keys() const noexcept { return first_keys_; }
    [[nodiscard]] const fp32_window& first_values() const noexcept {
        return memory_->stores_values() ? first_values_ : first_keys_;
    }

protected:
    kv_sequence() noexcept = default; // without pages, as what was moved from
    explicit kv_sequence(shared_ptr<page_memory> pages) : memory_(std::move(pages)) {
        NIBBLE_CHECK(memory_ != nullptr, "kv_cache: a sequence needs pages");
        const kv_cache_options& o = memory_->options();
        const std::size_t sinks = round_up(o.sinks, panel_layout::rows);
        newest_ = newest_for(o.prompt_tokens);
        first_keys_ = open_keys(sinks);
        first_values_ = open_values(memory_->stores_values() ? sinks : 0);
        table_.reserve(ceil_div(o.capacity, o.page_tokens));
        found_.resize(o.heads);
    }
    // What was moved from has no tokens and no pages.
    kv_sequence(kv_sequence&& other) noexcept { take(other); }
    kv_sequence& operator=(kv_sequence&& other) noexcept {
        if (this != &other) {
            release_from(0);
            take(other);
        }
        return *this;
    }
    ~kv_sequence() { release_from(0); }
    void check_pages() const {
        NIBBLE_CHECK(memory_ != nullptr,
                     "kv_cache: it was moved from or is empty, and has no pages: assign a cache to it first");
    }
    // An empty sequence becomes another one of the same pages.
    void share(const kv_sequence& other) {
        table_.assign(other.table_.begin(), other.table_.end());
        for (const std::uint32_t page : table_)
            if (page != none) memory_->keep(page);
        tokens_ = other.tokens_;
        due_ = other.due_;
        begin_ = other.begin_;
        uncleared_ = other.uncleared_;
        oldest_key_ = other.oldest_key_;
        oldest_value_ = other.oldest_value_;
        if (!other.short_newest_.empty()) short_newest_ = std::move(newest_);
        newest_ = other.newest_;
        first_keys_ = other.first_keys_;
        first_values_ = other.first_values_;
        key_transform_ = other.key_transform_;
        key_rotary_ = other.key_rotary_;
        value_transform_ = other.value_transform_;
    }

    // The pages from the i-th on, the last one first: who takes them next has them in the order in which they lie.
    void release_from(std::size_t i) noexcept {
        while (table_.size() > i) {
            if (table_.back() != none) memory_->release(table_.back());
            table_.pop_back();
        }
    }
    // Those that the tokens up to tokens_ + count take which are not stored yet: where keys or values leave their
    // windows.
    template <class Visit> void for_each_page_written(std::size_t count, const Visit& visit) const {
        const std::size_t size = options().page_tokens;
        const std::size_t keys[] = {stored_keys(), memory_->stored_keys(tokens_ + count)};
        const std::size_t values[] = {stored_values(), memory_->stored_values(tokens_ + count)};
        for (std::size_t i = min_of(keys[0], values[0]) / size; i * size < max_of(keys[1], values[1]); ++i) {
            const auto meets = [&](const std::size_t(&range)[2]) {
                return range[0] < range[1] && range[0] < (i + 1) * size && range[1] > i * size;
            };
            if (meets(keys) || meets(values)) visit(i);
        }
    }

    // Memory for fp32 tokens; and for the newest ones, where `appended` come at once.
    [[nodiscard]] fp32_window open_keys(std::size_t tokens) const {
        const kv_cache_options& o = memory_->options();
        return {tokens, key_layout<f32_plain>(tokens, o.head_size).bytes, o.heads, memory_->memory_from()};
    }
    [[nodiscard]] fp32_window open_values(std::size_t tokens) const {
        const kv_cache_options& o = memory_->options();
        return {tokens, value_layout<f32_plain>(tokens, o.value_size).bytes, o.heads, memory_->memory_from()};
    }
    [[nodiscard]] newest_tokens newest_for(std::size_t appended) const {
        return {open_keys(memory_->open_keys(appended)), open_values(memory_->open_values(appended))};
    }
    // Whether an append of `count` tokens wants other memory for the newest ones than there is.
    [[nodiscard]] bool resizes_newest(std::size_t count) const noexcept {
        if (count <= memory_->options().prompt_tokens) return !short_newest_.empty();
        return newest_.keys.tokens < memory_->open_keys(count) || newest_.values.tokens < memory_->open_values(count);
    }

    // The finite numbers of a row, and whether all were.
    static bool finite_row(const float* x, std::size_t count, float* out) noexcept {
        std::uint32_t bad = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t word = detail::bit_cast<std::uint32_t>(x[i]);
            const bool finite = (word & f32_magnitude) < f32_infinity;
            out[i] = detail::bit_cast<float>(finite ? word : 0u);
            bad |= finite ? 0u : 1u;
        }
        return bad == 0;
    }
    // The same of a row of head h that is to go through a transform, in place.
    static bool transform_row(const kv_transform* transform, std::size_t h, std::size_t size, float* x) noexcept {
        if (transform == nullptr) return true;
        transform_channels<best_isa>(*transform, h, size, true, x);
        return finite_row(x, size, x);
    }
    static void put_open_key(fp32_window& open, std::size_t head, std::size_t at, const float* x, std::size_t channels,
                             bool marked) noexcept {
        auto* to = reinterpret_cast<float*>(open.head(head) +
                                            at / panel_layout::rows *
                                                key_layout<f32_plain>(panel_layout::rows, channels).panel_bytes) +
                   at % panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c) to[c * panel_layout::rows] = x[c];
        open.nonfinite[head * open.tokens + at] = marked ? 1 : 0;
    }
    static void put_open_value(fp32_window& open, std::size_t head, std::size_t at, const float* x,
                               std::size_t channels, bool marked) noexcept {
        auto* to = reinterpret_cast<float*>(open.head(head)) + at * panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c)
            to[c / panel_layout::rows * open.tokens * panel_layout::rows + c % panel_layout::rows] = x[c];
        open.nonfinite[head * open.tokens + at] = marked ? 1 : 0;
    }
    static void get_open_key(const fp32_window& open, std::size_t head, std::size_t at, std::size_t channels,
                             float* x) noexcept {
        const auto* from = reinterpret_cast<const float*>(
                               open.head(head) + at / panel_layout::rows *
                                                     key_layout<f32_plain>(panel_layout::rows, channels).panel_bytes) +
                           at % panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c) x[c] = from[c * panel_layout::rows];
    }
    static void get_open_value(const fp32_window& open, std::size_t head, std::size_t at, std::size_t channels,
                               float* x) noexcept {
        const auto* from = reinterpret_cast<const float*>(open.head(head)) + at * panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c)
            x[c] = from[c / panel_layout::rows * open.tokens * panel_layout::rows + c % panel_layout::rows];
    }

    // Head h of the newest tokens that are there, to other memory for as many or fewer.
    void copy_newest(std::size_t h, newest_tokens& to) const noexcept {
        const kv_cache_options& o = memory_->options();
        float x[kernel::longest_head];
        for (std::size_t t = oldest_in(to.keys, oldest_key_); t < tokens_; ++t) {
            const std::size_t at = t % newest_.keys.tokens;
            get_open_key(newest_.keys, h, at, o.head_size, x);
            put_open_key(to.keys, h, t % to.keys.tokens, x, o.head_size,
                         newest_.keys.nonfinite[h * newest_.keys.tokens + at] != 0);
        }
        if (to.values.tokens == 0) return;
        for (std::size_t t = oldest_in(to.values, oldest_value_); t < tokens_; ++t) {
            const std::size_t at = t % newest_.values.tokens;
            get_open_value(newest_.values, h, at, o.value_size, x);
            put_open_value(to.values, h, t % to.values.tokens, x, o.value_size,
                           newest_.values.nonfinite[h * newest_.values.tokens + at] != 0);
        }
    }
    // Of tokens whose fp32 numbers are there from `oldest` on, the first for which `memory` has room.
    [[nodiscard]] std::size_t oldest_in(const fp32_window& memory, std::size_t oldest) const noexcept {
        return max_of(oldest, tokens_ - min_of(tokens_, memory.tokens));
    }

    static constexpr std::uint8_t nonfinite_key = 1;
    static constexpr std::uint8_t nonfinite_value = 2;
    void mark(std::size_t h, std::size_t position, std::uint8_t bit) noexcept {
        const std::size_t size = options().page_tokens;
        memory_->nonfinite(table_[position / size], h)[position % size] |= bit;
    }
    void check_read(std::size_t head, std::size_t first, matrix_view<float> out, std::size_t channels,
                    std::size_t stored) const {
        NIBBLE_CHECK(head < options().heads && out.cols() == channels && first <= tokens_ &&
                         out.rows() <= tokens_ - first,
                     "kv_cache: read a head and tokens that are there, all channels of them");
        for (std::size_t t = first; t < first + out.rows(); ++t)
            NIBBLE_CHECK(t < options().sinks || t >= stored || (t >= begin_ && has_page(t / options().page_tokens)),
                         "kv_cache: a token was evicted or its page dropped");
    }

private:
    // Of a sequence that holds no pages, or none any more.
    void take(kv_sequence& other) noexcept {
        memory_ = std::move(other.memory_);
        table_ = std::move(other.table_);
        other.table_.clear();
        tokens_ = exchange(other.tokens_, 0);
        due_ = exchange(other.due_, 0);
        begin_ = exchange(other.begin_, 0);
        uncleared_ = exchange(other.uncleared_, false);
        oldest_key_ = exchange(other.oldest_key_, 0);
        oldest_value_ = exchange(other.oldest_value_, 0);
        newest_ = exchange(other.newest_, {});
        short_newest_ = exchange(other.short_newest_, {});
        first_keys_ = exchange(other.first_keys_, {});
        first_values_ = exchange(other.first_values_, {});
        found_ = std::move(other.found_);
        key_transform_ = std::move(other.key_transform_);
        key_rotary_ = std::move(other.key_rotary_);
        value_transform_ = std::move(other.value_transform_);
    }

protected:
    shared_ptr<page_memory> memory_;
    dynamic_array<std::uint32_t> table_; // page of each page_tokens tokens, or none
    std::size_t tokens_ = 0;
    std::size_t due_ =
        0; // of those, tokens that are stored but for windows and groups: all, or those before the last append
    std::size_t begin_ = 0;
    bool uncleared_ = false; // tokens that were taken back may be left in pages that were shared then
    // The first tokens whose fp32 numbers are there still: later ones that were taken back have overwritten those
    // before.
    std::size_t oldest_key_ = 0;
    std::size_t oldest_value_ = 0;
    newest_tokens newest_;                  // by position % tokens
    newest_tokens short_newest_;            // those made with the sequence, while an append has others, longer ones
    fp32_window first_keys_, first_values_; // sinks
    dynamic_array<std::uint8_t> found_;     // of each head, whether append met a number that is not finite
    shared_ptr<const kv_transform> key_transform_, value_transform_;
    shared_ptr<const kernel::rotary_tables> key_rotary_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
