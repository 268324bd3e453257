// gguf_types.cpp: blocks of every GGUF tensor type: published bytes and values, and bytes to codes and back.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <nibble/io/ggml_types.hpp>
#include <nibble/quantize.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace nb = nibble;

namespace {

// CRC-32 of ISO 3309, of floats as they lie in a little-endian file.
std::uint32_t crc32(const std::vector<float>& values) {
    std::uint32_t crc = ~0u;
    for (const float value : values) {
        const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
        for (int byte = 0; byte < 4; ++byte) {
            crc ^= word >> (8 * byte) & 255u;
            for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
        }
    }
    return ~crc;
}

template <nb::ggml_type Type> std::vector<float> decode(const std::vector<std::uint8_t>& row, std::size_t cols) {
    std::vector<float> values(cols);
    nb::detail::decode_ggml_row<Type>(reinterpret_cast<const std::byte*>(row.data()), cols, values.data());
    return values;
}

// The published sums of Q3_K and NVFP4 are those of integers, which have one zero.
std::vector<float> without_negative_zeros(std::vector<float> values) {
    for (float& value : values)
        if (value == 0.0f) value = 0.0f;
    return values;
}

// Byte n is 73 n + 41; then fp16 1 and 0.5 where d and dmin are.
std::vector<std::uint8_t> pattern(std::size_t size, std::size_t d, std::size_t minimum = 0) {
    std::vector<std::uint8_t> bytes(size);
    for (std::size_t n = 0; n < size; ++n) bytes[n] = static_cast<std::uint8_t>(73 * n + 41);
    bytes[d] = 0x00;
    bytes[d + 1] = 0x3c;
    if (minimum != 0) {
        bytes[minimum] = 0x00;
        bytes[minimum + 1] = 0x38;
    }
    return bytes;
}

template <nb::ggml_type Type>
void check_pattern(const std::vector<std::uint8_t>& bytes, const std::array<float, 8>& some, double sum,
                   std::uint32_t crc) {
    INFO(nb::ggml_block_of<Type>.name);
    const std::vector<float> y = decode<Type>(bytes, 256);
    constexpr std::array<std::size_t, 8> at = {0, 1, 17, 40, 100, 130, 200, 255};
    for (std::size_t i = 0; i < at.size(); ++i) CHECK(y[at[i]] == some[i]);
    double total = 0.0;
    for (const float value : y) total += static_cast<double>(value);
    CHECK(total == sum);
    CHECK(crc32(std::is_same_v<Type, nb::ggml_q3_k> ? without_negative_zeros(y) : y) == crc);
}

// Any bytes, with what a type does not keep set to what it is written as.
template <nb::ggml_type Type> std::vector<std::uint8_t> random_row(std::size_t blocks, std::uint64_t seed) {
    const nb::detail::gguf_block& block = nb::ggml_block_of<Type>;
    std::vector<std::uint8_t> row(block.row_bytes + blocks * block.bytes);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::uint8_t>(nibble_test::random64(seed, i));
    for (std::size_t b = 0; b < blocks; ++b) {
        std::uint8_t* at = row.data() + block.row_bytes + b * block.bytes;
        const auto trits = [&](std::size_t i, unsigned values, unsigned factor) {
            at[i] = static_cast<std::uint8_t>((at[i] % values * factor * 256 + 242) / 243);
        };
        if constexpr (std::is_same_v<Type, nb::ggml_tq1_0>) {
            for (std::size_t i = 0; i < 48; ++i) trits(i, 243, 1);
            for (std::size_t i = 48; i < 52; ++i) trits(i, 81, 3);
        }
        if constexpr (std::is_same_v<Type, nb::ggml_ptq1_0>) {
            for (std::size_t i = 0; i < 24; ++i) trits(i, 243, 1);
            for (std::size_t i = 24; i < 26; ++i) trits(i, 81, 3);
        }
        if constexpr (std::is_same_v<Type, nb::ggml_iq1_bn>) {
            for (std::size_t i = 0; i < 12; ++i) trits(i, 243, 1);
            trits(12, 81, 1);
        }
        if constexpr (std::is_same_v<Type, nb::ggml_nvfp4>)
            for (std::size_t i = 0; i < 4; ++i) at[i] = static_cast<std::uint8_t>(at[i] % 127);
        if constexpr (std::is_same_v<Type, nb::ggml_q8_1>) {
            at[0] = 0x00; // d = 2, so that s = 2 x sum
            at[1] = 0x40;
            int sum = 0;
            for (std::size_t i = 0; i < 32; ++i) sum += static_cast<std::int8_t>(at[4 + i]);
            const nb::f16::code s = nb::f16::encode(static_cast<float>(2 * sum));
            at[2] = static_cast<std::uint8_t>(s);
            at[3] = static_cast<std::uint8_t>(s >> 8);
        }
        if constexpr (std::is_same_v<Type, nb::ggml_q8_k>)
            for (std::size_t j = 0; j < 16; ++j) {
                int sum = 0;
                for (std::size_t i = 0; i < 16; ++i) sum += static_cast<std::int8_t>(at[4 + 16 * j + i]);
                at[260 + 2 * j] = static_cast<std::uint8_t>(sum);
                at[261 + 2 * j] = static_cast<std::uint8_t>(static_cast<unsigned>(sum) >> 8);
            }
    }
    return row;
}

} // namespace

// formats.md 7.6.
TEST_CASE("super-blocks decode to their published values", "[io]") {
    check_pattern<nb::ggml_q2_k>(pattern(84, 80, 82), {8, 17, .5f, -5.5f, 38.5f, -.5f, 5.5f, -3.5f}, 2043, 0xde019c37);
    check_pattern<nb::ggml_q3_k>(pattern(110, 108), {-7, 14, -4, -108, -17, -24, 78, -24}, 234, 0x004b210e);
    check_pattern<nb::ggml_q4_k>(pattern(144, 0, 2), {92.5f, 1.5f, 1.5f, -29, 594, 218.5f, 54, -11.5f}, 53352,
                                 0x04f53507);
    check_pattern<nb::ggml_q5_k>(pattern(176, 0, 2), {300.5f, 1.5f, 1.5f, 15, 674, 218.5f, 54, -11.5f}, 110072,
                                 0xa4d90d29);
    check_pattern<nb::ggml_q6_k>(pattern(210, 208), {161, -46, 100, -3813, -2134, 1323, -425, 288}, -14844, 0x39bc64df);
    check_pattern<nb::ggml_iq4_xs>(pattern(136, 0), {-3016, 725, 1102, 52, -315, 1105, -312, -750}, -6450, 0x2ee7c241);
    check_pattern<nb::ggml_tq1_0>(pattern(54, 52), {-1, 0, -1, -1, -1, -1, -1, 1}, -15, 0x669b9576);
    check_pattern<nb::ggml_tq2_0>(pattern(66, 64), {0, 1, 1, -1, 0, 2, 0, -1}, 125, 0xacd8fcc0);
}

TEST_CASE("an NVFP4 block decodes to its published values", "[io]") {
    std::vector<std::uint8_t> bytes = pattern(36, 2);
    bytes[0] = 0x38;
    bytes[1] = 0x40;
    bytes[2] = 0x30;
    bytes[3] = 0x7e;
    const std::vector<float> y = decode<nb::ggml_nvfp4>(bytes, 64);
    CHECK(y[0] == -3.0f);
    CHECK(y[1] == 4.0f);
    CHECK(y[8] == 2.0f);
    CHECK(y[17] == -8.0f);
    CHECK(y[40] == -1.5f);
    CHECK(y[63] == 448.0f);
    double sum = 0.0;
    for (const float value : y) sum += static_cast<double>(value);
    CHECK(sum == 4047.5);
    CHECK(crc32(without_negative_zeros(y)) == 0xd5eb66c3);
}

// formats.md 7.5: t[i] = (-1, 0, 1)[(7 i + i / 3) % 3].
TEST_CASE("trits are packed as published", "[io]") {
    nb::ggml_tq1_0::parts p;
    for (std::size_t i = 0; i < 256; ++i) p.codes[i] = static_cast<std::uint8_t>((7 * i + i / 3) % 3);
    p.scales[0] = 0x3c00;
    std::array<std::uint8_t, 54> packed{};
    nb::ggml_tq1_0::write(p, packed.data());
    constexpr std::array<std::uint8_t, 8> head = {0x12, 0xa3, 0xba, 0x85, 0xb0, 0x36, 0xe8, 0x2d};
    constexpr std::array<std::uint8_t, 6> tail = {0xc8, 0x50, 0x79, 0x46, 0x00, 0x3c};
    CHECK(std::memcmp(packed.data(), head.data(), head.size()) == 0);
    CHECK(std::memcmp(packed.data() + 48, tail.data(), tail.size()) == 0);
    std::array<std::uint8_t, 66> twos{};
    nb::ggml_tq2_0::write(p, twos.data());
    constexpr std::array<std::uint8_t, 8> pairs = {0x90, 0x29, 0x52, 0x25, 0x42, 0xa4, 0x4a, 0x94};
    CHECK(std::memcmp(twos.data(), pairs.data(), pairs.size()) == 0);
    CHECK(nb::ggml_tq1_0::fits(p));
    p.codes[255] = 3;
    CHECK(!nb::ggml_tq1_0::fits(p));
    p.codes[255] = 1;
    p.codes[77] = 3;
    CHECK(!nb::ggml_tq1_0::fits(p));
}

// All 256 bytes against the rule of formats.md 7.4: digit n = ((byte x 3^n mod 256) x 3) >> 8.
TEST_CASE("every byte of five trits is read, and 243 of them are written", "[io]") {
    std::array<bool, 256> written{};
    for (unsigned v = 0; v < 243; ++v) {
        nb::ggml_tq1_0::parts p;
        unsigned rest = v;
        for (std::size_t n = 5; n-- > 0; rest /= 3) p.codes[32 * n] = static_cast<std::uint8_t>(rest % 3);
        std::array<std::uint8_t, 54> block{};
        nb::ggml_tq1_0::write(p, block.data());
        CHECK(block[0] == (v * 256 + 242) / 243);
        written[block[0]] = true;
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
        std::array<std::uint8_t, 54> block{};
        block[0] = static_cast<std::uint8_t>(byte);
        nb::ggml_tq1_0::parts p;
        nb::ggml_tq1_0::read(block.data(), p);
        unsigned power = 1;
        for (std::size_t n = 0; n < 5; ++n, power *= 3) CHECK(p.codes[32 * n] == ((byte * power % 256) * 3 >> 8));
        nb::ggml_tq1_0::write(p, block.data());
        if (written[byte]) CHECK(block[0] == byte);
        nb::ggml_tq1_0::parts again;
        nb::ggml_tq1_0::read(block.data(), again);
        CHECK(std::memcmp(again.codes, p.codes, sizeof p.codes) == 0);
    }
}

// Weight e of a block of PTQ1_0 is trit n of byte b: e < 80: e % 16, e / 16; e < 120: 16 + e % 8, (e - 80) / 8; else
// 24 + e % 2, (e - 120) / 2. Trits count from the most significant one, -1 is 0.
TEST_CASE("PrismML's blocks of 128 decode by their description", "[io]") {
    std::vector<std::uint8_t> trits(28);
    std::vector<float> expected(128);
    for (std::size_t b = 0; b < 26; ++b) {
        const std::size_t digits = b < 24 ? 5 : 4;
        unsigned number = 0;
        for (std::size_t n = 0; n < 5; ++n) { // four trits are followed by a 0
            const auto trit = static_cast<unsigned>(n < digits ? nibble_test::random64(7, 8 * b + n) % 3 : 0);
            number = 3 * number + trit;
            const std::size_t e = b < 16 ? 16 * n + b : b < 24 ? 80 + 8 * n + b - 16 : 120 + 2 * n + b - 24;
            if (n < digits) expected[e] = 0.5f * (static_cast<float>(trit) - 1.0f);
        }
        trits[b] = static_cast<std::uint8_t>((number * 256 + 242) / 243);
    }
    trits[27] = 0x38; // fp16 0.5, the last two bytes
    CHECK(decode<nb::ggml_ptq1_0>(trits, 128) == expected);

    std::vector<std::uint8_t> twos(34);
    twos[1] = 0x38; // the first two
    for (std::size_t e = 0; e < 128; ++e) {
        const auto code = static_cast<unsigned>(nibble_test::random64(8, e) % 4);
        twos[2 + e / 4] = static_cast<std::uint8_t>(twos[2 + e / 4] | code << (2 * (e % 4)));
        expected[e] = 0.5f * (static_cast<float>(code) - 1.0f);
    }
    CHECK(decode<nb::ggml_pq2_0>(twos, 128) == expected);
    nb::ggml_ptq1_0::parts p;
    CHECK(nb::ggml_ptq1_0::fits(p));
    p.codes[127] = 3;
    CHECK(!nb::ggml_ptq1_0::fits(p));
}

TEST_CASE("blocks of any bytes keep them through the scheme, and decode as it does", "[io]") {
    std::uint64_t seed = 1;
    nb::for_each_ggml_type([&]<class Type>() {
        INFO(nb::ggml_block_of<Type>.name << ", seed " << seed);
        constexpr std::size_t blocks = 37;
        constexpr std::size_t rows = 3;
        const std::size_t cols = blocks * nb::ggml_block_of<Type>.elements;
        nb::quantized<typename Type::scheme> q(rows, cols);
        std::vector<std::vector<std::uint8_t>> written;
        for (std::size_t row = 0; row < rows; ++row) {
            written.push_back(random_row<Type>(blocks, seed++));
            REQUIRE(written[row].size() == nb::detail::ggml_row_bytes<Type>(cols));
            nb::detail::read_ggml_row<Type>(reinterpret_cast<const std::byte*>(written[row].data()), row, q);
        }
        std::vector<float> values(rows * cols);
        nb::dequantize(q, {values.data(), rows, cols});
        for (std::size_t row = 0; row < rows; ++row) {
            std::vector<std::uint8_t> again(written[row].size(), 0xee);
            CHECK(nb::detail::write_ggml_row<Type>(q, row, reinterpret_cast<std::byte*>(again.data())));
            CHECK(again == written[row]);
            const std::vector<float> direct = decode<Type>(written[row], cols);
            std::size_t different = 0;
            for (std::size_t i = 0; i < cols; ++i) {
                const float other = values[row * cols + i];
                const bool nan = direct[i] != direct[i] && other != other;
                if (!nan && std::bit_cast<std::uint32_t>(direct[i]) != std::bit_cast<std::uint32_t>(other)) ++different;
            }
            CHECK(different == 0);
        }
    });
}

TEST_CASE("what a type does not keep is as documented", "[io]") {
    SECTION("NVFP4 scales") {
        std::vector<std::uint8_t> block(36, 0x22); // codes 2: the value 1
        block[0] = 0x7f;
        block[1] = 0x80 | 0x38;
        block[2] = 0xff;
        block[3] = 0x00;
        const std::vector<float> y = decode<nb::ggml_nvfp4>(block, 64);
        CHECK(y[0] == 0.0f);
        CHECK(y[16] == 1.0f);
        CHECK(y[32] == 0.0f);
        CHECK(y[48] == 0.0f);
    }
    SECTION("MXFP4: code 8 is -0, exponent 255 NaN, 254 times 6 infinity, 0 subnormal") {
        std::vector<std::uint8_t> block(17, 0x78);
        block[0] = 127;
        CHECK(std::bit_cast<std::uint32_t>(decode<nb::ggml_mxfp4>(block, 32)[0]) == 0x80000000u);
        block[0] = 254;
        CHECK(decode<nb::ggml_mxfp4>(block, 32)[16] == nb::detail::infinity);
        block[0] = 255;
        CHECK(nb::detail::is_nan(decode<nb::ggml_mxfp4>(block, 32)[16]));
        block[0] = 0;
        CHECK(decode<nb::ggml_mxfp4>(block, 32)[16] == 6.0f * 0x1p-127f);
    }
    SECTION("the sums of Q8_1 and Q8_K") {
        nb::ggml_q8_1::parts p;
        for (std::size_t i = 0; i < 32; ++i) p.codes[i] = static_cast<std::uint8_t>(i == 0 ? 0x80 : 2);
        p.scales[0] = 0x3c00;
        std::vector<std::uint8_t> block(36);
        nb::ggml_q8_1::write(p, block.data());
        CHECK(nb::f16::decode(nb::detail::get16(block.data() + 2)) == -66.0f);
        p.scales[0] = 0x7bff; // 65504 x -66 has no finite fp16
        nb::ggml_q8_1::write(p, block.data());
        CHECK(nb::detail::get16(block.data() + 2) == 0xfc00);
    }
}
