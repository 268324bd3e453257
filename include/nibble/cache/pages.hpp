// cache/pages.hpp: the memory of caches: pages of tokens that sequences take, share and give back.
#pragma once

#include <nibble/cache/storage.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/kernel/kv_store.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/kv_layout.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// When the tokens of an append are stored as Keys and Values: until then they are in fp32, as they came.
enum class kv_storing {
    // at_next_append where keys or values pass through a window or groups of tokens (along_tokens, key_flush,
    // key_window, value_window), else at_append.
    automatic,
    // At once. Where there is a window, the tokens of a long append have left it before their own queries see them.
    at_append,
    // By the next append, or flush(): the tokens of an append attend to each other exactly, which is KIVI's prefill.
    at_next_append,
};

// What is fixed for the life of a cache.
struct kv_cache_options {
    std::size_t heads = 1;       // of keys and values; queries may have a multiple of it
    std::size_t head_size = 128; // channels of a key, 1 to 1024
    std::size_t value_size = 0;  // channels of a value; 0: as many (with prefix_of_keys: how many of the key's)
    std::size_t capacity = 4096; // tokens of a sequence, at most
    std::size_t pages = 0;       // that all sequences share; 0: as many as one sequence of `capacity` takes
    // 16, 32, 64, 128 or 256, and a multiple of the group of along_tokens. Attention goes through a page in a few
    // streams, which are the longer, and the faster, the more tokens there are (256 against 128 on a Zen 4: 1.0 to 1.15
    // times as fast, most where elements have few bits); smaller pages waste less and are shared in finer steps.
    std::size_t page_tokens = 256;
    // The newest tokens that stay in fp32, of keys and of values, and the first ones that do (attention sinks). Keys
    // leave their window `key_flush` tokens at once, at positions that are multiples of it; 0 stands for the group of
    // along_tokens, or 1. KIVI with residual length R: along_tokens keys with key_flush = R, values with value_window =
    // R.
    std::size_t key_window = 0;
    std::size_t value_window = 0;
    std::size_t key_flush = 0;
    std::size_t sinks = 0;
    kv_storing storing = kv_storing::automatic;
    // With at_next_append: tokens of one append that the fp32 memory made with a sequence has room for. A longer append
    // allocates room of its own, and the one after it, or flush(), gives that back.
    std::size_t prompt_tokens = 16;
    // How many tokens truncate may take back where keys or values pass through a window or groups of tokens, whose fp32
    // numbers it needs again. Without those there is no limit, nor for tokens of the last append that are not stored
    // yet.
    std::size_t rollback = 16;
    // Of schemes with a scale per tensor, or an outer one (nvfp4): it cannot follow from what is not there yet.
    float key_scale = 1.0f;
    float value_scale = 1.0f;
};

namespace detail {

// What there is to do with pages whatever is stored in them: a head's keys and values are a number of bytes.
class page_memory {
public:
    static constexpr std::uint32_t none = 0xffffffffu;

    page_memory(const page_memory&) = delete; // sequences point to it
    page_memory& operator=(const page_memory&) = delete;

    [[nodiscard]] const kv_cache_options& options() const noexcept { return options_; }
    [[nodiscard]] bool stores_values() const noexcept { return stores_values_; } // or they are a prefix of the keys
    // Where keys and values lie in a page, and how they are stored.
    [[nodiscard]] const plain_key_layout& keys() const noexcept { return keys_; }
    [[nodiscard]] const plain_value_layout& values() const noexcept { return values_; }
    [[nodiscard]] const key_storage& of_keys() const noexcept { return of_keys_; }
    [[nodiscard]] const value_storage& of_values() const noexcept { return of_values_; }
    [[nodiscard]] const allocator& memory_from() const noexcept { return from_; }
    // Bytes of a page: all heads, keys, values, and a byte per token and head that tells of numbers which were not
    // finite.
    [[nodiscard]] std::size_t page_bytes() const noexcept { return head_bytes_ * options_.heads; }
    [[nodiscard]] std::size_t available() const noexcept { return available_; }
    [[nodiscard]] std::size_t owners(std::uint32_t page) const noexcept { return owners_[page]; }

    // A page of zeros with one owner; there must be one available.
    [[nodiscard]] std::uint32_t take() noexcept {
        const std::uint32_t page = free_[--available_];
        for_each_part(page, [](std::byte* part, std::size_t bytes, std::size_t) { std::memset(part, 0, bytes); });
        owners_[page] = 1;
        marked_[page] = 0;
        return page;
    }
    // page_bytes() to and from plain memory: head by head its keys, values and flags of what was not finite.
    void save(std::uint32_t page, std::byte* to) const noexcept {
        for_each_part(
            page, [&](const std::byte* part, std::size_t bytes, std::size_t at) { std::memcpy(to + at, part, bytes); });
    }
    void restore(std::uint32_t page, const std::byte* from) noexcept {
        for_each_part(page,
                      [&](std::byte* part, std::size_t bytes, std::size_t at) { std::memcpy(part, from + at, bytes); });
        count_marks(page);
    }
    void keep(std::uint32_t page) noexcept { ++owners_[page]; }
    void release(std::uint32_t page) noexcept {
        if (--owners_[page] == 0) free_[available_++] = page;
    }
    // A page of one's own in place of a shared one; there must be one available.
    [[nodiscard]] std::uint32_t own(std::uint32_t page) noexcept {
        if (owners_[page] == 1) return page;
        const std::uint32_t copy = free_[--available_];
        for_each_part(copy, [&](std::byte* part, std::size_t bytes, std::size_t) {
            // Parts of two pages are as many lengths of a part apart as their numbers.
            const std::byte* from = page < copy ? part - (copy - page) * bytes : part + (page - copy) * bytes;
            std::memcpy(part, from, bytes);
        });
        owners_[copy] = 1;
        marked_[copy] = marked_[page];
        --owners_[page];
        return copy;
    }

    [[nodiscard]] std::byte* keys_of(std::uint32_t page, std::size_t head) noexcept {
        return head_of(head) + page * keys_bytes_;
    }
    [[nodiscard]] const std::byte* keys_of(std::uint32_t page, std::size_t head) const noexcept {
        return head_of(head) + page * keys_bytes_;
    }
    // Those of prefix_of_keys are keys.
    [[nodiscard]] std::byte* values_of(std::uint32_t page, std::size_t head) noexcept {
        return stores_values_ ? head_of(head) + options_.pages * keys_bytes_ + page * values_bytes_
                              : keys_of(page, head);
    }
    [[nodiscard]] const std::byte* values_of(std::uint32_t page, std::size_t head) const noexcept {
        return stores_values_ ? head_of(head) + options_.pages * keys_bytes_ + page * values_bytes_
                              : keys_of(page, head);
    }
    // A byte per token: bit 0 says that its key was not finite, bit 1 that its value was not; has_marks: whether the
    // page has any.
    [[nodiscard]] std::uint8_t* nonfinite(std::uint32_t page, std::size_t head) noexcept {
        return reinterpret_cast<std::uint8_t*>(head_of(head) + nonfinite_at(page));
    }
    [[nodiscard]] const std::uint8_t* nonfinite(std::uint32_t page, std::size_t head) const noexcept {
        return reinterpret_cast<const std::uint8_t*>(head_of(head) + nonfinite_at(page));
    }
    [[nodiscard]] bool has_marks(std::uint32_t page) const noexcept { return marked_[page] != 0; }
    void count_marks(std::uint32_t page) noexcept {
        marked_[page] = 0;
        for (std::size_t h = 0; h < options_.heads; ++h)
            for (std::size_t t = 0; t < options_.page_tokens; ++t)
                if (nonfinite(page, h)[t] != 0) marked_[page] = 1;
    }

    // Keys and values leave their windows after these many of `tokens`.
    [[nodiscard]] std::size_t stored_keys(std::size_t tokens) const noexcept {
        const std::size_t left = tokens - detail::min_of(tokens, options_.key_window);
        return left - left % options_.key_flush;
    }
    [[nodiscard]] std::size_t stored_values(std::size_t tokens) const noexcept {
        return stores_values_ ? tokens - detail::min_of(tokens, options_.value_window) : stored_keys(tokens);
    }
    [[nodiscard]] bool stores_at_next_append() const noexcept { return options_.storing == kv_storing::at_next_append; }
    // Tokens whose fp32 numbers are kept where `appended` come at once, a multiple of 16; 0 if all are stored at once.
    [[nodiscard]] std::size_t open_keys(std::size_t appended) const noexcept {
        if (!stores_at_next_append() && options_.key_window == 0 && options_.key_flush == 1) return 0;
        return open(options_.key_window + options_.key_flush, appended);
    }
    [[nodiscard]] std::size_t open_values(std::size_t appended) const noexcept {
        if (!stores_values_ || (!stores_at_next_append() && options_.value_window == 0)) return 0;
        return open(options_.value_window + 1, appended);
    }

protected:
    page_memory(const kv_cache_options& given, const key_storage& of_keys, const value_storage& of_values,
                allocator from)
        : options_(checked(given, of_keys.tokens_per_group, of_values.stored)), from_(from), of_keys_(of_keys),
          of_values_(of_values), stores_values_(of_values.stored),
          keys_(of_keys.layout(options_.page_tokens, options_.head_size)),
          values_(of_values.layout(keys_, options_.value_size)), keys_bytes_(keys_.bytes),
          values_bytes_(values_.bytes) {
        nonfinite_bytes_ = round_up(options_.page_tokens, 64);
        head_bytes_ = keys_bytes_ + values_bytes_ + nonfinite_bytes_;
        NIBBLE_CHECK(options_.pages <= (SIZE_MAX / 4) / (head_bytes_ * options_.heads) && options_.pages < none,
                     "kv_cache: that many pages do not fit in the address space");
        memory_ = buffer(options_.pages * page_bytes(), from);
        owners_.resize(options_.pages);
        marked_.resize(options_.pages);
        free_.resize(options_.pages);
        for (std::size_t i = 0; i < free_.size(); ++i) free_[i] = static_cast<std::uint32_t>(free_.size() - 1 - i);
        available_ = free_.size();
    }
    ~page_memory() = default;

    // Options with their defaults filled in; `group` is that of along_tokens, or 0.
    static kv_cache_options checked(kv_cache_options o, std::size_t group, bool stores_values) {
        if (o.value_size == 0) o.value_size = o.head_size;
        if (!stores_values)
            NIBBLE_CHECK(o.value_size <= o.head_size && o.value_window == 0,
                         "kv_cache: values that are a prefix of the keys have at most head_size channels, and the "
                         "window of the keys");
        if (o.key_flush == 0) o.key_flush = detail::max_of<std::size_t>(1, group);
        NIBBLE_CHECK(o.heads != 0 && o.heads <= 65536, "kv_cache: there must be 1 to 65536 heads");
        NIBBLE_CHECK(o.head_size != 0 && o.head_size <= kernel::longest_head && o.value_size <= kernel::longest_head,
                     "kv_cache: a head has 1 to 1024 channels");
        NIBBLE_CHECK(o.page_tokens >= 16 && o.page_tokens <= 256 && (o.page_tokens & (o.page_tokens - 1)) == 0,
                     "kv_cache: a page has 16, 32, 64, 128 or 256 tokens");
        if (group != 0) {
            NIBBLE_CHECK(o.page_tokens % group == 0,
                         "kv_cache: page_tokens must be a multiple of the group of along_tokens");
            NIBBLE_CHECK(o.key_flush % group == 0,
                         "kv_cache: key_flush must be a multiple of the group of along_tokens");
        }
        NIBBLE_CHECK(o.capacity <= (std::size_t{1} << 31) && o.key_window <= o.capacity &&
                         o.value_window <= o.capacity && o.sinks <= o.capacity && o.rollback <= o.capacity &&
                         o.key_flush <= detail::max_of(o.capacity, detail::max_of<std::size_t>(1, group)),
                     "kv_cache: windows, flush, sinks and rollback cannot exceed the capacity, nor that 2^31 tokens");
        NIBBLE_CHECK(o.key_scale > 0.0f && detail::is_finite(o.key_scale) && o.value_scale > 0.0f &&
                         detail::is_finite(o.value_scale),
                     "kv_cache: key_scale and value_scale must be positive and finite");
        if (o.pages == 0) o.pages = detail::ceil_div(o.capacity, o.page_tokens);
        const bool waits = o.key_window != 0 || o.key_flush != 1 || o.value_window != 0;
        if (o.storing == kv_storing::automatic) o.storing = waits ? kv_storing::at_next_append : kv_storing::at_append;
        o.prompt_tokens = detail::min_of(o.prompt_tokens, o.capacity);
        return o;
    }

private:
    [[nodiscard]] std::size_t open(std::size_t window, std::size_t appended) const noexcept {
        const std::size_t others = detail::max_of(options_.rollback, stores_at_next_append() ? appended : 0);
        return detail::round_up(window + others, panel_layout::rows);
    }
    [[nodiscard]] std::byte* head_of(std::size_t head) noexcept {
        return memory_.data() + head * options_.pages * head_bytes_;
    }
    [[nodiscard]] const std::byte* head_of(std::size_t head) const noexcept {
        return memory_.data() + head * options_.pages * head_bytes_;
    }
    [[nodiscard]] std::size_t nonfinite_at(std::uint32_t page) const noexcept {
        return options_.pages * (keys_bytes_ + values_bytes_) + page * nonfinite_bytes_;
    }
    // visit(part, bytes, where it begins in the page as save writes it)
    template <class Visit> void for_each_part(std::uint32_t page, const Visit& visit) noexcept {
        for (std::size_t h = 0; h < options_.heads; ++h) {
            const std::size_t at = h * head_bytes_;
            visit(keys_of(page, h), keys_bytes_, at);
            if (stores_values_) visit(values_of(page, h), values_bytes_, at + keys_bytes_);
            visit(reinterpret_cast<std::byte*>(nonfinite(page, h)), nonfinite_bytes_, at + keys_bytes_ + values_bytes_);
        }
    }
    template <class Visit> void for_each_part(std::uint32_t page, const Visit& visit) const noexcept {
        const_cast<page_memory*>(this)->for_each_part(
            page, [&](const std::byte* part, std::size_t bytes, std::size_t at) { visit(part, bytes, at); });
    }

    kv_cache_options options_;
    allocator from_;
    const key_storage& of_keys_;
    const value_storage& of_values_;
    bool stores_values_;
    plain_key_layout keys_;
    plain_value_layout values_;
    std::size_t keys_bytes_;
    std::size_t values_bytes_; // 0 where values are keys
    std::size_t nonfinite_bytes_ = 0;
    std::size_t head_bytes_ = 0;
    buffer memory_;
    dynamic_array<std::uint32_t> owners_;
    dynamic_array<std::uint8_t> marked_;
    dynamic_array<std::uint32_t> free_; // the first available_ are
    std::size_t available_ = 0;
};

} // namespace detail

// Pages of a number of tokens, all heads of them: the memory of one or more sequences. A page that several sequences
// hold is stored once, and copied when one of them writes to it. Not for several threads at once without a lock.
// Neither copied nor moved: sequences point to it.
//
// Layers may share one, if their caches have the same options: a layer's cache of a sequence is a sequence to the
// pages, and `options.pages` counts those of all layers. What is free is then free for whichever layer comes next, and
// one number says whether a batch still fits. Layers that grow in turns take pages in turns: a head's pages are then
// not side by side (below), and a layer is read in stretches of one page and head. With pages of its own for each layer
// they are as long as the sequence.
//
// A page is not in one place: keys, values and flags of a head have the parts of all pages side by side, so that
// attention, which goes through a sequence head by head, reads one stretch of memory where pages were taken one after
// the other. (Emerald Rapids, two threads: stretches of 8 KiB are read at 24 GB/s, of 64 at 31, of 256 at 36.)
template <class Keys, cached_values Values> class kv_pages : public detail::page_memory {
public:
    static constexpr bool stores_values = detail::values_of_cache<Keys, Values>::stored;
    using value_layout = typename detail::values_of_cache<Keys, Values>::layout;
    static_assert(sizeof(detail::key_layout<Keys>) != 0 && sizeof(value_layout) != 0); // says what cannot be stored

    explicit kv_pages(const kv_cache_options& given, allocator from = {})
        : page_memory(given, detail::key_storage_of<Keys>, detail::storage_of_values<Keys, Values>(), from) {}
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
