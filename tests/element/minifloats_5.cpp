// minifloats_5.cpp: every minifloat of 5 bits against the definition.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

TEST_CASE("every minifloat of 5 bits keeps to its definition", "[element][minifloat]") {
    nibble_test::for_each_type(nibble_test::minifloats_of<5>{},
                               []<class Element>() { nibble_test::check_element<Element>(25000); });
}
