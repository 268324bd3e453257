// gguf_older_q2_0.hpp: type 42 of GGUF has had two meanings, blocks of 64 and of 128; which one a file has, by the
// sizes of its tensors.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/io/gguf_types.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

inline constexpr std::uint32_t q2_0_id = 42;   // 18 bytes for 64 weights, llama.cpp
inline constexpr std::uint32_t pq2_0_id = 142; // 34 bytes for 128; in PrismML's files of before 142 existed, 42

enum class q2_0_meaning { blocks_of_64, blocks_of_128, in_doubt };

// Where a tensor of type 42 begins in the tensor data, and its place in the file's list.
struct q2_0_place {
    std::uint64_t offset;
    std::size_t tensor;
};

// What the tensors of type 42 say together; `starts` are the offsets of all tensors that have data. A file's tensors
// follow each other without a gap but for the alignment's, so from one start to the next, or to the end of the data,
// are the bytes of one meaning; where padding makes them the same, the bytes that one counts to the tensor and the
// other to the padding tell, for padding is zeros. In doubt: nothing tells, or tensors tell both.
[[nodiscard]] inline q2_0_meaning meaning_of_q2_0(const std::vector<tensor_info>& tensors,
                                                  const std::vector<q2_0_place>& places,
                                                  std::vector<std::uint64_t> starts, std::span<const std::byte> data,
                                                  std::size_t alignment) {
    const gguf_block& newer = *find_gguf_block(q2_0_id);
    const gguf_block& older = *find_gguf_block(pq2_0_id);
    heap_sort(starts, [](std::uint64_t a, std::uint64_t b) { return a < b; });
    bool says_64 = false;
    bool says_128 = false;
    bool says_nothing = false;
    for (const q2_0_place& place : places) {
        const tensor_info& tensor = tensors[place.tensor];
        std::size_t of_64 = 0;
        std::size_t of_128 = 0;
        if (tensor.cols() % older.elements != 0 || !block_bytes(tensor, newer, of_64) ||
            !block_bytes(tensor, older, of_128)) {
            says_64 = true;
            continue;
        }
        if (place.offset > data.size()) continue; // outside of the file, whatever it means
        std::uint64_t end = data.size();
        for (std::size_t first = 0, last = starts.size(); first < last;) { // the first start behind its own
            const std::size_t middle = first + (last - first) / 2;
            if (starts[middle] > place.offset) {
                end = starts[middle];
                last = middle;
            } else {
                first = middle + 1;
            }
        }
        const std::uint64_t room = min_of<std::uint64_t>(end, data.size()) - min_of<std::uint64_t>(place.offset, end);
        const bool fits_64 = room == of_64 || room == round_up(of_64, alignment);
        const bool fits_128 = room == of_128 || room == round_up(of_128, alignment);
        bool zeros = room >= of_64;
        for (std::size_t i = of_128; zeros && i < of_64; ++i)
            zeros = data[static_cast<std::size_t>(place.offset) + i] == std::byte{0};
        if (fits_64 != fits_128)
            (fits_64 ? says_64 : says_128) = true;
        else if (room >= of_64) // zeros: padding or a gap, or weights that are all -1
            (zeros ? says_nothing : says_64) = true;
    }
    if (!says_64 && !says_128 && !says_nothing) return q2_0_meaning::blocks_of_64; // cut off
    if (says_64 != says_128) return says_64 ? q2_0_meaning::blocks_of_64 : q2_0_meaning::blocks_of_128;
    return q2_0_meaning::in_doubt;
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
