// by_hand.hpp: products with int4_g128 written out in intrinsics over nibble's packed layout: what its templates are
// held to.
#pragma once

#include <nibble/core/view.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/packed.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

// The instructions of these loops: "avx512_vnni" or "avx2"; "" where the compiler flags have neither, and there are
// none.
[[nodiscard]] const char* by_hand_isa() noexcept;
// Tokens of a tile, of which there must be one or a multiple.
[[nodiscard]] std::size_t by_hand_tokens() noexcept;

// Activations in int8, a scale per token, in the order of the loops.
struct by_hand_activations {
    std::size_t tokens = 0;
    std::size_t cols = 0;            // a multiple of 128
    std::size_t block = 1;           // tokens that lie side by side
    std::vector<std::int8_t> values; // [block][quad][token][4]
    std::vector<std::int32_t>
        starts; // [block][group of 128, or phase of 64][token]: what centres the sums of codes from 0 to 15
    std::vector<float> scales; // [token]
    [[nodiscard]] static by_hand_activations of(nibble::matrix_view<const float> x);
};

// y = x wᵀ on the calling thread, the bits of nibble::gemm. The rows of w are a multiple of 64, its columns of 128.
void multiply_by_hand(const by_hand_activations& x, const nibble::packed<nibble::int4_g128>& w,
                      nibble::matrix_view<float> y);

} // namespace bench
