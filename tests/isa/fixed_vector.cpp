// fixed_vector.cpp: rows of numbers to columns, of every width.
#include "support/catch.hpp"

#include <nibble/isa/fixed_vector.hpp>

#include <cstddef>
#include <cstring>
#include <vector>

namespace nb = nibble;

namespace {

template <std::size_t Width, std::size_t Rows> void check_transposed() {
    nb::detail::fixed_vector<float, Width> rows[4] = {};
    for (std::size_t r = 0; r < 4; ++r) {
        float numbers[Width];
        for (std::size_t i = 0; i < Width; ++i) numbers[i] = static_cast<float>(100 * r + i);
        std::memcpy(&rows[r], numbers, sizeof numbers);
    }
    constexpr std::size_t stride = 7;
    std::vector<float> to(Width * stride, -1.0f);
    nb::detail::store_transposed<Width, Rows>(rows, to.data(), stride);
    for (std::size_t i = 0; i < Width; ++i)
        for (std::size_t r = 0; r < stride; ++r)
            REQUIRE(to[i * stride + r] == (r < Rows ? static_cast<float>(100 * r + i) : -1.0f));
}
template <std::size_t Width> void check_rows_to_columns() {
    check_transposed<Width, 1>();
    check_transposed<Width, 2>();
    check_transposed<Width, 3>();
    check_transposed<Width, 4>();
}

} // namespace

TEST_CASE("fixed_vector: rows are transposed") {
    check_rows_to_columns<4>();
    check_rows_to_columns<8>();
    check_rows_to_columns<16>();
}
