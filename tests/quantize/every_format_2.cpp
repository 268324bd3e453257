// every_format_2.cpp: every fourth named format, from number 2 on, by the rules of quantize.hpp.
#include "quantize/every_format.hpp"
#include "support/catch.hpp"

namespace {
[[maybe_unused]] const bool entered = nibble_test::add_formats_of_part<1, 4>();
} // namespace

TEST_CASE("quantize: formats 2, 6, 10 ... keep to the rules", "[quantize]") {
    nibble_test::check_formats_of_part<1, 4>();
}
