// name_index.hpp: finds tensors and metadata of a file by name, and tells when a name comes twice.
#pragma once

#include <nibble/core/config.hpp>

#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Heap sort: n log n for every input and no memory of its own, so no file is slow to open by design.
// Why not <algorithm>: its std::sort would be the only thing that this library takes from that slow header.
template <class T, class Less> void heap_sort(std::vector<T>& items, Less less) {
    const auto sink = [&](std::size_t root, std::size_t end) {
        for (std::size_t child = 2 * root + 1; child < end; child = 2 * root + 1) {
            if (child + 1 < end && less(items[child], items[child + 1])) ++child;
            if (!less(items[root], items[child])) return;
            std::swap(items[root], items[child]);
            root = child;
        }
    };
    for (std::size_t root = items.size() / 2; root-- > 0;) sink(root, items.size());
    for (std::size_t end = items.size(); end > 1; --end) {
        std::swap(items[0], items[end - 1]);
        sink(0, end - 1);
    }
}

// Positions 0 .. count-1 in the order of their names. `name_at(position)` gives a name; the caller keeps the names and
// hands in the same ones every time.
class name_index {
public:
    // Returns a position whose name an earlier position has too, or `count` when all names differ.
    template <class NameAt> [[nodiscard]] std::size_t build(std::size_t count, const NameAt& name_at) {
        order_.resize(count);
        for (std::size_t i = 0; i < count; ++i) order_[i] = i;
        heap_sort(order_, [&](std::size_t a, std::size_t b) {
            const int order = name_at(a).compare(name_at(b));
            return order < 0 || (order == 0 && a < b);
        });
        for (std::size_t i = 1; i < count; ++i)
            if (name_at(order_[i - 1]) == name_at(order_[i])) return order_[i];
        return count;
    }

    // The position of `name`, or `missing`.
    template <class NameAt> [[nodiscard]] std::size_t find(std::string_view name, const NameAt& name_at) const {
        std::size_t begin = 0;
        std::size_t end = order_.size();
        while (begin < end) {
            const std::size_t middle = begin + (end - begin) / 2;
            const int order = name_at(order_[middle]).compare(name);
            if (order == 0) return order_[middle];
            if (order < 0)
                begin = middle + 1;
            else
                end = middle;
        }
        return missing;
    }

    static constexpr std::size_t missing = static_cast<std::size_t>(-1);

private:
    std::vector<std::size_t> order_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
