// sort_by_key.hpp: a stable radix sort of keys with the positions they came from; what quantizers rank weights with.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/exchange.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// A key that orders as the value does; -0 comes before +0, and the value must not be NaN.
[[nodiscard]] constexpr std::uint32_t ordered_key(float x) noexcept {
    const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
    return (word >> 31) != 0 ? ~word : word | 0x80000000u;
}
[[nodiscard]] constexpr std::uint64_t ordered_key(double x) noexcept {
    const std::uint64_t word = detail::bit_cast<std::uint64_t>(x);
    return (word >> 63) != 0 ? ~word : word | 0x8000000000000000u;
}

template <class Key> struct keyed {
    Key key;
    std::uint32_t position;
};

// Ascending by key, equal keys in the order they had. Linear time, `spare` is scratch of any content. For a handful of
// items an insertion, which costs less than the histograms.
template <class Key> void sort_by_key(dynamic_array<keyed<Key>>& items, dynamic_array<keyed<Key>>& spare) {
    const std::size_t n = items.size();
    if (n <= 48) {
        for (std::size_t i = 1; i < n; ++i) {
            const keyed<Key> item = items[i];
            std::size_t at = i;
            for (; at > 0 && item.key < items[at - 1].key; --at) items[at] = items[at - 1];
            items[at] = item;
        }
        return;
    }
    spare.resize(n);
    for (unsigned shift = 0; shift < sizeof(Key) * 8; shift += 8) {
        std::size_t start[257] = {};
        for (const keyed<Key>& item : items) ++start[((item.key >> shift) & 255u) + 1];
        bool one_digit = false;
        for (std::size_t d = 1; d < 257; ++d) one_digit = one_digit || start[d] == n;
        if (one_digit) continue;
        for (std::size_t d = 1; d < 257; ++d) start[d] += start[d - 1];
        for (const keyed<Key>& item : items) spare[start[(item.key >> shift) & 255u]++] = item;
        detail::swap(items, spare);
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
