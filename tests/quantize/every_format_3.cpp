// every_format_3.cpp: every fourth named format, from number 3 on, by the rules of quantize.hpp.
#include "quantize/every_format.hpp"
#include "support/catch.hpp"

namespace {
[[maybe_unused]] const bool entered = nibble_test::add_formats_of_part<2, 4>();
} // namespace

TEST_CASE("quantize: formats 3, 7, 11 ... keep to the rules", "[quantize]") {
    nibble_test::check_formats_of_part<2, 4>();
}
