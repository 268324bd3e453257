// digits.cpp: dense packing of digits: every number of small groups, streams of any length, and what is refused.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/core/digits.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

// Base^Count counted up digit by digit, as an odometer does.
template <unsigned Base, unsigned Count> void check_every_number() {
    using codec = nibble::digits<Base, Count>;
    CAPTURE(Base, Count);
    std::vector<std::uint8_t> digit(Count, 0);
    std::vector<std::uint8_t> back(Count, 0);
    std::uint64_t expected = 0;
    for (bool more = true; more; ++expected) {
        std::uint64_t number = ~std::uint64_t{0};
        REQUIRE(codec::join(digit.data(), number));
        REQUIRE(number == expected);
        REQUIRE(codec::split(number, back.data()));
        REQUIRE(back == digit);
        more = false;
        for (unsigned i = 0; i < Count && !more; ++i) {
            more = digit[i] + 1u < Base;
            digit[i] = more ? static_cast<std::uint8_t>(digit[i] + 1) : std::uint8_t{0};
        }
    }
    CHECK(expected == codec::numbers);
    // The next power of two: as many bits as needed, no more.
    CHECK(codec::numbers <= std::uint64_t{1} << codec::bits);
    CHECK(codec::numbers > std::uint64_t{1} << (codec::bits - 1));
    for (std::uint64_t beyond = codec::numbers; beyond < codec::numbers + 5; ++beyond) {
        const std::vector<std::uint8_t> before = back;
        CHECK_FALSE(codec::split(beyond, back.data()));
        CHECK(back == before);
    }
    for (unsigned i = 0; i < Count; ++i) {
        std::vector<std::uint8_t> wrong(Count, 0);
        std::uint64_t number = 77;
        for (const unsigned value : {Base, 255u}) {
            if (value > 255 || value < Base) continue;
            wrong[i] = static_cast<std::uint8_t>(value);
            CHECK_FALSE(codec::join(wrong.data(), number));
            CHECK(number == 77);
        }
    }
}

template <unsigned Base, unsigned Count> void check_streams() {
    using codec = nibble::digits<Base, Count>;
    for (std::size_t n = 0; n < 6 * Count + 10; ++n) {
        CAPTURE(Base, Count, n);
        std::vector<std::uint8_t> digit(n);
        for (std::size_t i = 0; i < n; ++i)
            digit[i] = static_cast<std::uint8_t>(nibble_test::random64(Base * 100 + Count, i + 1000 * n) % Base);
        const std::size_t bytes = codec::stream_bytes(n);
        const std::size_t groups = (n + Count - 1) / Count;
        REQUIRE(bytes == (groups * codec::bits + 7) / 8);
        std::vector<std::uint8_t> stream(bytes + 1, 0xa5);
        REQUIRE(codec::pack(digit.data(), n, stream.data()));
        CHECK(stream.back() == 0xa5);
        stream.pop_back();
        // Bit b of group g is bit g x bits + b of the stream; the rest is zero.
        std::vector<std::uint8_t> wanted(bytes, 0);
        for (std::size_t g = 0; g < groups; ++g) {
            std::uint64_t number = 0;
            for (std::size_t i = Count; i-- > 0;)
                number = number * Base + (g * Count + i < n ? digit[g * Count + i] : 0u);
            for (unsigned b = 0; b < codec::bits; ++b)
                if ((number >> b & 1) != 0) {
                    const std::size_t at = g * codec::bits + b;
                    wanted[at / 8] = static_cast<std::uint8_t>(wanted[at / 8] | 1u << (at % 8));
                }
        }
        CHECK(stream == wanted);
        std::vector<std::uint8_t> back(n + 1, 0x5a);
        REQUIRE(codec::unpack(stream.data(), n, back.data()));
        CHECK(back.back() == 0x5a);
        back.pop_back();
        CHECK(back == digit);
        if (n > 0 && Base < 256) {
            digit[n - 1] = static_cast<std::uint8_t>(Base);
            CHECK_FALSE(codec::pack(digit.data(), n, stream.data()));
        }
        // A digit after the last one: a stream that pack never makes.
        if (n % Count != 0) {
            std::vector<std::uint8_t> longer(n + 1, 0);
            longer[n] = static_cast<std::uint8_t>(Base - 1);
            REQUIRE(codec::pack(longer.data(), n + 1, stream.data()));
            CHECK_FALSE(codec::unpack(stream.data(), n, back.data()));
        }
    }
}

} // namespace

TEST_CASE("groups of digits: every number once, in as few bits as hold it", "[core][digits]") {
    check_every_number<5, 3>();
    check_every_number<3, 5>();
    check_every_number<2, 8>();
    check_every_number<9, 2>();
    check_every_number<17, 1>();
    check_every_number<6, 5>();
    check_every_number<256, 1>();
    STATIC_REQUIRE(nibble::digits<5, 3>::bits == 7);
    STATIC_REQUIRE(nibble::digits<3, 5>::bits == 8);
    STATIC_REQUIRE(nibble::digits<9, 5>::bits == 16);
}

TEST_CASE("streams of digits of any length", "[core][digits]") {
    check_streams<5, 3>();
    check_streams<3, 5>();
    check_streams<3, 20>();
    check_streams<9, 5>();
    check_streams<2, 8>();
    check_streams<17, 7>();
    check_streams<256, 7>();
}

TEST_CASE("a number too large in a stream is refused", "[core][digits]") {
    const std::uint8_t stream[1] = {125}; // 5^3
    std::uint8_t digit[3] = {};
    CHECK_FALSE(nibble::digits<5, 3>::unpack(stream, 3, digit));
    const std::uint8_t largest[1] = {124};
    CHECK(nibble::digits<5, 3>::unpack(largest, 3, digit));
    CHECK((digit[0] == 4 && digit[1] == 4 && digit[2] == 4));
}
