// tiles.cpp: the tiles that the products spend their time in, one of each family and shape, for hot_loops.sh to read.
#include <nibble/kernel/integer_tile.hpp>
#include <nibble/kernel/real_tile.hpp>

#include <nibble/dispatch/fixed.hpp>
#include <nibble/scheme/formats.hpp>

namespace nibble::inline NIBBLE_ABI::kernel {

#define NIBBLE_TEST_INTEGER(source, panels, tokens)                                                                    \
    template void integer_tile<source, panels, tokens, false>(const tile_arguments&, const tile_range&) noexcept;

constexpr std::size_t integer_tokens = best_isa::facts.integer_tiles.longest;
constexpr std::size_t real_tokens = best_isa::facts.float_tiles.longest;
using nibbles = packed_loader<detail::panel_isa_of<best_isa>, 4, void>;
using nibble_table = packed_loader<detail::panel_isa_of<best_isa>, 4, e2m1>;
using bits2 = packed_loader<detail::panel_isa_of<best_isa>, 2, void>;
using bits3 = packed_loader<detail::panel_isa_of<best_isa>, 3, void>;
using bits6 = packed_loader<detail::panel_isa_of<best_isa>, 6, void>;
using bytes = byte_loader<detail::panel_isa_of<best_isa>>;
using words = word_loader<best_isa>;
using small_activations = byte_loader<int32_dots_of<best_isa>>;
using packed_words = packed_word_loader<best_isa, 8, void>;
NIBBLE_TEST_INTEGER(nibbles, 1, 1)
NIBBLE_TEST_INTEGER(nibbles, 1, 2)
NIBBLE_TEST_INTEGER(nibbles, 1, integer_tokens)
NIBBLE_TEST_INTEGER(nibbles, 4, 1)
NIBBLE_TEST_INTEGER(nibble_table, 1, integer_tokens)
NIBBLE_TEST_INTEGER(nibble_table, 4, 1)
NIBBLE_TEST_INTEGER(bits2, 4, 1)
NIBBLE_TEST_INTEGER(bits3, (best_isa::facts.vector_registers >= 32 ? 4 : 2), 1)
NIBBLE_TEST_INTEGER(bits6, 2, 1)
NIBBLE_TEST_INTEGER(bytes, 1, integer_tokens)
NIBBLE_TEST_INTEGER(words, 1, 4)
NIBBLE_TEST_INTEGER(packed_words, 1, 4)
NIBBLE_TEST_INTEGER(packed_words, 4, 1)
NIBBLE_TEST_INTEGER(small_activations, 1, 4)
NIBBLE_TEST_INTEGER(small_activations, 4, 1)

#define NIBBLE_TEST_REAL(source, panels, tokens)                                                                       \
    template void real_tile<source, panels, tokens>(const tile_arguments&, const tile_range&) noexcept;

using lanes_in_cache = real_loader<detail::panel_isa_of<best_isa>>;
using halves = real_packed_loader<best_isa, f16>;
NIBBLE_TEST_REAL(lanes_in_cache, 1, 4)
NIBBLE_TEST_REAL(lanes_in_cache, 1, real_tokens)
NIBBLE_TEST_REAL(halves, 4, 1)
// As attention has them on a Zen.
using far_nibbles = prefetch_l2_loader<nibbles>;
using far_bytes = prefetch_l2_loader<bytes>;
using far_halves = prefetch_l2_loader<halves>;
NIBBLE_TEST_INTEGER(far_nibbles, 4, 1)
NIBBLE_TEST_INTEGER(far_nibbles, 2, 1)
NIBBLE_TEST_INTEGER(far_bytes, 4, 1)
NIBBLE_TEST_REAL(far_halves, 4, 1)
#if NIBBLE_HAS_AVX512
// Panels in pairs.
NIBBLE_TEST_INTEGER(nibbles, 2, 4)
NIBBLE_TEST_INTEGER(nibble_table, 2, 4)
NIBBLE_TEST_INTEGER(bytes, 2, 4)
NIBBLE_TEST_INTEGER(nibbles, 2, integer_tokens)
NIBBLE_TEST_INTEGER(nibble_table, 2, integer_tokens)
NIBBLE_TEST_INTEGER(bytes, 2, integer_tokens)
NIBBLE_TEST_REAL(lanes_in_cache, 2, real_tokens)
NIBBLE_TEST_REAL(halves, 2, real_tokens)
NIBBLE_TEST_REAL(lanes_in_cache, 2, 4)
NIBBLE_TEST_REAL(halves, 2, 4)
using eight_bit_floats = real_packed_loader<best_isa, e4m3>;
using six_bit_floats = real_packed_loader<best_isa, e3m2>;
using quantiles = real_packed_loader<best_isa, nf4>;
// Decoded in 512 bits. In 256 bits a decoder's constants and the sums of four panels do not fit in 16 registers.
NIBBLE_TEST_REAL(eight_bit_floats, 1, 4)
NIBBLE_TEST_REAL(eight_bit_floats, 1, best_isa::facts.float_tiles.shorter)
NIBBLE_TEST_REAL(six_bit_floats, 1, 4)
NIBBLE_TEST_REAL(quantiles, 1, 4)
NIBBLE_TEST_REAL(eight_bit_floats, 4, 1)
NIBBLE_TEST_REAL(six_bit_floats, 4, 1)
NIBBLE_TEST_REAL(quantiles, 4, 1)
#endif

} // namespace nibble::inline NIBBLE_ABI::kernel
