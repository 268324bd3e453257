// primitives.cpp: every primitive of every ISA gives generic's bits, and generic's are what isa.hpp and generic.hpp
// say.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/element/codebook.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/scheme/formats.hpp>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

// Ordinary numbers, and all kinds of others in every pairing.
std::vector<float> operands() {
    std::vector<float> v;
    for (const std::uint32_t word :
         {0x00000000u, 0x80000000u, 0x00000001u, 0x80000001u, 0x007fffffu, 0x00800000u, 0x3f800000u,
          0xbf800000u, 0x3f000000u, 0xbf000000u, 0x3fc00000u, 0x40200000u, 0x4b000001u, 0xcb000001u,
          0x7f7fffffu, 0xff7fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00001u})
        v.push_back(std::bit_cast<float>(word));
    number_source from(61);
    for (int i = 0; i < 44; ++i)
        v.push_back(i % 2 == 0 ? from.bell() * 100.0f : std::bit_cast<float>(static_cast<std::uint32_t>(from.bits())));
    return v; // 64: a multiple of the width
}

template <class I> std::vector<float> values(const typename I::f32& a) {
    std::vector<float> v(8);
    I::store(v.data(), a);
    return v;
}
template <class I> std::vector<std::int32_t> values(const typename I::i32& a) {
    std::vector<std::int32_t> v(8);
    I::store(v.data(), a);
    return v;
}
template <class I> std::vector<std::uint8_t> values(const typename I::bytes& a) {
    std::vector<std::uint8_t> v(32);
    I::store_bytes(v.data(), a);
    return v;
}

// f on 8 lanes against g on each value, over all pairs of operands.
template <class I, class OnLanes, class OnValues> bool as_scalar(const OnLanes& on_lanes, const OnValues& on_values) {
    const std::vector<float> v = operands();
    for (std::size_t i = 0; i < v.size(); i += 8)
        for (std::size_t shift = 0; shift < v.size(); ++shift) {
            std::vector<float> b;
            for (std::size_t j = 0; j < 8; ++j) b.push_back(v[(i + j + shift) % v.size()]);
            const std::vector<float> got = values<I>(on_lanes(I::load(v.data() + i), I::load(b.data())));
            for (std::size_t j = 0; j < 8; ++j)
                if (!same_bits(got[j], on_values(v[i + j], b[j]))) {
                    UNSCOPED_INFO(I::name << ": " << v[i + j] << ", " << b[j] << " gave " << got[j] << ", not "
                                          << on_values(v[i + j], b[j]));
                    return false;
                }
        }
    return true;
}

// Values that the optimiser cannot know, so that the scalar side is computed by the machine.
float opaque(float x) {
    volatile float v = x;
    return v;
}

// A list of `known` values, the last repeated behind thresholds that nothing is above.
struct ascending_list {
    nb::detail::table<float, 16> values{};
    nb::detail::table<float, 16> thresholds{};
    explicit ascending_list(std::size_t known) {
        for (std::size_t i = 0; i < 16; ++i) {
            values.at[i] = static_cast<float>(i < known ? i * i : (known - 1) * (known - 1)) - 60.0f;
            thresholds.at[i] = i + 1 < known ? values.at[i] + static_cast<float>(i) + 0.5f : INFINITY;
        }
    }
    // What a lane of it must be.
    [[nodiscard]] float between(float a) const {
        std::size_t below = 0;
        for (std::size_t i = 0; i < 15; ++i) below += thresholds.at[i] < a ? 1u : 0u;
        return values.at[below];
    }
};
// On ordinary numbers, and at and beside each threshold.
template <class I> bool finds_values_between(std::size_t known) {
    const ascending_list list(known);
    std::vector<float> v = operands();
    for (const float t : list.thresholds.at) {
        v.push_back(t);
        v.push_back(std::nextafter(t, -INFINITY));
        v.push_back(std::nextafter(t, INFINITY));
    }
    for (std::size_t i = 0; i + I::width <= v.size(); i += I::width) {
        std::vector<float> got(I::width);
        I::store(got.data(), I::value_between(list.values, list.thresholds, I::load(v.data() + i)));
        for (std::size_t j = 0; j < I::width; ++j)
            if (!same_bits(got[j], list.between(v[i + j]))) {
                UNSCOPED_INFO(I::name << ": " << v[i + j] << " gave " << got[j]);
                return false;
            }
    }
    return true;
}

template <class I> void check_float_primitives() {
    using f32 = typename I::f32;
    INFO(I::name);
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::add(a, b); }, [](float a, float b) { return opaque(a) + b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::subtract(a, b); }, [](float a, float b) { return opaque(a) - b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::multiply(a, b); }, [](float a, float b) { return opaque(a) * b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::divide(a, b); }, [](float a, float b) { return opaque(a) / b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::smaller(a, b); }, [](float a, float b) { return a < b ? a : b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::larger(a, b); }, [](float a, float b) { return a > b ? a : b; }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::fma(a, b, I::broadcast(1.0f)); },
                       [](float a, float b) { return std::fma(a, b, 1.0f); }));
    CHECK(
        as_scalar<I>([](f32 a, f32 b) { return I::fma(a, a, b); }, [](float a, float b) { return std::fma(a, a, b); }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::select_less(a, b, I::broadcast(2.0f), b); },
                       [](float a, float b) { return a < b ? 2.0f : b; }));
    CHECK(as_scalar<I>([](f32 a, f32) { return I::absolute(a); }, [](float a, float) { return std::fabs(a); }));
    CHECK(as_scalar<I>([](f32 a, f32 b) { return I::copy_sign(a, b); },
                       [](float a, float b) { return std::copysign(a, b); }));
    CHECK(as_scalar<I>([](f32 a, f32) { return I::round(a); }, [](float a, float) { return std::nearbyint(a); }));
    CHECK(as_scalar<I>([](f32 a, f32) { return I::power_below(a); },
                       [](float a, float) {
                           return std::isfinite(a) && std::fabs(a) >= 0x1p-126f ? std::ldexp(1.0f, std::ilogb(a))
                                  : std::isfinite(a)                            ? 0.0f
                                                                                : INFINITY;
                       }));
    float lanes[16], even[16], odd[16];
    for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(i + 1);
    I::store(even, I::duplicate_even(I::load(lanes)));
    I::store(odd, I::duplicate_odd(I::load(lanes)));
    for (std::size_t i = 0; i < I::width; ++i) CHECK((even[i] == lanes[i & ~1u] && odd[i] == lanes[i | 1u]));
    for (const std::size_t known : {2u, 3u, 8u, 11u, 16u}) CHECK(finds_values_between<I>(known));
    double wide[8];
    for (const std::size_t at : {0u, 8u, 16u, 32u}) {
        const std::vector<float> v = operands();
        I::store_wide(wide, I::load(v.data() + at));
        for (std::size_t i = 0; i < 8; ++i) CHECK(same_bits(static_cast<float>(wide[i]), v[at + i]));
    }
    // Signs of NaN and zero are bits too.
    const float signs[8] = {0.0f, -0.0f, 1.0f, -1.0f, std::nanf(""), -std::nanf(""), 2.0f, -2.0f};
    std::vector<float> kept = values<I>(I::load(signs));
    CHECK(std::memcmp(kept.data(), signs, sizeof signs) == 0);
    for (int n = -126; n <= 127; ++n)
        CHECK(values<I>(I::exp2i(I::broadcast(static_cast<float>(n))))[static_cast<std::size_t>(n + 126) % 8] ==
              std::ldexp(1.0f, n));
    // Parts of vectors: nothing else is read or written.
    for (std::size_t count = 0; count <= 8; ++count) {
        std::vector<float> from(count, 3.0f);
        const std::vector<float> got = values<I>(I::load_some(from.data(), count));
        std::vector<float> to(8, 7.0f);
        I::store_some(to.data(), I::broadcast(5.0f), count);
        for (std::size_t i = 0; i < 8; ++i) {
            CHECK(got[i] == (i < count ? 3.0f : 0.0f));
            CHECK(to[i] == (i < count ? 5.0f : 7.0f));
        }
    }
}

template <class I, std::size_t Size> bool looks_up(const std::uint8_t* random) {
    nb::detail::table<std::uint8_t, Size> table{};
    for (std::size_t i = 0; i < Size; ++i) table.at[i] = static_cast<std::uint8_t>(7 * i + 3);
    std::uint8_t codes[32];
    bool all = true;
    for (std::size_t base = 0; base < Size; ++base) {
        for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>((base + random[i]) % Size);
        const std::vector<std::uint8_t> got = values<I>(I::template lookup<Size>(table, I::load_bytes(codes)));
        for (std::size_t i = 0; i < 32; ++i) all = all && got[i] == table.at[codes[i]];
    }
    return all;
}

template <class I, int Shift, int Mask> bool takes_field(const std::uint8_t* b) {
    const std::vector<std::uint8_t> got = values<I>(I::template field<Shift, Mask>(I::load_bytes(b)));
    bool all = true;
    for (std::size_t i = 0; i < 32; ++i) all = all && got[i] == ((b[i] >> Shift) & Mask);
    return all;
}

template <class I, int Shift> bool joins(const std::uint8_t* b) {
    std::uint8_t low[32];
    std::uint8_t high[32];
    for (std::size_t i = 0; i < 32; ++i) {
        low[i] = static_cast<std::uint8_t>(b[i] & ((1u << Shift) - 1u));
        high[i] = static_cast<std::uint8_t>(b[31 - i] & ((1u << (8 - Shift)) - 1u));
    }
    const std::vector<std::uint8_t> got = values<I>(I::template join<Shift>(I::load_bytes(low), I::load_bytes(high)));
    bool all = true;
    for (std::size_t i = 0; i < 32; ++i) all = all && got[i] == (low[i] | (high[i] << Shift));
    return all;
}

template <class I> void check_integer_primitives() {
    INFO(I::name);
    number_source from(62);
    bool bytes_right = true;
    bool dots_right = true;
    bool words_right = true;
    for (int round = 0; round < 200; ++round) {
        std::uint8_t b[32];
        for (std::uint8_t& x : b)
            x = static_cast<std::uint8_t>(round % 3 == 0 ? (from.below(2) == 0 ? 0x80 : 0x7f) : from.bits());
        const typename I::bytes v = I::load_bytes(b);
        bytes_right = bytes_right && std::memcmp(values<I>(v).data(), b, 32) == 0;
        bytes_right = bytes_right && takes_field<I, 0, 15>(b) && takes_field<I, 4, 15>(b) && takes_field<I, 2, 3>(b) &&
                      takes_field<I, 6, 3>(b) && takes_field<I, 7, 1>(b) && takes_field<I, 3, 1>(b);
        bytes_right = bytes_right && joins<I, 2>(b) && joins<I, 4>(b) && joins<I, 6>(b);
        const std::vector<std::uint8_t> low = values<I>(I::low_nibbles(v));
        const std::vector<std::uint8_t> high = values<I>(I::high_nibbles(v));
        for (std::size_t i = 0; i < 32; ++i) bytes_right = bytes_right && low[i] == b[i] % 16 && high[i] == b[i] / 16;
        bytes_right = bytes_right && looks_up<I, 2>(b) && looks_up<I, 4>(b) && looks_up<I, 8>(b) &&
                      looks_up<I, 16>(b) && looks_up<I, 32>(b) && looks_up<I, 64>(b) && looks_up<I, 128>(b) &&
                      looks_up<I, 256>(b);

        // A chain of two dots from a start value: codes of up to 127, as elements are promised to be.
        std::uint8_t codes[2][32];
        std::int8_t a[2][4];
        const int center = static_cast<int>(from.below(65));
        for (auto& c : codes)
            for (std::uint8_t& x : c)
                x = static_cast<std::uint8_t>(round % 3 == 0 ? 127 * from.below(2) : from.below(128));
        for (auto& c : a)
            for (std::int8_t& x : c)
                x = static_cast<std::int8_t>(round % 3 == 0 ? (from.below(2) == 0 ? 127 : -127)
                                                            : static_cast<int>(from.below(255)) - 127);
        // Only sums that fit in int16 are promised: bound them as narrow_depth does, by the magnitude about the centre.
        for (auto& c : codes)
            for (std::uint8_t& x : c) {
                const int magnitude = 64;
                if (x > center + magnitude) x = static_cast<std::uint8_t>(center + magnitude);
                if (x > 127) x = 127;
                if (x < center - magnitude) x = static_cast<std::uint8_t>(center - magnitude);
            }
        std::int32_t pair = 0;
        {
            int lower = 0;
            int upper = 0;
            for (const auto& c : a) {
                lower += c[0] + c[1];
                upper += c[2] + c[3];
            }
            pair = static_cast<std::int32_t>(static_cast<std::uint16_t>(lower) |
                                             (static_cast<std::uint32_t>(static_cast<std::uint16_t>(upper)) << 16));
        }
        typename I::sums s = I::dot_start(&pair, center);
        I::pin(s);
        for (int q = 0; q < 2; ++q) s = I::dot(s, I::load_bytes(codes[q]), I::broadcast4(a[q]));
        const std::vector<std::int32_t> dots = values<I>(I::dot_finish(s));
        for (std::size_t r = 0; r < 8; ++r) {
            std::int32_t want = 0;
            for (int q = 0; q < 2; ++q)
                for (std::size_t j = 0; j < 4; ++j) want += (codes[q][4 * r + j] - center) * a[q][j];
            dots_right = dots_right && dots[r] == want;
        }

        // Any codes at all, and activations of which two products fit in int16.
        std::int8_t small[4];
        for (std::int8_t& x : small)
            x = static_cast<std::int8_t>(round % 3 == 0 ? (from.below(2) == 0 ? 64 : -64)
                                                        : static_cast<int>(from.below(129)) - 64);
        std::uint8_t any[32];
        for (std::uint8_t& x : any) x = static_cast<std::uint8_t>(round % 3 == 0 ? 255 * from.below(2) : from.bits());
        const std::int32_t small_pair = static_cast<std::int32_t>(
            static_cast<std::uint16_t>(small[0] + small[1]) |
            (static_cast<std::uint32_t>(static_cast<std::uint16_t>(small[2] + small[3])) << 16));
        const std::vector<std::int32_t> quads =
            values<I>(I::add_quads(I::pairs_start(&small_pair, 128), I::load_bytes(any), I::broadcast4(small)));
        for (std::size_t r = 0; r < 8; ++r) {
            std::int32_t want = 0;
            for (std::size_t j = 0; j < 4; ++j) want += (any[4 * r + j] - 128) * small[j];
            dots_right = dots_right && quads[r] == want;
        }

        // Products of int16 pairs, and the words they are made of.
        std::int16_t two[2] = {static_cast<std::int16_t>(from.bits()), static_cast<std::int16_t>(from.bits())};
        if (two[0] == -32768) two[0] = 0;
        const std::vector<std::int32_t> even = values<I>(I::multiply_pairs(I::even_words(v), I::broadcast2(two)));
        const std::vector<std::int32_t> odd = values<I>(I::multiply_pairs(I::odd_words(v), I::broadcast2(two)));
        const auto lane = [&](std::size_t i) { return static_cast<std::int32_t>(b[i]); };
        std::int32_t words[8];
        std::memcpy(words, b, 32);
        const std::vector<std::int32_t> loaded = values<I>(I::multiply_pairs(I::load_words(words), I::broadcast2(two)));
        std::int16_t stored[16];
        I::store_words(stored, I::load_words(words));
        words_right = words_right && std::memcmp(stored, words, sizeof stored) == 0;
        const std::vector<std::int32_t> plain = values<I>(I::as_i32(v));
        const std::vector<std::int32_t> sum = values<I>(I::add(I::load(words), I::zeros()));
        const std::vector<float> floats = values<I>(I::to_float(I::load(words)));
        for (std::size_t r = 0; r < 8; ++r) {
            words_right = words_right && even[r] == lane(4 * r) * two[0] + lane(4 * r + 2) * two[1];
            words_right = words_right && odd[r] == lane(4 * r + 1) * two[0] + lane(4 * r + 3) * two[1];
            const std::int64_t l = static_cast<std::int16_t>(words[r]);
            const std::int64_t h = static_cast<std::int16_t>(words[r] >> 16);
            words_right = words_right && loaded[r] == static_cast<std::int32_t>(l * two[0] + h * two[1]);
            words_right = words_right && plain[r] == words[r] && sum[r] == words[r];
            words_right = words_right && floats[r] == static_cast<float>(words[r]);
        }
    }
    CHECK(bytes_right);
    CHECK(dots_right);
    CHECK(words_right);
}

// How one ISA decodes one element, behind plain functions: the comparison below is then compiled once.
struct decoder {
    int bits;
    bool marks_nan; // documented: such NaN codes may come out as numbers, pack marks their rows
    float (*scalar)(std::uint32_t code);
    void (*stored)(const std::uint32_t* codes, float* to);         // 8 codes
    void (*lanes)(const std::int32_t (*words)[8], float (*to)[8]); // 8 lanes for each of the shifts 0, 8, 16, 24
};

template <class I, class E>
constexpr decoder decoder_of{E::bits, nb::detail::marks_nan<E>,
                             [](std::uint32_t code) { return E::decode(static_cast<typename E::code>(code)); },
                             [](const std::uint32_t* codes, float* to) {
                                 typename E::code own[8];
                                 for (int i = 0; i < 8; ++i) own[i] = static_cast<typename E::code>(codes[i]);
                                 I::store(to, I::template decode_stored<E>(own));
                             },
                             [](const std::int32_t (*words)[8], float (*to)[8]) {
                                 if constexpr (E::bits <= 8) {
                                     I::store(to[0], I::template decode<E, 0>(I::load(words[0])));
                                     I::store(to[1], I::template decode<E, 8>(I::load(words[1])));
                                     I::store(to[2], I::template decode<E, 16>(I::load(words[2])));
                                     I::store(to[3], I::template decode<E, 24>(I::load(words[3])));
                                 }
                             }};

// All codes of an element, at every position in a lane, with other codes around as a panel has them; "" if all is well.
std::string fault_of(const decoder& d) {
    const auto right = [&](float got, std::uint32_t code) {
        const float want = d.scalar(code);
        return same_bits(got, want) || (d.marks_nan && std::isnan(want));
    };
    const std::uint32_t count = d.bits >= 16 ? 65536 : 1u << d.bits;
    for (std::uint32_t base = 0; base < count; base += d.bits >= 16 ? 24 : 8) {
        std::uint32_t codes[8];
        for (std::uint32_t i = 0; i < 8; ++i) {
            const std::uint32_t c = (base + i) % count;
            codes[i] = d.bits == 32 ? c * 0x00010001u + 77u * c : c;
        }
        float got[4][8];
        d.stored(codes, got[0]);
        for (std::size_t i = 0; i < 8; ++i)
            if (!right(got[0][i], codes[i])) return "stored code " + std::to_string(codes[i]);
        if (d.bits > 8) continue;
        std::int32_t words[4][8];
        for (std::size_t s = 0; s < 4; ++s)
            for (std::size_t i = 0; i < 8; ++i) {
                std::uint32_t word = 0;
                for (std::size_t b = 0; b < 4; ++b) word |= codes[(i + (b == s ? 0 : b + 1)) % 8] << (8 * b);
                words[s][i] = static_cast<std::int32_t>(word);
            }
        d.lanes(words, got);
        for (std::size_t s = 0; s < 4; ++s)
            for (std::size_t i = 0; i < 8; ++i)
                if (!right(got[s][i], codes[i]))
                    return "lane code " + std::to_string(codes[i]) + " at byte " + std::to_string(s);
    }
    return {};
}

template <class I, class E> void check_decode(std::string_view what) {
    INFO(I::name << ", " << what);
    CHECK(fault_of(decoder_of<I, E>) == "");
}

template <class I, int E, int M> void check_minifloat() {
    using nb::float_format;
    using nb::minifloat;
    using nb::specials;
    std::vector<decoder> all{decoder_of<I, minifloat<float_format{.exponent = E, .mantissa = M}>>};
    if constexpr (E >= 1) {
        all.push_back(decoder_of<I, minifloat<float_format{.exponent = E, .mantissa = M, .specials = specials::ieee}>>);
        all.push_back(decoder_of<I, minifloat<float_format{.exponent = E, .mantissa = M, .specials = specials::fn}>>);
        all.push_back(decoder_of<I, minifloat<float_format{.exponent = E, .mantissa = M, .specials = specials::fnuz}>>);
    }
    if constexpr (E + M >= 2)
        all.push_back(decoder_of<I, minifloat<float_format{.exponent = E, .mantissa = M, .has_sign = false}>>);
    for (std::size_t i = 0; i < all.size(); ++i) {
        INFO(I::name << ", E" << E << "M" << M << ", kind " << i << " of none, ieee, fn, fnuz, unsigned");
        CHECK(fault_of(all[i]) == "");
    }
}

// ---- tiles of twice the width: every vector is two of generic's, rows 0 to 7 and rows 8 to 15
// ------------------------------

template <class W> constexpr bool is_wider = W::width == 2 * nb::generic::width;

template <class W> std::vector<float> wide_values(const typename W::f32& a) {
    std::vector<float> v(W::width);
    W::store(v.data(), a);
    return v;
}
template <class W> std::vector<std::int32_t> wide_values(const typename W::i32& a) {
    std::vector<std::int32_t> v(W::width);
    W::store(v.data(), a);
    return v;
}
template <class W> std::vector<std::uint8_t> wide_values(const typename W::bytes& a) {
    std::vector<std::uint8_t> v(4 * W::width);
    std::memcpy(v.data(), wide_values<W>(W::as_i32(a)).data(), v.size());
    return v;
}
template <class V> std::vector<V> joined(std::vector<V> low, const std::vector<V>& high) {
    low.insert(low.end(), high.begin(), high.end());
    return low;
}
[[maybe_unused]] bool all_same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    bool same = a.size() == b.size();
    for (std::size_t i = 0; i < a.size() && same; ++i) same = same_bits(a[i], b[i]);
    return same;
}

template <class W, class Operation> bool is_two_of_generic(const Operation& operation) {
    using G = nb::generic;
    const std::vector<float> a = operands();
    for (std::size_t shift = 0; shift < a.size(); ++shift) {
        std::vector<float> b;
        for (std::size_t i = 0; i < a.size(); ++i) b.push_back(a[(i + shift) % a.size()]);
        for (std::size_t i = 0; i < a.size(); i += W::width) {
            const auto half = [&](std::size_t at) {
                return values<G>(operation.template operator()<G>(G::load(a.data() + at), G::load(b.data() + at)));
            };
            if (!all_same_bits(
                    wide_values<W>(operation.template operator()<W>(W::load(a.data() + i), W::load(b.data() + i))),
                    joined(half(i), half(i + G::width))))
                return false;
        }
    }
    return true;
}

template <class W, int Low, int High, int Mask> bool takes_fields(const std::uint8_t* b) {
    const std::vector<std::uint8_t> got = wide_values<W>(W::template fields<Low, High, Mask>(b));
    bool all = true;
    for (std::size_t i = 0; i < 64; ++i) all = all && got[i] == ((b[i % 32] >> (i < 32 ? Low : High)) & Mask);
    return all;
}

template <class W, std::size_t Size> bool looks_up_widely(const std::uint8_t* random) {
    nb::detail::table<std::uint8_t, Size> table{};
    for (std::size_t i = 0; i < Size; ++i) table.at[i] = static_cast<std::uint8_t>(37 * i + 3);
    bool all = true;
    for (std::size_t base = 0; base < Size; ++base) {
        std::uint8_t codes[64];
        for (std::size_t i = 0; i < 64; ++i) codes[i] = static_cast<std::uint8_t>((base + random[i]) % Size);
        const std::vector<std::uint8_t> got = wide_values<W>(W::template lookup<Size>(table, W::load_bytes(codes)));
        for (std::size_t i = 0; i < 64; ++i) all = all && got[i] == table.at[codes[i]];
    }
    return all;
}

template <class W, int Shift> bool joins_widely(const std::uint8_t* b) {
    std::uint8_t low[64];
    std::uint8_t high[64];
    for (std::size_t i = 0; i < 64; ++i) {
        low[i] = static_cast<std::uint8_t>(b[i] & ((1u << Shift) - 1u));
        high[i] = static_cast<std::uint8_t>(b[63 - i] & ((1u << (8 - Shift)) - 1u));
    }
    const std::vector<std::uint8_t> got =
        wide_values<W>(W::template join<Shift>(W::load_bytes(low), W::load_bytes(high)));
    bool all = true;
    for (std::size_t i = 0; i < 64; ++i) all = all && got[i] == (low[i] | (high[i] << Shift));
    return all;
}

template <class W> void check_wide_integers() {
    using G = nb::generic;
    number_source from(63);
    bool bytes_right = true;
    bool dots_right = true;
    bool words_right = true;
    for (int round = 0; round < 100; ++round) {
        std::uint8_t b[64];
        for (std::uint8_t& x : b) x = static_cast<std::uint8_t>(from.bits());
        bytes_right = bytes_right && std::memcmp(wide_values<W>(W::load_bytes(b)).data(), b, 64) == 0;
        bytes_right = bytes_right && takes_fields<W, 0, 4, 15>(b) && takes_fields<W, 0, 2, 3>(b) &&
                      takes_fields<W, 4, 6, 3>(b) && takes_fields<W, 0, 1, 1>(b) && takes_fields<W, 6, 7, 1>(b);
        bytes_right = bytes_right && joins_widely<W, 2>(b) && joins_widely<W, 4>(b) && joins_widely<W, 6>(b);
        bytes_right = bytes_right && looks_up_widely<W, 2>(b) && looks_up_widely<W, 4>(b) && looks_up_widely<W, 8>(b) &&
                      looks_up_widely<W, 16>(b) && looks_up_widely<W, 32>(b) && looks_up_widely<W, 64>(b);

        // Unsigned bytes times signed ones, from a start value; the sums are those of integers without bounds.
        std::int8_t a[2][4];
        int lower = 0;
        int upper = 0;
        for (auto& quad : a) {
            for (std::int8_t& x : quad) x = static_cast<std::int8_t>(static_cast<int>(from.below(255)) - 127);
            lower += quad[0] + quad[1];
            upper += quad[2] + quad[3];
        }
        const int center = static_cast<int>(from.below(129));
        const auto pair = static_cast<std::int32_t>(
            static_cast<std::uint16_t>(lower) | (static_cast<std::uint32_t>(static_cast<std::uint16_t>(upper)) << 16));
        typename W::sums s = W::dot_start(&pair, center);
        W::pin(s);
        for (const auto& quad : a) s = W::dot(s, W::load_bytes(b), W::broadcast4(quad));
        std::int32_t earlier[16];
        for (std::int32_t& x : earlier) x = static_cast<std::int32_t>(from.bits()) >> 8;
        const std::vector<std::int32_t> dots = wide_values<W>(W::dot_finish(s));
        const std::vector<std::int32_t> sums = wide_values<W>(W::add_finished(W::load(earlier), s));
        for (std::size_t r = 0; r < 16; ++r) {
            std::int32_t want = 0;
            for (const auto& quad : a)
                for (std::size_t j = 0; j < 4; ++j) want += (b[4 * r + j] - center) * quad[j];
            dots_right = dots_right && dots[r] == want && sums[r] == want + earlier[r];
        }

        // Pairs of int16, and int32 to fp32.
        std::int16_t two[2] = {static_cast<std::int16_t>(from.bits()), static_cast<std::int16_t>(from.bits())};
        if (two[0] == -32768) two[0] = 0;
        std::int32_t words[16];
        std::memcpy(words, b, 64);
        const auto half = [&](std::size_t at) {
            return values<G>(G::add_pairs(G::load(earlier + at), G::load_words(words + at), G::broadcast2(two)));
        };
        words_right = words_right && wide_values<W>(W::add_pairs(W::load(earlier), W::load_words(words),
                                                                 W::broadcast2(two))) == joined(half(0), half(8));
        const std::vector<float> floats = wide_values<W>(W::to_float(W::add(W::load(words), W::zeros())));
        for (std::size_t r = 0; r < 16; ++r) words_right = words_right && floats[r] == static_cast<float>(words[r]);
    }
    CHECK(bytes_right);
    CHECK(dots_right);
    CHECK(words_right);
}

// Every code at every place of a lane, with all bits set or random around it; NaN codes may be left to pack's marks.
template <class W, class E> bool decodes_widely() {
    bool all = true;
    const auto right = [](float got, std::uint32_t code) {
        const float want = E::decode(static_cast<typename E::code>(code));
        return same_bits(got, want) || (nb::detail::marks_nan<E> && std::isnan(want));
    };
    if constexpr (E::bits > 8) {
        for (std::uint32_t base = 0; base < 65536; base += 16) {
            typename E::code codes[16];
            for (std::uint32_t i = 0; i < 16; ++i)
                codes[i] =
                    static_cast<typename E::code>(E::bits == 32 ? (base + i) * 0x00010001u + 77u * base : base + i);
            const std::vector<float> got = wide_values<W>(W::template decode_stored<E>(codes));
            for (std::size_t i = 0; i < 16; ++i) all = all && right(got[i], codes[i]);
        }
    } else {
        constexpr std::uint32_t count = 1u << E::bits;
        for (std::uint32_t base = 0; base < count; ++base) {
            std::uint8_t lanes[64];
            for (std::uint32_t i = 0; i < 64; ++i)
                lanes[i] = static_cast<std::uint8_t>(base % 2 == 0           ? (base + 7 * i) % count
                                                     : i % 4 == base / 2 % 4 ? base
                                                                             : count - 1);
            std::int32_t words[16];
            std::memcpy(words, lanes, 64);
            const auto check = [&]<int Shift>() {
                const std::vector<float> got = wide_values<W>(W::template decode<E, Shift>(W::load(words)));
                for (std::size_t i = 0; i < 16; ++i) all = all && right(got[i], lanes[4 * i + Shift / 8]);
            };
            check.template operator()<0>();
            check.template operator()<8>();
            check.template operator()<16>();
            check.template operator()<24>();
        }
    }
    return all;
}

// The codes of a scale, side by side; how many scales those are.
template <class W, class E> void check_wide_stored(std::string_view what, int& decoded) {
    if constexpr (E::bits <= 8 && requires(const typename E::code* codes) {
                      { W::template decode_stored<E>(codes) } -> std::same_as<typename W::f32>;
                  }) {
        INFO(what);
        constexpr std::uint32_t count = 1u << E::bits;
        bool all = true;
        for (std::uint32_t base = 0; base < count; ++base) {
            typename E::code codes[16];
            for (std::uint32_t i = 0; i < 16; ++i) codes[i] = static_cast<typename E::code>((base + 7 * i) % count);
            const std::vector<float> got = wide_values<W>(W::template decode_stored<E>(codes));
            for (std::size_t i = 0; i < 16; ++i) {
                const float want = E::decode(codes[i]);
                all = all && (same_bits(got[i], want) || (nb::detail::marks_nan<E> && std::isnan(want)));
            }
        }
        CHECK(all);
        ++decoded;
    }
}

// An element that the tiles decode; how many those are.
template <class W, class E> void check_wide_decode(std::string_view what, int& decoded) {
    if constexpr (W::template decodes<E>) {
        INFO(what);
        CHECK(decodes_widely<W, E>());
        ++decoded;
    }
}

struct primes {
    static constexpr float levels[37] = {-37.5f, -31.25f, -29.0f, -23.0f, -19.0f, -17.0f, -13.0f, -11.0f, -7.0f, -5.0f,
                                         -3.0f,  -2.0f,   -1.5f,  -0.5f,  0.0f,   0.25f,  0.75f,  1.0f,   2.5f,  3.5f,
                                         5.5f,   7.25f,   11.0f,  13.0f,  17.0f,  19.0f,  23.0f,  29.0f,  31.0f, 37.0f,
                                         41.0f,  43.0f,   47.0f,  53.0f,  59.0f,  61.0f,  1e6f};
};

} // namespace

TEST_CASE("fp32 primitives are IEEE's, on every ISA") {
    nb::for_each_isa(nb::compiled_isas{}, []<class I>() { check_float_primitives<I>(); });
}

TEST_CASE("integer primitives are exact, on every ISA") {
    nb::for_each_isa(nb::compiled_isas{}, []<class I>() { check_integer_primitives<I>(); });
}

TEST_CASE("codes decode to the same fp32 lanes, on every ISA") {
    nb::for_each_isa(nb::compiled_isas{}, []<class I>() {
        // Elements and scales of the list.
        nb::for_each_format([]<class Format>() {
            using traits = nb::detail::scheme_traits<typename Format::scheme>;
            check_decode<I, typename traits::element>(Format::name);
            check_decode<I, typename traits::scale_element>(Format::name);
        });
        // And of no format: every split of 2 to 8 bits.
        [&]<int... E>(std::integer_sequence<int, E...>) {
            const auto all_mantissas = [&]<int Exponent>() {
                [&]<int... M>(std::integer_sequence<int, M...>) {
                    const auto one = [&]<int Mantissa>() {
                        if constexpr (Exponent + Mantissa >= 1 && Exponent + Mantissa <= 7)
                            check_minifloat<I, Exponent, Mantissa>();
                    };
                    (one.template operator()<M>(), ...);
                }(std::make_integer_sequence<int, 8>{});
            };
            (all_mantissas.template operator()<E>(), ...);
        }(std::make_integer_sequence<int, 8>{});
        check_decode<I, nb::codebook<primes>>("a codebook of 37");
        check_decode<I, nb::e8m0>("e8m0");
        check_decode<I, nb::uint7>("uint7");
    });
}

TEST_CASE("tiles of twice the width give generic's bits in both halves") {
    // A template, so that what the narrow ISA lacks is not looked up.
    const auto check = []<class W>() {
        if constexpr (!is_wider<W>) {
            NIBBLE_SKIP("the compiler flags have no tiles of 512 bits");
        } else {
            INFO(W::name);
            CHECK(is_two_of_generic<W>([]<class I>(const auto& a, const auto& b) { return I::multiply(a, b); }));
            CHECK(is_two_of_generic<W>(
                []<class I>(const auto& a, const auto& b) { return I::fma(a, b, I::broadcast(1.0f)); }));
            CHECK(is_two_of_generic<W>([]<class I>(const auto& a, const auto& b) { return I::fma(a, a, b); }));
            CHECK(is_two_of_generic<W>([]<class I>(const auto& a, const auto&) { return I::power_below(a); }));
            for (const std::size_t known : {2u, 3u, 8u, 11u, 16u}) CHECK(finds_values_between<W>(known));
            const std::vector<float> numbers = operands();
            double wide[W::width];
            W::store_wide(wide, W::load(numbers.data()));
            for (std::size_t i = 0; i < W::width; ++i) CHECK(same_bits(static_cast<float>(wide[i]), numbers[i]));
            check_wide_integers<W>();
            int decoded = 0;
            int stored = 0;
            nb::for_each_format([&]<class Format>() {
                check_wide_decode<W, typename Format::scheme::element_type>(Format::name, decoded);
                check_wide_stored<W, typename nb::detail::scheme_traits<typename Format::scheme>::scale_element>(
                    Format::name, stored);
            });
            check_wide_stored<W, nb::e8m0>("e8m0", stored);
            CHECK(stored >= 3);
            [&]<int... At>(std::integer_sequence<int, At...>) {
                // Every split of 2 to 8 bits into exponent and mantissa.
                const auto one = [&]<int E, int M>() {
                    using nb::float_format;
                    using nb::minifloat;
                    using nb::specials;
                    if constexpr (E + M >= 1 && E + M <= 7)
                        check_wide_decode<W, minifloat<float_format{.exponent = E, .mantissa = M}>>("a minifloat",
                                                                                                    decoded);
                    if constexpr (E >= 1 && E + M >= 1 && E + M <= 7)
                        check_wide_decode<
                            W, minifloat<float_format{.exponent = E, .mantissa = M, .specials = specials::fn}>>(
                            "a minifloat with NaN", decoded);
                    if constexpr (E + M >= 2 && E + M <= 7)
                        check_wide_decode<W, minifloat<float_format{.exponent = E, .mantissa = M, .has_sign = false}>>(
                            "a minifloat without sign", decoded);
                };
                (one.template operator()<At / 8, At % 8>(), ...);
            }(std::make_integer_sequence<int, 64>{});
            CHECK(decoded >= 60);
        }
    };
    check.template operator()<nb::detail::panel_isa_of<nb::best_isa>>();
}

TEST_CASE("lanes load and store parts of rows") {
    nb::for_each_isa([]<class I>() {
        for (std::size_t count = 0; count <= 8; ++count) {
            const std::vector<float> from(count, 2.0f);
            std::vector<float> to(8, 9.0f);
            (nb::lanes<I>::load(from.data(), count) + nb::lanes<I>(1.0f)).store(to.data(), count);
            for (std::size_t i = 0; i < 8; ++i) CHECK(to[i] == (i < count ? 3.0f : 9.0f));
        }
    });
}

TEST_CASE("the default ISA is the best of the list") {
    const std::string best = NIBBLE_HAS_AMX            ? "avx512_amx"
                             : NIBBLE_HAS_AVX512       ? "avx512_vnni"
                             : NIBBLE_HAS_AVX512VL     ? "avx512"
                             : NIBBLE_HAS_VNNI         ? "avx_vnni"
                             : NIBBLE_HAS_AVX2         ? "avx2"
                             : NIBBLE_HAS_NEON_I8MM    ? "neon_i8mm"
                             : NIBBLE_HAS_NEON_DOTPROD ? "neon_dotprod"
                             : NIBBLE_HAS_NEON         ? "neon"
                                                       : "generic";
    CHECK(std::string(nb::best_isa::name) == best);
    std::vector<std::string> names;
    nb::for_each_isa([&]<class I>() { names.push_back(I::name); });
    CHECK(names == (NIBBLE_HAS_AVX2 || NIBBLE_HAS_NEON ? std::vector<std::string>{best, "generic"}
                                                       : std::vector<std::string>{"generic"}));
    // Of those that are compiled as well each has its own name, from the best to generic.
    std::vector<std::string> compiled;
    nb::for_each_isa(nb::compiled_isas{}, [&]<class I>() { compiled.push_back(I::name); });
    CHECK(compiled.front() == best);
    CHECK(compiled.back() == "generic");
    CHECK(std::set<std::string>(compiled.begin(), compiled.end()).size() == compiled.size());
}
