// generic.hpp: all primitives in plain C++, right on every machine; the bits that every other ISA must reproduce.
// Compiler flags: none.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/isa/fixed_vector.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/matrix_tiles.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct generic {
    static constexpr const char* name = "generic";
    static constexpr std::size_t width = 8;
    // Those that activations lie by are those of the best ISA that the flags of this unit allow.
    static constexpr std::size_t narrow_tokens = NIBBLE_HAS_NEON != 0 && NIBBLE_HAS_INT32_DOTS == 0 ? 3 : 4;
    static constexpr isa_facts facts{
        .dots_in_int32 = NIBBLE_HAS_INT32_DOTS != 0,
        .integer_tiles = {.longest = NIBBLE_HAS_AVX512 != 0 ? 8 : narrow_tokens, .shorter = narrow_tokens},
        .float_tiles = {.longest = NIBBLE_HAS_AVX512 != 0 ? 12 : 6, .shorter = 6},
        .matrix_tiles = NIBBLE_HAS_AMX != 0,
        .exact_byte_products = NIBBLE_HAS_NEON != 0,
        .vector_registers = NIBBLE_VECTOR_REGISTERS,
        .prefetches_second_level = NIBBLE_TUNED_FOR_ZEN != 0};
    [[nodiscard]] static constexpr isa_tuning tuning() noexcept { return {}; }
    using matrix_tiles = detail::generic_matrix_tiles;
    template <element E> static constexpr bool decodes = true;

private:
    // Integers are in the compiler's own vectors, of the width that every machine has or can do without: loops over the
    // lanes in each of the hundreds of operations of an unrolled tile take compilers five times as long, and become
    // slower code.
    using u8x16 = detail::fixed_vector<std::uint8_t, 16>;
    using u16x8 = detail::fixed_vector<std::uint16_t, 8>;
    using i16x8 = detail::fixed_vector<std::int16_t, 8>;
    using u32x4 = detail::fixed_vector<std::uint32_t, 4>;
    using i32x4 = detail::fixed_vector<std::int32_t, 4>;
    using f32x4 = detail::fixed_vector<float, 4>;

public:
    struct f32 {
        float v[8];
    };
    struct i32 {
        i32x4 low, high;
    };
    struct bytes {
        u8x16 low, high;
    };
    struct words {
        i16x8 low, high;
    };
    using sums = i32;

    // ---- fp32 lanes
    // ---------------------------------------------------------------------------------------------------

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
    // As many doubles as there are lanes.
    static NIBBLE_INLINE void store_wide(double* to, const f32& a) noexcept {
        for (int i = 0; i < 8; ++i) to[i] = static_cast<double>(a.v[i]);
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
    [[nodiscard]] static NIBBLE_INLINE f32 select_less(const f32& a, const f32& b, const f32& x,
                                                       const f32& y) noexcept {
        f32 r;
        for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i];
        return r;
    }
    [[nodiscard]] static NIBBLE_INLINE f32 absolute(const f32& a) noexcept {
        return each(a, a, [](float x, float) { return detail::abs_of(x); });
    }
    // |a| with the sign bit of b.
    // a0 a0 a2 a2 ... and a1 a1 a3 a3 ...
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_even(const f32& a) noexcept {
        return {{a.v[0], a.v[0], a.v[2], a.v[2], a.v[4], a.v[4], a.v[6], a.v[6]}};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 duplicate_odd(const f32& a) noexcept {
        return {{a.v[1], a.v[1], a.v[3], a.v[3], a.v[5], a.v[5], a.v[7], a.v[7]}};
    }
    [[nodiscard]] static NIBBLE_INLINE f32 copy_sign(const f32& a, const f32& b) noexcept {
        return each(a, b, [](float x, float y) {
            return detail::bit_cast<float>((detail::bit_cast<std::uint32_t>(x) & 0x7fffffffu) |
                                           (detail::bit_cast<std::uint32_t>(y) & 0x80000000u));
        });
    }
    [[nodiscard]] static NIBBLE_INLINE f32 round(const f32& a) noexcept {
        return each(a, a, [](float x, float) { return detail::round_even(x); });
    }
    // Rounded to the nearest integer, ties to even, as 8 bytes. Values beyond -127 ... 127 and NaN give bytes that mean
    // nothing.
    static NIBBLE_INLINE void store_rounded(std::int8_t* to, const f32& a) noexcept {
        const f32 r = round(a);
        for (int i = 0; i < 8; ++i) {
            float v = r.v[i] > -127.0f ? r.v[i] : -127.0f; // NaN too
            v = v < 127.0f ? v : 127.0f;
            to[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(v));
        }
    }
    // 2^n of an integral n in [-126, 127].
    [[nodiscard]] static NIBBLE_INLINE f32 exp2i(const f32& n) noexcept {
        return each(n, n, [](float x, float) {
            const float n_or_zero = x == x ? x : 0.0f; // NaN has no integer; what it is multiplied by is NaN already
            return detail::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n_or_zero) + 127)
                                           << 23);
        });
    }

    // The power of two at or below |a|, as bits: |a| without its mantissa; 0 for subnormals, infinity for NaN.
    [[nodiscard]] static NIBBLE_INLINE f32 power_below(const f32& a) noexcept {
        return each(a, a, [](float x, float) {
            return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(x) & 0x7f800000u);
        });
    }
    // Of an ascending list of 16 values the one with as many before it as there are thresholds below a; the first for
    // NaN. The 15 thresholds do not descend.
    [[nodiscard]] static NIBBLE_INLINE f32 value_between(const detail::table<float, 16>& values,
                                                         const detail::table<float, 16>& thresholds,
                                                         const f32& a) noexcept {
        f32 r = broadcast(values.at[0]);
        for (std::size_t i = 0; i < 15; ++i)
            r = select_less(broadcast(thresholds.at[i]), a, broadcast(values.at[i + 1]), r);
        return r;
    }

    // Makes a value opaque to the optimiser.
    static NIBBLE_INLINE void keep(f32& a) noexcept { __asm__("" : "+m"(a)); }

    // ---- integer products
    // -----------------------------------------------------------------------------------------------

    [[nodiscard]] static NIBBLE_INLINE bytes load_bytes(const std::uint8_t* from) noexcept {
        bytes r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store_bytes(std::uint8_t* to, const bytes& a) noexcept {
        __builtin_memcpy(to, &a, sizeof a);
    }
    // The low (high) 4 bits of each of 32 bytes.
    [[nodiscard]] static NIBBLE_INLINE bytes low_nibbles(const bytes& a) noexcept { return field<0, 15>(a); }
    [[nodiscard]] static NIBBLE_INLINE bytes high_nibbles(const bytes& a) noexcept { return field<4, 15>(a); }
    // (byte >> Shift) & Mask; Mask has at most 8 - Shift bits.
    template <int Shift, int Mask> [[nodiscard]] static NIBBLE_INLINE bytes field(const bytes& a) noexcept {
        return {a.low >> Shift & static_cast<std::uint8_t>(Mask), a.high >> Shift & static_cast<std::uint8_t>(Mask)};
    }
    // a | b << Shift, where no bit of b is shifted out.
    template <int Shift> [[nodiscard]] static NIBBLE_INLINE bytes join(const bytes& a, const bytes& b) noexcept {
        return {a.low | b.low << Shift, a.high | b.high << Shift};
    }
    // table[a] of a table with Size entries (a power of two), a below Size.
    template <std::size_t Size>
    [[nodiscard]] static NIBBLE_INLINE bytes lookup(const detail::table<std::uint8_t, Size>& table,
                                                    const bytes& a) noexcept {
        std::uint8_t r[32];
        __builtin_memcpy(r, &a, sizeof r);
#pragma GCC unroll 1
        for (std::uint8_t& x : r) x = table.at[x];
        return load_bytes(r);
    }
    // Four bytes to every row.
    [[nodiscard]] static NIBBLE_INLINE bytes broadcast4(const std::int8_t* from) noexcept {
        const u8x16 a = detail::bit_cast<u8x16>(four_bytes(from));
        return {a, a};
    }
    // Sums that start at -center x (the sum of the activations to come), given as two int16 in one int32: the sum over
    // columns 0 and 1 of each quad in the lower half, 2 and 3 in the upper.
    [[nodiscard]] static NIBBLE_INLINE sums dot_start(const std::int32_t* pair, int center) noexcept {
        return pairs_start(pair, center);
    }
    // Per row: sum += unsigned codes . signed activations, over 4 columns.
    [[nodiscard]] static NIBBLE_INLINE sums dot(const sums& s, const bytes& codes, const bytes& activations) noexcept {
        return add_quads(s, codes, activations);
    }
    [[nodiscard]] static NIBBLE_INLINE i32 dot_finish(const sums& s) noexcept { return s; }
    // Keeps the compiler from re-associating sums across quads; nothing here.
    static NIBBLE_INLINE void pin(sums&) noexcept {}

    // The same start of sums that are in int32 on every machine.
    [[nodiscard]] static NIBBLE_INLINE i32 pairs_start(const std::int32_t* pair, int center) noexcept {
        const std::int32_t total = static_cast<std::int16_t>(*pair) + static_cast<std::int16_t>(*pair >> 16);
        const i32x4 a = i32x4{} + -center * total;
        return {a, a};
    }
    // The same as dot in int32 on every machine, where two products fit in int16.
    [[nodiscard]] static NIBBLE_INLINE i32 add_quads(const i32& total, const bytes& codes,
                                                     const bytes& activations) noexcept {
        return {total.low + dot_half(codes.low, activations.low), total.high + dot_half(codes.high, activations.high)};
    }
    // Unsigned bytes b0 b1 b2 b3 of each row as int16: b0 b2, and b1 b3.
    [[nodiscard]] static NIBBLE_INLINE words even_words(const bytes& a) noexcept {
        return {unsigned_even(a.low), unsigned_even(a.high)};
    }
    [[nodiscard]] static NIBBLE_INLINE words odd_words(const bytes& a) noexcept {
        return {unsigned_odd(a.low), unsigned_odd(a.high)};
    }
    // Two int16, wherever they are stored, to every row.
    [[nodiscard]] static NIBBLE_INLINE words broadcast2(const void* from) noexcept {
        const i16x8 a = detail::bit_cast<i16x8>(four_bytes(from));
        return {a, a};
    }
    [[nodiscard]] static NIBBLE_INLINE words load_words(const void* from) noexcept {
        words r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store_words(std::int16_t* to, const words& a) noexcept {
        __builtin_memcpy(to, &a, sizeof a);
    }
    // Per row: a[0] x b[0] + a[1] x b[1].
    [[nodiscard]] static NIBBLE_INLINE i32 multiply_pairs(const words& a, const words& b) noexcept {
        return {even(a.low) * even(b.low) + odd(a.low) * odd(b.low),
                even(a.high) * even(b.high) + odd(a.high) * odd(b.high)};
    }
    // sums + multiply_pairs(a, b), and total + dot_finish(s): one instruction on some machines.
    [[nodiscard]] static NIBBLE_INLINE i32 add_pairs(const i32& sums, const words& a, const words& b) noexcept {
        return add(sums, multiply_pairs(a, b));
    }
    [[nodiscard]] static NIBBLE_INLINE i32 add_finished(const i32& total, const sums& s) noexcept {
        return add(total, s);
    }
    // Four bytes of each row as one int32 lane, column 0 in the lowest byte.
    [[nodiscard]] static NIBBLE_INLINE i32 as_i32(const bytes& a) noexcept { return detail::bit_cast<i32>(a); }
    [[nodiscard]] static NIBBLE_INLINE i32 zeros() noexcept { return i32{}; }
    [[nodiscard]] static NIBBLE_INLINE i32 add(const i32& a, const i32& b) noexcept {
        return {a.low + b.low, a.high + b.high};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 subtract(const i32& a, const i32& b) noexcept {
        return {a.low - b.low, a.high - b.high};
    }
    [[nodiscard]] static NIBBLE_INLINE i32 load(const std::int32_t* from) noexcept {
        i32 r;
        __builtin_memcpy(&r, from, sizeof r);
        return r;
    }
    static NIBBLE_INLINE void store(std::int32_t* to, const i32& a) noexcept { __builtin_memcpy(to, &a, sizeof a); }
    [[nodiscard]] static NIBBLE_INLINE f32 to_float(const i32& a) noexcept {
        const f32x4 both[2] = {__builtin_convertvector(a.low, f32x4), __builtin_convertvector(a.high, f32x4)};
        return detail::bit_cast<f32>(both);
    }

    // ---- codes to fp32
    // --------------------------------------------------------------------------------------------------

    // The values of 8 codes, one per int32 lane in bits Shift ... Shift + bits - 1; other bits are ignored. NaN codes
    // of elements with detail::marks_nan may come out as numbers.
    template <element E, int Shift = 0> [[nodiscard]] static NIBBLE_INLINE f32 decode(const i32& codes) noexcept {
        f32 r;
        std::uint32_t v[8];
        __builtin_memcpy(v, &codes, sizeof v);
        for (int i = 0; i < 8; ++i) {
            const std::uint32_t c = (v[i] >> Shift) & code_mask<E>;
            if constexpr (E::bits <= 8)
                r.v[i] = decode_table<E>.at[c];
            else
                r.v[i] = E::decode(static_cast<typename E::code>(c));
        }
        return r;
    }
    // The values of 8 consecutive stored codes.
    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_stored(const typename E::code* from) noexcept {
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
    template <element E> [[nodiscard]] static NIBBLE_INLINE f32 decode_exact(const typename E::code* from) noexcept {
        return decode_stored<E>(from);
    }

    // 8 values to consecutive codes of a 16-bit element, each rounded once; beyond the largest: infinity.
    template <element E> static NIBBLE_INLINE void encode_stored(typename E::code* to, const f32& a) noexcept {
        for (int i = 0; i < 8; ++i) to[i] = E::template encode<rounding::nearest_even, overflow::special>(a.v[i]);
    }

    static NIBBLE_INLINE void prefetch(const void* at) noexcept { __builtin_prefetch(at); }
    static NIBBLE_INLINE void prefetch_second_level(const void* at) noexcept { __builtin_prefetch(at, 0, 2); }

protected:
    template <element E>
    static constexpr std::uint32_t code_mask = E::bits >= 32 ? 0xffffffffu : (1u << (E::bits % 32)) - 1u;

private:
    [[nodiscard]] static NIBBLE_INLINE u32x4 four_bytes(const void* from) noexcept {
        std::uint32_t a;
        __builtin_memcpy(&a, from, sizeof a);
        return u32x4{} + a;
    }
    // The signed bytes at even (odd) places as int16, and the int16 as int32.
    [[nodiscard]] static NIBBLE_INLINE i16x8 even(const u8x16& a) noexcept {
        return detail::bit_cast<i16x8>(detail::bit_cast<u16x8>(a) << 8) >> 8;
    }
    [[nodiscard]] static NIBBLE_INLINE i16x8 odd(const u8x16& a) noexcept { return detail::bit_cast<i16x8>(a) >> 8; }
    [[nodiscard]] static NIBBLE_INLINE i16x8 unsigned_even(const u8x16& a) noexcept {
        return detail::bit_cast<i16x8>(detail::bit_cast<u16x8>(a) & std::uint16_t{0xff});
    }
    [[nodiscard]] static NIBBLE_INLINE i16x8 unsigned_odd(const u8x16& a) noexcept {
        return detail::bit_cast<i16x8>(detail::bit_cast<u16x8>(a) >> 8);
    }
    [[nodiscard]] static NIBBLE_INLINE i32x4 even(const i16x8& a) noexcept {
        return detail::bit_cast<i32x4>(detail::bit_cast<u32x4>(a) << 16) >> 16;
    }
    [[nodiscard]] static NIBBLE_INLINE i32x4 odd(const i16x8& a) noexcept { return detail::bit_cast<i32x4>(a) >> 16; }
    // Unsigned codes times signed activations, four columns a row; 255 x -128 fits in 16 bits.
    [[nodiscard]] static NIBBLE_INLINE i32x4 dot_half(const u8x16& codes, const u8x16& activations) noexcept {
        const i16x8 a = unsigned_even(codes) * even(activations);
        const i16x8 b = unsigned_odd(codes) * odd(activations);
        return even(a) + odd(a) + (even(b) + odd(b));
    }
};

static_assert(whole_isa<generic>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
