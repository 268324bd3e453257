// tensor_file.cpp: tensors as matrices, and the decoding of their elements.
#include <support/catch.hpp>

#include <nibble/element/minifloat.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/tensor_file.hpp>

#include <bit>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace nb = nibble;

TEST_CASE("all fp16 and bf16 codes decode as their codecs say", "[io]") {
    // At an odd address, since files do not align.
    std::vector<std::byte> codes(2 * 65536 + 1);
    for (std::uint32_t i = 0; i < 65536; ++i) {
        codes[1 + 2 * i] = static_cast<std::byte>(i & 255);
        codes[2 + 2 * i] = static_cast<std::byte>(i >> 8);
    }
    std::vector<float> values(65536);
    nb::tensor_info tensor;
    tensor.shape = {256, 256};
    tensor.data = codes.data() + 1;
    tensor.bytes = 2 * 65536;
    const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };

    tensor.type = nb::tensor_type::float16;
    REQUIRE(nb::read_matrix(tensor, {values.data(), 256, 256}).ok());
    std::size_t wrong = 0;
    for (std::uint32_t i = 0; i < 65536; ++i)
        wrong += bits(values[i]) != bits(nb::f16::decode(static_cast<std::uint16_t>(i)));
    CHECK(wrong == 0);

    tensor.type = nb::tensor_type::bfloat16;
    REQUIRE(nb::read_matrix(tensor, {values.data(), 256, 256}).ok());
    wrong = 0;
    for (std::uint32_t i = 0; i < 65536; ++i)
        wrong += bits(values[i]) != bits(nb::bf16::decode(static_cast<std::uint16_t>(i)));
    CHECK(wrong == 0);
}

TEST_CASE("fp32 comes through bit for bit, from any address into any stride", "[io]") {
    std::vector<std::uint32_t> words = {0x00000000, 0x80000000, 0x00000001, 0x7f800000, 0x7f800001, 0xffc12345};
    std::vector<std::byte> raw(4 * words.size() + 3);
    for (std::size_t shift = 0; shift < 4; ++shift) {
        for (std::size_t i = 0; i < words.size(); ++i)
            for (std::size_t j = 0; j < 4; ++j)
                raw.at(shift + 4 * i + j) = static_cast<std::byte>(words[i] >> (8 * j) & 255);
        nb::tensor_info tensor;
        tensor.type = nb::tensor_type::float32;
        tensor.shape = {1, 3, 2};
        tensor.data = raw.data() + shift;
        tensor.bytes = 24;
        CHECK(tensor.rows() == 3);
        CHECK(tensor.cols() == 2);
        std::vector<float> out(3 * 5, 7.0f);
        REQUIRE(nb::read_matrix(tensor, {out.data(), 3, 2, 5}).ok());
        for (std::size_t i = 0; i < 15; ++i) {
            const bool inside = i % 5 < 2;
            const std::uint32_t expected =
                inside ? words[i / 5 * 2 + i % 5] : std::bit_cast<std::uint32_t>(7.0f); // the rest stays
            std::uint32_t got = 0;
            std::memcpy(&got, &out[i], 4);
            CHECK(got == expected);
        }
        std::vector<float> two(4);
        REQUIRE(nb::read_rows(tensor, 1, {two.data(), 2, 2}).ok());
        CHECK(std::memcmp(two.data(), words.data() + 2, 16) == 0);
        CHECK(nb::read_rows(tensor, 3, {two.data(), 0, 2}).ok());
        CHECK(nb::read_rows(tensor, 2, {two.data(), 2, 2}).code() == nb::status_code::mismatch);
        CHECK(nb::read_rows(tensor, 4, {two.data(), 0, 2}).code() == nb::status_code::mismatch);
        CHECK(nb::read_rows(tensor, SIZE_MAX, {two.data(), 1, 2}).code() == nb::status_code::mismatch);
    }
}

TEST_CASE("a tensor of any rank is a matrix", "[io]") {
    nb::tensor_info tensor;
    CHECK(tensor.rows() == 1);
    CHECK(tensor.cols() == 1);
    tensor.shape = {5};
    CHECK(tensor.rows() == 1);
    CHECK(tensor.cols() == 5);
    tensor.shape = {2, 3, 4};
    CHECK(tensor.rows() == 6);
    CHECK(tensor.cols() == 4);
    tensor.shape = {3, 0};
    CHECK(tensor.rows() == 3);
    CHECK(tensor.cols() == 0);
}

TEST_CASE("read_matrix refuses what does not fit, and writes nothing", "[io]") {
    const std::vector<std::byte> data(12);
    std::vector<float> out(6, 3.0f);
    nb::tensor_info tensor{.name = "w",
                           .type_name = "F16",
                           .type = nb::tensor_type::float16,
                           .shape = {2, 3},
                           .data = data.data(),
                           .bytes = 12};
    const auto refused = [&](nb::matrix_view<float> view, nb::status_code code, const char* fragment) {
        const nb::status s = nb::read_matrix(tensor, view);
        INFO(s.message());
        CHECK(s.code() == code);
        CHECK(s.message().find(fragment) != std::string::npos);
        CHECK(out == std::vector<float>(6, 3.0f));
    };
    refused({out.data(), 3, 2}, nb::status_code::mismatch, "is 2 x 3, asked for 3 x 2");
    refused({out.data(), 1, 3}, nb::status_code::mismatch, "is 2 x 3, asked for 1 x 3");
    tensor.bytes = 11;
    refused({out.data(), 2, 3}, nb::status_code::mismatch, "has 11 bytes");
    tensor.bytes = 12;
    tensor.data = nullptr;
    refused({out.data(), 2, 3}, nb::status_code::mismatch, "has 12 bytes");
    tensor.type = nb::tensor_type::other;
    tensor.type_name = "Q4_K";
    refused({out.data(), 2, 3}, nb::status_code::unsupported, "type Q4_K cannot be read");
}

TEST_CASE("names are found, repeated ones noticed, whatever their order", "[io]") {
    std::mt19937 random(1);
    for (std::size_t count = 0; count < 70; ++count) {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < count; ++i) names.push_back(std::to_string(i * 7919 % 1000));
        for (std::size_t i = count; i > 1; --i) std::swap(names[i - 1], names[random() % i]);
        const auto name_at = [&](std::size_t i) -> std::string_view { return names[i]; };
        nb::detail::name_index index;
        REQUIRE(index.build(count, name_at) == count);
        for (std::size_t i = 0; i < count; ++i) REQUIRE(index.find(names[i], name_at) == i);
        REQUIRE(index.find("none", name_at) == nb::detail::name_index::missing);
        REQUIRE(index.find("", name_at) == nb::detail::name_index::missing);
        if (count < 2) continue;
        const std::size_t a = random() % count;
        const std::size_t b = (a + 1 + random() % (count - 1)) % count;
        names[a] = names[b];
        REQUIRE(index.build(count, name_at) == (a > b ? a : b)); // the later one of the two
    }
}

TEST_CASE("names in messages are cut and escaped", "[io]") {
    CHECK(nb::detail::in_quotes("a.b") == "'a.b'");
    CHECK(nb::detail::in_quotes(std::string_view("\0\n\xff", 3)) == "'\\x00\\x0a\\xff'");
    CHECK(nb::detail::in_quotes(std::string(1000, 'x')) == "'" + std::string(80, 'x') + "...'");
}
