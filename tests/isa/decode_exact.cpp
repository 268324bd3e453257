// decode_exact.cpp: every code of every element of at most 8 bits, 16-bit and 32-bit ones sampled, on every ISA as its
// codec has it, NaN included.
#include "support/catch.hpp"
#include "support/lists.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

using namespace nibble;

namespace {

template <class Isa, class Element> [[nodiscard]] std::size_t wrong_codes() {
    using code = typename Element::code;
    std::vector<code> codes;
    if constexpr (Element::bits <= 16) {
        // Bits above the element's are ignored in bytes.
        const std::uint32_t count = Element::bits <= 8 ? 256 : 65536;
        for (std::uint32_t c = 0; c < count; ++c) codes.push_back(static_cast<code>(c));
    } else {
        for (std::size_t i = 0; i < 4096; ++i) codes.push_back(static_cast<code>(nibble_test::random64(3, i)));
    }
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < codes.size(); i += 8) {
        float got[8];
        Isa::store(got, Isa::template decode_exact<Element>(codes.data() + i));
        for (std::size_t j = 0; j < 8; ++j) {
            const float wanted = Element::decode(codes[i + j]);
            const bool same = (std::isnan(got[j]) && std::isnan(wanted)) ||
                              std::bit_cast<std::uint32_t>(got[j]) == std::bit_cast<std::uint32_t>(wanted);
            wrong += same ? 0 : 1;
        }
    }
    return wrong;
}

template <class List> void check_all() {
    for_each_isa([]<class Isa>() {
        nibble_test::for_each_type(List{}, []<class Element>() {
            const std::size_t wrong = wrong_codes<Isa, Element>();
            if (wrong != 0) {
                CAPTURE(std::string(Isa::name), std::string(nibble_test::type_name<Element>()));
                CHECK(wrong == 0);
            }
        });
    });
}

} // namespace

TEST_CASE("isa: stored codes decode exactly, NaN codes too, for every named element", "[isa]") {
    STATIC_REQUIRE(nibble_test::named_elements::size >= 20);
    check_all<nibble_test::named_elements>();
}

TEST_CASE("isa: stored codes decode exactly for every minifloat of 5 to 8 bits", "[isa]") {
    check_all<nibble_test::minifloats_of<5>>();
    check_all<nibble_test::minifloats_of<6>>();
    check_all<nibble_test::minifloats_of<7>>();
    check_all<nibble_test::minifloats_of<8>>();
    SUCCEED();
}
