// bits.cpp: code streams of every width, and the arithmetic on bit patterns that everything else is built from.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/core/bits.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

constexpr std::uint8_t canary = 0xa5;
constexpr std::size_t margin = 16;

template <int Bits> void check_streams() {
    for (std::size_t count = 0; count <= 70; ++count) {
        CAPTURE(Bits, count);
        const std::size_t bytes = (count * Bits + 7) / 8;
        // Exactly as long as they may be read: a sanitizer sees what reads beyond.
        std::vector<std::uint8_t> codes(count);
        for (std::size_t i = 0; i < count; ++i)
            codes[i] = static_cast<std::uint8_t>(nibble_test::random64(Bits, i + 100 * count) & ((1u << Bits) - 1u));
        std::vector<std::uint8_t> wanted(bytes, 0);
        for (std::size_t i = 0; i < count; ++i)
            for (std::size_t b = 0; b < Bits; ++b)
                if ((codes[i] >> b & 1) != 0)
                    wanted[(i * Bits + b) / 8] =
                        static_cast<std::uint8_t>(wanted[(i * Bits + b) / 8] | 1u << ((i * Bits + b) % 8));

        std::vector<std::uint8_t> stream(margin + bytes + margin, canary);
        nibble::detail::squeeze_codes<Bits>(codes.data(), count, stream.data() + margin);
        bool same = true;
        for (std::size_t i = 0; i < stream.size(); ++i) {
            const bool inside = i >= margin && i < margin + bytes;
            same = same && stream[i] == (inside ? wanted[i - margin] : canary);
        }
        CHECK(same);

        std::vector<std::uint8_t> back(margin + count + margin, canary);
        nibble::detail::spread_codes<Bits>(wanted.data(), count, back.data() + margin);
        same = true;
        for (std::size_t i = 0; i < back.size(); ++i) {
            const bool inside = i >= margin && i < margin + count;
            same = same && back[i] == (inside ? codes[i - margin] : canary);
        }
        CHECK(same);
    }
}

template <int Bits> void check_words() {
    for (std::uint64_t i = 0; i < 2000; ++i) {
        const std::uint64_t r = nibble_test::random64(500 + Bits, i);
        std::uint64_t codes = 0;
        std::uint64_t stream = 0;
        for (int j = 0; j < 8; ++j) {
            const std::uint64_t c = r >> (Bits * j) & ((1u << Bits) - 1u);
            codes |= c << (8 * j);
            stream |= c << (Bits * j);
        }
        REQUIRE(nibble::detail::squeeze8<Bits>(codes) == stream);
        // Bits above the eight codes are ignored.
        const std::uint64_t above = Bits == 8 ? 0 : nibble_test::random64(9, i) << (8 * Bits % 64);
        REQUIRE(nibble::detail::spread8<Bits>(stream | above) == codes);
    }
}

} // namespace

TEST_CASE("code streams of every width and length, nothing written outside", "[core][bits]") {
    [&]<int... Less>(std::integer_sequence<int, Less...>) {
        (check_streams<Less + 1>(), ...);
        (check_words<Less + 1>(), ...);
    }(std::make_integer_sequence<int, 8>{});
}

TEST_CASE("powers of two and logarithms are exact in every binade", "[core][bits]") {
    using namespace nibble::detail;
    for (int e = -160; e <= 140; ++e) {
        CAPTURE(e);
        const double exact = std::ldexp(1.0, e);
        const float wanted = e < -149  ? 0.0f
                             : e > 127 ? std::numeric_limits<float>::infinity()
                                       : static_cast<float>(exact);
        CHECK(exp2i(e) == wanted);
        if (e >= -149 && e <= 127) {
            CHECK(floor_log2(wanted) == e);
            if (e > -149) CHECK(floor_log2(std::nextafter(wanted, 0.0f)) == e - 1);
            if (e > -126) CHECK(floor_log2(std::nextafter(wanted, std::numeric_limits<float>::infinity())) == e);
        }
    }
}

TEST_CASE("round_even agrees with the current rounding mode's rint, at run and at compile time", "[core][bits]") {
    using nibble::detail::round_even;
    static_assert(round_even(0.5f) == 0.0f && round_even(1.5f) == 2.0f && round_even(-0.5f) == 0.0f);
    static_assert(round_even(8388607.5f) == 8388608.0f && round_even(8388609.0f) == 8388609.0f);
    static_assert(round_even(0.49999997f) == 0.0f && round_even(-2.5f) == -2.0f);
    for (std::uint64_t i = 0; i < 200000 / nibble_test::sample_divisor; ++i) {
        const float x = std::bit_cast<float>(static_cast<std::uint32_t>(nibble_test::random64(3, i)));
        const float y = round_even(x);
        if (std::isnan(x))
            REQUIRE(std::isnan(y));
        else
            REQUIRE(y == std::nearbyint(x));
    }
}

TEST_CASE("just_under is the next fp32 value down", "[core][bits]") {
    constexpr float down = -std::numeric_limits<float>::infinity();
    for (std::uint64_t i = 0; i < 50000 / nibble_test::sample_divisor; ++i) {
        const float x = std::bit_cast<float>(static_cast<std::uint32_t>(nibble_test::random64(4, i)));
        if (std::isfinite(x)) REQUIRE(nibble::detail::just_under(x) == std::nextafter(x, down));
    }
    for (const float x : {0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, 1.0f, -1.0f, 2.0f})
        CHECK(nibble::detail::just_under(x) == std::nextafter(x, down));
}

TEST_CASE("flush_subnormal_input takes subnormals to a zero of their sign and nothing else", "[core][bits]") {
    const auto word = [](float x) { return std::bit_cast<std::uint32_t>(x); };
    for (const std::uint32_t magnitude : {0x00000000u, 0x00000001u, 0x00400000u, 0x007fffffu, 0x00800000u, 0x00800001u,
                                          0x3f800000u, 0x7f7fffffu, 0x7f800000u, 0x7fc00001u})
        for (const std::uint32_t sign : {0u, 0x80000000u}) {
            const float x = std::bit_cast<float>(magnitude | sign);
            const std::uint32_t wanted = std::fpclassify(x) == FP_SUBNORMAL ? sign : magnitude | sign;
            CAPTURE(magnitude, sign);
            CHECK(word(nibble::flush_subnormal_input(x)) == wanted);
        }
}

TEST_CASE("random bits depend on seed and index alone, and are balanced", "[core][bits]") {
    using nibble::detail::random_bits;
    static_assert(random_bits(1, 2) == random_bits(1, 2));
    constexpr std::size_t draws = 20000;
    for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, ~std::uint64_t{0}}) {
        std::size_t ones[32] = {};
        std::size_t as_before[32] = {};
        std::size_t as_other_seed[32] = {};
        for (std::uint64_t i = 0; i < draws; ++i) {
            const std::uint32_t r = random_bits(seed, i);
            for (unsigned b = 0; b < 32; ++b) {
                ones[b] += r >> b & 1u;
                as_before[b] += (r ^ random_bits(seed, i + 1)) >> b & 1u;
                as_other_seed[b] += (r ^ random_bits(seed + 1, i)) >> b & 1u;
            }
        }
        // 6 standard deviations of a fair coin: sqrt(20000) / 2 = 71.
        for (unsigned b = 0; b < 32; ++b) {
            CAPTURE(seed, b);
            CHECK(std::abs(static_cast<double>(ones[b]) - 10000.0) < 430.0);
            CHECK(std::abs(static_cast<double>(as_before[b]) - 10000.0) < 430.0);
            CHECK(std::abs(static_cast<double>(as_other_seed[b]) - 10000.0) < 430.0);
        }
    }
}
