// minifloats_2_to_4.cpp: every minifloat of 2 to 4 bits against the definition.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

TEST_CASE("every minifloat of 2 to 4 bits keeps to its definition", "[element][minifloat]") {
    const auto check = []<class Element>() { nibble_test::check_element<Element>(25000); };
    nibble_test::for_each_type(nibble_test::minifloats_of<2>{}, check);
    nibble_test::for_each_type(nibble_test::minifloats_of<3>{}, check);
    nibble_test::for_each_type(nibble_test::minifloats_of<4>{}, check);
}
