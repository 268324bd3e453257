// integers.cpp: every integer element of every width against its definition, and the kernel family its values earn.
#include "support/catch.hpp"
#include "support/codec_check.hpp"

TEST_CASE("integers of every width and range keep to their definition", "[element]") {
    const auto check = []<class Element>() { nibble_test::check_element<Element>(20000); };
    nibble_test::for_each_type(nibble_test::integers_of<nibble::integer_range::symmetric>{}, check);
    nibble_test::for_each_type(nibble_test::integers_of<nibble::integer_range::full>{}, check);
    nibble_test::for_each_type(nibble_test::integers_of<nibble::integer_range::unsigned_>{}, check);
    nibble_test::for_each_type(nibble_test::balanced_elements{}, check);
}

TEST_CASE("bipolar and sign-magnitude integers keep to their definition", "[element]") {
    const auto check = []<class Element>() { nibble_test::check_element<Element>(20000); };
    nibble_test::for_each_type(nibble_test::bipolar_elements{}, check);
    nibble_test::for_each_type(nibble_test::sign_magnitude_elements{}, check);
}

TEST_CASE("integer elements of any kind get integer kernels", "[element]") {
    using nibble::detail::family_of;
    using nibble::detail::kernel_family;
    STATIC_REQUIRE(family_of<nibble::bipolar<1>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::bipolar<2>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::bipolar<3>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::bipolar<4>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::bipolar<5>> == kernel_family::narrow);
    // Its 63 is too large for four pairs of products in int16.
    STATIC_REQUIRE(family_of<nibble::bipolar<6>> == nibble_test::family_of_8_bits);
    STATIC_REQUIRE(family_of<nibble::bipolar<7>> == nibble_test::family_of_8_bits);
    STATIC_REQUIRE(family_of<nibble::sign_magnitude<4>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::sign_magnitude<8>> == nibble_test::family_of_8_bits);
    STATIC_REQUIRE(family_of<nibble::balanced<2>> == kernel_family::narrow);
    STATIC_REQUIRE(family_of<nibble::balanced<4>> == kernel_family::narrow);
    STATIC_REQUIRE(nibble::largest<nibble::balanced<2>> == 4.0f);
    STATIC_REQUIRE(nibble::lowest<nibble::bipolar<3>> == -7.0f);
}
