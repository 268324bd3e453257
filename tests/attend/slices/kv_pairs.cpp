// kv_pairs.cpp: the slices put together again.
#include "support/kv_pair.hpp"

#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

namespace attend_test {

const std::vector<std::unique_ptr<kv_pair>>& kv_pairs() {
    static const std::vector<std::unique_ptr<kv_pair>> all = [] {
        std::vector<std::unique_ptr<kv_pair>> joined;
        [&]<std::size_t... Slice>(std::index_sequence<Slice...>) {
            const auto take = [&](std::vector<std::unique_ptr<kv_pair>> slice) {
                joined.insert(joined.end(), std::make_move_iterator(slice.begin()),
                              std::make_move_iterator(slice.end()));
            };
            (take(make_kv_slice<Slice>()), ...);
        }(std::make_index_sequence<NIBBLE_TEST_KV_SLICES>{});
        return joined;
    }();
    return all;
}

} // namespace attend_test
