// gguf.cpp: GGUF files made by hand, all of them good; damaged_gguf.cpp has the bad ones.
#include <support/catch.hpp>
#include <support/contracts.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include "broken_gguf.hpp"
#include "io_support.hpp"

#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::gguf_description;
using nibble_test::text_entry;

namespace {

std::vector<float> read(const nb::gguf_file& file, const char* name) {
    const nb::tensor_info* tensor = file.find(name);
    REQUIRE(tensor != nullptr);
    std::vector<float> values(tensor->rows() * tensor->cols());
    REQUIRE(nb::read_matrix(*tensor, {values.data(), tensor->rows(), tensor->cols()}).ok());
    return values;
}

} // namespace

TEST_CASE("a valid GGUF file gives its tensors and metadata", "[io]") {
    const std::uint32_t version = GENERATE(2u, 3u);
    gguf_description description = nibble_test::valid_gguf();
    description.version = version;
    const nibble_test::exact_copy copy(description.write());
    nb::gguf_file file;
    const nb::status s = nb::gguf_file::parse(copy.view(), file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, copy.view()).empty());
    CHECK(file.version() == version);
    REQUIRE(file.tensors().size() == 8);
    REQUIRE(file.metadata().size() == 20);

    CHECK(read(file, "f32") == std::vector<float>{0.25f, 1.25f, 2.25f, 3.25f, 4.25f, 5.25f});
    CHECK(file.find("f32")->shape == std::vector<std::size_t>{2, 3}); // the contiguous dimension last
    CHECK(read(file, "f16") ==
          std::vector<float>{1.0f, -2.0f, std::numeric_limits<float>::infinity(), 0x1p-24f, 0.333251953125f});
    CHECK(file.find("bf16")->shape == std::vector<std::size_t>{2, 3, 2});
    CHECK(file.find("bf16")->rows() == 6);
    CHECK(read(file, "bf16")[3] == std::bit_cast<float>(0x40400000u));

    const auto is_other = [&](const char* name, const char* type, std::size_t size) {
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->type == nb::tensor_type::other);
        CHECK(tensor->type_name == type);
        CHECK(tensor->bytes == size);
        std::vector<float> values(tensor->rows() * tensor->cols());
        const nb::status refused = nb::read_matrix(*tensor, {values.data(), tensor->rows(), tensor->cols()});
        CHECK(refused.code() == nb::status_code::unsupported);
        CHECK(refused.message().find(std::string("type ") + type) != std::string::npos);
    };
    const auto is_blocks = [&](const char* name, const char* type, std::size_t size) {
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->type == nb::tensor_type::blocks);
        CHECK(tensor->type_name == type);
        CHECK(tensor->bytes == size);
    };
    is_blocks("q4_0", "Q4_0", 2 * 2 * 18);
    is_blocks("iq2_bn", "IQ2_BN", 2 * (16 + 4));
    // Bytes 0, 1, 2 ... of the first block: d = 0x0100, a subnormal 2^-16; the first code is 2, in the upper nibble 0.
    CHECK(read(file, "q4_0")[0] == -6.0f * 0x1p-16f);
    CHECK(read(file, "q4_0")[16] == -8.0f * 0x1p-16f);
    // A row begins with an fp32 of the bytes 0, 1, 2, 3; the first code is 4 & 3, the value of 0, then 1 in the next
    // bits.
    CHECK(read(file, "iq2_bn")[0] == -std::bit_cast<float>(0x03020100u));
    CHECK(read(file, "iq2_bn")[16] == 0.0f);
    is_other("strange", "type 4711", 0);
    is_other("stranger", "type 4712", 0);
    is_other("one", "I8", 1);
    CHECK(file.find("one")->data[0] == std::byte{42});
    CHECK(file.find("F32") == nullptr);

    CHECK(file.metadata_integer("u8") == 200);
    CHECK(file.metadata_integer("i8") == -5);
    CHECK(file.metadata_integer("u16") == 60000);
    CHECK(file.metadata_integer("i16") == -30000);
    CHECK(file.metadata_integer("u32") == 4000000000);
    CHECK(file.metadata_integer("i32") == -2000000000);
    CHECK(file.metadata_integer("u64") == std::int64_t{1} << 40);
    CHECK(file.metadata_integer("i64") == -(std::int64_t{1} << 40));
    CHECK(!file.metadata_integer("u64.large").has_value());
    CHECK(!file.metadata_integer("f32").has_value());
    CHECK(!file.metadata_integer("yes").has_value());
    CHECK(!file.metadata_integer("none").has_value());
    CHECK(file.metadata_number("f32") == 1.5);
    CHECK(file.metadata_number("f64") == 0.1);
    CHECK(file.metadata_number("i8") == -5.0);
    CHECK(file.metadata_number("u64.large") == 0x1p64);
    CHECK(!file.metadata_number("text").has_value());
    CHECK(file.metadata_flag("yes") == true);
    CHECK(file.metadata_flag("no") == false);
    CHECK(!file.metadata_flag("u8").has_value());
    CHECK(file.metadata_text("text") == "llama");
    CHECK(!file.metadata_text("texts").has_value());
    CHECK(!file.metadata_text("none").has_value());
    REQUIRE(file.metadata_value("numbers") != nullptr);
    CHECK(file.metadata_value("numbers")->type == nb::gguf_type::array);
    CHECK(file.metadata_value("numbers")->element_type == nb::gguf_type::u16);
    CHECK(file.metadata_value("numbers")->count == 3);
    CHECK(file.metadata_value("numbers")->bytes.size() == 6);
    CHECK(file.metadata_value("texts")->bytes.size() == 17);
    CHECK(file.metadata_value("empty")->count == 0);
    REQUIRE(file.metadata_texts("texts").has_value());
    REQUIRE(file.metadata_numbers("numbers").has_value());
    CHECK(*file.metadata_texts("texts") == std::vector<std::string_view>{"a", ""});
    CHECK(*file.metadata_numbers("numbers") == std::vector<double>{1, 2, 3});
    CHECK(!file.metadata_texts("numbers").has_value());
    CHECK(!file.metadata_texts("text").has_value());
    CHECK(!file.metadata_texts("none").has_value());
    CHECK(!file.metadata_numbers("texts").has_value());
    CHECK(!file.metadata_numbers("u8").has_value());
    CHECK(file.metadata_value("none") == nullptr);
}

TEST_CASE("arrays of metadata are read where they lie", "[io]") {
    gguf_description description;
    const auto numbers = [](std::uint32_t type, bytes values, std::uint64_t count) {
        return byte_writer().u32(9).u32(type).u64(count).raw(values).take();
    };
    description.entries = {
        {"texts", byte_writer().u32(9).u32(8).u64(3).text("a").text("").text(std::string_view("b\0c", 3)).take()},
        {"none", byte_writer().u32(9).u32(8).u64(0).take()},
        {"i16", numbers(3, byte_writer().number(std::int16_t{-2}).number(std::int16_t{300}).take(), 2)},
        {"f32", numbers(6, byte_writer().number(1.5f).number(-0.25f).number(1e30f).take(), 3)},
        {"u64", numbers(10, byte_writer().u64(~std::uint64_t{0}).take(), 1)},
        {"flags", numbers(7, byte_writer().u8(1).u8(0).u8(1).take(), 3)},
        {"i32.none", numbers(5, {}, 0)},
        text_entry("text", "llama"),
        {"nested", byte_writer().u32(9).u32(9).u64(1).u32(8).u64(1).text("x").take()},
    };
    const nibble_test::exact_copy copy(description.write());
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(copy.view(), file).ok());

    const std::optional<nb::gguf_strings> texts = file.metadata_strings("texts");
    REQUIRE(texts.has_value());
    CHECK(texts->size() == 3);
    CHECK(!texts->empty());
    std::vector<std::string_view> seen;
    for (const std::string_view text : *texts) {
        CHECK(nibble_test::inside(copy.view(), text.data(), text.size())); // no copy
        seen.push_back(text);
    }
    CHECK(seen == std::vector<std::string_view>{"a", "", std::string_view("b\0c", 3)});
    static_assert(std::forward_iterator<nb::gguf_strings::iterator>);
    const auto first = texts->begin();
    auto second = first;
    CHECK(*second++ == "a");
    CHECK(*second == "");
    CHECK(*first == "a"); // as it was
    CHECK(first != second);
    CHECK(gemm_test::broken_by([&] { static_cast<void>(*texts->end()); }).find("no string here") != std::string::npos);
    REQUIRE(file.metadata_strings("none").has_value());
    CHECK(file.metadata_strings("none")->empty());
    CHECK(file.metadata_strings("none")->begin() == file.metadata_strings("none")->end());
    for (const char* other : {"i16", "text", "nested", "missing"}) CHECK(!file.metadata_strings(other).has_value());

    const std::optional<nb::gguf_array<std::int16_t>> shorts = file.metadata_array<std::int16_t>("i16");
    REQUIRE(shorts.has_value());
    CHECK(std::vector<std::int16_t>(shorts->begin(), shorts->end()) == std::vector<std::int16_t>{-2, 300});
    CHECK((*shorts)[1] == 300);
    CHECK(gemm_test::broken_by([&] { static_cast<void>((*shorts)[2]); }).find("no number of this index") !=
          std::string::npos);
    CHECK(gemm_test::broken_by([&] { static_cast<void>(*shorts->end()); }).find("no number here") != std::string::npos);
    const auto floats = file.metadata_array<float>("f32");
    REQUIRE(floats.has_value());
    CHECK(std::vector<float>(floats->begin(), floats->end()) == std::vector<float>{1.5f, -0.25f, 1e30f});
    REQUIRE(file.metadata_array<std::uint64_t>("u64").has_value());
    CHECK((*file.metadata_array<std::uint64_t>("u64"))[0] == ~std::uint64_t{0});
    const auto flags = file.metadata_array<bool>("flags");
    REQUIRE(flags.has_value());
    CHECK(std::vector<bool>(flags->begin(), flags->end()) == std::vector<bool>{true, false, true});
    REQUIRE(file.metadata_array<std::int32_t>("i32.none").has_value());
    CHECK(file.metadata_array<std::int32_t>("i32.none")->empty());
    // Of just that type.
    CHECK(!file.metadata_array<std::uint16_t>("i16").has_value());
    CHECK(!file.metadata_array<std::int32_t>("i16").has_value());
    CHECK(!file.metadata_array<float>("texts").has_value());
    CHECK(!file.metadata_array<std::uint8_t>("flags").has_value());
    CHECK(!file.metadata_array<std::int16_t>("missing").has_value());
}

TEST_CASE("GGUF files at the edge of the format are read", "[io]") {
    nb::gguf_file file;
    const bytes nothing = byte_writer().raw("GGUF").u32(3).u64(0).u64(0).take();
    REQUIRE(nb::gguf_file::parse(nothing, file).ok());
    CHECK(file.tensors().empty());

    // Tensors in any order, with gaps, sharing bytes; the last one ends with the file, without padding.
    gguf_description any = nibble_test::small_gguf();
    any.tensors = {{"b", {1}, 0, 64}, {"a", {4}, 0, 0}, {"also a", {2, 2}, 0, 0}};
    any.data.resize(68);
    const bytes written = any.write();
    REQUIRE(nb::gguf_file::parse(written, file).ok());
    CHECK(file.tensors()[0].name == "b");
    CHECK(file.find("b")->data == file.find("a")->data + 64);

    // A scalar, tensors without elements in every place, and more dimensions than llama.cpp has, as a matrix.
    gguf_description odd = nibble_test::small_gguf();
    odd.tensors = {{"scalar", {}, 0, 0},
                   {"__index_timestep_zero__", {0}, 0, 32},
                   {"no rows", {64, 0}, 2, 32},
                   {"no columns", {0, 3, 5}, 135, 32}, // rows of this type begin with four bytes
                   {"many rows of nothing", {0, 1ull << 62}, 30, 32},
                   {"nothing of an unknown type", {0}, 4711, 32},
                   {"five", {2, 1, 3, 1, 2}, 1, 32},
                   {"seven", {1, 1, 1, 1, 1, 1, 3}, 24, 64},
                   {"behind the end", {0, 7}, 8, 4096},
                   {"strange", {3, 2, 2, 2, 2}, 4711, 64}};
    odd.data.clear();
    odd.data = byte_writer()
                   .number(2.5f)
                   .pad_to(32)
                   .u16(0x3c00)
                   .u16(0x4000)
                   .raw(bytes(16))
                   .u16(0xbc00)
                   .u16(0xc000)
                   .pad_to(32)
                   .raw("abc")
                   .take();
    const bytes odd_bytes = odd.write();
    const nb::status s = nb::gguf_file::parse(odd_bytes, file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, odd_bytes).empty());
    REQUIRE(file.tensors().size() == odd.tensors.size());
    CHECK(file.find("scalar")->shape.empty());
    CHECK(read(file, "scalar") == std::vector<float>{2.5f});
    for (const char* name :
         {"__index_timestep_zero__", "no rows", "no columns", "many rows of nothing", "behind the end"}) {
        INFO(name);
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->is_empty());
        CHECK(tensor->bytes == 0);
        CHECK(nb::read_matrix(*tensor, {nullptr, tensor->rows(), tensor->cols()}).ok());
        nb::any_quantized<nb::ggml_formats> weights;
        const nb::status refused = nb::read_quantized(*tensor, weights);
        CHECK(refused.code() == nb::status_code::mismatch);
        CHECK(refused.message().find("it has no weights") != std::string::npos);
    }
    CHECK(file.find("no rows")->shape == std::vector<std::size_t>{0, 64});
    CHECK(file.find("no columns")->rows() == 15);
    CHECK(file.find("five")->shape == std::vector<std::size_t>{2, 1, 3, 1, 2});
    CHECK(file.find("five")->rows() == 6);
    CHECK(file.find("five")->cols() == 2);
    CHECK(read(file, "five") == std::vector<float>{1, 2, 0, 0, 0, 0, 0, 0, 0, 0, -1, -2});
    CHECK(file.find("seven")->rows() == 3);
    CHECK(file.find("seven")->data[2] == std::byte{'c'});
    CHECK(file.find("strange")->type_name == "type 4711");

    // A name of any length and any bytes.
    any.tensors[0].name = std::string("\0'\xff", 3) + std::string(5000, 'n');
    const bytes named = any.write();
    REQUIRE(nb::gguf_file::parse(named, file).ok());
    CHECK(file.find(any.tensors[0].name) != nullptr);
}

TEST_CASE("the sizes of GGUF's tensor types agree with their bits per weight", "[io]") {
    // Another source for the same facts: bits per weight as the formats' authors state them.
    const auto bits_per_weight = [](std::uint32_t id) {
        const nb::detail::gguf_block* block = nb::detail::find_gguf_block(id);
        REQUIRE(block != nullptr);
        return 8.0 * block->bytes / block->elements;
    };
    CHECK(bits_per_weight(2) == 4.5);
    CHECK(bits_per_weight(8) == 8.5);
    CHECK(bits_per_weight(10) == 2.625);
    CHECK(bits_per_weight(11) == 3.4375);
    CHECK(bits_per_weight(12) == 4.5);
    CHECK(bits_per_weight(13) == 5.5);
    CHECK(bits_per_weight(14) == 6.5625);
    CHECK(bits_per_weight(16) == 2.0625);
    CHECK(bits_per_weight(17) == 2.3125);
    CHECK(bits_per_weight(18) == 3.0625);
    CHECK(bits_per_weight(19) == 1.5625);
    CHECK(bits_per_weight(21) == 3.4375);
    CHECK(bits_per_weight(22) == 2.5625);
    CHECK(bits_per_weight(23) == 4.25);
    CHECK(bits_per_weight(29) == 1.75);
    CHECK(bits_per_weight(34) == 1.6875);
    CHECK(bits_per_weight(35) == 2.0625);
    CHECK(bits_per_weight(39) == 4.25);
    CHECK(bits_per_weight(40) == 4.5);
    CHECK(bits_per_weight(41) == 1.125);
    CHECK(bits_per_weight(42) == 2.25);
    CHECK(nb::detail::find_gguf_block(4) == nullptr);
    CHECK(nb::detail::find_gguf_block(36) == nullptr);
    std::uint32_t last = 0;
    for (const nb::detail::gguf_block& block : nb::detail::gguf_blocks) {
        CHECK((block.id == 0 || block.id > last));
        last = block.id;
        CHECK(block.elements > 0);
    }
}
