// named_elements.cpp: every element of the named formats against its reference, over every tie and 15000 random
// patterns each.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

TEST_CASE("every element of the named formats keeps to its definition", "[element]") {
    STATIC_REQUIRE(nibble_test::named_elements::size >= 20);
    nibble_test::for_each_type(nibble_test::named_elements{},
                               []<class Element>() { nibble_test::check_element<Element>(15000); });
}
