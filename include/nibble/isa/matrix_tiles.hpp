// matrix_tiles.hpp: products of whole tiles, 16 tokens x 64 columns x 16 outputs by one instruction: what a machine
// that has such registers offers, and the definition of it in plain C++.
// Compiler flags: none.
#pragma once

#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Sums of up to two times 16 tokens and two panels of 16 outputs over windows of 64 columns, exact modulo 2^32:
//   out(t, r) = start(t, r) + sum over windows and columns of value(t, c) x lane(c, r)
// or, of one window, several such sums of the same values and lanes one tile further each. Lanes of columns that do not
// count are zero; activations there may be anything, and are read.
struct tile_products {
    static constexpr std::size_t most_tokens = 16; // of a tile
    static constexpr std::size_t window = 64;      // columns of a tile
    static constexpr std::size_t lane_bytes = 1024;
    static constexpr std::size_t most_sums = 2;

    const std::int8_t* values = nullptr; // of token 0 in the first window
    std::size_t next_values = 0;         // from window to window
    std::size_t last_stride = window;    // from token to token in the last window; in the others 64
    std::size_t windows = 1;
    std::size_t sums = 1;                 // more than one: of one window
    std::size_t tokens[2] = {0, 0};       // of the two tiles of tokens; the second may have none
    const std::int8_t* lanes[2] = {};     // of two panels: [window or sum][16 quads][16 outputs][4]
    const std::int32_t* start[2][2] = {}; // [tile of tokens][panel]: [token][16], or null: zeros
    std::int32_t* out[2][2] = {};         // [tile of tokens][panel]: [token][16]
    std::size_t next_out = 0;             // from sum to sum
};

// Linux gives a process tile data when it asks for it, and refuses if the machine has none or a signal stack is too
// small for it; any failure means that there are none. Every thread asks again, which costs nothing.
#if NIBBLE_HAS_AMX
[[nodiscard]] inline bool ask_for_tile_data() noexcept {
#if defined(__linux__)
    constexpr long arch_prctl = 158;
    constexpr long request_permission = 0x1023;
    constexpr long tile_data = 18;
    long result = arch_prctl;
    __asm__ volatile("syscall" : "+a"(result) : "D"(request_permission), "S"(tile_data) : "rcx", "r11", "memory");
    return result == 0;
#else
    return false;
#endif
}
[[nodiscard]] inline bool has_tile_data() noexcept {
    static const bool has = ask_for_tile_data();
    return has;
}
#endif

// The definition.
struct generic_matrix_tiles {
    // Has this machine such tiles, and does its system let this process use them?
    // The definition could always; but it is planned as the best ISA of the unit is.
    [[nodiscard]] static bool usable() noexcept {
#if NIBBLE_HAS_AMX
        return has_tile_data();
#else
        return true;
#endif
    }
    // While it lives its thread multiplies.
    struct session {
        session() noexcept = default;
        session(const session&) = delete;
        session& operator=(const session&) = delete;
        ~session() {} // NOLINT(modernize-use-equals-default): a variable that is used
    };
    template <std::size_t TokenTiles, std::size_t Panels> static void multiply(const tile_products& p) noexcept {
        for (std::size_t sum = 0; sum < p.sums; ++sum)
            for (std::size_t m = 0; m < TokenTiles; ++m)
                for (std::size_t n = 0; n < Panels; ++n)
                    for (std::size_t t = 0; t < p.tokens[m]; ++t)
                        for (std::size_t r = 0; r < 16; ++r) one(p, sum, m, n, t, r);
    }

private:
    static void one(const tile_products& p, std::size_t sum, std::size_t m, std::size_t n, std::size_t t,
                    std::size_t r) noexcept {
        std::uint32_t total = 0;
        if (p.start[m][n] != nullptr) total = static_cast<std::uint32_t>(p.start[m][n][t * 16 + r]);
        for (std::size_t w = 0; w < p.windows; ++w) {
            const std::size_t stride = w + 1 == p.windows ? p.last_stride : tile_products::window;
            const std::int8_t* row = p.values + w * p.next_values + (m * tile_products::most_tokens + t) * stride;
            const std::int8_t* lanes = p.lanes[n] + (sum + w) * tile_products::lane_bytes + r * 4;
            for (std::size_t c = 0; c < tile_products::window; ++c)
                total += static_cast<std::uint32_t>(int{row[c]} * int{lanes[c / 4 * 64 + c % 4]});
        }
        p.out[m][n][sum * p.next_out + t * 16 + r] = static_cast<std::int32_t>(total);
    }
};

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
