// minifloats_7.cpp: every minifloat of 7 bits against the definition.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

TEST_CASE("every minifloat of 7 bits keeps to its definition", "[element][minifloat]") {
    nibble_test::for_each_type(nibble_test::minifloats_of<7>{},
                               []<class Element>() { nibble_test::check_element<Element>(40000); });
}
