// shape.cpp: sizes on the command line, names of lines, and the limit of a product.
#include "../../bench/support/shape.hpp"
#include "../../bench/support/command_line.hpp"
#include "../../bench/support/roof.hpp"
#include "../../bench/support/workload.hpp"

#include <support/catch.hpp>

#include <regex>
#include <string>
#include <vector>

using bench::weight_shape;

TEST_CASE("a size is two numbers around an x") {
    CHECK(bench::parse_shape("4096x11008") == weight_shape{4096, 11008});
    CHECK(bench::parse_shape("1x1048576") == weight_shape{1, 1048576});
    for (const char* const text : {"", "x", "4096", "4096x", "x4096", "4096X4096", "4096x4096x1", "4096 x4096",
                                   " 4096x4096", "4096x4096 ", "0x1", "1x0", "-1x1", "+1x1", "1.5x2", "1048577x1",
                                   "1x1048577", "99999999999999999999999x1", "1x99999999999999999999"}) {
        CAPTURE(text);
        CHECK_FALSE(bench::parse_shape(text));
    }
}

TEST_CASE("sizes of a list are kept in order, once each, and a bad one is named") {
    CHECK(bench::parse_shapes("--sizes", {"2x3", "1x1", "2x3"}) == std::vector<weight_shape>{{2, 3}, {1, 1}});
    CHECK_THROWS_AS(bench::parse_shapes("--sizes", {"2x3", "2y3"}), bench::user_error);
    std::string message;
    try {
        (void)bench::parse_shapes("--sizes", {"2y3"});
    } catch (const bench::user_error& error) {
        message = error.what();
    }
    CAPTURE(message);
    CHECK(message.find("--sizes") != std::string::npos);
    CHECK(message.find("2y3") != std::string::npos);
}

TEST_CASE("a pattern that is none is named") {
    CHECK(std::regex_search("int4_g32", bench::parse_pattern("--formats", "^int4|mxfp4")));
    CHECK_THROWS_AS(bench::parse_pattern("--formats", "("), bench::user_error);
}

TEST_CASE("lines are named verb/scheme/isa/MxNxK/threads:T") {
    CHECK(bench::line_name("gemm", "int4_g32", "avx2", 8, {11008, 4096}, 2) ==
          "gemm/int4_g32/avx2/8x11008x4096/threads:2");
}

TEST_CASE("a product takes the longer of reading and computing") {
    const bench::limit reading = bench::limit_of(8e9, 4e9, 20e9, 100e9);
    CHECK(reading.memory_bound);
    CHECK(reading.seconds == Approx(0.4));
    const bench::limit computing = bench::limit_of(8e9, 400e9, 20e9, 100e9);
    CHECK_FALSE(computing.memory_bound);
    CHECK(computing.seconds == Approx(4.0));
}

TEST_CASE("a format is held to the instructions that it could use") {
    using bench::arithmetic;
    CHECK(bench::serves("fma_256", arithmetic::floats));
    CHECK_FALSE(bench::serves("dot_int32_256", arithmetic::floats));
    CHECK(bench::serves("words_int32_256", arithmetic::words));
    CHECK(bench::serves("dot_int32_512", arithmetic::words));
    CHECK_FALSE(bench::serves("bytes_int16_256", arithmetic::words));
    CHECK(bench::serves("bytes_int16_512", arithmetic::bytes));
    CHECK(bench::serves("dot_int32_256", arithmetic::bytes));
    CHECK_FALSE(bench::serves("fma_512", arithmetic::bytes));
}
