// generic.hpp: all primitives in plain C++, right on every machine; the bits that every other ISA must reproduce.
// Compiler flags: none.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/isa.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI {

struct generic {
    static constexpr const char* name = "generic";
    static constexpr std::size_t width = 8;

    struct f32 {
        float v[8];
    };
    struct i32 {
        std::int32_t v[8];
    };
    struct bytes {
        std::uint8_t v[32];
    };
    struct words {
        std::int16_t v[16];
    };
    using sums = i32;

    // ---- fp32 lanes ---------------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE f32 load(const float* from) noexcept {
        f32 r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    // The first `count` (at most 8) floats, zeros above; reads nothing beyond them.
    [[nodiscard]] static NIBBLE_INLINE f32 load_some(const float* from, std::size_t count) noexcept {
        f32 r{};
        for (std::size_t i = 0; i < count; ++i) r.v[i] = from[i];
        return r;
    }
    static NIBBLE_INLINE void store(float* to, const f32& a) noexcept { __builtin_memcpy(to, &a, sizeof a); }
    static NIBBLE_INLINE void store_some(float* to, const f32& a, std::size_t count) noexcept {
        for (std::size_t i = 0; i < count; ++i) to[i] = a.v[i];
    }
    [[nodiscard]] static NIBBLE_INLINE f32 broadcast(float a) noexcept {
        f32 r;
        for (float& x : r.v) x = a;
        return r;
    }
    template <class Function>
    [[nodiscard]] static NIBBLE_INLINE f32 each(const f32& a, const f32& b, Function f) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = f(a.v[i], b.v[i]);
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE f32 add(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x + y; });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 subtract(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x - y; });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 multiply(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x * y; });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 divide(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x / y; });
    }
    // a x b + c, rounded once.
    [[nodiscard]] static NIBBLE_INLINE f32 fma(const f32& a, const f32& b, const f32& c) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = detail::fused_multiply_add(a.v[i], b.v[i], c.v[i]);
        return r;
    }
    // a < b ? a : b and a > b ? a : b: b if either is NaN.
    [[nodiscard]] static NIBBLE_INLINE f32 smaller(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x < y ? x : y; });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 larger(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) { return x > y ? x : y; });
    }
    // a < b ? x : y
    [[nodiscard]] static NIBBLE_INLINE f32 select_less(const f32& a, const f32& b, const f32& x, const f32& y) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i];
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE f32 absolute(const f32& a) noexcept {
        return each(a, a, [](float x, float) { return detail::abs_of(x); });
    }
    // |a| with the sign bit of b.
    [[nodiscard]] static NIBBLE_INLINE f32 copy_sign(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) {
            return std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) |
                                        (std::bit_cast<std::uint32_t>(y) & 0x80000000u));
        });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 round(const f32& a) noexcept {
        return each(a, a, [](float x, float) { return detail::round_even(x); });
    }
    // 2^n of an integral n in [-126, 127].
    [[nodiscard]] static NIBBLE_INLINE f32 exp2i(const f32& n) noexcept {
        return each(n, n, [](float x, float) {
            const float n_or_zero = x == x ? x : 0.0f; // NaN has no integer; what it is multiplied by is NaN already
            return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n_or_zero) + 127) << 23);
        });
    }

    // Makes a value opaque to the optimiser.
    static NIBBLE_INLINE void keep(f32& a) noexcept { __asm__("" : "+m"(a)); }

    // ---- integer products -----------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE bytes load_bytes(const std::uint8_t* from) noexcept {
        bytes r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store_bytes(std::uint8_t* to, const bytes& a) noexcept { __builtin_memcpy(to, &a, sizeof a); }
    // The low (high) 4 bits of each of 32 bytes.
    [[nodiscard]] static NIBBLE_INLINE bytes low_nibbles(const bytes& a) noexcept { return field<0, 15>(a); }
    [[nodiscard]] static NIBBLE_INLINE bytes high_nibbles(const bytes& a) noexcept { return field<4, 15>(a); }
    // (byte >> Shift) & Mask; Mask has at most 8 - Shift bits.
    template <int Shift, int Mask>
    [[nodiscard]] static NIBBLE_INLINE bytes field(const bytes& a) noexcept {
        bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::uint8_t>((a.v[i] >> Shift) & Mask);
        return r;
    }
    // a | b << Shift, where no bit of b is shifted out.
    template <int Shift>
    [[nodiscard]] static NIBBLE_INLINE bytes join(const bytes& a, const bytes& b) noexcept {
        bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::uint8_t>(a.v[i] | (b.v[i] << Shift));
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE bytes subtract_bytes(const bytes& a, std::uint8_t b) noexcept {
        bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::uint8_t>(a.v[i] - b);
        return r;
    }
    // table[a] of a table with Size entries (a power of two), a below Size.
    template <std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE bytes lookup(const detail::table<std::uint8_t, Size>& table, const bytes& a) noexcept {
        bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = table.at[a.v[i]];
        return r;
    }
    // Four bytes to every row.
    [[nodiscard]] static NIBBLE_INLINE bytes broadcast4(const std::int8_t* from) noexcept {
        bytes r;
        for (std::size_t i = 0; i < 8; ++i) __builtin_memcpy(r.v + 4 * i, from, 4);
        return r;
    }
    // Sums that start at -center x (the sum of the activations to come), given as two int16 in one int32: the sum over
    // columns 0 and 1 of each quad in the lower half, 2 and 3 in the upper.
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        const std::int32_t total = static_cast<std::int16_t>(*pair) + static_cast<std::int16_t>(*pair >> 16);
        sums r;
        for (std::int32_t& x : r.v) x = -center * total;
        return r;
    }
    // Per row: sum += unsigned codes . signed activations, over 4 columns.
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        sums r = s;
        for (int i = 0; i < 8; ++i)
            for (int j = 0; j < 4; ++j)
                r.v[i] += static_cast<std::int32_t>(codes.v[4 * i + j]) *
                          static_cast<std::int32_t>(static_cast<std::int8_t>(activations.v[4 * i + j]));
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept { return s; }
    // Keeps the compiler from re-associating sums across quads; nothing here.
    static NIBBLE_INLINE void pin(sums&) noexcept {}

    // Signed bytes b0 b1 b2 b3 of each row as int16: b0 b2, and b1 b3.
    [[nodiscard]] static NIBBLE_INLINE words even_words(const bytes& a) noexcept {
        words r;
        for (int i = 0; i < 16; ++i) r.v[i] = static_cast<std::int8_t>(a.v[2 * i]);
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE words odd_words(const bytes& a) noexcept {
        words r;
        for (int i = 0; i < 16; ++i) r.v[i] = static_cast<std::int8_t>(a.v[2 * i + 1]);
        return r;
    }
    // Two int16, wherever they are stored, to every row.
    [[nodiscard]] static NIBBLE_INLINE words broadcast2(const void* from) noexcept {
        words r;
        for (int i = 0; i < 8; ++i) __builtin_memcpy(r.v + 2 * i, from, 4);
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE words load_words(const std::int32_t* from) noexcept {
        words r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    // Per row: a[0] x b[0] + a[1] x b[1].
    [[nodiscard]] static NIBBLE_INLINE i32 multiply_pairs(const words& a, const words& b) noexcept {
        i32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1];
        return r;
    }
    // sums + multiply_pairs(a, b), and total + dot_finish(s): one instruction on some machines.
    [[nodiscard]] static NIBBLE_INLINE i32 add_pairs(const i32& sums, const words& a, const words& b) noexcept {
        return add(sums, multiply_pairs(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept { return add(total, s); }
    // Four bytes of each row as one int32 lane, column 0 in the lowest byte.
    [[nodiscard]] static NIBBLE_INLINE i32 as_i32(const bytes& a) noexcept {
        i32 r;
        for (int i = 0; i < 8; ++i)
            r.v[i] = static_cast<std::int32_t>(std::uint32_t{a.v[4 * i]} | std::uint32_t{a.v[4 * i + 1]} << 8 |
                                               std::uint32_t{a.v[4 * i + 2]} << 16 | std::uint32_t{a.v[4 * i + 3]} << 24);
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE i32 zeros() noexcept { return i32{}; }
    [[nodiscard]] static NIBBLE_INLINE i32 add(const i32& a, const i32& b) noexcept {
        i32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] + b.v[i];
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE i32 subtract(const i32& a, const i32& b) noexcept {
        i32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] - b.v[i];
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE i32 load(const std::int32_t* from) noexcept {
        i32 r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store(std::int32_t* to, const i32& a) noexcept { __builtin_memcpy(to, &a, sizeof a); }
    [[nodiscard]] static NIBBLE_INLINE f32 to_float(const i32& a) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = static_cast<float>(a.v[i]);
        return r;
    }

    // ---- codes to fp32 --------------------------------------------------------------------------------------------------

    // The values of 8 codes, one per int32 lane in bits Shift ... Shift + bits - 1; other bits are ignored. NaN codes of
    // elements with detail::marks_nan may come out as numbers.
    template <element E, int Shift = 0>
    [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) {
            const std::uint32_t c = (static_cast<std::uint32_t>(codes.v[i]) >> Shift) & code_mask<E>;
            if constexpr (E::bits <= 8)
                r.v[i] = decode_table<E>.at[c];
            else
                r.v[i] = E::decode(static_cast<typename E::code>(c));
        }
        return r;
    }
    // The values of 8 consecutive stored codes.
    template <element E>
    [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) {
            if constexpr (E::bits <= 8)
                r.v[i] = decode_table<E>.at[from[i] & code_mask<E>];
            else
                r.v[i] = E::decode(from[i]);
        }
        return r;
    }

    // The same with every NaN code a NaN.
    template <element E>
    [[nodiscard]] static NIBBLE_INLINE f32 decode_exact(const typename E::code* from) noexcept {
        return decode_stored<E>(from);
    }

    // 8 values to consecutive codes of a 16-bit element, each rounded once; beyond the largest: infinity.
    template <element E>
    static NIBBLE_INLINE void encode_stored(typename E::code* to, const f32& a) noexcept {
        for (int i = 0; i < 8; ++i) to[i] = E::template encode<rounding::nearest_even, overflow::special>(a.v[i]);
    }

    static NIBBLE_INLINE void prefetch(const void* at) noexcept { __builtin_prefetch(at); }

protected:
    template <element E>
    static constexpr std::uint32_t code_mask = E::bits >= 32 ? 0xffffffffu : (1u << (E::bits % 32)) - 1u;
};

static_assert(isa<generic>);

} // namespace nibble::inline NIBBLE_ABI
