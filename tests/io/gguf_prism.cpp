// gguf_prism.cpp: PrismML's GGUF files: type 42 of blocks of 128 told from Q2_0 by sizes, and weights in a rotated
// basis.
#include <support/catch.hpp>
#include <support/contracts.hpp>
#include <support/random.hpp>

#include <nibble/io/gguf_hadamard.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/transform/hadamard.hpp>

#include "io_support.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::entry_of;
using nibble_test::gguf_description;
using nibble_test::text_entry;

namespace {

// Tensors of type 42 in blocks of `block` weights, each rows x cols, laid out as a writer does; codes are random, or
// all 0.
bytes file_of_42(std::size_t block, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& shapes,
                 bool zeros = false, bool last_padded = true) {
    gguf_description file;
    byte_writer data;
    std::uint64_t seed = 0;
    for (const auto& [rows, cols] : shapes) {
        data.pad_to(32);
        file.tensors.push_back({"t" + std::to_string(seed), {cols, rows}, 42, data.size()});
        for (std::uint64_t i = 0; i < rows * cols / block; ++i) {
            data.u16(0x3800); // 0.5
            for (std::size_t b = 0; b < block / 4; ++b)
                data.u8(static_cast<std::uint8_t>(zeros ? 0 : nibble_test::random64(seed, 100 * i + b)));
        }
        ++seed;
    }
    if (last_padded) data.pad_to(32);
    file.data = data.take();
    return file.write();
}

} // namespace

TEST_CASE("type 42 means blocks of 64 or, in older files, of 128, as the sizes say", "[io]") {
    const std::vector<std::vector<std::pair<std::uint64_t, std::uint64_t>>> sets = {
        {{1, 128}},           // 36 or 34 bytes, padded the same
        {{2, 128}, {3, 256}}, // 72 or 68, 108 or 102
        {{8, 1024}, {1, 128}, {4, 512}},
        {{1, 2048}},
    };
    for (const auto& shapes : sets)
        for (const bool padded : {true, false}) {
            INFO(shapes[0].first << " x " << shapes[0].second << ", " << shapes.size() << " tensors");
            for (const std::size_t block : {std::size_t{64}, std::size_t{128}}) {
                const nibble_test::exact_copy copy(file_of_42(block, shapes, false, padded));
                nb::gguf_file file;
                const nb::status s = nb::gguf_file::parse(copy.view(), file);
                const bool same_padding = padded && shapes[0].second == 128;
                if (block == 128 && same_padding) { // the rest of what would be 64s is zeros
                    CHECK(s.code() == nb::status_code::unsupported);
                    CHECK(s.message().find("tensor 't0' type at byte 54: 42 is Q2_0 in blocks of 64, or in older files "
                                           "of 128") != std::string::npos);
                    continue;
                }
                INFO(s.message());
                REQUIRE(s.ok());
                for (std::size_t t = 0; t < shapes.size(); ++t) {
                    const nb::tensor_info& tensor = file.tensors()[t];
                    CHECK(tensor.type_name == (block == 64 ? "Q2_0" : "PQ2_0"));
                    CHECK(tensor.bytes == shapes[t].first * shapes[t].second / block * (2 + block / 4));
                    std::vector<float> values(tensor.rows() * tensor.cols());
                    REQUIRE(nb::read_matrix(tensor, {values.data(), tensor.rows(), tensor.cols()}).ok());
                    std::size_t wrong = 0;
                    for (std::size_t i = 0; i < values.size(); ++i) {
                        const std::uint64_t code = nibble_test::random64(t, i / block * 100 + i % block / 4) & 255u;
                        wrong += values[i] != 0.5f * (static_cast<float>(code >> (2 * (i % 4)) & 3u) - 1.0f);
                    }
                    CHECK(wrong == 0);
                }
                if (block == 64) continue;
                nb::quantized<nb::ternary_g128> q;
                CHECK(nb::read_quantized(file.tensors()[0], q).ok());
                nb::gguf_writer writer; // then with a type of its own
                for (const nb::tensor_info& tensor : file.tensors()) REQUIRE(writer.add_tensor(tensor).ok());
                const bytes again = writer.bytes();
                nb::gguf_file reread;
                REQUIRE(nb::gguf_file::parse(again, reread).ok());
                CHECK(reread.tensors()[0].type_name == "PQ2_0");
                CHECK(reread.tensors()[0].decoder == file.tensors()[0].decoder);
            }
        }
    nb::gguf_file file;
    // Rows that are no whole blocks of 128, and a file that is cut off: of 64.
    REQUIRE(nb::gguf_file::parse(file_of_42(64, {{2, 64}}, true), file).ok());
    bytes cut = file_of_42(64, {{8, 1024}});
    cut.resize(cut.size() - 100);
    CHECK(nb::gguf_file::parse(cut, file).code() == nb::status_code::truncated);
    // All weights -1 under either meaning, and two files in one.
    CHECK(nb::gguf_file::parse(file_of_42(64, {{1, 128}}, true), file).code() == nb::status_code::unsupported);
    REQUIRE(nb::gguf_file::parse(file_of_42(64, {{1, 128}, {4, 512}}, true), file).ok());
    CHECK(file.tensors()[0].type_name == "Q2_0");
}

namespace {

constexpr std::size_t width = 64, block = 32;

// Four tensors, of which two want a rotation and one gives one back.
gguf_description rotated_file() {
    gguf_description file;
    const auto texts = [](const std::vector<std::string>& all) {
        byte_writer w;
        w.u32(9).u32(8).u64(all.size());
        for (const std::string& text : all) w.text(text);
        return w.take();
    };
    byte_writer signs;
    signs.u32(9).u32(5).u64(3 * width);
    for (std::size_t i = 0; i < 3 * width; ++i) signs.u32(nibble_test::random64(3, i) % 2 == 0 ? 1u : ~0u);
    file.entries = {
        entry_of("prism.hadamard.version", 4, std::uint32_t{1}),
        entry_of("prism.hadamard.block_size", 4, static_cast<std::uint32_t>(block)),
        text_entry("prism.hadamard.transform", "normalized-sylvester-walsh-hadamard"),
        text_entry("prism.hadamard.axis", "input-last-dimension"),
        text_entry("prism.hadamard.sign_mode", "explicit"),
        {"prism.hadamard.weight_names", texts({"up", "down"})},
        {"prism.hadamard.inverse_weight_names", texts({"embedding"})},
        {"prism.hadamard.sign_widths", byte_writer().u32(9).u32(5).u64(2).u32(2 * width).u32(width).take()},
        {"prism.hadamard.sign_values", signs.take()},
        entry_of("prism.hadamard.gdn_v_grouped", 7, std::uint8_t{1}),
    };
    file.tensors = {
        {"up", {width}, 0, 0}, {"down", {2 * width}, 0, 0}, {"embedding", {width}, 0, 0}, {"norm", {3}, 0, 0}};
    file.data.resize(4 * 2 * width);
    return file;
}

} // namespace

TEST_CASE("a rotation among the metadata is read, and applied as PrismML's description says", "[io]") {
    const bytes all = rotated_file().write();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(all, file).ok());
    nb::gguf_hadamard rotation;
    const nb::status s = nb::read_hadamard(file, rotation);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(rotation.block_size() == block);
    CHECK(rotation.value_heads_grouped());
    CHECK(rotation.of("up") == nb::gguf_rotation::input);
    CHECK(rotation.of("down") == nb::gguf_rotation::input);
    CHECK(rotation.of("embedding") == nb::gguf_rotation::inverse);
    CHECK(rotation.of("norm") == nb::gguf_rotation::none);
    CHECK(rotation.rotates(width));
    CHECK(rotation.rotates(2 * width));
    CHECK(!rotation.rotates(4 * width));
    CHECK(!rotation.rotates(block));
    for (const std::size_t n : {width, 2 * width}) {
        const std::size_t first = n == width ? 2 * width : 0; // of the signs
        const std::vector<float> x = nibble_test::normal_values(n, 5);
        std::vector<float> y = x;
        rotation.flip_signs({y.data(), n});
        nb::hadamard({y.data(), n}, rotation.block_size());
        for (std::size_t i = 0; i < n; ++i) {
            double sum = 0.0;
            for (std::size_t j = 0; j < block; ++j) {
                const std::size_t from = i / block * block + j;
                const double sign = nibble_test::random64(3, first + from) % 2 == 0 ? 1.0 : -1.0;
                sum += (std::popcount((i % block) & j) % 2 == 0 ? 1.0 : -1.0) * sign * static_cast<double>(x[from]);
            }
            CHECK(std::fabs(static_cast<double>(y[i]) - sum / std::sqrt(static_cast<double>(block))) < 1e-5);
        }
        nb::hadamard({y.data(), n}, rotation.block_size());
        rotation.flip_signs({y.data(), n});
        for (std::size_t i = 0; i < n; ++i) CHECK(std::fabs(y[i] - x[i]) < 1e-5f);
    }
    std::vector<float> odd(4 * width);
    CHECK(!gemm_test::broken_by([&] { rotation.flip_signs({odd.data(), odd.size()}); }).empty());

    // Without signs, and without a rotation.
    gguf_description plain = rotated_file();
    plain.entries[4] = text_entry("prism.hadamard.sign_mode", "identity");
    const bytes unsigned_file = plain.write();
    nb::gguf_file other;
    REQUIRE(nb::gguf_file::parse(unsigned_file, other).ok());
    REQUIRE(nb::read_hadamard(other, rotation).ok());
    CHECK(rotation.rotates(block));
    std::vector<float> unit(block);
    unit[0] = 1.0f;
    rotation.flip_signs({unit.data(), block});
    nb::hadamard({unit.data(), block}, rotation.block_size());
    for (const float value : unit) CHECK(std::fabs(value - 1.0f / std::sqrt(static_cast<float>(block))) < 1e-6f);
    plain.entries.clear();
    const bytes nothing = plain.write();
    REQUIRE(nb::gguf_file::parse(nothing, other).ok());
    REQUIRE(nb::read_hadamard(other, rotation).ok());
    CHECK(rotation.block_size() == 0);
    CHECK(rotation.of("up") == nb::gguf_rotation::none);
    CHECK(!rotation.rotates(width));
}

TEST_CASE("a rotation that does not fit is refused", "[io]") {
    constexpr auto malformed = nb::status_code::malformed, unsupported = nb::status_code::unsupported;
    const struct {
        std::size_t entry;
        bytes value; // empty: the entry is taken away
        nb::status_code code;
    } faults[] = {
        {0, {}, malformed},
        {0, byte_writer().u32(4).u32(2).take(), unsupported},
        {1, {}, malformed},
        {1, byte_writer().u32(4).u32(48).take(), malformed},
        {1, byte_writer().u32(4).u32(0).take(), malformed},
        {1, byte_writer().u32(4).u32(128).take(), malformed},
        {2, {}, malformed},
        {2, byte_writer().u32(8).text("paley").take(), unsupported},
        {3, byte_writer().u32(8).text("output").take(), unsupported},
        {4, {}, malformed},
        {4, byte_writer().u32(8).text("seeded").take(), unsupported},
        {5, {}, malformed},
        {5, byte_writer().u32(9).u32(8).u64(0).take(), malformed},
        {5, byte_writer().u32(9).u32(8).u64(1).text("gate").take(), malformed},
        {5, byte_writer().u32(9).u32(8).u64(1).text("norm").take(), malformed},
        {6, byte_writer().u32(4).u32(0).take(), malformed},
        {7, {}, malformed},
        {7, byte_writer().u32(9).u32(5).u64(2).u32(width).u32(width).take(), malformed},
        {7, byte_writer().u32(9).u32(5).u64(2).u32(~0u).u32(width).take(), malformed},
        {7, byte_writer().u32(9).u32(12).u64(1).number(1e300).take(), malformed},
        {7, byte_writer().u32(9).u32(12).u64(1).number(std::nan("")).take(), malformed},
        {8, {}, malformed},
        {8, byte_writer().u32(9).u32(5).u64(1).u32(1).take(), malformed},
        {9, byte_writer().u32(4).u32(0).take(), malformed},
    };
    for (const auto& fault : faults) {
        gguf_description broken = rotated_file();
        INFO(broken.entries[fault.entry].key);
        if (fault.value.empty())
            broken.entries.erase(broken.entries.begin() + static_cast<std::ptrdiff_t>(fault.entry));
        else
            broken.entries[fault.entry].value = fault.value;
        const bytes all = broken.write();
        nb::gguf_file file;
        REQUIRE(nb::gguf_file::parse(all, file).ok());
        nb::gguf_hadamard rotation;
        const nb::status s = nb::read_hadamard(file, rotation);
        INFO(s.message());
        CHECK(s.code() == fault.code);
        CHECK(s.message().starts_with("gguf: metadata 'prism.hadamard."));
        CHECK(rotation.block_size() == 0);
    }
    gguf_description zero = rotated_file();
    zero.entries[8].value[16] = std::byte{0}; // a sign that is 0 or -256
    const bytes all = zero.write();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(all, file).ok());
    nb::gguf_hadamard rotation;
    CHECK(nb::read_hadamard(file, rotation).code() == malformed);
}
