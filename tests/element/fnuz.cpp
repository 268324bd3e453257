// fnuz.cpp: bytes of FN as bytes of FNUZ and back, every byte both ways.
#include "support/catch.hpp"
#include "support/reference.hpp"

#include <nibble/element/fnuz.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

using nibble::e4m3;
using nibble::e4m3_fnuz;
using nibble::e5m2;
using nibble::e5m2_fnuz;

[[nodiscard]] std::vector<std::uint8_t> all_bytes() {
    std::vector<std::uint8_t> bytes(256);
    for (std::size_t c = 0; c < 256; ++c) bytes[c] = static_cast<std::uint8_t>(c);
    return bytes;
}

// Every byte: the value after, times `factor`, is the value before, or the nearest that To has.
template <class From, class To> void check_values(bool keep_bytes, double factor) {
    const nibble_test::reference_codec& from = nibble_test::reference_for<From>();
    const nibble_test::reference_codec& to = nibble_test::reference_for<To>();
    std::vector<std::uint8_t> converted(256);
    const std::vector<std::uint8_t> bytes = all_bytes();
    const std::size_t changed = keep_bytes ? nibble::keep_bytes<From, To>(bytes.data(), 256, converted.data())
                                           : nibble::keep_values<From, To>(bytes.data(), 256, converted.data());
    std::size_t differ = 0;
    for (unsigned c = 0; c < 256; ++c) {
        CAPTURE(c, unsigned{converted[c]});
        const double before = from.decode(c);
        const double after = to.decode(converted[c]) * factor;
        const std::uint8_t one =
            keep_bytes ? nibble::keep_bytes<From, To>(bytes[c]) : nibble::keep_values<From, To>(bytes[c]);
        CHECK(one == converted[c]);
        if (std::isnan(before)) {
            CHECK(std::isnan(after));
            continue;
        }
        if (before != after) ++differ;
        if (std::isinf(before)) continue;
        // The nearest of all bytes, the smaller magnitude first.
        double nearest = std::abs(before - after);
        for (unsigned other = 0; other < 256; ++other)
            if (std::isfinite(to.decode(other)))
                nearest = std::min(nearest, std::abs(before - to.decode(other) * factor));
        CHECK(std::abs(before - after) == nearest);
    }
    CHECK(changed == differ);
    // In place.
    std::vector<std::uint8_t> in_place = bytes;
    const std::size_t again = keep_bytes ? nibble::keep_bytes<From, To>(in_place.data(), 256, in_place.data())
                                         : nibble::keep_values<From, To>(in_place.data(), 256, in_place.data());
    CHECK(again == changed);
    CHECK(in_place == converted);
}

} // namespace

TEST_CASE("bytes kept under a scale that doubles", "[element][fnuz]") {
    check_values<e4m3, e4m3_fnuz>(true, 2.0);
    check_values<e4m3_fnuz, e4m3>(true, 0.5);
    check_values<e5m2, e5m2_fnuz>(true, 2.0);
    check_values<e5m2_fnuz, e5m2>(true, 0.5);
    std::vector<std::uint8_t> bytes = all_bytes();
    CHECK(nibble::keep_bytes<e4m3, e4m3_fnuz>(bytes.data(), 256, bytes.data()) == 0); // nothing lost
    for (unsigned c = 0; c < 256; ++c) {
        const unsigned wanted = c == 0x80 ? 0x00u : c == 0x7f || c == 0xff ? 0x80u : c;
        CHECK(unsigned{bytes[c]} == wanted);
    }
    CHECK(nibble::keep_bytes<e4m3_fnuz, e4m3>(0x7f) == 0x7e); // 240 would be NaN
    CHECK(nibble::keep_bytes<e4m3_fnuz, e4m3>(0xff) == 0xfe);
    CHECK(nibble::keep_bytes<e4m3_fnuz, e4m3>(0x80) == 0x7f);
    CHECK(nibble::keep_bytes<e5m2, e5m2_fnuz>(0x7c) == 0x80); // infinity
}

TEST_CASE("values kept under the same scale", "[element][fnuz]") {
    check_values<e4m3, e4m3_fnuz>(false, 1.0);
    check_values<e4m3_fnuz, e4m3>(false, 1.0);
    check_values<e5m2, e5m2_fnuz>(false, 1.0);
    check_values<e5m2_fnuz, e5m2>(false, 1.0);
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0x38) == 0x40); // 1
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0x77) == 0x7f); // 240
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0x78) == 0x7f); // 256 saturates
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0xfe) == 0xff); // -448
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0xff) == 0x80);
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(0x80) == 0x00);
    std::vector<std::uint8_t> bytes = all_bytes();
    // +-256 to +-448, seven magnitudes and two signs.
    CHECK(nibble::keep_values<e4m3, e4m3_fnuz>(bytes.data(), 256, bytes.data()) == 14);
}
