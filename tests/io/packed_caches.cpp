// packed_caches.cpp: KIVI's words and the metadata of 2:4 sparsity, against their descriptions.
#include "support/catch.hpp"

#include <nibble/io/kivi.hpp>
#include <nibble/io/sparse_2_4.hpp>
#include <nibble/quantize.hpp>

#include "layer_support.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

template <int Bits> void check_kivi() {
    constexpr std::size_t rows = 5;
    constexpr std::size_t cols = 64;
    constexpr std::size_t per_word = 32 / Bits;
    layer_random random(Bits);
    std::vector<std::uint32_t> words(rows * cols / per_word);
    for (std::uint32_t& word : words) word = random.next();
    const bytes scale_bytes = random_scales(random, "F16", rows * 2);
    const bytes mn_bytes = random_scales(random, "F16", rows * 2);
    std::vector<std::uint16_t> scale(rows * 2);
    std::vector<std::uint16_t> mn(rows * 2);
    std::memcpy(scale.data(), scale_bytes.data(), scale_bytes.size());
    std::memcpy(mn.data(), mn_bytes.data(), mn_bytes.size());
    nb::quantized<nb::kivi_scheme<Bits, 32>> q;
    const nb::status s = nb::read_kivi(words, scale, mn, rows, cols, q);
    INFO(s.message());
    REQUIRE(s.ok());
    std::vector<float> values(rows * cols);
    nb::dequantize(q, nb::matrix_view<float>{values.data(), rows, cols});
    std::size_t wrong = 0;
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) {
            const std::uint32_t code =
                words[r * (cols / per_word) + c / per_word] >> (Bits * (c % per_word)) & ((1u << Bits) - 1u);
            const std::size_t slot = r * 2 + c / 32;
            // Both terms and their sum are exact in double: 8 + 11 bits, exponents within 20.
            const double value = code * number_at(scale_bytes, "F16", slot) + number_at(mn_bytes, "F16", slot);
            wrong += values[r * cols + c] == static_cast<float>(value) ? 0u : 1u;
        }
    CHECK(wrong == 0);
    std::vector<std::uint32_t> words_again(words.size());
    std::vector<std::uint16_t> scale_again(scale.size());
    std::vector<std::uint16_t> mn_again(mn.size());
    REQUIRE(nb::write_kivi(q, words_again, scale_again, mn_again).ok());
    CHECK(words_again == words);
    CHECK(scale_again == scale);
    CHECK(mn_again == mn);
}

} // namespace

TEST_CASE("KIVI's words keep their bits") {
    check_kivi<2>();
    check_kivi<4>();
    check_kivi<8>();
}

TEST_CASE("KIVI's words are those of the example") {
    // Tokens 0 ... 15 of one channel with the codes 0, 1, 2, 3, 0, ... make 0xE4E4E4E4.
    nb::quantized<nb::kivi_scheme<2, 32>> q(1, 32);
    std::uint8_t codes[32];
    for (unsigned i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(i % 4);
    nb::detail::squeeze_codes<2>(codes, 32, q.row_codes(0));
    std::vector<std::uint32_t> words(2);
    std::vector<std::uint16_t> scale(1);
    std::vector<std::uint16_t> mn(1);
    REQUIRE(nb::write_kivi(q, words, scale, mn).ok());
    CHECK(words == std::vector<std::uint32_t>{0xE4E4E4E4u, 0xE4E4E4E4u});
}

TEST_CASE("KIVI's lengths must fit") {
    std::vector<std::uint32_t> words(8);
    std::vector<std::uint16_t> scale(2);
    std::vector<std::uint16_t> mn(2);
    nb::quantized<nb::kivi_scheme<4, 32>> q;
    const auto message = [&](std::size_t rows, std::size_t cols) {
        return nb::read_kivi(words, scale, mn, rows, cols, q).message();
    };
    CHECK(message(1, 64) == "");
    CHECK(message(2, 64) == "kivi: 2 x 64 codes of 4 bits: 8 words, expected 16");
    CHECK(message(1, 32) == "kivi: 1 x 32 codes of 4 bits: 8 words, expected 4");
    CHECK(message(1, 63) == "kivi: 1 x 63 codes of 4 bits do not fill words and groups of 32");
    CHECK(message(std::size_t{1} << 40, std::size_t{1} << 40) == "kivi: the product of rows and cols overflows");
    scale.pop_back();
    CHECK(message(1, 64) == "kivi: 1 x 64 codes of 4 bits: 1 scales, expected 2");
    scale.resize(2);
    mn.resize(3);
    CHECK(message(1, 64) == "kivi: 1 x 64 codes of 4 bits: 3 minimums, expected 2");
}

TEST_CASE("2:4 sparsity names the positions that it keeps") {
    // Positions 0 and 1 make 0100, 0 2: 1000, 0 3: 1100, 1 2: 1001, 1 3: 1101, 2 3: 1110.
    const int dense[] = {5, 6, 0, 0, 5, 0, 6, 0, 5, 0, 0, 6, 0, 5, 6, 0, 0, 5, 0, 6, 0, 0, 5, 6};
    std::vector<int> values(12);
    std::vector<std::uint8_t> metadata(3);
    REQUIRE(nb::compress_2_4<int>(dense, 0, values, metadata).ok());
    CHECK(metadata == std::vector<std::uint8_t>{0x84, 0x9C, 0xED});
    for (std::size_t i = 0; i < 12; ++i) CHECK(values[i] == (i % 2 == 0 ? 5 : 6));
    std::vector<int> again(24, -1);
    REQUIRE(nb::expand_2_4<int>(values, metadata, 0, again).ok());
    CHECK(again == std::vector<int>(dense, dense + 24));
    // Every pattern of at most two, and codes whose zero is 8.
    for (unsigned pattern = 0; pattern < 16; ++pattern) {
        std::uint8_t four[4];
        unsigned count = 0;
        for (unsigned i = 0; i < 4; ++i) {
            four[i] = static_cast<std::uint8_t>((pattern >> i & 1u) != 0 ? i + 1 : 8);
            count += pattern >> i & 1u;
        }
        std::uint8_t two[2];
        std::uint8_t bits[1];
        const nb::status s = nb::compress_2_4<std::uint8_t>(four, 8, two, bits);
        if (count > 2) {
            CHECK(s.code() == nb::status_code::malformed);
            CHECK(s.message() == "2:4 sparse: " + std::to_string(count) + " of the four values from 0 on are not zero");
            continue;
        }
        REQUIRE(s.ok());
        std::uint8_t back[4];
        REQUIRE(nb::expand_2_4<std::uint8_t>(two, bits, 8, back).ok());
        CHECK(std::memcmp(four, back, 4) == 0);
    }
}

TEST_CASE("2:4 sparsity refuses lengths and positions that do not fit") {
    std::vector<float> dense(8);
    std::vector<float> values(4);
    std::vector<std::uint8_t> metadata(1, 0x44);
    REQUIRE(nb::expand_2_4<float>(values, metadata, 0.0f, dense).ok());
    for (const unsigned nibble : {0x0u, 0x1u, 0x5u, 0xau, 0xfu, 0x6u}) {
        metadata[0] = static_cast<std::uint8_t>(0x40u | nibble);
        CHECK(nb::expand_2_4<float>(values, metadata, 0.0f, dense).message() ==
              "2:4 sparse: metadata of group 0 names positions " + std::to_string(nibble & 3u) + " and " +
                  std::to_string(nibble >> 2) + ", which do not ascend");
    }
    values.resize(3);
    CHECK(nb::expand_2_4<float>(values, metadata, 0.0f, dense).code() == nb::status_code::mismatch);
    dense.resize(7);
    CHECK(nb::compress_2_4<float>(dense, 0.0f, values, metadata).message() ==
          "2:4 sparse: 7 dense values, 3 stored ones and 1 bytes of metadata; for 4 g of the first there must be 2 g "
          "and (g + 1) / 2");
}
