// every_pack_2.cpp: every second named format, from number 2 on, packed and unpacked.
#include "pack/every_format.hpp"

TEST_CASE("pack: formats 2, 4, 6 ... come back bit for bit", "[pack]") {
    nibble_test::check_packs_of_part<1, 2>();
}
