// kv_cache.hpp: keys and values of a sequence in any pair of schemes, appended token by token.
#pragma once

#include <nibble/cache/pages.hpp>
#include <nibble/cache/sequence.hpp>
#include <nibble/cache/stored_sequence.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/view.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Keys and values of one sequence: Keys is a scheme (a token is a row: int8_channel has one scale per token and head,
// int4_g32 one per 32 channels of it) or along_tokens<scheme>; Values is a scheme. Which combinations there are: any.
// Or Values is prefix_of_keys, for latent attention: then values take no memory, and are as the keys are stored.
//
// A key or value with a NaN or an infinity is stored as zeros and marked: whatever attends to that token, in that head,
// is NaN. Without a scale (f16_plain, bf16_plain) numbers beyond the largest saturate.
//
// What is stored in the end (flush) depends on the tokens alone, not on how many came at once. When it is stored, and
// so what queries meet before, kv_cache_options::storing says:
//   at_append       as a token comes, or leaves its window. The default of schemes whose scales belong to tokens,
//   without windows:
//                   what attention gives does not depend either on how many tokens came at once. With windows it does:
//                   of a long append the first tokens have left them, and are as stored, when their own queries come.
//   at_next_append  the tokens of an append stay in fp32 until the next one, or flush(). The default of keys along
//   tokens and of
//                   windows. A prompt that is appended and then attended to by its own queries attends to itself
//                   exactly, as in KIVI (Liu et al., 2024), then is stored. So it does depend on the cut: a query meets
//                   tokens of its own append as they came, those before it as stored, but for windows and groups that
//                   were not complete. Token by token its own append is its own token alone, which is what decoding
//                   does.
//
// One thread at a time may change sequences of the same pages; attend only reads. What was moved from has no tokens and
// no pages: it can be assigned to and destroyed, size() is 0 and pages() nullptr; all that needs pages fails and says
// so.
template <class Keys, cached_values Values> class kv_cache : public detail::stored_sequence {
public:
    using pages_type = kv_pages<Keys, Values>;
    using key_format = detail::key_format<Keys>;
    static constexpr bool stores_values = pages_type::stores_values;
    using value_format = detail::token_format<typename pages_type::value_layout::scheme_type>;

    // With pages of its own, or of a set that other sequences, and other layers, use too (kv_pages).
    explicit kv_cache(const kv_cache_options& options, allocator from = {})
        : kv_cache(make_shared<pages_type>(options, from)) {}
    explicit kv_cache(shared_ptr<pages_type> pages) : stored_sequence(pages), pages_(std::move(pages)) {}
    kv_cache(kv_cache&&) noexcept = default;
    kv_cache& operator=(kv_cache&&) noexcept = default;

    [[nodiscard]] const shared_ptr<pages_type>& pages() const noexcept { return pages_; }

    void set_value_transform(shared_ptr<const kv_transform> transform)
        requires stores_values
    {
        stored_sequence::set_value_transform(std::move(transform));
    }

    // Tokens to the end: row t of k has the keys of all heads of a token, head after head, v its values. With
    // at_next_append those of the append before are stored first, and more than options().prompt_tokens at once get
    // fp32 memory of their own, from the pages' allocator; apart from that it allocates nothing.
    template <executor Executor = serial>
        requires stores_values
    void append(matrix_view<const float> k, matrix_view<const float> v, const Executor& threads = {}) {
        append_rows(k, v, threads);
    }
    // Likewise where values are a prefix of the keys.
    template <executor Executor = serial>
        requires(!stores_values)
    void append(matrix_view<const float> k, const Executor& threads = {}) {
        append_rows(k, threads);
    }

    // The same sequence once more: its pages are shared until one of the two writes to them. Tokens that wait in fp32
    // are copied.
    [[nodiscard]] kv_cache fork() const {
        check_pages();
        kv_cache copy(pages_);
        copy.share(*this);
        return copy;
    }

private:
    shared_ptr<pages_type> pages_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
