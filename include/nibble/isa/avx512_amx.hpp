// avx512_amx.hpp: AVX-512 with VNNI, and tiles of 16 x 64 bytes multiplied by one instruction.
// Compiler flags: those of avx512_vnni.hpp with -mamx-tile -mamx-int8
#pragma once

#include <nibble/core/config.hpp>

#if NIBBLE_HAS_AMX

#include <nibble/isa/avx512_vnni.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/matrix_tiles.hpp>

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// The shapes of the eight tile registers, as LDTILECFG reads them: four of sums, two of activations, two of lanes.
struct alignas(64) amx_shapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {};
};

struct amx_matrix_tiles {
    [[nodiscard]] static bool usable() noexcept { return has_tile_data(); }

    // Shapes are a thread's own. TILERELEASE at the end: what is switched to next need not save eight kilobytes.
    class session {
    public:
        session() noexcept {
            thread_state& state = of_thread();
            if (!state.asked) state.asked = ask_for_tile_data();
            state.shapes = {};
        }
        session(const session&) = delete;
        session& operator=(const session&) = delete;
        ~session() { _tile_release(); }
    };

    template <std::size_t TokenTiles, std::size_t Panels>
    static NIBBLE_INLINE void multiply(const tile_products& p) noexcept {
        static_assert(TokenTiles >= 1 && TokenTiles <= 2 && Panels >= 1 && Panels <= 2);
        shape(p.tokens[0], p.tokens[1]);
        __asm__ volatile("" ::: "memory"); // what other instructions stored is there
        if (p.windows == 1) {              // activations are loaded once for all sums
            load_values<TokenTiles>(p.values, p.last_stride);
            for (std::size_t sum = 0; sum < p.sums; ++sum) {
                begin<TokenTiles, Panels>(p);
                products<TokenTiles, Panels>(p, sum);
                store<TokenTiles, Panels>(p, sum * p.next_out);
            }
            return;
        }
        begin<TokenTiles, Panels>(p);
        const std::int8_t* values = p.values;
        for (std::size_t w = 0; w < p.windows; ++w, values += p.next_values) {
            load_values<TokenTiles>(values, w + 1 == p.windows ? p.last_stride : tile_products::window);
            products<TokenTiles, Panels>(p, w);
        }
        store<TokenTiles, Panels>(p, 0);
    }

private:
    template <std::size_t TokenTiles>
    static NIBBLE_INLINE void load_values(const std::int8_t* values, std::size_t stride) noexcept {
        _tile_loadd(4, values, stride);
        if constexpr (TokenTiles > 1) _tile_loadd(5, values + tile_products::most_tokens * stride, stride);
    }
    template <std::size_t TokenTiles, std::size_t Panels>
    static NIBBLE_INLINE void products(const tile_products& p, std::size_t lanes) noexcept {
        _tile_loadd(6, p.lanes[0] + lanes * tile_products::lane_bytes, 64);
        _tile_dpbssd(0, 4, 6);
        if constexpr (Panels > 1) {
            _tile_loadd(7, p.lanes[1] + lanes * tile_products::lane_bytes, 64);
            _tile_dpbssd(1, 4, 7);
        }
        if constexpr (TokenTiles > 1) {
            _tile_dpbssd(2, 5, 6);
            if constexpr (Panels > 1) {
                _tile_dpbssd(3, 5, 7);
            }
        }
    }
    template <std::size_t TokenTiles, std::size_t Panels>
    static NIBBLE_INLINE void begin(const tile_products& p) noexcept {
        if (p.start[0][0] == nullptr) {
            _tile_zero(0);
            if constexpr (Panels > 1) _tile_zero(1);
            if constexpr (TokenTiles > 1) _tile_zero(2);
            if constexpr (TokenTiles > 1 && Panels > 1) _tile_zero(3);
        } else {
            _tile_loadd(0, p.start[0][0], 64);
            if constexpr (Panels > 1) _tile_loadd(1, p.start[0][1], 64);
            if constexpr (TokenTiles > 1) _tile_loadd(2, p.start[1][0], 64);
            if constexpr (TokenTiles > 1 && Panels > 1) _tile_loadd(3, p.start[1][1], 64);
        }
    }
    template <std::size_t TokenTiles, std::size_t Panels>
    static NIBBLE_INLINE void store(const tile_products& p, std::size_t at) noexcept {
        _tile_stored(0, p.out[0][0] + at, 64);
        if constexpr (Panels > 1) _tile_stored(1, p.out[0][1] + at, 64);
        if constexpr (TokenTiles > 1) _tile_stored(2, p.out[1][0] + at, 64);
        if constexpr (TokenTiles > 1 && Panels > 1) _tile_stored(3, p.out[1][1] + at, 64);
    }
    struct thread_state {
        amx_shapes shapes{};
        bool asked = false;
    };
    [[nodiscard]] static thread_state& of_thread() noexcept {
        thread_local constinit thread_state state{};
        return state;
    }
    static NIBBLE_INLINE void shape(std::size_t first, std::size_t second) noexcept {
        amx_shapes& shapes = of_thread().shapes;
        const auto a = static_cast<std::uint8_t>(first);
        const auto b = static_cast<std::uint8_t>(second);
        if (shapes.rows[4] == a && shapes.rows[5] == b) [[likely]]
            return;
        shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = a;
        // No register has no rows: those that nothing is done with have one.
        shapes.rows[2] = shapes.rows[3] = b == 0 ? std::uint8_t{1} : b;
        shapes.rows[5] = shapes.rows[2];
        shapes.rows[6] = shapes.rows[7] = 16;
        __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
        shapes.rows[5] = b;
    }
};

} // namespace detail

struct avx512_amx : avx512_vnni {
    static constexpr const char* name = "avx512_amx";
    static constexpr isa_facts facts = [] {
        isa_facts f = avx512_vnni::facts;
        f.matrix_tiles = true;
        return f;
    }();
    using matrix_tiles = detail::amx_matrix_tiles;
};

static_assert(whole_isa<avx512_amx>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

#endif // NIBBLE_HAS_AMX
