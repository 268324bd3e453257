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
    using nibble::detail::fits_int16_sums;
    using nibble::detail::needs_int32_sums;
    STATIC_REQUIRE(fits_int16_sums<nibble::bipolar<1>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::bipolar<2>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::bipolar<3>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::bipolar<4>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::bipolar<5>>);
    // Its 63 is too large for four pairs of products in int16.
    STATIC_REQUIRE(needs_int32_sums<nibble::bipolar<6>>);
    STATIC_REQUIRE(needs_int32_sums<nibble::bipolar<7>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::sign_magnitude<4>>);
    STATIC_REQUIRE(needs_int32_sums<nibble::sign_magnitude<8>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::balanced<2>>);
    STATIC_REQUIRE(fits_int16_sums<nibble::balanced<4>>);
    STATIC_REQUIRE(nibble::largest<nibble::balanced<2>> == 4.0f);
    STATIC_REQUIRE(nibble::lowest<nibble::bipolar<3>> == -7.0f);
}
