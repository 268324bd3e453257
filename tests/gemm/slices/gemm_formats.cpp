// gemm_formats.cpp: the slices put together again, about in the order of the list.
#include "support/gemm_format.hpp"

#include <nibble/scheme/formats.hpp>

#include <utility>

namespace gemm_test {

const std::vector<std::unique_ptr<gemm_format>>& gemm_formats() {
    static const std::vector<std::unique_ptr<gemm_format>> all = [] {
        std::vector<std::vector<std::unique_ptr<gemm_format>>> slices;
        [&]<std::size_t... Slice>(std::index_sequence<Slice...>) {
            (slices.push_back(make_gemm_slice<Slice>()), ...);
        }(std::make_index_sequence<NIBBLE_TEST_GEMM_SLICES>{});
        std::vector<std::unique_ptr<gemm_format>> joined;
        // Slices differ in length when only one format of each kind is tested.
        for (std::size_t i = 0; i < nibble::all_formats::size; ++i)
            for (auto& slice : slices)
                if (i < slice.size()) joined.push_back(std::move(slice[i]));
        return joined;
    }();
    return all;
}

} // namespace gemm_test
