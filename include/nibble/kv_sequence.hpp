// kv_sequence.hpp: what a sequence of cached keys and values is whatever schemes they are stored in.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kv_pages.hpp>
#include <nibble/kv_transform.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace nibble::inline NIBBLE_ABI::detail {

// Keys or values of some tokens in fp32, in the layout of a page in f32: the newest ones, position p at p % tokens, or the first.
struct open_tokens {
    std::size_t tokens = 0;
    std::size_t head_bytes = 0;
    buffer memory;
    std::vector<std::uint8_t> marks; // [head][tokens]
    std::size_t marked = 0;          // of those, not 0

    open_tokens() = default;
    open_tokens(std::size_t count, std::size_t bytes, std::size_t heads, allocator from = {})
        : tokens(count), head_bytes(bytes), memory(count == 0 ? 0 : bytes * heads, from), marks(count * heads) {}
    [[nodiscard]] const std::byte* head(std::size_t h) const noexcept { return memory.data() + h * head_bytes; }
    [[nodiscard]] std::byte* head(std::size_t h) noexcept { return memory.data() + h * head_bytes; }
};

// The tokens, pages and transforms of a kv_cache, which adds how numbers are stored. Attention knows a cache as this but for its
// products.
class kv_sequence {
public:
    static constexpr std::uint32_t none = page_memory::none;

    kv_sequence(const kv_sequence&) = delete;
    kv_sequence& operator=(const kv_sequence&) = delete;

    [[nodiscard]] const kv_cache_options& options() const noexcept { return memory_->options(); }
    [[nodiscard]] std::size_t size() const noexcept { return tokens_; }
    // The first token that is still there, those in options().sinks aside.
    [[nodiscard]] std::size_t begin() const noexcept { return begin_; }
    // Tokens below it are stored as Keys, or Values; from it on they are fp32 as yet.
    [[nodiscard]] std::size_t stored_keys() const noexcept { return memory_->stored_keys(tokens_); }
    [[nodiscard]] std::size_t stored_values() const noexcept { return memory_->stored_values(tokens_); }

    [[nodiscard]] const std::shared_ptr<const kv_transform>& key_transform() const noexcept { return key_transform_; }
    [[nodiscard]] const std::shared_ptr<const kv_transform>& value_transform() const noexcept { return value_transform_; }

    // Pages that the next `count` tokens take from the set: they can be appended if it has as many available.
    [[nodiscard]] std::size_t pages_needed(std::size_t count) const noexcept {
        std::size_t needed = 0;
        for_each_page_written(count, [&](std::size_t i) {
            if (i >= table_.size() || table_[i] == none || memory_->owners(table_[i]) > 1) ++needed;
        });
        return needed;
    }

    [[nodiscard]] bool can_truncate(std::size_t count) const noexcept {
        if (count > tokens_ || (count < begin_ && count != 0)) return false;
        const std::size_t keys = memory_->stored_keys(count);
        const std::size_t values = memory_->stored_values(count);
        return (keys == count || keys >= oldest_key_) && (values == count || values >= oldest_value_);
    }

    // Gives back all pages whose tokens all lie before `position`: attention with a window no longer asks for them. Sinks stay.
    void evict_before(std::size_t position) {
        NIBBLE_CHECK(position <= tokens_, "kv_cache::evict_before: a position within the sequence");
        const std::size_t pages = min_of(position, min_of(stored_keys(), stored_values())) / options().page_tokens;
        for (std::size_t i = 0; i < min_of(pages, table_.size()); ++i)
            if (table_[i] != none) memory_->release(std::exchange(table_[i], none));
        begin_ = max_of(begin_, pages * options().page_tokens);
    }

    // Pages to and from plain memory, pages().page_bytes() of it each, bit for bit. A page that was saved may be dropped, which
    // gives its memory back; until it is restored attend must not meet it.
    [[nodiscard]] std::size_t page_count() const noexcept { return table_.size(); }
    [[nodiscard]] bool has_page(std::size_t i) const noexcept { return i < table_.size() && table_[i] != none; }
    void save_page(std::size_t i, std::span<std::byte> to) const {
        NIBBLE_CHECK(has_page(i) && to.size() == memory_->page_bytes(), "kv_cache::save_page: a page that is there, and its size");
        memory_->save(table_[i], to.data());
    }
    void drop_page(std::size_t i) {
        NIBBLE_CHECK(has_page(i), "kv_cache::drop_page: a page that is there");
        memory_->release(std::exchange(table_[i], none));
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
    [[nodiscard]] const open_tokens& newest_keys() const noexcept { return newest_keys_; }
    [[nodiscard]] const open_tokens& newest_values() const noexcept { return memory_->stores_values() ? newest_values_ : newest_keys_; }
    [[nodiscard]] const open_tokens& first_keys() const noexcept { return first_keys_; }
    [[nodiscard]] const open_tokens& first_values() const noexcept { return memory_->stores_values() ? first_values_ : first_keys_; }

protected:
    explicit kv_sequence(std::shared_ptr<page_memory> pages) : memory_(std::move(pages)) {
        const kv_cache_options& o = memory_->options();
        using f32_keys = key_layout<f32_plain>;
        using f32_values = value_layout<f32_plain>;
        const auto open = [&](std::size_t tokens, std::size_t bytes) {
            return open_tokens(tokens, bytes, o.heads, memory_->memory_from());
        };
        const std::size_t sinks = round_up(o.sinks, panel_layout::rows);
        const std::size_t value_sinks = memory_->stores_values() ? sinks : 0;
        newest_keys_ = open(memory_->open_keys(), f32_keys(memory_->open_keys(), o.head_size).bytes);
        newest_values_ = open(memory_->open_values(), f32_values(memory_->open_values(), o.value_size).bytes);
        first_keys_ = open(sinks, f32_keys(sinks, o.head_size).bytes);
        first_values_ = open(value_sinks, f32_values(value_sinks, o.value_size).bytes);
        table_.reserve(ceil_div(o.capacity, o.page_tokens));
        found_.resize(o.heads);
    }
    kv_sequence(kv_sequence&& other) noexcept = default;
    kv_sequence& operator=(kv_sequence&& other) noexcept {
        if (this != &other) {
            release_from(0);
            memory_ = std::move(other.memory_);
            table_ = std::move(other.table_);
            other.table_.clear();
            tokens_ = std::exchange(other.tokens_, 0);
            begin_ = std::exchange(other.begin_, 0);
            uncleared_ = std::exchange(other.uncleared_, false);
            oldest_key_ = std::exchange(other.oldest_key_, 0);
            oldest_value_ = std::exchange(other.oldest_value_, 0);
            newest_keys_ = std::move(other.newest_keys_);
            newest_values_ = std::move(other.newest_values_);
            first_keys_ = std::move(other.first_keys_);
            first_values_ = std::move(other.first_values_);
            found_ = std::move(other.found_);
            key_transform_ = std::move(other.key_transform_);
            key_rotary_ = std::move(other.key_rotary_);
            value_transform_ = std::move(other.value_transform_);
        }
        return *this;
    }
    ~kv_sequence() { release_from(0); }
    // An empty sequence becomes another one of the same pages.
    void share(const kv_sequence& other) {
        table_.assign(other.table_.begin(), other.table_.end());
        for (const std::uint32_t page : table_)
            if (page != none) memory_->keep(page);
        tokens_ = other.tokens_;
        begin_ = other.begin_;
        uncleared_ = other.uncleared_;
        oldest_key_ = other.oldest_key_;
        oldest_value_ = other.oldest_value_;
        newest_keys_ = other.newest_keys_;
        newest_values_ = other.newest_values_;
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
    // Pages of positions [from, to).
    template <class Visit>
    void for_each_page_between(std::size_t from, std::size_t to, const Visit& visit) const {
        const std::size_t keys = memory_->stored_keys(from);
        const std::size_t values = memory_->stored_values(from);
        const std::size_t first = min_of(keys, values);
        const std::size_t end = max_of(memory_->stored_keys(to), memory_->stored_values(to));
        for (std::size_t i = first / options().page_tokens; i * options().page_tokens < end; ++i) visit(i);
    }
    // Those that the next `count` tokens write to: where keys or values leave their windows.
    template <class Visit>
    void for_each_page_written(std::size_t count, const Visit& visit) const {
        const std::size_t size = options().page_tokens;
        const std::size_t keys[] = {stored_keys(), memory_->stored_keys(tokens_ + count)};
        const std::size_t values[] = {stored_values(), memory_->stored_values(tokens_ + count)};
        for_each_page_between(tokens_, tokens_ + count, [&](std::size_t i) {
            const auto meets = [&](const std::size_t (&range)[2]) {
                return range[0] < range[1] && range[0] < (i + 1) * size && range[1] > i * size;
            };
            if (meets(keys) || meets(values)) visit(i);
        });
    }

    // The finite numbers of a row, and whether all were.
    static bool finite_row(const float* x, std::size_t count, float* out) noexcept {
        std::uint32_t bad = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t word = std::bit_cast<std::uint32_t>(x[i]);
            const bool finite = (word & f32_magnitude) < f32_infinity;
            out[i] = std::bit_cast<float>(finite ? word : 0u);
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
    static void put_open_key(open_tokens& open, std::size_t head, std::size_t at, const float* x, std::size_t channels,
                             bool marked) noexcept {
        auto* to = reinterpret_cast<float*>(open.head(head) + at / panel_layout::rows *
                                            key_layout<f32_plain>(panel_layout::rows, channels).panel_bytes) +
                   at % panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c) to[c * panel_layout::rows] = x[c];
        open.marks[head * open.tokens + at] = marked ? 1 : 0;
    }
    static void put_open_value(open_tokens& open, std::size_t head, std::size_t at, const float* x, std::size_t channels,
                               bool marked) noexcept {
        auto* to = reinterpret_cast<float*>(open.head(head)) + at * panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c)
            to[c / panel_layout::rows * open.tokens * panel_layout::rows + c % panel_layout::rows] = x[c];
        open.marks[head * open.tokens + at] = marked ? 1 : 0;
    }
    static void get_open_key(const open_tokens& open, std::size_t head, std::size_t at, std::size_t channels,
                             float* x) noexcept {
        const auto* from = reinterpret_cast<const float*>(
                               open.head(head) + at / panel_layout::rows *
                                                     key_layout<f32_plain>(panel_layout::rows, channels).panel_bytes) +
                           at % panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c) x[c] = from[c * panel_layout::rows];
    }
    static void get_open_value(const open_tokens& open, std::size_t head, std::size_t at, std::size_t channels,
                               float* x) noexcept {
        const auto* from = reinterpret_cast<const float*>(open.head(head)) + at * panel_layout::rows;
        for (std::size_t c = 0; c < channels; ++c)
            x[c] = from[c / panel_layout::rows * open.tokens * panel_layout::rows + c % panel_layout::rows];
    }

    static constexpr std::uint8_t key_mark = 1;
    static constexpr std::uint8_t value_mark = 2;
    void mark(std::size_t h, std::size_t position, std::uint8_t bit) noexcept {
        const std::size_t size = options().page_tokens;
        memory_->marks(table_[position / size], h)[position % size] |= bit;
    }
    void check_read(std::size_t head, std::size_t first, matrix_view<float> out, std::size_t channels, std::size_t stored) const {
        NIBBLE_CHECK(head < options().heads && out.cols() == channels && first <= tokens_ && out.rows() <= tokens_ - first,
                     "kv_cache: read a head and tokens that are there, all channels of them");
        for (std::size_t t = first; t < first + out.rows(); ++t)
            NIBBLE_CHECK(t < options().sinks || t >= stored || (t >= begin_ && has_page(t / options().page_tokens)),
                         "kv_cache: a token was evicted or its page dropped");
    }

    std::shared_ptr<page_memory> memory_;
    std::vector<std::uint32_t> table_; // page of each page_tokens tokens, or none
    std::size_t tokens_ = 0;
    std::size_t begin_ = 0;
    bool uncleared_ = false; // tokens that were taken back may be left in pages that were shared then
    // The first tokens whose fp32 numbers are there still: later ones that were taken back have overwritten those before.
    std::size_t oldest_key_ = 0;
    std::size_t oldest_value_ = 0;
    open_tokens newest_keys_, newest_values_; // by position % tokens
    open_tokens first_keys_, first_values_;   // sinks
    std::vector<std::uint8_t> found_; // of each head, whether append met a number that is not finite
    std::shared_ptr<const kv_transform> key_transform_, value_transform_;
    std::shared_ptr<const kernel::rotary_tables> key_rotary_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
