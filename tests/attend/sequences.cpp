// sequences.cpp: how the sequences of one call of attend may be handed over.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <nibble/attend.hpp>
#include <nibble/scheme/formats.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace nb = nibble;

TEST_CASE("sequences to attend come in a span, a vector or an array") {
    nb::kv_cache<nb::int8_channel, nb::int8_channel> cache({.heads = 2, .head_size = 64, .capacity = 16});
    const std::vector<float> numbers = nibble_test::normal_values(4 * 128, 3);
    const nb::matrix_view<const float> rows(numbers.data(), 4, 128);
    cache.append(rows, rows);
    using sequence = nb::attended_sequence<nb::int8_channel, nb::int8_channel>;
    std::vector<sequence> vector = {{&cache, 0, 1}, {&cache, 1, 3}};
    const std::array<sequence, 2> array = {vector[0], vector[1]};
    const std::span<const sequence> span(vector);
    std::vector<float> want(4 * 128);
    nb::attend(rows, span, {want.data(), 4, 128});
    const auto same = [&](const auto& sequences) {
        std::vector<float> out(4 * 128, -1.0f);
        nb::attend(rows, sequences, {out.data(), 4, 128});
        CHECK(out == want);
        CHECK(nb::attend_workspace_bytes(sequences, 2, 1) == nb::attend_workspace_bytes(span, 2, 1));
    };
    same(vector);
    same(array);
    same(std::span<sequence>(vector));
}
