// every_pack_1.cpp: every second named format, from number 1 on, packed and unpacked.
#include "pack/every_format.hpp"

TEST_CASE("pack: formats 1, 3, 5 ... come back bit for bit", "[pack]") {
    nibble_test::check_packs_of_part<0, 2>();
}
