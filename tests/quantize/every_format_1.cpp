// every_format_1.cpp: every fourth named format, from number 1 on, by the rules of quantize.hpp.
#include "quantize/every_format.hpp"
#include "support/catch.hpp"

namespace {
[[maybe_unused]] const bool entered = nibble_test::add_formats_of_part<0, 4>();
} // namespace

TEST_CASE("quantize: formats 1, 5, 9 ... keep to the rules", "[quantize]") {
    nibble_test::check_formats_of_part<0, 4>();
}
